//! The stand-ins as pods: ObjectServers with their process agents, and fleets of probes. Their HTTP APIs are reached through the API
//! server, so that tests need no way into the cluster's network.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::DeleteParams;
use proxypair::check::APPLICATION;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{namespace::Namespace, wait::eventually};

/// The port of both APIs.
const API_PORT: u16 = 8080;
/// The port on which an ObjectServer serves probes.
pub const OBJECT_SERVER_PORT: u16 = 4100;
/// How long one answer may take.
const API_DEADLINE: Duration = Duration::from_secs(20);

/// The image that holds the stand-ins; `make image` makes it.
fn image() -> String {
    std::env::var("STAND_INS").unwrap_or_else(|_| "proxypair.test/stand-ins:dev".to_owned())
}

/// Asks the API of a pod.
async fn ask<T: DeserializeOwned>(namespace: &Namespace, pod: &str, method: &str, path: &str) -> Result<T> {
    let uri = format!(
        "/api/v1/namespaces/{}/pods/{pod}:{API_PORT}/proxy/{path}",
        namespace.name
    );
    let request = http::Request::builder().method(method).uri(&uri).body(Vec::new())?;
    let answer = timeout(API_DEADLINE, namespace.cluster.client.request(request)).await;
    answer
        .with_context(|| format!("{pod}: {method} {path}: no answer"))?
        .with_context(|| format!("{pod}: {method} {path}"))
}

/// A pod of the stand-ins' image, with a volume `data`.
pub fn pod(name: &str, labels: Value, node: Option<&str>, container: Value) -> Value {
    let mut container = container;
    container["image"] = json!(image());
    container["imagePullPolicy"] = json!("IfNotPresent");
    container["readinessProbe"] = json!({"tcpSocket": {"port": API_PORT}, "periodSeconds": 1});
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": node.map(|node| json!({"kubernetes.io/hostname": node})),
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [container],
        },
    })
}

/// Mounts Secrets into a container, each in the directory of its name below `/secrets`.
pub fn mount(container: &mut Value, secrets: &[String]) {
    let mounts = secrets
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/secrets/{name}")}));
    match &mut container["volumeMounts"] {
        Value::Array(present) => present.extend(mounts),
        absent => *absent = mounts.collect(),
    }
}

/// Gives a pod the volumes of Secrets.
pub fn bring(pod: &mut Value, secrets: &[String]) {
    let volumes = secrets
        .iter()
        .map(|name| json!({"name": name, "secret": {"secretName": name, "defaultMode": 0o440}}));
    if let Some(present) = pod["spec"]["volumes"].as_array_mut() {
        present.extend(volumes);
    }
}

/// A stand-in ObjectServer in a pod of its own.
#[derive(Clone)]
pub struct ObjectServer {
    /// Its name, such as AGG_P.
    pub name: String,
    pod: String,
    namespace: Namespace,
}

/// What an ObjectServer has beside its name.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Where it runs.
    pub node: Option<String>,
    /// Further options of the stand-in.
    pub arguments: Vec<String>,
    /// Secrets, each mounted in the directory of its name below `/secrets`.
    pub secrets: Vec<String>,
}

impl ServerOptions {
    /// Nothing but where it runs.
    pub fn on(node: Option<&str>) -> Self {
        Self {
            node: node.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// A row of `alerts.status`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Row {
    /// Which event it is.
    pub identifier: String,
    /// How often it came.
    pub tally: u64,
}

impl ObjectServer {
    /// Starts one below its agent, and a headless Service for its host name.
    pub async fn start(namespace: &Namespace, name: &str, options: &ServerOptions) -> Result<Self> {
        let ServerOptions {
            node,
            arguments: further,
            secrets,
        } = options;
        let pod_name = name.to_lowercase().replace('_', "-");
        let labels = json!({"app": pod_name});
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--listen=0.0.0.0:{OBJECT_SERVER_PORT}"),
            "--data=/data".to_owned(),
            format!("--agent-listen=0.0.0.0:{API_PORT}"),
        ];
        if name.ends_with("_B") {
            arguments.push("--backup".to_owned());
        }
        arguments.extend(further.iter().cloned());
        let mut container = json!({
            "name": "objectserver",
            "command": ["/objectserver"],
            "args": arguments,
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        });
        namespace.apply::<Service>(host_name(&pod_name, &pod_name)).await?;
        mount(&mut container, secrets);
        let mut object = pod(&pod_name, labels.clone(), node.as_deref(), container);
        bring(&mut object, secrets);
        namespace.apply::<Pod>(object).await?;
        namespace.until_ready(&pod_name).await?;
        Ok(Self {
            name: name.to_owned(),
            pod: pod_name,
            namespace: namespace.clone(),
        })
    }

    /// Takes its host name out of DNS, or brings it back.
    pub async fn set_resolvable(&self, resolvable: bool) -> Result<()> {
        let app = if resolvable { &self.pod } else { "nobody" };
        self.namespace
            .apply::<Service>(host_name(&self.pod, app))
            .await
            .map(drop)
    }

    /// Its host name, from anywhere in the cluster.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.pod, self.namespace.name)
    }

