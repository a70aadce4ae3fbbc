//! One tree for each origin, chosen by the receivers: of one neighbour a node asks an origin's changes, of two more their
//! digests (PROTOCOL 4).
//!
//! The mesh hands over the neighbours on the shortest paths ([`Input::Parents`](super::Input::Parents)). What it does not
//! know, and what it knows too late, digests repair: who hears of a change that does not come makes the teller its parent.

use std::collections::{BTreeMap, BTreeSet};

use super::frame::{Ask, ENTRIES_MAX, Frame, ORIGINS_MAX};
use super::lacking::Need;
use super::link::Phase;
use super::modes::{Bitmap, Mode};
use super::origins::Origin;
use super::{Effect, Engine, LinkId, Parents};
use crate::id::{Actor, DeviceId, StatementId, Time};
use crate::roster::Standing;
use crate::store::Staged;

/// Links of which digests are asked, beside the one of which changes are.
const DIGESTS: usize = 2;
/// Below this many origins each is named when it is to be silent.
const MUTE_OTHERS_MIN: usize = 16;
/// A peer that sends what was not asked of it is told so again after this long, milliseconds.
const REMIND_MS: u64 = 1_000;
/// The one scope that there is: the first of the `Hello`.
const SCOPE: u8 = 0;

/// Which mode each link is to have for an origin.
///
/// The first source that is up, or the origin itself, is the parent; two more links send digests, that to the origin among
/// them. While nobody knows a way to the origin all links do, and where all known ways are gone all but the one that is
/// tried.
///
/// `chosen` becomes the places in `peers`, the peers of the links, with their modes.
fn choose(sources: impl Iterator<Item = Origin>, peers: &[Origin], origin: Origin, chosen: &mut Vec<(usize, Mode)>) {
    let place_of = |peer: Origin| peers.iter().position(|other| *other == peer).map(|at| (at, Mode::Digest));
    chosen.clear();
    let mut has_source = false;
    for source in sources {
        has_source = true;
        chosen.extend(place_of(source));
    }
    // The origin itself is where all of its changes are: it is never silent.
    if !chosen.iter().any(|(at, _)| peers[*at] == origin)
        && let Some(place) = place_of(origin)
    {
        chosen.insert(chosen.len().min(1), place);
    }
    let ranked = chosen.len();
    let has_way = ranked > 0;
    for at in 0..peers.len() {
        if chosen[..ranked].iter().all(|(other, _)| *other != at) {
            chosen.push((at, Mode::Digest));
        }
    }
    let parents = usize::from(has_way || has_source);
    let digests = if has_way { DIGESTS } else { peers.len() };
    chosen.iter_mut().take(parents).for_each(|(_, mode)| *mode = Mode::Full);
    chosen.iter_mut().skip(parents + digests).for_each(|(_, mode)| *mode = Mode::Mute);
}

impl Engine {
    /// The mesh knows better ways to some origins.
    pub(super) fn set_parents(&mut self, parents: Vec<Parents>) {
        let mut origins = Vec::with_capacity(parents.len());
        for Parents { origin, sources } in parents {
            let origin = self.origins.intern(&origin);
            let sources: Vec<Origin> = sources.iter().map(|source| self.origins.intern(source)).collect();
            self.origins.set_sources(origin, sources);
            origins.push(origin);
        }
        self.retune(origins);
    }

    /// Origins that the engine may hear of: they get a mode on each link.
    pub(super) fn note_origins(&mut self, devices: &[DeviceId]) {
        let origins = devices.iter().map(|device| self.origins.intern(device)).collect();
        self.retune(origins);
    }

