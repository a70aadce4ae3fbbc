//! Sending: control frames, what peers lack in the order of its class, and what time brings.

use super::frame::{Changes, ENTRIES_MAX, Frame, Name, ROUTED_BYTES_MAX, Statement, cut};
use super::lacking::{Need, SHARE_TURN};
use super::link::{CONTROL_BYTES_MAX, Link, Phase, channel_slot, signers_digest};
use super::names::Names;
use super::replica::{LogId, read_run_within};
use super::{Channel, Effect, Engine, LinkId, RECONCILE_MS, ROUTED_WAITING_MAX, SEND_BYTES_MAX};
use crate::change::{RawBytes, Run};
use crate::id::{Actor, StatementId, Time};
use crate::roster::Standing;
use crate::schema::Class;
use crate::store::{Staged, Table};

/// What came of an attempt to send.
enum Sent {
    /// So many bytes were sent.
    Bytes(usize),
    /// There was nothing of that to send; there may be something else.
    Nothing,
    /// There is nothing to send, or the link takes no more.
    Stop,
}

impl Engine {
    pub(super) fn next_reconcile(&mut self, now: Time) -> Time {
        let (least, most) = RECONCILE_MS;
        now.plus_millis(least + self.random() % (most - least))
    }

    /// Queues a control frame; what the peer does not read in time closes the session.
    pub(super) fn send_control(&mut self, id: LinkId, frame: &Frame) {
        self.send_control_bytes(id, frame.encode());
    }

    fn send_control_bytes(&mut self, id: LinkId, bytes: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.control_bytes += bytes.len();
        link.control.push_back(bytes);
        if link.control_bytes > CONTROL_BYTES_MAX {
            return self.close(id, "the peer does not read");
        }
        self.flush_control(id);
    }

