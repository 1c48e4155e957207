//! The ConfigMap for probes: an `omni.dat` with the virtual pair, and the properties to set, each with its reason.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Service};

use super::{labels, metadata};
use crate::{
    api::{ServiceType, Side},
    domain::pair::{Listener, Pair},
    omnibus::{Entry, Server, Value, omni_dat, property},
};

/// Key of the `omni.dat`.
pub const OMNI_DAT: &str = "omni.dat";
/// Key of the properties.
pub const PROBE_PROPS: &str = "probe.props";
/// How much later than the operator a probe gives up a silent connection, in seconds.
const AFTER_THE_OPERATOR: u64 = 5;

/// Addresses of the nodes that the pods of primary and backup run on, as far as they are known.
pub type Nodes = [Option<String>; 2];

/// Where probes reach the pair; `None` for what has no address yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The virtual Service.
    pub pair: Option<Server>,
    /// The Services of primary and backup.
    pub sides: [Option<Server>; 2],
}

/// Where probes reach the Services as they are: by their names with type ClusterIP, at a node and their own port of it with NodePort, at
/// the load balancer with LoadBalancer.
pub fn reach(pair: &Pair, virtual_service: &Service, sides: [&Service; 2], nodes: &Nodes) -> Reach {
    let [primary, backup] = nodes.each_ref().map(Option::as_deref);
    let [of_primary, of_backup] = sides;
    Reach {
        pair: address(pair, virtual_service, Side::Primary, primary.or(backup)),
        sides: [
            address(pair, of_primary, Side::Primary, primary.or(backup)),
            address(pair, of_backup, Side::Backup, backup.or(primary)),
        ],
    }
}

fn address(pair: &Pair, service: &Service, side: Side, node: Option<&str>) -> Option<Server> {
    let ssl = *pair.listener(side) != Listener::Plain;
    let declared = u16::try_from(pair.spec.service.port).ok()?;
    let name = service.metadata.name.as_deref()?;
    let at = |host: &str, port| Server::new(host, port, ssl).ok();
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

/// The ConfigMap.
pub fn probes(pair: &Pair, reach: &Reach) -> ConfigMap {
    ConfigMap {
        metadata: metadata(pair, pair.probes_name(), labels(pair)),
        data: Some(BTreeMap::from([
            (OMNI_DAT.to_owned(), servers(pair, reach)),
            (PROBE_PROPS.to_owned(), properties(pair)),
        ])),
        ..ConfigMap::default()
    }
}

fn servers(pair: &Pair, reach: &Reach) -> String {
    let Reach {
        pair: virtual_pair,
        sides: [primary, backup],
    } = reach;
    let name = &pair.spec.server_name;
    let mut text = format!(
        "# For the probes of ProxyPair {}: add these entries to $NCHOME/etc/omni.dat, then run nco_igen.\n\
         # {name} is the pair. Its first address follows the side that serves. The second is the backup's own: there a probe gets by itself\n\
         # when it cannot reach the first.\n",
        pair.name
    );
    let servers = [(name, virtual_pair, backup.clone())].into_iter().chain([
        (&pair.spec.primary.server_name, primary, None),
        (&pair.spec.backup.server_name, backup, None),
    ]);
    for (name, address, second) in servers {
        // The names are valid, so there is an entry for each address.
        let entry = address
            .clone()
            .and_then(|address| Entry::new(name, address, second).ok());
        match entry {
            Some(entry) => text += &omni_dat(&[entry]),
            None => {
                text += &format!("# {name} is not here: {}\n", missing(pair.spec.service.type_));
            }
        }
    }
    if virtual_pair.is_some() && backup.is_none() {
        text += &format!("# {name} has no second address: {}\n", missing(pair.spec.service.type_));
    }
    text
}

fn missing(type_: ServiceType) -> &'static str {
    match type_ {
        ServiceType::ClusterIP => "its Service has no address.",
        ServiceType::NodePort => "no node of the proxy pods is known yet.",
        ServiceType::LoadBalancer => "its load balancer has no address yet.",
    }
}

fn properties(pair: &Pair) -> String {
    let unresponsive_after = pair.spec.health_check.unresponsive_after.get();
    let patience = unresponsive_after
        .as_millis()
        .div_ceil(1000)
        .try_into()
        .unwrap_or(u32::MAX);
    let timeout = i64::from(patience) + i64::try_from(AFTER_THE_OPERATOR).unwrap_or_default();
    let mut text = format!("# For the properties file of each probe of ProxyPair {}.\n", pair.name);
    let mut set = |reason: &str, properties: &[(&str, Value<'_>)]| {
        text.push('\n');
        for line in reason.lines() {
            text += &format!("# {}\n", line.trim_start());
        }
        for (key, value) in properties {
            // All of the values are written here, or names that the API server has checked.
            text += &property(key, *value).unwrap_or_default();
        }
    };
    set(
        "The pair in omni.dat. Its entry there has the second address, so there is no other server to name.",
        &[
            ("Server", Value::Text(&pair.spec.server_name)),
            ("ServerBackup", Value::Text("")),
        ],
    );
    set(
        &format!(
            "Seconds of silence after which a probe gives its connection up; by itself it never does. Longer than the pair's\n\
             unresponsiveAfter of {}, so that the operator has moved the Service before the probe comes back to it.",
            pair.spec.health_check.unresponsive_after
        ),
        &[("NetworkTimeout", Value::Number(timeout))],
    );
    set(
        "Probes need not look for the primary: behind one address there is nothing to poll, and the operator brings them home.",
        &[("PollServer", Value::Number(0))],
    );
    set(
        "A probe whose connection was closed stores events and tries again after so many events or seconds. A switch takes about a second;\n\
         with OMNIbus's 15 events or 30 seconds a quiet probe would come back long after it.",
        &[
            ("RetryConnectionCount", Value::Number(1)),
            ("RetryConnectionTimeOut", Value::Number(5)),
        ],
    );
    set(
        "Events are stored while there is no connection, also when there was none since the probe started.",
        &[("StoreAndForward", Value::Number(1)), ("AutoSAF", Value::Number(1))],
    );
    let names: Vec<&str> = Side::BOTH
        .into_iter()
        .filter_map(|side| common_name(pair, side))
        .collect();
    if !names.is_empty() {
        set(
            "The names in the certificates that a probe may meet under the pair's name.",
            &[("SSLServerCommonName", Value::Text(&names.join(",")))],
        );
    }
    text
}

/// The Common Name of the certificate that probes see on one side: its proxy's, unless they reach through to the ObjectServer.
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
