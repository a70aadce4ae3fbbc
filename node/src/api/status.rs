//! What the node says of itself and of its links.

use axum::Json;
use axum::extract::State;
use crdt::id::{DeviceId, Key};
use crdt::statement::Body;
use serde_json::{Value, json};
use transport::PeerKey;

use super::{Api, Problem};
use crate::agent::{Node, Presence};
use crate::settings::Settings;

/// The assigned name of a device, or the first digits of its id.
pub(crate) fn name_of(node: &Node, device: &DeviceId) -> String {
    let roster = node.engine.replica().roster();
    let assigned = roster.read("assigned", &format!("{device}/name")).and_then(|entry| match &entry.body {
        Body::Assigned(assigned) => assigned.value.clone(),
        _ => None,
    });
    let invited = || {
        let (_, admission) = roster.admission_of(device)?;
        roster.invitation(&admission.invitation).map(|(_, invitation)| invitation.name.clone())
    };
    assigned.or_else(invited).unwrap_or_else(|| device.short())
}

pub(super) fn presence_text(node: &Node, presence: Presence) -> String {
    match presence {
        Presence::Here => "here".to_owned(),
        Presence::Linked => "linked".to_owned(),
        Presence::SeenBy(witness) => format!("seen by {}", name_of(node, &witness)),
        Presence::Away(Some(since_ms)) => format!("away since {}", crate::output::time_text(since_ms)),
        Presence::Away(None) => "away".to_owned(),
    }
}

fn report(node: &Node) -> Value {
    let replica = node.engine.replica();
    let sessions = node.engine.links().filter(|link| node.is_member(&link.device)).count();
    let mut rtts: Vec<u64> = node.engine.links().filter_map(|link| link.rtt_micros).collect();
    rtts.sort_unstable();
    let rtt_ms_p50 = rtts.get(rtts.len() / 2).map(|micros| *micros as f64 / 1000.0);
    let known = replica.roster().devices().count().saturating_sub(1);
    let (pending, _) = node.engine.pending();
    json!({
        "node": node.device().to_string(),
        "name": name_of(node, &node.device()),
        "fleet": node.fleet.to_string(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": node.started.elapsed().as_secs(),
        "root": replica.root().to_string(),
        "root_durable": replica.root_durable().to_string(),
        "documents": replica.logs().documents_len(),
        "changes": replica.logs().changes(),
        "statements": replica.roster().entries().len(),
        "peers": { "known": known, "up": sessions, "direct": sessions, "relayed": 0, "rtt_ms_p50": rtt_ms_p50 },
        "behind": node.engine.behind(),
        "offline": node.is_offline(),
        "pending": pending,
        "refusing_writes": node.full,
        "standing": format!("{:?}", replica.standing(&node.device())).to_lowercase(),
        "key": node.key.to_string(),
        "listening": node.listening,
        "reachable": node.reachable,
    })
}

pub(super) async fn status(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let mut relayed = api.blobs.relayed();
    let look = move |node: &Node| {
        for (ends, bytes) in node.forwarding.relayed() {
            *relayed.entry(*ends).or_default() += bytes;
        }
        let name = |key: &PeerKey| name_of(node, &Key(key.0).device());
        let to_json = |((asker, holder), bytes): (&(PeerKey, PeerKey), &u64)| json!({ "for": name(asker), "from": name(holder), "bytes": bytes });
        let mut status = report(node);
        status["relayed"] = relayed.iter().map(to_json).collect();
        Json(status)
    };
    Ok(api.agent.look(look).await?)
}

/// Every source that the collector looked at.
pub(super) async fn collect(State(api): State<Api>) -> Json<Value> {
    Json(api.explain.report())
}

/// Every setting of the running node with its origin.
pub(super) async fn config(State(api): State<Api>) -> Json<Value> {
    Json(settings_to_json(&api.settings))
}

/// Settings as the API and the CLI list them.
pub(crate) fn settings_to_json(settings: &Settings) -> Value {
    let rows = settings.iter().map(|(name, setting, about)| {
        json!({ "name": name, "value": setting.value, "origin": setting.origin.to_string(), "about": about })
    });
    Value::Array(rows.collect())
}
