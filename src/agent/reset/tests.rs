use std::collections::BTreeSet;

use super::*;
use crate::agent::{matching::Frontend, watch::Blind};

fn target() -> Target {
    Target {
        pair: PairKey {
            namespace: "netcool".to_owned(),
            name: "proxy-v".to_owned(),
        },
        gates: BTreeSet::from(["10.244.1.5:4400".parse().unwrap()]),
        frontends: [Frontend::Address("10.96.0.10:4100".parse().unwrap())].into(),
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_dumped_while_no_gate_is_lost_or_what_is_known_is_too_old() {
    let (known_in, known) = watch::channel(Known::nothing(Instant::now()));
    let metrics = AgentMetrics::default();
    let task = tokio::spawn(run(known, metrics.clone(), watch::Sender::new(None)));
    sleep(Duration::from_secs(60)).await;
    known_in.send_modify(|known| {
        known.targets = [target()].into();
        known.blind = Some(Blind {
            since: Instant::now() - Duration::from_secs(60),
            reason: String::new(),
        });
    });
    sleep(Duration::from_secs(60)).await;
    assert_eq!((metrics.dumps.get(), metrics.lost_gates.get()), (0, 0));
    assert_eq!(
        metrics
            .failures
            .get_or_create(&crate::agent::metrics::FailureLabels { what: "dump" })
            .get(),
        0
    );
    drop(known_in);
    task.await.unwrap();
}

#[test]
fn a_large_table_costs_half_of_a_cpu_at_first_and_a_tenth_later() {
    let took = Duration::from_millis(400);
    assert_eq!(pause(took, Duration::ZERO), took);
    assert_eq!(pause(took, EAGER_FOR), took * 9);
    assert_eq!(pause(Duration::from_millis(1), EAGER_FOR), PAUSE);
}

#[test]
fn what_a_round_did_is_counted_by_pair_and_what_failed_is_said() {
    let metrics = AgentMetrics::default();
    let pair = target().pair;
    let gate = "10.244.1.5:4400".parse().unwrap();
    let round = Round {
        reset: [((pair.clone(), gate), 20)].into(),
        dumps: 1,
        ..Round::default()
    };
    assert_eq!(record(Ok(round), &metrics), None);
    metrics.count_reset(&pair, 1);
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register("reset", "", metrics.sessions_reset.clone());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains("reset_total{namespace=\"netcool\",pair=\"proxy-v\"} 21"),
        "{text}"
    );
    let busy = Round {
        refused: vec![ConntrackError::NotPermitted],
        ..Round::default()
    };
    assert!(record(Ok(busy), &metrics).is_some_and(|said| said.contains("NET_ADMIN")));
    assert!(record(Err(ConntrackError::NotPermitted), &metrics).is_some_and(|said| said.contains("NET_ADMIN")));
}