    /// The address of its pod.
    pub async fn address(&self) -> Result<String> {
        let pod = self.namespace.api::<Pod>().get(&self.pod).await?;
        let address = pod.status.and_then(|status| status.pod_ip);
        address.with_context(|| format!("{} has no address", self.pod))
    }

    /// Starts the server again, with the certificate in a Secret that is mounted in it.
    pub async fn restart_with_certificate(&self, secret: &str) -> Result<()> {
        self.agent("POST", &format!("certificate?directory=/secrets/{secret}"))
            .await?;
        self.restart().await
    }

    /// How many logins it has taken since it was started, whoever came.
    pub async fn logins(&self) -> Result<u64> {
        let status = self.agent("GET", "status").await?;
        let logins = status["logins"].as_object().context("it does not run")?;
        Ok(logins.values().filter_map(Value::as_u64).sum())
    }

    /// Ends the server with SIGKILL; the agent lives and keeps it down.
    pub async fn kill(&self) -> Result<()> {
        self.agent("POST", "kill").await.map(drop)
    }

    /// Has its agent end it with SIGKILL so much later, for a time in which the agent cannot be asked.
    pub async fn kill_after(&self, delay: Duration) -> Result<()> {
        let path = format!("kill?after={}ms", delay.as_millis());
        self.agent("POST", &path).await.map(drop)
    }

    /// Whether it runs.
    pub async fn is_running(&self) -> Result<bool> {
        Ok(self.agent("GET", "status").await?["running"] == true)
    }

    /// Starts the server again; returns when it listens.
    pub async fn restart(&self) -> Result<()> {
        self.agent("POST", "start").await.map(drop)
    }

    /// How many sessions are logged in, without those of the operator's checks and of gateways.
    pub async fn sessions(&self) -> Result<u64> {
        let sessions = self.connections().await?;
        let are_probes = sessions
            .iter()
            .filter(|session| !matches!(session["AppName"].as_str(), Some(APPLICATION | "GATEWAY")));
        Ok(are_probes.count() as u64)
    }

    /// How many logins of the operator's checks it has refused since it was started.
    pub async fn refused_logins(&self) -> Result<u64> {
        let status = self.agent("GET", "status").await?;
        Ok(status["refused_logins"][APPLICATION].as_u64().unwrap_or_default())
    }

    /// `catalog.connections`.
    pub async fn connections(&self) -> Result<Vec<Value>> {
        match self.agent("GET", "sessions").await? {
            Value::Array(sessions) => Ok(sessions),
            other => anyhow::bail!("{}: no sessions: {other}", self.name),
        }
    }

    /// Rows that a query of this test's own finds.
    pub async fn select(&self, sql: &str) -> Result<Vec<Value>> {
        ask(
            &self.namespace,
            &self.pod,
            "GET",
            &format!("sql?q={}", sql.replace('%', "%25").replace(' ', "+")),
        )
        .await
    }

    /// All events it holds, whether it runs or not.
    pub async fn rows(&self) -> Result<Vec<Row>> {
        let path = "sql?q=select+Identifier,+Tally+from+alerts.status";
        ask(&self.namespace, &self.pod, "GET", path).await
    }

    /// Asks its agent.
    pub async fn agent(&self, method: &str, path: &str) -> Result<Value> {
        ask(&self.namespace, &self.pod, method, path).await
    }
}

