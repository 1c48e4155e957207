//! The auditor: it watches the routing of one pair without a pause, and in the end compares what probes had acknowledged with what the
//! ObjectServers hold.
//!
//! It begins before the pair is made, with a list and a watch from that list's revision; a watch that breaks goes on from the last revision
//! it has told of. If the API server no longer has that revision, the auditor has been blind, and says so as a violation.

pub mod timeline;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use futures::{StreamExt, future::try_join_all};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use proxypair::api::{LABEL_MANAGED_BY, LABEL_PAIR, LABEL_PART_OF, LABEL_ROUTED, LABEL_SIDE, MANAGED_BY, ROUTED};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::sleep};

use self::timeline::{Change, Judgement, Kind, Object, Violation, judge};
use crate::{
    namespace::Namespace,
    stand_ins::{Fleet, ObjectServer, Report},
    wait::eventually,
};

/// Pause before a broken watch is taken up again.
const WATCH_AGAIN: Duration = Duration::from_millis(50);

/// Watches one pair. Its watches end when it is dropped.
pub struct Auditor {
    namespace: Namespace,
    pair: String,
    journal: Arc<Journal>,
    watches: JoinSet<()>,
}

#[derive(Default)]
struct Journal {
    changes: Mutex<Vec<Change>>,
    blind: Mutex<Vec<Violation>>,
}

impl Auditor {
    /// Begins to watch. The pair need not exist yet.
    pub async fn start(namespace: &Namespace, pair: &str) -> Result<Self> {
        let journal = Arc::new(Journal::default());
        let mut watches = JoinSet::new();
        let [services, slices, pods] = selections(pair);
        watches.spawn(follow(namespace.api(), services, Kind::Service, service, Arc::clone(&journal)).await?);
        watches.spawn(follow(namespace.api(), slices, Kind::Slice, slice, Arc::clone(&journal)).await?);
        watches.spawn(follow(namespace.api(), pods, Kind::Pod, pod, Arc::clone(&journal)).await?);
        Ok(Self {
            namespace: namespace.clone(),
            pair: pair.to_owned(),
            journal,
            watches,
        })
    }

