//! Looks after the task of a worker: a pair that nothing watches is in status, in an Event and in the metrics, and is watched again soon.

use std::{sync::Arc, time::Duration};

use kube::{Api, runtime::reflector::ObjectRef};
use tokio::{task::JoinHandle, time::sleep};

use super::writer::refuse;
use crate::{
    api::{ProxyPair, Reason},
    clock::wall,
    cluster::{ApplyError, Cluster, within_deadline},
    domain::{pair::Pair, status::Problem},
    foreign::panic_words,
    metrics::PairLabels,
};

/// Time from the end of a worker to the reconciliation that starts the next.
const START_AGAIN: Duration = Duration::from_secs(2);

/// Waits until `worker` ends, and has the pair watched again unless its handle was dropped.
pub async fn supervise(worker: JoinHandle<()>, cluster: Arc<Cluster>, pair: Arc<Pair>) {
    set_watched(&cluster, &pair.namespace, &pair.name, true);
    let panic = match worker.await {
        Ok(()) => None,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Some(panic_words(&*panic)),
            // Its handle was dropped: the pair is gone, or another worker took over.
            Err(_) => return,
        },
    };
    set_watched(&cluster, &pair.namespace, &pair.name, false);
    if let Some(panic) = panic {
        failed(&cluster, &pair, &panic).await;
    }
    sleep(START_AGAIN).await;
    let known = ObjectRef::new(&pair.name).within(&pair.namespace);
    // The controller is gone when the process ends.
    let _ = cluster.requeue.send(known);
}

/// Sets the metric that tells pairs that nothing watches.
pub fn set_watched(cluster: &Cluster, namespace: &str, name: &str, watched: bool) {
    let labels = PairLabels {
        namespace: namespace.to_owned(),
        pair: name.to_owned(),
    };
    cluster.metrics.watched.get_or_create(&labels).set(i64::from(watched));
}

async fn failed(cluster: &Cluster, pair: &Pair, panic: &str) {
    cluster.metrics.worker_failures.inc();
    tracing::error!(panic, "the task that watches the pair failed");
    let problem = Problem {
        reason: Reason::WorkerFailed,
        message: format!("the task that watches the pair failed and is started again; report this defect: {panic}"),
    };
    if let Err(error) = say(cluster, pair, &problem).await {
        tracing::warn!(%error, "failed to write into status that nothing watches the pair");
    }
}

async fn say(cluster: &Cluster, pair: &Pair, problem: &Problem) -> Result<(), ApplyError> {
    let objects: Api<ProxyPair> = Api::namespaced(cluster.client.clone(), &pair.namespace);
    let object = within_deadline(objects.get_opt(&pair.name)).await?;
    match object.filter(|object| object.metadata.uid.as_ref() == Some(&pair.uid)) {
        Some(object) => refuse(cluster, &object, problem, wall()).await,
        None => Ok(()),
    }
}
