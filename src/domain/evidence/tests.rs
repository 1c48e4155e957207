//! Evidence of each kind, and what it is taken for.

use super::*;

const TIMING: Timing = Timing {
    interval: Duration::from_secs(1),
    unreachable_after: Duration::from_secs(1),
    unresponsive_after: Duration::from_secs(15),
    healthy_after: Duration::from_secs(5),
};

fn good(at: Instant) -> Evidence {
    Evidence {
        pod: Pod::Running,
        trouble: None,
        control: Link::Answering,
        report: Some(GateReport {
            at,
            upstream: Upstream::Reachable,
            leaving: false,
            sessions: 3,
        }),
        path: Link::Answering,
        direct: Link::Answering,
        direct_since: at.checked_sub(Duration::from_secs(5)),
        word: None,
    }
}

fn cause(reading: &Reading) -> Option<(Cause, Instant)> {
    match reading {
        Reading::Bad { cause, down_at, .. } => Some((*cause, *down_at)),
        _ => None,
    }
}

fn failed(since: Instant) -> Link {
    Link::Failed {
        since,
        fault: Fault::Connection,
        message: "connection refused".to_owned(),
    }
}

#[test]
fn a_side_is_good_only_when_every_eye_but_the_direct_one_has_seen_it() {
    let now = Instant::now();
    assert_eq!(classify(&good(now), &TIMING, now), Reading::Good);
    assert_eq!(
        classify(
            &Evidence {
                direct: failed(now),
                ..good(now)
            },
            &TIMING,
            now
        ),
        Reading::Good
    );
    for missing in [
        Evidence {
            pod: Pod::Unknown,
            ..good(now)
        },
        Evidence {
            control: Link::Untried,
            ..good(now)
        },
        Evidence {
            report: None,
            ..good(now)
        },
        Evidence {
            path: Link::Untried,
            ..good(now)
        },
    ] {
        assert_eq!(classify(&missing, &TIMING, now), Reading::Unknown, "{missing:?}");
    }
}

#[test]
fn a_gate_that_lost_its_objectserver_tells_the_dead_one_from_the_broken_path() {
    let now = Instant::now();
    let report = GateReport {
        at: now,
        upstream: Upstream::Unreachable {
            since: now,
            message: "refused".to_owned(),
        },
        leaving: false,
        sessions: 0,
    };
    let lost = Evidence {
        report: Some(report),
        ..good(now)
    };
    let down_at = now + TIMING.unreachable_after;
    assert!(matches!(classify(&lost, &TIMING, now), Reading::Doubtful { .. }));
    assert_eq!(
        cause(&classify(&lost, &TIMING, now + OTHER_EYE)),
        Some((Cause::PathBroken, down_at))
    );
    let dead = Evidence {
        direct: failed(now),
        ..lost
    };
    assert_eq!(
        cause(&classify(&dead, &TIMING, now)),
        Some((Cause::ObjectServerUnreachable, down_at))
    );
}

#[test]
fn silence_is_doubt_first_and_a_failure_only_after_its_own_deadline() {
    let start = Instant::now();
    let frozen = Evidence {
        control: Link::Silent { since: start },
        report: None,
        ..good(start)
    };
    let at = |seconds| classify(&frozen, &TIMING, start + Duration::from_secs(seconds));
    assert!(matches!(at(1), Reading::Doubtful { .. }));
    assert_eq!(
        cause(&at(3)),
        Some((Cause::ProxyUnresponsive, start + TIMING.unresponsive_after))
    );
}

#[test]
fn an_answer_that_is_on_its_way_does_not_make_a_side_doubtful() {
    let start = Instant::now();
    let asked = Evidence {
        control: Link::Silent { since: start },
        ..good(start)
    };
    assert_eq!(
        classify(&asked, &TIMING, start + Duration::from_millis(500)),
        Reading::Good
    );
}

#[test]
fn a_leaving_pod_is_left_at_once() {
    let now = Instant::now();
    let leaving = Evidence {
        pod: Pod::Leaving,
        ..good(now)
    };
    assert_eq!(
        cause(&classify(&leaving, &TIMING, now)),
        Some((Cause::ProxyTerminating, now))
    );
}

#[test]
fn a_lost_path_waits_for_the_gates_own_word() {
    let now = Instant::now();
    let later = now + Duration::from_millis(1);
    let lost = Evidence {
        path: failed(later),
        ..good(now)
    };
    let until = Some(later + OTHER_EYE);
    assert_eq!(classify(&lost, &TIMING, later), Reading::Doubtful { until });
    let confirmed = Evidence {
        path: failed(now),
        ..good(later)
    };
    assert_eq!(
        cause(&classify(&confirmed, &TIMING, now + OTHER_EYE)),
        Some((Cause::PathBroken, now + TIMING.unreachable_after))
    );
}

fn with_login(path: Link, direct: Link) -> Evidence {
    Evidence {
        path,
        direct,
        ..good(Instant::now())
    }
}

fn fault(fault: Fault, since: Instant) -> Link {
    Link::Failed {
        since,
        fault,
        message: "in words".to_owned(),
    }
}

#[test]
fn sessions_tell_a_hung_objectserver_from_a_hung_proxy() {
    let start = Instant::now();
    let silent = Link::Silent { since: start };
    let at = start + Duration::from_secs(3);
    let down_at = start + TIMING.unresponsive_after;
    let hung = with_login(silent.clone(), silent.clone());
    assert_eq!(
        cause(&classify(&hung, &TIMING, at)),
        Some((Cause::ObjectServerUnresponsive, down_at))
    );
    let proxy_hung = with_login(silent.clone(), Link::Answering);
    assert_eq!(
        cause(&classify(&proxy_hung, &TIMING, at)),
        Some((Cause::PathBroken, down_at))
    );
    let only_the_direct_one = with_login(Link::Answering, silent);
    assert_eq!(classify(&only_the_direct_one, &TIMING, at), Reading::Good);
}

