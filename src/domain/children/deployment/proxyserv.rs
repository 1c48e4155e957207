//! The user's nco_proxyserv behind the gate: the containers that prepare its files, the one that it runs in, and their volumes.
//!
//! It runs as a restartable init container. Kubernetes starts such a container before the gate and ends it after the gate, so the gate
//! drains its sessions through a proxy that still answers. The files are made by steps that `crate::proxyserv` explains.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{
        Container, EmptyDirVolumeSource, EnvVar, ResourceRequirements, SecretVolumeSource, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::{GateImage, UID, default_resources, restricted};
use crate::{
    api::{PullPolicy, Side},
    domain::pair::{Pair, ProxyservPod},
};

/// Where nco_proxyserv listens in the pod: for the gate alone.
pub(super) const PROXYSERV: &str = "127.0.0.1:4410";
/// What nco_proxyserv has to end in, after the gate.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// User of IBM's containers.
const PROXYSERV_UID: i64 = 1001;
/// Group of the volumes of IBM's containers.
pub(super) const FS_GROUP: i64 = 2001;
/// Where this program is in the user's image. Not below `/proxypair`, which is the program in its own.
const TOOLS: &str = "/run/proxypair/bin";
/// Where the copy of `$NCHOME/etc` is made.
const ETC_COPY: &str = "/run/proxypair/etc";
/// The user's Secret.
const SECRET: &str = "/run/proxypair/secret";
/// The properties file and the key file.
const PRIVATE: &str = "/run/proxypair/private";

pub(super) fn containers(
    pair: &Pair,
    side: Side,
    proxyserv: &ProxyservPod,
    image: &GateImage,
    resources: Option<ResourceRequirements>,
) -> Vec<Container> {
    let ProxyservPod { nc_home, .. } = proxyserv;
    let own = |name: &str, args: Vec<String>, mounts| Container {
        name: name.to_owned(),
        image: Some(image.image.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args),
        resources: Some(default_resources()),
        security_context: Some(restricted(Some((UID, Some(UID))))),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let theirs = |name: &str, command: Vec<String>, mounts| Container {
        name: name.to_owned(),
        image: Some(proxyserv.image.clone()),
        image_pull_policy: proxyserv.pull_policy.map(PullPolicy::as_str).map(str::to_owned),
        command: Some(command),
        env: Some(vec![
            variable("NCHOME", nc_home.clone()),
            variable("OMNIHOME", format!("{nc_home}/omnibus")),
        ]),
        resources: Some(default_resources()),
        // Its group is the image's to say.
        security_context: Some(restricted(Some((PROXYSERV_UID, None)))),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    let tool = |args: &[String]| [&[format!("{TOOLS}/proxypair"), "proxyserv-files".to_owned()], args].concat();

    let tools = own(
        "tools",
        vec!["install".to_owned(), TOOLS.to_owned()],
        vec![mount("tools", TOOLS, false)],
    );
    let copy = theirs(
        "copy",
        tool(&["copy".to_owned(), format!("{nc_home}/etc"), ETC_COPY.to_owned()]),
        vec![mount("tools", TOOLS, true), mount("etc", ETC_COPY, false)],
    );
    let mut files_mounts = vec![
        mount("tools", TOOLS, true),
        mount("etc", &format!("{nc_home}/etc"), false),
        mount("private", PRIVATE, false),
        mount("tmp", "/tmp", false),
    ];
    if proxyserv.secret_name.is_some() {
        files_mounts.push(mount("secret", SECRET, true));
    }
    let files = theirs("files", tool(&file_args(pair, side, proxyserv)), files_mounts);
    let name = &pair.spec.side(side).server_name;
    let command = [
        &format!("{nc_home}/omnibus/bin/nco_proxyserv"),
        "-name",
        name,
        "-propsfile",
        &format!("{PRIVATE}/{name}.props"),
    ];
    let mut proxy = theirs(
        "proxy",
        command.map(str::to_owned).to_vec(),
        vec![
            mount("etc", &format!("{nc_home}/etc"), false),
            mount("private", PRIVATE, true),
            mount("log", &format!("{nc_home}/omnibus/log"), false),
            mount("var", &format!("{nc_home}/omnibus/var"), false),
            mount("tmp", "/tmp", false),
        ],
    );
    proxy.restart_policy = Some("Always".to_owned());
    proxy.resources = Some(resources.unwrap_or_else(default_resources));
    vec![tools, copy, files, proxy]
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

/// Volumes of the proxy, beside the gate's. Whatever may hold a password or a key is in memory.
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
                default_mode: Some(0o440),
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
