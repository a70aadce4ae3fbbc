//! The frames of a session: one type byte, then postcard. A new field is a new type; unknown types are skipped.
//!
//! | type | frame | stream | |
//! |---|---|---|---|
//! | 1 | `Hello` | control | first on each side |
//! | 2 | `Clock` | control | what the sender has, in parts |
//! | 3 | `Have` | control | single logs that the sender has up to a sequence number |
//! | 4, 5 | | | protocol 1: a `Want` of one log, a `Statement` without its origin |
//! | 6 | `Root` | control | the sender's root, to be compared |
//! | 7 | `Name` | data | interns a log for this session |
//! | 8 | `Changes` | data | a signed run of an interned log |
//! | 9 | `Probe` | control | to be answered at once |
//! | 10 | `ProbeAnswer` | control | the same number |
//! | 11 | `Ask` | control | what the sender wants of the receiver, by origin |
//! | 12 | `WantHash` | control | the sender lacks these changes or statements |
//! | 13–15 | | | reserved: `Credit`, `Ranges`, `Request` |
//! | 16 | `Want` | control | the sender lacks logs, each from a sequence number on |
//! | 17 | `Statement` | control | a signed statement, with the node where it entered the mesh |
//! | 18 | `HaveStatements` | control | single statements that the sender has |

use serde::{Deserialize, Serialize};

use crate::change::{LogName, RawBytes};
use crate::id::{Actor, DeviceId, FleetId, Root, StatementId};
use crate::statement::{SignatureBytes, StatementParts};

/// Largest frame, bytes.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// The versions of this protocol that are spoken here: least, greatest.
pub const PROTOCOL_RANGE: (u16, u16) = (2, 2);
/// Most entries in one `Clock`, `Have`, `HaveStatements`, `Want` or `WantHash` frame, and most origins that one `Ask` names.
pub const ENTRIES_MAX: usize = 1024;
/// Most statements in the chain of a `Hello`.
pub const CHAIN_MAX: usize = 32;

/// Most origins that a side may name in one session.
pub const ORIGINS_MAX: usize = 1 << 16;
/// The first byte of a `Changes` frame.
pub const CHANGES: u8 = 8;
/// The first byte of a `Statement` frame.
pub const STATEMENT: u8 = 17;

/// One of the two streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Small and urgent.
    Control,
    /// Changes.
    Data,
}

/// What a side says of itself when a link comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Least and greatest protocol version.
    pub protocol: (u16, u16),
    /// The fleet.
    pub fleet: FleetId,
    /// Statements that prove membership: roots, an operator, the invitation, the admission.
    pub chain: Vec<StatementParts>,
    /// What is replicated; today the one scope `fleet`.
    pub scopes: Vec<Scope>,
    /// Largest frame that the sender takes, bytes.
    pub frame_bytes_max: u32,
}

/// A scope as its replica stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// `fleet`, or a zone's name.
    pub name: String,
    /// The root over it.
    pub root: Root,
    /// Drawn anew after an unclean start: names the sender's order of admission.
    pub generation: u64,
    /// The receiver's generation and the position in its order up to which the sender has everything.
    pub cursor: Option<(u64, u64)>,
}

/// What a side has, in parts; the last one says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Logs with the greatest sequence number and a digest of the change there, so that two sides see where one forked.
    pub logs: Vec<(Actor, u64, u32)>,
    /// Statements with a digest of their signers.
    pub statements: Vec<(StatementId, u32)>,
    /// Whether this is the first part.
    pub is_first: bool,
    /// Whether this is the last part.
    pub is_last: bool,
    /// Whether the receiver should answer with its own clock.
    pub wants_answer: bool,
}

/// A log's name in this session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The number that stands for it, counted from 0 by each sender.
    pub number: u32,
    /// The log.
    pub log: LogName,
}

/// A signed run of an interned log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The number that [`Name`] gave.
    pub number: u32,
    /// The first sequence number.
    pub first_seq: u64,
    /// Raw changes.
    pub changes: Vec<RawBytes>,
    /// The author's signature at the last one.
    pub signature: SignatureBytes,
}

/// What the sender wants of the receiver from now on, for some origins: one message moves all origins of a lost parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// 1 for changes, 2 for digests, 3 for nothing.
    pub mode: u8,
    /// Whether it holds for all origins as well for which nothing else was or will be asked.
    pub others: bool,
    /// The number of the first origin in `named`: how many the sender has named before in this session.
    pub first: u32,
    /// Origins that are named now, each with the number of its scope in the sender's `Hello`.
    pub named: Vec<(DeviceId, u8)>,
    /// The origins that are meant: bit n of byte m stands for the one that was named with number 8 m + n.
    #[serde(with = "serde_bytes")]
    pub origins: Vec<u8>,
}

