//! Sessions on lines: an oracle brings them up and takes them down, with delay and error.

use crdt::sync::{Channel, Input, LinkId};

use super::{Event, LineState, WINDOW_BYTES, World};
use crate::sim::fleet::key_of;
use crate::sim::host::Waiting;
use crate::sim::mutant::Mutant;
use crate::sim::wire::Session;

/// A peer that vanished is noticed by the transport after this long.
const IDLE_US: u64 = 10_000_000;
/// A session that either end closed is tried again after at least this long, and twice it at most.
const CLOSED_US: u64 = 5_000_000;

/// Flips one bit, always the same of a frame, behind its type.
pub(super) fn alter(bytes: &mut [u8]) {
    let at = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(at.max(1)) {
        *byte ^= 0x10;
    }
}

/// What no run may depend on: where the machine has put something.
fn asks_the_machine() -> bool {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .is_ok_and(|since| since.subsec_nanos() / 64 % 2 == 0)
}

impl World<'_, '_> {
    fn later(&mut self, most_us: u64) -> u64 {
        self.now_us + self.chance.below(most_us + 1)
    }

    /// A session is to come up on a line, soon.
    pub(super) fn try_line(&mut self, line: usize) {
        if self.mesh.is_none() {
            let at_us = self.later(self.plan.oracle.up_ms * 1000);
            self.schedule(at_us, Event::Up(line));
        }
    }

    /// A host runs: its lines are tried, or it dials whom it wants.
    pub(super) fn came_up(&mut self, node: usize) {
        self.start_mesh(node);
        for line in self.lines_of[node].clone() {
            self.try_line(line);
        }
        self.set_timer(node);
    }

    /// A session comes up on a line, where both ends can hold one; where it is known, by whose dial.
    pub(super) fn bring_up(&mut self, number: usize, dialler: Option<usize>) {
        let ends = self.lines[number].line.ends;
        let state = &self.lines[number];
        let (a, b) = (&self.hosts[ends.0], &self.hosts[ends.1]);
        if state.session.is_some() || !state.is_whole || state.is_muted != [false; 2] || !a.is_up() || !b.is_up() {
            return;
        }
        let free_us = a.busy_until_us.max(b.busy_until_us);
        if free_us > self.now_us {
            return self.schedule(free_us + 1, Event::Up(number)); // nobody shakes hands while frozen
        }
        for (slot, node) in [ends.0, ends.1].into_iter().enumerate() {
            if let Some(link) = self.lines[number].believed[slot].take() {
                self.arrive(node, Waiting { input: Input::LinkDown(link), from: None });
            }
        }
        let links = [LinkId(self.next + 1), LinkId(self.next + 2)];
        self.next += 2;
        let id = links[0].0;
        let pair = [(ends.0, links[0]), (ends.1, links[1])];
        self.sessions.insert(id, Session::new(number, pair));
        self.lines[number].session = Some(id);
        self.routes_changed();
        let first_dials = dialler.map_or_else(|| self.chance.below(2) == 0, |dialler| dialler == ends.0);
        let slots = if self.mutant == Some(Mutant::AsksTheMachine) && asks_the_machine() { [1, 0] } else { [0, 1] };
        for slot in slots {
            let (node, link) = pair[slot];
            self.links.insert((node, link), id);
            self.lines[number].believed[slot] = Some(link);
            let peer = key_of(&self.fleet.devices[pair[1 - slot].0]);
            let dialled = (slot == 0) == first_dials;
            self.arrive(node, Waiting { input: Input::LinkUp { link, peer, dialled }, from: None });
            for channel in [Channel::Control, Channel::Data] {
                let input = Input::Writable { link, channel, bytes: WINDOW_BYTES };
                self.arrive(node, Waiting { input, from: None });
            }
        }
        self.session_came_up(id);
        if self.chance.happens(self.plan.oracle.error_ppm) {
            self.drop_session(number);
            self.try_line(number);
        }
    }

    /// A session ends with all that is on its way; its ends learn it later.
    pub(super) fn drop_session(&mut self, number: usize) {
        let Some(session) = self.take_session(number) else { return };
        for (node, link) in session.ends {
            // Where nobody tells them, silence does (`liveness`), and the transport in the end.
            let at_us = match self.mesh.is_some() {
                true => self.now_us + IDLE_US,
                false => self.later(self.plan.oracle.down_ms * 1000),
            };
            let start = self.hosts[node].start;
            self.schedule(at_us, Event::Gone { node, start, link });
        }
    }