    /// What has been seen until now.
    pub fn judgement(&self) -> Judgement {
        let changes = self
            .journal
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let blind = self
            .journal
            .blind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let labels = [
            (LABEL_MANAGED_BY, MANAGED_BY),
            (LABEL_PART_OF, "netcool"),
            (LABEL_PAIR, &self.pair),
            (LABEL_ROUTED, ROUTED),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut judgement = judge(changes, &BTreeMap::from(labels));
        judgement.violations.extend(blind);
        judgement
    }

    /// Stops the probes, closes the books, and fails if the routing was ever wrong or an acknowledged event is lost.
    pub async fn finish(self, fleets: &[&Fleet], servers: &[&ObjectServer]) -> Result<Ledger> {
        let mut reports = Vec::new();
        for fleet in fleets {
            reports.push((fleet.name.clone(), fleet.stop().await?));
        }
        let ledger = Ledger::new(&reports, servers).await?;
        self.finish_watching().await?;
        ensure!(!ledger.acknowledged.is_empty(), "no event was acknowledged");
        ensure!(
            ledger.lost.is_empty(),
            "acknowledged and in no ObjectServer: {}",
            sample(ledger.lost.iter())
        );
        Ok(ledger)
    }

    /// Ends the watches, and fails if the routing was ever wrong.
    pub async fn finish_watching(mut self) -> Result<()> {
        self.catch_up().await?;
        self.watches.shutdown().await;
        let judgement = self.judgement();
        ensure!(
            judgement.violations.is_empty(),
            "the routing was wrong:\n{}",
            timeline::in_words(&judgement)
        );
        Ok(())
    }

    /// Waits until the watches have told of everything that is.
    async fn catch_up(&self) -> Result<()> {
        let [services, slices, pods] = selections(&self.pair);
        eventually(
            Duration::from_secs(20),
            "the auditor's watches have told of everything",
            async || {
                let mut found = revisions::<Service>(&self.namespace, services.clone(), Kind::Service).await?;
                found.append(&mut revisions::<EndpointSlice>(&self.namespace, slices.clone(), Kind::Slice).await?);
                found.append(&mut revisions::<Pod>(&self.namespace, pods.clone(), Kind::Pod).await?);
                let mut told = BTreeMap::new();
                for change in self
                    .journal
                    .changes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .iter()
                {
                    let key = (change.kind, change.name.clone());
                    match change.object {
                        Some(_) => told.insert(key, change.revision),
                        None => told.remove(&key),
                    };
                }
                ensure!(found == told, "there is {found:?}, told was {told:?}");
                Ok(())
            },
        )
        .await
    }
}

/// What the probes had acknowledged against what the ObjectServers hold.
#[derive(Debug)]
pub struct Ledger {
    /// Events acknowledged to a probe.
    pub acknowledged: BTreeSet<String>,
    /// Those that no ObjectServer holds.
    pub lost: Vec<String>,
    /// Events that were counted more than once or are in both, with how often. Where a gateway copies, nearly all are in both.
    pub duplicated: BTreeMap<String, u64>,
}

impl Ledger {
    async fn new(reports: &[(String, Report)], servers: &[&ObjectServer]) -> Result<Self> {
        let held = held_by(servers).await?;
        let mut ledger = Self {
            acknowledged: BTreeSet::new(),
            lost: Vec::new(),
            duplicated: BTreeMap::new(),
        };
        for (name, report) in reports {
            for probe in &report.probes {
                for number in probe.acknowledged_ranges.iter().flat_map(|&[first, last]| first..=last) {
                    let identifier = format!("{name}-{}-{number}", probe.probe);
                    if !held.contains_key(&identifier) {
                        ledger.lost.push(identifier.clone());
                    }
                    ledger.acknowledged.insert(identifier);
                }
            }
        }
        ledger.duplicated = duplicates_of(held);
        Ok(ledger)
    }

    /// The first of those acknowledged that a server does not hold itself, whatever the others hold.
    pub async fn missing_in(&self, server: &ObjectServer) -> Result<Option<&String>> {
        let rows = server.rows().await?;
        let held: BTreeSet<_> = rows.iter().map(|row| row.identifier.as_str()).collect();
        Ok(self.acknowledged.iter().find(|event| !held.contains(event.as_str())))
    }

    /// Fails if an event came twice that no ObjectServer had at the time of `held`: what is sent later is sent once. An event that was on its
    /// way to a machine that was cut off may still arrive there when the machine is back.
    pub fn expect_no_duplicates_beside(&self, held: &BTreeMap<String, u64>) -> Result<()> {
        let new: BTreeMap<_, _> = self
            .duplicated
            .iter()
            .filter(|(event, _)| !held.contains_key(*event))
            .collect();
        ensure!(new.is_empty(), "came more than once: {}", sample(new.keys()));
        Ok(())
    }

