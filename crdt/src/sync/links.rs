//! Links: greeting, comparing what both sides have, and sending what the peer lacks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::frame::{Changes, Clock, ENTRIES_MAX, FRAME_BYTES_MAX, Frame, Hello, Name, PROTOCOL_RANGE, Scope};
use super::{
    After, Channel, DEFER_MS, Effect, Engine, HAVE_MS, HELLO_TIMEOUT_MS, LINKS_MAX, LinkId, PROBE_MS, RECONCILE_MS,
    SEND_BYTES_MAX, SILENCE_MS, read_run,
};
use crate::id::{Actor, DeviceId, Key, Root, StatementId, Time};
use crate::roster::Standing;
use crate::schema::Class;
use crate::statement::SignedStatement;
use crate::store::{Staged, StoreError, Table};

/// Most bytes of control frames that wait for a peer to read; beyond, the session is closed.
pub(super) const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Most bytes of frames that overtake the peer's `Hello` on the other stream; beyond, the session is closed.
pub(super) const EARLY_BYTES_MAX: usize = 1 << 20;
/// How many blameable refusals a peer may cause before its session is closed.
pub(super) const REFUSALS_MAX: u8 = 8;
/// Every so many frames the least urgent class is served first, so that none starves.
const SHARE_TURN: u64 = 8;

/// How far the two sides are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A `Hello` is missing, on either side.
    Greeting,
    /// The roots differ; the peer's clock is not complete yet.
    Comparing,
    /// What the peer has is known.
    Ready,
}

/// A link as people and the API see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSummary {
    /// The session.
    pub link: LinkId,
    /// The peer's key.
    pub peer: Key,
    /// The peer's device.
    pub device: DeviceId,
    /// Whether what the peer has is known.
    pub is_ready: bool,
    /// Logs of which the peer lacks something that waits to be sent.
    pub backlog: usize,
    /// The round trip of the last probe, microseconds; links are probed only while they are idle.
    pub rtt_micros: Option<u64>,
}

/// A link and what is known of its peer.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) peer: Key,
    pub(super) device: DeviceId,
    phase: Phase,
    hello_by: Time,
    sent_root: Option<Root>,
    peer_root: Option<Root>,
    budget: [usize; 2],
    /// What the peer has of each log.
    pub(super) has: BTreeMap<Actor, u64>,
    /// Logs that grew since our `Hello`, with what was stored before.
    touched: BTreeMap<Actor, u64>,
    touched_statements: BTreeSet<StatementId>,
    pub(super) statements: BTreeMap<StatementId, u32>,
    lacking: BTreeSet<(Class, Actor)>,
    lacking_statements: BTreeSet<StatementId>,
    /// Logs that the peer should get from their origin, and until when that is believed.
    deferred: BTreeMap<Actor, Time>,
    have_out: BTreeMap<Actor, u64>,
    have_by: Option<Time>,
    names_out: BTreeMap<Actor, u32>,
    pub(super) names_in: Vec<crate::change::LogName>,
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
    pub(super) refusals: u8,
    turn: u64,
    early: VecDeque<Vec<u8>>,
    early_bytes: usize,
    heard_at: Time,
    /// When a probe was sent that is not answered yet.
    probed_at: Option<Time>,
    rtt_micros: Option<u64>,
}

fn channel_slot(channel: Channel) -> usize {
    match channel {
        Channel::Control => 0,
        Channel::Data => 1,
    }
}