    fn take_session(&mut self, number: usize) -> Option<Session> {
        let id = self.lines[number].session.take()?;
        let session = self.sessions.remove(&id)?;
        self.routes_changed();
        for (node, link) in session.ends {
            self.links.remove(&(node, link));
            self.names.remove(&(node, link));
            for channel in [Channel::Control, Channel::Data] {
                self.owed.remove(&(node, link, channel));
            }
        }
        Some(session)
    }

    /// An engine closes a session: the other end learns it when it hears of it.
    pub(super) fn closed_by(&mut self, node: usize, link: LinkId) {
        let Some(id) = self.links.get(&(node, link)).copied() else {
            return self.forget_belief(node, link);
        };
        let Some(number) = self.sessions.get(&id).map(|session| session.line) else { return };
        self.forget_belief(node, link);
        let Some(session) = self.take_session(number) else { return };
        let other = session.ends[1 - session.slot_of(node)];
        let LineState { line, is_muted, is_whole, .. } = &self.lines[number];
        let is_heard = *is_whole && !is_muted[session.slot_of(other.0)];
        let at_us = self.now_us + if is_heard { line.delay_us } else { IDLE_US };
        let start = self.hosts[other.0].start;
        self.schedule(at_us, Event::Gone { node: other.0, start, link: other.1 });
        if self.mesh.is_none() {
            let again_us = at_us + CLOSED_US + self.chance.below(CLOSED_US);
            self.schedule(again_us, Event::Up(number));
        }
    }

    fn forget_belief(&mut self, node: usize, link: LinkId) {
        for number in self.lines_of[node].clone() {
            let believed = &mut self.lines[number].believed;
            believed.iter_mut().filter(|known| **known == Some(link)).for_each(|known| *known = None);
        }
    }

    /// An end learns that a session is gone.
    pub(super) fn gone(&mut self, node: usize, link: LinkId) {
        self.forget_belief(node, link);
        self.arrive(node, Waiting { input: Input::LinkDown(link), from: None });
    }

    /// The link of the other end.
    pub(super) fn other_link(&self, node: usize, link: LinkId) -> Option<LinkId> {
        let session = self.sessions.get(self.links.get(&(node, link))?)?;
        Some(session.ends[1 - session.slot_of(node)].1)
    }

    /// Sends a frame as the host's manners are.
    pub(super) fn misbehave(&mut self, node: usize, link: LinkId, channel: Channel, mut bytes: Vec<u8>) {
        let (drop, repeat, alters) = self.hosts[node].misbehaves;
        if (drop, repeat, alters) == (0, 0, 0) {
            return self.pass(node, link, channel, bytes, false);
        }
        if self.chance.happens(drop) {
            let (start, bytes) = (self.hosts[node].start, bytes.len());
            return self.schedule(self.now_us, Event::Credit { node, start, link, channel, bytes });
        }
        if self.chance.happens(repeat) {
            self.owed.entry((node, link, channel)).and_modify(|owed| *owed += bytes.len());
            self.pass(node, link, channel, bytes.clone(), false);
        }
        let altered = self.chance.happens(alters);
        if altered {
            alter(&mut bytes);
        }
        self.pass(node, link, channel, bytes, altered);
    }

    /// Puts a frame on its line.
    pub(super) fn pass(&mut self, node: usize, link: LinkId, channel: Channel, bytes: Vec<u8>, altered: bool) {
        let Some(id) = self.links.get(&(node, link)).copied() else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let slot = session.slot_of(node);
        let line = &self.lines[session.line].line;
        let (peer, other) = session.ends[1 - slot];
        if self.lines[session.line].is_muted[1 - slot] {
            return; // it goes nowhere, and is never credited
        }
        let passage = session.pass(slot, line, self.now_us, channel, bytes.len(), &mut self.wires);
        self.count(node, link, peer, &bytes);
        let (start, length) = (self.hosts[node].start, bytes.len());
        self.schedule(passage.taken_us, Event::Credit { node, start, link, channel, bytes: length });
        let frame = Waiting { input: Input::Frame { link: other, channel, bytes }, from: Some((node, altered)) };
        let start = self.hosts[peer].start;
        self.schedule(passage.arrives_us, Event::Arrive { node: peer, start, waiting: frame });
    }

    /// A line has taken a frame.
    pub(super) fn credit(&mut self, node: usize, link: LinkId, channel: Channel, bytes: usize) {
        if let Some(owed) = self.owed.get_mut(&(node, link, channel)) {
            *owed = owed.saturating_sub(bytes);
        }
        self.arrive(node, Waiting { input: Input::Writable { link, channel, bytes }, from: None });
    }
}
