//! The bulk plane: requests of members, each with a long answer, over raw QUIC on a port of its own (decision 018).
//!
//! A request is a few bytes and its answer a stream, on a connection to the peer that is opened when there is something to
//! ask and closes when there is nothing. The peer's certificate is the one of the mesh, so its key is proven; [`Admit`] is
//! asked at the handshake and at each request. Where UDP does not pass, [`Handle::ask_bulk`](crate::Handle::ask_bulk) has the
//! same over a stream of the libp2p connection. What requests mean is the owner's.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

mod congestion;
mod quic;
#[cfg(test)]
mod tests;

use crate::peer::PeerKey;
use crate::swarm::Admit;
use quic::Quic;

/// Longest request, bytes.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// Most requests that wait for the owner. Peers wait.
const MAX_ASKED: usize = 16;
/// Most addresses of a peer that are tried, all at once.
const MAX_TRIED: usize = 8;
/// Most connections; further ones are refused.
const MAX_CONNECTIONS: usize = 200;
/// Most handshakes of peers that come, and from how many on they have to show that their address is theirs.
const MAX_HANDSHAKES: usize = 64;
const HANDSHAKES_UNPROVEN: usize = 16;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// Longest time from the beginning of a request to its end, at the one that is asked.
const REQUEST: Duration = Duration::from_secs(10);

/// What closes a connection: of someone who is not admitted, one too many, at the end, and by order.
const NOT_ADMITTED: VarInt = VarInt::from_u32(1);
const TOO_MANY: VarInt = VarInt::from_u32(2);
const STOPPED: VarInt = VarInt::from_u32(3);
const CLOSED: VarInt = VarInt::from_u32(4);

/// Where the bulk plane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkListen {
    /// The local addresses, as those of the mesh. Empty: ask only.
    pub ips: Vec<IpAddr>,
    /// The UDP port; 0 picks one that is free.
    pub port: u16,
}

/// Why the bulk plane did not start. Nothing is left bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BulkError {
    /// Another socket has this port.
    #[error("UDP port {port} is in use")]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// An address can't be bound.
    #[error("can't listen on UDP {addr}: {cause}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// The certificate could not be made.
    #[error("no certificate: {0}")]
    Certificate(String),
}

/// Why a request brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// None of the addresses answered: UDP may not pass.
    #[error("the peer is not reached over UDP: {0}")]
    Unreachable(String),
    /// The connection broke, or the peer has closed it.
    #[error("the connection closed: {0}")]
    Closed(String),
    /// The request is above [`MAX_REQUEST_BYTES`].
    #[error("a request is at most {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// There is no session with the peer, or it takes no such stream.
    #[error("the peer takes no stream: {0}")]
    NoStream(String),
}

/// An answer as it comes; ends where the peer has ended it. Dropped, it is not wanted any more.
pub struct Answer(pub(crate) Pin<Box<dyn AsyncRead + Send>>);

impl AsyncRead for Answer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buffer)
    }
}

/// Where an answer goes; shut it down at its end.
pub struct AnswerWriter {
    to: Pin<Box<dyn AsyncWrite + Send>>,
    /// Whose statistics are those of the way, where it is known.
    connection: Option<Connection>,
}

impl AnswerWriter {
    /// Over whatever takes bytes.
    pub fn new(to: impl AsyncWrite + Send + 'static) -> AnswerWriter {
        AnswerWriter { to: Box::pin(to), connection: None }
    }

    /// Packets sent and packets lost on the way, where that is known.
    pub(crate) fn losses(&self) -> Option<(u64, u64)> {
        let path = self.connection.as_ref()?.stats().path;
        Some((path.sent_packets, path.lost_packets))
    }
}

impl AsyncWrite for AnswerWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.to.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.to.as_mut().poll_shutdown(cx)
    }
}

/// A request of an admitted peer.
pub struct Asked {
    /// Who asks.
    pub peer: PeerKey,
    /// What.
    pub request: Vec<u8>,
    /// Where the answer goes.
    pub answer: AnswerWriter,
}

/// The bulk plane; cheap to clone.
#[derive(Clone)]
pub struct Bulk(Arc<Shared>);

struct Shared {
    me: PeerKey,
    quic: Quic,
    admit: Admit,
    endpoints: Vec<Endpoint>,
    port: u16,
    connections: Mutex<BTreeMap<PeerKey, Connection>>,
    asked: mpsc::Sender<Asked>,
    handshakes: Arc<Semaphore>,
}

