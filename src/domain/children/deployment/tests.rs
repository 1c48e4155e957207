//! The pods of both engines, in a few settings.

use std::collections::BTreeSet;

use clap::Parser;
use k8s_openapi::api::core::v1::{Container, Volume};
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::{pair::fixture::pair, references::Content},
    gate::args::GateArgs,
    proxyserv::FilesArgs,
};

fn image() -> GateImage {
    GateImage {
        image: "example.com/proxypair:1".to_owned(),
        pull_policy: Some("IfNotPresent".to_owned()),
    }
}

fn spec_of(pair: &Pair, side: Side, contents: &Contents) -> PodSpec {
    deployment(pair, side, &image(), contents)
        .spec
        .unwrap()
        .template
        .spec
        .unwrap()
}

fn pod(spec: Value) -> PodSpec {
    spec_of(&pair(spec), Side::Primary, &Contents::new())
}

fn proxyserv() -> Value {
    json!({"proxy": {
        "engine": "Proxyserv",
        "image": "example.com/nco-proxyserv:8",
        "imagePullPolicy": "Always",
        "properties": {"ConnectionRatio": 5, "SecureMode": true},
        "secretName": "netcool-proxy",
        "resources": {"requests": {"cpu": "1"}},
    }})
}

fn tls() -> Value {
    json!({
        "primary": {
            "objectServer": {"tls": {"caBundle": {"configMapName": "netcool-ca", "key": "bundle.pem"}}},
            "proxy": {"tls": {"secretName": "proxy-p-tls"}},
        },
        "backup": {
            "objectServer": {"tls": {"caBundle": {"secretName": "netcool-ca-too"}}},
            "proxy": {"tls": {"mode": "PassThrough"}},
        },
    })
}

/// The same where the gate must end TLS on both sides.
fn terminated() -> Value {
    let mut tls = tls();
    tls["backup"]["proxy"]["tls"] = json!({"secretName": "proxy-b-tls"});
    tls
}

fn both(mut a: Value, b: Value) -> Value {
    for (key, value) in b.as_object().unwrap() {
        a[key] = value.clone();
    }
    a
}

fn containers(pod: &PodSpec) -> Vec<&Container> {
    pod.init_containers.iter().flatten().chain(&pod.containers).collect()
}

fn named<'a>(pod: &'a PodSpec, name: &str) -> &'a Container {
    containers(pod)
        .into_iter()
        .find(|container| container.name == name)
        .unwrap()
}

fn args(container: &Container) -> Vec<&str> {
    container.args.iter().flatten().map(String::as_str).collect()
}

fn volume<'a>(pod: &'a PodSpec, name: &str) -> &'a Volume {
    pod.volumes.iter().flatten().find(|volume| volume.name == name).unwrap()
}

fn secret(version: &str) -> Contents {
    let content = Content {
        version: version.to_owned(),
        data: [("AuthPassword".to_owned(), b"top secret".to_vec())].into(),
    };
    Contents::from([(Reference::secret("netcool-proxy"), Some(content))])
}

/// What the restricted Pod Security Standard asks for, of every container.
fn assert_restricted(pod: &PodSpec) {
    let of_pod = pod.security_context.as_ref().unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert_eq!(of_pod.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
    for container in containers(pod) {
        let of_container = container.security_context.as_ref().unwrap();
        assert_eq!(
            of_container.allow_privilege_escalation,
            Some(false),
            "{}",
            container.name
        );
        assert_eq!(of_container.read_only_root_filesystem, Some(true), "{}", container.name);
        assert_eq!(
            of_container.capabilities.as_ref().unwrap().drop,
            Some(vec!["ALL".to_owned()])
        );
        let user = of_container.run_as_user.or(of_pod.run_as_user);
        assert!(user.is_none_or(|user| user > 0), "{} runs as {user:?}", container.name);
    }
}

/// Every mount has its volume, no path is mounted twice or inside another in one container, none where this image has its program, and every
/// volume is used.
fn assert_mounted(pod: &PodSpec) {
    let volumes: BTreeSet<&str> = pod
        .volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.as_str())
        .collect();
    let mut used = BTreeSet::new();
    for container in containers(pod) {
        let mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
        for mount in &mounts {
            assert!(
                volumes.contains(mount.name.as_str()),
                "{} mounts {}",
                container.name,
                mount.name
            );
            used.insert(mount.name.as_str());
            assert!(
                !mount.mount_path.starts_with("/proxypair"),
                "{} mounts {} where the program is",
                container.name,
                mount.mount_path
            );
            let within = mounts
                .iter()
                .filter(|other| format!("{}/", other.mount_path).starts_with(&format!("{}/", mount.mount_path)));
            assert_eq!(
                within.count(),
                1,
                "{} mounts more than one volume at {}",
                container.name,
                mount.mount_path
            );
        }
    }
    assert_eq!(used, volumes);
}

