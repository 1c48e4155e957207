//! The body of a watch: one JSON event in each line.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    request::Request,
    selection::Selection,
    server::lock,
    store::{Change, Store},
};

struct Watching {
    store: Arc<Mutex<Store>>,
    changed: watch::Receiver<()>,
    selection: Selection,
    metadata_only: bool,
    /// The last version that was looked at.
    seen: u64,
    era: u64,
    pending: VecDeque<Bytes>,
}

/// Opens a watch. One from version 0, or from none, begins with what there is.
pub(crate) fn open(
    store: &Arc<Mutex<Store>>,
    changed: watch::Receiver<()>,
    request: &Request,
) -> impl Stream<Item = Bytes> + Send + use<> {
    let query = |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
    let asked = query("resourceVersion").parse().unwrap_or(0);
    let whole = query("sendInitialEvents") == "true";
    let mut watching = Watching {
        store: Arc::clone(store),
        changed,
        selection: Selection::of(request),
        metadata_only: request.metadata_only,
        seen: asked,
        era: 0,
        pending: VecDeque::new(),
    };
    let current = lock(store);
    watching.era = current.era;
    if whole || asked == 0 {
        let lines = current
            .select(&watching.selection)
            .map(|object| watching.line("ADDED", object));
        watching.pending = lines.collect();
        watching.seen = current.version;
        if whole {
            watching.pending.push_back(end_of_initial_events(current.version));
        }
    } else if asked < current.oldest {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": 410, "reason": "Expired", "message": format!("too old resource version: {asked} ({})", current.oldest),
        });
        watching
            .pending
            .push_back(line(&json!({"type": "ERROR", "object": status})));
        // Nothing follows an error.
        watching.era = current.era.wrapping_sub(1);
    }
    drop(current);
    stream::unfold(watching, |mut watching| async move {
        loop {
            if let Some(line) = watching.pending.pop_front() {
                return Some((line, watching));
            }
            if !watching.look() {
                return None;
            }
            if watching.pending.is_empty() {
                watching.changed.changed().await.ok()?;
            }
        }
    })
}

impl Watching {
    /// Takes in what is new. False once the watch has ended.
    fn look(&mut self) -> bool {
        let store = Arc::clone(&self.store);
        let store = lock(&store);
        if store.era != self.era {
            return false;
        }
        let new = store.history.partition_point(|change| change.version <= self.seen);
        for change in &store.history[new..] {
            let event = self.event(change);
            self.pending.extend(event);
        }
        self.seen = store.version;
        true
    }

    /// What a change means to this watch: an object can come into the selection, or leave it, with its labels.
    fn event(&self, change: &Change) -> Option<Bytes> {
        let Change {
            version,
            key,
            before,
            after,
        } = change;
        let selected = |object: &&Value| self.selection.matches(key, object);
        match (before.as_ref().filter(selected), after.as_ref().filter(selected)) {
            (None, Some(after)) => Some(self.line("ADDED", after)),
            (Some(_), Some(after)) => Some(self.line("MODIFIED", after)),
            (Some(before), None) => {
                let mut last = before.clone();
                last["metadata"]["resourceVersion"] = json!(version.to_string());
                Some(self.line("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        let object = if self.metadata_only {
            metadata_of(object)
        } else {
            object.clone()
        };
        line(&json!({"type": kind, "object": object}))
    }
}

/// The `PartialObjectMetadata` of an object.
pub(crate) fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn end_of_initial_events(version: u64) -> Bytes {
    line(&json!({"type": "BOOKMARK", "object": {
        "kind": "Bookmark", "apiVersion": "v1",
        "metadata": {
            "resourceVersion": version.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"},
        },
    }}))
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}
