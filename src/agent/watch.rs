//! Follows ProxyPairs and the Services that the operator made for them, and publishes what is to be reset.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    core::{ApiResource, DeserializeGuard, NotUsed, Object},
    runtime::{
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    matching::{PairKey, Target},
    metrics::AgentMetrics,
    view::{View, owner},
};
use crate::{
    api::{LostGate, ProxyPair},
    cluster,
};

/// How long what was read is acted on when the API server can no longer be read. An idle connection that died without a word is noticed 25 s
/// later at the latest, so nothing older than a minute is acted on.
///
/// What is declared is withdrawn when its address has been given to another pod of the pair. An agent that did not learn of it for longer would
/// reset the sessions of that pod.
pub const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// What is known of the cluster.
#[derive(Clone, Debug)]
pub struct Known {
    /// The pairs with lost gates.
    pub targets: Arc<[Target]>,
    /// Set while something cannot be read.
    pub blind: Option<Blind>,
    /// Everything has been read once.
    pub has_been_read: bool,
}

/// What cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blind {
    /// When it was read last, or when this process began to try.
    pub since: Instant,
    /// Why, in words.
    pub reason: String,
}

impl Known {
    /// What is known at the start: nothing.
    #[must_use]
    pub fn nothing(now: Instant) -> Self {
        Self {
            targets: Arc::new([]),
            blind: Some(Blind {
                since: now,
                reason: "the ProxyPairs and their Services have not been read yet".to_owned(),
            }),
            has_been_read: false,
        }
    }

    /// What is to be reset now: nothing if it was read too long ago.
    #[must_use]
    pub fn due(&self, now: Instant) -> &[Target] {
        if self.is_believed(now) { &self.targets } else { &[] }
    }

    /// Whether what is known is new enough to act on.
    #[must_use]
    pub fn is_believed(&self, now: Instant) -> bool {
        self.blind
            .as_ref()
            .is_none_or(|blind| now.duration_since(blind.since) < BELIEVED_FOR)
    }
}

/// Of a ProxyPair what is used. An invalid spec does not keep its lost gates from being read.
type Declared = DeserializeGuard<Object<NotUsed, Declaration>>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Declaration {
    #[serde(default)]
    lost_gates: Vec<LostGate>,
}

/// A watched kind.
#[derive(Clone, Copy)]
enum Kind {
    Pairs,
    Services,
}

/// What the watches share.
struct Shared {
    state: Mutex<State>,
    out: watch::Sender<Known>,
    metrics: AgentMetrics,
}

struct State {
    view: View,
    /// What the list under way has brought.
    pairs: BTreeSet<PairKey>,
    services: BTreeSet<(PairKey, String)>,
    /// For each [`Kind`].
    blind: [Option<Blind>; 2],
}

/// Follows the cluster for ever, or one namespace of it.
pub async fn follow(client: Client, namespace: Option<String>, out: watch::Sender<Known>, metrics: AgentMetrics) {
    let namespace = namespace.as_deref();
    let kind = ApiResource::erase::<ProxyPair>(&());
    let pairs: Api<Declared> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    };
    let services: Api<Service> = cluster::api(&client, namespace);
    let unread = out.borrow().blind.clone();
    let shared = Shared {
        state: Mutex::new(State {
            view: View::default(),
            pairs: BTreeSet::new(),
            services: BTreeSet::new(),
            blind: [unread.clone(), unread],
        }),
        out,
        metrics,
    };
    tokio::join!(
        follow_all(pairs, cluster::config(), |event| shared.pair(event)),
        follow_all(services, cluster::ours(), |event| shared.service(event)),
    );
}

