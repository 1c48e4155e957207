//! The user's nco_proxyserv behind the gate: the containers that prepare its files, the one that it runs in, and their
//! volumes.
//!
//! It runs as a restartable init container. Kubernetes starts such a container before the gate and stops it after the
//! gate, so the gate drains its sessions through a proxy that still runs. `crate::proxyserv` explains the steps that
//! make its files.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EnvVar, ResourceRequirements, SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{GateImage, default_resources, restricted, traffic_resources};
use crate::{
    api::{PullPolicy, Side},
    domain::pair::{Pair, ProxyservPod},
};

/// Address on which nco_proxyserv listens in the pod; only the gate connects to it.
pub(super) const PROXYSERV: &str = "127.0.0.1:4410";
/// Time for nco_proxyserv to exit after the gate.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// User ID of IBM's containers.
pub(super) const UID: i64 = 1001;
/// Group ID of the volumes of IBM's containers.
pub(super) const FS_GROUP: i64 = 2001;
/// Permissions of the files of the user's Secret: readable whatever user and group the platform assigns.
const FILE_MODE: i32 = 0o444;
/// Mount path of this program in the user's image. Not below `/proxypair`, which is the program in its own image.
const TOOLS: &str = "/run/proxypair/bin";
/// Mount path of the copy of `$NCHOME/etc` while it is made.
const ETC_COPY: &str = "/run/proxypair/etc";
/// Mount path of the user's Secret.
const SECRET: &str = "/run/proxypair/secret";
/// Mount path of the properties file and the key file.
const PRIVATE: &str = "/run/proxypair/private";

/// What the user declares of the containers' resources.
pub(super) struct Resources {
    /// Of nco_proxyserv.
    pub proxy: Option<ResourceRequirements>,
    /// Of each container that ends before it starts.
    pub init: Option<ResourceRequirements>,
}

/// The init containers in the order in which kubelet starts them; the last one keeps running. `user` is the user ID of
/// those with the user's image.
pub(super) fn containers(
    pair: &Pair,
    side: Side,
    proxyserv: &ProxyservPod,
    image: &GateImage,
    resources: Resources,
    user: Option<i64>,
) -> Vec<Container> {
    let init = resources.init.unwrap_or_else(|| default_resources("1", "256Mi"));
    let of_users_image = |container: Container| Container {
        // The image decides on the group.
        security_context: Some(restricted(user)),
        ..container
    };
    vec![
        tools(image, init.clone()),
        of_users_image(copy(proxyserv, init.clone())),
        of_users_image(files(pair, side, proxyserv, init)),
        of_users_image(proxy(pair, side, proxyserv, resources.proxy)),
    ]
}

/// Copies this program to where the user's image sees it.
fn tools(image: &GateImage, resources: ResourceRequirements) -> Container {
    Container {
        name: "tools".to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(vec!["install".to_owned(), TOOLS.to_owned()]),
        resources: Some(resources),
        security_context: Some(restricted(None)),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![mount("tools", TOOLS, false)]),
        ..Container::default()
    }
}

/// Copies `$NCHOME/etc` of the image to a volume that can be written.
fn copy(proxyserv: &ProxyservPod, resources: ResourceRequirements) -> Container {
    let args = [
        "copy".to_owned(),
        format!("{}/etc", proxyserv.nc_home),
        ETC_COPY.to_owned(),
    ];
    let mounts = vec![mount("tools", TOOLS, true), mount("etc", ETC_COPY, false)];
    in_users_image("copy", proxyserv, resources, tool(&args), mounts)
}

/// Writes the files that nco_proxyserv reads.
fn files(pair: &Pair, side: Side, proxyserv: &ProxyservPod, resources: ResourceRequirements) -> Container {
    let mut mounts = vec![
        mount("tools", TOOLS, true),
        mount("etc", &format!("{}/etc", proxyserv.nc_home), false),
        mount("private", PRIVATE, false),
        mount("tmp", "/tmp", false),
    ];
    if proxyserv.secret_name.is_some() {
        mounts.push(mount("secret", SECRET, true));
    }
    let command = tool(&file_args(pair, side, proxyserv));
    in_users_image("files", proxyserv, resources, command, mounts)
}

