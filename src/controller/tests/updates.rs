//! An operator with a new image, and more than one pair.

use super::*;

const OTHER: &str = "other-v";

async fn two_pairs() -> ApiServer {
    let stage = Stage::new(json!({})).await;
    let mut other = manifest(json!({}));
    other.metadata.name = Some(OTHER.to_owned());
    other.metadata.uid = Some("2".to_owned());
    stage.server.put(&other);
    stage.settle().await;
    stage
        .reconcile_pair(stage.server.get(NAMESPACE, OTHER).unwrap())
        .await
        .unwrap();
    stage.server.clone()
}

/// The images of the Deployments of a pair that are new.
fn updated(server: &ApiServer, pair: &str) -> Vec<String> {
    let is_new =
        |deployment: &Deployment| crate::domain::children::gate_image(deployment).as_deref() == Some("proxypair:2");
    let of_pair = server
        .list::<Deployment>()
        .into_iter()
        .filter(|found| found.name_any().starts_with(pair));
    of_pair.filter(is_new).map(|found| found.name_any()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_pair_at_a_time_gets_it_and_the_others_wait_while_it_does_not_work() {
    let server = two_pairs().await;
    let stage = Stage::lead(server.clone(), "proxypair:2").await;
    let other = || server.get::<ProxyPair>(NAMESPACE, OTHER).unwrap();
    // Nothing begins before both were looked at.
    stage.reconcile().await.unwrap();
    assert_eq!(updated(&server, NAME), [""; 0]);
    stage.reconcile_pair(other()).await.unwrap();
    assert_eq!(updated(&server, OTHER), ["other-v-backup"]);
    // Its gate never answers: the other pair keeps both its pods, however often it is looked at.
    for _ in 0..5 {
        stage.reconcile().await.unwrap();
        stage.reconcile_pair(other()).await.unwrap();
    }
    assert_eq!(updated(&server, NAME), [""; 0]);
    assert_eq!(updated(&server, OTHER), ["other-v-backup"]);
    let metrics = &stage.registry.context.cluster.metrics;
    assert_eq!((metrics.updates_running.get(), metrics.updates_waiting.get()), (1, 1));

    // The next leader does not begin another one either.
    let next = Stage::lead(server.clone(), "proxypair:2").await;
    for _ in 0..3 {
        next.reconcile().await.unwrap();
        next.reconcile_pair(other()).await.unwrap();
    }
    assert_eq!(updated(&server, NAME), [""; 0]);

    // When the pair is gone, the other one goes on.
    server.delete::<ProxyPair>(NAMESPACE, OTHER);
    next.caches_follow().await;
    next.registry.forget(&ObjectRef::new(OTHER).within(NAMESPACE));
    next.reconcile().await.unwrap();
    assert_eq!(updated(&server, NAME), ["proxy-v-backup"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_spec_needs_no_place() {
    let server = two_pairs().await;
    let stage = Stage::lead(server.clone(), "proxypair:1").await;
    stage.edit(json!({"proxy": {"podLabels": {"team": "noc"}}}));
    stage.reconcile().await.unwrap();
    let backup = server.get::<Deployment>(NAMESPACE, "proxy-v-backup").unwrap();
    let labels = backup.spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels["team"], "noc");
}
