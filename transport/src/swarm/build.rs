//! The libp2p stack: transports, limits, sockets.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::core::multiaddr::{Multiaddr, Protocol};
use libp2p::core::upgrade::Version;
use libp2p::identity::{Keypair, PeerId};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{Config as SwarmConfig, NetworkBehaviour, Swarm};
use libp2p::{SwarmBuilder, connection_limits, dns, identify, mdns, noise, quic, relay, yamux};

use super::guard::{Guarded, HolePunching, Tester, Tests};
use super::{Admit, tcp};
use crate::config::{Config, Listen, StartError};
use crate::peer::PeerKey;
use crate::session;

/// Longest set-up of a connection, from dialling or accepting to multiplexed streams.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest QUIC handshake.
const QUIC_HANDSHAKE: Duration = Duration::from_secs(5);
/// A QUIC connection that is silent for this long is dead.
const QUIC_IDLE: Duration = Duration::from_secs(10);
/// A QUIC connection says something at least this often.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(3);
/// A connection without streams is closed after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Most streams a peer may have open on a connection. A session needs two, joins and identify a few for a moment.
const MAX_STREAMS: u32 = 64;
/// Most inbound streams of a connection in negotiation. Further ones wait.
const MAX_NEGOTIATING: usize = 16;
/// Most inbound and outbound connections being set up.
const MAX_PENDING_IN: u32 = 64;
const MAX_PENDING_OUT: u32 = 32;
/// Most connections with one peer: the held one, its duplicate at a simultaneous dial, a stale one, and a circuit.
const MAX_PER_PEER: u32 = 4;
/// Reservations that a relay holds, and circuits that it carries.
const MAX_RESERVATIONS: usize = 128;
const MAX_CIRCUITS: usize = 32;
/// What one circuit carries: a join, or the words that a hole takes. Bytes in each direction, and how long.
const MAX_CIRCUIT_BYTES: u64 = 256 * 1024;
const MAX_CIRCUIT: Duration = Duration::from_secs(60);
/// Longest wait for the port to be free after a shutdown.
const PORT_FREED: Duration = Duration::from_millis(100);
/// Tries to find a port that is free for UDP and for TCP.
const PORT_TRIES: usize = 32;

/// The behaviours of the swarm.
#[derive(NetworkBehaviour)]
pub(crate) struct Node {
    limits: connection_limits::Behaviour,
    pub(crate) session: session::Behaviour,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    /// Carries circuits for others.
    relay: Toggle<relay::Behaviour>,
    /// Circuits that lead here, and those dialled.
    circuits: relay::client::Behaviour,
    dcutr: Toggle<Guarded<HolePunching>>,
    tests: Toggle<Guarded<Tests>>,
    tester: Toggle<Guarded<Tester>>,
}

impl Node {
    /// An address at which others may reach this node: it is tried by those who dial back, and to punch holes.
    pub(crate) fn candidate(&mut self, address: &Multiaddr) {
        if let Some(dcutr) = self.dcutr.as_mut() {
            dcutr.candidate(address);
        }
        if let Some(tests) = self.tests.as_mut() {
            tests.candidate(address);
        }
    }
}

