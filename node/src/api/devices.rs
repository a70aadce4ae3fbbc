//! Devices: facts, which they say of themselves, and assigned attributes, which operators say of them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use crdt::id::DeviceId;
use crdt::schema::{DocumentName, Kind, Value as Scalar};
use crdt::store::LogStore;
use crdt::view::{self, View};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::status::{name_of, presence_text};
use super::values::{age_s, entry_to_json, to_json};
use super::{Api, Path, Problem, Query, live};
use crate::agent::{FACTS, Node, Presence};

/// Finds the device that a name, a unique prefix of an id or an id stands for.
pub(crate) fn resolve(node: &Node, word: &str) -> Result<DeviceId, Problem> {
    let roster = node.engine.replica().roster();
    let by_name: Vec<DeviceId> = roster.devices().filter(|device| name_of(node, device) == word).collect();
    let by_id: Vec<DeviceId> = roster.devices().filter(|device| device.to_string().starts_with(word)).collect();
    let mut found = if by_name.is_empty() { by_id } else { by_name };
    match found.len() {
        0 => {
            let detail = format!("no device is called {word:?} or has an id that starts so");
            Err(Problem::not_found(detail).hint("fleetsync device ls"))
        }
        1 => Ok(found.remove(0)),
        _ => {
            let ids: Vec<String> = found.iter().map(ToString::to_string).collect();
            let detail = format!("{word:?} is ambiguous: {}", ids.join(", "));
            Err(Problem::bad_request(detail).hint("fleetsync device ls -o json"))
        }
    }
}

fn read(store: &dyn LogStore, kind: Kind, device: &DeviceId, prefix: &str) -> View {
    let document = DocumentName::of_device(kind, device);
    view::read(store, &document, prefix).unwrap_or_else(|error| {
        tracing::error!(%error, %document, "a document cannot be read");
        View::new()
    })
}

fn scalar(view: &View, path: &str) -> Value {
    view.get(path).map_or(Value::Null, |entry| to_json(&entry.read.value))
}

/// What memory has of a device.
struct Listed {
    device: DeviceId,
    name: String,
    zone: Option<String>,
    cordon: Option<String>,
    presence: String,
    away_since_ms: Option<u64>,
    standing: String,
}

impl Listed {
    fn of(node: &Node, device: DeviceId, presence: Presence) -> Listed {
        let roster = node.engine.replica().roster();
        let mut attributes = roster.attributes(&device);
        let mut attribute = |name: &str| attributes.remove(name).map(|attribute| attribute.value);
        Listed {
            device,
            name: name_of(node, &device),
            zone: attribute("zone"),
            cordon: attribute("cordon"),
            presence: presence_text(node, presence),
            away_since_ms: match presence {
                Presence::Away(since) => since,
                _ => None,
            },
            standing: format!("{:?}", roster.standing(&device)).to_lowercase(),
        }
    }

    fn row(&self, store: &dyn LogStore, now_ms: u64) -> Value {
        let views = FACTS.map(|kind| read(store, kind, &self.device, ""));
        let newest = views.iter().flat_map(|view| view.values()).map(|entry| entry.read.time_s).max();
        json!({
            "device": self.device.to_string(),
            "name": self.name,
            "zone": self.zone,
            "presence": self.presence,
            "away_since_ms": self.away_since_ms,
            "cpu_utilisation_permille": scalar(&views[2], "cpu.utilisation_permille"),
            "temperature_milli_celsius": scalar(&views[1], "temperature.hottest_milli_celsius"),
            "power_source": scalar(&views[1], "power.source"),
            "power_capacity_percent": scalar(&views[1], "power.capacity_percent"),
            "age_s": newest.map(|time_s| age_s(now_ms, time_s)),
            "source": scalar(&views[0], "collector.source"),
            "cordon": self.cordon,
            "standing": self.standing,
        })
    }
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let look = |node: &Node| {
        let presences = node.presences();
        let devices = presences.iter().map(|(device, presence)| Listed::of(node, *device, *presence));
        Ok((devices.collect::<Vec<_>>(), node.clock.wall_ms()))
    };
    let rows = |(devices, now_ms): (Vec<Listed>, u64), store: &dyn LogStore| {
        let mut rows: Vec<Value> = devices.iter().map(|device| device.row(store, now_ms)).collect();
        rows.sort_by_key(|row| row["name"].as_str().map(str::to_owned));
        Ok(Json(Value::Array(rows)))
    };
    api.read(look, rows).await
}