/// Runs nco_proxyserv. `restartPolicy: Always` makes the init container one that keeps running beside the gate.
fn proxy(pair: &Pair, side: Side, proxyserv: &ProxyservPod, resources: Option<ResourceRequirements>) -> Container {
    let ProxyservPod { nc_home, .. } = proxyserv;
    let name = &pair.spec.side(side).server_name;
    let command = [
        &format!("{nc_home}/omnibus/bin/nco_proxyserv"),
        "-name",
        name,
        "-propsfile",
        &format!("{PRIVATE}/{name}.props"),
    ];
    let mounts = vec![
        mount("etc", &format!("{nc_home}/etc"), false),
        mount("private", PRIVATE, true),
        mount("log", &format!("{nc_home}/omnibus/log"), false),
        mount("var", &format!("{nc_home}/omnibus/var"), false),
        mount("tmp", "/tmp", false),
    ];
    let resources = resources.unwrap_or_else(traffic_resources);
    Container {
        restart_policy: Some("Always".to_owned()),
        ..in_users_image(
            "proxy",
            proxyserv,
            resources,
            command.map(str::to_owned).to_vec(),
            mounts,
        )
    }
}

/// A container with the user's image.
fn in_users_image(
    name: &str,
    proxyserv: &ProxyservPod,
    resources: ResourceRequirements,
    command: Vec<String>,
    mounts: Vec<VolumeMount>,
) -> Container {
    let ProxyservPod { nc_home, .. } = proxyserv;
    Container {
        name: name.to_owned(),
        image: Some(proxyserv.image.clone()),
        image_pull_policy: proxyserv.pull_policy.map(PullPolicy::as_str).map(str::to_owned),
        command: Some(command),
        env: Some(vec![
            variable("NCHOME", nc_home.clone()),
            variable("OMNIHOME", format!("{nc_home}/omnibus")),
        ]),
        resources: Some(resources),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The command that runs this program in the user's image.
fn tool(args: &[String]) -> Vec<String> {
    [&[format!("{TOOLS}/proxypair"), "proxyserv-files".to_owned()], args].concat()
}

fn file_args(pair: &Pair, side: Side, proxyserv: &ProxyservPod) -> Vec<String> {
    let declared = pair.spec.side(side);
    let properties = serde_json::to_string(&proxyserv.properties).unwrap_or_default();
    let mut args = vec![
        "write".to_owned(),
        format!("--nc-home={}", proxyserv.nc_home),
        format!("--name={}", declared.server_name),
        format!("--listen={PROXYSERV}"),
        format!("--object-server-name={}", declared.object_server.name),
        format!("--object-server={}", pair.object_server(side)),
        format!("--properties={properties}"),
        format!("--private-dir={PRIVATE}"),
    ];
    if declared.object_server.tls.is_some() {
        args.push("--object-server-ssl".to_owned());
    }
    if proxyserv.secret_name.is_some() {
        args.push(format!("--secret-dir={SECRET}"));
    }
    args
}

/// Volumes of nco_proxyserv, in addition to the gate's. Those that may hold a password or a key are in memory.
pub(super) fn volumes(proxyserv: &ProxyservPod) -> Vec<Volume> {
    let empty = |name: &str, size: &str, medium: Option<&str>| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(size.to_owned())),
        }),
        ..Volume::default()
    };
    let mut volumes = vec![
        empty("tools", "128Mi", None),
        empty("etc", "64Mi", Some("Memory")),
        empty("private", "1Mi", Some("Memory")),
        empty("log", "256Mi", None),
        empty("var", "64Mi", None),
        empty("tmp", "64Mi", None),
    ];
    if let Some(name) = &proxyserv.secret_name {
        volumes.push(Volume {
            name: "secret".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(name.clone()),
                default_mode: Some(FILE_MODE),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn variable(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    }
}