/// A headless Service: the host name of the pod with this label.
fn host_name(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": {"app": app},
            "ports": [{"name": "tds", "port": OBJECT_SERVER_PORT}],
        },
    })
}

/// A stand-in gateway between two ObjectServers.
#[derive(Clone)]
pub struct Gateway {
    pod: String,
    namespace: Namespace,
}

impl Gateway {
    /// Starts it.
    pub async fn start(namespace: &Namespace, arguments: &[String], secrets: &[String]) -> Result<Self> {
        let name = "gateway";
        let mut all = vec![format!("--listen=0.0.0.0:{API_PORT}")];
        all.extend(arguments.iter().cloned());
        let mut container = json!({"name": name, "command": ["/gateway"], "args": all});
        mount(&mut container, secrets);
        let mut object = pod(name, json!({"app": name}), None, container);
        bring(&mut object, secrets);
        namespace.apply::<Pod>(object).await?;
        namespace.until_ready(name).await?;
        Ok(Self {
            pod: name.to_owned(),
            namespace: namespace.clone(),
        })
    }

    /// Asks its API.
    pub async fn ask(&self, method: &str, path: &str) -> Result<Value> {
        ask(&self.namespace, &self.pod, method, path).await
    }
}

/// Probes in a pod, sending until they are told to stop.
#[derive(Clone)]
pub struct Fleet {
    /// The pod, and the first part of all identifiers.
    pub name: String,
    /// How many probes it has.
    pub probes: u64,
    namespace: Namespace,
}

/// How the probes of a fleet behave.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// How many.
    pub probes: u64,
    /// Events per second of each.
    pub rate: u64,
    /// How long each waits for an acknowledgement; zero waits for ever, as OMNIbus does out of the box.
    pub network_timeout: Duration,
    /// How long connecting may take, and how long the login after it.
    pub connect_timeout: Duration,
    /// Pause after a failed attempt to connect.
    pub reconnect_delay: Duration,
    /// Where they run.
    pub node: Option<String>,
    /// Further options of the stand-in.
    pub arguments: Vec<String>,
    /// Secrets, each mounted in the directory of its name below `/secrets`.
    pub secrets: Vec<String>,
    /// A ConfigMap with an `omni.dat`, and the name in it to connect to; without it the probes are given an address.
    pub omni_dat: Option<(String, String)>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            probes: 10,
            rate: 20,
            network_timeout: Duration::ZERO,
            connect_timeout: Duration::from_secs(2),
            reconnect_delay: Duration::from_millis(20),
            node: None,
            arguments: Vec::new(),
            secrets: Vec::new(),
            omni_dat: None,
        }
    }
}

/// What a fleet reports.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Over all probes.
    pub totals: Totals,
    /// One for each mark.
    pub windows: Vec<Window>,
    /// Each probe.
    pub probes: Vec<ProbeReport>,
}

/// Counters over all probes.
#[derive(Clone, Debug, Deserialize)]
pub struct Totals {
    /// Acknowledgements by ObjectServer.
    pub answered_by: BTreeMap<String, u64>,
    /// Open sessions by ObjectServer.
    pub sessions: BTreeMap<String, u64>,
    /// Failed attempts to connect, by kind.
    pub connect_failures: BTreeMap<String, u64>,
    /// Sessions after the first of each probe.
    pub reconnects: u64,
}

/// What happened after a mark.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// The mark's name.
    pub name: String,
    /// The longest time that any probe was without an acknowledgement.
    pub longest_gap_ms: Option<f64>,
}

/// What one probe did.
#[derive(Clone, Debug, Deserialize)]
pub struct ProbeReport {
    /// Its number.
    pub probe: u64,
    /// Numbers of the events that were acknowledged, first and last of each range.
    pub acknowledged_ranges: Vec<[u64; 2]>,
}

