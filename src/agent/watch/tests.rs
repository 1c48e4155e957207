//! Against a scripted API server, on virtual time.

use fake_api_server::{ApiServer, Fault, Match};
use serde_json::json;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{agent::matching::Frontend, domain::pair::fixture};

fn service(name: &str, pair: &str, address: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "netcool",
            "labels": {"app.kubernetes.io/managed-by": "proxypair", "proxypair.dev/pair": pair},
        },
        "spec": {"clusterIP": address, "ports": [{"port": 4100}]},
    }))
    .unwrap()
}

fn pair(lost: &[&str]) -> ProxyPair {
    let gate = |address: &&str| json!({"side": "Primary", "pod": "proxy-v-primary-0", "address": address, "since": "2026-12-01T06:00:00Z"});
    let lost: Vec<_> = lost.iter().map(gate).collect();
    fixture::object(json!({"status": {"lostGates": lost}}))
}

struct Agent {
    metrics: AgentMetrics,
    known: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    fn of(server: &ApiServer) -> Self {
        let (out, known) = watch::channel(Known::nothing(Instant::now()));
        let metrics = AgentMetrics::default();
        let task = tokio::spawn(follow(server.client(), None, out, metrics.clone()));
        Self { metrics, known, task }
    }

    async fn sees(&mut self, what: impl FnMut(&Known) -> bool) -> Known {
        let seen = timeout(Duration::from_secs(600), self.known.wait_for(what)).await;
        seen.expect("it is seen in time").unwrap().clone()
    }
}

fn is_read(known: &Known) -> bool {
    known.blind.is_none()
}

#[tokio::test(start_paused = true)]
async fn a_declaration_is_seen_with_the_services_of_its_pair_and_so_is_its_withdrawal() {
    let server = ApiServer::new();
    server.put(&pair(&[]));
    server.put(&service("proxy-v", "proxy-v", "10.96.0.10"));
    server.put(&service("other", "other", "10.96.0.12"));
    let mut agent = Agent::of(&server);
    assert!(agent.sees(is_read).await.targets.is_empty());
    server.put(&pair(&["10.244.1.5"]));
    let known = agent.sees(|known| !known.targets.is_empty()).await;
    let [target] = &known.targets[..] else {
        panic!("{known:?}")
    };
    assert_eq!(target.gates, ["10.244.1.5:4400".parse().unwrap()].into());
    assert_eq!(
        target.frontends,
        [Frontend::Address("10.96.0.10:4100".parse().unwrap())].into()
    );
    server.put(&pair(&[]));
    agent.sees(|known| known.targets.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_is_deleted_declares_nothing() {
    let server = ApiServer::new();
    server.put(&pair(&["10.244.1.5"]));
    server.put(&service("proxy-v", "proxy-v", "10.96.0.10"));
    let mut agent = Agent::of(&server);
    agent.sees(|known| is_read(known) && !known.targets.is_empty()).await;
    server.delete::<ProxyPair>("netcool", "proxy-v");
    agent.sees(|known| known.targets.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn of_a_pair_that_was_deleted_no_series_is_left_even_if_nobody_saw_it_go() {
    let server = ApiServer::new();
    server.put(&pair(&[]));
    let mut agent = Agent::of(&server);
    agent.sees(is_read).await;
    let key = PairKey {
        namespace: "netcool".to_owned(),
        name: "proxy-v".to_owned(),
    };
    agent.metrics.count_reset(&key, 1);
    server.fault(Match::any().always(), Fault::DisconnectBefore);
    server.end_watches();
    agent.sees(|known| known.blind.is_some()).await;
    server.delete::<ProxyPair>("netcool", "proxy-v");
    server.forget_history();
    server.clear_faults();
    agent.sees(is_read).await;
    let series = crate::agent::metrics::labels(&key);
    assert!(agent.metrics.sessions_reset.get(&series).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_cannot_be_read_hides_no_lost_gate() {
    let server = ApiServer::new();
    server.put(&pair(&["10.244.1.5"]));
    server.merge::<ProxyPair>("netcool", "proxy-v", &json!({"spec": {"primary": 7}}));
    server.put(&service("proxy-v", "proxy-v", "10.96.0.10"));
    let mut agent = Agent::of(&server);
    agent.sees(|known| is_read(known) && known.targets.len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_any_more_is_acted_on_for_thirty_seconds() {
    let server = ApiServer::new();
    server.put(&pair(&["10.244.1.5"]));
    server.put(&service("proxy-v", "proxy-v", "10.96.0.10"));
    let mut agent = Agent::of(&server);
    agent.sees(|known| is_read(known) && !known.targets.is_empty()).await;
    server.fault(Match::any().always(), Fault::DisconnectBefore);
    server.end_watches();
    let blind = agent.sees(|known| known.blind.is_some()).await;
    let since = blind.blind.as_ref().unwrap().since;
    assert!(
        blind.blind.as_ref().unwrap().reason.contains("cannot be read: "),
        "{blind:?}"
    );
    assert_eq!(blind.due(since + BELIEVED_FOR / 2).len(), 1);
    assert_eq!(blind.due(since + BELIEVED_FOR), []);
    // It stays the same failure, however often it is tried.
    sleep(BELIEVED_FOR * 4).await;
    assert_eq!(
        agent.known.borrow().blind.as_ref().map(|blind| blind.since),
        Some(since)
    );
    server.clear_faults();
    let again = agent.sees(is_read).await;
    assert_eq!(again.due(Instant::now()).len(), 1);
}
