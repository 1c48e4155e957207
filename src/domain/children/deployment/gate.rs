//! The gate's container and its volumes.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, KeyToPath, Probe, ResourceRequirements,
        SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{GateImage, proxyserv::PROXYSERV, restricted, traffic_resources};
use crate::{
    api::{CaBundleSpec, Duration as ApiDuration, PORT_PROXY, Side},
    domain::pair::{Listener, Pair},
};

/// Name of the gate's container.
pub(super) const NAME: &str = "gate";
/// The gate's TCP port for probes; OMNIbus's default for proxy servers.
pub const PROXY_PORT: u16 = 4400;
/// The gate's TCP port for check sessions.
pub const CHECK_PORT: u16 = 4401;
/// The gate's TCP port for reports and commands.
pub const CONTROL_PORT: u16 = 4402;
/// The gate's TCP port for kubelet and Prometheus.
pub const ADMIN_PORT: u16 = 4403;
/// Mount path of the gate's keys.
const TLS_DIR: &str = "/etc/proxypair/tls";
/// Mount path of the CA certificates for the ObjectServer's certificate.
const OBJECT_SERVER_DIR: &str = "/etc/proxypair/object-server";
/// Name of the file there.
const CA_FILE: &str = "ca.crt";
/// Mount path of the certificate that the gate presents to probes.
const LISTENER_DIR: &str = "/etc/proxypair/listener";
/// Permissions of the files in volumes: readable whatever user and group the platform assigns. Only this container mounts them.
const FILE_MODE: i32 = 0o444;

pub(super) fn container(
    pair: &Pair,
    side: Side,
    image: &GateImage,
    resources: Option<ResourceRequirements>,
    grace: Duration,
) -> Container {
    Container {
        name: NAME.to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args(pair, side, grace)),
        ports: Some(vec![
            port(PORT_PROXY, i32::from(PROXY_PORT)),
            port("check", i32::from(CHECK_PORT)),
            port("control", i32::from(CONTROL_PORT)),
            port("admin", i32::from(ADMIN_PORT)),
        ]),
        liveness_probe: Some(kubelet_probe("/livez", 10, 3)),
        readiness_probe: Some(kubelet_probe("/readyz", 1, 1)),
        resources: Some(resources.unwrap_or_else(traffic_resources)),
        security_context: Some(restricted(None)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(directories(pair, side).iter().map(Directory::mount).collect()),
        ..Container::default()
    }
}

/// The volumes that the gate mounts. Kubelet updates their files when the Secret or ConfigMap changes.
pub(super) fn volumes(pair: &Pair, side: Side) -> Vec<Volume> {
    let directories = directories(pair, side).into_iter();
    directories.map(|directory| directory.volume).collect()
}

fn args(pair: &Pair, side: Side, grace: Duration) -> Vec<String> {
    let declared = pair.spec.side(side);
    let mut args = vec![
        "gate".to_owned(),
        format!("--name={}", declared.server_name),
        format!("--listen=[::]:{PROXY_PORT}"),
        format!("--check-listen=[::]:{CHECK_PORT}"),
        format!("--control-listen=[::]:{CONTROL_PORT}"),
        format!("--admin-listen=[::]:{ADMIN_PORT}"),
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
    args
}

fn port(name: &str, container_port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// A probe by kubelet: a request each `period` seconds, that has failed after `failures` in a row.
fn kubelet_probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(period.min(3)),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// A directory of the gate's container: a volume, and where it is mounted.
struct Directory {
    path: &'static str,
    volume: Volume,
}

impl Directory {
    fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.volume.name.clone(),
            mount_path: self.path.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }
    }
}

fn directories(pair: &Pair, side: Side) -> Vec<Directory> {
    let mut directories = vec![Directory {
        path: TLS_DIR,
        volume: secret("tls", &pair.gate_tls_name(), None),
    }];
    if let Some(tls) = &pair.spec.side(side).object_server.tls {
        directories.push(Directory {
            path: OBJECT_SERVER_DIR,
            volume: ca_bundle("object-server", &tls.ca_bundle),
        });
    }
    if let Listener::Terminate { secret_name } = pair.listener(side) {
        directories.push(Directory {
            path: LISTENER_DIR,
            volume: secret("listener", secret_name, None),
        });
    }
    directories
}

fn secret(name: &str, secret_name: &str, items: Option<Vec<KeyToPath>>) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret_name.to_owned()),
            default_mode: Some(FILE_MODE),
            items,
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// The bundle as the file [`CA_FILE`].
fn ca_bundle(name: &str, bundle: &CaBundleSpec) -> Volume {
    let items = Some(vec![KeyToPath {
        key: bundle.key.clone(),
        path: CA_FILE.to_owned(),
        mode: None,
    }]);
    match (&bundle.config_map_name, &bundle.secret_name) {
        (None, Some(secret_name)) => secret(name, secret_name, items),
        (config_map_name, _) => Volume {
            name: name.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name.clone().unwrap_or_default(),
                default_mode: Some(FILE_MODE),
                items,
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
    }
}
