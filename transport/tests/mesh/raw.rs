//! A plain libp2p peer that knows none of our manners: it opens whatever streams a test orders, says its piece on each, and
//! reads nothing until it is told to.

use std::collections::VecDeque;
use std::io;
use std::iter::{Once, once};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, OutboundUpgrade, UpgradeInfo, Version};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedOutbound};
use libp2p::swarm::*;
use libp2p::{PeerId, noise, tcp, yamux};
use tokio::sync::mpsc;
use transport::PeerKey;

/// Longer than any test: what is ordered stays ordered.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream to open, and what is said on it.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) protocol: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// What became of the peer's streams.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The streams that took what was said on them.
    pub(crate) opened: usize,
    /// The streams that ended before the other end had said anything.
    pub(crate) gone: usize,
    /// The streams on which the other end said something, with its first byte. They are kept open.
    pub(crate) told: Vec<(&'static str, u8, Stream)>,
    /// The connection is closed, with all that was ordered.
    pub(crate) is_closed: bool,
}

impl Tally {
    /// How many streams of a protocol were told this first.
    pub(crate) fn told(&self, protocol: &str, byte: u8) -> usize {
        self.told.iter().filter(|(of, first, _)| (*of, *first) == (protocol, byte)).count()
    }
}

enum Order {
    Open(Vec<Opening>),
    Read,
}

/// The peer. It has one connection, and ends when this is dropped.
pub(crate) struct Raw {
    pub(crate) tally: Arc<Mutex<Tally>>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Raw {
    /// Connects to a peer, with libp2p's own limits, which are above ours.
    pub(crate) async fn connect(secret: [u8; 32], peer: PeerKey, address: &str) -> Self {
        let keypair = Keypair::ed25519_from_bytes(secret).unwrap();
        let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_quic()
            .with_behaviour(|_| Behaviour::default())
            .unwrap()
            .with_swarm_config(|config| {
                // Says its piece without waiting for the other end's consent.
                config.with_substream_upgrade_protocol_override(Version::V1Lazy).with_idle_connection_timeout(PATIENCE)
            })
            .build();
        let public = libp2p::identity::ed25519::PublicKey::try_from_bytes(&peer.0).unwrap();
        let peer_id = libp2p::identity::PublicKey::from(public).to_peer_id();
        let address: Multiaddr = address.parse().unwrap();
        swarm.dial(DialOpts::peer_id(peer_id).addresses(vec![address]).build()).unwrap();
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        let (orders, ordered) = mpsc::unbounded_channel();
        let tally = Arc::new(Mutex::new(Tally::default()));
        tokio::spawn(run(swarm, peer_id, ordered, tally.clone()));
        Self { tally, orders }
    }

    /// Opens streams, all at once.
    pub(crate) fn open(&self, streams: Vec<Opening>) {
        self.orders.send(Order::Open(streams)).unwrap();
    }

    /// Reads a byte of each stream, of those too that open later.
    pub(crate) fn read(&self) {
        self.orders.send(Order::Read).unwrap();
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    peer: PeerId,
    mut orders: mpsc::UnboundedReceiver<Order>,
    tally: Arc<Mutex<Tally>>,
) {
    let (mut unread, mut is_reading) = (Vec::new(), false);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(Opened(protocol, Some(stream))) => {
                    tally.lock().unwrap().opened += 1;
                    unread.push((protocol, stream));
                }
                SwarmEvent::Behaviour(Opened(_, None)) => tally.lock().unwrap().gone += 1,
                SwarmEvent::ConnectionClosed { .. } => tally.lock().unwrap().is_closed = true,
                _ => {}
            },
            order = orders.recv() => match order {
                Some(Order::Open(streams)) => {
                    for stream in streams {
                        swarm.behaviour_mut().open(peer, stream);
                    }
                }
                Some(Order::Read) => is_reading = true,
                None => return,
            },
        }
        if is_reading {
            for (protocol, stream) in unread.drain(..) {
                tokio::spawn(hear(protocol, stream, tally.clone()));
            }
        }
    }
}

async fn hear(protocol: &'static str, mut stream: Stream, tally: Arc<Mutex<Tally>>) {
    let mut first = [0];
    let read = stream.read(&mut first).await;
    let mut tally = tally.lock().unwrap();
    match read {
        Ok(1) => tally.told.push((protocol, first[0], stream)),
        _ => tally.gone += 1,
    }
}

/// A stream is open, or came to nothing.
#[derive(Debug)]
struct Opened(&'static str, Option<Stream>);

#[derive(Default)]
struct Behaviour(VecDeque<ToSwarm<Opened, Opening>>);

impl Behaviour {
    fn open(&mut self, peer_id: PeerId, event: Opening) {
        self.0.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, opened: Opened) {
        self.0.push_back(ToSwarm::GenerateEvent(opened));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Opened, Opening>> {
        // No waker is kept: the queue is filled by the swarm, or between two polls of it.
        self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[derive(Default)]
struct Handler(VecDeque<ConnectionHandlerEvent<Opening, &'static str, Opened>>);

impl ConnectionHandler for Handler {
    type FromBehaviour = Opening;
    type ToBehaviour = Opened;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = Opening;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = &'static str;

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Opening, &'static str, Opened>> {
        self.0.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn on_behaviour_event(&mut self, opening: Opening) {
        let protocol = opening.protocol;
        let protocol = SubstreamProtocol::new(opening, protocol).with_timeout(PATIENCE);
        self.0.push_back(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, DeniedUpgrade, Opening, (), &'static str>) {
        let opened = match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                Opened(info, Some(stream))
            }
            ConnectionEvent::DialUpgradeError(error) => Opened(error.info, None),
            _ => return,
        };
        self.0.push_back(ConnectionHandlerEvent::NotifyBehaviour(opened));
    }
}

impl UpgradeInfo for Opening {
    type Info = &'static str;
    type InfoIter = Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        once(self.protocol)
    }
}

impl OutboundUpgrade<Stream> for Opening {
    type Output = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn upgrade_outbound(self, mut stream: Stream, _: &'static str) -> Self::Future {
        async move {
            stream.write_all(&self.bytes).await?;
            stream.flush().await?;
            Ok(stream)
        }
        .boxed()
    }
}
