//! What this node's links are like, the ways that follow from what all devices say of theirs, and from whom this node has
//! the changes of each device.
//!
//! Links are probed after two seconds of silence, and sooner where one may be dead (`transport::Liveness`): a suspect link
//! is left at once, and closed when it stays silent. What a document says comes into effect within 20 ms, together with
//! whatever else came, and a little later where more comes all the time; what happens to an own link at once. Where no way
//! was measured yet, changes come from the device itself where a link to it is up, else from the peer over which its `link`
//! document came first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdt::id::{DeviceId, Key, Time};
use crdt::schema::{DocumentName, Kind, Value};
use crdt::sync::{Input, LinkId, Parents};
use crdt::view;
use transport::{
    Cost, Gathering, LinkKind, LinkState, Liveness, Measured, Meter, PeerKey, Routes, SEARCH_DAMP_MAX_A_NODE,
    SEARCH_SOON, SessionId, Verdict,
};

use super::busyness::Busyness;
use super::events::{NAMED_MAX, RouteMove};
use super::link_document::{Burden, state_of};
use super::moves::{Fate, NextHops};
use super::{Node, NodeEvent, addresses};

/// How long a link is silent before it is probed, milliseconds; and where this device pays for what it sends.
const PROBE_MS: u64 = 2_000;
const PROBE_MS_METERED: u64 = 15_000;
/// Statements are gathered for so long before all documents are looked at again: a fleet that enrols brings thousands.
const REREAD_MS: u64 = 500;

/// Where the `environment` document says what the device runs on.
const POWER_SOURCE: &str = "power.source";

/// A link that is measured.
#[derive(Debug)]
struct Measuring {
    meter: Meter,
    kind: LinkKind,
    /// What is announced of the rate that it takes, bytes a second.
    rate: Option<u64>,
}

impl Measuring {
    /// Takes over a rate, where it has halved or doubled. Whether it has.
    fn note_rate(&mut self, now: Option<u64>) -> bool {
        let has_changed =
            |was: Option<u64>, now: u64| was.is_none_or(|was| was.max(now) > was.min(now).saturating_mul(2));
        let Some(now) = now.filter(|now| has_changed(self.rate, *now)) else { return false };
        self.rate = Some(now);
        true
    }
}

/// Of a thousand parts of their time, how many the processors work.
const UTILISATION: &str = "cpu.utilisation_permille";

/// What the node knows of ways.
#[derive(Debug)]
pub(crate) struct Routing {
    pub(crate) routes: Routes,
    measuring: BTreeMap<LinkId, Measuring>,
    liveness: Liveness,
    /// Peers over which the `link` documents of devices came that are not linked themselves.
    first_from: BTreeMap<DeviceId, DeviceId>,
    /// When ways are looked for again.
    search: Gathering,
    /// The roster changed, so that what documents say may mean other devices: when they are looked at again.
    reread_at: Option<Time>,
    /// What makes this device's links dearer.
    pub(super) burden: Burden,
    busyness: Busyness,
    next_hops: NextHops,
}

impl Routing {
    pub(super) fn new(me: Key, is_metered: bool) -> Routing {
        Routing {
            routes: Routes::new(PeerKey(me.0)),
            measuring: BTreeMap::new(),
            liveness: Liveness::default(),
            first_from: BTreeMap::new(),
            search: Gathering::new(SEARCH_SOON, SEARCH_SOON),
            reread_at: None,
            burden: Burden { is_metered, ..Burden::default() },
            busyness: Busyness::default(),
            next_hops: NextHops::default(),
        }
    }

    fn probe_every(&self) -> Duration {
        Duration::from_millis(if self.burden.is_metered { PROBE_MS_METERED } else { PROBE_MS })
    }

    /// Bytes came over a link.
    pub(super) fn heard(&mut self, now: Time, link: LinkId) {
        self.liveness.heard(moment(now), SessionId(link.0));
    }

    /// A link was found to be behind.
    pub(super) fn behind(&mut self, now: Time, link: LinkId) {
        self.liveness.doubt(moment(now), SessionId(link.0));
    }

    /// Something was sent over a link to which an answer is due.
    pub(super) fn awaits(&mut self, now: Time, link: LinkId) {
        self.liveness.awaits(moment(now), SessionId(link.0));
    }

    /// The peer says that it hears nothing of this node.
    pub(super) fn unheard(&mut self, now: Time, link: LinkId) {
        self.liveness.unheard(moment(now), SessionId(link.0));
    }

    /// Whether a link is not to be used.
    pub(crate) fn is_suspect(&self, link: &LinkId) -> bool {
        self.liveness.is_suspect(SessionId(link.0))
    }

