//! Hosts that choose their links: what the node does with `transport::Dials`, `Routes` and `Liveness`, over a network in
//! which any two can dial each other.
//!
//! A dial takes three round trips (connection, protocols, which connection carries the session). Nobody says that a host
//! is dead or a line cut: its peers find out by silence, and a dial is tried again, as packets are, until it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdt::id::{DeviceId, Key};
use crdt::roster::Standing;
use crdt::sync::{Input, LinkId, Parents};
use transport::{Cost, PeerKey};

use super::liveness::session;
use super::reports::Known;
use super::{Event, LineState, World};
use crate::sim::fleet::{Fleet, key_of};
use crate::sim::host::Waiting;
use crate::sim::mesh::{Link, Mesh};

/// What a dial takes that is answered.
const DIAL_ROUND_TRIPS: u64 = 3;
/// A packet that nobody answers is sent again after this, doubling.
const RETRY_US: u64 = 1_000_000;
/// The swarm gives a dial up after so long.
const DIAL_US: u64 = 8_000_000;
/// Statements are gathered for so long before the roster is read again.
const ROSTER: Duration = Duration::from_millis(100);

/// A dial under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dial {
    pub(super) node: usize,
    pub(super) start: u64,
    peer: usize,
    since_us: u64,
    tries: u32,
}

/// What all hosts stand on.
pub(super) struct Ground {
    pub(super) keys: Vec<PeerKey>,
    numbers: BTreeMap<PeerKey, usize>,
    /// The lines that were dialled so far.
    lines: BTreeMap<(usize, usize), usize>,
    /// Nodes of different sides do not reach each other.
    sides: Vec<u64>,
    /// Lines that steps mean, from a cut to its end.
    meant: BTreeMap<usize, usize>,
    /// What hosts have heard of each other's links.
    pub(super) known: Known,
}

impl Ground {
    pub(super) fn new(fleet: &Fleet, nodes: usize) -> Ground {
        let keys: Vec<PeerKey> = fleet.devices.iter().map(|device| PeerKey(key_of(device).0)).collect();
        let numbers = keys.iter().enumerate().map(|(number, key)| (*key, number)).collect();
        Ground {
            keys,
            numbers,
            lines: BTreeMap::new(),
            sides: vec![0; nodes],
            meant: BTreeMap::new(),
            known: Known::new(nodes),
        }
    }

    fn number(&self, key: &PeerKey) -> Option<usize> {
        self.numbers.get(key).copied()
    }
}

impl World<'_, '_> {
    /// A host starts on what it has heard before.
    pub(super) fn start_mesh(&mut self, node: usize) {
        let (now, plan) = (self.moment(), self.plan);
        let Some(ground) = &mut self.mesh else { return };
        ground.known.restart(node);
        let host = &mut self.hosts[node];
        let mut mesh = Mesh::new(ground.keys[node], plan.seed ^ ((node as u64) << 32) ^ host.start);
        if let Some(over) = host.ticket {
            mesh.locate(now, ground.keys[over]);
        }
        for (origin, report) in ground.known.of(node).filter(|(origin, _)| *origin != node) {
            mesh.routes.report(ground.keys[origin], &report.links);
        }
        mesh.search_now(now);
        host.mesh = Some(mesh);
        self.read_roster(node);
    }

    /// Who belongs to the fleet may be otherwise than before.
    pub(super) fn roster_changed(&mut self, node: usize) {
        let at = self.moment() + ROSTER;
        if let Some(mesh) = &mut self.hosts[node].mesh {
            mesh.roster_changed(at);
        }
    }

