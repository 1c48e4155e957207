//! A platform that assigns users, as OpenShift's restricted-v2 does: pods may name no user or group but those of a range, and run as such a user in
//! group 0.

use std::sync::Arc;

use anyhow::{Result, ensure};
use proxypair::api::Side;
use serde_json::json;
use testkit::{
    hold::forbid,
    namespace::Namespace,
    site::{Site, WhenGone},
    stage::{SOON, Scene, Setting},
};

/// The first user of the range.
const USER: i64 = 1_000_650_000;

/// The gate alone, and the operator.
pub async fn by_a_relay(scene: Arc<Scene>) -> Result<()> {
    runs_as_assigned(&scene, None).await
}

/// nco_proxyserv, and the containers that prepare its files.
pub async fn by_proxyserv(scene: Arc<Scene>) -> Result<()> {
    runs_as_assigned(&scene, Some(Site::with_proxyserv(WhenGone::Stays))).await
}

async fn runs_as_assigned(scene: &Scene, site: Option<Site>) -> Result<()> {
    demand_the_range(&scene.namespace).await?;
    let assigned = json!({"runAsUser": USER, "runAsGroup": 0});
    let setting = Setting {
        site,
        spec: json!({"proxy": {"podSecurityContext": assigned}}),
        operator: json!({"podSecurityContext": {"runAsUser": USER, "runAsGroup": 0, "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"}}}),
        ..Setting::default()
    };
    let stage = scene.set_with(&setting).await?;
    for side in Side::BOTH {
        let pod = stage.pair.pod(side).await?;
        let user = pod.spec.and_then(|spec| spec.security_context?.run_as_user);
        ensure!(user == Some(USER), "the pod of {} runs as {user:?}", side.label());
    }
    stage.fleet.mark("failover").await?;
    stage.agg_p.kill().await?;
    stage.until_moved(Side::Backup, "failover").await?;
    stage
        .fleet
        .until_all_on(stage.met_by_probes(Side::Backup), SOON)
        .await?;
    stage.finish().await.map(drop)
}

/// Refuses pods of operator and proxies that name a user or group outside of the range. The stand-ins are not meant.
async fn demand_the_range(namespace: &Namespace) -> Result<()> {
    let allowed = |context: &str| {
        let user = format!("(!has({context}.runAsUser) || {context}.runAsUser >= {USER})");
        let group = format!("(!has({context}.runAsGroup) || {context}.runAsGroup in [0, {USER}])");
        format!("{user} && {group}")
    };
    let of_containers = |list: &str| {
        let allowed = allowed("c.securityContext");
        format!("!has(object.spec.{list}) || object.spec.{list}.all(c, !has(c.securityContext) || ({allowed}))")
    };
    let of_pod = allowed("object.spec.securityContext");
    let fs_group =
        format!("!has(object.spec.securityContext.fsGroup) || object.spec.securityContext.fsGroup >= {USER}");
    let expressions = [
        of_pod,
        fs_group,
        of_containers("containers"),
        of_containers("initContainers"),
    ];
    let validations =
        expressions.map(|expression| json!({"expression": expression, "message": "outside of the range"}));
    let spec = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"], "operations": ["CREATE"],
        }]},
        "matchConditions": [{"name": "ours", "expression":
            "has(object.metadata.labels) && ('proxypair.dev/pair' in object.metadata.labels || \
             'app.kubernetes.io/component' in object.metadata.labels && object.metadata.labels['app.kubernetes.io/component'] == 'operator')"
        }],
        "validations": validations,
    });
    forbid(namespace, &spec).await
}
