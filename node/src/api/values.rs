//! Values as JSON: scalars as they are, bytes and timestamps as objects that name themselves.

use crdt::id::{hex, unhex};
use crdt::schema::Value;
use crdt::view::{Entry, Shown, View};
use serde_json::{Map, Value as Json, json};

/// A value as JSON.
pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => json!(flag),
        Value::Int(number) => json!(number),
        Value::Uint(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => json!({ "bytes": hex(bytes) }),
        Value::Timestamp(millis) => json!({ "timestamp_ms": millis }),
    }
}

/// A value from JSON; `None` for lists and other objects.
pub(crate) fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::String(text) => Value::Text(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::Int(number),
            (_, Some(number), _) => Value::Uint(number),
            (_, _, number) => Value::Float(number?),
        },
        Json::Object(map) if map.len() == 1 => match (map.get("bytes"), map.get("timestamp_ms")) {
            (Some(Json::String(digits)), _) => Value::Bytes(bytes_of(digits)?),
            (_, Some(Json::Number(millis))) => Value::Timestamp(millis.as_i64()?),
            _ => return None,
        },
        _ => return None,
    })
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| unhex::<1>(&digits[at..at + 2]).ok().map(|byte| byte[0])).collect()
}

/// How old a claimed time is, seconds; a claim from the future is 0 old.
pub(crate) fn age_s(now_ms: u64, time_s: i64) -> u64 {
    (now_ms / 1000).saturating_sub(u64::try_from(time_s).unwrap_or(0))
}

fn shown(shown: &Shown, now_ms: u64, names: &dyn Fn(&Shown) -> (String, String)) -> Map<String, Json> {
    let (author, carrier) = names(shown);
    let fields = [
        ("value", to_json(&shown.value)),
        ("author", json!(author)),
        ("carrier", json!(carrier)),
        ("age_s", json!(age_s(now_ms, shown.time_s))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An entry of a view: `{value, author, carrier, age_s, conflicts}`.
pub(crate) fn entry_to_json(entry: &Entry, now_ms: u64, names: &dyn Fn(&Shown) -> (String, String)) -> Json {
    let mut object = shown(&entry.read, now_ms, names);
    let others: Vec<Json> = entry.others.iter().map(|other| Json::Object(shown(other, now_ms, names))).collect();
    if !others.is_empty() {
        object.insert("conflicts".to_owned(), Json::Array(others));
        object.insert("rule".to_owned(), json!(crdt::view::RULE));
    }
    Json::Object(object)
}

/// A view as flat map from path to entry.
pub(crate) fn view_to_json(view: &View, now_ms: u64, names: &dyn Fn(&Shown) -> (String, String)) -> Json {
    Json::Object(view.iter().map(|(path, entry)| (path.clone(), entry_to_json(entry, now_ms, names))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// A change is signed only where it has just the value that was asked for, so JSON must not round.
        #[test]
        fn floats_survive_json(number in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let text = to_json(&Value::Float(number)).to_string();
            let read = from_json(&serde_json::from_str(&text).unwrap());
            proptest::prop_assert_eq!(read, Some(Value::Float(number)));
        }
    }

    #[test]
    fn values_round_trip() {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(-3),
            Value::Uint(u64::MAX),
            Value::Float(1.5),
            Value::Text("x".to_owned()),
            Value::Bytes(vec![0, 255]),
            Value::Timestamp(7),
        ];
        for value in values {
            assert_eq!(from_json(&to_json(&value)), Some(value));
        }
        assert_eq!(from_json(&json!([1])), None);
        assert_eq!(from_json(&json!({ "bytes": "0" })), None);
    }
}