/// Hands all events of a kind to `seen`. After an error everything is listed again, so that [`Event::InitDone`] tells when all is known.
async fn follow_all<K>(api: Api<K>, config: watcher::Config, mut seen: impl FnMut(watcher::Result<Event<K>>))
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut backoff = watcher::DefaultBackoff::default();
    loop {
        let events = watcher(api.clone(), config.clone());
        pin_mut!(events);
        while let Some(event) = events.next().await {
            if matches!(event, Ok(Event::InitDone)) {
                backoff.reset();
            }
            let has_failed = event.is_err();
            seen(event);
            if has_failed {
                break;
            }
        }
        sleep(backoff.next().unwrap_or(BELIEVED_FOR)).await;
    }
}

impl Shared {
    fn pair(&self, event: watcher::Result<Event<Declared>>) {
        self.update(Kind::Pairs, event, |state, event| match event {
            Event::Init => state.pairs.clear(),
            Event::InitApply(pair) => {
                if let Some(pair) = state.declare(&pair) {
                    state.pairs.insert(pair);
                }
            }
            Event::Apply(pair) => {
                state.declare(&pair);
            }
            Event::Delete(pair) => {
                if let Some(pair) = key(&pair) {
                    self.metrics.forget(&pair);
                    state.view.forget(&pair);
                }
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut state.pairs);
                for gone in state.view.keep_pairs(&listed) {
                    self.metrics.forget(&gone);
                }
            }
        });
    }

    fn service(&self, event: watcher::Result<Event<Service>>) {
        self.update(Kind::Services, event, |state, event| match event {
            Event::Init => state.services.clear(),
            Event::InitApply(service) => {
                state.view.expose(&service);
                state
                    .services
                    .extend(owner(&service).map(|pair| (pair, service.name_any())));
            }
            Event::Apply(service) => state.view.expose(&service),
            Event::Delete(service) => state.view.withdraw(&service),
            Event::InitDone => {
                let listed = std::mem::take(&mut state.services);
                state.view.keep_services(&listed);
            }
        });
    }

    fn update<K>(&self, kind: Kind, event: watcher::Result<Event<K>>, take: impl FnOnce(&mut State, Event<K>)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) => {
                if matches!(event, Event::InitDone) {
                    state.blind[kind as usize] = None;
                }
                take(&mut state, event);
            }
            Err(error) => {
                let what = kind.as_str();
                let error = in_full(&error);
                warn!(error, what, "failed to watch");
                self.metrics.count_failure("watch");
                let since = state.blind[kind as usize].as_ref().map(|blind| blind.since);
                state.blind[kind as usize] = Some(Blind {
                    since: since.unwrap_or_else(Instant::now),
                    reason: format!("{what} cannot be read: {error}"),
                });
            }
        }
        let targets = state.view.targets();
        // The older one: what is acted on needs both.
        let blind = state.blind.iter().flatten().min_by_key(|blind| blind.since).cloned();
        self.out.send_if_modified(|known| {
            let is_new = known.targets[..] != targets || known.blind != blind;
            *known = Known {
                targets: targets.into(),
                has_been_read: known.has_been_read || blind.is_none(),
                blind,
            };
            is_new
        });
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pairs => "ProxyPairs",
            Self::Services => "Services",
        }
    }
}

impl State {
    fn declare(&mut self, pair: &Declared) -> Option<PairKey> {
        let key = key(pair)?;
        let lost = match &pair.0 {
            Ok(pair) => pair
                .status
                .as_ref()
                .map(|status| status.lost_gates.clone())
                .unwrap_or_default(),
            // What cannot be read declares nothing.
            Err(_) => Vec::new(),
        };
        self.view.declare(key.clone(), lost);
        Some(key)
    }
}

/// An error and what it came from, each once: the client's own text ends before the reason.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let sources = std::iter::successors(error.source(), |error| (*error).source());
    for source in sources.map(ToString::to_string) {
        if !text.contains(&source) {
            text = format!("{text}: {source}");
        }
    }
    text
}

fn key(pair: &Declared) -> Option<PairKey> {
    Some(PairKey {
        namespace: pair.namespace()?,
        name: pair.name_any(),
    })
}

#[cfg(test)]
mod tests;
