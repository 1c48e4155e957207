//! Which objects a list or a watch is about.

use serde_json::Value;

use crate::{key::Key, request::Request};

/// A collection, narrowed by selectors.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    group: String,
    resource: String,
    namespace: Option<String>,
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

impl Selection {
    pub(crate) fn of(request: &Request) -> Self {
        let selector = |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
        Self {
            group: request.group.clone(),
            resource: request.resource.clone(),
            namespace: request.namespace.clone(),
            labels: split(selector("labelSelector")).map(requirement).collect(),
            fields: split(selector("fieldSelector")).filter_map(field).collect(),
        }
    }

    pub(crate) fn matches(&self, key: &Key, object: &Value) -> bool {
        key.group == self.group
            && key.resource == self.resource
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
            && self.labels.iter().all(|requirement| requirement.holds(object))
            && self.fields.iter().all(|(path, equal, value)| {
                let found = path.split('.').try_fold(object, |object, key| object.get(key));
                (found.and_then(Value::as_str).unwrap_or_default() == value) == *equal
            })
    }
}

impl Requirement {
    fn holds(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        match self {
            Self::Exists(key) => label(key).is_some(),
            Self::Absent(key) => label(key).is_none(),
            Self::In(key, values) => label(key).is_some_and(|label| values.iter().any(|value| value == label)),
            Self::NotIn(key, values) => label(key).is_none_or(|label| values.iter().all(|value| value != label)),
        }
    }
}

/// Splits at the commas that are not in parentheses.
fn split(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    selector
        .split(move |letter| {
            match letter {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            letter == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn requirement(text: &str) -> Requirement {
    let owned = |text: &str| text.trim().to_owned();
    let set = |values: &str| {
        let values = values.trim().trim_start_matches('(').trim_end_matches(')');
        values.split(',').map(owned).collect()
    };
    if let Some((key, values)) = text.split_once(" notin ") {
        Requirement::NotIn(owned(key), set(values))
    } else if let Some((key, values)) = text.split_once(" in ") {
        Requirement::In(owned(key), set(values))
    } else if let Some((key, value)) = text.split_once("!=") {
        Requirement::NotIn(owned(key), vec![owned(value)])
    } else if let Some((key, value)) = text.split_once('=') {
        Requirement::In(owned(key), vec![owned(value.trim_start_matches('='))])
    } else if let Some(key) = text.strip_prefix('!') {
        Requirement::Absent(owned(key))
    } else {
        Requirement::Exists(owned(text))
    }
}

fn field(text: &str) -> Option<(String, bool, String)> {
    let (path, value) = text.split_once('=')?;
    let (path, equal) = match path.strip_suffix('!') {
        Some(path) => (path, false),
        None => (path, true),
    };
    Some((path.to_owned(), equal, value.trim_start_matches('=').to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(selector: &str) -> bool {
        let object = json!({"metadata": {"labels": {"app": "a", "tier": "b"}}});
        split(selector)
            .map(requirement)
            .all(|requirement| requirement.holds(&object))
    }

    #[test]
    fn label_selectors_of_every_form() {
        for holds in [
            "",
            "app",
            "app=a",
            "app==a,tier",
            "app in (x, a),tier",
            "tier notin (a)",
            "!other",
            "other!=x",
        ] {
            assert!(labels(holds), "{holds}");
        }
        for fails in [
            "other",
            "app=b",
            "app=a,tier=a",
            "app in (x,y)",
            "tier notin (a, b)",
            "!app",
            "app!=a",
        ] {
            assert!(!labels(fails), "{fails}");
        }
    }

    #[test]
    fn field_selectors_look_at_any_path() {
        let key = Key {
            group: String::new(),
            resource: "pods".to_owned(),
            namespace: "n".to_owned(),
            name: "p".to_owned(),
        };
        let selects = |fields: &str| {
            let selection = Selection {
                group: String::new(),
                resource: "pods".to_owned(),
                namespace: None,
                labels: Vec::new(),
                fields: split(fields).filter_map(field).collect(),
            };
            selection.matches(
                &key,
                &json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}}),
            )
        };
        assert!(selects("metadata.name=p,status.phase!=Failed"));
        assert!(!selects("metadata.name=q"));
        assert!(!selects("status.phase!=Running"));
    }
}