    /// Asks of each link what it should send now of these origins, where that is not what was asked before.
    pub(super) fn retune(&mut self, origins: Vec<Origin>) {
        let links = self.links.len();
        for (id, wishes) in self.wishes(&origins) {
            if self.links.len() != links {
                return; // one was closed meanwhile, and all was chosen anew
            }
            let Some(link) = self.links.get(&id) else { continue };
            let mutes = wishes.iter().filter(|(_, mode)| *mode == Mode::Mute).count();
            let is_most = mutes >= MUTE_OTHERS_MIN && mutes * 2 > self.origins.len();
            if is_most && link.asked.modes.others() != Mode::Mute {
                self.mute_others(id);
            } else {
                self.ask(id, wishes);
            }
        }
    }

    /// A link is up: all origins are chosen anew.
    pub(super) fn retune_all(&mut self) {
        self.retune(self.origins.all().collect());
    }

    fn wishes(&self, origins: &[Origin]) -> BTreeMap<LinkId, Vec<(Origin, Mode)>> {
        let ready = self.links.iter().filter(|(_, link)| link.phase == Phase::Ready && link.is_member);
        let (links, peers): (Vec<_>, Vec<Origin>) = ready.map(|(id, link)| ((*id, link), link.origin)).unzip();
        let own = self.origins.find(&self.device);
        let mut wishes: BTreeMap<LinkId, Vec<(Origin, Mode)>> = BTreeMap::new();
        let mut chosen = Vec::with_capacity(links.len());
        for origin in origins.iter().filter(|origin| Some(**origin) != own) {
            choose(self.origins.sources(*origin), &peers, *origin, &mut chosen);
            for (at, mode) in &chosen {
                let (id, link) = links[*at];
                if link.asked.modes.of(*origin) != *mode {
                    wishes.entry(id).or_default().push((*origin, *mode));
                }
            }
        }
        wishes
    }

    /// Asks a link for silence about everything that is not named, and names what else is wanted.
    fn mute_others(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.asked.modes.set_others(Mode::Mute);
        let first = u32::try_from(link.asked.named.len()).unwrap_or(u32::MAX);
        let ask = Ask { mode: Mode::Mute.code(), others: true, first, named: Vec::new(), origins: Vec::new() };
        self.send_control(id, &Frame::Ask(ask));
        let all: Vec<Origin> = self.origins.all().collect();
        let wishes = self.wishes(&all).remove(&id).unwrap_or_default();
        self.ask(id, wishes);
    }

    /// Tells a link what is wanted of it, one message a mode; before changes are asked for, what is here of them.
    fn ask(&mut self, id: LinkId, wishes: Vec<(Origin, Mode)>) {
        for mode in [Mode::Digest, Mode::Mute, Mode::Full] {
            let of_mode = wishes.iter().filter(|(_, wished)| *wished == mode);
            let origins: BTreeSet<Origin> = of_mode.map(|(origin, _)| *origin).collect();
            if origins.is_empty() {
                continue;
            }
            if mode == Mode::Full {
                self.tell_what_is_here(id, &origins);
            }
            for frame in self.asks(id, mode, origins) {
                self.send_control(id, &Frame::Ask(frame));
            }
        }
    }

    fn asks(&mut self, id: LinkId, mode: Mode, mut origins: BTreeSet<Origin>) -> Vec<Ask> {
        let Some(link) = self.links.get_mut(&id) else { return Vec::new() };
        let mut bits = Bitmap::default();
        for (number, origin) in link.asked.named.iter().enumerate() {
            if origins.remove(origin) {
                bits.insert(number);
                link.asked.modes.set(*origin, mode);
            }
        }
        let unnamed: Vec<Origin> = origins.into_iter().collect();
        let mut frames = Vec::new();
        let mut rest = unnamed.as_slice();
        while !bits.is_empty() || !rest.is_empty() {
            let first = link.asked.named.len();
            let room = ENTRIES_MAX.min(ORIGINS_MAX.saturating_sub(first)).min(rest.len());
            let (named, later) = rest.split_at(room);
            // Beyond the limit of a session what others are asked holds; the comparison of roots repairs the rest.
            rest = if room == 0 { &[] } else { later };
            link.asked.named.reserve_exact(named.len());
            for (at, origin) in named.iter().enumerate() {
                bits.insert(first + at);
                link.asked.named.push(*origin);
                link.asked.modes.set(*origin, mode);
            }
            frames.push(Ask {
                mode: mode.code(),
                others: false,
                first: u32::try_from(first).unwrap_or(u32::MAX),
                named: named.iter().map(|origin| (self.origins.device(*origin), SCOPE)).collect(),
                origins: std::mem::take(&mut bits).0,
            });
        }
        frames
    }

