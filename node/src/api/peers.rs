//! The other members, each with this node's link to it, or with the way that leads there without one.

use axum::Json;
use axum::extract::State;
use crdt::id::{DeviceId, Key};
use serde::Deserialize;
use serde_json::{Value, json};
use transport::PeerKey;

use super::devices::resolve;
use super::routes::{link_to_json, millis};
use super::status::{name_of, presence_text};
use super::{Api, Body, Problem};
use crate::agent::{Node, Presence, held_text};

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let list = |node: &Node| {
        let presences = node.presences();
        let roster = node.engine.replica().roster();
        let others = presences.iter().filter_map(|(device, presence)| {
            let key = roster.key_of(device).filter(|key| *key != node.key)?;
            Some(peer(node, device, key, *presence))
        });
        Value::Array(others.collect())
    };
    Ok(Json(api.agent.look(list).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddBody {
    /// A name, an id, a unique prefix of one, or a key.
    peer: String,
    /// As people write it.
    address: String,
}

/// Remembers where a member may be reached.
pub(super) async fn add(State(api): State<Api>, Body(body): Body<AddBody>) -> Result<Json<Value>, Problem> {
    let addresses = transport::addresses_of(&body.address).map_err(|error| Problem::bad_request(error.to_string()))?;
    let named = move |node: &Node| -> Result<(Key, String), Problem> {
        let roster = node.engine.replica().roster();
        let device = match body.peer.parse::<Key>() {
            Ok(key) => key.device(),
            Err(_) => resolve(node, &body.peer)?,
        };
        let key = roster.key_of(&device).filter(|_| node.is_member(&device)).ok_or_else(|| {
            let detail = format!("{:?} is no member of this fleet: only members are linked", body.peer);
            Problem::not_found(detail).hint("fleetsync member ls")
        })?;
        let own = || Problem::refused("that is this device itself").hint("fleetsync peer ls");
        (key != node.key).then(|| (key, name_of(node, &device))).ok_or_else(own)
    };
    let (key, name) = api.agent.look(named).await??;
    match api.agent.add_addresses(key, addresses.clone()).await? {
        Ok(()) => Ok(Json(json!({ "name": name, "device": key.device().to_string(), "addresses": addresses }))),
        Err(reason) => Err(Problem::refused(reason)),
    }
}

fn peer(node: &Node, device: &DeviceId, key: Key, presence: Presence) -> Value {
    let session = node.sessions.with(&key);
    let link = node.engine.links().find(|link| link.peer == key);
    let ended_ms = match presence {
        Presence::Away(since_ms) => since_ms,
        _ => node.last_seen(device),
    };
    let why = session.and_then(|session| Some(held_text(node.neighbours.reason(&key)?, session.is_outbound)));
    let down_s = ended_ms.filter(|_| session.is_none()).map(|ms| node.clock.wall_ms().saturating_sub(ms) / 1000);
    json!({
        "device": device.to_string(),
        "name": name_of(node, device),
        "zone": node.engine.replica().roster().zone_of(device),
        "state": match &link {
            Some(link) if node.routing.is_suspect(&link.link) => "suspect",
            _ if session.is_some() => "up",
            _ => "down",
        },
        "presence": presence_text(node, presence),
        "address": session.map(|session| session.address.clone()),
        "dialled_by_us": session.map(|session| session.is_outbound),
        "since_s": session.map(|session| session.since.elapsed().as_secs()),
        "down_s": down_s,
        "bytes_in": session.map(|session| session.bytes_in),
        "bytes_out": session.map(|session| session.bytes_out),
        "copies_out": session.map(|session| session.copies_out),
        "compared": link.as_ref().map(|link| link.is_ready),
        "backlog": link.as_ref().map(|link| link.backlog),
        "rtt_ms": link.as_ref().and_then(|link| link.rtt_micros).map(|micros| micros as f64 / 1000.0),
        "why": why,
        "rate_bytes_per_s": link.as_ref().and_then(|link| link.delivery_rate),
        "measured": link.and_then(|link| node.routing.state(&link.link)).map(|state| link_to_json(&state)),
        "way": way(node, key),
        "known_addresses": node.neighbours.addresses(&key),
        "errors": node.neighbours.errors(&key),
    })
}

/// The way that is taken to a member.
fn way(node: &Node, key: Key) -> Option<Value> {
    let (to, routes) = (PeerKey(key.0), &node.routing.routes);
    let way = routes.ways(&to).first().copied()?;
    let path = routes.path(&way.next, &to)?;
    let name = |hop: &PeerKey| name_of(node, &Key(hop.0).device());
    Some(json!({
        "via": name(&way.next),
        "cost_ms": millis(way.cost.micros()),
        "path": path.iter().map(|(hop, _)| name(hop)).collect::<Vec<String>>(),
    }))
}