    /// Whom there is to dial follows from the roster. All members are known to be where they are.
    fn read_roster(&mut self, node: usize) {
        let (now, own) = (self.moment(), self.fleet.device(node));
        let host = &mut self.hosts[node];
        let (Some(engine), Some(mesh)) = (&host.engine, &mut host.mesh) else { return };
        let roster = engine.replica().roster();
        let zone_of = |device: &DeviceId| roster.zone_of(device).unwrap_or_default();
        let (mut members, mut removed) = (BTreeMap::new(), BTreeSet::new());
        for device in roster.devices().filter(|device| *device != own) {
            let Some(key) = roster.key_of(&device).map(|key| PeerKey(key.0)) else { continue };
            match roster.standing(&device) {
                Standing::Member | Standing::Contested => drop(members.insert(key, zone_of(&device))),
                Standing::Removed => drop(removed.insert(key)),
                _ => {}
            }
        }
        let keys: Vec<PeerKey> = members.keys().copied().collect();
        let sessions = mesh.links.values().map(|link| link.key).collect();
        if mesh.dials.members(now, zone_of(&own), members, &removed, &sessions) {
            mesh.report_soon(now);
        }
        keys.into_iter().for_each(|key| mesh.locate(now, key));
        self.set_timer(node);
    }

    pub(super) fn is_member(&self, node: usize, device: &DeviceId) -> bool {
        let engine = self.hosts[node].engine.as_ref();
        engine.is_some_and(|engine| matches!(engine.replica().standing(device), Standing::Member | Standing::Contested))
    }

    /// The line between two hosts.
    fn line_between(&mut self, a: usize, b: usize) -> Option<usize> {
        let ends = (a.min(b), a.max(b));
        let (plan, number) = (self.plan, self.lines.len());
        let ground = self.mesh.as_mut()?;
        if let Some(known) = ground.lines.get(&ends) {
            return Some(*known);
        }
        ground.lines.insert(ends, number);
        let line = plan.ground.as_ref()?.line(ends.0, ends.1);
        self.lines.push(LineState::new(line, ground.sides[a] == ground.sides[b]));
        self.lines_of[a].push(number);
        self.lines_of[b].push(number);
        Some(number)
    }

    /// The line that a step means: in a fleet that chooses its links one that is up, the same until it is mended.
    pub(super) fn meant_by(&mut self, line: usize) -> Option<usize> {
        let Some(ground) = &mut self.mesh else { return Some(line) };
        if let Some(meant) = ground.meant.get(&line) {
            return Some(*meant);
        }
        let up = self.sessions.values().nth(line % self.sessions.len().max(1)).map(|session| session.line)?;
        ground.meant.insert(line, up);
        Some(up)
    }

    pub(super) fn is_mended(&mut self, line: usize) {
        if let Some(ground) = &mut self.mesh {
            ground.meant.remove(&line);
        }
    }

    /// These hosts reach no others; also over lines that are not dialled yet.
    pub(super) fn is_parted(&mut self, side: &[usize]) {
        let Some(ground) = &mut self.mesh else { return };
        for (node, of) in ground.sides.iter_mut().enumerate() {
            *of = *of << 1 | u64::from(side.contains(&node));
        }
    }

    pub(super) fn is_whole_again(&mut self) {
        if let Some(ground) = &mut self.mesh {
            ground.sides.fill(0);
            ground.meant.clear();
        }
    }

    fn dial(&mut self, node: usize, peer: usize) {
        self.note(node, "dial", &(peer as u64).to_be_bytes());
        let Some(number) = self.line_between(node, peer) else { return };
        let takes_us = DIAL_ROUND_TRIPS * 2 * self.lines[number].line.delay_us;
        let (start, since_us) = (self.hosts[node].start, self.now_us);
        self.schedule(since_us + takes_us, Event::Dial(Dial { node, start, peer, since_us, tries: 0 }));
    }

    /// A dial comes to its end, unless nobody answers.
    pub(super) fn dial_comes(&mut self, dial: Dial) {
        let Some(number) = self.line_between(dial.node, dial.peer) else { return };
        let state = &self.lines[number];
        if state.session.is_some() {
            return; // the peer's own dial came first
        }
        let (own, other) = (&self.hosts[dial.node], &self.hosts[dial.peer]);
        let is_open = state.is_whole && state.is_muted == [false; 2] && other.is_up();
        let free_us = own.busy_until_us.max(other.busy_until_us);
        if is_open && free_us <= self.now_us {
            return self.bring_up(number, Some(dial.node));
        }
        let again_us = if is_open { free_us + 1 } else { self.now_us + (RETRY_US << dial.tries) };
        let Dial { node, start, peer, since_us, tries } = dial;
        if again_us < since_us + DIAL_US {
            self.schedule(again_us, Event::Dial(Dial { tries: tries + 1, ..dial }));
        } else {
            self.schedule(since_us + DIAL_US, Event::DialFailed { node, start, peer });
        }
    }

