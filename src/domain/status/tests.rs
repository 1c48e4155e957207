//! Status as a function: what changes it and what does not.

use std::time::Duration;

use kube::api::ObjectMeta;
use serde_json::json;

use super::*;
use crate::{
    api::{Cause, ProxyPair},
    domain::evidence::{Reading, Timing},
};

const TIMING: Timing = Timing {
    interval: Duration::from_secs(1),
    unreachable_after: Duration::ZERO,
    unresponsive_after: Duration::from_secs(15),
    lost_after: Duration::from_secs(1),
    healthy_after: Duration::ZERO,
};

fn pair() -> Pair {
    let spec = json!({
        "serverName": "PROXY_V",
        "primary": {"serverName": "PROXY_P", "objectServer": {"name": "AGG_P", "host": "aggp.example.com"}},
        "backup": {"serverName": "PROXY_B", "objectServer": {"name": "AGG_B", "host": "aggb.example.com"}},
    });
    let metadata = ObjectMeta {
        name: Some("proxy-v".to_owned()),
        namespace: Some("netcool".to_owned()),
        uid: Some("uid".to_owned()),
        generation: Some(3),
        ..ObjectMeta::default()
    };
    Pair::validate(&ProxyPair {
        metadata,
        spec: serde_json::from_value(spec).unwrap(),
        status: None,
    })
    .unwrap()
}

struct Scene {
    pair: Pair,
    routing: Routing,
    primary: SideHealth,
    backup: SideHealth,
    decision: Decision,
    /// Why the primary's ObjectServer cannot be asked.
    unasked: Option<&'static str>,
    defects: Defects,
    now: Now,
}

impl Scene {
    fn new() -> Self {
        let now = Now {
            monotonic: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
        };
        let up = SideHealth::unknown(now.monotonic).step(&Reading::Good, &TIMING, now.monotonic);
        Self {
            pair: pair(),
            routing: Routing {
                since: Some(now.monotonic),
                ..Routing::NEW
            },
            primary: up.clone(),
            backup: up,
            decision: Decision::Stay {
                waiting: vec![],
                look_again: None,
            },
            unasked: None,
            defects: Defects::default(),
            now,
        }
    }

    fn later(&self, millis: u64) -> Now {
        let span = Duration::from_millis(millis);
        Now {
            monotonic: self.now.monotonic + span,
            wall: self.now.wall + SignedDuration::try_from(span).unwrap(),
        }
    }

    fn render(&self, before: &ProxyPairStatus, now: Now, problem: Option<&Problem>) -> ProxyPairStatus {
        let known = Known {
            pair: &self.pair,
            routing: self.routing,
            switching: None,
            sides: Sides {
                primary: SideKnown {
                    health: &self.primary,
                    sessions: 2,
                    gates: Vec::new(),
                    acting_primary: None,
                    expiry: Expiry::default(),
                    unasked: self.unasked,
                },
                backup: SideKnown {
                    health: &self.backup,
                    sessions: 0,
                    gates: Vec::new(),
                    acting_primary: None,
                    expiry: Expiry::default(),
                    unasked: None,
                },
            },
            decision: &self.decision,
            problem,
            defects: &self.defects,
            lost_gates: Vec::new(),
            finished: None,
        };
        render(&known, before, now)
    }
}

fn truth<'a>(status: &'a ProxyPairStatus, type_: &str) -> (&'a str, &'a str) {
    let condition = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    (&condition.status, &condition.reason)
}

#[test]
fn says_the_same_at_any_later_time_when_nothing_has_changed() {
    let scene = Scene::new();
    let first = scene.render(&ProxyPairStatus::default(), scene.now, None);
    for millis in [1, 999, 1001, 60_000, 86_400_000] {
        assert_eq!(
            scene.render(&first, scene.later(millis), None),
            first,
            "after {millis} ms"
        );
    }
}

#[test]
fn a_pair_of_two_up_sides_is_ready_and_protected() {
    let scene = Scene::new();
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    assert_eq!(truth(&status, CONDITION_READY), ("True", "Serving"));
    assert_eq!(truth(&status, CONDITION_PROTECTED), ("True", "BothUp"));
    assert_eq!(truth(&status, CONDITION_PRIMARY_SERVING), ("True", "Primary"));
    assert_eq!(
        (status.connections, status.object_server.as_deref()),
        (2, Some("AGG_P"))
    );
    assert_eq!(status.failback, None);
}

