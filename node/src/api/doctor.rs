//! What the running node knows of what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use crdt::id::Key;
use serde_json::{Value, json};
use transport::{PeerKey, cuts};

use super::status::name_of;
use super::{Api, Problem};
use crate::agent::nat::quic_address;
use crate::agent::{AnswerOf, Node, Presence, Question, source_towards};
use crate::doctor::{self, Bridges, Check, Datagrams, Reach, Reachable};

/// Most peers whose clocks are asked for.
const CLOCKS_MAX: usize = 8;
/// How long each may take to answer.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// Where Linux tells what network interfaces are like, and which of them this process has.
const INTERFACES: &str = "/sys/class/net";
const OWN_INTERFACES: &str = "/proc/self/net/dev";

/// What memory has.
struct Found {
    listening: BTreeSet<String>,
    /// Of the links that are up: the peer's address, and whether this node dialled.
    links: Vec<(String, bool)>,
    /// The peers linked over TCP that say that they listen for QUIC.
    tcp_instead: Vec<String>,
    /// Where peers see this node, and whether this node dialled them.
    seen: Vec<(SocketAddr, bool)>,
    /// Members that are linked, to be asked what time it is.
    clocks: Vec<(Key, String)>,
    members: Vec<Reach>,
    bridges: Bridges,
    standing: String,
    is_offline: bool,
}

/// `GET /v1/doctor`: `{checks: [{check, verdict, found, hint}]}`.
pub(super) async fn examine(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let (found, mesh) = api.agent.look(|node| (Found::of(node), node.mesh.clone())).await?;
    let mesh = mesh.snapshot().await;
    let relays: Vec<Key> = mesh.relays.iter().map(|peer| Key(peer.0)).collect();
    let name = move |node: &Node| relays.iter().map(|key| name_of(node, &key.device())).collect();
    let relays: Vec<String> = api.agent.look(name).await?;
    let ahead = futures::future::join_all(asked(&api, &found)).await;
    let ahead: Vec<(String, i64)> = ahead.into_iter().flatten().collect();
    let dials_only = api.settings.text("listen") == Some("none");
    let task = tokio::task::spawn_blocking(move || found.checks(dials_only, &ahead, &(mesh.reachable, relays)));
    let checks = task.await.map_err(|error| Problem::internal(&error))?;
    Ok(Json(json!({ "checks": checks })))
}

