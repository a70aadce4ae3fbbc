//! The TCP fallback: libp2p's transport, but each dial leaves from a port of its own.
//!
//! libp2p dials from the listening port. When two nodes then dial one another at once, their SYNs cross, the kernels make
//! one connection of both dials (RFC 9293, 3.5: simultaneous open), both ends take themselves for the dialler, and both
//! dials fail in the Noise handshake. Seen in most rounds of our test on one machine. QUIC keeps the listening port, whose
//! NAT mapping then serves both directions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::multiaddr::Multiaddr;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::core::{Endpoint, Transport};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise, tcp, yamux};

type Tcp = tcp::tokio::Transport;

/// Dials from new ports. A dial in the listener's role (hole punching) keeps the listening port: it needs it.
pub(super) struct OwnPorts(Tcp);

impl Transport for OwnPorts {
    type Output = <Tcp as Transport>::Output;
    type Error = io::Error;
    type ListenerUpgrade = <Tcp as Transport>::ListenerUpgrade;
    type Dial = <Tcp as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.0.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, mut opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if opts.role == Endpoint::Dialer {
            opts.port_use = PortUse::New;
        }
        self.0.dial(addr, opts)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// TCP, Noise, Yamux.
pub(super) fn transport(
    keypair: &Keypair,
    streams_max: usize,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(streams_max);
    let tcp = OwnPorts(Tcp::new(tcp::Config::default().nodelay(true)));
    let secure = tcp.upgrade(Version::V1Lazy).authenticate(noise::Config::new(keypair)?);
    Ok(secure.multiplex(multiplexer).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed())
}