    /// When something is to be done.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let links = self.liveness.poll_timeout().into_iter().chain(self.search.poll_timeout()).min().map(time);
        links.into_iter().chain(self.busyness.poll_timeout()).min()
    }

    /// What is announced of a link, as far as it was measured.
    pub(super) fn announced(&self, link: &LinkId) -> Option<(Measured, LinkKind)> {
        let link = self.measuring.get(link)?;
        Some((link.meter.announced()?, link.kind))
    }

    /// What is announced of the rate that a link takes, bytes a second.
    pub(crate) fn rate(&self, link: &LinkId) -> Option<u64> {
        self.measuring.get(link)?.rate
    }

    /// What this end says of a link, as far as it was measured.
    pub(crate) fn state(&self, link: &LinkId) -> Option<LinkState> {
        Some(state_of(self.announced(link)?, self.burden))
    }
}

/// The time as `transport` has it.
pub(super) fn moment(now: Time) -> Duration {
    Duration::from_micros(now.0)
}

/// ... and as the engine has it.
pub(super) fn time(at: Duration) -> Time {
    Time(u64::try_from(at.as_micros()).unwrap_or(u64::MAX))
}

impl Node {
    /// A probe of a link came back.
    pub(super) fn round_trip(&mut self, link: LinkId, micros: u64) {
        let now = self.now();
        let probe_every = self.routing.probe_every();
        let Some(session) = self.sessions.get(&link) else { return };
        self.neighbours.round_trip(session.peer, micros);
        let (at, rtt, id) = (moment(now), Duration::from_micros(micros), SessionId(link.0));
        let Routing { measuring, liveness, .. } = &mut self.routing;
        let is_first = !measuring.contains_key(&link);
        let measuring = measuring.entry(link).or_insert_with(|| {
            liveness.up(at, id, rtt, probe_every, session.is_outbound);
            Measuring { meter: Meter::default(), kind: addresses::kind_of(&session.address), rate: None }
        });
        if liveness.answered(at, id, rtt) {
            measuring.meter.answered(at, micros, liveness.is_in_use(at, id));
        }
        if measuring.meter.is_new() {
            liveness.doubt(at, id);
        }
        if measuring.meter.is_in_doubt() {
            liveness.examine(at, id);
        }
        let summary = self.engine.links().find(|summary| summary.link == link);
        let has_other_rate = measuring.note_rate(summary.and_then(|summary| summary.delivery_rate));
        let before = measuring.meter.announced();
        let has_settled = measuring.meter.settle();
        let after = measuring.meter.announced();
        if has_settled || has_other_rate {
            let is_much_worse = before.zip(after).is_some_and(|(before, after)| after.is_much_worse_than(&before));
            self.neighbours.link_measured(now, is_much_worse);
        }
        if has_settled {
            self.own_links_changed();
        }
        if is_first {
            self.forward_over(self.usable_peers());
        }
    }

    /// The members to whom requests can be handed.
    fn usable_peers(&self) -> BTreeSet<PeerKey> {
        let is_usable = |link: &LinkId| self.routing.measuring.contains_key(link) && !self.routing.is_suspect(link);
        let used =
            self.sessions.iter().filter(|(link, session)| is_usable(link) && self.is_member(&session.peer.device()));
        used.map(|(_, session)| PeerKey(session.peer.0)).collect()
    }

    /// What this node says of its links, to its own search: it takes effect with the next one.
    fn own_links_changed(&mut self) {
        let used = self.sessions.iter().filter(|(link, _)| !self.routing.is_suspect(link));
        let members = used.filter(|(_, session)| self.is_member(&session.peer.device()));
        let measured =
            members.filter_map(|(link, session)| Some((PeerKey(session.peer.0), self.routing.state(link)?.cost())));
        let links: Vec<(PeerKey, Cost)> = measured.collect();
        self.routing.routes.report(PeerKey(self.key.0), &links);
        let now = self.now();
        self.routing.search.ask_at(moment(now));
    }

    /// A document of this device's readings changed.
    pub(super) fn readings_changed(&mut self, kind: Kind) {
        match kind {
            Kind::Environment => self.environment_changed(),
            Kind::Resource => self.resource_changed(),
            _ => {}
        }
    }

    /// This device's `resource` document changed: what its processors have to do may have.
    fn resource_changed(&mut self) {
        let document = DocumentName::of_device(Kind::Resource, &self.device());
        let Ok(view) = view::read(&self.store, &document, UTILISATION) else { return };
        let permille = match view.get(UTILISATION).map(|entry| &entry.read.value) {
            Some(Value::Uint(permille)) => Some(*permille),
            _ => None,
        };
        self.routing.busyness.reading(self.now(), permille);
    }