#[test]
fn a_condition_keeps_its_transition_time_until_its_status_changes() {
    let mut scene = Scene::new();
    let before = scene.render(&ProxyPairStatus::default(), scene.now, None);
    let bad = Reading::Bad {
        cause: Cause::ProxyUnreachable,
        message: "refused".to_owned(),
        down_at: scene.now.monotonic,
    };
    scene.backup = scene.backup.clone().step(&bad, &TIMING, scene.now.monotonic);
    let after = scene.render(&before, scene.later(5_000), None);
    assert_eq!(truth(&after, CONDITION_BACKUP_HEALTHY), ("False", "ProxyUnreachable"));
    assert_eq!(truth(&after, CONDITION_PROTECTED), ("False", "OneSideOnly"));
    let time = |status: &ProxyPairStatus, type_: &str| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .unwrap()
            .last_transition_time
            .clone()
    };
    assert_eq!(time(&after, CONDITION_READY), time(&before, CONDITION_READY));
    assert_ne!(time(&after, CONDITION_PROTECTED), time(&before, CONDITION_PROTECTED));
}

#[test]
fn says_what_a_failback_waits_for_and_until_when() {
    let mut scene = Scene::new();
    scene.routing = Routing {
        serving: Side::Backup,
        target: Side::Backup,
        since: Some(scene.now.monotonic),
    };
    let due = scene.now.monotonic + Duration::from_secs(60);
    scene.decision = Decision::Stay {
        waiting: vec![Waiting::PrimaryStable],
        look_again: Some(due),
    };
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    let failback = status.failback.clone().unwrap();
    assert_eq!(failback.waiting_for, ["the primary side to stay up for 1m"]);
    assert!(failback.not_before.is_some());
    assert_eq!(failback.connections_remaining, 2);
    assert_eq!(scene.render(&status, scene.later(700), None), status);
}

#[test]
fn a_problem_takes_ready_away_and_says_what_it_is() {
    let scene = Scene::new();
    let problem = Problem {
        reason: Reason::NameTaken,
        message: "Service proxy-v exists".to_owned(),
    };
    let status = scene.render(&ProxyPairStatus::default(), scene.now, Some(&problem));
    assert_eq!(truth(&status, CONDITION_READY), ("False", "NameTaken"));
    let refused = refused(&problem, Some(4), &status, scene.now.wall);
    assert_eq!(refused.conditions.len(), status.conditions.len());
    assert_eq!(refused.observed_generation, Some(4));
}

/// A pair that waits for a new image lacks nothing.
#[test]
fn a_pair_that_waits_for_an_update_is_ready_as_long_as_it_serves() {
    let mut scene = Scene::new();
    let problem = Problem {
        reason: Reason::UpdateWaiting,
        message: "it waits".to_owned(),
    };
    let status = scene.render(&ProxyPairStatus::default(), scene.now, Some(&problem));
    assert_eq!(truth(&status, CONDITION_READY), ("True", "UpdateWaiting"));
    scene.primary = SideHealth::unknown(scene.now.monotonic);
    let status = scene.render(&ProxyPairStatus::default(), scene.now, Some(&problem));
    assert_eq!(truth(&status, CONDITION_READY), ("Unknown", "NotObserved"));
}

#[test]
fn a_pair_without_protection_says_what_that_means_for_a_drain() {
    let mut scene = Scene::new();
    let protected = |scene: &Scene| {
        let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
        let condition = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == CONDITION_PROTECTED);
        condition
            .map(|condition| (condition.status, condition.message))
            .unwrap()
    };
    assert_eq!(protected(&scene), ("True".to_owned(), String::new()));
    scene.backup = SideHealth::unknown(scene.now.monotonic);
    let (truth, message) = protected(&scene);
    assert!(
        truth == "False" && message.contains("lets a drain of the node wait"),
        "{message}"
    );
    scene.primary = SideHealth::unknown(scene.now.monotonic);
    assert_eq!(protected(&scene), ("False".to_owned(), "neither side is up".to_owned()));
}

#[test]
fn a_pair_that_nothing_watches_is_neither_protected_nor_healthy() {
    let scene = Scene::new();
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    let problem = Problem {
        reason: Reason::KeysFailed,
        message: "no keys".to_owned(),
    };
    let status = refused(&problem, Some(4), &status, scene.later(60_000).wall);
    for type_ in [CONDITION_PROTECTED, CONDITION_PRIMARY_HEALTHY, CONDITION_BACKUP_HEALTHY] {
        assert_eq!(truth(&status, type_), ("Unknown", "NotWatched"), "{type_}");
    }
    assert_eq!(truth(&status, CONDITION_PRIMARY_SERVING), ("True", "Primary"));
    for side in Side::BOTH {
        assert_eq!(status.side(side).unwrap().health, Health::Unknown, "{side:?}");
    }
    let again = refused(&problem, Some(4), &status, scene.later(120_000).wall);
    assert_eq!(again, status, "it is written once");
}

fn defect(reason: Reason, message: &str) -> Defect {
    Defect {
        side: None,
        reason,
        message: message.to_owned(),
    }
}