    pub(super) fn dial_failed(&mut self, node: usize, peer: usize) {
        let now = self.moment();
        let (Some(ground), Some(mesh)) = (&self.mesh, &mut self.hosts[node].mesh) else { return };
        if mesh.link_with(peer).is_none() {
            mesh.dials.failed(now, ground.keys[peer]);
            self.set_timer(node);
        }
    }

    /// A session is up at this end: the engine learns it next.
    pub(super) fn mesh_up(&mut self, node: usize, link: LinkId, peer: &Key) {
        let (now, key) = (self.moment(), PeerKey(peer.0));
        let Some(number) = self.mesh.as_ref().and_then(|ground| ground.number(&key)) else { return };
        let is_near = self.plan.topology.nodes[node].zone == self.plan.topology.nodes[number].zone;
        let Some(mesh) = &mut self.hosts[node].mesh else { return };
        mesh.links.insert(link, Link::new(number, key, is_near));
        if mesh.dials.up(now, key) {
            mesh.report_soon(now);
        }
        self.stats.measured.links_changed += 1;
        self.link_changed(node, number);
    }

    /// A session is gone at this end: the engine learns it next.
    pub(super) fn mesh_down(&mut self, node: usize, link: LinkId) {
        let now = self.moment();
        let Some(mesh) = &mut self.hosts[node].mesh else { return };
        let Some(Link { peer, key, .. }) = mesh.links.remove(&link) else { return };
        if mesh.dials.down(now, key) {
            mesh.report_soon(now);
        }
        self.link_changed(node, peer);
    }

    /// This end closes a session for a reason of its own.
    pub(super) fn mesh_closed(&mut self, node: usize, link: LinkId) {
        let now = self.moment();
        let host = &mut self.hosts[node];
        let Some(mesh) = &mut host.mesh else { return };
        let Some(Link { peer, key, .. }) = mesh.links.remove(&link) else { return };
        host.liveness.down(session(link));
        if mesh.dials.closed(now, key) {
            mesh.report_soon(now);
        }
        self.link_changed(node, peer);
    }

    pub(super) fn meter_answered(&mut self, node: usize, link: LinkId, micros: u64) {
        let (now, host) = (self.moment(), &mut self.hosts[node]);
        if let Some(mesh) = &mut host.mesh {
            mesh.answered(now, link, micros, host.liveness.is_in_use(now, session(link)));
        }
    }

    pub(super) fn mesh_measured(&mut self, node: usize, link: LinkId, micros: u64) {
        let (now, host) = (self.moment(), &mut self.hosts[node]);
        let Some(mesh) = &mut host.mesh else { return };
        let measured = mesh.measured(now, link, micros);
        if measured.is_new {
            host.liveness.doubt(now, session(link));
        }
        if measured.is_in_doubt {
            host.liveness.examine(now, session(link));
        }
        if measured.has_settled {
            self.own_links_changed(node);
        }
    }

    /// A link is suspect, or no longer.
    pub(super) fn mesh_doubts(&mut self, node: usize, link: LinkId) {
        let (now, host) = (self.moment(), &mut self.hosts[node]);
        let Some(mesh) = &mut host.mesh else { return };
        let Some(Link { peer, key, .. }) = mesh.links.get(&link) else { return };
        let (peer, is_suspect) = (*peer, host.liveness.is_suspect(session(link)));
        mesh.dials.suspected(*key, is_suspect);
        mesh.report_soon(now);
        self.link_changed(node, peer);
        self.effects(node);
        if let Some(id) = self.links.get(&(node, link)).filter(|_| !is_suspect).copied() {
            self.compare(id);
        }
    }

    /// What this host says of its links.
    pub(super) fn own_links(&self, node: usize) -> Vec<(PeerKey, Cost)> {
        let Some(mesh) = &self.hosts[node].mesh else { return Vec::new() };
        let used = mesh.links.iter().filter(|(link, _)| !self.is_suspect(node, **link));
        let members = used.filter(|(_, link)| self.is_member(node, &self.fleet.device(link.peer)));
        members.filter_map(|(_, link)| Some((link.key, link.cost()?))).collect()
    }

