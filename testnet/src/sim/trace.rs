//! What happened, as it happened: a hash over all of it, and on demand a file to look at.
//!
//! * [`TraceWriter`] takes every event: two runs are the same where their hashes are
//! * [`tree()`] reads a file back and draws how one change reached the nodes
//!
//! A trace file is JSON, one object a line: `{"trace":1,"topology":…,"seed":…,"nodes":[{"name":…,"zone":…},…]}`, then
//! a [`Happened`] a line, in the order of virtual time.

use std::io::{self, BufWriter, Write};

use crdt::id::{Actor, ChangeHash};
use serde::{Deserialize, Serialize};

use crate::sim::topology::Topology;

mod drawn;
mod error;
mod lines;
mod spread;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use error::TraceError;
pub(crate) use spread::{Spread, quantile_us};
pub(crate) use tree::tree;

use lines::Header;

/// Bytes that wait for a trace file.
const BUFFER_BYTES: usize = 1 << 16;
/// What the hash is over, and which encoding.
const HASHED: &str = "fleetsync testnet trace 1";
/// The first byte of a hashed [`Happened`].
const TAG_HAPPENED: u8 = 0;
/// The first byte of a hashed note.
const TAG_NOTE: u8 = 1;

/// Something that happened to a change on a node; one JSON object a line in a trace file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Happened {
    /// Microseconds of virtual time.
    pub(crate) at_us: u64,
    /// The node's number.
    pub(crate) node: usize,
    /// The other end, where a frame is concerned.
    pub(crate) peer: Option<usize>,
    /// What.
    pub(crate) what: What,
    /// The change's log, hexadecimal.
    pub(crate) log: String,
    /// The change's number there.
    pub(crate) seq: u64,
    /// The change's hash, hexadecimal.
    pub(crate) hash: String,
}

/// What may happen to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// It was written here.
    Written,
    /// It was given to a link, to `peer`.
    Sent,
    /// It came over a link, from `peer`.
    Came,
    /// It came over a link, from `peer`, and was here already.
    CameAgain,
    /// It is stored here: `peer` brought it first, where it was not written here.
    Stored,
    /// It was refused; `peer` brought it.
    Refused,
}

/// Names a change in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChangeId {
    pub(crate) log: Actor,
    pub(crate) seq: u64,
    pub(crate) hash: ChangeHash,
}

/// Takes every event of a run: into a hash over all of them, and into a file where one was asked for.
///
/// The hash does not depend on the file, nor on the header: seeds that change nothing show by the same hash. It is
/// BLAKE3, in its mode for derived keys with the context `fleetsync testnet trace 1`, over the records one after the
/// other, numbers in little endian, `bytes` for a length of 8 bytes and the bytes themselves:
///
/// * a [`Happened`]: `0`, `at_us` 8, `node` 8, `peer` (`0`, or `1` and 8 bytes), `what` (a byte, 0 to 5 in the order
///   of [`What`]), `seq` 8, `log` as `bytes`, `hash` as `bytes`
/// * a note: `1`, `at_us` 8, the label as `bytes`, the note as `bytes`
pub(crate) struct TraceWriter {
    hasher: blake3::Hasher,
    /// One record, kept so that none is allocated for each event.
    record: Vec<u8>,
    lines: Lines,
}

enum Lines {
    Nowhere,
    To(BufWriter<Box<dyn Write + Send>>),
    /// Nothing more is written.
    Failed(io::Error),
}

impl TraceWriter {
    /// Only the hash.
    pub(crate) fn new() -> TraceWriter {
        TraceWriter { hasher: blake3::Hasher::new_derive_key(HASHED), record: Vec::new(), lines: Lines::Nowhere }
    }

    /// The hash, and lines to `out`, which is buffered here. The header is written at once.
    pub(crate) fn to(out: Box<dyn Write + Send>, topology: &Topology, seed: u64) -> TraceWriter {
        let lines = Lines::To(BufWriter::with_capacity(BUFFER_BYTES, out));
        let mut writer = TraceWriter { lines, ..TraceWriter::new() };
        writer.line(&Header::new(topology, seed));
        writer
    }

    /// Takes an event.
    pub(crate) fn happened(&mut self, happened: &Happened) {
        let Happened { at_us, node, peer, what, log, seq, hash } = happened;
        let mut record = self.record(TAG_HAPPENED, *at_us);
        number(&mut record, *node);
        record.push(u8::from(peer.is_some()));
        peer.iter().for_each(|peer| number(&mut record, *peer));
        record.push(what.code());
        record.extend(seq.to_le_bytes());
        bytes(&mut record, log.as_bytes());
        bytes(&mut record, hash.as_bytes());
        self.hash_record(record);
        self.line(happened);
    }

    /// Takes anything else, which goes into the hash only.
    pub(crate) fn note(&mut self, at_us: u64, label: &str, note: &[u8]) {
        let mut record = self.record(TAG_NOTE, at_us);
        bytes(&mut record, label.as_bytes());
        bytes(&mut record, note);
        self.hash_record(record);
    }

    /// The hash over all that was taken so far.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// Writes what is buffered. The first error that writing met comes back here; after it nothing more was written,
    /// while the hash went on. A reader that went away is no error.
    pub(crate) fn finish(self) -> io::Result<()> {
        let written = match self.lines {
            Lines::Nowhere => Ok(()),
            Lines::To(mut out) => out.flush(),
            Lines::Failed(error) => Err(error),
        };
        written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
    }

    fn record(&mut self, tag: u8, at_us: u64) -> Vec<u8> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.push(tag);
        record.extend(at_us.to_le_bytes());
        record
    }

    fn hash_record(&mut self, record: Vec<u8>) {
        self.hasher.update(&record);
        self.record = record;
    }

    fn line(&mut self, value: &impl Serialize) {
        let Lines::To(out) = &mut self.lines else { return };
        let written = serde_json::to_writer(&mut *out, value).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| out.write_all(b"\n")) {
            // Dropped whole it would write once more what it holds.
            if let Lines::To(out) = std::mem::replace(&mut self.lines, Lines::Failed(error)) {
                drop(out.into_parts());
            }
        }
    }
}

impl What {
    /// Its number in the hash; never another one.
    fn code(self) -> u8 {
        match self {
            What::Written => 0,
            What::Sent => 1,
            What::Came => 2,
            What::CameAgain => 3,
            What::Stored => 4,
            What::Refused => 5,
        }
    }
}

/// 8 bytes on every machine.
fn number(record: &mut Vec<u8>, number: usize) {
    record.extend((number as u64).to_le_bytes());
}

fn bytes(record: &mut Vec<u8>, bytes: &[u8]) {
    number(record, bytes.len());
    record.extend(bytes);
}
