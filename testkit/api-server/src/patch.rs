//! The kinds of patch, on plain JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// RFC 7386.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// RFC 6902: `add`, `remove`, `replace` and `test`. The error says which operation failed.
pub(crate) fn json(target: &mut Value, operations: &Value) -> Result<(), String> {
    let operations = operations.as_array().ok_or("a JSON patch is an array")?;
    for operation in operations {
        operate(target, operation).ok_or_else(|| format!("the operation {operation} cannot be carried out"))?;
    }
    Ok(())
}

fn operate(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let value = operation.get("value");
    match operation["op"].as_str()? {
        "test" => (target.pointer(path)? == value?).then_some(()),
        "replace" => {
            *target.pointer_mut(path)? = value?.clone();
            Some(())
        }
        "add" if path.is_empty() => {
            *target = value?.clone();
            Some(())
        }
        "add" => {
            let (parent, last) = parent(target, path)?;
            match parent {
                Value::Object(parent) => {
                    parent.insert(last, value?.clone());
                }
                Value::Array(parent) => {
                    let at = if last == "-" { parent.len() } else { last.parse().ok()? };
                    (at <= parent.len()).then(|| parent.insert(at, Value::Null))?;
                    parent[at] = value?.clone();
                }
                _ => return None,
            }
            Some(())
        }
        "remove" => {
            let (parent, last) = parent(target, path)?;
            match parent {
                Value::Object(parent) => parent.remove(&last).map(drop),
                Value::Array(parent) => {
                    let at: usize = last.parse().ok()?;
                    (at < parent.len()).then(|| drop(parent.remove(at)))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

/// What each field manager applied last.
pub(crate) type Applied = BTreeMap<String, Value>;

/// Server-side apply: merges `configuration` into `target`, takes away what `manager` applied before, no longer applies, and nobody
/// else applied. Lists are atomic. Without `force`, a field that another manager applied with another value is a conflict: the error
/// names it.
pub(crate) fn apply(
    target: &mut Value,
    applied: &mut Applied,
    manager: &str,
    configuration: &Value,
    force: bool,
) -> Result<(), String> {
    let leaves = leaves(configuration);
    let others: Vec<&Value> = applied
        .iter()
        .filter(|(other, _)| *other != manager)
        .map(|(_, value)| value)
        .collect();
    if !force {
        for (path, value) in &leaves {
            let differs = |other: &Value| find(other, path).is_some_and(|other| other != value);
            if !value.is_object() && others.iter().any(|other| differs(other)) {
                return Err(format!("conflict with another manager: .{}", path.join(".")));
            }
        }
    }
    let before = applied.get(manager).map(self::leaves).unwrap_or_default();
    for path in before.keys() {
        if find(configuration, path).is_none() && others.iter().all(|other| find(other, path).is_none()) {
            remove(target, path);
        }
    }
    lay_over(target, configuration);
    applied.insert(manager.to_owned(), configuration.clone());
    Ok(())
}

fn lay_over(target: &mut Value, configuration: &Value) {
    match configuration {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                lay_over(&mut target[key], value);
            }
        }
        other => *target = other.clone(),
    }
}

type Path = Vec<String>;

/// The fields that hold a value that is no object. Those that identify an object belong to nobody.
fn leaves(value: &Value) -> BTreeMap<Path, Value> {
    fn walk(value: &Value, path: &mut Path, leaves: &mut BTreeMap<Path, Value>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    path.push(key.clone());
                    walk(value, path, leaves);
                    path.pop();
                }
            }
            Value::Null => {}
            other => {
                leaves.insert(path.clone(), other.clone());
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk(value, &mut Path::new(), &mut leaves);
    leaves.retain(|path, _| {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        !matches!(
            path.as_slice(),
            ["apiVersion" | "kind"] | ["metadata", "name" | "namespace" | "uid" | "resourceVersion"]
        )
    });
    leaves
}

fn find<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Removes a field, and the objects that are empty without it.
fn remove(value: &mut Value, path: &[String]) {
    let ([key, rest @ ..], Value::Object(fields)) = (path, value) else {
        return;
    };
    if let (false, Some(inner)) = (rest.is_empty(), fields.get_mut(key)) {
        remove(inner, rest);
        if inner.as_object().is_none_or(|inner| !inner.is_empty()) {
            return;
        }
    }
    fields.remove(key);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_sets_and_removes() {
        let mut object = json!({"a": {"b": 1, "c": [1, 2]}, "d": 2});
        merge(
            &mut object,
            &json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}}),
        );
        assert_eq!(object, json!({"a": {"c": [3]}, "d": 2, "e": {"g": 1}}));
    }

    #[test]
    fn a_json_patch_of_all_operations() {
        let mut object = json!({"a": {"x/y": 1}, "list": [1, 3]});
        let patch = json!([
            {"op": "test", "path": "/a/x~1y", "value": 1},
            {"op": "replace", "path": "/a/x~1y", "value": 2},
            {"op": "add", "path": "/list/1", "value": 2},
            {"op": "add", "path": "/list/-", "value": 4},
            {"op": "remove", "path": "/list/0"},
            {"op": "add", "path": "/b", "value": {"c": 1}},
        ]);
        json(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": {"x/y": 2}, "list": [2, 3, 4], "b": {"c": 1}}));
    }

    #[test]
    fn a_json_patch_fails_where_it_does_not_fit() {
        for operation in [
            json!({"op": "test", "path": "/a", "value": 2}),
            json!({"op": "replace", "path": "/b", "value": 2}),
            json!({"op": "remove", "path": "/b"}),
            json!({"op": "add", "path": "/b/c", "value": 2}),
            json!({"op": "add", "path": "/list/9", "value": 2}),
        ] {
            let mut object = json!({"a": 1, "list": []});
            assert!(json(&mut object, &json!([operation])).is_err(), "{operation}");
        }
    }

    #[test]
    fn apply_keeps_what_others_set_and_takes_back_its_own() {
        let mut applied = Applied::new();
        let mut object = json!({"data": {"theirs": "1"}});
        let labelled = json!({"metadata": {"labels": {"a": "b"}}, "data": {"mine": "1", "old": "1"}});
        apply(&mut object, &mut applied, "me", &labelled, true).unwrap();
        apply(&mut object, &mut applied, "me", &json!({"data": {"mine": "2"}}), true).unwrap();
        assert_eq!(object, json!({"data": {"theirs": "1", "mine": "2"}}));
    }

    #[test]
    fn what_two_managers_applied_stays_while_one_of_them_applies_it() {
        let mut applied = Applied::new();
        let mut object = json!({});
        let both = json!({"data": {"shared": "1"}});
        apply(&mut object, &mut applied, "a", &both, false).unwrap();
        apply(&mut object, &mut applied, "b", &both, false).unwrap();
        apply(&mut object, &mut applied, "a", &json!({}), false).unwrap();
        assert_eq!(object, both);
        apply(&mut object, &mut applied, "b", &json!({}), false).unwrap();
        assert_eq!(object, json!({}));
    }

    #[test]
    fn apply_without_force_does_not_overwrite_another_manager() {
        let mut applied = Applied::new();
        let mut object = json!({});
        apply(&mut object, &mut applied, "a", &json!({"data": {"key": "1"}}), false).unwrap();
        let other = json!({"data": {"key": "2"}});
        let refused = apply(&mut object, &mut applied, "b", &other, false);
        assert_eq!(refused, Err("conflict with another manager: .data.key".to_owned()));
        assert_eq!(object["data"]["key"], "1");
        apply(&mut object, &mut applied, "b", &other, true).unwrap();
        assert_eq!(object["data"]["key"], "2");
    }
}
