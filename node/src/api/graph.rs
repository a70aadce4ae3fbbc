//! The whole mesh, as this node's replicated `link` documents show it.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use crdt::id::DeviceId;
use transport::{PeerKey, cuts};

use super::routes::millis;
use super::status::name_of;
use super::{Api, Problem};
use crate::agent::link_document::text_of;
use crate::agent::{Node, Presence};
use crate::mesh::{self, Mesh};

pub(super) async fn show(State(api): State<Api>) -> Result<Json<Mesh>, Problem> {
    Ok(Json(api.agent.look(mesh_of).await?))
}

/// The ends of a link, the lower id first.
type Ends = (DeviceId, DeviceId);

fn mesh_of(node: &Node) -> Mesh {
    let said = said(node);
    let counted: BTreeSet<Ends> = said.iter().filter(|(_, by)| by.len() == 2).map(|(ends, _)| *ends).collect();
    let cut_off = cut_off(&counted);
    let roster = node.engine.replica().roster();
    let presences = node.presences();
    let members = presences.iter().filter(|(device, _)| node.is_member(device));
    let mut nodes: Vec<mesh::Node> = members
        .map(|(device, presence)| mesh::Node {
            device: device.to_string(),
            name: name_of(node, device),
            zone: roster.zone_of(device),
            state: match presence {
                Presence::Here => mesh::State::Here,
                Presence::Linked => mesh::State::Linked,
                Presence::SeenBy(_) => mesh::State::Reached,
                Presence::Away(_) => mesh::State::Away,
            },
            links: counted.iter().filter(|(a, b)| a == device || b == device).count(),
        })
        .collect();
    nodes.sort_by(|one, other| (&one.name, &one.device).cmp(&(&other.name, &other.device)));
    let links = said.iter().map(|(ends, by)| link(node, ends, by, cut_off.get(ends).copied()));
    Mesh { view: name_of(node, &node.device()), nodes, links: links.collect() }
}

/// Which members say of which links that they are up.
fn said(node: &Node) -> BTreeMap<Ends, Vec<DeviceId>> {
    let mut said: BTreeMap<Ends, Vec<DeviceId>> = BTreeMap::new();
    for (device, document) in node.neighbours.reported().filter(|(device, _)| node.is_member(device)) {
        let up = document.neighbours.iter().filter(|(_, report)| report.is_up).map(|(neighbour, _)| neighbour);
        for neighbour in up.filter(|neighbour| *neighbour != device && node.is_member(neighbour)) {
            said.entry((*device.min(neighbour), *device.max(neighbour))).or_default().push(*device);
        }
    }
    said
}

/// How many are cut off without a link, of those links that are the only way somewhere.
fn cut_off(counted: &BTreeSet<Ends>) -> BTreeMap<Ends, usize> {
    // A key of the search is any 32 bytes that are ordered as the devices are.
    let key = |device: &DeviceId| PeerKey(device.0);
    let links: Vec<(PeerKey, PeerKey)> = counted.iter().map(|(a, b)| (key(a), key(b))).collect();
    let device = |key: PeerKey| DeviceId(key.0);
    cuts(&links).links.into_iter().map(|cut| ((device(cut.at.0), device(cut.at.1)), cut.cut_off)).collect()
}

fn link(node: &Node, (a, b): &Ends, by: &[DeviceId], cut_off: Option<usize>) -> mesh::Link {
    let of = |by: &DeviceId| if by == a { b } else { a };
    let documents = || by.iter().filter_map(|by| Some((by, node.neighbours.said_by(by)?)));
    let dearer = documents().filter_map(|(by, document)| document.state(of(by))).max_by_key(|state| state.cost());
    let rates = documents().filter_map(|(by, document)| document.neighbours.get(of(by))?.rate);
    mesh::Link {
        a: a.to_string(),
        b: b.to_string(),
        a_name: name_of(node, a),
        b_name: name_of(node, b),
        state: if by.len() == 2 { mesh::LinkState::Up } else { mesh::LinkState::OneSided },
        said_by: by.iter().map(|by| name_of(node, by)).collect(),
        rtt_ms: dearer.map(|state| millis(state.rtt_micros as f64)),
        loss_percent: dearer.map(|state| state.loss_ppm as f64 / 10_000.0),
        kind: dearer.map(|state| text_of(state.kind).to_owned()),
        cost_ms: dearer.map(|state| millis(state.cost().micros())),
        rate_bytes_per_s: rates.min(),
        cut_off,
    }
}
