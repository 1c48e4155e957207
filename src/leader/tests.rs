//! Candidates against a scripted API server.

use fake_api_server::{ApiServer, Fault, Match, Verb};
use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::api::ObjectMeta;

use jiff::Timestamp;

use super::*;

thread_local! {
    /// The first moment of a test, which has a thread and a paused clock of its own.
    static BEGUN: Instant = monotonic();
}

/// A time of day that passes as the paused clock does.
pub(super) fn wall() -> Timestamp {
    let start: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    start + BEGUN.with(|begun| monotonic() - *begun)
}

const NAMESPACE: &str = "default";
const LEASE: &str = "proxypair";
const DURATION: Duration = Duration::from_secs(2);

struct Running {
    standing: watch::Receiver<Standing>,
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

fn run(server: &ApiServer, identity: &str) -> Running {
    let candidate = Candidate {
        namespace: NAMESPACE.to_owned(),
        lease: LEASE.to_owned(),
        identity: identity.to_owned(),
        duration: DURATION,
    };
    let (standing_in, standing) = watch::channel(Standing::Unknown);
    let (stop, mut stopped) = watch::channel(false);
    let stopping = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let task = tokio::spawn(lead(server.client(), candidate, standing_in, stopping));
    Running { standing, task, stop }
}

impl Running {
    async fn leads(&mut self) -> Claim {
        let leads = self
            .standing
            .wait_for(|standing| matches!(standing, Standing::Leading(_)));
        let standing = time::timeout(Duration::from_secs(60), leads).await.expect("it leads");
        match *standing.unwrap() {
            Standing::Leading(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    async fn stands_by(&mut self) {
        let stands_by = self
            .standing
            .wait_for(|standing| matches!(standing, Standing::Standby { .. }));
        let standing = time::timeout(Duration::from_secs(60), stands_by).await;
        standing.expect("it stands by").unwrap();
    }

    /// Waits for the next renewal.
    async fn renews(&mut self) -> Claim {
        let before = self.leads().await;
        let renewed =
            |standing: &Standing| matches!(standing, Standing::Leading(claim) if claim.expires > before.expires);
        let standing = time::timeout(Duration::from_secs(60), self.standing.wait_for(renewed)).await;
        standing.expect("it renews").unwrap().claim(before.expires).unwrap()
    }

    async fn ends(self) -> Standing {
        time::timeout(Duration::from_secs(60), self.task)
            .await
            .expect("it ends")
            .unwrap();
        *self.standing.borrow()
    }

    fn claim(&self) -> Option<Claim> {
        self.standing.borrow().claim(monotonic())
    }
}

fn holder(server: &ApiServer) -> Option<String> {
    server.get::<Lease>(NAMESPACE, LEASE)?.spec?.holder_identity
}

fn seconds_since_2020() -> u64 {
    let start: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    u64::try_from(wall().as_second() - start.as_second()).unwrap()
}

/// A Lease of a former leader, which nobody renews.
fn left_behind(holder: &str, term: i32) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(2),
            lease_transitions: Some(term),
            renew_time: Some(MicroTime("2026-01-01T00:00:00Z".parse().unwrap())),
            ..LeaseSpec::default()
        }),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_it_created_is_held_for_one_duration_before_it_leads() {
    let server = ApiServer::new();
    let begun = monotonic();
    let mut a = run(&server, "a");
    let first = a.leads().await;
    assert!(monotonic() - begun >= DURATION, "{:?}", monotonic() - begun);
    assert!(first.term >= seconds_since_2020() - 60, "{}", first.term);
    let second = a.renews().await;
    assert_eq!(second.term, first.term);
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_meets_a_lease_left_behind_leads_when_its_claim_has_ended_and_in_a_higher_term() {
    for term in [3, i32::try_from(seconds_since_2020()).unwrap() + 1_000_000] {
        let server = ApiServer::new();
        server.put(&left_behind("gone", term));
        let begun = monotonic();
        let claim = run(&server, "a").leads().await;
        assert!(claim.term > u64::try_from(term).unwrap());
        let took = monotonic() - begun;
        assert!(took >= DURATION && took < DURATION + Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_under_its_leader_is_created_again_by_it() {
    let server = ApiServer::new();
    let mut a = run(&server, "a");
    let before = a.leads().await;
    server.delete::<Lease>(NAMESPACE, LEASE);
    let after = a.renews().await;
    assert_eq!(after.term, before.term);
    assert_eq!(holder(&server).as_deref(), Some("a"));
    // And it goes on renewing the new one.
    assert_eq!(a.renews().await.term, before.term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_when_another_candidate_was_faster_to_create_the_lease_which_leads_only_then() {
    let server = ApiServer::new();
    let (network_a, network_b) = (server.another_network(), server.another_network());
    let mut a = run(&network_a, "a");
    let of_a = a.leads().await;
    let mut b = run(&network_b, "b");
    b.stands_by().await;
    // While a's renewals get lost, b finds no Lease.
    network_a.fault(Match::new(Verb::Update, "leases"), Fault::DisconnectBefore);
    network_a.fault(Match::new(Verb::Get, "leases").always(), Fault::DisconnectBefore);
    server.delete::<Lease>(NAMESPACE, LEASE);
    server.until(|server| holder(server).as_deref() == Some("b")).await;
    network_a.clear_faults();
    while b.claim().is_none() {
        time::sleep(Duration::from_millis(10)).await;
        assert!(a.claim().is_none() || b.claim().is_none());
    }
    assert!(b.leads().await.term > of_a.term);
    assert_eq!(a.ends().await, Standing::Lost);
    assert_eq!(holder(&server).as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_restored_from_a_backup_does_not_take_the_term_back() {
    let server = ApiServer::new();
    let mut a = run(&server, "a");
    let first = a.leads().await;
    let old = server.get::<Lease>(NAMESPACE, LEASE).unwrap();
    a.stop.send_replace(true);
    a.ends().await;
    let mut again = run(&server, "a");
    let second = again.leads().await;
    assert!(second.term > first.term);
    // Held by "a" in both: the leader goes on, in its own term.
    server.put(&old);
    assert_eq!(again.renews().await.term, second.term);
    let stored = server.get::<Lease>(NAMESPACE, LEASE).unwrap().spec.unwrap();
    assert_eq!(
        stored.lease_transitions.map(i64::from),
        Some(i64::try_from(second.term).unwrap())
    );
    // Held by somebody else: it stops, and the next term is higher all the same.
    server.put(&left_behind("b", 7));
    assert_eq!(again.ends().await, Standing::Lost);
    assert!(run(&server, "c").leads().await.term > second.term);
}

#[tokio::test(start_paused = true)]
async fn leadership_ends_by_itself_when_the_api_server_only_answers_500() {
    let server = ApiServer::new();
    let mut a = run(&server, "a");
    a.leads().await;
    server.fault(Match::any().always(), Fault::status(500));
    let claim = a.leads().await;
    let standing = a.standing.clone();
    assert_eq!(a.ends().await, Standing::Lost);
    assert!(!claim.holds(monotonic()));
    assert_eq!(standing.borrow().claim(monotonic()), None);
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_counted_from_before_the_renewal_was_sent() {
    let server = ApiServer::new();
    let late = Duration::from_millis(400);
    server.fault(Match::new(Verb::Update, "leases").always(), Fault::SlowAnswer(late));
    let mut a = run(&server, "a");
    let claim = a.leads().await;
    assert!(claim.expires <= monotonic() + DURATION - late);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_returned_is_acquired_at_once_by_the_next() {
    let server = ApiServer::new();
    let mut a = run(&server, "a");
    let first = a.leads().await;
    let mut b = run(&server, "b");
    b.stands_by().await;
    a.stop.send_replace(true);
    a.ends().await;
    let started = monotonic();
    let claim = b.leads().await;
    assert!(claim.term > first.term);
    assert_eq!(holder(&server).as_deref(), Some("b"));
    let took = monotonic() - started;
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

/// Somebody may have made it in the place of one under which a leader still has a claim.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_never_seen_to_be_held_is_not_free() {
    let server = ApiServer::new();
    let mut lease = left_behind("gone", 3);
    lease.spec.as_mut().unwrap().holder_identity = None;
    server.put(&lease);
    let begun = monotonic();
    run(&server, "a").leads().await;
    assert!(monotonic() - begun >= DURATION, "{:?}", monotonic() - begun);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_renewal_returns_the_lease() {
    for fault in [
        Fault::SlowAnswer(Duration::from_millis(300)),
        Fault::SlowRequest(Duration::from_millis(300)),
        Fault::DisconnectAfter,
        Fault::status(500),
    ] {
        let server = ApiServer::new();
        let mut a = run(&server, "a");
        a.leads().await;
        let renewal = Match::new(Verb::Update, "leases");
        server.take_requests();
        server.fault(renewal.clone(), fault.clone());
        server.until(|server| server.count(&renewal) >= 1).await;
        a.stop.send_replace(true);
        assert_eq!(a.ends().await, Standing::Lost);
        assert_eq!(holder(&server), None, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_standby_stops_at_once_whatever_the_api_server_does() {
    let server = ApiServer::new();
    server.fault(Match::any().always(), Fault::SilenceBefore);
    let a = run(&server, "a");
    server.until(|server| !server.requests().is_empty()).await;
    let begun = monotonic();
    a.stop.send_replace(true);
    a.ends().await;
    assert!(monotonic() - begun < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn two_candidates_never_hold_a_claim_at_the_same_moment() {
    let server = ApiServer::new();
    let networks = [server.another_network(), server.another_network()];
    let mut candidates = [run(&networks[0], "a"), run(&networks[1], "b")];
    let mut terms = Vec::new();
    let until = monotonic() + Duration::from_secs(120);
    let mut step = 0_u64;
    while monotonic() < until {
        let claims = candidates.each_ref().map(Running::claim);
        assert!(claims.iter().flatten().count() < 2, "{claims:?}");
        for (at, claim) in claims.iter().enumerate() {
            let Some(claim) = claim else { continue };
            if terms.last().is_none_or(|(_, term)| term != &claim.term) {
                terms.push((at, claim.term));
            }
        }
        for (at, name) in ["a", "b"].into_iter().enumerate() {
            if candidates[at].task.is_finished() {
                candidates[at] = run(&networks[at], name);
            }
        }
        step += 1;
        // Outages, slow answers and deletions in turns that fit neither each other nor the lease's duration.
        for (network, (period, from)) in networks.iter().zip([(1400, 700), (1800, 1100)]) {
            network.clear_faults();
            if step % period > from {
                network.fault(Match::any().always(), Fault::status(500));
            } else if step % 310 < 60 {
                network.fault(Match::any().always(), Fault::SlowAnswer(Duration::from_millis(250)));
            }
        }
        if step.is_multiple_of(1300) {
            server.delete::<Lease>(NAMESPACE, LEASE);
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    assert!(terms.is_sorted_by(|(_, a), (_, b)| a < b), "{terms:?}");
    let led = |candidate| terms.iter().filter(|(at, _)| *at == candidate).count();
    assert!(
        led(0) > 1 && led(1) > 1,
        "leadership has to have changed hands: {terms:?}"
    );
}