    /// Fails if an event came twice, other than those that had before: nothing may be sent again in a planned move.
    pub fn expect_no_duplicates_since(&self, before: &BTreeMap<String, u64>) -> Result<()> {
        let new: BTreeMap<_, _> = self
            .duplicated
            .iter()
            .filter(|(event, times)| before.get(*event) != Some(*times))
            .collect();
        ensure!(new.is_empty(), "came more than once: {}", sample(new.keys()));
        Ok(())
    }
}

/// How often each event came, over all ObjectServers.
pub async fn held_by(servers: &[&ObjectServer]) -> Result<BTreeMap<String, u64>> {
    let mut held = BTreeMap::new();
    for rows in try_join_all(servers.iter().map(|server| server.rows())).await? {
        for row in rows {
            *held.entry(row.identifier).or_default() += row.tally;
        }
    }
    Ok(held)
}

fn duplicates_of(held: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    held.into_iter().filter(|(_, times)| *times > 1).collect()
}

/// Events that came more than once, over all ObjectServers, with how often.
pub async fn duplicates(servers: &[&ObjectServer]) -> Result<BTreeMap<String, u64>> {
    Ok(duplicates_of(held_by(servers).await?))
}

fn sample<T: std::fmt::Debug>(list: impl ExactSizeIterator<Item = T>) -> String {
    let count = list.len();
    format!("{count} events, such as {:?}", list.take(20).collect::<Vec<_>>())
}

fn selections(pair: &str) -> [WatchParams; 3] {
    let watch = WatchParams::default();
    [
        watch.clone().fields(&format!("metadata.name={pair}")),
        watch.clone().labels(&format!("kubernetes.io/service-name={pair}")),
        watch.labels(&format!("{LABEL_PAIR}={pair}")),
    ]
}

fn as_list(selection: &WatchParams) -> ListParams {
    ListParams {
        label_selector: selection.label_selector.clone(),
        field_selector: selection.field_selector.clone(),
        ..ListParams::default()
    }
}

async fn revisions<K>(
    namespace: &Namespace,
    selection: WatchParams,
    kind: Kind,
) -> Result<BTreeMap<(Kind, String), u64>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let list = namespace.api::<K>().list(&as_list(&selection)).await?;
    Ok(list
        .iter()
        .map(|object| ((kind, object.name_any()), revision(object)))
        .collect())
}

fn revision<K: Resource>(object: &K) -> u64 {
    object
        .resource_version()
        .and_then(|revision| revision.parse().ok())
        .unwrap_or_default()
}

/// Lists, and gives the task that watches from there.
async fn follow<K>(
    api: Api<K>,
    selection: WatchParams,
    kind: Kind,
    read: fn(&K) -> Object,
    journal: Arc<Journal>,
) -> Result<impl Future<Output = ()> + Send + 'static>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let note = move |journal: &Journal, object: &K, is: bool| {
        journal
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Change {
                revision: revision(object),
                seen: Timestamp::now(),
                kind,
                name: object.name_any(),
                object: is.then(|| read(object)),
            });
    };
    let list = api.list(&as_list(&selection)).await?;
    let mut from = list.metadata.resource_version.clone().unwrap_or_default();
    list.iter().for_each(|object| note(&journal, object, true));
    Ok(async move {
        loop {
            let Ok(stream) = api.watch(&selection, &from).await else {
                sleep(WATCH_AGAIN).await;
                continue;
            };
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                        from = object.resource_version().unwrap_or(from);
                        note(&journal, &object, true);
                    }
                    Ok(WatchEvent::Deleted(object)) => {
                        from = object.resource_version().unwrap_or(from);
                        note(&journal, &object, false);
                    }
                    Ok(WatchEvent::Bookmark(bookmark)) => from = bookmark.metadata.resource_version,
                    Ok(WatchEvent::Error(status)) if status.code == 410 => {
                        let what = format!("the auditor was blind for {kind:?}: {}", status.message);
                        let violation = Violation {
                            seen: Timestamp::now(),
                            revision: 0,
                            what,
                        };
                        journal
                            .blind
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(violation);
                        return;
                    }
                    Ok(WatchEvent::Error(_)) | Err(_) => break,
                }
            }
            sleep(WATCH_AGAIN).await;
        }
    })
}

fn service(object: &Service) -> Object {
    Object::Service(
        object
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default(),
    )
}

fn slice(object: &EndpointSlice) -> Object {
    let target = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
        endpoint
            .target_ref
            .as_ref()
            .and_then(|target| target.name.clone())
            .unwrap_or_else(|| endpoint.addresses.join(","))
    };
    Object::Slice(object.endpoints.iter().map(target).collect())
}

fn pod(object: &Pod) -> Object {
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    Object::Pod {
        side: object.labels().get(LABEL_SIDE).cloned().unwrap_or_default(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
    }
}
