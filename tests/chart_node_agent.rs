//! The node agent of the chart as Helm renders it, without a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use testkit::helm::{Objects, REPOSITORY, rendered};

const ON: &str = "nodeAgent.enabled=true";

fn pod(objects: &Objects) -> &Value {
    &objects.one("DaemonSet")["spec"]["template"]["spec"]
}

#[test]
fn is_off_unless_the_values_turn_it_on_and_the_operator_knows() {
    let operator = |values: &[&str]| {
        let objects = rendered(values);
        let args = &objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
        args.as_array().unwrap().contains(&json!("--node-agents"))
    };
    assert_eq!(rendered(&[REPOSITORY]).all("DaemonSet").count(), 0);
    assert!(!operator(&[REPOSITORY]));
    assert!(operator(&[REPOSITORY, ON]));
}

#[test]
fn runs_with_the_arguments_it_knows_on_the_loopback_address() {
    let objects = rendered(&[REPOSITORY, ON]);
    let container = &pod(&objects)["containers"][0];
    assert_eq!(
        container["args"],
        json!(["node-agent", "--admin-listen=127.0.0.1:4404", "--log=info"])
    );
    assert_eq!(container["image"], "registry.example.com/netcool/proxypair:0.1.0");
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["host"], "127.0.0.1");
    }
    assert_eq!(objects.all("Service").count(), 1, "that of the operator");
}

#[test]
fn its_metrics_are_exposed_on_demand_only() {
    let objects = rendered(&[
        REPOSITORY,
        ON,
        "nodeAgent.exposeMetrics=true",
        "nodeAgent.port=9404",
        "metrics.serviceMonitor.enabled=true",
    ]);
    let container = &pod(&objects)["containers"][0];
    assert_eq!(container["args"][1], "--admin-listen=[::]:9404");
    assert_eq!(container["ports"][0]["hostPort"], 9404);
    let service = objects.named("Service", "pp-proxypair-node-agent-metrics");
    assert_eq!(
        service["spec"]["selector"],
        objects.one("DaemonSet")["spec"]["selector"]["matchLabels"]
    );
    let monitor = objects.named("ServiceMonitor", "pp-proxypair-node-agent");
    assert_eq!(monitor["spec"]["selector"]["matchLabels"], service["spec"]["selector"]);
}

#[test]
fn has_the_network_of_the_node_and_one_capability() {
    let objects = rendered(&[REPOSITORY, ON]);
    let pod = pod(&objects);
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(
        (&pod["hostPID"], &pod["hostIPC"], &pod["volumes"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(pod["securityContext"]["runAsUser"], 0);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        })
    );
}

#[test]
fn runs_on_every_linux_node() {
    let objects = rendered(&[REPOSITORY, ON]);
    assert_eq!(pod(&objects)["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod(&objects)["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(pod(&objects)["priorityClassName"], "system-node-critical");
    let objects = rendered(&[
        REPOSITORY,
        ON,
        "nodeAgent.priorityClassName=",
        "nodeAgent.nodeSelector.zone=a",
    ]);
    assert_eq!(pod(&objects)["priorityClassName"], Value::Null);
    assert_eq!(pod(&objects)["nodeSelector"]["zone"], "a");
}

#[test]
fn may_read_pairs_and_services_and_nothing_else() {
    let expected = json!([
        {"apiGroups": ["proxypair.dev"], "resources": ["proxypairs"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
    ]);
    let all = rendered(&[REPOSITORY, ON]);
    let account = &pod(&all)["serviceAccountName"];
    assert_eq!(
        account,
        &all.named("ServiceAccount", "pp-proxypair-node-agent")["metadata"]["name"]
    );
    assert_eq!(
        all.named("ClusterRole", "netcool-system:pp-proxypair-node-agent")["rules"],
        expected
    );
    let binding = all.named("ClusterRoleBinding", "netcool-system:pp-proxypair-node-agent");
    assert_eq!(&binding["subjects"][0]["name"], account);

    let one = rendered(&[REPOSITORY, ON, "watchNamespace=netcool"]);
    assert_eq!(pod(&one)["containers"][0]["args"][1], "--watch-namespace=netcool");
    let role = one.named("Role", "netcool-system:pp-proxypair-node-agent");
    assert_eq!(
        (&role["metadata"]["namespace"], &role["rules"]),
        (&json!("netcool"), &expected)
    );
    assert_eq!(one.all("ClusterRole").count(), 0);
}

#[test]
fn the_operators_service_and_budget_do_not_select_it() {
    let objects = rendered(&[REPOSITORY, ON]);
    let labels = &objects.one("DaemonSet")["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &objects.one("Service")["spec"]["selector"],
        &objects.one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ] {
        let of = selector.as_object().unwrap();
        assert!(of.iter().any(|(key, value)| &labels[key] != value), "{selector}");
    }
}
