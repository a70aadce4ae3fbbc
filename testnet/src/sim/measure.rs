//! What a run sent, and when each change came where: the numbers that benches judge.
//!
//! It is kept of every run and decides nothing in it. A model of another system fills the same numbers, so that both
//! are judged by the same rules.

use std::collections::BTreeMap;

use crdt::id::Actor;
use crdt::sync::LinkId;
use crdt::sync::frame::{CHANGES, Frame, STATEMENT};

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    /// It carries changes.
    Changes,
    /// It carries a statement.
    Statement,
    /// It says or asks who has what, or who is to send what to whom. Frames of types that are not known here are
    /// counted as this one, so that a new type makes no number look better.
    Digest,
    /// The same, leaving together with another frame of its link: no message of its own.
    RidingDigest,
    /// It asks whether a peer is there, or answers that.
    Probe,
    /// It greets a peer, or gives a log its number in the session.
    Greeting,
}

impl Sort {
    /// By the type byte (crdt::sync::frame).
    fn of(kind: u8) -> Sort {
        match kind {
            CHANGES => Sort::Changes,
            STATEMENT => Sort::Statement,
            9 | 10 => Sort::Probe,
            1 | 7 => Sort::Greeting,
            _ => Sort::Digest,
        }
    }
}

/// Frames that links took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) frames: u64,
    /// The changes in them: a run of five is five.
    pub(crate) changes: u64,
}

/// A change that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where.
    pub(crate) node: usize,
    /// When its writer was told that it is on the disk, microseconds.
    pub(crate) at_us: u64,
}

/// A change that a node stored for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Which, as an index into [`Measured::written`].
    pub(crate) change: u32,
    pub(crate) node: u32,
    /// Microseconds.
    pub(crate) at_us: u64,
}

/// The mesh at a moment, where hosts choose their links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at_us: u64,
    /// Nodes that run, and the most of them that reach each other over links that both ends hold and use.
    pub(crate) up: usize,
    pub(crate) connected: usize,
    /// Such links, and the most of one node.
    pub(crate) links: usize,
    pub(crate) most_links: usize,
    /// Ends of links that came up, and announcements of links, since the start.
    pub(crate) links_changed: u64,
    pub(crate) announcements: u64,
}

/// What was measured of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) written: Vec<Written>,
    /// On other nodes than the one that wrote it.
    pub(crate) deliveries: Vec<Delivery>,
    /// By the second of virtual time in which links took it, so that a run's start can be left out.
    pub(crate) sent: BTreeMap<(u64, Sort), Sent>,
    /// The nodes that run at the end and should have everything.
    pub(crate) up_at_end: Vec<usize>,
    /// In order of time.
    pub(crate) samples: Vec<Sample>,
    pub(crate) links_changed: u64,
    pub(crate) announcements: u64,
    numbers: BTreeMap<(Actor, u64), usize>,
    /// When each link took its last frame, microseconds.
    taken_us: BTreeMap<(usize, LinkId), u64>,
}

impl Measured {
    /// A change was acknowledged; its number.
    pub(crate) fn write(&mut self, node: usize, at_us: u64) -> usize {
        self.written.push(Written { node, at_us });
        self.written.len() - 1
    }

    /// A node stored a change that it did not have.
    pub(crate) fn deliver(&mut self, change: usize, node: usize, at_us: u64) {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.deliveries.push(Delivery { change: narrow(change), node: narrow(node), at_us });
    }

    /// A link took a frame with so many changes.
    pub(crate) fn send(&mut self, sort: Sort, changes: u64, at_us: u64) {
        let sent = self.sent.entry((at_us / 1_000_000, sort)).or_default();
        sent.frames += 1;
        sent.changes += changes;
    }

    /// As [`Measured::write`], of the engine's change.
    pub(crate) fn wrote(&mut self, log: Actor, seq: u64, node: usize, at_us: u64) {
        let number = self.write(node, at_us);
        self.numbers.insert((log, seq), number);
    }

