//! Why a trace file does not show a change.

use std::fmt;
use std::io;
use std::path::Path;

use super::ChangeId;

/// Why no tree can be drawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// What was asked for can name no change. Nothing was read.
    #[error("{0:?} names no change: write the beginning of its hash, or LOG:SEQ with the beginning of its log")]
    Wanted(String),
    /// The file could not be read on.
    #[error("line {line} cannot be read")]
    Read {
        line: u64,
        #[source]
        source: io::Error,
    },
    /// The file does not begin as a trace does.
    #[error("line 1 is not the header of a trace: {0}")]
    Header(String),
    /// The file is a trace of another version.
    #[error("this trace has version {0}; this program reads version 1")]
    Version(u32),
    /// A line says nothing that can have happened.
    #[error("line {line} is malformed: {cause}")]
    Line { line: u64, cause: String },
    /// More than one change begins so.
    #[error("{wanted:?} fits several changes:{found}")]
    Ambiguous { wanted: String, found: Candidates },
    /// No change begins so.
    #[error("{wanted:?} fits no change of this trace; the first of them:{found}")]
    Unknown { wanted: String, found: Candidates },
    /// Nothing happened to any change.
    #[error("the trace holds no change")]
    Empty,
}

/// The first changes that may have been meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// In the order of the file.
    list: Vec<ChangeId>,
    /// Whether there are others.
    more: bool,
}

impl TraceError {
    /// A command to go on with; `file` is the trace.
    pub(crate) fn hint(&self, file: &Path) -> String {
        let file = quoted(file);
        match self {
            TraceError::Wanted(_) => format!("sed -n 2p {file}"),
            TraceError::Read { .. } => format!("ls -l {file}"),
            TraceError::Header(_) | TraceError::Version(_) | TraceError::Empty => format!("testnet sim --trace {file}"),
            TraceError::Line { line, .. } => format!("sed -n {line}p {file}"),
            TraceError::Ambiguous { found, .. } | TraceError::Unknown { found, .. } => {
                let hash = found.list.first().map_or_else(|| "HASH".to_owned(), |change| change.hash.to_string());
                format!("testnet trace {file} --change {hash}")
            }
        }
    }
}

impl Candidates {
    /// So many are listed.
    pub(crate) const LISTED_MAX: usize = 8;

    /// Takes a change once; of those past the limit only that they are there.
    pub(crate) fn add(&mut self, change: ChangeId) {
        if self.more || self.list.contains(&change) {
            return;
        }
        if self.list.len() < Self::LISTED_MAX {
            self.list.push(change);
        } else {
            self.more = true;
        }
    }

    /// Whether no further one would change anything.
    pub(crate) fn full(&self) -> bool {
        self.more
    }

    pub(crate) fn list(&self) -> &[ChangeId] {
        &self.list
    }
}

impl fmt::Display for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ChangeId { log, seq, hash } in &self.list {
            write!(f, "\n    {hash}  {log}:{seq}")?;
        }
        if self.more {
            f.write_str("\n    and others")?;
        }
        Ok(())
    }
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
