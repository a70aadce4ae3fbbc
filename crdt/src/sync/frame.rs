//! The frames of a session: one type byte, then postcard. A new field is a new type; unknown types are skipped.
//!
//! | type | frame | stream | |
//! |---|---|---|---|
//! | 1 | `Hello` | control | first on each side |
//! | 2 | | | protocol 2: `Clock`, all that the sender has |
//! | 3 | `Have` | control | single logs that the sender has up to a sequence number |
//! | 4, 5 | | | protocol 1: a `Want` of one log, a `Statement` without its origin |
//! | 6 | `Root` | control | the sender's root, to be compared |
//! | 7 | `Name` | data | interns a log for this session |
//! | 8 | `Changes` | data | a signed run of an interned log |
//! | 9 | `Probe` | control | to be answered at once |
//! | 10 | `ProbeAnswer` | control | the same number |
//! | 11 | `Ask` | control | what the sender wants of the receiver, by origin |
//! | 12 | `WantHash` | control | the sender lacks these changes or statements |
//! | 13 | `Credit` | control | how much payload the sender has handled, and how much it takes |
//! | 14 | `Ranges` | data | opens a comparison: fingerprints of 256 ranges of the sender's items |
//! | 15 | `Request` | data | what do these short ids stand for? |
//! | 16 | `Want` | control | the sender lacks logs, each from a sequence number on |
//! | 17 | `Statement` | control | a signed statement, with the node where it entered the mesh |
//! | 18 | `HaveStatements` | control | single statements that the sender has |
//! | 19 | `Place` | control | where the sender's order of admission stands, after `Hello`, `Root`, or an equal root |
//! | 20 | `Parts` | data | fingerprints of the 16 buckets of each range that differs |
//! | 21 | `Items` | data | short ids and values of the items of buckets that differ |
//! | 22 | `Difference` | data | what the sender has and the receiver may lack, in parts |
//! | 23 | `Fragment` | data | a part of a frame that is longer than 20 ms of the link's rate |
//! | 24 | `Routed` | control | a message of the mesh's own, of a request on its way to another node |
//!
//! Payload is what travels on the data stream, and statements.

use serde::{Deserialize, Serialize};

use crate::change::{LogName, RawBytes};
use crate::id::{Actor, DeviceId, FleetId, Root, StatementId};
use crate::root::BUCKETS;
use crate::statement::{SignatureBytes, StatementParts};

/// Largest frame, bytes.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// The versions of this protocol that are spoken here: least, greatest.
pub const PROTOCOL_RANGE: (u16, u16) = (4, 4);
/// Most entries in one `Have`, `HaveStatements`, `Want`, `WantHash`, `Request` or `Difference` frame, and most origins that one
/// `Ask` names.
pub const ENTRIES_MAX: usize = 1024;
/// Most statements in the chain of a `Hello`.
pub const CHAIN_MAX: usize = 32;

/// Longest message in a `Routed` frame, bytes.
pub const ROUTED_BYTES_MAX: usize = 24 * 1024;
/// Most origins that a side may name in one session.
pub const ORIGINS_MAX: usize = 1 << 16;
/// Ranges of one comparison.
pub const RANGES: usize = 256;
/// Buckets of a range.
pub const RANGE_BUCKETS: usize = BUCKETS / RANGES;
/// Most items in one [`Items`] frame.
pub const ITEMS_MAX: usize = 2048;
/// The first byte of a `Changes` frame.
pub const CHANGES: u8 = 8;
/// The first byte of a `Statement` frame.
pub const STATEMENT: u8 = 17;
/// The first byte of a `Fragment` frame.
pub(super) const FRAGMENT: u8 = 23;

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

/// Where a node's order of admission stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Names the order; see [`Scope::generation`].
    pub generation: u64,
    /// How much was admitted in it and is stored.
    pub position: u64,
}

/// What stands beside a root: whoever has the same root has everything of the sender's order up to this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceOf {
    /// The place.
    pub place: Place,
    /// The bits of the number of items in the sender's tree: of two that compare, the one with fewer begins.
    pub items_bits: u8,
    /// Whether the root that the receiver said last is the sender's own.
    pub is_equal: bool,
}

/// Opens a comparison: the sender's items in ranges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// The number of the comparison; see [`RangeKey`](crate::root::RangeKey).
    pub number: u64,
    /// Where the sender's order stands.
    pub place: Place,
    /// Fingerprints of [`RANGES`] ranges of equally many buckets; none where [`Items`] of all buckets follow.
    pub prints: Vec<[u8; 6]>,
}

