//! What the mesh tells its owner.

use std::fmt;

use crate::peer::PeerKey;

/// The two streams of a session. Each is ordered and reliable until the session is cut; they don't wait for one another
/// on the wire (over QUIC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Small and urgent: greetings, probes, requests, credit.
    Control,
    /// Bulk.
    Data,
}

/// A session's number, unique for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(
    /// Counts from 1.
    pub u64,
);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Something that happened. The channel is bounded: an owner that stops reading stops the streams, never the timers.
///
/// `SessionUp`, `SessionDown`, `Frame`, `Burst`, `Lossy`, `Writable` and `JoinRequest` are never dropped, and for one session arrive in this
/// order: one `SessionUp`, one `Writable` a stream, then frames and more `Writable`s, then one `SessionDown`. A peer's next
/// `SessionUp` comes after the `SessionDown` of its last session. The others may be dropped when the owner is slow; it then
/// gets a `Resync`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// We listen on this address, on an interface of this machine.
    Listening {
        /// A multiaddr without a `/p2p` suffix.
        addr: String,
    },
    /// An address we listened on is gone.
    NotListening {
        /// A multiaddr without a `/p2p` suffix.
        addr: String,
    },
    /// Peers reach us at an address that is not this machine's: it is a circuit's, or an address translation leads here.
    Reachable {
        /// A multiaddr without a `/p2p` suffix.
        addr: String,
    },
    /// They do no longer.
    NotReachable {
        /// A multiaddr without a `/p2p` suffix.
        addr: String,
    },
    /// A session with an admitted peer is ready in both directions.
    SessionUp {
        /// The new session.
        session: SessionId,
        /// The peer.
        peer: PeerKey,
        /// Whether we dialled.
        outbound: bool,
        /// The peer's multiaddr, without a `/p2p` suffix.
        addr: String,
    },
    /// A session is over. Frames not yet delivered to the peer's owner are lost.
    SessionDown {
        /// The session.
        session: SessionId,
        /// The peer.
        peer: PeerKey,
        /// Why.
        reason: DownReason,
    },
    /// A frame came.
    Frame {
        /// The session.
        session: SessionId,
        /// The stream it came on.
        stream: Stream,
        /// The frame, 1 to [`MAX_FRAME_BYTES`](crate::MAX_FRAME_BYTES).
        bytes: Vec<u8>,
    },
    /// More than 1 MiB came on the data stream without a pause. What follows can be asked of the peer over the bulk plane:
    /// [`Handle::take_over_bulk`](crate::Handle::take_over_bulk).
    Burst {
        /// The session.
        session: SessionId,
        /// The peer.
        peer: PeerKey,
    },
    /// Whether packets are lost, more than one in 500, where what is written on the data stream goes over the bulk plane.
    Lossy {
        /// The session.
        session: SessionId,
        /// Whether they are, of late. Comes when it changes; at first they are not.
        is_lossy: bool,
    },
    /// A stream takes more. Comes once after `SessionUp`, and after the queue had been more than half full (or had refused
    /// a frame) and has drained below half.
    Writable {
        /// The session.
        session: SessionId,
        /// The stream.
        stream: Stream,
        /// A frame of this many bytes will be taken. Several frames that add up to it may not all fit: each costs
        /// [`FRAME_OVERHEAD_BYTES`](crate::FRAME_OVERHEAD_BYTES) more.
        bytes: usize,
    },
    /// A peer asks to join. Answer with [`Handle::answer_join`](crate::Handle::answer_join) within 10 s of its asking.
    JoinRequest {
        /// The number to answer with.
        id: u64,
        /// Who asks: the key is proven, nothing else is.
        peer: PeerKey,
        /// The peer's multiaddr, without a `/p2p` suffix.
        addr: String,
        /// The request, at most [`MAX_JOIN_BYTES`](crate::MAX_JOIN_BYTES).
        bytes: Vec<u8>,
    },
    /// A dial came to no session. The dial is over; dial again when you want.
    DialFailed {
        /// The peer.
        peer: PeerKey,
        /// One line an address or a cause, for people.
        errors: Vec<String>,
    },
    /// Multicast DNS saw a peer on the local network. Nothing about it is proven.
    Discovered {
        /// The peer.
        peer: PeerKey,
        /// Its multiaddrs, without `/p2p` suffix, at most [`MAX_ADDRS`](crate::MAX_ADDRS).
        addrs: Vec<String>,
    },
    /// An admitted peer tells what our address looks like from there (libp2p identify). It can lie, and a TCP port may be a
    /// passing one: believe it when three peers agree.
    Observed {
        /// Who says so.
        peer: PeerKey,
        /// Our multiaddr as the peer sees it.
        addr: String,
    },
    /// Notifications were dropped because the owner was slow: ask [`Handle::snapshot`](crate::Handle::snapshot).
    Resync,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// We closed it ([`Handle::close`](crate::Handle::close)).
    #[error("closed by us")]
    Closed,
    /// The peer closed it in good order.
    #[error("closed by the peer")]
    ClosedByPeer,
    /// A newer connection with the same peer took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// The peer announced a frame above the limit. Nothing was allocated for it.
    #[error("the peer announced a frame of {announced_bytes} bytes, above the limit")]
    FrameTooLong {
        /// The announced length, bytes.
        announced_bytes: u64,
    },
    /// The peer sent what is no frame length.
    #[error("the peer sent a malformed frame length")]
    Malformed,
    /// The connection broke or fell silent.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The mesh is shutting down.
    #[error("shutting down")]
    Shutdown,
}