#[test]
fn a_session_that_is_refused_or_meets_a_stranger_says_which() {
    let start = Instant::now();
    for (what, wanted) in [
        (Fault::Login, Cause::LoginRefused),
        (Fault::WrongServer, Cause::WrongObjectServer),
        (Fault::Tls, Cause::TlsRejected),
    ] {
        let evidence = with_login(fault(what, start), Link::Answering);
        assert_eq!(
            cause(&classify(&evidence, &TIMING, start)),
            Some((wanted, start + TIMING.unreachable_after))
        );
    }
}

#[test]
fn the_direct_eye_alone_is_believed_when_it_meets_a_stranger_and_in_nothing_else() {
    let start = Instant::now();
    let stranger = with_login(Link::Answering, fault(Fault::WrongServer, start));
    assert_eq!(
        cause(&classify(&stranger, &TIMING, start)).map(|(cause, _)| cause),
        Some(Cause::WrongObjectServer)
    );
    for what in [Fault::Login, Fault::Tls, Fault::Connection] {
        let evidence = with_login(Link::Answering, fault(what, start));
        assert_eq!(classify(&evidence, &TIMING, start), Reading::Good, "{what:?}");
    }
}

#[test]
fn an_objectserver_that_closes_every_session_is_unreachable_though_its_port_is_open() {
    let start = Instant::now();
    let evidence = Evidence {
        report: Some(GateReport {
            at: start + Duration::from_secs(1),
            upstream: Upstream::Reachable,
            leaving: false,
            sessions: 0,
        }),
        ..with_login(failed(start), failed(start))
    };
    assert_eq!(
        cause(&classify(&evidence, &TIMING, start + Duration::from_secs(1))).map(|(cause, _)| cause),
        Some(Cause::ObjectServerUnreachable)
    );
}

#[test]
fn what_the_gate_says_of_certificates_is_told_as_such() {
    let start = Instant::now();
    let evidence = Evidence {
        report: Some(GateReport {
            at: start,
            upstream: Upstream::Rejected {
                since: start,
                message: "in words".to_owned(),
            },
            leaving: false,
            sessions: 0,
        }),
        ..good(start)
    };
    assert_eq!(
        cause(&classify(&evidence, &TIMING, start)),
        Some((Cause::TlsRejected, start + TIMING.unreachable_after))
    );
}

#[test]
fn a_proxy_server_that_goes_with_its_objectserver_is_not_to_blame() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let reported = |upstream| Evidence {
        report: Some(GateReport {
            at: start,
            upstream,
            leaving: false,
            sessions: 0,
        }),
        ..good(start)
    };
    let message = || "gone".to_owned();
    let exited = reported(Upstream::ProxyUnreachable {
        since: start,
        message: message(),
    });
    let followed = Evidence {
        direct: Link::Failed {
            since: at(5),
            fault: Fault::Connection,
            message: message(),
        },
        ..reported(Upstream::Unreachable {
            since: at(5),
            message: message(),
        })
    };
    assert_eq!(
        classify(&exited, &TIMING, at(1)),
        Reading::Doubtful { until: Some(at(50)) }
    );
    assert_eq!(
        cause(&classify(&followed, &TIMING, at(5))),
        Some((Cause::ObjectServerUnreachable, at(5) + TIMING.unreachable_after))
    );
    assert_eq!(
        cause(&classify(&exited, &TIMING, at(50))),
        Some((Cause::ProxyUnreachable, start + TIMING.unreachable_after))
    );
}

#[test]
fn what_keeps_the_pod_from_running_is_said_with_what_was_seen() {
    let start = Instant::now();
    let starting = Evidence {
        pod: Pod::Starting { since: start },
        trouble: Some("the pod cannot be scheduled: 0/3".to_owned()),
        ..Evidence::none()
    };
    let refused = Evidence {
        control: failed(start),
        trouble: Some("container gate exited with code 1".to_owned()),
        ..good(start)
    };
    let message = |evidence: &Evidence| match classify(evidence, &TIMING, start) {
        Reading::Bad { cause, message, .. } => (cause, message),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(&starting),
        (
            Cause::ProxyMissing,
            "the proxy pod has not started: the pod cannot be scheduled: 0/3".to_owned()
        )
    );
    assert_eq!(
        message(&refused),
        (
            Cause::ProxyUnreachable,
            "connection refused: container gate exited with code 1".to_owned()
        )
    );
    let troubled = Evidence {
        trouble: Some("container gate exited with code 1".to_owned()),
        ..good(start)
    };
    assert_eq!(classify(&troubled, &TIMING, start), Reading::Good);
}

#[test]
fn an_objectserver_that_has_just_returned_is_no_broken_path_though_the_gate_has_not_seen_it_yet() {
    let start = Instant::now();
    let returned = start + Duration::from_secs(60);
    let evidence = Evidence {
        report: Some(GateReport {
            at: start,
            upstream: Upstream::Unreachable {
                since: start,
                message: "refused".to_owned(),
            },
            leaving: false,
            sessions: 0,
        }),
        direct_since: Some(returned),
        ..good(start)
    };
    let at = |millis| {
        let reading = classify(&evidence, &TIMING, returned + Duration::from_millis(millis));
        cause(&reading).map(|(cause, _)| cause)
    };
    assert_eq!(at(10), Some(Cause::ObjectServerUnreachable));
    assert_eq!(at(1100), Some(Cause::PathBroken));
}
