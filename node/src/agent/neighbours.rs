//! Whom to hold links to, and what this node says of its links.
//!
//! Whom `transport::Overlay` wants is dialled until it is linked, with jittered backoff; the addresses come from the ticket,
//! from `link` documents and from mDNS. Changes of links are gathered over 50 ms and damped, doubling to 10 s, before they are
//! written to `link/<id>`, so that a flapping link does not flood the fleet (PROTOCOL 6).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crdt::id::{DeviceId, Key, Time};
use crdt::schema::{DocumentName, Kind};
use crdt::sync::{Edit, Input, LinkId};
use crdt::view;
use transport::{LetGo, Overlay, PeerKey, Reason, Routes, Surroundings};

use super::events::let_go_text;
use super::link_document::{LinkDocument, Report};
use super::routing::moment;
use super::{Node, NodeEvent, announced};

/// Backoff of dials: 200 ms doubling to 15 s, half as much more or less by chance.
const BACKOFF_MS: RangeInclusive<u64> = 200..=15_000;
/// It goes on doubling to this, milliseconds, where other devices lead to the peer: then nobody waits for the link.
const BACKOFF_REACHED_MS: u64 = 240_000;
/// After a session that either side closed for a reason, milliseconds.
const CLOSED_BACKOFF_MS: u64 = 10_000;
/// A dial that says nothing is over after this many milliseconds.
const DIAL_MS: u64 = 20_000;
/// Links are gathered for this long before they are written, milliseconds.
const GATHER_MS: u64 = 50;
/// What links are like is gathered for longer, milliseconds: nobody waits for it.
const MEASURED_MS: u64 = 1_000;
/// The longest damping of link reports, milliseconds.
const DAMP_MS_MAX: u64 = 10_000;
/// Most addresses of a peer, without those that mDNS found.
const ADDRESSES_MAX: usize = 16;
/// Most addresses of a peer that mDNS found. Anyone on the local network can say anything there.
const FOUND_MAX: usize = 4;

#[derive(Debug, Default)]
struct Peer {
    /// From tickets and `link` documents, which members signed.
    addresses: Vec<String>,
    /// From mDNS, which proves nothing: they are tried after the others.
    found: Vec<String>,
    is_member: bool,
    is_up: bool,
    /// Whether a way leads there.
    is_reached: bool,
    failures: u32,
    next_try: Time,
    errors: Vec<String>,
    /// When this node's own session ended, milliseconds since 1970.
    lost_ms: Option<u64>,
}

impl Peer {
    fn is_known_somewhere(&self) -> bool {
        !self.addresses.is_empty() || !self.found.is_empty()
    }

    /// In the order in which they are tried.
    fn all_addresses(&self) -> Vec<String> {
        let found = self.found.iter().filter(|address| !self.addresses.contains(address));
        self.addresses.iter().chain(found).cloned().collect()
    }
}

/// A dial that is due.
#[derive(Debug)]
struct Dial {
    peer: Key,
    addresses: Vec<String>,
    /// Why; none where the peer is no member yet.
    why: Option<Reason>,
    /// Whether the one before came to nothing.
    has_failed: bool,
}

/// The node's knowledge of its peers.
#[derive(Debug)]
pub(crate) struct Neighbours {
    peers: BTreeMap<Key, Peer>,
    overlay: Overlay,
    /// Something happened that the overlay may have to answer.
    is_to_choose: bool,
    /// What each device says of its links.
    pub(super) reported: BTreeMap<DeviceId, LinkDocument>,
    report_at: Option<Time>,
    last_report: Time,
    damp_ms: u64,
    random: u64,
    /// When the overlay was asked last.
    chosen_at: Time,
}

impl Neighbours {
    pub(super) fn new(me: Key, random: u64) -> Neighbours {
        Neighbours {
            peers: BTreeMap::new(),
            overlay: Overlay::new(PeerKey(me.0), random),
            is_to_choose: false,
            reported: BTreeMap::new(),
            report_at: None,
            last_report: Time(0),
            damp_ms: GATHER_MS,
            random,
            chosen_at: Time(0),
        }
    }

    fn jittered(&mut self, millis: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (self.random >> 33) % 1001;
        millis / 2 + millis * share / 1000
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
        let zones = members.iter().map(|(key, zone)| (PeerKey(key.0), zone.clone()));
        self.overlay.members(own_zone, zones.collect());
        self.is_to_choose = true;
        for member in members.into_keys() {
            let known = self.peers.entry(member).or_default();
            if !std::mem::replace(&mut known.is_member, true) && sessions.contains(&member) {
                self.link_up(now, member);
            }
        }
    }