    /// What makes the links of this device dearer is not what it was: all others hear of it.
    fn burden_changed(&mut self) {
        let now = self.now();
        self.neighbours.link_measured(now, false);
        self.own_links_changed();
    }

    /// This device's `environment` document changed: whether it runs on battery may have.
    pub(super) fn environment_changed(&mut self) {
        let document = DocumentName::of_device(Kind::Environment, &self.device());
        let Ok(view) = view::read(&self.store, &document, POWER_SOURCE) else { return };
        let source = view.get(POWER_SOURCE).map(|entry| &entry.read.value);
        let is_on_battery = source == Some(&Value::Text("battery".to_owned()));
        if std::mem::replace(&mut self.routing.burden.is_on_battery, is_on_battery) != is_on_battery {
            self.burden_changed();
        }
    }

    /// A link is up, or gone: the engine learns who takes its place before it learns that.
    pub(super) fn link_changed(&mut self, device: DeviceId) {
        let is_gone = |link: &LinkId| self.sessions.get(link).is_none();
        let gone: Vec<LinkId> = self.routing.measuring.keys().filter(|link| is_gone(link)).copied().collect();
        for link in gone {
            self.routing.measuring.remove(&link);
            self.routing.liveness.down(SessionId(link.0));
        }
        self.own_links_changed();
        self.search();
        self.forward_over(self.usable_peers());
        // Strangers may come and go as they like.
        if self.is_member(&device) {
            self.hand_over_parents(&[device]);
        }
    }

    /// A device says something else of its links than before.
    pub(super) fn links_reported(&mut self, device: DeviceId) {
        self.report_of(device);
        if self.routing.routes.is_stale() {
            self.routing.next_hops.heard(device);
            let now = moment(self.now());
            let nodes = u32::try_from(self.neighbours.reported.len()).unwrap_or(u32::MAX);
            self.routing.search.set_most(SEARCH_DAMP_MAX_A_NODE.saturating_mul(nodes));
            self.routing.search.ask(now, SEARCH_SOON);
        }
    }

    fn report_of(&mut self, device: DeviceId) {
        let roster = self.engine.replica().roster();
        let key_of = |device: &DeviceId| roster.key_of(device).map(|key| PeerKey(key.0));
        let Some(key) = key_of(&device).filter(|_| device != self.device()) else { return };
        let said = self.neighbours.reported.get(&device).filter(|_| self.is_member(&device));
        let states = said.into_iter().flat_map(|document| document.states());
        let members = states.filter(|(neighbour, _)| self.is_member(neighbour));
        let links: Vec<(PeerKey, Cost)> =
            members.filter_map(|(neighbour, state)| Some((key_of(&neighbour)?, state.cost()))).collect();
        self.routing.routes.report(key, &links);
    }

    /// Who belongs to the fleet is not what it was.
    pub(super) fn roster_changed(&mut self) {
        let soon = self.now().plus_millis(REREAD_MS);
        let at = *self.routing.reread_at.get_or_insert(soon);
        self.routing.search.ask_at(moment(at));
    }

    /// Looks for ways, and tells the engine which ones are new.
    fn search(&mut self) {
        let now = self.now();
        if self.routing.reread_at.take_if(|at| *at <= now).is_some() {
            let devices: Vec<DeviceId> = self.neighbours.reported.keys().copied().collect();
            devices.into_iter().for_each(|device| self.report_of(device));
            self.own_links_changed();
        }
        self.routing.search.take(moment(now));
        if let Some(at) = self.routing.reread_at {
            self.routing.search.ask_at(moment(at));
        }
        let changed = self.routing.routes.update();
        for key in &changed {
            let is_reached = !self.routing.routes.ways(key).is_empty();
            self.neighbours.reach_changed(now, *key, is_reached);
        }
        self.tell_moves(&changed);
        let devices: Vec<DeviceId> = changed.iter().map(|key| Key(key.0).device()).collect();
        self.hand_over_parents(&devices);
    }

    /// Says to whom ways begin with another neighbour than before, and why.
    fn tell_moves(&mut self, changed: &[PeerKey]) {
        let Routing { next_hops, routes, liveness, measuring, .. } = &mut self.routing;
        let sessions = &self.sessions;
        let fate = |peer: &PeerKey| match sessions.link_with(&Key(peer.0)) {
            None => Fate::Gone,
            Some(link) if liveness.is_suspect(SessionId(link.0)) => Fate::Suspect,
            Some(link) if measuring.get(&link).is_none_or(|link| link.meter.announced().is_none()) => Fate::Unmeasured,
            Some(_) => Fate::Used,
        };
        let moved = next_hops.moved(changed, routes, fate);
        let heard = next_hops.take_heard();
        let named = |key: &PeerKey| self.named(Key(key.0).device());
        let moves = moved.iter().map(|moved| {
            NodeEvent::route(&RouteMove {
                to: moved.to.iter().take(NAMED_MAX).map(named).collect(),
                count: moved.to.len(),
                before: moved.before.as_ref().map(named),
                now: moved.now.as_ref().map(named),
                why: moved.why,
                after: heard.iter().map(|device| self.named(*device)).collect(),
            })
        });
        let events: Vec<NodeEvent> = moves.collect();
        events.into_iter().for_each(|event| self.emit(event));
    }

