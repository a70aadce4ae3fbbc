//! What goes into an engine and what comes out of it.

use ed25519_dalek::SigningKey;

use super::frame::Channel;
use super::{Judged, LinkFrame};
use crate::change::PreparedChange;
use crate::id::{Actor, DeviceId, FleetId, Key, StatementId};
use crate::schema::{DocumentName, Value};
use crate::statement::{SignatureBytes, StatementParts};
use crate::store::{AuditRecord, Batch, Durability, StoreError};

/// A session with a peer, numbered by the driver, never twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names a batch until the store has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names a request of the driver until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// From whom a node would have the changes of an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parents {
    /// The origin: the device on which changes are made.
    pub origin: DeviceId,
    /// Neighbours, best first, none of whom has the changes over this node: the parent (the next hop back toward the
    /// origin), its backup, and at most one more. Empty where no way is known.
    pub sources: Vec<DeviceId>,
}

/// One edit of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// The dotted path.
    pub path: String,
    /// The value; none takes it away.
    pub value: Option<Value>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// Randomness, for jitter.
    Seed(u64),
    /// This node's wall clock, milliseconds since 1970: for claims and audit, never for decisions.
    WallClock(u64),
    /// A session came up.
    LinkUp {
        /// The session.
        link: LinkId,
        /// The peer's key, as the transport has proven it.
        peer: Key,
        /// Whether this node sought the peer. Who was not sought, and is no member that is known here, shows its
        /// certificate chain before it sees this node's.
        dialled: bool,
    },
    /// A session is gone.
    LinkDown(LinkId),
    /// The session takes that many bytes more on a stream, in addition to what it was said to take before.
    Writable {
        /// The session.
        link: LinkId,
        /// The stream.
        channel: Channel,
        /// Bytes.
        bytes: usize,
    },
    /// Whether the way of a session's data stream loses packets of late: what waits for repairs is no queue then.
    Lossy {
        /// The session.
        link: LinkId,
        /// Whether more than one packet in 500 is lost.
        is_lossy: bool,
    },
    /// A frame came.
    Frame {
        /// The session.
        link: LinkId,
        /// The stream on which it came.
        channel: Channel,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Frames came, on any links; they are taken in order.
    Frames {
        /// The frames.
        frames: Vec<LinkFrame>,
        /// What was judged of them since the last input, as far as it was; the result is the same with less of it.
        judged: Vec<Judged>,
    },
    /// The store has a batch, as durably as was asked.
    Persisted(Token),
    /// Time passed; see [`Engine::poll_timeout`](super::Engine::poll_timeout).
    Timer,
    /// A payload frame came, and there is no room on the disk for what it brings.
    Dropped {
        /// The session.
        link: LinkId,
        /// The stream on which it came.
        channel: Channel,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// Payload frames were dropped: what each peer has is compared with what is here.
    Resync,
    /// This node stops in good order. Its links are gone, and nothing but `Persisted` may follow: the batch that this makes
    /// lets peers go on where they stood once it is back.
    Stop,
    /// A link is to be measured: a probe goes out, and with it what is to be told.
    Probe(LinkId),
    /// A message of the mesh's own is to go to a peer. It is dropped where the peer has shown to be no member yet, and where
    /// [`ROUTED_WAITING_MAX`](super::ROUTED_WAITING_MAX) bytes wait for it already.
    Route {
        /// The session.
        link: LinkId,
        /// The message, at most [`ROUTED_BYTES_MAX`](super::frame::ROUTED_BYTES_MAX) bytes.
        message: Vec<u8>,
    },
    /// Over which neighbours the shortest paths from origins lead, as far as the mesh knows them.
    Parents(Vec<Parents>),
    /// This device writes a document of its own.
    Write {
        /// Answered by [`Reply::Written`], [`Reply::Unchanged`] or [`Reply::Refused`].
        request: RequestId,
        /// The document.
        document: DocumentName,
        /// What to change.
        edits: Vec<Edit>,
    },
    /// An operator wants a change to sign.
    Prepare {
        /// Answered by [`Reply::Prepared`], [`Reply::Unchanged`] or [`Reply::Refused`].
        request: RequestId,
        /// The document.
        document: DocumentName,
        /// The operator.
        author: Key,
        /// What to change.
        edits: Vec<Edit>,
    },
    /// An operator hands in a change with his signature.
    Submit {
        /// Answered by [`Reply::Written`], [`Reply::Conflict`], [`Reply::Ended`] or [`Reply::Refused`].
        request: RequestId,
        /// What was prepared.
        change: Box<PreparedChange>,
        /// The signature over it.
        signature: SignatureBytes,
    },
    /// Someone hands in statements, in an order in which each can be judged.
    Statements {
        /// Answered by [`Reply::Stored`] or [`Reply::Refused`].
        request: RequestId,
        /// The statements.
        statements: Vec<StatementParts>,
    },
}

impl Input {
    /// The request that it makes, where it is to be answered.
    pub(super) fn request(&self) -> Option<RequestId> {
        match self {
            Input::Write { request, .. }
            | Input::Prepare { request, .. }
            | Input::Submit { request, .. }
            | Input::Statements { request, .. } => Some(*request),
            _ => None,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Apply the batch before the next input; report `Persisted(token)` once it is as durable as asked, in order.
    Persist {
        /// The writes.
        batch: Batch,
        /// To be reported.
        token: Token,
        /// How durable.
        durability: Durability,
    },
    /// Send a frame.
    Send {
        /// The session.
        link: LinkId,
        /// The stream.
        channel: Channel,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// A probe came back.
    RoundTrip {
        /// The session.
        link: LinkId,
        /// What it took, microseconds.
        micros: u64,
    },
    /// A member sent a message of the mesh's own.
    Routed {
        /// The session.
        link: LinkId,
        /// The message.
        message: Vec<u8>,
    },
    /// Another link told of what this one was asked for and did not bring: it may be dead.
    Behind(LinkId),
    /// Close a session.
    Close {
        /// The session.
        link: LinkId,
        /// Why, for people.
        reason: String,
    },
    /// A request's answer.
    Reply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Documents or statements changed and are stored.
    Changed(Changed),
    /// Something was refused; it is in the audit table too.
    Audit(Box<AuditRecord>),
    /// This node has seen changes of its own that it did not have (its folder was restored or copied): from now on it
    /// writes under this incarnation, which the driver must keep over restarts before it applies the next batch.
    Incarnation(u64),
    /// The store failed; the driver should stop or open the engine again.
    Fault(StoreError),
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// A log grew.
    Log {
        /// The log.
        actor: Actor,
        /// Its sequence number now.
        seq: u64,
        /// The link that brought it; none for what was written here.
        source: Option<LinkId>,
    },
    /// A statement came.
    Statement(StatementId),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// The change is synced to disk and on its way.
    Written {
        /// Its log.
        actor: Actor,
        /// Its sequence number.
        seq: u64,
    },
    /// All values are as asked already; nothing was written.
    Unchanged,
    /// To be signed.
    Prepared(Box<PreparedChange>),
    /// Another change took the sequence number, this one, with its author's signature; prepare again.
    Conflict(Box<PreparedChange>, SignatureBytes),
    /// The change belongs to a log of this node that is never continued, as the node was restored since: it can never
    /// be taken; prepare again.
    Ended,
    /// The statements are synced to disk and on their way.
    Stored(Vec<StatementId>),
    /// Nothing was changed.
    Refused(String),
}

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The fleet.
    pub fleet: FleetId,
    /// This device's key.
    pub key: SigningKey,
    /// 64 random bits, kept on disk; see [`LogName`](crate::change::LogName).
    pub incarnation: u64,
    /// Randomness.
    pub seed: u64,
}
