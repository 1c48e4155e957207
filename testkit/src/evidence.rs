//! What is kept of a test that failed (of all with `E2E_EVIDENCE=always`): logs, objects and events, under `target/e2e/<test>/`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{Event, Pod, Service},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
};
use proxypair::api::ProxyPair;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{directory::repository, namespace::Namespace};

/// How long collecting may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Writes everything there is to know about a namespace; what cannot be had is said in its place. Returns where it is.
pub async fn collect(
    namespace: &Namespace,
    test: &str,
    failure: Option<&str>,
    timeline: Option<&str>,
) -> Result<PathBuf> {
    let directory = repository().join("target/e2e").join(test);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    if let Some(failure) = failure {
        fs::write(directory.join("failure.txt"), failure)?;
    }
    if let Some(timeline) = timeline {
        fs::write(directory.join("timeline.txt"), timeline)?;
    }
    let everything = async {
        objects::<Pod>(namespace, &directory).await?;
        objects::<Service>(namespace, &directory).await?;
        objects::<EndpointSlice>(namespace, &directory).await?;
        objects::<Deployment>(namespace, &directory).await?;
        objects::<ReplicaSet>(namespace, &directory).await?;
        objects::<PodDisruptionBudget>(namespace, &directory).await?;
        objects::<Lease>(namespace, &directory).await?;
        objects::<Event>(namespace, &directory).await?;
        pairs(namespace, &directory).await?;
        logs(namespace, &directory).await
    };
    if timeout(DEADLINE, everything).await.is_err() {
        fs::write(
            directory.join("INCOMPLETE.txt"),
            format!("collecting took more than {DEADLINE:?}\n"),
        )?;
    }
    Ok(directory)
}

async fn objects<K>(namespace: &Namespace, directory: &Path) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    write(
        directory,
        &K::plural(&()),
        namespace.api::<K>().list(&ListParams::default()).await,
    )
}

async fn pairs(namespace: &Namespace, directory: &Path) -> Result<()> {
    let kind = ApiResource::erase::<ProxyPair>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(namespace.cluster.client.clone(), &namespace.name, &kind);
    write(directory, "proxypairs", api.list(&ListParams::default()).await)
}

fn write<K: Clone + Serialize>(
    directory: &Path,
    kind: &str,
    list: kube::Result<kube::api::ObjectList<K>>,
) -> Result<()> {
    let text = match list {
        Ok(list) => serde_saphyr::to_string(&list.items)?,
        Err(error) => error.to_string(),
    };
    Ok(fs::write(directory.join(format!("{kind}.yaml")), text)?)
}

async fn logs(namespace: &Namespace, directory: &Path) -> Result<()> {
    let api = namespace.api::<Pod>();
    let Ok(pods) = api.list(&ListParams::default()).await else {
        return Ok(());
    };
    for pod in pods {
        let name = pod.name_any();
        for previous in [false, true] {
            let parameters = LogParams {
                previous,
                timestamps: false,
                ..LogParams::default()
            };
            match timeout(Duration::from_secs(5), api.logs(&name, &parameters)).await {
                Ok(Ok(text)) => fs::write(
                    directory.join(format!("{name}{}.log", if previous { ".previous" } else { "" })),
                    text,
                )?,
                Ok(Err(error)) if !previous => fs::write(directory.join(format!("{name}.log")), error.to_string())?,
                Err(_) if !previous => fs::write(directory.join(format!("{name}.log")), "the logs did not come")?,
                _ => {}
            }
        }
    }
    Ok(())
}