impl Bulk {
    /// Starts the bulk plane; requests of peers come out of the receiver. It must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`BulkError`].
    pub fn start(
        secret: [u8; 32],
        listen: &BulkListen,
        admit: Admit,
    ) -> Result<(Bulk, mpsc::Receiver<Asked>), BulkError> {
        let quic = Quic::new(secret)?;
        let sockets = bind(listen)?;
        let is_server = !listen.ips.is_empty();
        let port = sockets.first().and_then(|socket| socket.local_addr().ok()).map_or(0, |addr| addr.port());
        let endpoint = |socket: UdpSocket| {
            let addr = socket.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
            let server = is_server.then(|| quic.server());
            Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(quinn::TokioRuntime))
                .map_err(|cause| BulkError::Listen { addr, cause })
        };
        let endpoints = sockets.into_iter().map(endpoint).collect::<Result<Vec<Endpoint>, BulkError>>()?;
        let (asked, owner) = mpsc::channel(MAX_ASKED);
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let me = quic.key();
        let port = if is_server { port } else { 0 };
        let shared = Shared { me, quic, admit, endpoints, port, connections: Mutex::default(), asked, handshakes };
        let bulk = Bulk(Arc::new(shared));
        for endpoint in bulk.0.endpoints.iter().filter(|_| is_server).cloned() {
            tokio::spawn(bulk.clone().accept(endpoint));
        }
        Ok((bulk, owner))
    }

    /// The UDP port that is listened on; 0 where none is.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Where requests that come over libp2p streams go in.
    pub fn inlet(&self) -> mpsc::Sender<Asked> {
        self.0.asked.clone()
    }

    /// Asks a peer over the connection that is there, or a new one to the first of `at` that answers.
    ///
    /// # Errors
    /// See [`AskError`]; after [`AskError::Closed`] it is not known whether the peer got the request.
    pub async fn ask(&self, peer: PeerKey, at: &[SocketAddr], request: &[u8]) -> Result<Answer, AskError> {
        if request.len() > MAX_REQUEST_BYTES {
            return Err(AskError::TooLong);
        }
        let closed = |error: String| AskError::Closed(error);
        let connection = match self.held(&peer) {
            Some(connection) => connection,
            None => self.connect(peer, at).await?,
        };
        let (mut send, receive) = connection.open_bi().await.map_err(|error| closed(error.to_string()))?;
        send.write_all(request).await.map_err(|error| closed(error.to_string()))?;
        send.finish().map_err(|error| closed(error.to_string()))?;
        Ok(Answer(Box::pin(receive)))
    }

    /// Closes the connection with a peer, where there is one; the next request opens another.
    pub fn close(&self, peer: &PeerKey) {
        if let Some(connection) = self.connections().remove(peer) {
            connection.close(CLOSED, b"closed");
        }
    }

    /// Closes all connections, and waits until the peers know.
    pub async fn stop(&self) {
        for endpoint in &self.0.endpoints {
            endpoint.close(STOPPED, b"stopped");
        }
        let idle = futures::future::join_all(self.0.endpoints.iter().map(Endpoint::wait_idle));
        // Whoever does not answer finds out by itself.
        let _ = timeout(Duration::from_millis(200), idle).await;
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<PeerKey, Connection>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, peer: &PeerKey) -> Option<Connection> {
        self.connections().get(peer).filter(|held| held.close_reason().is_none()).cloned()
    }

    /// Dials all addresses at once.
    async fn connect(&self, peer: PeerKey, at: &[SocketAddr]) -> Result<Connection, AskError> {
        let unreachable = |errors: Vec<String>| AskError::Unreachable(errors.join("; "));
        if !(self.0.admit)(&peer) || peer == self.0.me {
            return Err(unreachable(vec!["it is not admitted".to_owned()]));
        }
        let mut dials: FuturesUnordered<_> = at.iter().take(MAX_TRIED).map(|addr| self.dial(peer, *addr)).collect();
        let mut errors = Vec::new();
        while let Some(dialled) = dials.next().await {
            match dialled {
                Ok(connection) => return Ok(self.keep(peer, connection)),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            errors.push("no address is known".to_owned());
        }
        Err(unreachable(errors))
    }

    async fn dial(&self, peer: PeerKey, addr: SocketAddr) -> Result<Connection, String> {
        let said = |error: String| format!("{addr}: {error}");
        let fits = |endpoint: &&Endpoint| {
            endpoint.local_addr().is_ok_and(|local| {
                local.is_ipv4() == addr.is_ipv4()
                    && (local.ip().is_unspecified() || local.ip().is_loopback() == addr.ip().is_loopback())
            })
        };
        let endpoint =
            self.0.endpoints.iter().find(fits).ok_or_else(|| said("no local address of that kind".to_owned()))?;
        let client = self.0.quic.client(peer).map_err(said)?;
        // The name means nothing: the key is in the certificate.
        let connecting = endpoint.connect_with(client, addr, "l").map_err(|error| said(error.to_string()))?;
        match timeout(HANDSHAKE, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(said(error.to_string())),
            Err(_) => Err(said("no answer".to_owned())),
        }
    }

    /// Takes a connection for the one with the peer, unless one is there already, and serves what the peer asks on it.
    fn keep(&self, peer: PeerKey, connection: Connection) -> Connection {
        let mut connections = self.connections();
        connections.retain(|_, held| held.close_reason().is_none());
        let kept = connections.entry(peer).or_insert_with(|| connection.clone()).clone();
        drop(connections);
        tokio::spawn(self.clone().serve(peer, connection));
        kept
    }

    async fn accept(self, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(turn) = Arc::clone(&self.0.handshakes).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let is_busy = MAX_HANDSHAKES - self.0.handshakes.available_permits() > HANDSHAKES_UNPROVEN;
            if is_busy && !incoming.remote_address_validated() {
                // An error means that it was validated meanwhile; it comes again.
                let _ = incoming.retry();
                continue;
            }
            let bulk = self.clone();
            tokio::spawn(async move {
                bulk.greet(incoming).await;
                drop(turn);
            });
        }
    }

    async fn greet(&self, incoming: Incoming) {
        let addr = incoming.remote_address();
        let connection = match timeout(HANDSHAKE, incoming).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%addr, %error, "a bulk connection failed"),
            Err(_) => return tracing::debug!(%addr, "a bulk connection did not finish its handshake"),
        };
        let Some(peer) = quic::peer_of(&connection).filter(|peer| (self.0.admit)(peer)) else {
            tracing::debug!(%addr, "a bulk connection of a peer that is not admitted");
            return connection.close(NOT_ADMITTED, b"not admitted");
        };
        if self.connections().len() >= MAX_CONNECTIONS {
            return connection.close(TOO_MANY, b"too many connections");
        }
        self.keep(peer, connection);
    }

    /// Takes requests until the connection ends, or until the peer is no longer admitted.
    async fn serve(self, peer: PeerKey, connection: Connection) {
        while let Ok((send, receive)) = connection.accept_bi().await {
            if !(self.0.admit)(&peer) {
                return connection.close(NOT_ADMITTED, b"not admitted");
            }
            let asked = self.0.asked.clone();
            tokio::spawn(take_request(peer, connection.clone(), receive, send, asked));
        }
        let mut connections = self.connections();
        if connections.get(&peer).is_some_and(|held| held.stable_id() == connection.stable_id()) {
            connections.remove(&peer);
        }
    }
}