#[test]
fn a_defect_takes_ready_or_protected_away_although_both_sides_are_up() {
    let mut scene = Scene::new();
    scene.defects = Defects {
        ready: vec![
            defect(Reason::CommandRejected, "rejected"),
            defect(Reason::ProbesLeftBehind, "left"),
        ],
        protected: vec![defect(Reason::SameNode, "one node")],
        health: vec![],
    };
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    assert_eq!(truth(&status, CONDITION_READY), ("False", "CommandRejected"));
    assert_eq!(truth(&status, CONDITION_PROTECTED), ("False", "SameNode"));
    let ready = status.conditions.iter().find(|known| known.type_ == CONDITION_READY);
    assert_eq!(ready.unwrap().message, "rejected; left");
}

#[test]
fn the_first_and_the_last_session_on_the_idle_side_change_nothing_but_counts() {
    let scene = Scene::new();
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    let mut occupied = status.clone();
    occupied.failback = Some(FailbackStatus {
        connections_remaining: 1,
        ..FailbackStatus::default()
    });
    assert_eq!(status.failback, None);
    assert_eq!(without_counts(&occupied), without_counts(&status));
    occupied.failback = Some(FailbackStatus {
        waiting_for: vec!["the primary side to be up".to_owned()],
        ..FailbackStatus::default()
    });
    assert_ne!(without_counts(&occupied), without_counts(&status));
}

#[test]
fn history_keeps_the_newest_ten() {
    let scene = Scene::new();
    let mut status = ProxyPairStatus::default();
    for second in 0..12 {
        let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::from_second(second).unwrap());
        let finished = Switch {
            kind: crate::api::SwitchKind::Failover,
            to: Side::Backup,
            cause: None,
            started_at: at.clone(),
            finished_at: at,
            duration: crate::api::Duration::from_millis(1),
        };
        let known = Known {
            pair: &scene.pair,
            routing: scene.routing,
            switching: None,
            sides: Sides {
                primary: SideKnown {
                    health: &scene.primary,
                    sessions: 0,
                    gates: Vec::new(),
                    acting_primary: None,
                    expiry: Expiry::default(),
                    unasked: None,
                },
                backup: SideKnown {
                    health: &scene.backup,
                    sessions: 0,
                    gates: Vec::new(),
                    acting_primary: None,
                    expiry: Expiry::default(),
                    unasked: None,
                },
            },
            decision: &scene.decision,
            problem: None,
            defects: &scene.defects,
            lost_gates: Vec::new(),
            finished: Some(&finished),
        };
        status = render(&known, &status, scene.now);
    }
    let seconds: Vec<_> = status
        .history
        .iter()
        .map(|switch| switch.started_at.0.as_second())
        .collect();
    assert_eq!(seconds, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]);
}

#[test]
fn what_is_missing_until_the_objectservers_are_in_sync_is_told_by_their_names() {
    let mut scene = Scene::new();
    scene.routing.serving = Side::Backup;
    scene.routing.target = Side::Backup;
    for (missing, wanted) in [
        (
            Missing::Answer(Side::Primary),
            "an answer from AGG_P about its gateways",
        ),
        (
            Missing::Gateway(Side::Primary),
            "the gateway failover_gate to attach to AGG_P",
        ),
        (
            Missing::Description(Side::Backup, vec!["stock".to_owned()]),
            "the gateway failover_gate to attach to AGG_B; the descriptions of the attached gateways are: stock",
        ),
        (
            Missing::ActingPrimary,
            "the resync to finish: ActingPrimary is TRUE on AGG_B",
        ),
    ] {
        scene.decision = Decision::Stay {
            waiting: vec![Waiting::Resync(missing)],
            look_again: None,
        };
        let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
        assert_eq!(status.failback.unwrap().waiting_for, [wanted]);
    }
}

#[test]
fn an_answer_that_does_not_come_is_told_with_the_reason() {
    let mut scene = Scene::new();
    scene.routing.serving = Side::Backup;
    scene.routing.target = Side::Backup;
    scene.decision = Decision::Stay {
        waiting: vec![Waiting::Resync(Missing::Answer(Side::Primary))],
        look_again: None,
    };
    scene.unasked = Some("the resolver has not answered yet what the address of aggp is");
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    assert_eq!(
        status.failback.unwrap().waiting_for,
        ["an answer from AGG_P about its gateways (the resolver has not answered yet what the address of aggp is)"]
    );
}

