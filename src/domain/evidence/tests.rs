//! Evidence of each kind, and what it is taken for.

use super::{
    classify::{CONFIRMED_AFTER, GATE_DIALS_WITHIN},
    *,
};

const TIMING: Timing = Timing {
    interval: Duration::from_secs(1),
    unreachable_after: Duration::from_secs(1),
    unresponsive_after: Duration::from_secs(15),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::from_secs(5),
};

/// What was observed of a gate and of its ObjectServer.
#[derive(Clone, Debug)]
struct Evidence {
    gate: GateEvidence,
    server: ServerEvidence,
}

fn classify(evidence: &Evidence, timing: &Timing, now: Instant) -> Reading {
    super::classify(&evidence.gate, &evidence.server, timing, now)
}

impl Evidence {
    fn gate(mut self, change: impl FnOnce(&mut GateEvidence)) -> Self {
        change(&mut self.gate);
        self
    }

    fn direct(mut self, link: Link) -> Self {
        self.server.direct = link;
        self
    }

    /// The gate has said `upstream` since `since`, and says so still in a report that arrived `at`.
    fn reported(self, at: Instant, since: Instant, upstream: Upstream) -> Self {
        let said = |at| GateReport::after(None, at, report(upstream.clone()));
        let newest = GateReport::after(Some(&said(since)), at, report(upstream.clone()));
        self.gate(|gate| gate.report = Some(newest))
    }
}

fn report(upstream: Upstream) -> Report {
    let line = r#"{"gate":"PROXY_P","objectServer":"AGG_P","instance":"1","admission":"Open","sessions":3,"upstream":{"state":"Reachable"},"leaving":false}"#;
    Report {
        upstream,
        ..serde_json::from_str(line).unwrap()
    }
}

fn unreachable(cause: UnreachableCause) -> Upstream {
    Upstream::Unreachable {
        cause,
        message: "refused".to_owned(),
    }
}