/// The ranges of a comparison that differ, in parts of one bucket each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The number of the comparison.
    pub number: u64,
    /// The ranges, ascending, with the fingerprint of each of their buckets.
    pub ranges: Vec<(u8, [[u8; 6]; RANGE_BUCKETS])>,
}

/// An item in four bytes and a sequence number, 0 for a statement's signature: its short id and its short value, 0 where the
/// head is not stored yet.
pub type ShortItem = ([u8; 3], u8, u64);

/// The items of buckets that differ, in parts; the last one says so. A bucket may go on in the next part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items {
    /// The number of the comparison.
    pub number: u64,
    /// Buckets, ascending, with their items.
    pub buckets: Vec<(u16, Vec<ShortItem>)>,
    /// Whether this is the last part.
    pub is_last: bool,
}

/// Items that the sender does not know by their short ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The number of the comparison.
    pub number: u64,
    /// Buckets and short ids.
    pub ids: Vec<(u16, [u8; 3])>,
    /// Whether this is the last part.
    pub is_last: bool,
}

/// What the sender has and the receiver may lack, in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Logs with the greatest sequence number and a digest of the change there, so that two sides see where one forked.
    pub logs: Vec<(Actor, u64, u32)>,
    /// Statements with a digest of their signers.
    pub statements: Vec<(StatementId, u32)>,
    /// What the last part ends; none in the others.
    pub end: Option<End>,
}

/// What a [`Difference`] was the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The receiver's cursor: the difference is all that came since, up to the [`PlaceOf`] that the sender said in the greeting.
    Cursor,
    /// A comparison: with what is equal it is all that there is, up to this place.
    Comparison(u64, Place),
    /// A [`Request`] of the comparison with this number.
    Request(u64),
    /// A part of such a request that was not the last.
    Part,
    /// All statements, to who has no business with logs. Whether the receiver's own are wanted.
    Statements(bool),
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

/// How much payload may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Bytes of payload frames that the sender has handled in this session.
    pub received: u64,
    /// Bytes of payload frames that the receiver may have sent in this session.
    pub limit: u64,
}