#[test]
fn a_relay_is_one_gate() {
    let pod = pod(json!({}));
    assert_eq!(pod.init_containers, None);
    assert_eq!(
        args(named(&pod, "gate")),
        [
            "gate",
            "--name=PROXY_P",
            "--listen=[::]:4400",
            "--check-listen=[::]:4401",
            "--control-listen=[::]:4402",
            "--admin-listen=[::]:4403",
            "--object-server-name=AGG_P",
            "--object-server=aggp.example.com:4100",
            "--tls-dir=/etc/proxypair/tls",
            "--unresponsive-after=15s",
            "--grace-period=1m5s",
        ]
    );
    assert_eq!(pod.termination_grace_period_seconds, Some(65));
    assert_restricted(&pod);
    assert_mounted(&pod);
}

#[test]
fn the_gate_gets_its_certificates_and_the_flags_that_name_them() {
    let pair = pair(tls());
    let primary = spec_of(&pair, Side::Primary, &Contents::new());
    let gate = named(&primary, "gate");
    assert!(args(gate).ends_with(&[
        "--object-server-ca=/etc/proxypair/object-server/ca.crt",
        "--listener-tls-dir=/etc/proxypair/listener",
    ]));
    let bundle = volume(&primary, "object-server").config_map.as_ref().unwrap();
    assert_eq!(bundle.name, "netcool-ca");
    let item = &bundle.items.as_ref().unwrap()[0];
    assert_eq!((item.key.as_str(), item.path.as_str()), ("bundle.pem", "ca.crt"));
    assert_eq!(
        volume(&primary, "listener")
            .secret
            .as_ref()
            .unwrap()
            .secret_name
            .as_deref(),
        Some("proxy-p-tls")
    );
    let backup = spec_of(&pair, Side::Backup, &Contents::new());
    assert!(args(named(&backup, "gate")).ends_with(&[
        "--object-server-ca=/etc/proxypair/object-server/ca.crt",
        "--pass-through"
    ]));
    assert_eq!(
        volume(&backup, "object-server")
            .secret
            .as_ref()
            .unwrap()
            .secret_name
            .as_deref(),
        Some("netcool-ca-too")
    );
    for pod in [primary, backup] {
        assert_restricted(&pod);
        assert_mounted(&pod);
    }
}

#[test]
fn the_users_proxy_stands_behind_the_gate_and_ends_after_it() {
    let pod = pod(proxyserv());
    let names: Vec<&str> = containers(&pod)
        .iter()
        .map(|container| container.name.as_str())
        .collect();
    assert_eq!(names, ["tools", "copy", "files", "proxy", "gate"]);
    assert_eq!(pod.containers.len(), 1);
    let proxy = named(&pod, "proxy");
    // Restartable init containers are started before the gate and ended after it.
    assert_eq!(proxy.restart_policy.as_deref(), Some("Always"));
    assert_eq!(
        containers(&pod)
            .iter()
            .filter(|container| container.restart_policy.is_some())
            .count(),
        1
    );
    assert_eq!(pod.termination_grace_period_seconds, Some(70));
    assert!(args(named(&pod, "gate")).contains(&"--grace-period=1m5s"));
    assert!(args(named(&pod, "gate")).contains(&"--proxy=127.0.0.1:4410"));
    assert_eq!(
        proxy.command.as_ref().unwrap(),
        &[
            "/opt/IBM/tivoli/netcool/omnibus/bin/nco_proxyserv",
            "-name",
            "PROXY_P",
            "-propsfile",
            "/run/proxypair/private/PROXY_P.props"
        ]
    );
    for (name, image, policy) in [
        ("tools", "example.com/proxypair:1", "IfNotPresent"),
        ("copy", "example.com/nco-proxyserv:8", "Always"),
        ("files", "example.com/nco-proxyserv:8", "Always"),
        ("proxy", "example.com/nco-proxyserv:8", "Always"),
        ("gate", "example.com/proxypair:1", "IfNotPresent"),
    ] {
        let container = named(&pod, name);
        assert_eq!(container.image.as_deref(), Some(image), "{name}");
        assert_eq!(container.image_pull_policy.as_deref(), Some(policy), "{name}");
        assert_eq!(
            container.termination_message_policy.as_deref(),
            Some("FallbackToLogsOnError"),
            "{name}"
        );
    }
    let cpu = |name: &str| {
        named(&pod, name).resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"]
            .0
            .clone()
    };
    assert_eq!((cpu("proxy").as_str(), cpu("gate").as_str()), ("1", "50m"));
    assert_restricted(&pod);
    assert_mounted(&pod);
}