/// A signed statement on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The node where it entered the mesh, where that is known: it travels on that node's tree. An unsigned hint.
    pub origin: Option<DeviceId>,
    /// The statement and its signatures.
    pub parts: StatementParts,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// First on each side.
    Hello(Hello),
    /// What the sender has.
    Clock(Clock),
    /// Single logs that the sender has up to a sequence number.
    Have(Vec<(Actor, u64)>),
    /// The sender lacks these logs, each after that sequence number.
    Want(Vec<(Actor, u64)>),
    /// The sender lacks what has these hashes: changes, or statements.
    WantHash(Vec<[u8; 32]>),
    /// Statements that the sender has, with digests of their signers.
    HaveStatements(Vec<(StatementId, u32)>),
    /// What the sender wants.
    Ask(Ask),
    /// A signed statement.
    Statement(Statement),
    /// The sender's root.
    Root(Root),
    /// Interns a log.
    Name(Name),
    /// A signed run.
    Changes(Changes),
    /// To be answered at once with the same number.
    Probe(u64),
    /// The answer.
    ProbeAnswer(u64),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Empty, or longer than [`FRAME_BYTES_MAX`].
    #[error("a frame has 1 to {FRAME_BYTES_MAX} bytes, this one has {0}")]
    Size(usize),
    /// The body does not decode, has bytes left over, or more entries than allowed.
    #[error("a frame of type {0} is malformed")]
    Body(u8),
}

impl Frame {
    /// Type byte, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        fn body<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
            postcard::to_extend(value, vec![kind]).expect("plain data always encodes")
        }
        match self {
            Frame::Hello(hello) => body(1, hello),
            Frame::Clock(clock) => body(2, clock),
            Frame::Have(entries) => body(3, entries),
            Frame::Root(root) => body(6, root),
            Frame::Name(name) => body(7, name),
            Frame::Changes(changes) => body(CHANGES, changes),
            Frame::Probe(number) => body(9, number),
            Frame::ProbeAnswer(number) => body(10, number),
            Frame::Ask(ask) => body(11, ask),
            Frame::WantHash(hashes) => body(12, hashes),
            Frame::Want(entries) => body(16, entries),
            Frame::Statement(statement) => body(STATEMENT, statement),
            Frame::HaveStatements(entries) => body(18, entries),
        }
    }

    /// Reads a frame; `None` for a type that this version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        fn body<'a, T: Deserialize<'a>>(kind: u8, bytes: &'a [u8]) -> Result<T, FrameError> {
            match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Ok(value),
                _ => Err(FrameError::Body(kind)),
            }
        }
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Size(bytes.len()));
        }
        let Some((kind, rest)) = bytes.split_first() else { return Err(FrameError::Size(0)) };
        let frame = match *kind {
            1 => Frame::Hello(body(1, rest)?),
            2 => Frame::Clock(body(2, rest)?),
            3 => Frame::Have(body(3, rest)?),
            6 => Frame::Root(body(6, rest)?),
            7 => Frame::Name(body(7, rest)?),
            CHANGES => Frame::Changes(body(CHANGES, rest)?),
            9 => Frame::Probe(body(9, rest)?),
            10 => Frame::ProbeAnswer(body(10, rest)?),
            11 => Frame::Ask(body(11, rest)?),
            12 => Frame::WantHash(body(12, rest)?),
            16 => Frame::Want(body(16, rest)?),
            STATEMENT => Frame::Statement(body(STATEMENT, rest)?),
            18 => Frame::HaveStatements(body(18, rest)?),
            _ => return Ok(None),
        };
        if frame.is_within_limits() { Ok(Some(frame)) } else { Err(FrameError::Body(*kind)) }
    }

    fn is_within_limits(&self) -> bool {
        match self {
            Frame::Hello(hello) => hello.chain.len() <= CHAIN_MAX && hello.scopes.len() <= CHAIN_MAX,
            Frame::Clock(clock) => clock.logs.len() + clock.statements.len() <= ENTRIES_MAX,
            Frame::Have(entries) | Frame::Want(entries) => entries.len() <= ENTRIES_MAX,
            Frame::HaveStatements(entries) => entries.len() <= ENTRIES_MAX,
            Frame::WantHash(hashes) => hashes.len() <= ENTRIES_MAX,
            Frame::Ask(ask) => ask.named.len() <= ENTRIES_MAX && ask.origins.len() <= ORIGINS_MAX / 8,
            _ => true,
        }
    }

    /// The stream on which it travels.
    pub fn channel(&self) -> Channel {
        match self {
            Frame::Name(_) | Frame::Changes(_) => Channel::Data,
            _ => Channel::Control,
        }
    }
}

/// The number of the log in a `Changes` frame; none in another frame, or where it cannot be read.
pub(super) fn changes_number(bytes: &[u8]) -> Option<u32> {
    let (kind, body) = bytes.split_first()?;
    let number = postcard::take_from_bytes::<u32>(body).ok().filter(|_| *kind == CHANGES);
    number.map(|(number, _)| number)
}

/// Whether a frame carries something to be stored: a statement or changes. Such frames may be dropped by a node that
/// cannot store; [`Input::Resync`](super::Input::Resync) brings them again.
pub fn is_payload(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(&(STATEMENT | CHANGES)))
}

#[cfg(test)]
mod tests;
