//! The ConfigMap for probes: an `omni.dat` with the virtual pair, and the properties to set, each with its reason.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service};

use super::{labels::Map, metadata, selector};
use crate::{
    api::{ServiceType, Side, Sides},
    domain::pair::{Listener, Pair},
    omnibus::{OmniDatEntry, OmniDatServer, PropertyValue, omni_dat, property},
};

/// Key of the `omni.dat`.
pub const OMNI_DAT: &str = "omni.dat";
/// Key of the properties.
pub const PROBE_PROPS: &str = "probe.props";
/// Seconds by which a probe's timeout is longer than the operator's.
const AFTER_THE_OPERATOR: i64 = 5;

/// Addresses of the nodes that the pods of the sides run on, if they are known.
pub type Nodes = Sides<Option<String>>;

/// The addresses under which probes connect to the pair; `None` for a Service that has no address yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The virtual Service's.
    pub pair: Option<OmniDatServer>,
    /// Those of the Services of the sides.
    pub sides: Sides<Option<OmniDatServer>>,
}

/// The addresses of the Services: their names with type ClusterIP, a node and their own port of it with NodePort, the
/// load balancer's address with LoadBalancer. A side without a node gets that of the other: every node forwards to
/// every pod.
pub fn reach(pair: &Pair, virtual_service: &Service, sides: Sides<&Service>, nodes: &Nodes) -> Reach {
    let node = |side: Side| nodes[side].as_deref().or(nodes[side.other()].as_deref());
    Reach {
        pair: address(pair, virtual_service, Side::Primary, node(Side::Primary)),
        sides: Sides::from_fn(|side| address(pair, sides[side], side, node(side))),
    }
}

fn address(pair: &Pair, service: &Service, side: Side, node: Option<&str>) -> Option<OmniDatServer> {
    let ssl = *pair.listener(side) != Listener::Plain;
    let declared = u16::try_from(pair.spec.service.port).ok()?;
    let name = service.metadata.name.as_deref()?;
    let at = |host: &str, port| OmniDatServer::new(host, port, ssl).ok();
    match pair.spec.service.type_ {
        ServiceType::ClusterIP => at(&format!("{name}.{}.svc", pair.namespace), declared),
        ServiceType::NodePort => {
            let port = service.spec.as_ref()?.ports.as_ref()?.first()?.node_port?;
            at(node?, u16::try_from(port).ok()?)
        }
        ServiceType::LoadBalancer => {
            let ingress = service
                .status
                .as_ref()?
                .load_balancer
                .as_ref()?
                .ingress
                .as_ref()?
                .first()?;
            at(ingress.ip.as_deref().or(ingress.hostname.as_deref())?, declared)
        }
    }
}

/// The ConfigMap for probes.
pub fn probes(pair: &Pair, reach: &Reach) -> ConfigMap {
    ConfigMap {
        metadata: metadata(pair, pair.probes_name(), selector(pair), Map::new()),
        data: Some(BTreeMap::from([
            (OMNI_DAT.to_owned(), servers(pair, reach)),
            (PROBE_PROPS.to_owned(), properties(pair)),
        ])),
        ..ConfigMap::default()
    }
}

fn servers(pair: &Pair, reach: &Reach) -> String {
    let name = &pair.spec.server_name;
    let backup = &reach.sides.backup;
    let mut text = format!(
        "# For the probes of ProxyPair {}: add these entries to $NCHOME/etc/omni.dat, then run nco_igen.\n\
         # {name} is the pair. Its first address is that of the side that serves. The second is the backup's own:\n\
         # probes use it without the operator when they cannot connect to the first.\n",
        pair.name
    );
    text += &entry(pair, name, &reach.pair, backup.clone());
    for (side, address) in reach.sides.iter() {
        text += &entry(pair, &pair.spec.side(side).server_name, address, None);
    }
    if reach.pair.is_some() && backup.is_none() {
        text += &format!("# {name} has no second address: {}\n", missing(pair.spec.service.type_));
    }
    text
}

