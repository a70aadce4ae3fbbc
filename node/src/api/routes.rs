//! Ways through the mesh, as this node sees them.

use axum::Json;
use axum::extract::State;
use crdt::id::{DeviceId, Key};
use serde_json::{Value, json};
use transport::{Cost, LinkState, PeerKey, Way};

use super::devices::resolve;
use super::status::{name_of, presence_text};
use super::{Api, Path, Problem};
use crate::agent::Node;
use crate::agent::link_document::text_of;

pub(super) async fn show(State(api): State<Api>, Path(word): Path<String>) -> Result<Json<Value>, Problem> {
    let look = move |node: &Node| {
        let device = resolve(node, &word)?;
        Ok(Json(route(node, &device)))
    };
    api.agent.look(look).await?
}

fn route(node: &Node, device: &DeviceId) -> Value {
    let key = node.engine.replica().roster().key_of(device).map(|key| PeerKey(key.0));
    let ways = key.map(|key| node.routing.routes.ways(&key)).unwrap_or_default();
    let presence = node.presences().get(device).map(|presence| presence_text(node, *presence));
    let roles = ["next hop"].into_iter().chain(std::iter::repeat("backup"));
    let ways: Vec<Value> =
        ways.iter().zip(roles).filter_map(|(way, role)| Some(way_to_json(node, role, way, &key?))).collect();
    json!({
        "device": device.to_string(),
        "name": name_of(node, device),
        "presence": presence,
        "view": name_of(node, &node.device()),
        "ways": ways,
    })
}

fn way_to_json(node: &Node, role: &str, way: &Way, to: &PeerKey) -> Value {
    let path = node.routing.routes.path(&way.next, to).unwrap_or_default();
    let hop = |(key, cost): &(PeerKey, Cost)| {
        let device = Key(key.0).device();
        json!({ "device": device.to_string(), "name": name_of(node, &device), "cost_ms": millis(cost.micros()) })
    };
    json!({
        "role": role,
        "via": name_of(node, &Key(way.next.0).device()),
        "cost_ms": millis(way.cost.micros()),
        "parent": way.is_loop_free,
        "path": path.iter().map(hop).collect::<Vec<Value>>(),
    })
}

/// Milliseconds of microseconds.
pub(super) fn millis(micros: impl Into<f64>) -> f64 {
    micros.into() / 1000.0
}

/// What this node measured of a link, field by field.
pub(super) fn link_to_json(state: &LinkState) -> Value {
    json!({
        "rtt_ms": millis(state.rtt_micros as f64),
        "jitter_ms": millis(state.jitter_micros as f64),
        "loss_percent": state.loss_ppm as f64 / 10_000.0,
        "kind": text_of(state.kind),
        "metered": state.is_metered,
        "battery": state.is_on_battery,
        "cost_ms": millis(state.cost().micros()),
    })
}