    /// Sends a message of the mesh's own, unless too much waits already: who sent it waits for an answer, and hears of none.
    pub(super) fn route(&mut self, id: LinkId, message: Vec<u8>) {
        let Some(link) = self.links.get(&id) else { return };
        let is_member = self.replica.standing(&link.device) == Standing::Member;
        let is_open = link.phase != Phase::Greeting && link.control_bytes <= ROUTED_WAITING_MAX;
        if is_member && is_open && message.len() <= ROUTED_BYTES_MAX {
            self.send_control(id, &Frame::Routed(RawBytes(message)));
        }
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

    /// Sends what links lack, as far as they take it: one link, or all.
    pub(super) fn pump(&mut self, now: Time, staged: &Staged<'_>, only: Option<LinkId>) {
        let ids: Vec<LinkId> = match only {
            Some(id) => vec![id],
            None => self.links.keys().copied().collect(),
        };
        let mut sent = 0;
        for id in ids {
            self.flush_control(id);
            let before = sent;
            while sent < SEND_BYTES_MAX {
                match self.send_one(now, staged, id) {
                    Sent::Bytes(bytes) => sent += bytes,
                    Sent::Nothing => {}
                    Sent::Stop => break,
                }
            }
            self.tell_haves(now, id, sent > before);
        }
        self.pump_again |= sent >= SEND_BYTES_MAX;
    }

    /// Sends one frame: what is most urgent, a comparison's in turn with it. A long frame on its way lets more urgent ones
    /// pass between its parts.
    fn send_one(&mut self, now: Time, staged: &Staged<'_>, id: LinkId) -> Sent {
        let has_greeted = |link: &&mut Link| link.phase != Phase::Greeting;
        let Some(link) = self.links.get_mut(&id).filter(has_greeted) else { return Sent::Stop };
        link.paced_by = None;
        if link.lacking.is_empty() && link.pieces.is_empty() && link.standing.outgoing.is_empty() {
            return Sent::Stop;
        }
        if !link.outflow.may_send(now) {
            link.paced_by = link.outflow.paced_at();
            return Sent::Stop;
        }
        let next = link.lacking.next();
        let under_way = link.pieces.front().map(|(class, _)| *class);
        match (under_way, next) {
            (Some(class), Some(next)) if next.0 < class && link.overtaken < SHARE_TURN => {
                link.overtaken += 1;
                match self.send_need(now, staged, id, next) {
                    Sent::Stop => self.send_piece(now, id),
                    sent => sent,
                }
            }
            (Some(_), _) => {
                link.overtaken = 0;
                self.send_piece(now, id)
            }
            (None, Some(_)) if std::mem::take(&mut link.has_compared) => self.send_next(now, staged, id),
            (None, _) if self.take_compared(id) => self.send_piece(now, id),
            (None, _) => self.send_next(now, staged, id),
        }
    }

    fn send_next(&mut self, now: Time, staged: &Staged<'_>, id: LinkId) -> Sent {
        let next = self.links.get(&id).and_then(|link| link.lacking.next());
        next.map_or(Sent::Stop, |next| self.send_need(now, staged, id, next))
    }

    fn send_need(
        &mut self,
        now: Time,
        staged: &Staged<'_>,
        id: LinkId,
        (class, need, first): (Class, Need, u64),
    ) -> Sent {
        match need {
            Need::Statement(statement) => self.send_statement(now, id, class, statement),
            Need::Log(actor) => self.send_run(now, staged, id, (class, actor, first)),
        }
    }

    fn send_statement(&mut self, now: Time, id: LinkId, class: Class, statement: StatementId) -> Sent {
        let Some(link) = self.links.get_mut(&id) else { return Sent::Stop };
        if !link.control.is_empty() {
            return Sent::Stop;
        }
        link.lacking.remove(&Need::Statement(statement));
        // One that is being stored anew is announced again when it is.
        let Some(entry) = self.replica.stored_statement(&statement) else { return Sent::Nothing };
        link.have_statements_out.remove(&statement);
        link.lacking.served(class);
        let origin = self.statement_origins.get(&statement).map(|origin| self.origins.device(*origin));
        let frame = Frame::Statement(Statement { origin, parts: entry.signed.parts() });
        let bytes = frame.encode();
        let length = bytes.len();
        link.outflow.sent(now, length);
        self.send_control_bytes(id, bytes);
        Sent::Bytes(length)
    }

    /// Sends the next part of what was begun on the data stream.
    fn send_piece(&mut self, now: Time, id: LinkId) -> Sent {
        let Some(link) = self.links.get_mut(&id) else { return Sent::Stop };
        let budget = &mut link.budget[channel_slot(Channel::Data)];
        let Some((_, bytes)) = link.pieces.pop_front_if(|(_, bytes)| bytes.len() <= *budget) else { return Sent::Stop };
        let length = bytes.len();
        *budget -= length;
        link.outflow.sent(now, length);
        self.effects.push_back(Effect::Send { link: id, channel: Channel::Data, bytes });
        Sent::Bytes(length)
    }

    /// The next frame of a comparison is to be sent. Whether there is one.
    fn take_compared(&mut self, id: LinkId) -> bool {
        let Some(link) = self.links.get_mut(&id) else { return false };
        let Some(outgoing) = link.standing.outgoing.pop_front() else { return false };
        let (frame, rest) = outgoing.next_frame(&self.replica);
        if let Some(rest) = rest {
            link.standing.outgoing.push_front(rest);
        }
        link.has_compared = true;
        let parts = cut(frame, link.outflow.frame_bytes());
        // What differs is not known before it is said, so nothing overtakes it; changes go in turn with it.
        link.pieces.extend(parts.into_iter().map(|part| (Class::Membership, part)));
        true
    }

    /// Says what there is, once it is time or where something else is sent anyway.
    fn tell_haves(&mut self, now: Time, id: LinkId, rides: bool) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.control.is_empty() || link.have_by.is_none_or(|due| due > now && !rides) {
            return;
        }
        link.have_by = None;
        let logs = std::mem::take(&mut link.have_out).into_keys();
        let stored = |actor: Actor| self.replica.logs.get(&actor).map(|state| (actor, state.stored));
        let logs: Vec<(Actor, u64)> = logs.filter_map(stored).collect();
        let statements = std::mem::take(&mut link.have_statements_out);
        let digest = |id: &StatementId| self.replica.stored_statement(id).map(|entry| signers_digest(&entry.signed));
        let statements: Vec<(StatementId, u32)> =
            statements.into_iter().filter_map(|id| digest(&id).map(|digest| (id, digest))).collect();
        for part in logs.chunks(ENTRIES_MAX) {
            self.send_control(id, &Frame::Have(part.to_vec()));
        }
        for part in statements.chunks(ENTRIES_MAX) {
            self.send_control(id, &Frame::HaveStatements(part.to_vec()));
        }
    }

