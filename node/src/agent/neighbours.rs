//! Whom to hold links to, and what this node says of its links.
//!
//! Whom `transport::Overlay` wants is dialled until it is linked (`transport::Dials`); the addresses come from the ticket,
//! from `link` documents and from mDNS. Changes of links are gathered over 50 ms and damped, doubling to 10 s, before they are
//! written to `link/<id>`, so that a flapping link does not flood the fleet (PROTOCOL 6).

use std::collections::{BTreeMap, BTreeSet};

use crdt::id::{DeviceId, Key, Time};
use crdt::schema::{DocumentName, Kind};
use crdt::sync::{Edit, Input, LinkId};
use crdt::view;
use transport::{Dials, Gathering, PeerKey, REPORT_DAMP_MAX, REPORT_LATER, REPORT_SOON, Reason};

use super::events::let_go_text;
use super::link_document::{LinkDocument, Report};
use super::routing::{moment, time};
use super::{Node, NodeEvent, announced};
use crate::folder::Seed;

/// Most addresses of a peer, without those that mDNS found.
const ADDRESSES_MAX: usize = 16;
/// Most addresses of a peer that mDNS found. Anyone on the local network can say anything there.
const FOUND_MAX: usize = 4;
/// Most addresses that a ticket and people named.
const SEEDS_MAX: usize = 256;

#[derive(Debug, Default)]
struct Peer {
    /// From tickets and `link` documents, which members signed.
    addresses: Vec<String>,
    /// From mDNS, which proves nothing: they are tried after the others.
    found: Vec<String>,
    errors: Vec<String>,
    /// When this node's own session ended, milliseconds since 1970.
    lost_ms: Option<u64>,
}

impl Peer {
    /// In the order in which they are tried.
    fn all_addresses(&self) -> Vec<String> {
        let found = self.found.iter().filter(|address| !self.addresses.contains(address));
        self.addresses.iter().chain(found).cloned().collect()
    }
}

/// The node's knowledge of its peers.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Those that were members or had a ticket at some time.
    peers: BTreeMap<Key, Peer>,
    dials: Dials,
    /// What each device says of its links.
    pub(super) reported: BTreeMap<DeviceId, LinkDocument>,
    /// When this node says what its links are.
    report: Gathering,
}

impl Neighbours {
    pub(super) fn new(me: Key, random: u64) -> Neighbours {
        Neighbours {
            peers: BTreeMap::new(),
            dials: Dials::new(PeerKey(me.0), random),
            reported: BTreeMap::new(),
            report: Gathering::new(REPORT_SOON, REPORT_DAMP_MAX),
        }
    }

    /// Takes over who belongs to the fleet. Someone who was let in before that was known is linked from now on.
    pub(super) fn set_members(
        &mut self,
        now: Time,
        own_zone: String,
        members: BTreeMap<Key, String>,
        removed: &BTreeSet<Key>,
        sessions: &BTreeSet<Key>,
    ) {
        self.peers.retain(|key, _| !removed.contains(key));
        let keys = |keys: &BTreeSet<Key>| keys.iter().map(|key| PeerKey(key.0)).collect::<BTreeSet<PeerKey>>();
        let members = members.into_iter().map(|(key, zone)| (PeerKey(key.0), zone)).collect();
        if self.dials.members(moment(now), own_zone, members, &keys(removed), &keys(sessions)) {
            self.schedule_report(now);
        }
    }

    /// The newest addresses come first, in the order in which the peer prefers them.
    pub(super) fn add_addresses(&mut self, now: Time, peer: Key, addresses: Vec<String>) {
        if addresses.is_empty() {
            return;
        }
        let known = self.peers.entry(peer).or_default();
        let is_new = addresses.iter().any(|address| !known.addresses.contains(address));
        put_first(&mut known.addresses, addresses, ADDRESSES_MAX);
        self.dials.located(moment(now), PeerKey(peer.0), is_new);
    }

    /// A peer was seen on the local network: members are dialled at once.
    pub(super) fn discovered(&mut self, now: Time, peer: Key, addresses: Vec<String>) {
        if !addresses.is_empty() && self.dials.seen(moment(now), PeerKey(peer.0)) {
            put_first(&mut self.peers.entry(peer).or_default().found, addresses, FOUND_MAX);
        }
    }

