//! What a comparison has to say: made into frames only as a link takes them, so that a long one holds no memory and keeps
//! nothing back.

use std::collections::{BTreeSet, VecDeque};

use super::super::frame::{Difference, End, Frame, ITEMS_MAX, Items, ShortItem};
use super::super::link::signers_digest;
use super::super::replica::Replica;
use super::buckets::short_items;
use crate::id::{Actor, StatementId};
use crate::root::RangeKey;

/// Most entries in one frame of a difference: about 11 KiB of logs, or 18 KiB of statements.
const ENTRIES_PER_FRAME: usize = 512;

/// Something to be said, in one frame or several.
#[derive(Debug, Clone)]
pub(in crate::sync) enum Outgoing {
    /// A frame.
    Frame(Vec<u8>),
    /// The items of buckets.
    Items(OutgoingItems),
    /// Logs and statements that the peer may lack.
    Difference(OutgoingDifference),
}

/// Items of buckets that are still to be said.
#[derive(Debug, Clone)]
pub(in crate::sync) struct OutgoingItems {
    pub(in crate::sync) number: u64,
    pub(in crate::sync) buckets: VecDeque<u16>,
    /// How many items of the first bucket were said.
    pub(in crate::sync) said: usize,
}

/// A difference that is still to be said.
#[derive(Debug, Clone)]
pub(in crate::sync) struct OutgoingDifference {
    pub(in crate::sync) logs: VecDeque<Actor>,
    pub(in crate::sync) statements: BTreeSet<StatementId>,
    pub(in crate::sync) end: End,
}

impl Outgoing {
    /// The next frame, and what is left after it.
    pub(in crate::sync) fn next_frame(self, replica: &Replica) -> (Vec<u8>, Option<Outgoing>) {
        match self {
            Outgoing::Frame(bytes) => (bytes, None),
            Outgoing::Items(items) => {
                let (frame, rest) = items.next_frame(replica);
                (frame, rest.map(Outgoing::Items))
            }
            Outgoing::Difference(difference) => {
                let (frame, rest) = difference.next_frame(replica);
                (frame, rest.map(Outgoing::Difference))
            }
        }
    }
}

impl OutgoingItems {
    fn next_frame(mut self, replica: &Replica) -> (Vec<u8>, Option<OutgoingItems>) {
        let key = RangeKey::new(self.number);
        let mut buckets: Vec<(u16, Vec<ShortItem>)> = Vec::new();
        let mut room = ITEMS_MAX;
        while let Some(bucket) = self.buckets.front().copied().filter(|_| room > 0) {
            let all = short_items(replica, &key, bucket).map(|(short, _)| short);
            let items: Vec<ShortItem> = all.skip(self.said).take(room).collect();
            // An empty bucket takes room as well: a frame of them ends somewhere.
            room -= items.len().max(1);
            if room == 0 && !items.is_empty() {
                self.said += items.len();
            } else {
                self.said = 0;
                self.buckets.pop_front();
            }
            buckets.push((bucket, items));
        }
        let is_last = self.buckets.is_empty();
        let frame = Frame::Items(Items { number: self.number, buckets, is_last }).encode();
        (frame, (!is_last).then_some(self))
    }
}

impl OutgoingDifference {
    fn next_frame(mut self, replica: &Replica) -> (Vec<u8>, Option<OutgoingDifference>) {
        let logs = self.logs.drain(..ENTRIES_PER_FRAME.min(self.logs.len()));
        let state = |actor: Actor| replica.logs().get(&actor).map(|state| (actor, state));
        let told = logs.filter_map(state).filter(|(_, state)| state.stored > 0);
        let logs: Vec<(Actor, u64, u32)> =
            told.map(|(actor, state)| (actor, state.stored, state.head_digest())).collect();
        let mut statements = Vec::new();
        for _ in logs.len()..ENTRIES_PER_FRAME {
            let Some(id) = self.statements.pop_first() else { break };
            statements.extend(replica.stored_statement(&id).map(|entry| (id, signers_digest(&entry.signed))));
        }
        let is_last = self.logs.is_empty() && self.statements.is_empty();
        let frame = Difference { logs, statements, end: is_last.then_some(self.end) };
        (Frame::Difference(frame).encode(), (!is_last).then_some(self))
    }
}
