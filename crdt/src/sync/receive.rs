//! What comes from peers: frames, runs and statements.

use super::foresight::Verdict;
use super::frame::{
    Changes, Credit, FRAGMENT, Fragment, Frame, Hello, Name, PROTOCOL_RANGE, STATEMENT, Statement, changes_number,
};
use super::link::{Phase, signers_digest};
use super::missing::{Item, Word};
use super::origins::Origin;
use super::pending::{Evicted, Sourced};
use super::refusal::Refusal;
use super::replica::Settled;
use super::{After, Channel, Effect, Engine, LinkId};
use crate::admission::{Outcome, Wait};
use crate::change::{RawBytes, Run};
use crate::id::{Actor, DeviceId, StatementId, Time};
use crate::roster::Standing;
use crate::statement::SignedStatement;
use crate::store::{AuditRecord, Staged, StoreError};

/// Most logs that are to be asked for again once what they wait for is here.
const EVICTED_MAX: usize = 1 << 16;

/// Most logs, and most statements, that a peer may claim to have.
pub(super) const CLAIMS_MAX: usize = 1 << 17;

impl Engine {
    pub(super) fn receive(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let (has_hello, has_place) = (link.peer_root.is_some(), link.standing.peer.is_some());
        match Frame::decode(bytes) {
            Ok(None) => {}
            Err(error) => self.fault(staged, id, &error.to_string()),
            Ok(Some(Frame::Hello(hello))) if !has_hello => self.receive_hello(now, staged, id, hello)?,
            Ok(Some(Frame::Place(place))) if has_hello && !has_place => {
                self.receive_place(id, place);
                self.compare_greeting(now, staged, id)?;
                for early in self.take_early(id) {
                    self.receive(now, staged, id, &early)?;
                }
                self.pump(now, staged, Some(id));
            }
            Ok(Some(Frame::Ranges(ranges))) if has_hello && !has_place => self.keep_opening(id, ranges),
            Ok(Some(_)) if !has_place => self.keep_early(id, bytes),
            Ok(Some(frame)) => self.receive_frame(now, staged, id, frame)?,
        }
        Ok(())
    }