    /// Sends the next run that a peer lacks of a log.
    fn send_run(
        &mut self,
        now: Time,
        staged: &Staged<'_>,
        id: LinkId,
        (class, actor, first): (Class, Actor, u64),
    ) -> Sent {
        let Some(link) = self.links.get_mut(&id) else { return Sent::Stop };
        let frame_bytes = link.outflow.frame_bytes();
        let Some(log) = self.replica.logs.get(&actor) else {
            link.lacking.remove(&Need::Log(actor));
            return Sent::Nothing;
        };
        let (log_id, stored) = (log.id(), log.stored);
        let run = read_run_within(staged, (Table::Change, frame_bytes), &log.name(), &actor, first, stored);
        // What cannot be read here is sent by others; it keeps nothing else back.
        let run = run.unwrap_or_else(|error| {
            if self.unreadable.insert(actor) {
                self.effects.push_back(Effect::Fault(error));
            }
            None
        });
        // Without a run the peer has it by now, or the signature stands at a change that is not stored yet.
        let Some(run) = run else {
            link.lacking.remove(&Need::Log(actor));
            return Sent::Nothing;
        };
        let last = run.last_seq();
        let frames = frames_of(&link.names, log_id, run);
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let is_cut = frames.iter().any(|frame| frame.len() > frame_bytes);
        // Where a frame in parts is on its way, another one has to wait for its end.
        if link.budget[channel_slot(Channel::Data)] < bytes.min(frame_bytes) || (is_cut && !link.pieces.is_empty()) {
            return Sent::Stop;
        }
        link.names.say(log_id);
        if last >= stored {
            link.lacking.remove(&Need::Log(actor));
        } else {
            link.lacking.set(Need::Log(actor), class, last + 1);
        }
        link.lacking.served(class);
        let parts = frames.into_iter().flat_map(|frame| cut(frame, frame_bytes)).map(|part| (class, part));
        // Before what is under way: that may be less urgent.
        let parts: Vec<(Class, Vec<u8>)> = parts.collect();
        parts.into_iter().rev().for_each(|part| link.pieces.push_front(part));
        self.send_piece(now, id)
    }

    pub(super) fn timer(&mut self, now: Time, staged: &Staged<'_>) {
        self.pump_again = false;
        let late: Vec<_> = self.links.iter().filter_map(|(id, link)| Some((*id, link.is_late(now)?))).collect();
        for (id, reason) in late {
            self.close(id, reason);
        }
        self.close_stalled(now);
        self.fetch(now);
        self.compare_timer(now);
        if !self.links.is_empty() && self.reconcile_at <= now {
            self.reconcile_at = self.next_reconcile(now);
            self.compare_with_one();
        }
        self.pump(now, staged, None);
    }

    /// Closes links to peers that take and acknowledge nothing.
    fn close_stalled(&mut self, now: Time) {
        let stalled = self.links.iter().filter(|(_, link)| link.outflow.is_stalled(now));
        let stalled: Vec<LinkId> = stalled.map(|(id, _)| *id).collect();
        for id in stalled {
            self.close(id, "the peer takes and acknowledges nothing");
        }
    }

    /// Probes a link, and tells with it what is to be told.
    pub(super) fn probe_link(&mut self, now: Time, id: LinkId) {
        self.probe(now, id);
        self.tell_haves(now, id, true);
    }

    /// Measures the round trip of a link.
    pub(super) fn probe(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.probed(now);
        self.send_control(id, &Frame::Probe(now.0));
    }

    /// A probe came back; its number is when it was sent.
    pub(super) fn probe_answered(&mut self, now: Time, id: LinkId, number: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(micros) = link.probe_answered(now, number) {
            self.effects.push_back(Effect::RoundTrip { link: id, micros });
        }
    }

    /// Sends our root to one random link; whoever finds another root compares.
    fn compare_with_one(&mut self) {
        let ready: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.phase == Phase::Ready).map(|(id, _)| *id).collect();
        if ready.is_empty() || !self.unstored.is_empty() {
            return;
        }
        let chosen = ready[usize::try_from(self.random() % ready.len() as u64).unwrap_or(0)];
        let root = self.replica.root();
        self.send_control(chosen, &Frame::Root(root));
        self.send_place(chosen, false);
    }
}

/// The frames of a run: its log's name first, where the peer does not know its number yet.
fn frames_of(names: &Names, log_id: LogId, run: Run) -> Vec<Vec<u8>> {
    let (number, is_known) = names.to_say(log_id);
    let Run { log, first_seq, changes, signature } = run;
    let name = (!is_known).then(|| Frame::Name(Name { number, log }).encode());
    let changes = Frame::Changes(Changes { number, first_seq, changes, signature }).encode();
    name.into_iter().chain([changes]).collect()
}