    /// As [`Measured::deliver`], of the engine's change.
    pub(crate) fn stored(&mut self, log: Actor, seq: u64, node: usize, at_us: u64) {
        if let Some(number) = self.numbers.get(&(log, seq)).copied() {
            self.deliver(number, node, at_us);
        }
    }

    /// As [`Measured::send`], of the engine's frame, which a node's link takes.
    pub(crate) fn passed(&mut self, end: (usize, LinkId), frame: &[u8], at_us: u64) {
        let mut sort = frame.first().map_or(Sort::Digest, |kind| Sort::of(*kind));
        if self.taken_us.insert(end, at_us) == Some(at_us) && sort == Sort::Digest {
            sort = Sort::RidingDigest;
        }
        let changes = match sort {
            Sort::Changes => changes_in(frame),
            _ => 0,
        };
        self.send(sort, changes, at_us);
    }

    /// What links took of a sort in these microseconds, which are whole seconds.
    pub(crate) fn sent(&self, sort: Sort, span_us: std::ops::Range<u64>) -> Sent {
        let seconds = span_us.start / 1_000_000..span_us.end.div_ceil(1_000_000);
        let of_sort = self.sent.iter().filter(|((second, of), _)| *of == sort && seconds.contains(second));
        of_sort.fold(Sent::default(), |sum, (_, sent)| Sent {
            frames: sum.frames + sent.frames,
            changes: sum.changes + sent.changes,
        })
    }
}

fn changes_in(frame: &[u8]) -> u64 {
    match Frame::decode(frame) {
        Ok(Some(Frame::Changes(changes))) => changes.changes.len() as u64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::change::RawBytes;
    use crdt::statement::SignatureBytes;
    use crdt::sync::frame::Changes;

    const END: (usize, LinkId) = (3, LinkId(7));

    #[test]
    fn a_digest_that_leaves_with_another_frame_is_no_message() {
        let mut measured = Measured::default();
        let have = Frame::Have(Vec::new()).encode();
        measured.passed(END, &have, 5);
        measured.passed(END, &Frame::Probe(1).encode(), 9);
        measured.passed(END, &have, 9);
        measured.passed((4, LinkId(8)), &have, 9);
        assert_eq!(measured.sent(Sort::Digest, 0..1).frames, 2);
        assert_eq!(measured.sent(Sort::RidingDigest, 0..1).frames, 1);
    }

    #[test]
    fn a_run_of_changes_is_one_frame_and_as_many_copies() {
        let raws = vec![RawBytes(vec![1]), RawBytes(vec![2]), RawBytes(vec![3])];
        let run =
            Frame::Changes(Changes { number: 700, first_seq: 9, changes: raws, signature: SignatureBytes([5; 64]) })
                .encode();
        let mut measured = Measured::default();
        measured.passed(END, &run, 1_999_999);
        measured.passed(END, &run, 2_000_000);
        measured.passed(END, &Frame::Probe(1).encode(), 2_000_000);
        measured.passed(END, &Frame::Have(Vec::new()).encode(), 2_000_001);
        measured.passed(END, &[77], 2_000_002);
        assert_eq!(measured.sent(Sort::Changes, 0..4_000_000), Sent { frames: 2, changes: 6 });
        assert_eq!(measured.sent(Sort::Changes, 2_000_000..4_000_000), Sent { frames: 1, changes: 3 });
        assert_eq!(measured.sent(Sort::Changes, 0..2_000_000), Sent { frames: 1, changes: 3 });
        assert_eq!(measured.sent(Sort::Digest, 0..4_000_000).frames, 2, "a type that is not known is a digest");
        assert_eq!(measured.sent(Sort::Probe, 0..4_000_000).frames, 1);
    }

    #[test]
    fn only_what_was_acknowledged_is_delivered() {
        let mut measured = Measured::default();
        measured.stored(Actor([1; 16]), 1, 4, 5);
        measured.wrote(Actor([1; 16]), 1, 3, 10);
        measured.stored(Actor([1; 16]), 1, 4, 25);
        assert_eq!(measured.written, [Written { node: 3, at_us: 10 }]);
        assert_eq!(measured.deliveries, [Delivery { change: 0, node: 4, at_us: 25 }]);
    }
}