/// An entry of the `omni.dat`, or a comment that says why there is none.
fn entry(pair: &Pair, name: &str, address: &Option<OmniDatServer>, second: Option<OmniDatServer>) -> String {
    // The names are valid, so there is an entry for each address.
    let entry = address
        .clone()
        .and_then(|address| OmniDatEntry::new(name, address, second).ok());
    match entry {
        Some(entry) => omni_dat(&[entry]),
        None => format!("# {name} is not here: {}\n", missing(pair.spec.service.type_)),
    }
}

fn missing(type_: ServiceType) -> &'static str {
    match type_ {
        ServiceType::ClusterIP => "its Service has no address.",
        ServiceType::NodePort => "no node of the proxy pods is known yet.",
        ServiceType::LoadBalancer => "its load balancer has no address yet.",
    }
}

fn properties(pair: &Pair) -> String {
    let names: Vec<&str> = Side::BOTH
        .into_iter()
        .filter_map(|side| common_name(pair, side))
        .collect();
    let mut text = format!("# For the properties file of each probe of ProxyPair {}.\n", pair.name);
    for Setting { reason, properties } in settings(pair, &names.join(",")) {
        text.push('\n');
        for line in reason.lines() {
            text += &format!("# {}\n", line.trim_start());
        }
        for (key, value) in properties {
            // All of the values are written here, or names that the API server has checked.
            text += &property(key, value).unwrap_or_default();
        }
    }
    text
}

/// Properties to set in a probe, and why.
struct Setting<'a> {
    reason: String,
    properties: Vec<(&'static str, PropertyValue<'a>)>,
}

/// `common_names` are those of the certificates that probes see, with commas between them; empty without TLS.
fn settings<'a>(pair: &'a Pair, common_names: &'a str) -> Vec<Setting<'a>> {
    let unresponsive_after = &pair.spec.health_check.unresponsive_after;
    let seconds = unresponsive_after.get().as_millis().div_ceil(1000);
    let timeout = i64::try_from(seconds)
        .unwrap_or(i64::MAX)
        .saturating_add(AFTER_THE_OPERATOR);
    let set = |reason: &str, properties: &[(&'static str, PropertyValue<'a>)]| Setting {
        reason: reason.to_owned(),
        properties: properties.to_vec(),
    };
    let mut settings = vec![
        set(
            "The pair in omni.dat. Its entry there has the second address, so there is no other server to name.",
            &[
                ("Server", PropertyValue::Text(&pair.spec.server_name)),
                ("ServerBackup", PropertyValue::Text("")),
            ],
        ),
        set(
            &format!(
                "Seconds without an answer after which a probe closes its connection; the default is never. Longer\n\
                 than the pair's unresponsiveAfter of {unresponsive_after}, so that the operator has moved the Service\n\
                 before the probe reconnects."
            ),
            &[("NetworkTimeout", PropertyValue::Number(timeout))],
        ),
        set(
            "Probes need not poll for the primary: they have one address to connect to, and the operator moves them\n\
             back.",
            &[("PollServer", PropertyValue::Number(0))],
        ),
        set(
            "A probe whose connection was closed stores events and reconnects after so many events or seconds. A\n\
             switch takes about a second; with OMNIbus's 15 events or 30 seconds a quiet probe would reconnect long after it.",
            &[
                ("RetryConnectionCount", PropertyValue::Number(1)),
                ("RetryConnectionTimeOut", PropertyValue::Number(5)),
            ],
        ),
        set(
            "Events are stored while there is no connection, even if there was none since the probe started.",
            &[
                ("StoreAndForward", PropertyValue::Number(1)),
                ("AutoSAF", PropertyValue::Number(1)),
            ],
        ),
    ];
    if !common_names.is_empty() {
        settings.push(set(
            "The Common Names of the certificates that a probe may see under the pair's name.",
            &[("SSLServerCommonName", PropertyValue::Text(common_names))],
        ));
    }
    settings
}

/// The Common Name of the certificate that probes see on one side: its proxy's, unless they reach through to the
/// ObjectServer.
fn common_name(pair: &Pair, side: Side) -> Option<&str> {
    let declared = pair.spec.side(side);
    match pair.listener(side) {
        Listener::Plain => None,
        Listener::PassThrough => Some(&declared.object_server.name),
        Listener::Terminate { .. } => Some(&declared.server_name),
    }
}

#[cfg(test)]
mod tests;