#[test]
fn the_users_proxy_runs_as_ibms_containers_do() {
    let pod = pod(proxyserv());
    let user = |name: &str| named(&pod, name).security_context.as_ref().unwrap().run_as_user;
    for name in ["copy", "files", "proxy"] {
        assert_eq!(user(name), Some(1001), "{name}");
    }
    // As the user of its image.
    assert_eq!((user("gate"), user("tools")), (None, None));
    assert_eq!(pod.security_context.as_ref().unwrap().fs_group, Some(2001));
}

/// What a platform that assigns users from a range of its own, such as OpenShift, accepts: nothing that fixes one.
#[test]
fn no_user_or_group_is_fixed_where_the_platform_assigns_them() {
    let assigned = json!({"proxy": {"podSecurityContext": {}}});
    let mut behind = proxyserv();
    behind["proxy"]["podSecurityContext"] = json!({});
    for spec in [json!({}), terminated(), assigned, behind] {
        let pod = pod(spec.clone());
        let of_pod = pod.security_context.as_ref().unwrap();
        assert_eq!(
            (of_pod.run_as_user, of_pod.run_as_group, of_pod.fs_group),
            (None, None, None),
            "{spec}"
        );
        for container in containers(&pod) {
            let context = container.security_context.as_ref().unwrap();
            assert_eq!(
                (context.run_as_user, context.run_as_group),
                (None, None),
                "{}",
                container.name
            );
        }
        // Every file can be read by any user.
        for volume in pod.volumes.iter().flatten() {
            let mode = match (&volume.secret, &volume.config_map) {
                (Some(secret), _) => secret.default_mode,
                (None, Some(config_map)) => config_map.default_mode,
                (None, None) => continue,
            };
            assert_eq!(mode, Some(0o444), "{}", volume.name);
        }
        assert_restricted(&pod);
    }
}

#[test]
fn declared_users_are_those_of_all_containers() {
    let mut spec = proxyserv();
    spec["proxy"]["podSecurityContext"] =
        json!({"runAsUser": 1_000_650_000, "fsGroup": 1_000_650_000, "runAsNonRoot": true});
    let pod = pod(spec);
    assert_eq!(pod.security_context.as_ref().unwrap().run_as_user, Some(1_000_650_000));
    for container in containers(&pod) {
        assert_eq!(
            container.security_context.as_ref().unwrap().run_as_user,
            None,
            "{}",
            container.name
        );
    }
    assert_restricted(&pod);
}

/// A quota on requests and limits of CPU and memory requires all four of every container, and each can be declared.
#[test]
fn every_container_has_requests_and_limits_and_each_can_be_declared() {
    let four = |container: &Container| {
        let resources = container.resources.clone().unwrap();
        let of = |quantities: Option<std::collections::BTreeMap<String, Quantity>>, name: &str| {
            quantities.and_then(|quantities| quantities.get(name).map(|quantity| quantity.0.clone()))
        };
        ["cpu", "memory"].map(|name| (of(resources.requests.clone(), name), of(resources.limits.clone(), name)))
    };
    let mut unset = proxyserv();
    unset["proxy"]["resources"] = Value::Null;
    for spec in [json!({}), unset] {
        for container in containers(&pod(spec)) {
            let four = four(container);
            assert!(
                four.iter().all(|(request, limit)| request.is_some() && limit.is_some()),
                "{four:?}"
            );
        }
    }
    let small = json!({"requests": {"cpu": "7m", "memory": "7Mi"}, "limits": {"cpu": "7m", "memory": "7Mi"}});
    let mut declared = proxyserv();
    for field in ["resources", "gateResources", "initResources"] {
        declared["proxy"][field] = small.clone();
    }
    let cpu = || Some("7m".to_owned());
    let memory = || Some("7Mi".to_owned());
    for container in containers(&pod(declared)) {
        assert_eq!(
            four(container),
            [(cpu(), cpu()), (memory(), memory())],
            "{}",
            container.name
        );
    }
}

#[test]
fn a_pod_runs_on_linux_unless_the_user_says_otherwise() {
    let selector = |spec: Value| pod(spec).node_selector.unwrap();
    assert_eq!(selector(json!({}))["kubernetes.io/os"], "linux");
    let own = selector(json!({"proxy": {"nodeSelector": {"zone": "a"}}}));
    assert_eq!((own["zone"].as_str(), own["kubernetes.io/os"].as_str()), ("a", "linux"));
}

