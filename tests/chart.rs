//! The chart as Helm renders it, without a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use testkit::helm::{REPOSITORY, chart, in_repository, rendered, rendered_as, run, run_refused};

#[track_caller]
fn refused(values: &[&str]) -> String {
    let chart = chart();
    let mut args = vec!["template", "pp", &chart];
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    run_refused("helm", &args)
}

fn container(objects: &testkit::helm::Objects) -> Value {
    objects.one("Deployment")["spec"]["template"]["spec"]["containers"][0].clone()
}

fn parsed(path: &str) -> Value {
    serde_saphyr::from_str(&fs::read_to_string(in_repository(path)).unwrap()).unwrap()
}

/// 1.0 is 1 to the API server, and Helm writes it so.
fn with_plain_numbers(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, with_plain_numbers(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(with_plain_numbers).collect(),
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        other => other,
    }
}

#[test]
fn lint_finds_nothing() {
    for values in [
        vec![REPOSITORY],
        vec![REPOSITORY, "watchNamespace=netcool"],
        vec![REPOSITORY, "crds.install=false"],
        vec![REPOSITORY, "nodeAgent.enabled=true", "nodeAgent.exposeMetrics=true"],
    ] {
        let chart = chart();
        let mut args = vec!["lint", "--strict", &chart];
        args.extend(values.iter().flat_map(|value| ["--set", value]));
        run("helm", &args);
    }
}

#[test]
fn runs_the_operator_with_the_arguments_it_knows() {
    let container = container(&rendered(&[REPOSITORY]));
    assert_eq!(
        container["args"],
        json!([
            "operator",
            "--image=registry.example.com/netcool/proxypair:0.1.0",
            "--image-pull-policy=IfNotPresent",
            "--identity=$(POD_NAME)",
            "--namespace=$(POD_NAMESPACE)",
            "--lease-name=pp-proxypair",
            "--lease-duration=5s",
            "--admin-listen=0.0.0.0:8080",
            "--gate-certificate-lifetime=2160h",
            "--max-updating-pairs=3",
            "--log=info",
        ])
    );
    assert_eq!(container["image"], "registry.example.com/netcool/proxypair:0.1.0");
}

#[test]
fn the_proxy_pods_get_the_operators_image_when_it_is_named_by_digest() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    let container = container(&rendered(&[
        REPOSITORY,
        "image.tag=ignored",
        &format!("image.digest={digest}"),
    ]));
    let image = format!("registry.example.com/netcool/proxypair@{digest}");
    assert_eq!(container["image"], image);
    assert_eq!(container["args"][1], format!("--image={image}"));
}

#[test]
fn one_replica_has_no_disruption_budget() {
    assert_eq!(
        rendered(&[REPOSITORY, "replicas=1"]).all("PodDisruptionBudget").count(),
        0
    );
    assert_eq!(
        rendered(&[REPOSITORY]).one("PodDisruptionBudget")["spec"]["maxUnavailable"],
        1
    );
}

#[test]
fn an_operator_for_one_namespace_has_no_right_beyond_it() {
    let objects = rendered(&[REPOSITORY, "watchNamespace=netcool"]);
    assert!(
        container(&objects)["args"]
            .as_array()
            .unwrap()
            .contains(&json!("--watch-namespace=netcool"))
    );
    assert_eq!(
        objects.all("ClusterRole").count() + objects.all("ClusterRoleBinding").count(),
        0
    );
    assert_eq!(
        objects.named("Role", "netcool-system:pp-proxypair")["metadata"]["namespace"],
        "netcool"
    );
    let binding = objects.named("RoleBinding", "netcool-system:pp-proxypair");
    assert_eq!(binding["metadata"]["namespace"], "netcool");
    assert_eq!(binding["subjects"][0]["namespace"], "netcool-system");
}

#[test]
fn two_releases_share_no_object_but_the_definition() {
    let names = |release, namespace| -> BTreeSet<String> {
        let objects = rendered_as(
            release,
            namespace,
            &[REPOSITORY, "crds.install=false", "nodeAgent.enabled=true"],
        );
        objects
            .0
            .iter()
            .map(|object| {
                format!(
                    "{} {}/{}",
                    object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
                )
            })
            .collect()
    };
    let first = names("pp", "one");
    assert!(first.is_disjoint(&names("pp", "two")));
    assert!(first.is_disjoint(&names("other", "one")));
}

