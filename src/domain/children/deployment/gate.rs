//! The gate's container, with its certificates.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, KeyToPath, Probe, ResourceRequirements,
        SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{GateImage, default_resources, proxyserv::PROXYSERV, restricted};
use crate::{
    api::{Duration as ApiDuration, PORT_PROXY, Side},
    domain::pair::{Listener, Pair},
};

/// Port of the gate for probes; OMNIbus's default for proxy servers.
const PROXY_PORT: i32 = 4400;
/// Port of the gate for check sessions.
pub const CHECK_PORT: u16 = 4401;
/// Port of the gate for reports and orders.
pub const CONTROL_PORT: u16 = 4402;
/// Port of the gate for kubelet and Prometheus.
const ADMIN_PORT: i32 = 4403;
/// Where the gate finds its keys.
const TLS_DIR: &str = "/etc/proxypair/tls";
/// Where it finds the authorities of the ObjectServer's certificate.
const OBJECT_SERVER_DIR: &str = "/etc/proxypair/object-server";
/// The file there.
const CA_FILE: &str = "ca.crt";
/// Where it finds the proxy's certificate for probes.
const LISTENER_DIR: &str = "/etc/proxypair/listener";
/// Permissions of the files in volumes: for the group that all of the pod's containers have.
const FILE_MODE: i32 = 0o440;

pub(super) fn container(
    pair: &Pair,
    side: Side,
    image: &GateImage,
    resources: Option<ResourceRequirements>,
    grace: Duration,
) -> Container {
    let declared = pair.spec.side(side);
    let mut args = vec![
        "gate".to_owned(),
        format!("--name={}", declared.server_name),
        format!("--listen=0.0.0.0:{PROXY_PORT}"),
        format!("--check-listen=0.0.0.0:{CHECK_PORT}"),
        format!("--control-listen=0.0.0.0:{CONTROL_PORT}"),
        format!("--admin-listen=0.0.0.0:{ADMIN_PORT}"),
        format!("--object-server-name={}", declared.object_server.name),
        format!("--object-server={}", pair.object_server(side)),
        format!("--tls-dir={TLS_DIR}"),
        format!("--unresponsive-after={}", pair.spec.health_check.unresponsive_after),
        format!("--grace-period={}", ApiDuration::from(grace)),
    ];
    if declared.object_server.tls.is_some() {
        args.push(format!("--object-server-ca={OBJECT_SERVER_DIR}/{CA_FILE}"));
    }
    match pair.listener(side) {
        Listener::Plain => {}
        Listener::Terminate { .. } => args.push(format!("--listener-tls-dir={LISTENER_DIR}")),
        Listener::PassThrough => args.push("--pass-through".to_owned()),
    }
    if pair.proxyserv(side).is_some() {
        args.push(format!("--proxy={PROXYSERV}"));
    }
    let port = |name: &str, container_port| ContainerPort {
        name: Some(name.to_owned()),
        container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let probe = |path: &str, period, failures| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(period.min(3)),
        failure_threshold: Some(failures),
        ..Probe::default()
    };
    let mount = |volume: &Volume| VolumeMount {
        name: volume.name.clone(),
        mount_path: match volume.name.as_str() {
            "object-server" => OBJECT_SERVER_DIR,
            "listener" => LISTENER_DIR,
            _ => TLS_DIR,
        }
        .to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Container {
        name: "gate".to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args),
        ports: Some(vec![
            port(PORT_PROXY, PROXY_PORT),
            port("check", i32::from(CHECK_PORT)),
            port("control", i32::from(CONTROL_PORT)),
            port("admin", ADMIN_PORT),
        ]),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 1, 1)),
        resources: Some(resources.unwrap_or_else(default_resources)),
        security_context: Some(restricted(None)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volumes(pair, side).iter().map(mount).collect()),
        ..Container::default()
    }
}

/// What the gate mounts. Nodes bring it what changes there.
pub(super) fn volumes(pair: &Pair, side: Side) -> Vec<Volume> {
    let secret = |name: &str, secret_name: &str, items: Option<Vec<KeyToPath>>| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret_name.to_owned()),
            default_mode: Some(FILE_MODE),
            items,
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![secret("tls", &pair.gate_tls_name(), None)];
    if let Some(tls) = &pair.spec.side(side).object_server.tls {
        let bundle = &tls.ca_bundle;
        let items = Some(vec![KeyToPath {
            key: bundle.key.clone(),
            path: CA_FILE.to_owned(),
            mode: None,
        }]);
        volumes.push(match (&bundle.config_map_name, &bundle.secret_name) {
            (None, Some(name)) => secret("object-server", name, items),
            (name, _) => Volume {
                name: "object-server".to_owned(),
                config_map: Some(ConfigMapVolumeSource {
                    name: name.clone().unwrap_or_default(),
                    default_mode: Some(FILE_MODE),
                    items,
                    ..ConfigMapVolumeSource::default()
                }),
                ..Volume::default()
            },
        });
    }
    if let Listener::Terminate { secret_name } = pair.listener(side) {
        volumes.push(secret("listener", secret_name, None));
    }
    volumes
}