/// Hands a request on once all of it is here; one that is late or too long is dropped.
async fn take_request(
    peer: PeerKey,
    connection: Connection,
    mut receive: quinn::RecvStream,
    mut send: quinn::SendStream,
    asked: mpsc::Sender<Asked>,
) {
    match timeout(REQUEST, receive.read_to_end(MAX_REQUEST_BYTES)).await {
        // An error means that the owner is gone.
        Ok(Ok(request)) => {
            let answer = AnswerWriter { to: Box::pin(send), connection: Some(connection) };
            drop(asked.send(Asked { peer, request, answer }).await);
        }
        // An error means that it is over anyway.
        _ => drop(send.reset(VarInt::from_u32(0))),
    }
}

/// A socket for each address; to ask only, one for each family that there is.
fn bind(listen: &BulkListen) -> Result<Vec<UdpSocket>, BulkError> {
    if listen.ips.is_empty() {
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        return Ok(any.into_iter().filter_map(|ip| quic::socket(ip, 0).ok()).collect());
    }
    let mut sockets: Vec<UdpSocket> = Vec::new();
    let mut port = listen.port;
    for ip in &listen.ips {
        match quic::socket(*ip, port) {
            Ok(socket) => {
                port = socket.local_addr().map_or(port, |addr| addr.port());
                sockets.push(socket);
            }
            // No IPv6 on this machine is no reason not to start.
            Err(error) if *ip == IpAddr::from(Ipv6Addr::UNSPECIFIED) && !sockets.is_empty() => {
                tracing::warn!(%error, "the bulk plane is not on IPv6");
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(BulkError::PortTaken { port }),
            Err(cause) => return Err(BulkError::Listen { addr: (*ip, port).into(), cause }),
        }
    }
    Ok(sockets)
}