fn good(at: Instant) -> Evidence {
    Evidence {
        gate: GateEvidence {
            control: Link::Answering,
            path: Link::Answering,
            ..GateEvidence::none(PodState::Running, None)
        },
        server: ServerEvidence {
            direct: Link::Answering,
            answering_since: at.checked_sub(Duration::from_secs(5)),
            state: None,
        },
    }
    .reported(at, at, Upstream::Reachable)
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
fn a_gate_that_has_just_started_has_not_failed_to_reach_its_objectserver() {
    let start = Instant::now();
    let at = |later| {
        let now = start + later;
        let evidence = good(now).reported(now, start, unreachable(UnreachableCause::Untried));
        classify(&evidence, &TIMING, now)
    };
    let until = start + GATE_DIALS_WITHIN;
    for later in [Duration::ZERO, Duration::from_millis(999)] {
        assert_eq!(at(later), Reading::Doubtful { until: Some(until) });
    }
    assert!(matches!(
        at(GATE_DIALS_WITHIN),
        Reading::Bad {
            cause: Cause::PathBroken,
            ..
        }
    ));
}

#[test]
fn a_side_is_good_only_when_every_check_but_the_direct_one_has_proved_it() {
    let now = Instant::now();
    assert_eq!(classify(&good(now), &TIMING, now), Reading::Good);
    assert_eq!(classify(&good(now).direct(failed(now)), &TIMING, now), Reading::Good);
    for missing in [
        good(now).gate(|gate| gate.control = Link::Untried),
        good(now).gate(|gate| gate.report = None),
        good(now).gate(|gate| gate.path = Link::Untried),
    ] {
        assert_eq!(classify(&missing, &TIMING, now), Reading::Unknown, "{missing:?}");
    }
}

#[test]
fn a_gate_that_lost_its_objectserver_tells_the_dead_one_from_the_broken_path() {
    let now = Instant::now();
    let lost = good(now).reported(now, now, unreachable(UnreachableCause::Refused));
    let down_at = now + TIMING.unreachable_after;
    assert!(matches!(classify(&lost, &TIMING, now), Reading::Doubtful { .. }));
    assert_eq!(
        cause(&classify(&lost, &TIMING, now + CONFIRMED_AFTER)),
        Some((Cause::PathBroken, down_at))
    );
    let dead = lost.direct(failed(now));
    assert_eq!(
        cause(&classify(&dead, &TIMING, now)),
        Some((Cause::ObjectServerUnreachable, down_at))
    );
}

#[test]
fn a_gate_whose_port_for_probes_is_not_open_is_unreachable_in_its_own_words() {
    let now = Instant::now();
    let error = || Some("no certificate to show to probes".to_owned());
    let closed = |at| {
        let said = Report {
            listen_error: error(),
            ..report(Upstream::Reachable)
        };
        GateReport::after(None, at, said)
    };
    let evidence = good(now).gate(|gate| gate.report = Some(closed(now)));
    assert_eq!(
        cause(&classify(&evidence, &TIMING, now)),
        Some((Cause::ProxyUnreachable, now + TIMING.unreachable_after))
    );
}

#[test]
fn a_gate_that_accepts_nobody_though_it_is_commanded_to_is_unreachable_after_a_second() {
    let now = Instant::now();
    let evidence = good(now).gate(|gate| gate.refusing_since = Some(now));
    assert_eq!(classify(&evidence, &TIMING, now), Reading::Good);
    let later = now + ADMITS_WITHIN;
    assert_eq!(
        cause(&classify(&evidence, &TIMING, later)),
        Some((Cause::ProxyUnreachable, later + TIMING.unreachable_after))
    );
}

#[test]
fn a_failure_that_a_gate_reports_counts_from_its_first_report_and_anew_for_a_new_process() {
    let start = Instant::now();
    let later = start + Duration::from_secs(5);
    let refused = || report(unreachable(UnreachableCause::Refused));
    let first = GateReport::after(None, start, refused());
    assert_eq!(
        GateReport::after(Some(&first), later, refused()).failing_since,
        Some(start)
    );
    let restarted = Report {
        instance: "2".to_owned(),
        ..refused()
    };
    assert_eq!(
        GateReport::after(Some(&first), later, restarted).failing_since,
        Some(later)
    );
}

#[test]
fn silence_is_doubt_first_and_a_failure_only_after_its_own_deadline() {
    let start = Instant::now();
    let frozen = good(start).gate(|gate| {
        gate.control = Link::Silent { since: start };
        gate.report = None;
    });
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
    let asked = good(start).gate(|gate| gate.control = Link::Silent { since: start });
    assert_eq!(
        classify(&asked, &TIMING, start + Duration::from_millis(500)),
        Reading::Good
    );
}

#[test]
fn a_terminating_pod_is_left_at_once() {
    let now = Instant::now();
    let terminating = good(now).gate(|gate| gate.pod = PodState::Terminating);
    assert_eq!(
        cause(&classify(&terminating, &TIMING, now)),
        Some((Cause::ProxyTerminating, now))
    );
}

#[test]
fn a_lost_path_waits_for_the_gates_own_report() {
    let now = Instant::now();
    let later = now + Duration::from_millis(1);
    let lost = good(now).gate(|gate| gate.path = failed(later));
    let until = Some(later + CONFIRMED_AFTER);
    assert_eq!(classify(&lost, &TIMING, later), Reading::Doubtful { until });
    let confirmed = good(later).gate(|gate| gate.path = failed(now));
    assert_eq!(
        cause(&classify(&confirmed, &TIMING, now + CONFIRMED_AFTER)),
        Some((Cause::PathBroken, now + TIMING.unreachable_after))
    );
}

fn with_login(path: Link, direct: Link) -> Evidence {
    good(Instant::now()).gate(|gate| gate.path = path).direct(direct)
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
fn a_session_that_is_refused_or_reaches_another_server_says_which() {
    let start = Instant::now();
    for (what, wanted) in [
        (Fault::Login, Cause::LoginRefused),
        (Fault::Protocol, Cause::ProtocolError),
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
fn the_direct_check_alone_is_believed_when_it_reaches_another_server_and_in_nothing_else() {
    let start = Instant::now();
    let another = with_login(Link::Answering, fault(Fault::WrongServer, start));
    assert_eq!(
        cause(&classify(&another, &TIMING, start)).map(|(cause, _)| cause),
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
    let at = start + Duration::from_secs(1);
    let evidence = with_login(failed(start), failed(start)).reported(at, at, Upstream::Reachable);
    assert_eq!(
        cause(&classify(&evidence, &TIMING, start + Duration::from_secs(1))).map(|(cause, _)| cause),
        Some(Cause::ObjectServerUnreachable)
    );
}

#[test]
fn a_certificate_that_the_gate_refuses_is_the_cause() {
    let start = Instant::now();
    let evidence = good(start).reported(start, start, unreachable(UnreachableCause::TlsRejected));
    assert_eq!(
        cause(&classify(&evidence, &TIMING, start)),
        Some((Cause::TlsRejected, start + TIMING.unreachable_after))
    );
}

#[test]
fn a_proxy_server_that_goes_with_its_objectserver_is_not_to_blame() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let exited = good(start).reported(start, start, unreachable(UnreachableCause::ProxyUnreachable));
    let followed = good(start)
        .reported(at(5), at(5), unreachable(UnreachableCause::Refused))
        .direct(failed(at(5)));
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
fn why_the_pod_does_not_run_is_part_of_the_message() {
    let start = Instant::now();
    let ended = || Some("container gate ended with exit code 1".to_owned());
    let starting = Evidence {
        gate: GateEvidence::none(
            PodState::Starting { since: start },
            Some("no node takes the pod: 0/3".to_owned()),
        ),
        server: ServerEvidence::NONE,
    };
    let refused = good(start).gate(|gate| {
        gate.control = failed(start);
        gate.pod_failure = ended();
    });
    let message = |evidence: &Evidence| match classify(evidence, &TIMING, start) {
        Reading::Bad { cause, message, .. } => (cause, message),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(&starting),
        (
            Cause::ProxyMissing,
            "the proxy pod has not started: no node takes the pod: 0/3".to_owned()
        )
    );
    assert_eq!(
        message(&refused),
        (
            Cause::ProxyUnreachable,
            "connection refused: container gate ended with exit code 1".to_owned()
        )
    );
    let troubled = good(start).gate(|gate| gate.pod_failure = ended());
    assert_eq!(classify(&troubled, &TIMING, start), Reading::Good);
}

#[test]
fn an_objectserver_that_has_just_returned_is_no_broken_path_though_the_gate_has_not_seen_it_yet() {
    let start = Instant::now();
    let returned = start + Duration::from_secs(60);
    let mut evidence = good(start).reported(start, start, unreachable(UnreachableCause::Refused));
    evidence.server.answering_since = Some(returned);
    let at = |millis| {
        let reading = classify(&evidence, &TIMING, returned + Duration::from_millis(millis));
        cause(&reading).map(|(cause, _)| cause)
    };
    assert_eq!(at(10), Some(Cause::ObjectServerUnreachable));
    assert_eq!(at(1100), Some(Cause::PathBroken));
}

fn link_unseen() -> Link {
    Link::Unseen {
        message: "Too many open files".to_owned(),
    }
}

#[test]
fn what_the_operator_cannot_look_at_is_never_a_failure_of_the_side() {
    let now = Instant::now();
    for (blind, words) in [
        (
            good(now).gate(|gate| gate.control = link_unseen()),
            "the operator cannot look at the gate: Too many open files",
        ),
        (
            good(now).gate(|gate| gate.path = link_unseen()),
            "the operator cannot look at the ObjectServer through the gate: Too many open files",
        ),
    ] {
        for later in [Duration::ZERO, Duration::from_secs(3600)] {
            let expected = Reading::Unseen {
                message: words.to_owned(),
            };
            assert_eq!(classify(&blind, &TIMING, now + later), expected);
        }
    }
    // The direct connection alone decides nothing.
    let blind = good(now).direct(link_unseen());
    assert_eq!(classify(&blind, &TIMING, now), Reading::Good);
    assert_eq!(blind.server.unasked(), Some("Too many open files"));
}

#[test]
fn a_gate_that_proves_its_loss_is_believed_although_the_operator_cannot_look_itself() {
    let now = Instant::now();
    let lost = good(now)
        .reported(now, now, unreachable(UnreachableCause::Refused))
        .gate(|gate| gate.path = link_unseen())
        .direct(link_unseen());
    assert_eq!(
        cause(&classify(&lost, &TIMING, now + CONFIRMED_AFTER)),
        Some((Cause::ObjectServerUnreachable, now + TIMING.unreachable_after))
    );
}