/// A part of a frame. All parts together are the frame; other frames may stand between them, but no other's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Whether this is the last part.
    pub is_last: bool,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// First on each side.
    Hello(Hello),
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
    /// Where the sender's order stands.
    Place(PlaceOf),
    /// Opens a comparison.
    Ranges(Ranges),
    /// Ranges that differ.
    Parts(Parts),
    /// Items of buckets that differ.
    Items(Items),
    /// Items that the sender does not know.
    Request(Request),
    /// What the sender has.
    Difference(Difference),
    /// How much payload may come.
    Credit(Credit),
    /// A part of a frame.
    Fragment(Fragment),
    /// A message of the mesh's own, between members.
    Routed(RawBytes),
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
            Frame::Have(entries) => body(3, entries),
            Frame::Root(root) => body(6, root),
            Frame::Name(name) => body(7, name),
            Frame::Changes(changes) => body(CHANGES, changes),
            Frame::Probe(number) => body(9, number),
            Frame::ProbeAnswer(number) => body(10, number),
            Frame::Ask(ask) => body(11, ask),
            Frame::WantHash(hashes) => body(12, hashes),
            Frame::Credit(credit) => body(13, credit),
            Frame::Ranges(ranges) => body(14, ranges),
            Frame::Request(request) => body(15, request),
            Frame::Want(entries) => body(16, entries),
            Frame::Statement(statement) => body(STATEMENT, statement),
            Frame::HaveStatements(entries) => body(18, entries),
            Frame::Place(place) => body(19, place),
            Frame::Parts(parts) => body(20, parts),
            Frame::Items(items) => body(21, items),
            Frame::Difference(difference) => body(22, difference),
            Frame::Fragment(fragment) => body(FRAGMENT, fragment),
            Frame::Routed(message) => body(24, message),
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
            3 => Frame::Have(body(3, rest)?),
            6 => Frame::Root(body(6, rest)?),
            7 => Frame::Name(body(7, rest)?),
            CHANGES => Frame::Changes(body(CHANGES, rest)?),
            9 => Frame::Probe(body(9, rest)?),
            10 => Frame::ProbeAnswer(body(10, rest)?),
            11 => Frame::Ask(body(11, rest)?),
            12 => Frame::WantHash(body(12, rest)?),
            13 => Frame::Credit(body(13, rest)?),
            14 => Frame::Ranges(body(14, rest)?),
            15 => Frame::Request(body(15, rest)?),
            16 => Frame::Want(body(16, rest)?),
            STATEMENT => Frame::Statement(body(STATEMENT, rest)?),
            18 => Frame::HaveStatements(body(18, rest)?),
            19 => Frame::Place(body(19, rest)?),
            20 => Frame::Parts(body(20, rest)?),
            21 => Frame::Items(body(21, rest)?),
            22 => Frame::Difference(body(22, rest)?),
            FRAGMENT => Frame::Fragment(body(FRAGMENT, rest)?),
            24 => Frame::Routed(body(24, rest)?),
            _ => return Ok(None),
        };
        if frame.is_within_limits() { Ok(Some(frame)) } else { Err(FrameError::Body(*kind)) }
    }

    fn is_within_limits(&self) -> bool {
        match self {
            Frame::Hello(hello) => hello.chain.len() <= CHAIN_MAX && hello.scopes.len() <= CHAIN_MAX,
            Frame::Have(entries) | Frame::Want(entries) => entries.len() <= ENTRIES_MAX,
            Frame::HaveStatements(entries) => entries.len() <= ENTRIES_MAX,
            Frame::WantHash(hashes) => hashes.len() <= ENTRIES_MAX,
            Frame::Ranges(ranges) => matches!(ranges.prints.len(), 0 | RANGES),
            Frame::Parts(parts) => parts.ranges.is_sorted_by(|(one, _), (next, _)| one < next),
            Frame::Items(items) => items.is_within_limits(),
            Frame::Request(request) => {
                request.ids.len() <= ENTRIES_MAX && request.ids.is_sorted_by_key(|(bucket, _)| *bucket)
            }
            Frame::Difference(difference) => difference.logs.len() + difference.statements.len() <= ENTRIES_MAX,
            Frame::Ask(ask) => ask.named.len() <= ENTRIES_MAX && ask.origins.len() <= ORIGINS_MAX / 8,
            Frame::Routed(message) => message.0.len() <= ROUTED_BYTES_MAX,
            _ => true,
        }
    }

    /// The stream on which it travels.
    pub fn channel(&self) -> Channel {
        match self {
            Frame::Name(_) | Frame::Changes(_) | Frame::Fragment(_) => Channel::Data,
            // They may be long, and what is urgent does not wait for them.
            Frame::Ranges(_) | Frame::Parts(_) | Frame::Items(_) => Channel::Data,
            Frame::Request(_) | Frame::Difference(_) => Channel::Data,
            _ => Channel::Control,
        }
    }
}

impl Items {
    fn is_within_limits(&self) -> bool {
        let items: usize = self.buckets.iter().map(|(_, items)| items.len()).sum();
        let is_ascending = self.buckets.is_sorted_by(|(one, _), (next, _)| one < next);
        let in_range = self.buckets.last().is_none_or(|(last, _)| usize::from(*last) < BUCKETS);
        items <= ITEMS_MAX && is_ascending && in_range
    }
}

/// The number of the log in a `Changes` frame; none in another frame, or where it cannot be read.
pub(super) fn changes_number(bytes: &[u8]) -> Option<u32> {
    let (kind, body) = bytes.split_first()?;
    let number = postcard::take_from_bytes::<u32>(body).ok().filter(|_| *kind == CHANGES);
    number.map(|(number, _)| number)
}

/// Whether a frame carries something to be stored: a statement or changes, or a part of something. Such frames may be dropped by a node that
/// cannot store; [`Input::Dropped`](super::Input::Dropped) says so,
/// and [`Input::Resync`](super::Input::Resync) brings them again.
pub fn is_payload(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(&(STATEMENT | CHANGES | FRAGMENT)))
}

/// A frame in parts of at most `most` bytes each: itself, where it is no longer.
pub(super) fn cut(frame: Vec<u8>, most: usize) -> Vec<Vec<u8>> {
    /// The type, whether it is the last, and a length of at most three bytes.
    const HEAD: usize = 5;
    if frame.len() <= most {
        return vec![frame];
    }
    let parts = frame.chunks(most.saturating_sub(HEAD).max(1));
    let count = parts.len();
    let part = |(at, bytes): (usize, &[u8])| {
        Frame::Fragment(Fragment { is_last: at + 1 == count, bytes: bytes.to_vec() }).encode()
    };
    parts.enumerate().map(part).collect()
}

#[cfg(test)]
mod tests;
