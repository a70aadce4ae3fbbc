//! What the model's nodes send each other, and what it weighs.

use std::collections::BTreeSet;

use crate::sim::measure::Sort;

/// Bytes of a change, about as the engine's frame of one.
const CHANGE_BYTES: usize = 300;
/// Bytes of a message's id, and of what is around a message.
const ID_BYTES: usize = 40;

/// What goes over a line.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Publish(usize),
    IHave(Vec<usize>),
    IWant(Vec<usize>),
    /// The first message of `automerge::sync`: what is there.
    Heads(BTreeSet<usize>),
    /// The second one: all that the other lacked.
    Missing(Vec<usize>),
}

impl Message {
    pub(super) fn sort(&self) -> Sort {
        match self {
            Message::Publish(_) => Sort::Changes,
            Message::Missing(changes) if !changes.is_empty() => Sort::Changes,
            _ => Sort::Digest,
        }
    }

    pub(super) fn changes(&self) -> usize {
        match self {
            Message::Publish(_) => 1,
            Message::Missing(changes) => changes.len(),
            _ => 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let ids = match self {
            Message::IHave(ids) | Message::IWant(ids) => ids.len(),
            Message::Heads(_) => 2, // its Bloom filter is left out
            _ => 0,
        };
        ID_BYTES * (1 + ids) + CHANGE_BYTES * self.changes()
    }
}