#[derive(Parser)]
struct Gate {
    #[command(flatten)]
    args: GateArgs,
}

#[test]
fn the_gate_takes_its_arguments() {
    for spec in [json!({}), tls(), proxyserv(), both(proxyserv(), terminated())] {
        for side in Side::BOTH {
            let pod = spec_of(&pair(spec.clone()), side, &Contents::new());
            let Gate { args } =
                Gate::try_parse_from(args(named(&pod, "gate"))).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(args.proxy.is_some(), spec["proxy"].is_object());
            assert_eq!(args.object_server_ca.is_some(), spec["primary"].is_object());
            let listener = &spec[side.label()]["proxy"]["tls"];
            assert_eq!(args.pass_through, listener["mode"] == "PassThrough");
            assert_eq!(args.listener_tls_dir.is_some(), listener["secretName"].is_string());
        }
    }
}

#[derive(Parser)]
struct Files {
    #[command(subcommand)]
    args: FilesArgs,
}

fn files(pod: &PodSpec, name: &str) -> FilesArgs {
    let command = named(pod, name).command.as_ref().unwrap();
    assert_eq!(command[..2], ["/run/proxypair/bin/proxypair", "proxyserv-files"]);
    Files::try_parse_from(&command[1..])
        .unwrap_or_else(|error| panic!("{error}"))
        .args
}

#[test]
fn the_steps_before_it_have_arguments_that_the_program_takes() {
    let primary = pod(both(proxyserv(), terminated()));
    let FilesArgs::Copy { from, to } = files(&primary, "copy") else {
        panic!("another step")
    };
    assert_eq!(from.to_str(), Some("/opt/IBM/tivoli/netcool/etc"));
    assert_eq!(to.to_str(), Some("/run/proxypair/etc"));
    let FilesArgs::Write(write) = files(&primary, "files") else {
        panic!("another step")
    };
    assert_eq!(
        (write.name.as_str(), write.object_server_name.as_str()),
        ("PROXY_P", "AGG_P")
    );
    assert!(write.object_server_ssl);
    assert_eq!(write.properties.connection_ratio, Some(5));
    assert_eq!(
        write.secret_dir.as_deref().and_then(|path| path.to_str()),
        Some("/run/proxypair/secret")
    );

    let bare = pod(json!({"proxy": {"engine": "Proxyserv", "image": "example.com/nco", "ncHome": "/opt/nc"}}));
    let FilesArgs::Write(write) = files(&bare, "files") else {
        panic!("another step")
    };
    assert_eq!(write.secret_dir, None);
    assert_eq!(write.nc_home.to_str(), Some("/opt/nc"));
    let FilesArgs::Copy { from, .. } = files(&bare, "copy") else {
        panic!("another step")
    };
    assert_eq!(from.to_str(), Some("/opt/nc/etc"));
    assert_mounted(&bare);
}

#[test]
fn only_the_step_that_needs_it_sees_the_secret_and_nothing_shows_it() {
    let pod = spec_of(&pair(proxyserv()), Side::Primary, &secret("7"));
    for container in containers(&pod) {
        let sees = container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.name == "secret");
        assert_eq!(sees, container.name == "files", "{}", container.name);
    }
    for name in ["etc", "private"] {
        assert_eq!(
            volume(&pod, name).empty_dir.as_ref().unwrap().medium.as_deref(),
            Some("Memory"),
            "{name}"
        );
    }
    let written =
        serde_json::to_string(&deployment(&pair(proxyserv()), Side::Primary, &image(), &secret("7"))).unwrap();
    assert!(!written.contains("top secret"));
}

#[test]
fn a_changed_secret_makes_another_template_and_what_the_gate_reloads_does_not() {
    let pair = pair(both(proxyserv(), terminated()));
    let template = |contents: &Contents| {
        let deployment = deployment(&pair, Side::Primary, &image(), contents);
        let of_pod = deployment.spec.unwrap().template.metadata.unwrap();
        assert_eq!(template_of(&of_pod), template_of(&deployment.metadata));
        template_of(&of_pod).unwrap().to_owned()
    };
    let first = template(&secret("7"));
    assert_eq!(first, template(&secret("7")));
    assert_ne!(first, template(&secret("8")));
    let mut certificates = secret("7");
    for reference in [Reference::config_map("netcool-ca"), Reference::secret("proxy-p-tls")] {
        let content = Content {
            version: "99".to_owned(),
            data: std::collections::BTreeMap::new(),
        };
        certificates.insert(reference, Some(content));
    }
    assert_eq!(first, template(&certificates));
}