    /// A frame of a peer that has said `Hello`.
    fn receive_frame(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        frame: Frame,
    ) -> Result<(), StoreError> {
        match frame {
            Frame::Hello(_) => self.fault(staged, id, "the peer says Hello twice"),
            Frame::Place(place) => self.receive_place(id, place),
            Frame::Credit(credit) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.outflow.credited(now, credit.received, credit.limit);
                }
                self.pump(now, staged, Some(id));
            }
            Frame::Fragment(fragment) => self.receive_fragment(now, staged, id, &fragment)?,
            Frame::Ranges(_) | Frame::Parts(_) | Frame::Items(_) | Frame::Request(_) | Frame::Difference(_) => {
                self.receive_compared(now, staged, id, frame);
            }
            Frame::Have(entries) => {
                self.receive_have(now, id, entries);
                self.check_claims(id);
            }
            Frame::HaveStatements(entries) => {
                self.receive_have_statements(now, id, entries);
                self.check_claims(id);
            }
            Frame::Want(entries) => {
                for (actor, seq) in entries {
                    self.wanted(id, actor, seq);
                }
                self.pump(now, staged, Some(id));
            }
            Frame::WantHash(hashes) => self.wanted_hashes(now, staged, id, &hashes)?,
            Frame::Ask(ask) => self.asked(now, staged, id, &ask),
            Frame::Probe(number) => self.send_control(id, &Frame::ProbeAnswer(number)),
            Frame::ProbeAnswer(number) => self.probe_answered(now, id, number),
            Frame::Root(root) => self.receive_root(id, root),
            Frame::Statement(statement) => self.receive_statement(now, staged, id, statement)?,
            Frame::Name(name) => self.receive_name(staged, id, name),
            Frame::Changes(changes) => self.receive_changes(now, staged, id, changes)?,
            Frame::Routed(message) => self.receive_routed(id, message),
        }
        Ok(())
    }

    /// A message of the mesh's own; of others than members none is taken.
    fn receive_routed(&mut self, id: LinkId, message: RawBytes) {
        if self.links.get(&id).is_some_and(|link| self.replica.standing(&link.device) == Standing::Member) {
            self.effects.push_back(Effect::Routed { link: id, message: message.0 });
        }
    }

    /// A frame was handled: of payload the peer hears now and then how much that was.
    pub(super) fn count_payload(&mut self, id: LinkId, channel: Channel, bytes: &[u8]) {
        if channel != Channel::Data && bytes.first() != Some(&STATEMENT) {
            return;
        }
        let credit = self.links.get_mut(&id).and_then(|link| link.inflow.received(bytes.len()));
        if let Some((received, limit)) = credit {
            self.send_control(id, &Frame::Credit(Credit { received, limit }));
        }
    }

    /// A part of a long frame.
    fn receive_fragment(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        fragment: &Fragment,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        match link.fragments.add(fragment) {
            Ok(None) => {}
            Ok(Some(whole)) if whole.first() == Some(&FRAGMENT) => {
                self.fault(staged, id, "a part of a part of a frame");
            }
            Ok(Some(whole)) => self.receive(now, staged, id, &whole)?,
            Err(reason) => self.fault(staged, id, reason),
        }
        Ok(())
    }

    /// A frame of a comparison.
    fn receive_compared(&mut self, now: Time, staged: &mut Staged<'_>, id: LinkId, frame: Frame) {
        // A peer that has not heard our `Hello` has nothing to compare with.
        if self.links.get(&id).is_none_or(|link| link.phase == Phase::Greeting) {
            return self.fault(staged, id, "the peer compares before both have greeted");
        }
        let judged = match frame {
            Frame::Ranges(ranges) => self.receive_ranges(now, id, ranges),
            Frame::Items(items) => self.receive_items(now, staged, id, items),
            Frame::Parts(parts) => {
                self.receive_parts(now, id, &parts);
                Ok(())
            }
            Frame::Request(request) => {
                self.receive_request(id, &request);
                Ok(())
            }
            Frame::Difference(difference) => {
                self.receive_difference(now, staged, id, difference);
                Ok(())
            }
            _ => Ok(()),
        };
        match judged {
            Ok(()) => self.pump(now, staged, Some(id)),
            Err(reason) => self.fault(staged, id, reason),
        }
    }

    /// The peer broke the protocol: audited, and the session ends.
    pub(super) fn fault(&mut self, staged: &mut Staged<'_>, id: LinkId, reason: &str) {
        let peer = self.links.get(&id).map(|link| link.peer);
        self.audit(staged, AuditRecord { peer, reason: reason.to_owned(), ..self.blank_audit() });
        self.close(id, reason);
    }

    pub(super) fn blank_audit(&self) -> AuditRecord {
        AuditRecord {
            time_ms: self.wall_ms,
            peer: None,
            author: None,
            carrier: None,
            document: None,
            actor: None,
            seq: 0,
            reason: String::new(),
            evidence: Vec::new(),
        }
    }

    pub(super) fn audit(&mut self, staged: &mut Staged<'_>, record: AuditRecord) {
        self.replica.audit(staged, &record);
        self.effects.push_back(Effect::Audit(Box::new(record)));
    }

    fn receive_hello(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        hello: Hello,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let device = link.device;
        if hello.fleet != self.config.fleet {
            self.fault(staged, id, "the peer belongs to another fleet");
            return Ok(());
        }
        let (least, most) = hello.protocol;
        if least > PROTOCOL_RANGE.1 || most < PROTOCOL_RANGE.0 || least > most {
            let reason = format!(
                "the peer speaks protocol {least} to {most}, this node {} to {}",
                PROTOCOL_RANGE.0, PROTOCOL_RANGE.1
            );
            self.fault(staged, id, &reason);
            return Ok(());
        }
        let mut chain = Vec::with_capacity(hello.chain.len());
        for parts in hello.chain {
            match SignedStatement::from_parts(parts) {
                Ok(signed) => chain.push(Sourced { signed, link: Some(id), origin: None }),
                Err(error) => {
                    self.fault(staged, id, &error.to_string());
                    return Ok(());
                }
            }
        }
        chain.reverse(); // what is last is settled first
        let mut waiting = self.settle(now, staged, chain)?;
        let standing = self.replica.standing(&device);
        if standing == Standing::Unknown {
            waiting.retain(|sourced| sourced.link != Some(id)); // a stranger's word takes no room
        }
        self.keep_statements(now, waiting);
        match standing {
            Standing::Unknown => self.fault(staged, id, "the peer is no member of this fleet"),
            Standing::Removed => self.close(id, "the device was removed from the fleet"),
            Standing::Member | Standing::Contested => match hello.scopes.iter().find(|scope| scope.name == "fleet") {
                Some(scope) => self.greeted(id, scope),
                None => self.fault(staged, id, "the peer does not replicate the scope fleet"),
            },
        }
        Ok(())
    }

    fn receive_name(&mut self, staged: &mut Staged<'_>, id: LinkId, name: Name) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let known = self.replica.logs.get(&name.log.actor(&self.config.fleet)).map(|log| log.id());
        if let Err(reason) = link.names.hear(name.number, name.log, known) {
            self.fault(staged, id, reason);
        }
    }

    fn receive_changes(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        frame: Changes,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let Some(log) = link.names.name(frame.number, &self.replica.logs) else {
            self.fault(staged, id, "changes of a log that has no name here");
            return Ok(());
        };
        let run = Run { log, first_seq: frame.first_seq, changes: frame.changes, signature: frame.signature };
        self.take_run(now, staged, Some(id), run)
    }

    /// A frame of changes was taken: their log may be here from now on, so that its name needs no room on the link.
    pub(super) fn settle_name(&mut self, id: LinkId, frame: &[u8]) {
        let Some((link, number)) = self.links.get_mut(&id).zip(changes_number(frame)) else { return };
        let Some(name) = link.names.unknown(number) else { return };
        if let Some(log) = self.replica.logs.get(&name.actor(&self.config.fleet)) {
            link.names.came(number, log.id());
        }
    }

    /// Admits a run and everything that waited for it.
    pub(super) fn take_run(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        source: Option<LinkId>,
        run: Run,
    ) -> Result<(), StoreError> {
        self.take_judged(now, staged, source, run, None)
    }

    /// As [`Engine::take_run`], where the run may have been judged.
    pub(super) fn take_judged(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        source: Option<LinkId>,
        run: Run,
        mut verdict: Option<Verdict>,
    ) -> Result<(), StoreError> {
        let mut work = vec![(run, source)];
        while let Some((run, source)) = work.pop() {
            let actor = run.log.actor(&self.config.fleet);
            if let Some(link) = source.and_then(|source| self.links.get_mut(&source)) {
                let own = self.replica.logs.get(&actor);
                link.claims(actor, run.last_seq(), own.map_or(0, |state| state.stored));
            }
            match self.judged(staged, &run, verdict.take())? {
                Outcome::Admitted(admitted) => {
                    if source.is_some() && self.is_own(&run.log) {
                        self.draw_incarnation();
                    }
                    self.after.push(After::AnnounceLog(actor, admitted.record.seq, source));
                    self.log_came(now, source, actor, admitted.record.seq, &run.log.carrier);
                    self.forget_logs(&admitted.superseded);
                    let changes = admitted.hashes.iter().map(|hash| Wait::Change(*hash));
                    let logs = admitted.superseded.iter().chain([&actor]).map(|log| Wait::Log(*log));
                    for there in logs.chain(changes) {
                        if let Wait::Change(hash) = there {
                            self.missing.forget(&Item::Change(hash));
                        }
                        let keys = self.pending.waiting_for(&there);
                        work.extend(keys.iter().filter_map(|key| self.pending.take(key)));
                        self.ask_again(&there);
                    }
                }
                Outcome::Known => {
                    if let Some(source) = source {
                        self.duplicate_came(now, source, &run.log.carrier);
                    }
                }
                Outcome::Waits(wait) => {
                    self.log_waits(now, source, actor, run.last_seq(), wait);
                    self.keep_waiting(actor, run, source, wait);
                }
                Outcome::Refused { reason, seq, evidence } => {
                    if let Some((id, link)) = source.and_then(|id| self.links.get_mut(&id).map(|link| (id, link))) {
                        link.note_refused(actor);
                        self.missing.refused(Item::Log(actor), id);
                    }
                    self.refused(staged, source, &run.log, Refusal { actor, seq, reason, evidence })?;
                }
            }
        }
        Ok(())
    }

    /// Judges a run, where that was not done.
    fn judged(&mut self, staged: &mut Staged<'_>, run: &Run, verdict: Option<Verdict>) -> Result<Outcome, StoreError> {
        if let Some(Verdict { outcome, writes }) = verdict {
            self.replica.take(staged, &outcome, writes);
            return Ok(outcome);
        }
        let outcome = self.replica.admit(staged, run)?;
        if matches!(outcome, Outcome::Admitted(_)) {
            self.foreseen.forget(&run.log.document);
        }
        Ok(outcome)
    }

    /// What a peer claims to have costs memory here.
    pub(super) fn check_claims(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        if link.ahead.len() > CLAIMS_MAX || link.ahead_statements.len() > CLAIMS_MAX {
            self.close(id, &format!("the peer claims more than {CLAIMS_MAX} logs or statements"));
        }
    }

    /// Logs that count no more: that a peer has them is no difference.
    pub(super) fn forget_logs(&mut self, actors: &[Actor]) {
        for link in self.links.values_mut() {
            actors.iter().for_each(|actor| link.forget_log(actor));
        }
        for actor in actors {
            self.missing.forget(&Item::Log(*actor));
        }
    }

    fn keep_waiting(&mut self, actor: Actor, run: Run, source: Option<LinkId>, wait: Wait) {
        if self.is_gone(source) {
            return;
        }
        for Evicted { wait, actor, link } in self.pending.insert(actor, run, source, wait) {
            if let Some(link) = link {
                self.note_evicted(wait, actor, link);
            }
        }
    }

    /// Whether a link was closed meanwhile: nothing that it brought is kept.
    fn is_gone(&self, source: Option<LinkId>) -> bool {
        source.is_some_and(|source| !self.links.contains_key(&source))
    }

    /// A link has something of a log that could not be kept: it is asked for again when what it waits for is there.
    pub(super) fn note_evicted(&mut self, wait: Wait, actor: Actor, link: LinkId) {
        if self.evicted.len() < EVICTED_MAX {
            self.evicted.insert((wait, actor, link));
        }
    }

    /// What was waited for is there: what was not kept meanwhile is asked for again.
    fn ask_again(&mut self, there: &Wait) {
        let (least, most) = (Actor([0; 16]), Actor([0xff; 16]));
        let range = (*there, least, LinkId(0))..=(*there, most, LinkId(u64::MAX));
        let due: Vec<(Wait, Actor, LinkId)> = self.evicted.range(range).copied().collect();
        for entry in due {
            self.evicted.remove(&entry);
            let (_, actor, link) = entry;
            let seq = self.links.get(&link).map_or(0, |link| link.ahead_of(&actor));
            self.missing.note(Item::Log(actor), Word { link, seq, is_live: false }, Time(0));
        }
    }

    fn receive_statement(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        frame: Statement,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let Statement { origin, parts } = frame;
        if let Some(known) = self.replica.roster().known(&parts) {
            // Only the first copy's signatures are worth checking.
            let (statement, digest) = (known.id(), signers_digest(known));
            let is_equal = known.signatures().len() == parts.signatures.len();
            link.ahead_statements.remove(&statement); // what it had otherwise is known now
            if is_equal {
                self.claims_statement(id, statement, digest);
            }
            self.missing.forget(&Item::Statement(statement));
            return Ok(());
        }
        match SignedStatement::from_parts(parts) {
            Ok(signed) => {
                link.ahead_statements.remove(&signed.id());
                let origin = origin.and_then(|device| self.origin_named(&device));
                self.statement_came(now, id, signed.id(), origin);
                // Whoever was not asked for what enters there may name any node: then everyone is told.
                let origin = origin.filter(|origin| self.asks_full(id, *origin));
                self.take_statement(now, staged, Sourced { signed, link: Some(id), origin })
            }
            Err(error) => {
                let record = AuditRecord {
                    peer: Some(link.peer),
                    reason: format!("a statement was refused: {error}"),
                    ..self.blank_audit()
                };
                self.audit(staged, record);
                self.blame(Some(id), &error.to_string());
                Ok(())
            }
        }
    }

    /// The number of a device that a peer names as a statement's origin.
    fn origin_named(&mut self, device: &DeviceId) -> Option<Origin> {
        let is_known = self.replica.standing(device) != Standing::Unknown;
        self.origins.intern_named(device, is_known)
    }

    /// Settles a statement and everything that waited for it.
    pub(super) fn take_statement(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        sourced: Sourced,
    ) -> Result<(), StoreError> {
        let waiting = self.settle(now, staged, vec![sourced])?;
        self.keep_statements(now, waiting);
        Ok(())
    }

    /// Settles statements, the last first, and what waited for them. Returns those that still wait.
    fn settle(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        mut work: Vec<Sourced>,
    ) -> Result<Vec<Sourced>, StoreError> {
        let mut waiting = Vec::new();
        while let Some(sourced) = work.pop() {
            let Sourced { signed, link, origin } = &sourced;
            match self.replica.settle(staged, signed) {
                Settled::Stored(id, devices) => {
                    self.after.push(After::AnnounceStatement(id, *origin, *link));
                    self.statement_stored(now, staged, id, &devices)?;
                    work.extend(self.pending.take_statements());
                    work.append(&mut waiting);
                }
                Settled::Known => {}
                Settled::Pending => waiting.push(sourced),
                Settled::Refused(reason) => {
                    let record = AuditRecord {
                        peer: link.and_then(|link| self.links.get(&link)).map(|link| link.peer),
                        author: signed.signatures().keys().next().copied(),
                        reason: format!("statement {} was refused: {reason}", signed.id()),
                        ..self.blank_audit()
                    };
                    self.audit(staged, record);
                    self.blame(*link, reason);
                }
            }
        }
        Ok(waiting)
    }

    fn keep_statements(&mut self, now: Time, waiting: Vec<Sourced>) {
        for sourced in waiting {
            let (link, id, digest) = (sourced.link, sourced.signed.id(), signers_digest(&sourced.signed));
            if self.is_gone(link) || self.pending.insert_statement(sourced) {
                continue;
            }
            if let Some((id_of_link, link)) = link.and_then(|id| self.links.get_mut(&id).map(|link| (id, link))) {
                link.ahead_statements.insert(id, digest);
                self.statement_dropped(now, id_of_link, id);
            }
        }
    }

    /// A statement is staged: what it changes of devices' standing, and of what waited for it.
    pub(super) fn statement_stored(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: StatementId,
        devices: &[DeviceId],
    ) -> Result<(), StoreError> {
        self.foreseen.forget_all();
        self.note_origins(devices);
        for device in devices {
            let standing = self.replica.standing(device);
            self.note_standing(device, standing);
            match standing {
                Standing::Member => {
                    for run in self.replica.unstrand(staged, device)? {
                        self.take_run(now, staged, None, run)?;
                    }
                    // What was not taken while the device was contested comes again.
                    if self.replica.is_pin(&id) {
                        self.replica.void_cursors(staged);
                        self.resync();
                    }
                }
                _ => {
                    let stranded = self.replica.strand(staged, device)?;
                    self.forget_logs(&stranded);
                    if standing == Standing::Removed {
                        self.close_device(device);
                    }
                }
            }
        }
        // Of all that waits only what may be judged otherwise now: each has a signature to check.
        let is_role = self.replica.is_role(&id);
        for key in self.pending.waiting_for_authority(|author| is_role || devices.contains(&author.device())) {
            if let Some((run, source)) = self.pending.take(&key) {
                self.take_run(now, staged, source, run)?;
            }
        }
        self.ask_again(&Wait::Authority);
        Ok(())
    }

    fn close_device(&mut self, device: &DeviceId) {
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| link.device == *device).map(|(id, _)| *id).collect();
        for link in links {
            self.close(link, "the device was removed from the fleet");
        }
    }
}