    /// A session is up. One with a stranger is none yet.
    pub(super) fn link_up(&mut self, now: Time, peer: Key) {
        if self.dials.up(moment(now), PeerKey(peer.0)) {
            self.peers.entry(peer).or_default().errors.clear();
            self.schedule_report(now);
        }
    }

    pub(super) fn link_down(&mut self, now: Time, wall_ms: u64, peer: Key) {
        if self.dials.down(moment(now), PeerKey(peer.0)) {
            self.peers.entry(peer).or_default().lost_ms = Some(wall_ms);
            self.schedule_report(now);
        }
    }

    /// This node ended the session: the peer is tried again, later.
    pub(super) fn link_closed(&mut self, now: Time, wall_ms: u64, peer: Key, reason: &str) {
        if self.dials.closed(moment(now), PeerKey(peer.0)) {
            let known = self.peers.entry(peer).or_default();
            (known.lost_ms, known.errors) = (Some(wall_ms), vec![reason.to_owned()]);
            self.schedule_report(now);
        }
    }

    pub(super) fn dial_failed(&mut self, now: Time, peer: Key, errors: Vec<String>) {
        self.dials.failed(moment(now), PeerKey(peer.0));
        if let Some(known) = self.peers.get_mut(&peer) {
            known.errors = errors;
        }
    }

    /// A round trip to a peer was measured.
    pub(super) fn round_trip(&mut self, peer: Key, micros: u64) {
        self.dials.measured(PeerKey(peer.0), micros);
    }

    /// Why a link with a peer is held.
    pub(crate) fn reason(&self, peer: &Key) -> Option<Reason> {
        self.dials.reason(&PeerKey(peer.0))
    }

    /// Other devices lead to a peer, or no longer.
    pub(super) fn reach_changed(&mut self, now: Time, peer: PeerKey, is_reached: bool) {
        self.dials.reach_changed(moment(now), peer, is_reached);
    }

    /// A peer can be dialled at once, whatever failed before.
    fn try_now(&mut self, now: Time, peer: Key) {
        self.dials.seen(moment(now), PeerKey(peer.0));
    }

    pub(super) fn try_all_now(&mut self, now: Time) {
        self.dials.try_all_now(moment(now));
    }

    /// When the next dial is due, or the overlay is to be asked again.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.dials.poll_timeout().map(time)
    }

    /// What the last dial of a peer failed with.
    pub(crate) fn errors(&self, peer: &Key) -> Vec<String> {
        self.peers.get(peer).map(|known| known.errors.clone()).unwrap_or_default()
    }

    /// When this node lost its last session with a device, milliseconds since 1970.
    pub(super) fn lost_ms(&self, device: &DeviceId) -> Option<u64> {
        self.peers.iter().find(|(key, _)| key.device() == *device).and_then(|(_, peer)| peer.lost_ms)
    }

    /// Where a peer may be reached.
    pub(crate) fn addresses(&self, peer: &Key) -> Vec<String> {
        self.peers.get(peer).map(Peer::all_addresses).unwrap_or_default()
    }

    pub(super) fn addresses_changed(&mut self, now: Time) {
        self.schedule_report(now);
    }

    /// What this device has of blobs changed.
    pub(super) fn blobs_changed(&mut self, now: Time) {
        self.schedule_report(now);
    }

    /// What all devices say of their links.
    pub(crate) fn reported(&self) -> impl Iterator<Item = (&DeviceId, &LinkDocument)> {
        self.reported.iter()
    }

    /// What a device says of its links.
    pub(crate) fn said_by(&self, device: &DeviceId) -> Option<&LinkDocument> {
        self.reported.get(device)
    }

    /// A link is suspect, or no longer.
    pub(super) fn suspicion_changed(&mut self, now: Time, peer: Key, is_suspect: bool) {
        self.dials.suspected(PeerKey(peer.0), is_suspect);
        self.schedule_report(now);
    }

    /// What a link is like left its dead-bands, or what the device runs on changed; others who use a link that is much worse
    /// hear of it as soon as of one that is gone.
    pub(super) fn link_measured(&mut self, now: Time, is_much_worse: bool) {
        self.report.ask(moment(now), if is_much_worse { REPORT_SOON } else { REPORT_LATER });
    }

    fn schedule_report(&mut self, now: Time) {
        self.report.ask(moment(now), REPORT_SOON);
    }

    pub(super) fn report_timeout(&self) -> Option<Time> {
        self.report.poll_timeout().map(time)
    }
}