/// Builds the swarm and listens. Returns the port.
pub(crate) fn start(config: &Config, keypair: &Keypair, admit: &Admit) -> Result<(Swarm<Node>, u16), StartError> {
    let Listen { ips, port } = &config.listen;
    if ips.len() > Listen::MAX_IPS {
        return Err(StartError::TooManyAddresses);
    }
    let mut swarm = build(config, keypair, admit)?;
    if ips.is_empty() {
        return Ok((swarm, 0));
    }
    if *port != 0 {
        return listen(&mut swarm, ips, *port).map(|()| (swarm, *port));
    }
    for _ in 0..PORT_TRIES {
        let port = any_port(ips[0])?;
        match listen(&mut swarm, ips, port) {
            Ok(()) => return Ok((swarm, port)),
            Err(StartError::PortTaken { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StartError::NoPort)
}

fn build(config: &Config, keypair: &Keypair, admit: &Admit) -> Result<Swarm<Node>, StartError> {
    let transports = || {
        let builder = SwarmBuilder::with_existing_identity(keypair.clone()).with_tokio();
        let builder = builder.with_quic_config(|quic| quic_config(quic, config));
        let tcp = tcp::transport(keypair, MAX_STREAMS as usize)
            .map_err(|error| StartError::Stack(io::Error::other(error)))?;
        let Ok(builder) = builder.with_other_transport(|_| tcp);
        Ok(builder)
    };
    let node = |key: &Keypair, circuits| node(key, circuits, config, admit);
    let stack = |error: noise::Error| StartError::Stack(io::Error::other(error));
    match transports()?.with_dns() {
        Ok(builder) => {
            let builder = builder.with_relay_client(noise::Config::new, yamux::Config::default).map_err(stack)?;
            let Ok(builder) = builder.with_behaviour(node);
            Ok(builder.with_swarm_config(swarm_config).with_connection_timeout(CONNECTION_TIMEOUT).build())
        }
        Err(error) => {
            tracing::warn!(%error, "the system's name servers are not configured: only numeric addresses and hosts files work");
            let builder = transports()?.with_dns_config(dns::ResolverConfig::default(), dns::ResolverOpts::default());
            let builder = builder.with_relay_client(noise::Config::new, yamux::Config::default).map_err(stack)?;
            let Ok(builder) = builder.with_behaviour(node);
            Ok(builder.with_swarm_config(swarm_config).with_connection_timeout(CONNECTION_TIMEOUT).build())
        }
    }
}

fn quic_config(mut quic: quic::Config, config: &Config) -> quic::Config {
    quic.handshake_timeout = QUIC_HANDSHAKE;
    quic.max_idle_timeout = QUIC_IDLE.as_millis() as u32;
    quic.keep_alive_interval = QUIC_KEEP_ALIVE;
    quic.max_concurrent_stream_limit = MAX_STREAMS;
    quic.max_stream_data = config.stream_window_bytes;
    quic.max_connection_data = config.connection_window_bytes;
    quic
}

fn swarm_config(swarm: SwarmConfig) -> SwarmConfig {
    let swarm = swarm
        .with_smart_dial()
        .with_idle_connection_timeout(IDLE)
        .with_max_negotiating_inbound_streams(MAX_NEGOTIATING)
        .with_per_connection_event_buffer_size(16)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    match NonZeroUsize::new(32) {
        Some(buffer) => swarm.with_notify_handler_buffer_size(buffer),
        None => swarm,
    }
}

fn node(keypair: &Keypair, circuits: relay::client::Behaviour, config: &Config, admit: &Admit) -> Node {
    let reach = config.reaching();
    let all = config.connections_max;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_IN))
        .with_max_pending_outgoing(Some(MAX_PENDING_OUT))
        .with_max_established(Some(all))
        // A flood of strangers leaves room for the peers we dial.
        .with_max_established_incoming(Some(all - all / 4))
        .with_max_established_per_peer(Some(MAX_PER_PEER));
    // Only used to hear how others see us: it fills no address book, and tells no addresses of ours.
    let identify = identify::Config::new("/fleetsync/1".to_owned(), keypair.public())
        .with_agent_version(concat!("fleetsync/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    Node {
        limits: connection_limits::Behaviour::new(limits),
        session: session::Behaviour::default(),
        identify: identify::Behaviour::new(identify),
        mdns: config.mdns.then(|| multicast(keypair)).flatten().into(),
        relay: reach.relay.then(|| relay(keypair, admit)).into(),
        circuits,
        dcutr: reach.dcutr.then(|| Guarded::new(HolePunching::new(keypair.public().to_peer_id()), admit)).into(),
        tests: reach.autonat.then(|| Guarded::new(Tests::default(), admit)).into(),
        tester: reach.autonat.then(|| Guarded::new(Tester::default(), admit)).into(),
    }
}

/// It offers itself from the start, also before it is proven that others reach this node: libp2p would say so later, in an
/// identify push, which is lost where streams are negotiated lazily. Without a proven address its reservations are void.
fn relay(keypair: &Keypair, admit: &Admit) -> relay::Behaviour {
    let mut relay = relay::Behaviour::new(keypair.public().to_peer_id(), relay_config(admit));
    relay.set_status(Some(relay::Status::Enable));
    relay
}

/// Members may have circuits lead to them; over those anyone may ask to join. How often is libp2p's default.
fn relay_config(admit: &Admit) -> relay::Config {
    let mut config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_circuits: MAX_CIRCUITS,
        max_circuit_bytes: MAX_CIRCUIT_BYTES,
        max_circuit_duration: MAX_CIRCUIT,
        ..relay::Config::default()
    };
    let admit = admit.clone();
    let is_member = move |peer: PeerId, _: &Multiaddr, _| PeerKey::from_peer_id(&peer).is_some_and(|peer| admit(&peer));
    config.reservation_rate_limiters.insert(0, Box::new(is_member));
    config
}

fn multicast(keypair: &Keypair) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), keypair.public().to_peer_id())
        .inspect_err(|error| tracing::warn!(%error, "multicast DNS is off: its socket can't be opened"))
        .ok()
}

