//! The objects that the controllers look at. They are read again only when one of their kind has changed.

use std::collections::BTreeMap;

use fake_api_server::ApiServer;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret, Service},
};
use kube::ResourceExt;
use proxypair::api::ProxyPair;

#[derive(Default)]
pub struct Objects {
    pub pods: BTreeMap<String, Pod>,
    pub deployments: Vec<Deployment>,
    pub services: Vec<Service>,
    versions: [u64; 5],
}

impl Objects {
    /// Whether something has changed.
    pub fn refresh(&mut self, api: &ApiServer) -> bool {
        let versions = [
            api.version_of::<Pod>(),
            api.version_of::<Deployment>(),
            api.version_of::<Service>(),
            api.version_of::<Secret>(),
            api.version_of::<ProxyPair>(),
        ];
        let before = std::mem::replace(&mut self.versions, versions);
        if before[0] != versions[0] {
            let pods = api.list::<Pod>().into_iter();
            self.pods = pods.map(|pod| (pod.name_any(), pod)).collect();
        }
        if before[1] != versions[1] {
            self.deployments = api.list();
        }
        if before[2] != versions[2] {
            self.services = api.list();
        }
        before != versions
    }
}