/// A digest of a statement's signers, so that two sides see whether one has more of them.
pub(super) fn signers_digest(signed: &SignedStatement) -> u32 {
    let mut hasher = blake3::Hasher::new();
    for (signer, signature) in signed.signatures() {
        hasher.update(&signer.0).update(signature);
    }
    u32::from_be_bytes(hasher.finalize().as_bytes()[..4].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

impl Link {
    fn new(peer: Key, now: Time) -> Link {
        Link {
            peer,
            device: peer.device(),
            phase: Phase::Greeting,
            hello_by: now.plus_millis(HELLO_TIMEOUT_MS),
            sent_root: None,
            peer_root: None,
            budget: [0; 2],
            has: BTreeMap::new(),
            touched: BTreeMap::new(),
            touched_statements: BTreeSet::new(),
            statements: BTreeMap::new(),
            lacking: BTreeSet::new(),
            lacking_statements: BTreeSet::new(),
            deferred: BTreeMap::new(),
            have_out: BTreeMap::new(),
            have_by: None,
            names_out: BTreeMap::new(),
            names_in: Vec::new(),
            control: VecDeque::new(),
            control_bytes: 0,
            refusals: 0,
            turn: 0,
            early: VecDeque::new(),
            early_bytes: 0,
            heard_at: now,
            probed_at: None,
            rtt_micros: None,
        }
    }

    pub(super) fn add_budget(&mut self, channel: Channel, bytes: usize) {
        let budget = &mut self.budget[channel_slot(channel)];
        *budget = budget.saturating_add(bytes);
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let greeting = (self.phase == Phase::Greeting).then_some(self.hello_by);
        let deferred = self.deferred.values().min().copied();
        let silence = if self.probed_at.is_some() { SILENCE_MS } else { PROBE_MS };
        let probe = self.heard_at.plus_millis(silence);
        greeting.into_iter().chain(deferred).chain(self.have_by).chain([probe]).min()
    }

    pub(super) fn summary(&self, link: LinkId) -> LinkSummary {
        LinkSummary {
            link,
            peer: self.peer,
            device: self.device,
            is_ready: self.phase == Phase::Ready,
            backlog: self.lacking.len(),
            rtt_micros: self.rtt_micros,
        }
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    pub(super) fn has(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
        self.has.iter().map(|(actor, seq)| (*actor, *seq))
    }

    /// Notes that the peer has a log up to `seq`.
    pub(super) fn note_has(&mut self, actor: Actor, seq: u64) {
        let known = self.has.entry(actor).or_default();
        *known = (*known).max(seq);
    }

    /// A log counts no more: what the peer has of it is no difference.
    pub(super) fn forget_log(&mut self, actor: &Actor) {
        self.has.remove(actor);
        self.deferred.remove(actor);
        self.have_out.remove(actor);
    }

    fn has_of(&self, actor: &Actor) -> u64 {
        self.has.get(actor).copied().unwrap_or(0)
    }
}

impl Engine {
    pub(super) fn link_up(&mut self, now: Time, id: LinkId, peer: Key) {
        if self.links.len() >= LINKS_MAX {
            return self.close(id, "this node has as many links as it may have");
        }
        if self.replica.standing(&peer.device()) == Standing::Removed {
            return self.close(id, "the device was removed from the fleet");
        }
        if self.links.is_empty() {
            self.reconcile_at = self.next_reconcile(now);
        }
        self.links.insert(id, Link::new(peer, now));
        self.after.push(After::Hello(id));
    }

    pub(super) fn link_down(&mut self, id: LinkId) {
        self.links.remove(&id);
        self.pending.forget_link(id);
        self.evicted.retain(|(_, link)| *link != id);
    }

    pub(super) fn close(&mut self, id: LinkId, reason: &str) {
        self.link_down(id);
        self.effects.push_back(Effect::Close { link: id, reason: reason.to_owned() });
    }

    fn next_reconcile(&mut self, now: Time) -> Time {
        let (least, most) = RECONCILE_MS;
        now.plus_millis(least + self.random() % (most - least))
    }

    /// Queues a control frame; what the peer does not read in time closes the session.
    pub(super) fn send_control(&mut self, id: LinkId, frame: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let bytes = frame.encode();
        link.control_bytes += bytes.len();
        link.control.push_back(bytes);
        if link.control_bytes > CONTROL_BYTES_MAX {
            return self.close(id, "the peer does not read");
        }
        self.flush_control(id);
    }

    fn flush_control(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let budget = &mut link.budget[channel_slot(Channel::Control)];
        while link.control.front().is_some_and(|bytes| bytes.len() <= *budget) {
            if let Some(bytes) = link.control.pop_front() {
                *budget -= bytes.len();
                link.control_bytes -= bytes.len();
                self.effects.push_back(Effect::Send { link: id, channel: Channel::Control, bytes });
            }
        }
    }

    pub(super) fn send_hello(&mut self, id: LinkId) {
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
        self.compare(id);
    }

    /// Whether the peer has said `Hello`.
    pub(super) fn has_greeted(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.peer_root.is_some())
    }

    /// Keeps a frame that overtook the peer's `Hello` on the other stream.
    pub(super) fn keep_early(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.early_bytes += bytes.len();
        link.early.push_back(bytes.to_vec());
        if link.early_bytes > EARLY_BYTES_MAX {
            self.close(id, "the peer sends before it says Hello");
        }
    }

    /// The frames that overtook the peer's `Hello`.
    pub(super) fn take_early(&mut self, id: LinkId) -> VecDeque<Vec<u8>> {
        self.links.get_mut(&id).map(|link| std::mem::take(&mut link.early)).unwrap_or_default()
    }

    /// A device's standing changed: what its links may get is decided anew.
    pub(super) fn reassess(&mut self, device: &DeviceId) {
        let links: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.device == *device && link.phase == Phase::Ready)
            .map(|(id, _)| *id)
            .collect();
        links.into_iter().for_each(|id| self.ready(id));
    }

    /// Notes the root that a peer's `Hello` names.
    pub(super) fn greeted(&mut self, id: LinkId, root: Root) {
        if let Some(link) = self.links.get_mut(&id) {
            link.peer_root = Some(root);
        }
        self.compare(id);
    }

    /// Once both sides have said `Hello`: equal roots mean that the peer has what we had then.
    fn compare(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Greeting) else { return };
        let (Some(own), Some(theirs)) = (link.sent_root, link.peer_root) else { return };
        if own != theirs {
            link.phase = Phase::Comparing;
            return self.send_clock(id, false);
        }
        let received = std::mem::take(&mut link.has);
        link.has = self.replica.logs().iter().map(|(actor, state)| (*actor, state.stored)).collect();
        link.has.extend(link.touched.iter().map(|(actor, before)| (*actor, *before)));
        received.into_iter().for_each(|(actor, seq)| link.note_has(actor, seq));
        let entries = self.replica.roster().entries();
        link.statements = entries.iter().map(|(id, entry)| (*id, signers_digest(&entry.signed))).collect();
        for statement in &link.touched_statements {
            link.statements.remove(statement);
        }
        self.ready(id);
    }

    /// What the peer has is known: what it lacks becomes the backlog.
    pub(super) fn ready(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase = Phase::Ready;
        link.touched.clear();
        link.touched_statements.clear();
        let is_member = self.replica.standing(&link.device) == Standing::Member;
        link.lacking = self
            .replica
            .logs()
            .iter()
            .filter(|(actor, state)| is_member && state.stored > link.has_of(actor))
            .map(|(actor, state)| (state.log.document.kind().class(), *actor))
            .collect();
        link.lacking_statements = self
            .replica
            .roster()
            .entries()
            .iter()
            .filter(|(id, entry)| link.statements.get(id) != Some(&signers_digest(&entry.signed)))
            .map(|(id, _)| *id)
            .collect();
    }

    pub(super) fn send_clock(&mut self, id: LinkId, wants_answer: bool) {
        let logs: Vec<(Actor, u64)> = self
            .replica
            .logs()
            .iter()
            .map(|(actor, state)| (*actor, state.stored))
            .filter(|(_, seq)| *seq > 0)
            .collect();
        let entries = self.replica.roster().entries();
        let statements: Vec<(StatementId, u32)> =
            entries.iter().map(|(id, entry)| (*id, signers_digest(&entry.signed))).collect();
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
    pub(super) fn receive_clock(&mut self, id: LinkId, clock: Clock) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase != Phase::Greeting) else { return };
        if clock.is_first {
            link.has.clear();
            link.statements.clear();
        }
        for (actor, seq) in clock.logs {
            link.note_has(actor, seq);
        }
        link.statements.extend(clock.statements);
        if clock.is_last {
            if clock.wants_answer {
                self.after.push(After::SendClock(id, false));
            }
            self.ready(id);
        }
    }

    /// The peer compares roots, now and then.
    pub(super) fn receive_root(&mut self, id: LinkId, root: Root) {
        let is_ready = self.links.get(&id).is_some_and(|link| link.phase == Phase::Ready);
        if is_ready && self.unstored.is_empty() && root != self.replica.root() {
            self.after.push(After::SendClock(id, true));
        }
    }

    /// Tells the links of what the store has of a log now.
    pub(super) fn announce_log(&mut self, now: Time, actor: Actor, seq: u64) {
        let Some(state) = self.replica.logs.get_mut(&actor) else { return };
        let before = state.stored;
        state.stored = state.stored.max(seq.min(state.seq));
        let carrier = state.log.carrier;
        let class = state.log.document.kind().class();
        let neighbours = self.neighbours.get(&carrier).filter(|_| carrier != self.device);
        for link in self.links.values_mut() {
            if link.phase != Phase::Ready {
                link.touched.entry(actor).or_insert(before);
                continue;
            }
            if link.device == carrier {
                link.note_has(actor, seq);
            }
            if link.has_of(&actor) >= seq || self.replica.roster.standing(&link.device) != Standing::Member {
                continue;
            }
            if neighbours.is_some_and(|neighbours| neighbours.contains(&link.device)) {
                link.deferred.entry(actor).or_insert(now.plus_millis(DEFER_MS));
                link.have_out.insert(actor, seq);
                link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
            } else {
                link.lacking.insert((class, actor));
            }
        }
    }

    pub(super) fn announce_statement(&mut self, id: StatementId) {
        let Some(entry) = self.replica.roster.entries().get(&id) else { return };
        let digest = signers_digest(&entry.signed);
        for link in self.links.values_mut() {
            match link.phase {
                Phase::Ready if link.statements.get(&id) != Some(&digest) => {
                    link.lacking_statements.insert(id);
                }
                Phase::Ready => {}
                _ => {
                    link.touched_statements.insert(id);
                }
            }
        }
    }

    /// The peer lacks a log from `seq` + 1 on.
    pub(super) fn wanted(&mut self, id: LinkId, actor: Actor, seq: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Ready) else { return };
        let Some(state) = self.replica.logs.get(&actor).filter(|state| state.stored > seq) else { return };
        link.has.insert(actor, seq);
        link.lacking.insert((state.log.document.kind().class(), actor));
    }

    /// Sends what links lack, as far as they take it: one link, or all.
    pub(super) fn pump(&mut self, now: Time, staged: &Staged<'_>, only: Option<LinkId>) -> Result<(), StoreError> {
        let ids: Vec<LinkId> = match only {
            Some(id) => vec![id],
            None => self.links.keys().copied().collect(),
        };
        let mut sent = 0;
        for id in ids {
            self.pump_control(now, id);
            while sent < SEND_BYTES_MAX {
                match self.send_next(staged, id)? {
                    0 => break,
                    bytes => sent += bytes,
                }
            }
        }
        self.pump_again = sent >= SEND_BYTES_MAX;
        Ok(())
    }

    fn pump_control(&mut self, now: Time, id: LinkId) {
        self.flush_control(id);
        loop {
            let Some(link) = self.links.get_mut(&id) else { return };
            if !link.control.is_empty() || link.phase != Phase::Ready {
                return;
            }
            let Some(statement) = link.lacking_statements.pop_first() else { break };
            let Some(entry) = self.replica.roster.entries().get(&statement) else { continue };
            link.statements.insert(statement, signers_digest(&entry.signed));
            let frame = Frame::Statement(entry.signed.parts());
            self.send_control(id, &frame);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.have_by.is_some_and(|due| due <= now) {
            link.have_by = None;
            let mut entries: Vec<(Actor, u64)> = std::mem::take(&mut link.have_out).into_iter().collect();
            entries.retain(|(actor, seq)| link.has_of(actor) < *seq);
            for part in entries.chunks(ENTRIES_MAX) {
                self.send_control(id, &Frame::Have(part.to_vec()));
            }
        }
    }

    /// Sends the next run that a peer lacks; the bytes sent, 0 when there is nothing or the link takes no more.
    fn send_next(&mut self, staged: &Staged<'_>, id: LinkId) -> Result<usize, StoreError> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Ready) else { return Ok(0) };
        link.turn += 1;
        let is_shared = link.turn % SHARE_TURN == 0;
        let next = if is_shared { link.lacking.last() } else { link.lacking.first() };
        let Some((class, actor)) = next.copied() else { return Ok(0) };
        let from = link.has_of(&actor) + 1;
        let state = self.replica.logs.get(&actor).filter(|state| state.stored >= from);
        let Some(state) = state else {
            link.lacking.remove(&(class, actor));
            return self.send_next(staged, id);
        };
        let Some(run) = read_run(staged, Table::Change, &state.log, &actor, from, state.stored)? else {
            // The signature that covers these changes stands at a later one, which is not reported as stored yet.
            link.lacking.remove(&(class, actor));
            return self.send_next(staged, id);
        };
        let last = run.last_seq();
        let next_number = u32::try_from(link.names_out.len()).unwrap_or(u32::MAX);
        let number = link.names_out.get(&actor).copied();
        let mut frames = Vec::new();
        if number.is_none() {
            frames.push(Frame::Name(Name { number: next_number, log: run.log }).encode());
        }
        let changes = Changes {
            number: number.unwrap_or(next_number),
            first_seq: run.first_seq,
            changes: run.changes,
            signature: run.signature,
        };
        frames.push(Frame::Changes(changes).encode());
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let budget = &mut link.budget[channel_slot(Channel::Data)];
        if *budget < bytes {
            return Ok(0);
        }
        *budget -= bytes;
        link.names_out.entry(actor).or_insert(next_number);
        link.note_has(actor, last);
        if last >= state.stored {
            link.lacking.remove(&(class, actor));
        }
        for bytes in frames {
            self.effects.push_back(Effect::Send { link: id, channel: Channel::Data, bytes });
        }
        Ok(bytes)
    }

    pub(super) fn timer(&mut self, now: Time, staged: &Staged<'_>) -> Result<(), StoreError> {
        let late: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.phase == Phase::Greeting && link.hello_by <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.close(id, "the peer did not say Hello in time");
        }
        self.probe_silent(now);
        for link in self.links.values_mut() {
            let due: Vec<Actor> =
                link.deferred.iter().filter(|(_, until)| **until <= now).map(|(actor, _)| *actor).collect();
            for actor in due {
                link.deferred.remove(&actor);
                let Some(state) = self.replica.logs.get(&actor) else { continue };
                if state.stored > link.has_of(&actor) {
                    link.lacking.insert((state.log.document.kind().class(), actor));
                }
            }
        }
        if !self.links.is_empty() && self.reconcile_at <= now {
            self.reconcile_at = self.next_reconcile(now);
            self.compare_with_one();
        }
        self.pump(now, staged, None)
    }

    /// Probes links on which nothing came for a while, and closes those that stay silent: a TCP connection to a
    /// machine that lost its power would stand for many minutes.
    fn probe_silent(&mut self, now: Time) {
        let silent = |link: &Link, millis| link.heard_at.plus_millis(millis) <= now;
        let dead: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| silent(link, SILENCE_MS)).map(|(id, _)| *id).collect();
        for id in dead {
            self.close(id, "the peer is silent");
        }
        let idle: Vec<LinkId> = self
            .links
            .iter_mut()
            .filter(|(_, link)| link.probed_at.is_none() && silent(link, PROBE_MS))
            .map(|(id, link)| {
                link.probed_at = Some(now);
                *id
            })
            .collect();
        for id in idle {
            self.send_control(id, &Frame::Probe(now.0));
        }
    }

    /// A probe came back; its number is when it was sent.
    pub(super) fn probe_answered(&mut self, now: Time, id: LinkId, number: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.probed_at.take_if(|at| at.0 == number).is_some() {
            link.rtt_micros = Some(now.0.saturating_sub(number));
        }
    }

    /// Sends our root to one random link; whoever finds another root answers with a clock.
    fn compare_with_one(&mut self) {
        let ready: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.phase == Phase::Ready).map(|(id, _)| *id).collect();
        if ready.is_empty() || !self.unstored.is_empty() {
            return;
        }
        let chosen = ready[usize::try_from(self.random() % ready.len() as u64).unwrap_or(0)];
        let root = self.replica.root();
        self.send_control(chosen, &Frame::Root(root));
    }
}