    /// What is here of some origins' logs, so that their new parent sends just what is missing.
    fn tell_what_is_here(&mut self, id: LinkId, origins: &BTreeSet<Origin>) {
        let Some(link) = self.links.get(&id) else { return };
        let mut entries: Vec<(Actor, u64)> = Vec::new();
        for origin in origins {
            for log in self.replica.logs.carried_by(&self.origins.device(*origin)) {
                let (actor, stored) = (log.actor(), log.stored);
                // What stood in the greeting is known there.
                let is_told = link.is_new && !link.touched.contains_key(&actor);
                if stored > 0 && !is_told {
                    entries.push((actor, stored));
                }
            }
        }
        for part in entries.chunks(ENTRIES_MAX) {
            self.send_control(id, &Frame::Have(part.to_vec()));
        }
    }

    /// A digest told of what did not come: who told it becomes the parent of that origin.
    pub(super) fn graft(&mut self, id: LinkId, origin: Origin) {
        let Some(link) = self.links.get(&id) else { return };
        let behind = self.links.keys().find(|other| **other != id && self.asks_full(**other, origin));
        self.effects.extend(behind.map(|link| Effect::Behind(*link)));
        self.origins.promote(origin, link.origin);
        self.retune(vec![origin]);
    }

    /// Whether a link is asked for an origin's changes.
    pub(super) fn asks_full(&self, id: LinkId, origin: Origin) -> bool {
        let link = self.links.get(&id).filter(|link| link.phase == Phase::Ready);
        link.is_some_and(|link| link.asked.modes.of(origin) == Mode::Full)
    }

    /// Whether someone is asked for an origin's changes.
    pub(super) fn has_parent(&self, origin: Origin) -> bool {
        self.links.keys().any(|id| self.asks_full(*id, origin))
    }

    /// A change came that is here already. Where another link is asked for them too, the slower one tells digests from
    /// now on.
    pub(super) fn duplicate_came(&mut self, now: Time, id: LinkId, device: &DeviceId) {
        let Some(origin) = self.origins.find(device) else { return };
        let is_doubled = self.links.keys().any(|other| *other != id && self.asks_full(*other, origin));
        match self.links.get(&id).map(|link| link.asked.modes.of(origin)) {
            Some(Mode::Full) if is_doubled => self.ask(id, vec![(origin, Mode::Digest)]),
            Some(Mode::Full) | None => {}
            Some(_) => self.unasked_came(now, id, origin),
        }
    }

