//! The ProxyPair is deleted.

use std::sync::Arc;

use anyhow::{Result, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Secret, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ListParams},
};
use proxypair::api::{LABEL_PAIR, Side};
use serde::de::DeserializeOwned;
use testkit::{
    pair::{self, Pair},
    stage::{SOON, Scene},
    wait::eventually,
};

/// Everything that was made for it goes, though it has no finalizer; the operator forgets it, and makes all anew for one of the same name.
pub async fn everything_goes(scene: Arc<Scene>) -> Result<()> {
    let stage = scene.set().await?;
    let (agg_p, agg_b, pair) = (stage.agg_p.clone(), stage.agg_b.clone(), stage.pair.clone());
    let object = pair.api().get(&pair.name).await?;
    ensure!(
        object.finalizers().is_empty(),
        "it has finalizers: {:?}",
        object.finalizers()
    );
    stage.finish().await?;
    // Deleted with the traffic on the backup, so that a pair of the same name shows whether anything of the old one is remembered.
    agg_p.kill().await?;
    pair.until_serving(Side::Backup, SOON).await?;
    agg_p.restart().await?;

    pair.api().delete(&pair.name, &DeleteParams::default()).await?;
    is_gone::<Deployment>(&scene).await?;
    is_gone::<Service>(&scene).await?;
    is_gone::<EndpointSlice>(&scene).await?;
    is_gone::<Secret>(&scene).await?;
    is_gone::<ServiceAccount>(&scene).await?;
    is_gone::<PodDisruptionBudget>(&scene).await?;
    is_gone::<Pod>(&scene).await?;

    let again = Pair::apply(&scene.namespace, pair::manifest("proxy-v", &agg_p, &agg_b)).await?;
    let status = again.until_protected(SOON).await?;
    ensure!(
        status.history.is_empty(),
        "the new one remembers the old one's switches: {:?}",
        status.history
    );
    Ok(())
}

async fn is_gone<K>(scene: &Scene) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api = scene.namespace.api::<K>();
    let kind = K::kind(&());
    eventually(SOON, format!("every {kind} of the pair is gone"), async || {
        let left = api.list(&ListParams::default().labels(LABEL_PAIR)).await?;
        let left: Vec<_> = left.iter().map(ResourceExt::name_any).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
