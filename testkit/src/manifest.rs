//! Putting one piece of a manifest over another.

use serde_json::Value;

/// Puts `over` over `into`, object by object.
pub fn merge(into: &mut Value, over: &Value) {
    match (into, over) {
        (Value::Object(into), Value::Object(over)) => {
            for (key, value) in over {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, over) => *into = over.clone(),
    }
}