/// Listens on all addresses, or on none.
fn listen(swarm: &mut Swarm<Node>, ips: &[IpAddr], port: u16) -> Result<(), StartError> {
    let mut ips = ips.to_vec();
    let mut missing = None;
    // No IPv6 on this machine is no reason not to start; no address at all is.
    ips.retain(|ip| match probe(*ip, port) {
        Err(StartError::Listen { addr, cause }) if *ip == IpAddr::from([0u16; 8]) => {
            tracing::warn!(addr, cause, "not listening on IPv6");
            missing = Some(StartError::Listen { addr, cause });
            false
        }
        _ => true,
    });
    if let (true, Some(error)) = (ips.is_empty(), missing) {
        return Err(error);
    }
    ips.iter().try_for_each(|ip| probe(*ip, port))?;
    let mut listeners = Vec::new();
    // UDP first: its sockets are exclusive, so two processes that pick the same port can't both go on to TCP, whose
    // sockets libp2p shares (SO_REUSEPORT).
    let datagram = |ip: &IpAddr| Multiaddr::from(*ip).with(Protocol::Udp(port)).with(Protocol::QuicV1);
    let stream = |ip: &IpAddr| Multiaddr::from(*ip).with(Protocol::Tcp(port));
    for addr in ips.iter().map(datagram).chain(ips.iter().map(stream)) {
        match swarm.listen_on(addr.clone()) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                for listener in listeners {
                    swarm.remove_listener(listener);
                }
                return Err(if addr_in_use(&error) {
                    StartError::PortTaken { port }
                } else {
                    StartError::Listen { addr: addr.to_string(), cause: error.to_string() }
                });
            }
        }
    }
    Ok(())
}

/// Waits until the port is free again after the swarm is gone: quinn's own task closes the UDP socket a moment later, and
/// whoever has shut down may start again on the same port.
pub(super) async fn freed(ips: &[IpAddr], port: u16) {
    let free = async {
        while port != 0 && ips.iter().any(|ip| matches!(probe(*ip, port), Err(StartError::PortTaken { .. }))) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(PORT_FREED, free).await;
}

/// Whether both sockets can be bound. libp2p's own TCP sockets would silently share a port with another process.
fn probe(ip: IpAddr, port: u16) -> Result<(), StartError> {
    let addr = SocketAddr::new(ip, port);
    let bound = UdpSocket::bind(addr).map(drop).and_then(|()| TcpListener::bind(addr).map(drop));
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => StartError::PortTaken { port },
        _ => StartError::Listen { addr: addr.to_string(), cause: error.to_string() },
    })
}

fn any_port(ip: IpAddr) -> Result<u16, StartError> {
    let addr = SocketAddr::new(ip, 0);
    let bound = UdpSocket::bind(addr).and_then(|socket| socket.local_addr());
    bound
        .map(|addr| addr.port())
        .map_err(|error| StartError::Listen { addr: addr.to_string(), cause: error.to_string() })
}

/// Transports wrap the system's error several times.
fn addr_in_use(error: &(dyn Error + 'static)) -> bool {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        let inner = io.get_ref().map(|inner| inner as &(dyn Error + 'static));
        return io.kind() == io::ErrorKind::AddrInUse || inner.is_some_and(addr_in_use);
    }
    error.source().is_some_and(addr_in_use)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapped_address_in_use_is_found() {
        let system = io::Error::from(io::ErrorKind::AddrInUse);
        assert!(addr_in_use(&io::Error::other(io::Error::other(system))));
        assert!(!addr_in_use(&io::Error::other("something else")));
    }

    #[test]
    fn probing_sees_a_port_taken_on_either_protocol() {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
        for port in [udp.local_addr(), tcp.local_addr()].map(|addr| addr.expect("bound").port()) {
            let taken = probe(IpAddr::from([127, 0, 0, 1]), port);
            assert!(matches!(taken, Err(StartError::PortTaken { port: p }) if p == port));
        }
    }
}
