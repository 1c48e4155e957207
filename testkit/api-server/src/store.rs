//! The objects, their versions, and the history that watches read.

use std::collections::BTreeMap;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::{Map, Value, json};

use crate::{
    key::Key,
    patch::{self, Applied},
    request::{PatchKind, Request, Verb},
    selection::Selection,
};

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason, message }
    }

    fn not_found(key: &Key) -> Self {
        let Key { resource, name, .. } = key;
        Self::new(404, "NotFound", format!("{resource} {name:?} not found"))
    }

    fn conflict(key: &Key, why: &str) -> Self {
        let Key { resource, name, .. } = key;
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::new(409, "Conflict", message)
    }
}

/// HTTP status and object of an answer.
pub(crate) type Outcome = Result<(u16, Value), Refusal>;

/// One change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    /// The newest resourceVersion.
    pub(crate) version: u64,
    pub(crate) history: Vec<Change>,
    /// A watch from before this version is refused.
    pub(crate) oldest: u64,
    /// Watches that were opened before this number was raised have ended.
    pub(crate) era: u64,
    /// The version of the newest change of each kind.
    pub(crate) newest: BTreeMap<(String, String), u64>,
    objects: BTreeMap<Key, Value>,
    applied: BTreeMap<Key, Applied>,
    made: u64,
}

impl Store {
    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(crate) fn select(&self, selection: &Selection) -> impl Iterator<Item = &Value> {
        let selected = move |(key, object): &(&Key, &Value)| selection.matches(key, object);
        self.objects.iter().filter(selected).map(|(_, object)| object)
    }

    pub(crate) fn of_resource(&self, group: &str, resource: &str) -> impl Iterator<Item = &Value> {
        let wanted = move |(key, _): &(&Key, &Value)| key.group == group && key.resource == resource;
        self.objects.iter().filter(wanted).map(|(_, object)| object)
    }

    /// Carries out what is neither a list nor a watch.
    pub(crate) fn carry_out(&mut self, request: &Request) -> Outcome {
        let name = match &request.name {
            Some(name) => name.clone(),
            None => self.name_of(&request.body)?,
        };
        let key = Key {
            group: request.group.clone(),
            resource: request.resource.clone(),
            namespace: request.namespace.clone().unwrap_or_default(),
            name,
        };
        match request.verb {
            Verb::Create => self.create(&key, &request.body),
            Verb::Update => self.update(&key, request),
            Verb::Patch => self.patch(&key, request),
            Verb::Delete => self.delete(&key, &request.body),
            Verb::Get | Verb::List | Verb::Watch => {
                let found = self.objects.get(&key).cloned();
                found
                    .map(|object| (200, object))
                    .ok_or_else(|| Refusal::not_found(&key))
            }
        }
    }

