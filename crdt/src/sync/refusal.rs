//! What follows from a run that is refused: an audit event, blame where the sender is at fault, and for the branches of a
//! forked log the exchange that proves the fork to both sides.
//!
//! A fork shows in a run that spans it. Whoever gets a run that fits nothing that is stored asks for the log from its
//! beginning; whoever finds a fork answers with its own branch, each once a session. So the owner of a restored folder
//! sees what it signed before, and goes on under a new incarnation (PROTOCOL 2).

use super::link::REFUSALS_MAX;
use super::{Effect, Engine, Frame, LinkId};
use crate::admission::Reason;
use crate::change::{LogName, RawBytes};
use crate::id::Actor;
use crate::schema::DocumentName;
use crate::store::{AuditRecord, Staged, StoreError};

/// A run that was refused.
pub(super) struct Refusal {
    pub(super) actor: Actor,
    pub(super) seq: u64,
    pub(super) reason: Reason,
    pub(super) evidence: Vec<RawBytes>,
}

impl Engine {
    pub(super) fn refused(
        &mut self,
        staged: &mut Staged<'_>,
        source: Option<LinkId>,
        log: &LogName,
        refusal: Refusal,
    ) -> Result<(), StoreError> {
        let Refusal { actor, seq, reason, evidence } = refusal;
        let link = source.and_then(|source| self.links.get(&source));
        let is_of_branch = matches!(reason, Reason::Branch | Reason::Fork);
        if is_of_branch && link.is_some_and(|link| link.forks.is_proven(&actor)) {
            return Ok(()); // said before
        }
        let record = AuditRecord {
            peer: link.map(|link| link.peer),
            author: Some(log.author),
            carrier: Some(log.carrier),
            document: Some(log.document.to_string()),
            actor: Some(actor),
            seq,
            reason: reason.to_string(),
            evidence,
            ..self.blank_audit()
        };
        self.audit(staged, record);
        match reason {
            Reason::Branch => self.branch_came(source, actor),
            Reason::Fork => self.fork_found(staged, source, log, actor, seq)?,
            // That the peer has what counts no more is no difference.
            Reason::Stale | Reason::Removed => {
                if let Some(link) = source.and_then(|source| self.links.get_mut(&source)) {
                    link.forget_log(&actor);
                }
            }
            reason if reason.blames_the_sender() => self.blame(source, &reason.to_string()),
            _ => {}
        }
        Ok(())
    }

    /// A run fits nothing that is stored of its log.
    pub(super) fn branch_came(&mut self, source: Option<LinkId>, actor: Actor) {
        let Some(id) = source else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.forks.note_branch(actor) {
            self.send_control(id, &Frame::Want(vec![(actor, 0)]));
        } else if link.forks.is_over() {
            self.close(id, "the peer sends changes that fit no log, and shows no fork");
        }
    }

    /// The author has signed two changes of one number: an own log is never continued, another's is shown to the peer.
    fn fork_found(
        &mut self,
        staged: &mut Staged<'_>,
        source: Option<LinkId>,
        log: &LogName,
        actor: Actor,
        seq: u64,
    ) -> Result<(), StoreError> {
        if self.is_own(log) {
            self.draw_incarnation();
        }
        let is_answered =
            source.and_then(|id| self.links.get_mut(&id)).is_none_or(|link| !link.forks.note_proof(actor));
        if let Some(id) = source.filter(|_| !is_answered) {
            self.wanted(id, actor, seq - 1);
            self.pump_again = true;
        }
        if log.document.device() == Some(self.device) {
            self.reopen(staged, &log.document)?;
        }
        Ok(())
    }

    /// Ends a forked log of this device: a new epoch in a log of the new incarnation, with all current values.
    fn reopen(&mut self, staged: &mut Staged<'_>, document: &DocumentName) -> Result<(), StoreError> {
        let is_current = match self.current_log(staged, document)? {
            Some(current) => current.log.incarnation == self.config.incarnation,
            None => true,
        };
        if is_current { Ok(()) } else { self.write_epoch(staged, document) }
    }

    pub(super) fn is_own(&self, log: &LogName) -> bool {
        log.carrier == self.device && log.incarnation == self.config.incarnation
    }

    /// A change that this node signed, or carried for an operator, came from a peer: its store is older than itself. To
    /// go on in the same logs would fork them (PROTOCOL 2).
    pub(super) fn draw_incarnation(&mut self) {
        self.config.incarnation = self.random();
        let generation = self.random() >> 32;
        self.replica.rename_order(generation);
        self.effects.push_back(Effect::Incarnation(self.config.incarnation));
    }

    /// The sender is at fault; too often, and its session ends.
    pub(super) fn blame(&mut self, source: Option<LinkId>, reason: &str) {
        let Some(id) = source else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        link.refusals += 1;
        if link.refusals >= REFUSALS_MAX {
            self.close(id, &format!("the peer sent {REFUSALS_MAX} changes that can never count; the last: {reason}"));
        }
    }
}
