//! Whether the cluster is quiet. kube-proxy delays a change that comes within a second of another, whosever it is, so a measurement begins
//! only when no Service and no EndpointSlice of the whole cluster has changed for a while.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use testkit::{
    cluster::Cluster,
    outage::{Micros, now},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// How long nothing must have changed.
const QUIET: Duration = Duration::from_millis(2_200);
/// How long to wait for that.
const PATIENCE: Duration = Duration::from_secs(30);
/// A change so long before another one may delay it.
pub const DISTURBS: Micros = 1_100_000;

type Changes = Arc<Mutex<Vec<(Micros, String)>>>;

/// Watches the whole cluster.
pub struct Quiet {
    changes: Changes,
    /// The namespace whose changes are the benchmark's own.
    own: String,
    _watches: JoinSet<()>,
}

impl Quiet {
    /// Begins to watch.
    pub fn watch(cluster: &Cluster, own: &str) -> Self {
        let changes = Changes::default();
        let mut watches = JoinSet::new();
        watches.spawn(follow::<Service>(
            Api::all(cluster.client.clone()),
            Arc::clone(&changes),
        ));
        watches.spawn(follow::<EndpointSlice>(
            Api::all(cluster.client.clone()),
            Arc::clone(&changes),
        ));
        Self {
            changes,
            own: own.to_owned(),
            _watches: watches,
        }
    }

    /// Waits until nothing has changed for a while. False if that does not come.
    pub async fn wait(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = self.changes().last().map_or(0, |(at, _)| *at);
            let calm = Duration::from_micros(now().saturating_sub(last));
            if calm >= QUIET {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            sleep(QUIET.saturating_sub(calm)).await;
        }
    }

    /// Changes of others' that may have delayed what happened from `begin` to `end`.
    pub fn disturbances(&self, begin: Micros, end: Micros) -> usize {
        let own = format!("{}/", self.own);
        let changes = self.changes();
        let within = changes
            .iter()
            .filter(|(at, name)| (begin.saturating_sub(DISTURBS)..=end).contains(at) && !name.starts_with(&own));
        within.count()
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, Vec<(Micros, String)>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn follow<K>(api: Api<K>, changes: Changes)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let mut stream = std::pin::pin!(stream);
    while let Some(object) = stream.next().await {
        if let Ok(object) = object {
            let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
            changes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((now(), name));
        }
    }
}