    /// What the engine asks for then is done by the caller's loop over effects.
    fn hand_over_parents(&mut self, origins: &[DeviceId]) {
        let parents: Vec<Parents> = origins.iter().map(|origin| self.parents_of(*origin)).collect();
        if !parents.is_empty() {
            let now = self.now();
            self.engine.handle(now, Input::Parents(parents), &self.writer);
        }
    }

    /// A new engine knows nothing of what an earlier one was told.
    pub(super) fn hand_over_all_parents(&mut self) {
        let devices: Vec<DeviceId> = self.engine.replica().roster().devices().collect();
        self.hand_over_parents(&devices);
    }

    fn parents_of(&self, origin: DeviceId) -> Parents {
        let key = self.engine.replica().roster().key_of(&origin);
        let ways = key.map(|key| self.routing.routes.ways(&PeerKey(key.0))).unwrap_or_default();
        let loop_free = ways.iter().filter(|way| way.is_loop_free);
        let mut sources: Vec<DeviceId> = loop_free.map(|way| Key(way.next.0).device()).collect();
        if sources.is_empty() {
            sources.extend(self.is_linked(&origin).then_some(origin));
            // While a link is greeted, what served until then goes on to.
            sources.extend(self.routing.first_from.get(&origin));
        }
        Parents { origin, sources }
    }

    /// A device's `link` document came over a link. The first such link stays, as long as it is up.
    pub(super) fn link_document_came(&mut self, device: DeviceId, link: LinkId) {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer.device()) else { return };
        let first_from = &self.routing.first_from;
        let is_settled = first_from.get(&device).is_some_and(|first| self.is_linked(first));
        if device == self.device() || self.is_linked(&device) || is_settled {
            return;
        }
        self.routing.first_from.insert(device, peer);
        self.hand_over_parents(&[device]);
    }

    fn is_linked(&self, device: &DeviceId) -> bool {
        let is_used = |link: &LinkId| !self.routing.is_suspect(link);
        self.sessions.iter().any(|(link, session)| session.peer.device() == *device && is_used(link))
    }

    /// Probes, suspicions and searches that are due.
    pub(super) fn routing_timers(&mut self) {
        let now = self.now();
        self.routing.liveness.timer(moment(now));
        while let Some(verdict) = self.routing.liveness.poll_verdict() {
            match verdict {
                Verdict::Probe(session) => self.input(Input::Probe(LinkId(session.0))),
                Verdict::Suspect(session) => {
                    self.suspicion_changed(LinkId(session.0));
                    self.say_unheard(LinkId(session.0));
                }
                Verdict::Renew(session) => self.renew_link(LinkId(session.0)),
                Verdict::Clear(session) => self.suspicion_changed(LinkId(session.0)),
                Verdict::Evict(session) => {
                    self.close_link(
                        LinkId(session.0),
                        "evicted: it was suspect, and answered nothing for seven seconds",
                    );
                    self.effects();
                }
            }
        }
        if let Some(is_busy) = self.routing.busyness.timer(now) {
            self.routing.burden.is_busy = is_busy;
            self.burden_changed();
        }
        if self.routing.search.poll_timeout().is_some_and(|at| at <= moment(now)) {
            self.search();
            self.effects();
        }
    }

    /// A link is not to be used, or is again: whatever went over it takes other ways at once, and all others hear of it.
    fn suspicion_changed(&mut self, link: LinkId) {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer) else { return };
        let device = peer.device();
        let (named, id) = (self.named(device), SessionId(link.0));
        let event = match self.routing.liveness.is_suspect(id) {
            true => NodeEvent::link_suspect(&named, self.routing.liveness.suspected(id)),
            false => NodeEvent::link_cleared(&named),
        };
        tracing::info!(peer = %device.short(), "{}", event.event);
        self.emit(event);
        let now = self.now();
        let is_suspect = self.routing.is_suspect(&link);
        self.neighbours.suspicion_changed(now, peer, is_suspect);
        self.link_changed(device);
        self.effects();
    }
}