#[test]
fn the_definition_is_the_generated_one_and_is_kept_on_uninstall() {
    let generated = parsed("crds/proxypairs.yaml");
    assert!(
        generated == parsed("charts/proxypair/files/proxypairs.yaml"),
        "the chart's copy differs from crds/proxypairs.yaml: run `make crds`"
    );
    let mut installed = rendered(&[REPOSITORY]).one("CustomResourceDefinition").clone();
    let annotations = installed["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(annotations, Some(json!({"helm.sh/resource-policy": "keep"})));
    assert!(
        with_plain_numbers(installed) == with_plain_numbers(generated),
        "Helm changed the definition while rendering it"
    );
}

#[test]
fn the_definition_can_be_left_out() {
    assert_eq!(
        rendered(&[REPOSITORY, "crds.install=false"])
            .all("CustomResourceDefinition")
            .count(),
        0
    );
}

/// API groups, resources, verbs: what the operator's code calls, and no more.
const OPERATOR_RULES: [(&str, &str, &str); 9] = [
    ("proxypair.dev", "proxypairs", "get list watch"),
    ("proxypair.dev", "proxypairs/status", "update"),
    ("apps", "deployments", "get list watch create patch"),
    ("", "secrets serviceaccounts services", "get list watch create patch"),
    ("", "configmaps", "get list watch create patch"),
    ("policy", "poddisruptionbudgets", "get list watch create patch"),
    ("", "pods", "list watch patch delete"),
    ("discovery.k8s.io", "endpointslices", "list watch"),
    ("events.k8s.io", "events", "create patch"),
];

#[test]
fn the_operator_may_do_what_it_does_and_nothing_else() {
    let expected: Vec<Value> = OPERATOR_RULES
        .iter()
        .map(|(group, resources, verbs)| {
            let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
            json!({"apiGroups": [group], "resources": words(resources), "verbs": words(verbs)})
        })
        .collect();
    assert_eq!(
        rendered(&[REPOSITORY]).named("ClusterRole", "netcool-system:pp-proxypair")["rules"],
        json!(expected)
    );
    let narrow = rendered(&[REPOSITORY, "watchNamespace=netcool"]);
    assert_eq!(
        narrow.named("Role", "netcool-system:pp-proxypair")["rules"],
        json!(expected)
    );
}

#[test]
fn the_lease_is_the_only_one_that_the_operator_may_change() {
    let objects = rendered(&[REPOSITORY]);
    let role = objects.one("Role");
    assert_eq!(role["metadata"]["namespace"], "netcool-system");
    assert_eq!(role["rules"][0]["resourceNames"], json!(["pp-proxypair"]));
    assert_eq!(role["rules"][0]["verbs"], json!(["get", "update"]));
    assert_eq!(role["rules"][1]["verbs"], json!(["create"]));
    assert_eq!(role["rules"].as_array().unwrap().len(), 2);
}

#[test]
fn no_rule_has_a_wildcard() {
    let objects = rendered(&[REPOSITORY]);
    for role in objects.all("ClusterRole").chain(objects.all("Role")) {
        assert!(!role["rules"].to_string().contains('*'), "{role}");
    }
}

#[test]
fn every_rule_says_who_needs_it() {
    for file in fs::read_dir(in_repository("charts/proxypair/templates")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.starts_with("  - apiGroups:"))
        {
            assert!(
                lines[number - 1].trim_start().starts_with('#'),
                "{}:{}: no comment above {line}",
                path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn an_image_must_be_named() {
    let said = refused(&[]);
    assert!(
        said.contains("image.repository is not set") && said.contains("make image"),
        "{said}"
    );
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    for (value, expected) in [
        ("replicaCount=3", "additional properties 'replicaCount' not allowed"),
        ("image.name=x", "'/image': additional properties 'name' not allowed"),
        ("replicas=0", "'/replicas': minimum"),
        ("replicas=two", "'/replicas': got string, want integer"),
        (
            "image.repository=registry.example.com/proxypair:1.0",
            "'/image/repository'",
        ),
        ("image.digest=0123", "'/image/digest'"),
        (
            "image.pullPolicy=Sometimes",
            "'/image/pullPolicy': value must be one of",
        ),
        ("leaseDuration=500ms", "'/leaseDuration'"),
        ("leaseDuration=1s", "'/leaseDuration'"),
        ("gateCertificateLifetime=90d", "'/gateCertificateLifetime'"),
        ("gateCertificateLifetime=9m", "'/gateCertificateLifetime'"),
        ("maxUpdatingPairs=0", "'/maxUpdatingPairs'"),
        (
            "nodeAgent.privileged=true",
            "'/nodeAgent': additional properties 'privileged' not allowed",
        ),
        ("nodeAgent.port=80", "'/nodeAgent/port'"),
        ("watchNamespace=Netcool", "'/watchNamespace'"),
        ("serviceAccount.create=false", "'/serviceAccount/name'"),
    ] {
        let said = refused(&[REPOSITORY, value]);
        assert!(
            said.contains(expected),
            "--set {value} should be refused with {expected}, but Helm said: {said}"
        );
    }
}

#[test]
fn another_chart_can_depend_on_this_one() {
    rendered(&[REPOSITORY, "global.region=emea"]);
}

#[test]
fn a_service_monitor_is_made_on_demand_only() {
    assert_eq!(rendered(&[REPOSITORY]).all("ServiceMonitor").count(), 0);
    let objects = rendered(&[
        REPOSITORY,
        "metrics.serviceMonitor.enabled=true",
        "metrics.serviceMonitor.labels.release=prometheus",
    ]);
    let monitor = objects.one("ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["spec"]["selector"]["matchLabels"],
        objects.one("Service")["spec"]["selector"]
    );
}

#[test]
fn pods_keep_the_restricted_standard() {
    let objects = rendered(&[REPOSITORY]);
    let pod = &objects.one("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}})
    );
}

/// A platform that assigns users from a range of its own accepts no other.
#[test]
fn no_user_is_fixed_unless_the_values_name_one() {
    let pod = |values: &[&str]| rendered(values).one("Deployment")["spec"]["template"]["spec"].clone();
    let assigned = pod(&[REPOSITORY]);
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        assert_eq!(assigned["securityContext"][id], Value::Null);
    }
    let own = pod(&[REPOSITORY, "podSecurityContext.runAsUser=1000650000"]);
    assert_eq!(own["securityContext"]["runAsUser"], 1_000_650_000);
    assert_eq!(own["securityContext"]["runAsNonRoot"], true);
}

#[test]
fn pods_run_on_linux_unless_the_values_say_otherwise() {
    let selector =
        |values: &[&str]| rendered(values).one("Deployment")["spec"]["template"]["spec"]["nodeSelector"].clone();
    assert_eq!(selector(&[REPOSITORY]), json!({"kubernetes.io/os": "linux"}));
    assert_eq!(
        selector(&[REPOSITORY, "nodeSelector.zone=a"]),
        json!({"kubernetes.io/os": "linux", "zone": "a"})
    );
}

#[test]
fn a_name_that_looks_like_a_number_stays_a_name() {
    let objects = rendered(&[REPOSITORY, "priorityClassName=1e3", "watchNamespace=007"]);
    let pod = &objects.one("Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "1e3");
}

#[test]
fn a_network_policy_is_made_on_demand_only() {
    assert_eq!(rendered(&[REPOSITORY]).all("NetworkPolicy").count(), 0);
    let objects = rendered(&[REPOSITORY, "networkPolicy.enabled=true"]);
    let policy = objects.one("NetworkPolicy");
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(policy["spec"]["ingress"], Value::Null);
    assert_eq!(
        policy["spec"]["podSelector"]["matchLabels"],
        objects.one("Service")["spec"]["selector"]
    );
    let objects = rendered(&[
        REPOSITORY,
        "networkPolicy.enabled=true",
        "networkPolicy.metricsFrom[0].ipBlock.cidr=10.0.0.0/8",
    ]);
    let ingress = &objects.one("NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress[0]["from"], json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]));
    assert_eq!(ingress[0]["ports"], json!([{"port": "admin", "protocol": "TCP"}]));
}

#[test]
fn the_chart_has_the_programs_version() {
    let chart = parsed("charts/proxypair/Chart.yaml");
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(in_repository("charts/proxypair/values.schema.json")).unwrap())
            .unwrap();
    let readme = fs::read_to_string(in_repository("charts/proxypair/README.md")).unwrap();
    for (name, _) in parsed("charts/proxypair/values.yaml").as_object().unwrap() {
        assert!(
            schema["properties"][name].is_object(),
            "{name} is not in values.schema.json"
        );
        assert!(
            readme.contains(&format!("`{name}")),
            "{name} is not in the chart's README.md"
        );
    }
}
