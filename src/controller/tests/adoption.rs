//! Children that lost their owner: after a deletion with `--cascade=orphan`, or a restore from a backup.

use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use super::*;
use crate::domain::children::Child;

/// Everything that a pair has, without owners, and the pair made again under another uid.
async fn orphaned(change: impl Fn(&mut kube::api::ObjectMeta)) -> Stage {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    let server = stage.server.clone();
    orphan::<Deployment>(&server, &change);
    orphan::<Service>(&server, &change);
    orphan::<ConfigMap>(&server, &change);
    orphan::<Secret>(&server, &change);
    orphan::<ServiceAccount>(&server, &change);
    server.delete::<ProxyPair>(NAMESPACE, NAME);
    drop(stage);
    let mut again = manifest(json!({}));
    again.metadata.uid = Some("another".to_owned());
    server.put(&again);
    Stage::lead(server, "proxypair:1").await
}

fn orphan<K: Child>(server: &ApiServer, change: &impl Fn(&mut kube::api::ObjectMeta)) {
    for mut object in server.list::<K>() {
        change(object.meta_mut());
        server.put(&object);
    }
}

fn owners<K: Child>(server: &ApiServer) -> Vec<Vec<String>> {
    let uids = |object: K| {
        object
            .meta()
            .owner_references
            .iter()
            .flatten()
            .map(|owner| owner.uid.clone())
            .collect()
    };
    server.list::<K>().into_iter().map(uids).collect()
}

#[tokio::test(start_paused = true)]
async fn own_orphans_are_adopted_and_an_event_says_so() {
    let without_owner = |metadata: &mut kube::api::ObjectMeta| metadata.owner_references = None;
    let of_the_deleted = |_: &mut kube::api::ObjectMeta| {};
    let cases: [&dyn Fn(&mut kube::api::ObjectMeta); 2] = [&without_owner, &of_the_deleted];
    for change in cases {
        let stage = orphaned(change).await;
        let keys = stage.server.get::<Secret>(NAMESPACE, "proxy-v-gate-tls").unwrap().data;
        stage.reconcile().await.unwrap();
        let server = &stage.server;
        for owners in [
            owners::<Deployment>(server),
            owners::<Service>(server),
            owners::<ConfigMap>(server),
            owners::<Secret>(server),
            owners::<ServiceAccount>(server),
        ] {
            assert!(
                !owners.is_empty() && owners.iter().all(|owners| owners == &["another"]),
                "{owners:?}"
            );
        }
        assert_eq!(server.get::<Secret>(NAMESPACE, "proxy-v-gate-tls").unwrap().data, keys);
        let is_adoption = |event: &Value| event["reason"] == "Adopted";
        server.until(|server| server.events().iter().any(is_adoption)).await;
        let event = server.events().into_iter().find(is_adoption).unwrap();
        let note = event["note"].as_str().unwrap();
        assert!(
            note.contains("Deployment proxy-v-primary") && note.contains("Secret proxy-v-gate-tls"),
            "{note}"
        );
        // Once.
        stage.settle().await;
        assert_eq!(server.events().iter().filter(|event| is_adoption(event)).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_a_stranger_is_never_touched() {
    let stranger = |metadata: &mut kube::api::ObjectMeta| {
        metadata.owner_references = None;
        metadata.labels = None;
    };
    let stage = orphaned(stranger).await;
    let before = stage.server.json::<Secret>(NAMESPACE, "proxy-v-gate-tls");
    assert!(stage.reconcile().await.is_err());
    assert_eq!(stage.server.json::<Secret>(NAMESPACE, "proxy-v-gate-tls"), before);
    stage.until_ready_is("NameTaken").await;
    assert!(owners::<Deployment>(&stage.server).iter().all(Vec::is_empty));
}

#[tokio::test(start_paused = true)]
async fn an_orphan_that_is_being_deleted_is_made_again_when_it_is_gone() {
    let stage = orphaned(|metadata| {
        metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::now(),
        ));
    })
    .await;
    let error = stage.reconcile().await.unwrap_err();
    assert!(error.to_string().contains("still being deleted"), "{error}");
    for name in ["proxy-v-gate-tls", "proxy-v-operator-tls"] {
        stage.server.delete::<Secret>(NAMESPACE, name);
    }
    for name in ["proxy-v", "proxy-v-primary", "proxy-v-backup"] {
        stage.server.delete::<Service>(NAMESPACE, name);
        stage.server.delete::<Deployment>(NAMESPACE, name);
    }
    stage.server.delete::<ConfigMap>(NAMESPACE, "proxy-v-probes");
    stage.server.delete::<ServiceAccount>(NAMESPACE, "proxy-v-proxy");
    stage.reconcile().await.unwrap();
    assert_eq!(owners::<Deployment>(&stage.server), [["another"], ["another"]]);
}

/// The cache can still have the deleted pair while its successor already has the children.
#[tokio::test(start_paused = true)]
async fn a_pair_that_was_deleted_adopts_nothing() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    let deleted = stage.pair();
    let stage = orphaned(|_| {}).await;
    stage.settle().await;
    let mut stale = deleted;
    stale.metadata.uid = Some("deleted".to_owned());
    assert!(stage.reconcile_pair(stale).await.is_err());
    assert_eq!(owners::<Deployment>(&stage.server), [["another"], ["another"]]);
}

/// With `--cascade=orphan` the garbage collector takes the owners away while the pair is being deleted.
#[tokio::test(start_paused = true)]
async fn a_pair_that_is_being_deleted_keeps_nothing() {
    let stage = Stage::new(json!({})).await;
    stage.settle().await;
    let mut pair = stage.pair();
    pair.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
        jiff::Timestamp::now(),
    ));
    pair.metadata.finalizers = Some(vec!["orphan".to_owned()]);
    stage.server.put(&pair);
    orphan::<Deployment>(&stage.server, &|metadata| metadata.owner_references = None);
    stage.server.take_requests();
    stage.reconcile().await.unwrap();
    assert_eq!(stage.reconciling_requests(), 0, "{:#?}", stage.server.requests());
    assert!(owners::<Deployment>(&stage.server).iter().all(Vec::is_empty));
}
