//! What follows when the task of a worker ends.

use tokio::task::JoinHandle;

use super::*;
use crate::{metrics::PairLabels, worker::supervisor::supervise};

impl Stage {
    /// The metric `proxypair_pair_watched`.
    fn watched(&self) -> Option<i64> {
        let labels = PairLabels {
            namespace: NAMESPACE.to_owned(),
            pair: NAME.to_owned(),
        };
        self.cluster.metrics.watched.get(&labels).map(|gauge| gauge.get())
    }

    /// Supervises `worker` in place of the stage's own.
    async fn supervise(&self, worker: JoinHandle<()>) {
        self.worker.abort();
        supervise(worker, Arc::clone(&self.cluster), Arc::clone(&self.pair)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_said_and_counted_and_another_one_asked_for() {
    let mut stage = Stage::settled().await;
    while stage.requeued.try_recv().is_ok() {}
    let worker = tokio::spawn(async { panic!("the side of the pair is missing") });
    stage.supervise(worker).await;
    let status = stage.status();
    let ready = status.conditions.iter().find(|known| known.type_ == "Ready").unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "WorkerFailed")
    );
    assert!(
        ready.message.contains("the side of the pair is missing"),
        "{}",
        ready.message
    );
    let protected = status
        .conditions
        .iter()
        .find(|known| known.type_ == "Protected")
        .unwrap();
    assert_eq!(
        (protected.status.as_str(), protected.reason.as_str()),
        ("Unknown", "NotWatched")
    );
    assert!(
        stage
            .server
            .events()
            .iter()
            .any(|event| event["reason"] == "WorkerFailed")
    );
    assert_eq!(
        (stage.watched(), stage.cluster.metrics.worker_failures.get()),
        (Some(0), 1)
    );
    let requeued = stage.requeued.try_recv().unwrap();
    assert_eq!(
        (requeued.name.as_str(), requeued.namespace.as_deref()),
        (NAME, Some(NAMESPACE))
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_is_followed_by_another_one() {
    let mut stage = Stage::settled().await;
    while stage.requeued.try_recv().is_ok() {}
    stage.supervise(tokio::spawn(async {})).await;
    assert_eq!(
        (stage.watched(), stage.cluster.metrics.worker_failures.get()),
        (Some(0), 0)
    );
    assert!(stage.requeued.try_recv().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_handle_was_dropped_is_not_missed() {
    let mut stage = Stage::settled().await;
    while stage.requeued.try_recv().is_ok() {}
    let worker = tokio::spawn(std::future::pending());
    worker.abort();
    stage.supervise(worker).await;
    assert!(stage.requeued.try_recv().is_err());
}