    fn own_links_changed(&mut self, node: usize) {
        let (now, links) = (self.moment(), self.own_links(node));
        if let Some(mesh) = &mut self.hosts[node].mesh {
            mesh.routes.report(mesh.me, &links);
            mesh.search_now(now);
        }
    }

    /// The engine learns who takes the place of a link before it learns that.
    fn link_changed(&mut self, node: usize, peer: usize) {
        self.own_links_changed(node);
        self.search(node);
        if self.is_member(node, &self.fleet.device(peer)) {
            self.tell_parents(node, &[peer]);
        }
    }

    /// Looks for ways, and tells the engine which ones are new; what it asks for then is done by the caller.
    fn search(&mut self, node: usize) {
        let now = self.moment();
        let (Some(ground), Some(mesh)) = (&self.mesh, &mut self.hosts[node].mesh) else { return };
        if !mesh.takes_search(now) {
            return;
        }
        let changed = mesh.routes.update();
        for key in &changed {
            mesh.dials.reach_changed(now, *key, !mesh.routes.ways(key).is_empty());
        }
        let origins: Vec<usize> = changed.iter().filter_map(|key| ground.number(key)).collect();
        self.tell_parents(node, &origins);
    }

    fn tell_parents(&mut self, node: usize, origins: &[usize]) {
        if origins.is_empty() {
            return;
        }
        let parents = Input::Parents(origins.iter().map(|origin| self.parents_of(node, *origin)).collect());
        let (now, host) = (self.now(), &mut self.hosts[node]);
        if let Some(engine) = &mut host.engine {
            engine.handle(now, parents, &host.disk);
        }
    }

    fn parents_of(&self, node: usize, origin: usize) -> Parents {
        let (ground, mesh) = (self.mesh.as_ref(), self.hosts[node].mesh.as_ref());
        let mut sources = Vec::new();
        if let Some((ground, mesh)) = ground.zip(mesh) {
            let ways = mesh.routes.ways(&ground.keys[origin]);
            let loop_free = ways.iter().filter(|way| way.is_loop_free);
            sources.extend(loop_free.filter_map(|way| ground.number(&way.next)));
            // Where no way was measured yet, a link serves as it is.
            let is_linked = mesh.link_with(origin).is_some_and(|link| !self.is_suspect(node, link));
            sources.extend((sources.is_empty() && is_linked).then_some(origin));
        }
        let sources = sources.into_iter().map(|source| self.fleet.device(source)).collect();
        Parents { origin: self.fleet.device(origin), sources }
    }

    /// Searches, dials and reports that are due.
    pub(super) fn mesh_timers(&mut self, node: usize) {
        let now = self.moment();
        let Some(mesh) = &mut self.hosts[node].mesh else { return };
        if mesh.takes_roster(now) {
            self.read_roster(node);
            self.own_links_changed(node);
        }
        self.search(node);
        self.effects(node);
        let Some(mesh) = &mut self.hosts[node].mesh else { return };
        let due = mesh.dials.due(now, &mesh.routes);
        let number = |key: &PeerKey| self.mesh.as_ref()?.number(key);
        let dial: Vec<usize> = due.dial.iter().filter_map(|dial| number(&dial.peer)).collect();
        let close: Vec<usize> = due.close.iter().filter_map(|(peer, _)| number(peer)).collect();
        dial.into_iter().for_each(|peer| self.dial(node, peer));
        close.into_iter().for_each(|peer| self.close_link_with(node, peer));
        if self.hosts[node].mesh.as_mut().is_some_and(|mesh| mesh.takes_report(now)) {
            self.announce(node);
        }
    }

    fn close_link_with(&mut self, node: usize, peer: usize) {
        let Some(link) = self.hosts[node].mesh.as_ref().and_then(|mesh| mesh.link_with(peer)) else { return };
        self.mesh_closed(node, link);
        self.closed_by(node, link);
        self.input(node, Waiting { input: Input::LinkDown(link), from: None });
    }
}
