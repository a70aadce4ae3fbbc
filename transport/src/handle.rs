//! The owner's side: orders to the mesh, frames into its sessions.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::bulk::{Answer, AnswerWriter, AskError, MAX_REQUEST_BYTES};
use crate::event::{SessionId, Stream};
use crate::join::{self, AnswerError, JOIN_TIMEOUT, JoinError, MAX_JOIN_BYTES};
use crate::peer::PeerKey;
use crate::session::io::{Lane, Session};
use crate::session::outbox::SendError;
use crate::swarm::bulk::Reply as BulkReply;

/// Most orders waiting for the swarm's task.
pub(crate) const MAX_COMMANDS: usize = 1024;

/// An order to the swarm's task.
pub(crate) enum Command {
    Dial { peer: PeerKey, addrs: Vec<String> },
    Renew { peer: PeerKey, addrs: Vec<String> },
    Close { peer: PeerKey },
    Join { peer: PeerKey, addrs: Vec<String>, request: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, JoinError>> },
    AskBulk { peer: PeerKey, request: Vec<u8>, reply: BulkReply },
    Snapshot { reply: oneshot::Sender<Snapshot> },
    Shutdown { reply: oneshot::Sender<()> },
}

/// Why an order was not taken. It has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// 1,024 orders already wait.
    #[error("too many orders wait")]
    Busy,
    /// The mesh is shut down.
    #[error("the mesh is shut down")]
    Stopped,
}

/// The state of the mesh at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The multiaddrs we listen on, without `/p2p` suffix.
    pub listening: Vec<String>,
    /// The sessions that are up, by number.
    pub sessions: Vec<SessionState>,
    /// The multiaddrs at which others have reached this node, proven by their dials or by AutoNAT.
    pub reachable: Vec<String>,
    /// The peers that hold a reservation for this node: circuits lead to it over them.
    pub relays: Vec<PeerKey>,
    /// The peers being dialled.
    pub dialing: Vec<PeerKey>,
    /// What multicast DNS last saw.
    pub discovered: Vec<(PeerKey, Vec<String>)>,
    /// Established connections, those without a session included.
    pub connections: usize,
}

/// One session at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionState {
    /// The session.
    pub session: SessionId,
    /// The peer.
    pub peer: PeerKey,
    /// The peer's multiaddr, without a `/p2p` suffix.
    pub addr: String,
    /// Whether we dialled.
    pub outbound: bool,
    /// When it came up.
    pub since: Instant,
    /// What went over the control stream.
    pub control: Traffic,
    /// What went over the data stream.
    pub data: Traffic,
}

/// Bytes moved on one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of frames received.
    pub bytes_in: u64,
    /// Bytes written, frame lengths included.
    pub bytes_out: u64,
}

impl Traffic {
    fn of(lane: &Lane) -> Self {
        Self { bytes_in: lane.bytes_in.load(Ordering::Relaxed), bytes_out: lane.bytes_out.load(Ordering::Relaxed) }
    }
}

/// The sessions that are up or coming up, shared with the swarm's task. At most one a peer, so bounded by the connections.
#[derive(Default)]
pub(crate) struct Sessions(RwLock<BTreeMap<SessionId, Arc<Session>>>);

impl Sessions {
    pub(crate) fn insert(&self, session: Arc<Session>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(session.id, session);
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The session with a peer that is not ending.
    fn with(&self, peer: PeerKey) -> Option<Arc<Session>> {
        let sessions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sessions.values().rev().find(|session| session.peer == peer && !session.is_ending()).cloned()
    }

    pub(crate) fn states(&self) -> Vec<SessionState> {
        let sessions = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let state = |session: &Arc<Session>| SessionState {
            session: session.id,
            peer: session.peer,
            addr: session.addr.clone(),
            outbound: session.outbound,
            since: session.since,
            control: Traffic::of(&session.control),
            data: Traffic::of(&session.data),
        };
        sessions.values().map(state).collect()
    }
}

/// The owner's handle. Cheap to clone. When the last one is dropped the mesh shuts down.
#[derive(Clone)]
pub struct Handle {
    pub(crate) me: PeerKey,
    pub(crate) port: u16,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) joins: Arc<join::Pending>,
}

impl Handle {
    /// Our own key.
    pub fn key(&self) -> PeerKey {
        self.me
    }

    /// The port we listen on, UDP and TCP; 0 if we don't listen.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Dials an admitted peer, unless it has a session or is being dialled. `addrs` are multiaddrs, with or without `/p2p`
    /// suffix; at most [`MAX_ADDRS`](crate::MAX_ADDRS) are used, QUIC ahead of TCP. Ends in `SessionUp` or `DialFailed`.
    ///
    /// # Errors
    /// The order was not taken.
    pub fn dial(&self, peer: PeerKey, addrs: Vec<String>) -> Result<(), OrderError> {
        self.order(Command::Dial { peer, addrs })
    }

