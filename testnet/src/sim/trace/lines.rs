//! Trace files, a line at a time: whatever stands in them, an error names its line.

use std::io::{self, BufRead, Read as _};

use serde::{Deserialize, Serialize};

use super::{ChangeId, Happened, TraceError, What};
use crate::sim::topology::{Place, Topology};

/// The version that is written and read.
const VERSION: u32 = 1;
/// A header may be as long: some hundred thousand nodes.
const HEADER_BYTES_MAX: u64 = 32 << 20;
/// Every other line may be as long: three times what an event needs.
const LINE_BYTES_MAX: u64 = 1024;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    trace: u32,
    pub(super) topology: String,
    pub(super) seed: u64,
    pub(super) nodes: Vec<Place>,
}

/// An event, and the change that it names; none where a node sent bytes that are no change, which have no hash.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) happened: Happened,
    pub(super) change: Option<ChangeId>,
}

/// A trace file that is being read; holds the header and one line.
pub(super) struct TraceReader<R> {
    reader: R,
    /// The number of the line in `text`, from 1.
    line: u64,
    text: Vec<u8>,
    header: Header,
}

/// All but the version may differ where the version does.
#[derive(Deserialize)]
struct Version {
    trace: u32,
}

impl Header {
    pub(super) fn new(topology: &Topology, seed: u64) -> Header {
        Header { trace: VERSION, topology: topology.name.clone(), seed, nodes: topology.nodes.clone() }
    }
}

impl<R: BufRead> TraceReader<R> {
    /// Reads the header.
    pub(super) fn new(mut reader: R) -> Result<TraceReader<R>, TraceError> {
        let mut text = Vec::new();
        let read = read_line(&mut reader, &mut text, HEADER_BYTES_MAX)
            .map_err(|source| TraceError::Read { line: 1, source })?;
        if read == Read::TooLong {
            return Err(TraceError::Header(format!("it is longer than {HEADER_BYTES_MAX} bytes")));
        }
        let no_header = |error| TraceError::Header(cause(&error));
        let Version { trace } = serde_json::from_slice(&text).map_err(no_header)?;
        if trace != VERSION {
            return Err(TraceError::Version(trace));
        }
        let header = serde_json::from_slice(&text).map_err(no_header)?;
        Ok(TraceReader { reader, line: 1, text, header })
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// The next event, or none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Event>, TraceError> {
        self.line += 1;
        let line = self.line;
        let malformed = |cause| TraceError::Line { line, cause };
        match read_line(&mut self.reader, &mut self.text, LINE_BYTES_MAX) {
            Ok(Read::Line) => {}
            Ok(Read::End) => return Ok(None),
            Ok(Read::TooLong) => return Err(malformed(format!("it is longer than {LINE_BYTES_MAX} bytes"))),
            Err(source) => return Err(TraceError::Read { line, source }),
        }
        let happened: Happened = serde_json::from_slice(&self.text).map_err(|error| malformed(cause(&error)))?;
        let log = happened.log.parse().map_err(|error| malformed(format!("log: {error}")))?;
        let change = if happened.hash.is_empty() {
            None
        } else {
            let hash = happened.hash.parse().map_err(|error| malformed(format!("hash: {error}")))?;
            Some(ChangeId { log, seq: happened.seq, hash })
        };
        let nodes = self.header.nodes.len();
        if let Some(node) = [Some(happened.node), happened.peer].into_iter().flatten().find(|node| *node >= nodes) {
            return Err(malformed(format!("there is no node {node} among {nodes}")));
        }
        let framed = matches!(happened.what, What::Sent | What::Came | What::CameAgain);
        if framed && happened.peer.is_none() {
            return Err(malformed("the peer is missing".to_owned()));
        }
        Ok(Some(Event { happened, change }))
    }
}

#[derive(PartialEq, Eq)]
enum Read {
    Line,
    TooLong,
    /// Nothing is left.
    End,
}

/// Reads a line, or what is left, into `text`, without its end.
fn read_line(reader: &mut impl BufRead, text: &mut Vec<u8>, bytes_max: u64) -> io::Result<Read> {
    text.clear();
    let count = reader.by_ref().take(bytes_max + 1).read_until(b'\n', text)?;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    Ok(match count {
        0 => Read::End,
        _ if text.len() as u64 > bytes_max => Read::TooLong,
        _ => Read::Line,
    })
}

/// What the parser says, with the column only: its line is always the first.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", error.column())
}