fn put_first(known: &mut Vec<String>, newest: Vec<String>, most: usize) {
    known.retain(|address| !newest.contains(address));
    known.splice(0..0, newest);
    known.truncate(most);
}

impl Node {
    pub(super) fn dial_due(&mut self) {
        if self.is_offline() {
            return;
        }
        let now = self.now();
        let due = self.neighbours.dials.due(moment(now), &self.routing.routes);
        for dial in due.dial {
            if let Some(why) = dial.why.filter(|_| !dial.has_failed) {
                self.emit(NodeEvent::seeks(&self.named(Key(dial.peer.0).device()), why));
            }
            let addresses = self.neighbours.addresses(&Key(dial.peer.0));
            if let Err(error) = self.mesh.dial(dial.peer, addresses) {
                tracing::debug!(%error, "a dial was not taken");
            }
        }
        for (peer, why) in due.close {
            if let Some(link) = self.sessions.link_with(&Key(peer.0)) {
                self.close_link(link, let_go_text(why));
                self.effects();
            }
        }
    }

    /// Takes over where members were when this node was told of them.
    pub(super) fn note_seeds(&mut self) {
        for seed in self.folder.seeds() {
            if let Ok(peer) = seed.peer.parse() {
                self.neighbours.add_addresses(self.now(), peer, vec![seed.address]);
            }
        }
    }

    /// A person says where a member may be reached.
    pub(super) fn add_seeds(&mut self, peer: Key, addresses: &[String]) -> Result<(), String> {
        let name = peer.to_string();
        let mut seeds = self.folder.seeds();
        seeds.retain(|seed| seed.peer != name || !addresses.contains(&seed.address));
        if seeds.len() + addresses.len() > SEEDS_MAX {
            return Err(format!(
                "{SEEDS_MAX} addresses are remembered already; seeds.json in the data folder has them"
            ));
        }
        let new = addresses.iter().map(|address| Seed { peer: name.clone(), address: address.clone() });
        // Read in this order at a start, when the last one is put first.
        seeds.extend(new.rev());
        self.folder.write_seeds(&seeds).map_err(|error| error.to_string())?;
        let now = self.now();
        self.neighbours.add_addresses(now, peer, addresses.to_vec());
        self.neighbours.try_now(now, peer);
        Ok(())
    }

    /// A dial came to nothing. Watchers hear of the first one of a row.
    pub(super) fn dial_failed(&mut self, peer: Key, errors: Vec<String>) {
        if !self.neighbours.dials.has_failed(&PeerKey(peer.0)) {
            self.emit(NodeEvent::dial_failed(&self.named(peer.device()), &errors));
        }
        self.neighbours.dial_failed(self.now(), peer, errors);
    }

    /// Takes over what a `link` document says: where its device is reached, and what it says of its links.
    pub(super) fn read_link_document(&mut self, document: &DocumentName) {
        let Some(device) = document.device() else { return };
        let Ok(view) = view::read(&self.store, document, "") else { return };
        let said = LinkDocument::read(&view);
        let addresses = said.addresses.clone();
        self.neighbours.reported.insert(device, said);
        self.links_reported(device);
        let key = self.engine.replica().roster().key_of(&device).filter(|_| self.is_member(&device));
        if let Some(key) = key.filter(|_| device != self.device()) {
            self.neighbours.add_addresses(self.now(), key, addresses);
        }
    }

    /// Writes what changed of this node's links.
    pub(super) fn report_links(&mut self) {
        let now = self.now();
        if !self.neighbours.report.take(moment(now)) || self.full.is_some() {
            return;
        }
        let document = DocumentName::of_device(Kind::Link, &self.device());
        let Ok(view) = view::read(&self.store, &document, "") else { return };
        let wanted = self.own_links(&LinkDocument::read(&view)).values();
        let gone = view.keys().filter(|path| !wanted.contains_key(*path));
        let mut edits: Vec<Edit> = gone.map(|path| Edit { path: path.clone(), value: None }).collect();
        for (path, value) in wanted {
            if view.get(&path).map(|entry| &entry.read.value) != Some(&value) {
                edits.push(Edit { path, value: Some(value) });
            }
        }
        if !edits.is_empty() {
            let request = self.request_id();
            self.input(Input::Write { request, document, edits });
        }
    }