impl Fleet {
    /// Starts a fleet that sends to `server`, as HOST:PORT, unless its options name another.
    pub async fn start(namespace: &Namespace, name: &str, server: &str, options: &FleetOptions) -> Result<Self> {
        let FleetOptions {
            probes,
            rate,
            network_timeout,
            connect_timeout,
            reconnect_delay,
            node,
            arguments: further,
            secrets,
            omni_dat,
        } = options;
        let server = omni_dat.as_ref().map_or(server, |(_, server)| server);
        let mut arguments = vec![
            format!("--name={name}"),
            format!("--server={server}"),
            format!("--probes={probes}"),
            format!("--rate={rate}"),
            format!("--network-timeout={}ms", network_timeout.as_millis()),
            format!("--connect-timeout={}ms", connect_timeout.as_millis()),
            format!("--reconnect-delay={}ms", reconnect_delay.as_millis()),
            format!("--listen=0.0.0.0:{API_PORT}"),
        ];
        arguments.extend(further.iter().cloned());
        if omni_dat.is_some() {
            arguments.push("--omni-dat=/omni-dat/omni.dat".to_owned());
        }
        let mut container = json!({"name": "probe", "command": ["/probe"], "args": arguments});
        mount(&mut container, secrets);
        if omni_dat.is_some()
            && let Some(mounts) = container["volumeMounts"].as_array_mut()
        {
            mounts.push(json!({"name": "omni-dat", "mountPath": "/omni-dat"}));
        }
        let mut object = pod(name, json!({"app": "probes"}), node.as_deref(), container);
        bring(&mut object, secrets);
        if let (Some((config_map, _)), Some(volumes)) = (omni_dat, object["spec"]["volumes"].as_array_mut()) {
            volumes.push(json!({"name": "omni-dat", "configMap": {"name": config_map}}));
        }
        namespace.apply::<Pod>(object).await?;
        namespace.until_ready(name).await?;
        Ok(Self {
            name: name.to_owned(),
            probes: *probes,
            namespace: namespace.clone(),
        })
    }

    /// What has happened until now.
    pub async fn report(&self) -> Result<Report> {
        self.request("GET", "report").await
    }

    /// Asks the probes' API.
    pub async fn request<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T> {
        ask(&self.namespace, &self.name, method, path).await
    }

    /// Begins a window of the report.
    pub async fn mark(&self, window: &str) -> Result<()> {
        self.request::<Value>("POST", &format!("mark?name={window}"))
            .await
            .map(drop)
    }

    /// The longest time that any probe was without an acknowledgement since the mark.
    pub async fn longest_gap(&self, window: &str) -> Result<Duration> {
        let report = self.report().await?;
        let window = report
            .windows
            .iter()
            .find(|found| found.name == window)
            .context("no such window")?;
        Ok(Duration::from_secs_f64(
            window.longest_gap_ms.unwrap_or_default() / 1000.0,
        ))
    }

    /// Waits until every probe has its session with `server`, and each has sent events to it.
    pub async fn until_all_on(&self, server: &str, deadline: Duration) -> Result<()> {
        eventually(
            deadline,
            format!("every probe of {} sends to {server}", self.name),
            async || {
                let Totals {
                    sessions,
                    answered_by,
                    connect_failures,
                    ..
                } = self.report().await?.totals;
                let here = sessions.get(server) == Some(&self.probes) && sessions.len() == 1;
                ensure!(
                    here,
                    "sessions {sessions:?}, answered by {answered_by:?}, failures {connect_failures:?}"
                );
                Ok(())
            },
        )
        .await?;
        self.until_acknowledged_by(server, self.probes * 5, deadline).await
    }

    /// Waits until `server` has acknowledged so many events more.
    pub async fn until_acknowledged_by(&self, server: &str, more: u64, deadline: Duration) -> Result<()> {
        let count = async || {
            anyhow::Ok(
                self.report()
                    .await?
                    .totals
                    .answered_by
                    .get(server)
                    .copied()
                    .unwrap_or_default(),
            )
        };
        let before = count().await?;
        eventually(
            deadline,
            format!("{server} acknowledges {more} events more"),
            async || {
                let now = count().await?;
                ensure!(now >= before + more, "{} of {more}", now - before);
                Ok(())
            },
        )
        .await
    }

    /// Makes no more events, sends what is kept, and ends the fleet.
    pub async fn stop(&self) -> Result<Report> {
        let report = ask(&self.namespace, &self.name, "POST", "stop")
            .await
            .context("the probes could not deliver what they kept")?;
        self.namespace
            .api::<Pod>()
            .delete(&self.name, &DeleteParams::default())
            .await?;
        Ok(report)
    }
}
