//! Holds an operator at one of its writes, from outside: a ValidatingAdmissionPolicy refuses it, to that operator
//! and in its namespace alone.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Service,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use proxypair::api::{LABEL_SIDE, ProxyPair, Side};
use serde_json::{Value, json};

use crate::{
    namespace::{Namespace, TESTER},
    operator::Operator,
    pair::Pair,
    wait::eventually,
};

/// Label that names the namespace whose test made a policy.
const TEST: &str = "proxypair.dev/e2e-of";

/// A write of the operator: those of the switch from primary to backup, and one of a child that no switch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `status.target` cannot be written.
    Intent,
    /// The virtual Service cannot be patched.
    Patch,
    /// `status.serving` cannot be written.
    Fact,
    /// The PodDisruptionBudget cannot be written.
    Budget,
}

/// An operator that cannot do a write.
pub struct Hold {
    namespace: Namespace,
    name: String,
    refused_before: f64,
}

impl Hold {
    /// Refuses the write from now on; returns when that is in force.
    pub async fn place(namespace: &Namespace, operator: &Operator, pair: &Pair, write: Write) -> Result<Self> {
        let (group, resource, allowed) = match write {
            Write::Intent => (
                "proxypair.dev",
                "proxypairs/status",
                changes_nothing_in("status", "target"),
            ),
            Write::Patch => ("", "services", changes_nothing_in("spec", "selector")),
            Write::Fact => (
                "proxypair.dev",
                "proxypairs/status",
                changes_nothing_in("status", "serving"),
            ),
            Write::Budget => ("policy", "poddisruptionbudgets", "false".to_owned()),
        };
        let spec = json!({
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "operations": ["UPDATE"],
            }]},
            "matchConditions": [
                {"name": "operator", "expression": format!("request.userInfo.username == '{}'", operator.user())},
                {"name": "pair", "expression": format!("request.name == '{}'", pair.name)},
            ],
            "validations": [{"expression": allowed, "message": format!("held at {write:?}")}],
        });
        forbid(namespace, &spec).await?;
        let mut hold = Self {
            namespace: namespace.clone(),
            name: namespace.name.clone(),
            refused_before: 0.0,
        };
        let as_operator = namespace.cluster.client_as(&operator.user())?;
        eventually(
            Duration::from_secs(20),
            format!("the API server refuses the write {write:?}"),
            async || hold.try_write(as_operator.clone(), pair, write).await,
        )
        .await?;
        hold.refused_before = hold.refusals().await?;
        Ok(hold)
    }

    /// Waits until the operator has tried the write and was refused.
    pub async fn until_felt(&self, deadline: Duration) -> Result<()> {
        eventually(deadline, "the operator is refused", async || {
            let refused = self.refusals().await?;
            ensure!(refused > self.refused_before, "{refused} refusals");
            Ok(())
        })
        .await
    }

    /// Lets the write pass again.
    pub async fn lift(self) -> Result<()> {
        Self::lift_all(&self.namespace).await
    }

    /// Removes every hold of this namespace's test.
    pub async fn lift_all(namespace: &Namespace) -> Result<()> {
        let client = &namespace.cluster.client;
        let ours = ListParams::default().labels(&format!("{TEST}={}", namespace.name));
        let now = DeleteParams::default();
        Api::<ValidatingAdmissionPolicyBinding>::all(client.clone())
            .delete_collection(&now, &ours)
            .await?;
        Api::<ValidatingAdmissionPolicy>::all(client.clone())
            .delete_collection(&now, &ours)
            .await?;
        Ok(())
    }

    /// Tries the write in the operator's name without effect. An error while it is allowed.
    async fn try_write(&self, client: Client, pair: &Pair, write: Write) -> Result<()> {
        // With the same calls as the operator's, which has no rights to others.
        let (name, namespace) = (&pair.name, &self.namespace.name);
        let outcome = match write {
            Write::Patch => {
                let dry = PatchParams {
                    dry_run: true,
                    ..PatchParams::default()
                };
                let patch = Patch::Merge(json!({"spec": {"selector": {LABEL_SIDE: "backup"}}}));
                Api::<Service>::namespaced(client, namespace)
                    .patch(name, &dry, &patch)
                    .await
                    .map(drop)
            }
            Write::Budget => {
                let dry = PatchParams {
                    dry_run: true,
                    ..PatchParams::apply(TESTER).force()
                };
                let budget =
                    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}});
                Api::<PodDisruptionBudget>::namespaced(client, namespace)
                    .patch(name, &dry, &Patch::Apply(budget))
                    .await
                    .map(drop)
            }
            Write::Intent | Write::Fact => {
                let mut object = pair.api().get(name).await?;
                if let Some(status) = &mut object.status {
                    let field = if write == Write::Intent {
                        &mut status.target
                    } else {
                        &mut status.serving
                    };
                    *field = Some(Side::Backup);
                }
                let dry = PostParams {
                    dry_run: true,
                    ..PostParams::default()
                };
                Api::<ProxyPair>::namespaced(client, namespace)
                    .replace_status(name, &dry, &object)
                    .await
                    .map(drop)
            }
        };
        match outcome {
            Err(kube::Error::Api(status)) if status.message.contains("held at") => Ok(()),
            other => bail!("{other:?}"),
        }
    }

    /// How often the policy has refused, as the API server counts it.
    async fn refusals(&self) -> Result<f64> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = self.namespace.cluster.client.request_text(request).await?;
        let policy = format!("policy=\"{}\"", self.name);
        let counts = text.lines().filter(|line| {
            line.starts_with("apiserver_validating_admission_policy_check_total{")
                && line.contains(&policy)
                && line.contains("enforcement_action=\"deny\"")
        });
        Ok(counts
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }
}

/// Puts a ValidatingAdmissionPolicy in force in the namespace of a test. [`Hold::lift_all`] removes it.
pub async fn forbid(namespace: &Namespace, spec: &Value) -> Result<()> {
    let client = &namespace.cluster.client;
    let metadata = json!({"name": namespace.name, "labels": {TEST: namespace.name}});
    let policy = json!({"metadata": metadata, "spec": spec});
    let binding = json!({
        "metadata": metadata,
        "spec": {
            "policyName": namespace.name,
            "validationActions": ["Deny"],
            "matchResources": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
            },
        },
    });
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    policies
        .create(&PostParams::default(), &serde_json::from_value(policy)?)
        .await?;
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    bindings
        .create(&PostParams::default(), &serde_json::from_value(binding)?)
        .await?;
    Ok(())
}

/// CEL: the field is as it was.
fn changes_nothing_in(part: &str, field: &str) -> String {
    let path = |object: &str| format!("{object}.{part}.{field}");
    let has = format!(
        "has(object.{part}) && has(oldObject.{part}) && has({}) && has({})",
        path("object"),
        path("oldObject")
    );
    format!("!({has}) || {} == {}", path("object"), path("oldObject"))
}