    /// The newest addresses come first, in the order in which the peer prefers them.
    /// One that is new is tried soon.
    pub(super) fn add_addresses(&mut self, now: Time, peer: Key, addresses: Vec<String>) {
        let wait = self.jittered(*BACKOFF_MS.start());
        let known = self.peers.entry(peer).or_default();
        if known.failures > 0 && addresses.iter().any(|address| !known.addresses.contains(address)) {
            known.failures = 0;
            known.next_try = known.next_try.min(now.plus_millis(wait));
        }
        put_first(&mut known.addresses, addresses, ADDRESSES_MAX);
        self.is_to_choose = true;
    }

    /// A peer was seen on the local network: members are dialled at once.
    pub(super) fn discovered(&mut self, now: Time, peer: Key, addresses: Vec<String>) {
        if let Some(known) = self.peers.get_mut(&peer).filter(|known| known.is_member) {
            put_first(&mut known.found, addresses, FOUND_MAX);
            known.next_try = known.next_try.min(now);
            self.is_to_choose = true;
        }
    }

    /// A session is up. One with a stranger is none yet.
    pub(super) fn link_up(&mut self, now: Time, peer: Key) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.is_up = true;
        known.failures = 0;
        known.errors.clear();
        self.overlay.up(moment(now), PeerKey(peer.0));
        self.is_to_choose = true;
        self.schedule_report(now);
    }

    pub(super) fn link_down(&mut self, now: Time, wall_ms: u64, peer: Key) {
        let wait = self.jittered(*BACKOFF_MS.start());
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.is_up = false;
        known.next_try = now.plus_millis(wait);
        known.lost_ms = Some(wall_ms);
        self.overlay.down(moment(now), PeerKey(peer.0));
        self.is_to_choose = true;
        self.schedule_report(now);
    }

    /// This node ended the session: the peer is tried again, later.
    pub(super) fn link_closed(&mut self, now: Time, wall_ms: u64, peer: Key, reason: &str) {
        self.link_down(now, wall_ms, peer);
        let wait = self.jittered(CLOSED_BACKOFF_MS);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.errors = vec![reason.to_owned()];
            known.next_try = now.plus_millis(wait);
        }
    }

    pub(super) fn dial_failed(&mut self, now: Time, peer: Key, errors: Vec<String>) {
        let Some((failures, is_reached)) = self.peers.get(&peer).map(|known| (known.failures, known.is_reached)) else {
            return;
        };
        let most = if is_reached { BACKOFF_REACHED_MS } else { *BACKOFF_MS.end() };
        let backoff = (BACKOFF_MS.start() << failures.min(20)).min(most);
        let wait = self.jittered(backoff);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.failures += 1;
            known.next_try = now.plus_millis(wait);
            known.errors = errors;
        }
        self.overlay.failed(PeerKey(peer.0));
        self.is_to_choose = true;
    }

    /// A round trip to a peer was measured.
    pub(super) fn round_trip(&mut self, peer: Key, micros: u64) {
        self.overlay.measured(PeerKey(peer.0), micros);
        self.is_to_choose = true;
    }

    /// Why a link with a peer is held.
    pub(crate) fn reason(&self, peer: &Key) -> Option<Reason> {
        self.overlay.reason(&PeerKey(peer.0))
    }

    /// Other devices lead to a peer, or no longer. Where that changes it has begun to run, or the mesh has come apart: it is
    /// dialled as if for the first time.
    pub(super) fn reach_changed(&mut self, now: Time, peer: Key, is_reached: bool) {
        let wait = self.jittered(*BACKOFF_MS.start());
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if std::mem::replace(&mut known.is_reached, is_reached) != is_reached && known.failures > 0 {
            known.failures = 0;
            known.next_try = known.next_try.min(now.plus_millis(wait));
        }
    }

    pub(super) fn try_all_now(&mut self, now: Time) {
        for peer in self.peers.values_mut() {
            peer.failures = 0;
            peer.next_try = now;
        }
        self.is_to_choose = true;
    }

    /// When the next dial is due, or the overlay is to be asked again.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        if self.is_to_choose {
            return Some(Time(0));
        }
        // Those that can be dialled already are not wanted, unless they are no members.
        let can_wait = |peer: &Peer| peer.next_try > self.chosen_at || !peer.is_member;
        let is_sought = |peer: &Peer| !peer.is_member || self.overlay.is_short();
        let waits = |peer: &&Peer| !peer.is_up && peer.is_known_somewhere() && is_sought(peer) && can_wait(peer);
        let dial = self.peers.values().filter(waits).map(|peer| peer.next_try).min();
        let overlay = self.overlay.poll_timeout().map(|at| Time(u64::try_from(at.as_micros()).unwrap_or(u64::MAX)));
        dial.into_iter().chain(overlay).min()
    }

    /// Asks the overlay where something happened, or it is time. Whom to dial, and whose links to close and why.
    fn take_due(&mut self, now: Time, routes: &Routes) -> (Vec<Dial>, Vec<(Key, LetGo)>) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return Default::default();
        }
        (self.is_to_choose, self.chosen_at) = (false, now);
        let peers = &self.peers;
        let is_due = |peer: &Peer| !peer.is_up && peer.is_known_somewhere() && peer.next_try <= now;
        let can_dial = |peer: &PeerKey| peers.get(&Key(peer.0)).is_some_and(is_due);
        self.overlay.choose(moment(now), &Surroundings { routes, can_dial: &can_dial });
        let wanted = self.overlay.wanted().clone();
        wanted.keys().for_each(|peer| self.overlay.dialled(moment(now), *peer));
        let mut due = Vec::new();
        for (key, peer) in &mut self.peers {
            // Who is no member, as far as is known, is known from a ticket: it leads to the others.
            let why = wanted.get(&PeerKey(key.0)).copied();
            if is_due(peer) && (!peer.is_member || why.is_some()) {
                peer.next_try = now.plus_millis(DIAL_MS);
                due.push(Dial { peer: *key, addresses: peer.all_addresses(), why, has_failed: peer.failures > 0 });
            }
        }
        let drops = std::iter::from_fn(|| self.overlay.poll_drop()).map(|(peer, why)| (Key(peer.0), why)).collect();
        (due, drops)
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
    pub(super) fn suspicion_changed(&mut self, now: Time) {
        self.schedule_report(now);
    }

    /// What a link is like left its dead-bands, or what the device runs on changed; others who use a link that is much worse
    /// hear of it as soon as of one that is gone.
    pub(super) fn link_measured(&mut self, now: Time, is_much_worse: bool) {
        self.report_after(now, if is_much_worse { GATHER_MS } else { MEASURED_MS });
    }

    fn schedule_report(&mut self, now: Time) {
        self.report_after(now, GATHER_MS);
    }

    fn report_after(&mut self, now: Time, gather_ms: u64) {
        let at = self.last_report.plus_millis(self.damp_ms).max(now.plus_millis(gather_ms));
        self.report_at = Some(self.report_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn report_timeout(&self) -> Option<Time> {
        self.report_at
    }

    fn take_report(&mut self, now: Time) -> bool {
        if self.report_at.is_none_or(|at| at > now) {
            return false;
        }
        let is_quiet = now > self.last_report.plus_millis(DAMP_MS_MAX);
        self.damp_ms = if is_quiet { GATHER_MS } else { (self.damp_ms * 2).min(DAMP_MS_MAX) };
        self.last_report = now;
        self.report_at = None;
        true
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
        let (due, drops) = self.neighbours.take_due(now, &self.routing.routes);
        for dial in due {
            if let Some(why) = dial.why.filter(|_| !dial.has_failed) {
                self.emit(NodeEvent::seeks(&self.named(dial.peer.device()), why));
            }
            if let Err(error) = self.mesh.dial(PeerKey(dial.peer.0), dial.addresses) {
                tracing::debug!(%error, "a dial was not taken");
            }
        }
        for (peer, why) in drops {
            if let Some(link) = self.sessions.link_with(&peer) {
                self.close_link(link, let_go_text(why));
                self.effects();
            }
        }
    }

    /// A dial came to nothing. Watchers hear of the first one of a row.
    pub(super) fn dial_failed(&mut self, peer: Key, errors: Vec<String>) {
        if self.neighbours.peers.get(&peer).is_some_and(|known| known.failures == 0) {
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
        if !self.neighbours.take_report(now) || self.full.is_some() {
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
            addresses: announced(&self.listening),
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

    fn neighbours_of(peers: &[u8]) -> Neighbours {
        let mut neighbours = Neighbours::new(peer(0), 1);
        let members = peers.iter().map(|number| (peer(*number), String::new())).collect();
        neighbours.set_members(Time(1), String::new(), members, &BTreeSet::new(), &BTreeSet::new());
        neighbours
    }

    fn due(neighbours: &mut Neighbours, now: Time) -> Vec<(Key, Vec<String>)> {
        let (due, _) = neighbours.take_due(now, &Routes::new(PeerKey([0; 32])));
        due.into_iter().map(|dial| (dial.peer, dial.addresses)).collect()
    }

    /// How long a peer waits that cannot be dialled now, milliseconds.
    fn wait(neighbours: &mut Neighbours, now: Time) -> u64 {
        assert!(due(neighbours, now).is_empty());
        neighbours.poll_timeout().map_or(0, |at| at.0 - now.0) / 1000
    }

    #[test]
    fn members_with_addresses_are_dialled_with_backoff() {
        let mut neighbours = neighbours_of(&[1, 2]);
        let mut now = Time(1_000_000);
        assert!(
            due(&mut neighbours, now).is_empty() && neighbours.poll_timeout().is_none(),
            "nobody knows where they are"
        );
        let addresses = |number: u8| vec![format!("/ip4/127.0.0.1/tcp/{number}")];
        neighbours.add_addresses(now, peer(1), addresses(1));
        let mut waits = Vec::new();
        for _ in 0..12 {
            now = now.max(neighbours.poll_timeout().expect("a peer that is down is tried for ever"));
            assert_eq!(due(&mut neighbours, now).len(), 1);
            assert!(due(&mut neighbours, now).is_empty(), "one dial at a time");
            neighbours.dial_failed(now, peer(1), Vec::new());
            waits.push(wait(&mut neighbours, now));
        }
        assert!(waits[0] < 301 && waits[11] >= 7_500 && waits[11] <= 22_500, "{waits:?}");
        let fail = |neighbours: &mut Neighbours| (0..20).for_each(|_| neighbours.dial_failed(now, peer(1), Vec::new()));
        neighbours.reach_changed(now, peer(1), true);
        fail(&mut neighbours);
        assert!((120_000..=360_000).contains(&wait(&mut neighbours, now)), "others lead there");
        neighbours.reach_changed(now, peer(1), true);
        assert!(wait(&mut neighbours, now) >= 120_000, "nothing changed");
        neighbours.reach_changed(now, peer(1), false);
        assert!(wait(&mut neighbours, now) <= 300, "nobody leads there any more");
        fail(&mut neighbours);
        neighbours.add_addresses(now, peer(1), addresses(1));
        assert!(wait(&mut neighbours, now) > 300, "it is said again");
        neighbours.add_addresses(now, peer(1), addresses(2));
        assert!(wait(&mut neighbours, now) <= 300, "a new address");
        neighbours.link_up(now, peer(1));
        assert_eq!(wait(&mut neighbours, now), 0);
        assert_eq!(neighbours.poll_timeout(), None);
        neighbours.link_down(now, 7, peer(1));
        assert!((1..=300).contains(&wait(&mut neighbours, now)));
    }

    #[test]
    fn of_many_members_some_are_dialled_and_a_link_too_many_is_closed() {
        let all: Vec<u8> = (1..=40).collect();
        let mut neighbours = neighbours_of(&all);
        let now = Time(1_000_000);
        all.iter().for_each(|number| neighbours.add_addresses(now, peer(*number), vec![number.to_string()]));
        let dialled = due(&mut neighbours, now);
        // And one to whom no way leads.
        assert!((12..=13).contains(&dialled.len()), "{}", dialled.len());
        assert!(due(&mut neighbours, now).is_empty());
        all.iter().take(20).for_each(|number| {
            neighbours.link_up(now, peer(*number));
            neighbours.round_trip(peer(*number), 1_000 * u64::from(*number));
        });
        let mut routes = Routes::new(PeerKey([0; 32]));
        let cost = transport::Cost::from_micros(1_000);
        let links: Vec<_> = all.iter().take(20).map(|number| (PeerKey([*number; 32]), cost)).collect();
        routes.report(PeerKey([0; 32]), &links);
        for (key, _) in &links {
            let others: Vec<_> = links.iter().filter(|(other, _)| other != key).copied().collect();
            routes.report(*key, &others);
        }
        routes.update();
        let later = now.plus_millis(20_000);
        let (_, closed) = neighbours.take_due(later, &routes);
        assert_eq!(closed.len(), 1, "{closed:?}");
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
        assert!(neighbours.peers[&peer(1)].is_up && !neighbours.peers[&peer(2)].is_up);
        assert!(neighbours.report_timeout().is_some(), "the link is reported now");
    }

    #[test]
    fn a_flapping_link_is_reported_ever_more_rarely() {
        let mut neighbours = Neighbours::new(peer(0), 1);
        let mut reports = 0;
        for millis in 0..60_000 {
            let now = Time(1_000_000_000 + millis * 1000);
            if millis % 20 == 0 {
                neighbours.schedule_report(now);
            }
            reports += u32::from(neighbours.take_report(now));
        }
        assert!((8..20).contains(&reports), "{reports} reports in a minute");
    }
}