#[test]
fn a_side_that_the_operator_cannot_look_at_is_unknown_with_the_reason() {
    let mut scene = Scene::new();
    let reading = Reading::Unseen {
        message: "too many open files".to_owned(),
    };
    scene.primary = SideHealth::unknown(scene.now.monotonic).step(&reading, &TIMING, scene.now.monotonic);
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    for type_ in [CONDITION_READY, CONDITION_PRIMARY_HEALTHY] {
        assert_eq!(truth(&status, type_), ("Unknown", "NotObserved"));
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
        assert_eq!(condition.unwrap().message, "too many open files");
    }
    assert_eq!(status.primary.unwrap().message.as_deref(), Some("too many open files"));
}

#[test]
fn whatever_is_said_the_status_stays_small() {
    let mut scene = Scene::new();
    let said = "x\u{1b}".repeat(1 << 20);
    let bad = Reading::Bad {
        cause: Cause::WrongObjectServer,
        message: said.clone(),
        down_at: scene.now.monotonic,
    };
    scene.primary = SideHealth::unknown(scene.now.monotonic).step(&bad, &TIMING, scene.now.monotonic);
    scene.routing.serving = Side::Backup;
    scene.routing.target = Side::Backup;
    scene.decision = Decision::Stay {
        waiting: vec![
            Waiting::Resync(Missing::Sight(Side::Primary, said.clone())),
            Waiting::Resync(Missing::Description(Side::Backup, vec![said.clone(); 10])),
        ],
        look_again: None,
    };
    let problem = Problem {
        reason: Reason::Rejected,
        message: said,
    };
    let status = scene.render(&ProxyPairStatus::default(), scene.now, Some(&problem));
    let text = serde_json::to_string(&status).unwrap();
    assert!(text.len() < 16 * STATUS_MESSAGE_MAX, "{} bytes", text.len());
    assert!(!text.contains("\\u001b"), "{text}");
    let conditions = status.conditions.iter().map(|condition| &condition.message);
    let messages = [status.primary.unwrap().message.unwrap()];
    let waiting = status.failback.unwrap().waiting_for;
    for message in conditions.chain(&messages).chain(&waiting) {
        assert!(message.chars().count() <= STATUS_MESSAGE_MAX, "{message}");
    }
}

#[test]
fn the_schema_allows_what_is_written() {
    use kube::CustomResourceExt;
    let schema = serde_json::to_value(ProxyPair::crd()).unwrap();
    let status = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"];
    for message in [
        &status["primary"]["properties"]["message"],
        &status["failback"]["properties"]["waitingFor"]["items"],
    ] {
        assert_eq!(message["maxLength"], STATUS_MESSAGE_MAX, "{message}");
    }
}

#[test]
fn a_login_without_tls_is_said_with_the_names_of_the_servers() {
    let login = |tls: bool, allow: bool| {
        let mut scene = Scene::new();
        let login = json!({"secretName": "check", "allowPlaintextLogin": allow});
        let mut spec = scene.pair.spec.clone();
        spec.health_check.login = serde_json::from_value(login).unwrap();
        let bundle = json!({"caBundle": {"configMapName": "ca"}});
        spec.primary.object_server.tls = serde_json::from_value(bundle.clone()).unwrap();
        if tls {
            spec.backup.object_server.tls = serde_json::from_value(bundle).unwrap();
        }
        scene.pair = Pair { spec, ..scene.pair };
        let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
        let condition = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == CONDITION_LOGIN_PROTECTED);
        condition.map(|condition| format!("{} {}: {}", condition.status, condition.reason, condition.message))
    };
    assert_eq!(login(true, false).unwrap(), "True LoginOverTls: ");
    let said = login(false, false).unwrap();
    let words =
        "False LoginUnprotected: the password of healthCheck.login goes to AGG_B without TLS, encrypted with a key";
    assert!(said.starts_with(words), "{said}");
    let said = login(false, true).unwrap();
    assert!(said.contains("AGG_B without TLS, in the clear"), "{said}");
    let scene = Scene::new();
    let status = scene.render(&ProxyPairStatus::default(), scene.now, None);
    assert!(
        !status
            .conditions
            .iter()
            .any(|condition| condition.type_ == CONDITION_LOGIN_PROTECTED)
    );
}

#[test]
fn a_side_that_serves_has_done_so_only_since_its_own_switch_however_soon_that_came() {
    let mut scene = Scene::new();
    let before = scene.render(&ProxyPairStatus::default(), scene.now, None);
    let soon = scene.later(1000);
    scene.routing = Routing {
        serving: Side::Backup,
        target: Side::Backup,
        since: Some(soon.monotonic),
    };
    let after = scene.render(&before, soon, None);
    assert_eq!(after.since, Some(Time(soon.wall)));
    // It stays as it is while that side serves.
    scene.routing.since = Some(soon.monotonic + Duration::from_millis(900));
    let later = scene.later(3000);
    assert_eq!(scene.render(&after, later, None).since, after.since);
}