    /// A peer sends what it was not asked for: it is told so, once in a while.
    pub(super) fn unasked_came(&mut self, now: Time, id: LinkId, origin: Origin) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Ready) else { return };
        if link.reminded_at.is_none_or(|at| at.plus_millis(REMIND_MS) <= now) {
            link.reminded_at = Some(now);
            let mode = link.asked.modes.of(origin);
            self.ask(id, vec![(origin, mode)]);
        }
    }

    /// What the peer wants from now on. `Err` says how it broke the protocol; nothing was changed then.
    fn receive_ask(&mut self, now: Time, id: LinkId, ask: &Ask) -> Result<(), &'static str> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let mode = Mode::of_code(ask.mode).ok_or("an ask has a mode that there is not")?;
        let named = link.served.named.len() + ask.named.len();
        if ask.first as usize != link.served.named.len() || named > ORIGINS_MAX {
            return Err("an origin's number is not the next one");
        }
        let meant = Bitmap(ask.origins.clone());
        if meant.iter().any(|number| number >= named) {
            return Err("an ask for an origin that has no name here");
        }
        link.served.named.reserve_exact(ask.named.len());
        for (device, scope) in &ask.named {
            let is_known = self.replica.roster.standing(device) != Standing::Unknown;
            let origin = self.origins.intern_named(device, is_known).filter(|_| *scope == SCOPE);
            link.served.named.push(origin.unwrap_or(Origin::NOBODY));
        }
        if ask.others {
            link.served.modes.set_others(mode);
        }
        let origins: BTreeSet<Origin> = meant.iter().map(|number| link.served.named[number]).collect();
        self.serve(now, id, &origins, mode);
        Ok(())
    }

    /// The peer is served some origins otherwise from now on. Where it wants more than before it gets what it has said to
    /// lack, and hears at once of what it was not told of late; where it wants changes no more, it hears of those that
    /// waited for it.
    fn serve(&mut self, now: Time, id: LinkId, origins: &BTreeSet<Origin>, mode: Mode) {
        let (mut raised, mut left) = (BTreeSet::new(), BTreeSet::new());
        let Some(link) = self.links.get_mut(&id) else { return };
        for origin in origins.iter().filter(|origin| **origin != Origin::NOBODY) {
            let before = link.served.modes.set(*origin, mode);
            if mode < before || mode == Mode::Full {
                raised.insert(self.origins.device(*origin));
            } else if before == Mode::Full {
                left.insert(self.origins.device(*origin));
            }
        }
        if !raised.is_empty() {
            self.send_what_is_less(now, id, &raised);
            self.tell_untold(now, id, &raised);
        }
        if !left.is_empty() {
            self.take_back(now, id, &left);
        }
    }

    /// Of what it has said to have less of, and of what it was to hear next, the peer gets what the mode allows.
    fn send_what_is_less(&mut self, now: Time, id: LinkId, devices: &BTreeSet<DeviceId>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let logs = &self.replica.logs;
        let of_raised = |actor: &Actor| logs.get(actor).is_some_and(|state| devices.contains(state.carrier()));
        let known = link.have_out.iter().chain(&link.said_less).filter(|(actor, _)| of_raised(actor));
        let less: BTreeMap<Actor, u64> = known.map(|(actor, seq)| (*actor, *seq)).collect();
        for actor in less.keys() {
            link.have_out.remove(actor);
            link.said_less.remove(actor);
        }
        for (actor, seq) in less {
            self.tell_log(now, id, &actor, seq);
        }
    }

    fn tell_untold(&mut self, now: Time, id: LinkId, devices: &BTreeSet<DeviceId>) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_member) else { return };
        let logs = &self.replica.logs;
        let of_raised = |actor: &Actor| logs.get(actor).is_some_and(|state| devices.contains(state.carrier()));
        for actor in link.untold.take(of_raised) {
            let Some(state) = logs.get(&actor) else { continue };
            if state.stored > 0 && !link.lacking.contains(&Need::Log(actor)) {
                link.have_out.entry(actor).or_insert(state.stored - 1);
                link.have_by = Some(now);
            }
        }
        let (origins, entered) = (&self.origins, &self.statement_origins);
        let entered_there =
            |id: &StatementId| entered.get(id).is_some_and(|origin| devices.contains(&origins.device(*origin)));
        for statement in link.untold_statements.take(entered_there) {
            link.have_statements_out.insert(statement);
            link.have_by = Some(now);
        }
    }

    /// What waits to be sent of these devices is not sent by itself any more.
    fn take_back(&mut self, now: Time, id: LinkId, devices: &BTreeSet<DeviceId>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let logs = &self.replica.logs;
        let is_of_them = |actor: &Actor| logs.get(actor).is_some_and(|state| devices.contains(state.carrier()));
        let waiting: Vec<Actor> = link.lacking.logs().filter(is_of_them).collect();
        let take = |actor: Actor| link.lacking.remove(&Need::Log(actor)).map(|first| (actor, first.saturating_sub(1)));
        let waited: Vec<(Actor, u64)> = waiting.into_iter().filter_map(take).collect();
        for (actor, before) in waited {
            self.tell_log(now, id, &actor, before);
        }
    }

    /// What a peer asks, and what follows at once.
    pub(super) fn asked(&mut self, now: Time, staged: &mut Staged<'_>, id: LinkId, ask: &Ask) {
        match self.receive_ask(now, id, ask) {
            Ok(()) => self.pump(now, staged, Some(id)),
            Err(reason) => self.fault(staged, id, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::modes::{Modes, Terms};
    use super::super::origins::{Origins, SOURCES_MAX};
    use super::*;

    /// Ten thousand origins on sixteen links, each of which is named by both sides for a quarter of them.
    #[test]
    fn ten_thousand_origins_on_sixteen_links_take_less_than_a_mebibyte() {
        let mut origins = Origins::default();
        for number in 0..10_000u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
            let origin = origins.intern(&DeviceId(id));
            origins.set_sources(origin, (0..SOURCES_MAX as u32).map(Origin).filter(|source| *source < origin));
        }
        let mut bytes = origins.heap_bytes();
        for link in 0..16 {
            let mut asked = Terms { modes: Modes::new(Origin(link)), named: Vec::new() };
            let mut served = Terms { modes: Modes::new(Origin(link)), named: Vec::new() };
            asked.named.reserve_exact(2_500);
            served.named.reserve_exact(2_500);
            for origin in origins.all() {
                asked.modes.set(origin, Mode::Mute);
                served.modes.set(origin, Mode::Mute);
                if origin.0 % 4 == link % 4 {
                    asked.named.push(origin);
                    served.named.push(origin);
                }
            }
            bytes += asked.modes.heap_bytes() + asked.named.capacity() * size_of::<Origin>();
            bytes += served.modes.heap_bytes() + served.named.capacity() * size_of::<Origin>();
        }
        assert!(bytes < 1 << 20, "{bytes} bytes");
    }

    fn chosen(sources: &[u32], peers: &[u32], origin: u32) -> Vec<(u32, Mode)> {
        let links: Vec<Origin> = peers.iter().map(|peer| Origin(*peer)).collect();
        let mut chosen = Vec::new();
        choose(sources.iter().map(|source| Origin(*source)), &links, Origin(origin), &mut chosen);
        chosen.into_iter().map(|(at, mode)| (peers[at], mode)).collect()
    }

    use Mode::{Digest, Full, Mute};

    #[test]
    fn one_parent_two_digests_and_silence() {
        let all = chosen(&[3, 1, 9], &[1, 2, 3, 4, 5], 7);
        assert_eq!(all, [(3, Full), (1, Digest), (2, Digest), (4, Mute), (5, Mute)]);
    }

    #[test]
    fn a_lost_parent_gives_way_to_its_backup() {
        assert_eq!(chosen(&[3, 1], &[1, 2, 4], 7), [(1, Full), (2, Digest), (4, Digest)]);
    }

    #[test]
    fn where_all_ways_are_lost_one_is_tried_and_all_are_listened_to() {
        assert_eq!(chosen(&[8, 9], &[1, 2, 4, 5], 7), [(1, Full), (2, Digest), (4, Digest), (5, Digest)]);
    }

    #[test]
    fn nobody_is_asked_blindly() {
        assert_eq!(chosen(&[], &[1, 2, 4, 5], 7), [(1, Digest), (2, Digest), (4, Digest), (5, Digest)]);
    }

    #[test]
    fn an_origin_is_its_own_best_source_until_the_mesh_knows_better() {
        assert_eq!(chosen(&[], &[1, 2, 4, 5], 2), [(2, Full), (1, Digest), (4, Digest), (5, Mute)]);
        assert_eq!(chosen(&[4], &[1, 2, 4, 5], 2), [(4, Full), (2, Digest), (1, Digest), (5, Mute)]);
    }
}