    /// What this node's links are, beside what was said of them before.
    fn own_links(&self, before: &LinkDocument) -> LinkDocument {
        let used = self.sessions.iter().filter(|(link, _)| !self.routing.is_suspect(link));
        let sessions = used.map(|(link, session)| (session.peer.device(), link));
        let up: BTreeMap<DeviceId, &LinkId> = sessions.collect();
        let devices = up.keys().chain(before.neighbours.keys()).filter(|device| self.is_member(device));
        let report = |device: &DeviceId| {
            let is_up = up.contains_key(device);
            let kept = before.neighbours.get(device).filter(|report| report.is_up == is_up);
            Report {
                is_up,
                since_ms: kept.map_or_else(|| self.clock.wall_ms(), |report| report.since_ms),
                measured: up.get(device).and_then(|link| self.routing.announced(link)),
                rate: up.get(device).and_then(|link| self.routing.rate(link)),
            }
        };
        LinkDocument {
            addresses: announced(&self.listening, &self.reachable),
            neighbours: devices.map(|device| (*device, report(device))).collect(),
            burden: self.routing.burden,
            bulk_port: Some(self.bulk.port()).filter(|port| *port > 0),
            blobs: self.announced_blobs.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Key {
        Key([number; 32])
    }

    fn due(neighbours: &mut Neighbours, now: Time) -> Vec<(Key, Vec<String>)> {
        let due = neighbours.dials.due(moment(now), &transport::Routes::new(PeerKey([0; 32])));
        let keys = due.dial.iter().map(|dial| Key(dial.peer.0));
        keys.map(|key| (key, neighbours.addresses(&key))).collect()
    }

    #[test]
    fn the_newest_addresses_come_first_as_the_peer_orders_them() {
        let mut neighbours = Neighbours::new(peer(0), 1);
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        neighbours.add_addresses(Time(1), peer(1), list(&["a", "b"]));
        neighbours.add_addresses(Time(1), peer(1), list(&["c", "b"]));
        assert_eq!(neighbours.addresses(&peer(1)), list(&["c", "b", "a"]));
        neighbours.add_addresses(Time(1), peer(1), (0..40).map(|number| number.to_string()).collect());
        assert_eq!(neighbours.addresses(&peer(1)).len(), ADDRESSES_MAX);
    }

    #[test]
    fn what_mdns_finds_is_little_comes_last_and_drives_out_nothing() {
        let mut neighbours = Neighbours::new(peer(0), 1);
        let now = Time(1);
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        neighbours.discovered(now, peer(1), list(&["x"]));
        assert!(neighbours.peers.is_empty(), "a stranger");
        let member = BTreeMap::from([(peer(1), String::new())]);
        neighbours.set_members(now, String::new(), member, &BTreeSet::new(), &BTreeSet::new());
        neighbours.discovered(now, peer(1), list(&["x"]));
        assert_eq!(due(&mut neighbours, now), [(peer(1), list(&["x"]))], "it is dialled where nothing else is known");
        neighbours.add_addresses(Time(1), peer(1), list(&["a", "b"]));
        for number in 0..100 {
            neighbours.discovered(now, peer(1), (0..20).map(|part| format!("{number}.{part}")).collect());
        }
        assert_eq!(neighbours.addresses(&peer(1)), list(&["a", "b", "99.0", "99.1", "99.2", "99.3"]));
        neighbours.dial_failed(now, peer(1), Vec::new());
        neighbours.discovered(now, peer(1), list(&["b", "y"]));
        assert_eq!(due(&mut neighbours, now), [(peer(1), list(&["a", "b", "y", "99.0", "99.1"]))]);
    }

    #[test]
    fn a_stranger_is_linked_once_it_is_a_member() {
        let mut neighbours = Neighbours::new(peer(0), 1);
        neighbours.link_up(Time(1), peer(1));
        neighbours.link_down(Time(2), 7, peer(2));
        assert!(neighbours.peers.is_empty() && neighbours.report_timeout().is_none(), "strangers leave no trace");
        let members = [1, 2].map(|number| (peer(number), String::new())).into();
        neighbours.set_members(Time(3), String::new(), members, &BTreeSet::new(), &[peer(1)].into());
        assert_eq!((neighbours.reason(&peer(1)), neighbours.reason(&peer(2))), (Some(Reason::Sought), None));
        assert!(neighbours.report_timeout().is_some(), "the link is reported now");
    }
}
