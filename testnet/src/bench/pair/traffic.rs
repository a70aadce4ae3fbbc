//! What went over a link, by direction and type of frame.

use std::collections::BTreeMap;
use std::fmt;

/// The first bytes of frames; see [`crdt::sync::frame`].
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 1;
    pub(crate) const ROOT: u8 = 6;
    pub(crate) const NAME: u8 = 7;
    pub(crate) const CHANGES: u8 = crdt::sync::frame::CHANGES;
    pub(crate) const PROBE: u8 = 9;
    pub(crate) const PROBE_ANSWER: u8 = 10;
    pub(crate) const ASK: u8 = 11;
    pub(crate) const PLACE: u8 = 19;
}

/// Their names, for people; of others the number has to do.
const NAMES: [(u8, &str); 18] = [
    (kind::HELLO, "Hello"),
    (3, "Have"),
    (kind::ROOT, "Root"),
    (kind::NAME, "Name"),
    (kind::CHANGES, "Changes"),
    (kind::PROBE, "Probe"),
    (kind::PROBE_ANSWER, "ProbeAnswer"),
    (kind::ASK, "Ask"),
    (12, "WantHash"),
    (14, "Ranges"),
    (15, "Request"),
    (16, "Want"),
    (crdt::sync::frame::STATEMENT, "Statement"),
    (18, "HaveStatements"),
    (kind::PLACE, "Place"),
    (20, "Parts"),
    (21, "Items"),
    (22, "Difference"),
];

/// Frames and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    frames: u64,
    bytes: u64,
}

/// Counts of what each end has given to the link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    counts: BTreeMap<(u8, usize), Count>,
}

impl Traffic {
    /// An end sends a frame.
    pub(crate) fn note(&mut self, from: usize, frame: &[u8]) {
        let Some(kind) = frame.first() else { return };
        let count = self.counts.entry((*kind, from)).or_default();
        count.frames += 1;
        count.bytes += frame.len() as u64;
    }

    fn sum(&self, counts: impl Fn(u8, usize) -> bool) -> Count {
        let of = self.counts.iter().filter(|((kind, from), _)| counts(*kind, *from));
        of.fold(Count::default(), |sum, (_, count)| Count {
            frames: sum.frames + count.frames,
            bytes: sum.bytes + count.bytes,
        })
    }

    /// Bytes of frames of these types, both ways.
    pub(crate) fn bytes_of(&self, kinds: &[u8]) -> u64 {
        self.sum(|kind, _| kinds.contains(&kind)).bytes
    }

    /// Bytes of frames of all types but these, both ways.
    pub(crate) fn bytes_beside(&self, kinds: &[u8]) -> u64 {
        self.sum(|kind, _| !kinds.contains(&kind)).bytes
    }

    /// Bytes of frames of these types in the direction in which they are more.
    pub(crate) fn bytes_one_way(&self, kinds: &[u8]) -> u64 {
        (0..2).map(|end| self.sum(|kind, from| from == end && kinds.contains(&kind)).bytes).max().unwrap_or(0)
    }

    /// Frames of a type, both ways.
    pub(crate) fn frames(&self, of: u8) -> u64 {
        self.sum(|kind, _| kind == of).frames
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((kind, from), Count { frames, bytes }) in &self.counts {
            let name = NAMES.iter().find(|(known, _)| known == kind).map_or("?", |(_, name)| name);
            writeln!(out, "        {kind:2} {name:<14} from {from}: {frames:5} frames, {bytes:8} bytes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crdt::id::Root;
    use crdt::sync::frame::Frame;

    use super::*;

    #[test]
    fn bytes_are_summed_by_type_and_direction() {
        let mut traffic = Traffic::default();
        traffic.note(0, &[kind::NAME, 1, 2]);
        traffic.note(0, &[kind::CHANGES; 10]);
        traffic.note(1, &[kind::CHANGES; 11]);
        traffic.note(1, &[kind::PLACE; 5]);
        let changes = [kind::NAME, kind::CHANGES];
        assert_eq!((traffic.bytes_of(&changes), traffic.bytes_beside(&changes)), (24, 5));
        assert_eq!((traffic.bytes_one_way(&changes), traffic.frames(kind::CHANGES)), (13, 2));
        assert!(traffic.to_string().contains(" 7 Name           from 0:     1 frames,        3 bytes"), "{traffic}");
    }

    #[test]
    fn the_types_are_those_of_the_codec() {
        let first = |frame: Frame| frame.encode()[0];
        assert_eq!(first(Frame::Root(Root([0; 32]))), kind::ROOT);
        assert_eq!((first(Frame::Probe(1)), first(Frame::ProbeAnswer(1))), (kind::PROBE, kind::PROBE_ANSWER));
    }
}
