//! Taking joins: with a ticket at once, without one after an operator's approval.

use std::collections::BTreeMap;

use crdt::id::Key;
use crdt::join::{JoinAnswer, JoinRefusal, JoinRequest};
use crdt::statement::{StatementParts, check_word};
use crdt::sync::Input;
use transport::PeerKey;

use super::{Node, NodeEvent};

/// Most wishes to join that wait; the oldest gives way.
const WISHES_MAX: usize = 64;

/// Why a member that was told to stay offline takes no joins; what is joining recognises it.
pub(crate) const OFFLINE: &str = "it was told to stay offline";

/// A device that wants to join without a ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The key that an invitation would be for.
    pub(crate) one_time: Key,
    /// The name that it wishes; nothing about it is proven.
    pub(crate) name: String,
    /// Where it asked from.
    pub(crate) address: String,
    /// When it asked last, milliseconds since 1970.
    pub(crate) asked_ms: u64,
}

/// Wishes by the device's key, which the connection has proven.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    waiting: BTreeMap<Key, Wish>,
}

impl Wishes {
    /// Every wish that waits.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Wish)> {
        self.waiting.iter()
    }

    fn insert(&mut self, device: Key, wish: Wish) -> bool {
        let is_new = self.waiting.get(&device).is_none_or(|known| known.one_time != wish.one_time);
        self.waiting.insert(device, wish);
        if self.waiting.len() > WISHES_MAX {
            let oldest = self.waiting.iter().min_by_key(|(_, wish)| wish.asked_ms).map(|(key, _)| *key);
            oldest.map(|key| self.waiting.remove(&key));
        }
        is_new
    }
}

impl Node {
    pub(super) fn join_request(&mut self, id: u64, peer: PeerKey, address: String, bytes: &[u8]) {
        let Some(request) = crdt::join::decode(bytes) else { return self.answer_join_bytes(id, Vec::new()) };
        if self.is_offline() {
            let refusal = JoinRefusal::Busy(OFFLINE.to_owned());
            return self.answer_join(id, &JoinAnswer::Refused(refusal));
        }
        let answer = match request {
            JoinRequest::Chain { fleet, .. } | JoinRequest::Ask { fleet, .. } if fleet != self.fleet => {
                JoinAnswer::Refused(JoinRefusal::Fleet)
            }
            JoinRequest::Chain { .. } => JoinAnswer::Chain(crdt::join::chain(self.engine.replica().roster())),
            JoinRequest::Ask { one_time, name, .. } => self.asked(Key(peer.0), one_time, name, address),
            JoinRequest::Admit { invitation, admission } => match self.admit(id, invitation, admission) {
                Some(refusal) => JoinAnswer::Refused(refusal),
                None => return,
            },
        };
        self.answer_join(id, &answer);
    }

    /// Stores an admission; answered when it is synced. A refusal is known at once.
    fn admit(&mut self, id: u64, invitation: StatementParts, admission: StatementParts) -> Option<JoinRefusal> {
        if let Some(reason) = &self.full {
            return Some(JoinRefusal::Busy(reason.clone()));
        }
        let roster = self.engine.replica().roster();
        match crdt::join::judge_admission(roster, invitation, admission, self.clock.wall_ms()) {
            Err(refusal) => Some(refusal),
            Ok(statements) => {
                let request = self.request_id();
                self.joins.insert(request, id);
                let statements = statements.iter().map(|signed| signed.parts()).collect();
                self.input(Input::Statements { request, statements });
                None
            }
        }
    }

    /// A wish without a ticket: invited, or kept for an operator.
    fn asked(&mut self, device: Key, one_time: Key, name: String, address: String) -> JoinAnswer {
        let roster = self.engine.replica().roster();
        if let Some((invitation, _)) = roster.invitation(&one_time) {
            let mut statements = crdt::join::chain(roster);
            statements.push(invitation.signed.parts());
            self.wishes.waiting.remove(&device);
            return JoinAnswer::Invited(statements);
        }
        if check_word(&name).is_err() {
            return JoinAnswer::Refused(JoinRefusal::Invalid("the name is not a word".to_owned()));
        }
        let wish = Wish { one_time, name, address, asked_ms: self.clock.wall_ms() };
        let event = NodeEvent::wish(&device.device(), &wish.name, &wish.address);
        if self.wishes.insert(device, wish) {
            self.emit(event);
        }
        JoinAnswer::Waits
    }

    pub(super) fn answer_join(&self, id: u64, answer: &JoinAnswer) {
        self.answer_join_bytes(id, crdt::join::encode(answer));
    }

    fn answer_join_bytes(&self, id: u64, bytes: Vec<u8>) {
        if let Err(error) = self.mesh.answer_join(id, bytes) {
            tracing::debug!(%error, "a join was not answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_few_and_the_oldest_gives_way() {
        let mut wishes = Wishes::default();
        let wish = |asked_ms| Wish { one_time: Key([1; 32]), name: "a".to_owned(), address: String::new(), asked_ms };
        for number in 0..=WISHES_MAX as u8 {
            assert!(wishes.insert(Key([number; 32]), wish(u64::from(number))));
        }
        assert_eq!(wishes.iter().count(), WISHES_MAX);
        assert!(wishes.iter().all(|(key, _)| key.0[0] != 0), "the oldest went");
        assert!(!wishes.insert(Key([9; 32]), wish(999)), "asking again is nothing new");
    }
}
