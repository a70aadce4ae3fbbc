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
    let shown: Vec<Value> = (0..ways.len()).filter_map(|number| way_to_json(node, &ways, number, &key?)).collect();
    json!({
        "device": device.to_string(),
        "name": name_of(node, device),
        "presence": presence,
        "view": name_of(node, &node.device()),
        "ways": shown,
    })
}

/// None where a link of the way is gone since the ways were last looked for.
fn way_to_json(node: &Node, ways: &[Way], number: usize, to: &PeerKey) -> Option<Value> {
    let way = &ways[number];
    let path = node.routing.routes.path(&way.next, to)?;
    let mut from = node.device();
    let hops = path.iter().map(|(key, cost)| {
        let device = Key(key.0).device();
        let hop = hop_to_json(node, &from, &device, *cost);
        from = device;
        hop
    });
    Some(json!({
        "role": if number == 0 { "next hop" } else { "backup" },
        "via": name_of(node, &Key(way.next.0).device()),
        "cost_ms": millis(way.cost.micros()),
        "parent": way.is_loop_free,
        "why": why(node, ways, number, path.first().map(|(_, cost)| *cost)),
        "path": hops.collect::<Vec<Value>>(),
    }))
}

/// Why a way has its place among the others.
fn why(node: &Node, ways: &[Way], number: usize, first_link: Option<Cost>) -> String {
    let way = &ways[number];
    let name = name_of(node, &Key(way.next.0).device());
    let best = ways.iter().map(|way| way.cost).min().unwrap_or(way.cost);
    let rest = way.cost.micros().saturating_sub(first_link.map_or(0, Cost::micros));
    match (number, way.is_loop_free) {
        (0, _) if way.cost == best => "it is the cheapest".to_owned(),
        (0, _) => {
            let saved = millis(way.cost.micros() - best.micros());
            format!("it was the cheapest, and another saves only {saved:.1} ms: too little to move")
        }
        (_, true) if rest < best.micros() => format!("{name} is nearer to it than this node is"),
        (_, true) => format!("{name} has a way that does not lead back here"),
        (_, false) => format!("only for questions: the best way of {name} leads back here"),
    }
}

/// A link of a way, by what the end says that makes it the dearer one: that is what counts.
fn hop_to_json(node: &Node, from: &DeviceId, to: &DeviceId, cost: Cost) -> Value {
    let said = [(from, to), (to, from)].into_iter().filter_map(|(by, of)| Some((by, said_of(node, by, of)?)));
    let dearer = said.max_by_key(|(_, state)| state.cost());
    json!({
        "device": to.to_string(),
        "name": name_of(node, to),
        "from": name_of(node, from),
        "cost_ms": millis(cost.micros()),
        "said_by": dearer.map(|(by, _)| name_of(node, by)),
        "link": dearer.map(|(_, state)| link_to_json(&state)),
        "parts": dearer.map(|(_, state)| parts_to_json(&state)),
    })
}

/// What a device says of its link to another: this one at this moment, any other in its `link` document.
fn said_of(node: &Node, by: &DeviceId, of: &DeviceId) -> Option<LinkState> {
    if *by == node.device() {
        let key = node.engine.replica().roster().key_of(of)?;
        return node.routing.state(&node.sessions.link_with(&key)?);
    }
    node.neighbours.said_by(by)?.state(of)
}

fn parts_to_json(state: &LinkState) -> Value {
    let parts = state.parts();
    json!({
        "delay_ms": millis(parts.delay_micros as f64),
        "jitter_ms": millis(parts.jitter_micros as f64),
        "hop_ms": millis(parts.hop_micros as f64),
        "loss_ms": millis(parts.loss_micros as f64),
        "relayed_ms": millis(parts.relayed_micros as f64),
        "battery_ms": millis(parts.battery_micros as f64),
        "metered_ms": millis(parts.metered_micros as f64),
        "busy_ms": millis(parts.busy_micros as f64),
    })
}

/// Milliseconds of microseconds.
pub(super) fn millis(micros: impl Into<f64>) -> f64 {
    micros.into() / 1000.0
}

/// What one end says of a link, field by field.
pub(super) fn link_to_json(state: &LinkState) -> Value {
    json!({
        "rtt_ms": millis(state.rtt_micros as f64),
        "jitter_ms": millis(state.jitter_micros as f64),
        "loss_percent": state.loss_ppm as f64 / 10_000.0,
        "kind": text_of(state.kind),
        "metered": state.is_metered,
        "battery": state.is_on_battery,
        "busy": state.is_busy,
        "cost_ms": millis(state.cost().micros()),
    })
}
