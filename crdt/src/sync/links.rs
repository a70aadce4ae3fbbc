//! Links come and go: greeting, comparing what both sides have, and noting what a peer lacks.

use std::collections::VecDeque;

use super::frame::{Clock, ENTRIES_MAX, FRAME_BYTES_MAX, Frame, Hello, PROTOCOL_RANGE, Scope};
use super::link::{EARLY_BYTES_MAX, Link, Phase, signers_digest};
use super::missing::{Item, Word};
use super::modes::{Mode, Modes};
use super::origins::Origin;
use super::replica::LogState;
use super::{After, Effect, Engine, HAVE_MS, LINKS_MAX, LinkId};
use crate::admission::Wait;
use crate::id::{Actor, DeviceId, Key, Root, StatementId, Time};
use crate::roster::Standing;

impl Engine {
    pub(super) fn link_up(&mut self, now: Time, id: LinkId, peer: Key, dialled: bool) {
        if self.links.len() >= LINKS_MAX {
            return self.close(id, "this node has as many links as it may have");
        }
        let standing = self.replica.standing(&peer.device());
        let greets = match standing {
            Standing::Removed => return self.close(id, "the device was removed from the fleet"),
            Standing::Member | Standing::Contested => true,
            Standing::Unknown => dialled,
        };
        if self.links.is_empty() {
            self.reconcile_at = self.next_reconcile(now);
        }
        let own = self.origins.intern(&self.device);
        let mut link = Link::new(peer, own, now, greets);
        link.is_member = standing == Standing::Member;
        self.links.insert(id, link);
        if greets {
            self.after.push(After::Hello(id));
        }
    }

    pub(super) fn link_down(&mut self, id: LinkId) {
        if self.links.remove(&id).is_some_and(|link| link.phase == Phase::Ready) {
            self.retune_all();
        }
        self.missing.link_down(id);
        let (runs, statements) = self.pending.forget_link(id);
        let runs = runs.into_iter().map(|evicted| (evicted.wait, evicted.actor));
        let of_link = self.evicted.iter().filter(|(_, _, link)| *link == id).map(|(wait, actor, _)| (*wait, *actor));
        let waiting: Vec<(Wait, Actor)> = of_link.chain(runs).collect();
        self.evicted.retain(|(_, _, link)| *link != id);
        for (wait, actor) in waiting {
            let seq = self.replica.logs.get(&actor).map_or(0, |state| state.seq);
            let others = self.links.iter().filter(|(_, link)| link.ahead_of(&actor) > seq);
            let others: Vec<LinkId> = others.map(|(id, _)| *id).collect();
            others.into_iter().for_each(|link| self.note_evicted(wait, actor, link));
        }
        for statement in statements {
            self.missing.note(Item::Statement(statement), Word { link: id, seq: 0, is_live: false }, Time(0));
        }
    }

    pub(super) fn close(&mut self, id: LinkId, reason: &str) {
        self.link_down(id);
        self.effects.push_back(Effect::Close { link: id, reason: reason.to_owned() });
    }

    pub(super) fn send_hello(&mut self, now: Time, id: LinkId) {
        let root = self.replica.root();
        let (generation, _) = self.replica.order();
        let chain = self.replica.roster().chain_of(&self.device).iter().map(|signed| signed.parts()).collect();
        let scope = Scope { name: "fleet".to_owned(), root, generation, cursor: None };
        let hello = Hello {
            protocol: PROTOCOL_RANGE,
            fleet: self.config.fleet,
            chain,
            scopes: vec![scope],
            frame_bytes_max: FRAME_BYTES_MAX as u32,
        };
        let Some(link) = self.links.get_mut(&id) else { return };
        link.sent_root = Some(root);
        self.send_control(id, &Frame::Hello(hello));
        self.compare(now, id);
    }