/// The clock of each linked member: by how much it is ahead of this one, milliseconds.
fn asked<'a>(api: &'a Api, found: &'a Found) -> impl Iterator<Item = impl Future<Output = Option<(String, i64)>> + 'a> {
    found.clocks.iter().map(async |(key, name)| {
        let asked = tokio::time::timeout(CLOCK_TIMEOUT, api.agent.ask(*key, Question::Clock));
        let answered = asked.await.ok()?.ok()?.ok()?;
        let own_ms = api.agent.look(|node| node.clock.wall_ms()).await.ok()?;
        let AnswerOf::Clock { wall_ms } = answered.reply else { return None };
        let meant = i128::from(own_ms) - i128::from(answered.micros / 2_000);
        let ahead = i128::from(wall_ms) - meant;
        Some((name.clone(), ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
    })
}

impl Found {
    fn of(node: &Node) -> Found {
        let sessions: Vec<_> = node.sessions.iter().map(|(_, session)| session).collect();
        let members = || sessions.iter().filter(|session| node.is_member(&session.peer.device()));
        let name = |key: &Key| name_of(node, &key.device());
        let has_quic = |key: &Key| {
            let said = node.neighbours.said_by(&key.device());
            said.is_some_and(|said| said.addresses.iter().any(|address| quic_address(address).is_some()))
        };
        let is_tcp = |address: &str| address.contains("/tcp/");
        let others = reaches(node);
        Found {
            listening: node.listening.clone(),
            links: members().map(|session| (session.address.clone(), session.is_outbound)).collect(),
            tcp_instead: members()
                .filter(|session| session.is_outbound && is_tcp(&session.address) && has_quic(&session.peer))
                .map(|session| name(&session.peer))
                .collect(),
            seen: members()
                .filter_map(|session| Some((node.observed.by(&session.peer)?, session.is_outbound)))
                .collect(),
            clocks: members().take(CLOCKS_MAX).map(|session| (session.peer, name(&session.peer))).collect(),
            bridges: bridges(node, 1 + others.iter().filter(|member| member.is_present).count()),
            members: others,
            standing: format!("{:?}", node.engine.replica().standing(&node.device())).to_lowercase(),
            is_offline: node.is_offline(),
        }
    }

    /// `reach`: the addresses at which others reach this node, and the names of those that relay for it.
    fn checks(&self, dials_only: bool, ahead: &[(String, i64)], reach: &(Vec<String>, Vec<String>)) -> Vec<Check> {
        let (reached, relays) = reach;
        let Found { listening, links, .. } = self;
        let own = self.own_addresses();
        // Who dialled in sees what it dialled, which may be a router's address and tells nothing of other ways; but where that
        // is this machine's, nothing is translated.
        let tells = |(address, by_us): &&(SocketAddr, bool)| *by_us || own.contains(&address.ip());
        let seen: Vec<SocketAddr> = self.seen.iter().filter(tells).map(|(address, _)| *address).collect();
        let quic = links.iter().filter(|(address, _)| quic_address(address).is_some()).count();
        vec![
            doctor::standing(&self.standing),
            doctor::offline(self.is_offline),
            doctor::ports(&Reachable { listening, dials_only, links, reached, relays }),
            doctor::clock(ahead),
            doctor::mtu(&Datagrams { quic, tcp_instead: &self.tcp_instead, interfaces: &interfaces() }),
            doctor::nat(&own, &seen),
            doctor::reach(&self.members),
            doctor::second_path(&self.members),
            doctor::bridge(&self.bridges),
        ]
    }

    /// The machine's addresses: those on which the node listens, and those from which it speaks to its peers.
    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let ip = |address: &String| address.split('/').nth(2).and_then(|ip| ip.parse().ok());
        let peers = self.links.iter().filter_map(|(address, _)| ip(address));
        self.listening.iter().filter_map(ip).chain(peers.filter_map(source_towards)).collect()
    }
}

fn reaches(node: &Node) -> Vec<Reach> {
    let roster = node.engine.replica().roster();
    let others = node.presences().into_iter().filter(|(device, _)| *device != node.device() && node.is_member(device));
    let reach = others.filter_map(|(device, presence)| {
        let key = PeerKey(roster.key_of(&device)?.0);
        Some(Reach {
            name: name_of(node, &device),
            is_present: !matches!(presence, Presence::Away(_)),
            ways: node.routing.routes.ways(&key).len(),
        })
    });
    reach.collect()
}

fn bridges(node: &Node, members: usize) -> Bridges {
    let links: Vec<(PeerKey, PeerKey)> = node.routing.routes.links().into_iter().map(|(a, b, _)| (a, b)).collect();
    let name = |key: &PeerKey| name_of(node, &Key(key.0).device());
    let cuts = cuts(&links);
    Bridges {
        members,
        links: cuts.links.iter().map(|cut| ([name(&cut.at.0), name(&cut.at.1)], cut.cut_off)).collect(),
        nodes: cuts.nodes.iter().map(|cut| (name(&cut.at), cut.cut_off)).collect(),
    }
}

/// The network interfaces that are up, with their largest packet, bytes; the machine's own loop is none. Empty where the
/// system does not list them.
fn interfaces() -> BTreeMap<String, u32> {
    // Another network's interfaces may be listed beside the process's own ones, of which only this tells.
    let own = std::fs::read_to_string(OWN_INTERFACES).unwrap_or_default();
    let names = own.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let interface = |name: &str| {
        let read = |file: &str| std::fs::read_to_string(format!("{INTERFACES}/{name}/{file}")).ok();
        let is_down = read("operstate").is_some_and(|state| state.trim() == "down");
        let bytes = read("mtu")?.trim().parse().ok().filter(|_| !is_down)?;
        Some((name.to_owned(), bytes))
    };
    names.filter(|name| *name != "lo").filter_map(interface).collect()
}
