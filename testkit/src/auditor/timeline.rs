//! What the routing of a pair was at every revision of the API server, and whether it was ever as it must not be.
//!
//! Service, EndpointSlices and pods are watched on three connections, whose events arrive in any order. Their resourceVersions are
//! revisions of one store, so the journal sorted by them is what really was, one change at a time. Each state between two changes is judged:
//!
//! 1. The virtual Service, once it exists, is there, and its selector is the pair's labels and exactly one side.
//! 2. Its EndpointSlices together never hold endpoints of both sides. A switch may therefore be one update of one slice (what the
//!    endpoint controller does, as both sides have the same ports), or an emptier and a filler in two; never a mixture.
//! 3. They never lose their last endpoint to anything but its end: an endpoint may be the last to leave only if its pod has been deleted or
//!    has finished. Then the fault, and not a switch, has taken it. What follows is the time until the switch, which probes measure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Label whose value is the side.
pub const SIDE: &str = "proxypair.dev/side";

/// What an object is, and what matters of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The virtual Service and what it selects.
    Service(BTreeMap<String, String>),
    /// An EndpointSlice of it, and the pods behind its endpoints.
    Slice(BTreeSet<String>),
    /// A proxy pod.
    Pod {
        /// Value of its side label.
        side: String,
        /// Its containers have ended for good.
        finished: bool,
    },
}

/// Kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Service.
    Service,
    /// EndpointSlice.
    Slice,
    /// Pod.
    Pod,
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision from which on it holds.
    pub revision: u64,
    /// When the watch told of it.
    pub seen: Timestamp,
    /// Of which object.
    pub kind: Kind,
    /// Of which object.
    pub name: String,
    /// What it is from then on; `None` when it is deleted.
    pub object: Option<Object>,
}

/// The routing between two changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// What the virtual Service selects; `None` without one.
    pub selector: Option<BTreeMap<String, String>>,
    /// The pods behind its endpoints.
    pub endpoints: BTreeSet<String>,
}

/// Something that was as it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When the watch told of it.
    pub seen: Timestamp,
    /// From which revision on.
    pub revision: u64,
    /// What.
    pub what: String,
}

/// A journal, judged.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Every routing that was, oldest first.
    pub steps: Vec<(Timestamp, u64, Routing)>,
    /// Everything that was as it must not be.
    pub violations: Vec<Violation>,
}

/// Replays a journal in the order of its revisions and judges every state. `labels` are those of the pair, without a side.
pub fn judge(mut journal: Vec<Change>, labels: &BTreeMap<String, String>) -> Judgement {
    journal.sort_by_key(|change| change.revision);
    let mut objects: BTreeMap<(Kind, String), Object> = BTreeMap::new();
    let mut sides: BTreeMap<String, String> = BTreeMap::new();
    let mut routing = Routing::default();
    let mut judgement = Judgement::default();
    for Change {
        revision,
        seen,
        kind,
        name,
        object,
    } in journal
    {
        if let Some(Object::Pod { side, .. }) = &object {
            sides.insert(name.clone(), side.clone());
        }
        match object {
            Some(object) => objects.insert((kind, name), object),
            None => objects.remove(&(kind, name)),
        };
        let next = routing_of(&objects);
        if next == routing {
            continue;
        }
        let mut violate = |what: String| judgement.violations.push(Violation { seen, revision, what });
        if let Some(what) = wrong_selector(routing.selector.as_ref(), next.selector.as_ref(), labels) {
            violate(what);
        }
        let serving: BTreeSet<_> = next
            .endpoints
            .iter()
            .map(|pod| sides.get(pod).map_or("?", String::as_str))
            .collect();
        if serving.len() > 1 {
            violate(format!("endpoints of more than one side: {:?}", next.endpoints));
        }
        if next.endpoints.is_empty() {
            let there = |pod: &&String| {
                matches!(
                    objects.get(&(Kind::Pod, (*pod).clone())),
                    Some(Object::Pod { finished: false, .. })
                )
            };
            let taken: Vec<_> = routing.endpoints.iter().filter(there).collect();
            if !taken.is_empty() {
                violate(format!("no endpoint is left, although {taken:?} did not end"));
            }
        }
        judgement.steps.push((seen, revision, next.clone()));
        routing = next;
    }
    judgement
}

fn routing_of(objects: &BTreeMap<(Kind, String), Object>) -> Routing {
    let mut routing = Routing::default();
    for object in objects.values() {
        match object {
            Object::Service(selector) => routing.selector = Some(selector.clone()),
            Object::Slice(pods) => routing.endpoints.extend(pods.iter().cloned()),
            Object::Pod { .. } => {}
        }
    }
    routing
}

fn wrong_selector(
    before: Option<&BTreeMap<String, String>>,
    now: Option<&BTreeMap<String, String>>,
    labels: &BTreeMap<String, String>,
) -> Option<String> {
    if before == now {
        return None;
    }
    let Some(selector) = now else {
        return Some("the virtual Service is gone".to_owned());
    };
    let right = ["primary", "backup"].iter().any(|side| {
        let mut right = labels.clone();
        right.insert(SIDE.to_owned(), (*side).to_owned());
        *selector == right
    });
    (!right).then(|| format!("the virtual Service selects {selector:?}"))
}

/// One line for each step, for people.
pub fn in_words(judgement: &Judgement) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (seen, revision, Routing { selector, endpoints }) in &judgement.steps {
        let side = selector.as_ref().map_or("no Service", |selector| {
            selector.get(SIDE).map_or("no side", String::as_str)
        });
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{seen} revision {revision}: selects {side}, endpoints {endpoints:?}"
        );
    }
    for Violation { seen, revision, what } in &judgement.violations {
        let _ = writeln!(text, "{seen} revision {revision}: VIOLATION: {what}");
    }
    text
}
