//! Reconciles ProxyPairs: applies their children and hands over to the worker of each pair.
//!
//! Two flows, one direction each: *watch → [`reconcile`]* is slow, level-triggered, and repairs everything; *observation →
//! [`worker`](crate::worker)* is fast, and patches one selector and the status.

mod apply;
mod backoff;
mod context;
mod dereference;
mod desired;
pub mod keys;
mod reconcile;
mod references;
mod registry;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use kube::{
    Client,
    runtime::{Controller, reflector::ObjectRef},
};
use tokio::sync::watch;

pub use context::{Context, Settings};

use self::registry::Registry;
use crate::{cluster, leader::Standing, metrics::Metrics};

/// Runs the controller until `stop` resolves. Needs leadership: every write checks the claim in `standing`.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    standing: watch::Receiver<Standing>,
    stop: impl Future<Output = ()>,
) {
    let (context, requeued, caches) = Context::new(client.clone(), settings, metrics, standing);
    let caches = tokio::spawn(caches);
    let (pairs, changed) = cluster::pairs(&client, context.settings.namespace.as_deref());
    let controller = Controller::for_stream(changed, pairs.clone());
    let registry = Arc::new(Registry::new(Arc::clone(&context), pairs));
    let running = async {
        context.caches_are_ready().await;
        let mut outcomes = Box::pin(
            controller
                .with_config(
                    kube::runtime::controller::Config::default()
                        .debounce(Duration::from_millis(20))
                        .concurrency(16),
                )
                .reconcile_on(requeued)
                .run(reconcile::reconcile, reconcile::on_error, Arc::clone(&registry)),
        );
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok((object, _)) => tracing::debug!(pair = %object, "reconciled"),
                Err(kube::runtime::controller::Error::ObjectNotFound(object)) => {
                    let namespace = object.namespace.unwrap_or_default();
                    registry.forget(&ObjectRef::new(&object.name).within(&namespace));
                }
                Err(error) => tracing::debug!(%error, "reconciliation failed"),
            }
        }
    };
    tokio::select! {
        () = running => {}
        () = stop => {}
    }
    caches.abort();
}

#[cfg(test)]
mod tests;