    /// Dials a peer beside the session with it, if that is one that we dialled and that may be dead. If the dial comes up before
    /// anything comes on the session, the session ends as `Replaced` and a new one is up. Addresses as in [`Handle::dial`],
    /// but for circuits.
    ///
    /// # Errors
    /// The order was not taken.
    pub fn renew(&self, peer: PeerKey, addrs: Vec<String>) -> Result<(), OrderError> {
        self.order(Command::Renew { peer, addrs })
    }

    /// Closes what leads to a peer: its session (queued frames are flushed, 0.4 s at most), connections, dials.
    ///
    /// # Errors
    /// The order was not taken.
    pub fn close(&self, peer: PeerKey) -> Result<(), OrderError> {
        self.order(Command::Close { peer })
    }

    /// Queues a frame, never blocks. Frames of one stream arrive in order; a session's end loses a tail of them.
    ///
    /// # Errors
    /// The frame is dropped: the stream's queue is full, the session is over, or the frame is too long or empty.
    pub fn send(&self, session: SessionId, stream: Stream, frame: Vec<u8>) -> Result<(), SendError> {
        self.sessions.find(session).ok_or(SendError::Closed)?.lane(stream).outbox.push(frame)
    }

    /// Sends what follows on a session's data stream over the bulk plane, as its peer has asked with that token; frames keep
    /// their order. After a second without any the data stream is used again. Where the answer breaks, the session ends.
    ///
    /// # Errors
    /// There is no session.
    pub fn send_over_bulk(&self, peer: PeerKey, token: u64, answer: AnswerWriter) -> Result<(), SendError> {
        self.sessions.with(peer).ok_or(SendError::Closed)?.detour_out.put((token, answer));
        Ok(())
    }

    /// Takes what follows on a session's data stream from the answer to a request that has that token, once the peer says that
    /// it goes there.
    ///
    /// # Errors
    /// The session is over.
    pub fn take_over_bulk(&self, session: SessionId, token: u64, answer: Answer) -> Result<(), SendError> {
        self.sessions.find(session).ok_or(SendError::Closed)?.detour_in.put((token, answer));
        Ok(())
    }

    /// Asks a peer to let us join, over its connection or a new one to `addrs`: one request, one answer, each at most
    /// [`MAX_JOIN_BYTES`].
    ///
    /// # Errors
    /// No answer came; see [`JoinError`] for what that says about the request.
    pub async fn join(&self, peer: PeerKey, addrs: Vec<String>, request: Vec<u8>) -> Result<Vec<u8>, JoinError> {
        if request.len() > MAX_JOIN_BYTES {
            return Err(JoinError::TooLarge);
        }
        let (reply, answer) = oneshot::channel();
        let joined = async {
            let join = Command::Join { peer, addrs, request, reply };
            self.commands.send(join).await.map_err(|_| JoinError::Stopped)?;
            answer.await.map_err(|_| JoinError::Stopped)?
        };
        timeout(JOIN_TIMEOUT, joined).await.unwrap_or(Err(JoinError::Timeout))
    }

    /// Answers a `JoinRequest`; an empty answer is a refusal. At most [`MAX_JOIN_BYTES`].
    ///
    /// # Errors
    /// The answer was not taken.
    pub fn answer_join(&self, id: u64, answer: Vec<u8>) -> Result<(), AnswerError> {
        self.joins.answer(id, answer)
    }

    /// Asks a peer as [`Bulk::ask`](crate::bulk::Bulk::ask) does, over a stream of the connection that carries its session.
    ///
    /// # Errors
    /// See [`AskError`]; there must be a session.
    pub async fn ask_bulk(&self, peer: PeerKey, request: Vec<u8>) -> Result<Answer, AskError> {
        if request.len() > MAX_REQUEST_BYTES {
            return Err(AskError::TooLong);
        }
        let stopped = || AskError::NoStream("the mesh is shut down".to_owned());
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::AskBulk { peer, request, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The state of the mesh; empty when it is shut down.
    pub async fn snapshot(&self) -> Snapshot {
        let (reply, state) = oneshot::channel();
        if self.commands.send(Command::Snapshot { reply }).await.is_err() {
            return Snapshot::default();
        }
        state.await.unwrap_or_default()
    }

    /// Shuts the mesh down within 1 s: flushes and closes the sessions (0.4 s), then every connection and socket. Owners that
    /// still read events see `SessionDown`s, then the end of the channel.
    pub async fn shutdown(self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            // An error means that the task is gone, which is what was asked for.
            let _ = done.await;
        }
    }

    fn order(&self, command: Command) -> Result<(), OrderError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderError::Busy,
            mpsc::error::TrySendError::Closed(_) => OrderError::Stopped,
        })
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("me", &self.me).field("port", &self.port).finish_non_exhaustive()
    }
}