    /// Whether the peer has said `Hello`.
    pub(super) fn has_greeted(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.peer_root.is_some())
    }

    /// Keeps a frame that overtook the peer's `Hello` on the other stream. Who has not seen ours has nothing to send yet.
    pub(super) fn keep_early(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.early_bytes += bytes.len();
        link.early.push_back(bytes.to_vec());
        if link.early_bytes > EARLY_BYTES_MAX || !link.greets {
            self.close(id, "the peer sends before it says Hello");
        }
    }

    /// The frames that overtook the peer's `Hello`.
    pub(super) fn take_early(&mut self, id: LinkId) -> VecDeque<Vec<u8>> {
        self.links.get_mut(&id).map(|link| std::mem::take(&mut link.early)).unwrap_or_default()
    }

    /// A device's standing changed. A contested one gets no more logs; once a pin names it, clocks are exchanged.
    pub(super) fn note_standing(&mut self, device: &DeviceId, standing: Standing) {
        let is_member = standing == Standing::Member;
        let mut has_changed = false;
        for (id, link) in &mut self.links {
            if link.device != *device || link.is_member == is_member {
                continue;
            }
            has_changed = true;
            link.is_member = is_member;
            link.lacking.clear();
            link.have_out.clear();
            if is_member && link.phase == Phase::Comparing {
                self.after.push(After::SendClock(*id, true)); // the first one was without logs
            }
        }
        if has_changed {
            self.retune_all();
        }
    }

    /// Notes the root that a peer's `Hello` names; a peer that was not known before gets ours now.
    pub(super) fn greeted(&mut self, now: Time, id: LinkId, root: Root) {
        if let Some(link) = self.links.get_mut(&id) {
            link.peer_root = Some(root);
            // Only now it is known to the roster: strangers take no room.
            link.origin = self.origins.intern(&link.device);
            link.asked.modes = Modes::new(link.origin);
            if !std::mem::replace(&mut link.greets, true) {
                self.after.push(After::Hello(id));
            }
        }
        self.compare(now, id);
    }

    /// Once both sides have said `Hello`: equal roots mean that the peer has what we had then.
    fn compare(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Greeting) else { return };
        let (Some(own), Some(theirs)) = (link.sent_root, link.peer_root) else { return };
        if own != theirs {
            link.phase = Phase::Comparing;
            return self.send_clock(id, false);
        }
        self.ready(now, id);
        self.note_missing(now, id, true);
    }

    /// The greeting is over. What stood in it the peer fetches by itself; what came since goes as the peer wants it, and
    /// it hears what is wanted of it.
    pub(super) fn ready(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase = Phase::Ready;
        self.probe(now, id);
        self.retune_all();
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_new = false;
        let touched = std::mem::take(&mut link.touched);
        let statements = std::mem::take(&mut link.touched_statements);
        for (actor, before) in touched {
            self.tell_log(now, id, &actor, before);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let stored = statements.into_iter().filter(|id| self.replica.stored_statement(id).is_some());
        link.have_statements_out.extend(stored);
        if !link.have_statements_out.is_empty() {
            link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
        }
    }

    pub(super) fn send_clock(&mut self, id: LinkId, wants_answer: bool) {
        // To who is contested or no member, logs are none of its business.
        let is_member = self.links.get(&id).is_some_and(|link| link.is_member);
        let logs = self.replica.logs().iter().filter(|(_, state)| is_member && state.stored > 0);
        let logs: Vec<(Actor, u64, u32)> =
            logs.map(|(actor, state)| (*actor, state.stored, state.head_digest())).collect();
        let stored = self.replica.stored_statements();
        let statements: Vec<(StatementId, u32)> =
            stored.map(|(id, entry)| (*id, signers_digest(&entry.signed))).collect();
        let half = ENTRIES_MAX / 2;
        let parts = logs.len().div_ceil(half).max(statements.len().div_ceil(half)).max(1);
        for part in 0..parts {
            let slice = |length: usize| (part * half).min(length)..((part + 1) * half).min(length);
            let clock = Clock {
                logs: logs[slice(logs.len())].to_vec(),
                statements: statements[slice(statements.len())].to_vec(),
                is_first: part == 0,
                is_last: part + 1 == parts,
                wants_answer,
            };
            self.send_control(id, &Frame::Clock(clock));
        }
    }

    /// A part of the peer's clock.
    pub(super) fn receive_clock(&mut self, now: Time, id: LinkId, clock: Clock) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase != Phase::Greeting) else { return };
        let mut forked = Vec::new();
        for (actor, seq, digest) in clock.logs {
            let own = self.replica.logs.get(&actor);
            link.claims(own.map(LogState::class), actor, seq, own.map_or(0, |state| state.stored));
            forked.extend(own.filter(|state| state.stored == seq && state.differs(digest)).map(|_| actor));
        }
        for (statement, digest) in clock.statements {
            self.claims_statement(id, statement, digest);
        }
        for actor in forked {
            self.branch_came(Some(id), actor);
        }
        if clock.is_last {
            if clock.wants_answer {
                self.after.push(After::SendClock(id, false));
            }
            let is_greeting = self.links.get(&id).is_some_and(|link| link.is_new);
            if is_greeting {
                self.ready(now, id);
            }
            self.note_missing(now, id, is_greeting);
        }
    }

    /// The peer compares roots, now and then.
    pub(super) fn receive_root(&mut self, id: LinkId, root: Root) {
        let is_ready = self.links.get(&id).is_some_and(|link| link.phase == Phase::Ready);
        if is_ready && self.unstored.is_empty() && root != self.replica.root() {
            self.after.push(After::SendClock(id, true));
        }
    }

    /// The peer has a statement, with signers of this digest.
    pub(super) fn claims_statement(&mut self, id: LinkId, statement: StatementId, digest: u32) {
        let is_other = self.is_other_statement(&statement, digest);
        let Some(link) = self.links.get_mut(&id) else { return };
        if is_other {
            link.ahead_statements.insert(statement, digest);
        } else {
            link.ahead_statements.remove(&statement);
            link.have_statements_out.remove(&statement);
            link.lacking_statements.remove(&statement);
        }
    }

    /// Tells the links of what the store has of a log now, each as its peer asked; but for the one that brought it.
    pub(super) fn announce_log(&mut self, now: Time, actor: Actor, seq: u64, source: Option<LinkId>) {
        let Some(state) = self.replica.logs.get_mut(&actor) else { return };
        let before = state.stored;
        state.stored = state.stored.max(seq.min(state.seq));
        let (stored, carrier) = (state.stored, state.log.carrier);
        self.origins.intern(&carrier);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for id in links {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let has_it = link.ahead_of(&actor) >= stored || link.device == carrier || source == Some(id);
            link.caught_up(&actor, stored);
            if has_it {
                continue;
            }
            if link.phase != Phase::Ready {
                link.touched.entry(actor).or_insert(before);
            } else {
                self.tell_log(now, id, &actor, before);
            }
        }
    }

    /// A peer may lack what is stored of a log after `before`: it gets it, or hears of it, as it asked.
    pub(super) fn tell_log(&mut self, now: Time, id: LinkId, actor: &Actor, before: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_member) else { return };
        let Some(state) = self.replica.logs.get(actor).filter(|state| state.stored > before) else { return };
        let Some(origin) = self.origins.find(&state.log.carrier) else { return };
        match link.served.modes.of(origin) {
            Mode::Full => link.lacks(state.class(), *actor, before + 1),
            Mode::Digest => {
                link.have_out.entry(*actor).or_insert(before);
                link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
            }
            Mode::Mute => link.untold.push(*actor),
        }
    }

    /// Tells the links of a statement. Where it is not known where it entered the mesh, there is no tree for it, and all
    /// hear of it that may not have it.
    pub(super) fn announce_statement(
        &mut self,
        now: Time,
        id: StatementId,
        origin: Option<Origin>,
        source: Option<LinkId>,
    ) {
        let Some(entry) = self.replica.roster.entries().get(&id) else { return };
        let digest = signers_digest(&entry.signed);
        if let Some(origin) = origin {
            self.statement_origins.insert(id, origin);
        }
        for (link_id, link) in &mut self.links {
            let has_it = link.ahead_statements.get(&id) == Some(&digest);
            if has_it {
                link.ahead_statements.remove(&id);
            }
            if link.phase != Phase::Ready {
                link.touched_statements.insert(id);
                continue;
            }
            if has_it || source == Some(*link_id) {
                continue;
            }
            match origin.map_or(Mode::Digest, |origin| link.served.modes.of(origin)) {
                Mode::Full => {
                    link.lacking_statements.insert(id);
                }
                Mode::Digest => {
                    link.have_statements_out.insert(id);
                    link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
                }
                Mode::Mute => link.untold_statements.push(id),
            }
        }
    }

    /// The peer lacks a log from `seq` + 1 on.
    pub(super) fn wanted(&mut self, id: LinkId, actor: Actor, seq: u64) {
        let is_entitled = |link: &&mut Link| link.phase == Phase::Ready && link.is_member;
        let Some(link) = self.links.get_mut(&id).filter(is_entitled) else { return };
        let Some(state) = self.replica.logs.get(&actor).filter(|state| state.stored > seq) else { return };
        link.lacking.insert((state.class(), actor), seq + 1);
    }
}