    fn name_of(&self, body: &Value) -> Result<String, Refusal> {
        let metadata = &body["metadata"];
        match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
            (Some(name), _) if !name.is_empty() => Ok(name.to_owned()),
            (_, Some(prefix)) => Ok(format!("{prefix}{:05}", self.made + 1)),
            _ => Err(Refusal::new(
                422,
                "Invalid",
                "metadata.name: Required value: name or generateName is required",
            )),
        }
    }

    fn create(&mut self, key: &Key, body: &Value) -> Outcome {
        if self.objects.contains_key(key) {
            let Key { resource, name, .. } = key;
            return Err(Refusal::new(
                409,
                "AlreadyExists",
                format!("{resource} {name:?} already exists"),
            ));
        }
        if body["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|version| !version.is_empty())
        {
            return Err(Refusal::conflict(
                key,
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let mut object = body.clone();
        object.as_object_mut().map(|object| object.remove("status"));
        object["metadata"]
            .as_object_mut()
            .map(|metadata| metadata.remove("uid"));
        Ok((201, self.store(key, object)))
    }

    fn update(&mut self, key: &Key, request: &Request) -> Outcome {
        let stored = self.objects.get(key).ok_or_else(|| Refusal::not_found(key))?;
        let version = request.body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() {
            let message = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
            return Err(Refusal::new(422, "Invalid", message));
        }
        let next = only(request.subresource.as_deref(), stored, request.body.clone());
        self.replace(key, &request.body, next)
    }

    fn patch(&mut self, key: &Key, request: &Request) -> Outcome {
        let stored = self.objects.get(key);
        if stored.is_none() && (request.patch != Some(PatchKind::Apply) || request.subresource.is_some()) {
            return Err(Refusal::not_found(key));
        }
        let exists = stored.is_some();
        let stored = stored.cloned().unwrap_or_else(|| json!({}));
        let mut patched = stored.clone();
        let mut applied = None;
        match request.patch {
            Some(PatchKind::Json) => {
                patch::json(&mut patched, &request.body).map_err(|error| Refusal::new(422, "Invalid", error))?;
            }
            Some(PatchKind::Apply) => {
                let Some(manager) = request.query.get("fieldManager") else {
                    return Err(Refusal::new(
                        400,
                        "BadRequest",
                        "fieldManager is required for apply patch",
                    ));
                };
                let force = request.query.get("force").is_some_and(|force| force == "true");
                let mut managers = self.applied.get(key).cloned().unwrap_or_default();
                patch::apply(&mut patched, &mut managers, manager, &request.body, force)
                    .map_err(|error| Refusal::conflict(key, &error))?;
                applied = Some(managers);
            }
            _ => patch::merge(&mut patched, &request.body),
        }
        let outcome = if exists {
            let next = only(request.subresource.as_deref(), &stored, patched.clone());
            self.replace(key, &patched, next)
        } else {
            self.create(key, &patched)
        }?;
        if let (Some(applied), true) = (applied, self.objects.contains_key(key)) {
            self.applied.insert(key.clone(), applied);
        }
        Ok(outcome)
    }

    /// Stores `next`, if the version and the uid that were `sent` are those of the object.
    fn replace(&mut self, key: &Key, sent: &Value, next: Value) -> Outcome {
        let stored = self.objects.get(key).ok_or_else(|| Refusal::not_found(key))?;
        let differs = |field: &str| {
            let sent = sent["metadata"][field].as_str().filter(|sent| !sent.is_empty());
            sent.is_some_and(|sent| stored["metadata"][field] != sent)
        };
        if differs("uid") {
            return Err(Refusal::conflict(
                key,
                "Precondition failed: UID in precondition differs",
            ));
        }
        if differs("resourceVersion") {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refusal::conflict(key, why));
        }
        if differs("name") || differs("namespace") {
            return Err(Refusal::new(
                400,
                "BadRequest",
                "the name of the object does not match the name on the URL",
            ));
        }
        Ok((200, self.store(key, next)))
    }

    fn delete(&mut self, key: &Key, options: &Value) -> Outcome {
        let stored = self.objects.get(key).ok_or_else(|| Refusal::not_found(key))?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && stored["metadata"][field] != *wanted {
                return Err(Refusal::conflict(
                    key,
                    &format!("Precondition failed: {field} is another"),
                ));
            }
        }
        let is_pod = key.group.is_empty() && key.resource == "pods";
        let grace = options["gracePeriodSeconds"]
            .as_u64()
            .unwrap_or(if is_pod { 30 } else { 0 });
        if (is_pod && grace > 0) || has_finalizers(stored) {
            let mut object = stored.clone();
            if object["metadata"]["deletionTimestamp"].is_null() {
                object["metadata"]["deletionTimestamp"] = json!(Time(Timestamp::now()));
            }
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            return Ok((200, self.store(key, object)));
        }
        self.remove(key);
        Ok((
            200,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
        ))
    }

    /// Stores an object under the next version, unless nothing in it changes. Returns it as stored.
    pub(crate) fn store(&mut self, key: &Key, mut object: Value) -> Value {
        let before = self.objects.get(key).cloned();
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.name);
        if !key.namespace.is_empty() {
            metadata["namespace"] = json!(key.namespace);
        }
        match &before {
            Some(before) => {
                for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                    metadata[field] = before["metadata"][field].clone();
                }
                if *before == object {
                    return object;
                }
                if desired(before) != desired(&object) {
                    let generation = before["metadata"]["generation"].as_u64().unwrap_or(0);
                    object["metadata"]["generation"] = json!(generation + 1);
                }
            }
            None => {
                self.made += 1;
                if metadata.get("uid").is_none_or(Value::is_null) {
                    metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.made));
                }
                metadata["creationTimestamp"] = json!(Time(Timestamp::now()));
                metadata["generation"] = json!(1);
            }
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let let_go = before.as_ref().is_some_and(has_finalizers)
            && !object["metadata"]["deletionTimestamp"].is_null()
            && !has_finalizers(&object);
        if let_go {
            self.remove(key);
            return object;
        }
        self.objects.insert(key.clone(), object.clone());
        self.newest
            .insert((key.group.clone(), key.resource.clone()), self.version);
        self.history.push(Change {
            version: self.version,
            key: key.clone(),
            before,
            after: Some(object.clone()),
        });
        object
    }

    /// Takes an object away at once.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Value> {
        let object = self.objects.remove(key)?;
        self.applied.remove(key);
        self.version += 1;
        self.newest
            .insert((key.group.clone(), key.resource.clone()), self.version);
        self.history.push(Change {
            version: self.version,
            key: key.clone(),
            before: Some(object.clone()),
            after: None,
        });
        Some(object)
    }
}

/// What a write through a subresource makes of an object: the status alone, or all but the status.
fn only(subresource: Option<&str>, stored: &Value, sent: Value) -> Value {
    let (mut object, status) = match subresource {
        Some("status") => (stored.clone(), sent.get("status")),
        _ => (sent.clone(), stored.get("status")),
    };
    if let Some(object) = object.as_object_mut() {
        match status {
            Some(status) => object.insert("status".to_owned(), status.clone()),
            None => object.remove("status"),
        };
    }
    object
}

/// What a generation counts the changes of.
fn desired(object: &Value) -> Map<String, Value> {
    let mut fields = object.as_object().cloned().unwrap_or_default();
    fields.remove("metadata");
    fields.remove("status");
    fields
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty())
}