#[derive(Deserialize)]
pub(super) struct ShowQuery {
    #[serde(default)]
    path: String,
    /// Whether the device itself is to answer.
    #[serde(default)]
    live: bool,
}

/// What memory has of the device that is asked for.
struct Asked {
    device: DeviceId,
    name: String,
    presence: Option<String>,
    assigned: Map<String, Value>,
    /// The name of the node that answers.
    view: String,
    now_ms: u64,
}

impl Asked {
    fn of(node: &Node, word: &str, prefix: &str) -> Result<Asked, Problem> {
        let device = resolve(node, word)?;
        let now_ms = node.clock.wall_ms();
        Ok(Asked {
            device,
            name: name_of(node, &device),
            presence: node.presences().get(&device).map(|presence| presence_text(node, *presence)),
            assigned: assigned(node, &device, prefix, now_ms),
            view: name_of(node, &node.device()),
            now_ms,
        })
    }

    fn facts(&self, store: &dyn LogStore, prefix: &str) -> Map<String, Value> {
        let names = |_: &view::Shown| (self.name.clone(), self.name.clone());
        let mut facts = Map::new();
        for kind in FACTS {
            for (path, entry) in read(store, kind, &self.device, prefix) {
                let mut fact = entry_to_json(&entry, self.now_ms, &names);
                fact["origin"] = json!("fact");
                fact["document"] = json!(kind.name());
                fact["view"] = json!(self.view);
                facts.insert(path, fact);
            }
        }
        facts
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || path == prefix
        || (path.starts_with(prefix) && path.as_bytes().get(prefix.len()) == Some(&b'.'))
}

/// The name of an operator, or the first digits of its key.
pub(crate) fn operator_name(node: &Node, key: &crdt::id::Key) -> String {
    let operators = node.engine.replica().roster().operators();
    operators.get(key).map_or_else(|| key.short(), |operator| format!("{} ({})", operator.name, key.short()))
}

pub(super) fn assigned(node: &Node, device: &DeviceId, prefix: &str, now_ms: u64) -> Map<String, Value> {
    let attributes = node.engine.replica().roster().attributes(device);
    let paths: BTreeMap<String, _> =
        attributes.into_iter().map(|(name, attribute)| (name.replace('/', "."), attribute)).collect();
    let mut assigned = Map::new();
    for (path, attribute) in paths.into_iter().filter(|(path, _)| is_below(path, prefix)) {
        let mut value = json!({
            "value": attribute.value,
            "author": attribute.author.map(|author| operator_name(node, &author)),
            "age_s": now_ms.saturating_sub(attribute.time_ms) / 1000,
            "origin": "assigned",
            "version": attribute.version,
            "view": name_of(node, &node.device()),
        });
        if !attribute.others.is_empty() {
            value["conflicts"] = json!(attribute.others);
        }
        assigned.insert(path, value);
    }
    assigned
}

pub(super) async fn show(
    State(api): State<Api>,
    Path(word): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<Value>, Problem> {
    if query.live {
        return live::show(&api, word, query.path).await;
    }
    let path = query.path.clone();
    let look = move |node: &Node| Ok((Asked::of(node, &word, &path)?, word));
    let show = move |(asked, word): (Asked, String), store: &dyn LogStore| {
        let facts = asked.facts(store, &query.path);
        if facts.is_empty() && asked.assigned.is_empty() && !query.path.is_empty() {
            let detail = format!("{word} has no value at {}", query.path);
            return Err(Problem::not_found(detail).hint(format!("fleetsync device get {}", asked.device)));
        }
        Ok(Json(json!({
            "device": asked.device.to_string(),
            "name": asked.name,
            "presence": asked.presence,
            "assigned": asked.assigned,
            "facts": facts,
        })))
    };
    api.read(look, show).await
}

/// Whether a value is the device's collector's own mark, which the tables show in a column of its own.
pub(crate) fn source_edit(source: &str) -> (String, Scalar) {
    ("collector.source".to_owned(), Scalar::Text(source.to_owned()))
}
