//! What the checks of a pair are started with, and what their observations become.

use std::time::Duration;

use super::*;

fn target(has_tls: bool, allow_plaintext: bool, is_proxied: bool) -> ObjectServerTarget {
    ObjectServerTarget {
        address: Address::new("agg-p".to_owned(), 4100),
        name: "AGG_P".to_owned(),
        authorities: has_tls.then(Arc::default),
        allow_plaintext,
        proxy: is_proxied.then(|| "PROXY_P".to_owned()),
    }
}

fn declared(server: &ObjectServerTarget) -> Declared {
    Declared {
        keys: None,
        timing: Timing {
            interval: Duration::from_secs(1),
            unreachable_after: Duration::from_secs(1),
            unresponsive_after: Duration::from_secs(15),
            lost_after: Duration::from_secs(1),
            healthy_after: Duration::from_secs(5),
        },
        login: Some(Credentials {
            user: "check".to_owned(),
            password: "secret".to_owned(),
        }),
        servers: Sides::from_fn(|_| server.clone()),
    }
}

#[test]
fn a_password_goes_in_the_clear_only_over_tls_or_where_the_user_allows_it() {
    let checks = PairChecks::new("operator-1", 1, mpsc::channel(1).0);
    for is_proxied in [false, true] {
        for (has_tls, allows, is_plain) in [
            (false, false, false),
            (false, true, true),
            (true, false, true),
            (true, true, true),
        ] {
            let declared = declared(&target(has_tls, allows, is_proxied));
            let login = checks.login(&declared, Side::Primary).unwrap();
            assert_eq!(
                login.allow_plaintext, is_plain,
                "TLS {has_tls}, allowed {allows}, proxied {is_proxied}"
            );
        }
    }
}

#[test]
fn a_rejection_is_shared_by_the_checks_of_a_side_and_an_undecodable_answer_is_not() {
    let checks = PairChecks::new("operator-1", 1, mpsc::channel(1).0);
    let declared = declared(&target(false, true, false));
    let of = |side| checks.login(&declared, side).unwrap();
    let (one, other, backup) = (of(Side::Primary), of(Side::Primary), of(Side::Backup));
    assert!(Arc::ptr_eq(&one.refusals, &other.refusals));
    assert!(!Arc::ptr_eq(&one.undecodable, &other.undecodable));
    assert!(!Arc::ptr_eq(&one.refusals, &backup.refusals));
}

#[test]
fn a_check_that_has_failed_itself_is_unseen() {
    let observation = Observation::Restarted {
        check: Check::Path,
        message: "the path check itself has failed".to_owned(),
    };
    let source = Source::Gate("uid".to_owned());
    let input = input(Side::Primary, source, observation);
    let Some(Input::Gate(Side::Primary, uid, GateObservation::Path(Link::Unseen { message }))) = input else {
        panic!("{input:?}")
    };
    assert_eq!(
        (uid.as_str(), message.as_str()),
        ("uid", "the path check itself has failed")
    );
}
