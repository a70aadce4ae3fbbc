//! QUIC as the bulk plane uses it: libp2p's certificates, BBR, windows for long fat links.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{ClientConfig, Connection, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};

use super::BulkError;
use crate::peer::PeerKey;

const ALPN: &[u8] = b"fleetsync-bulk/1";
/// A connection on which nothing happens closes after this long.
const IDLE_MS: u32 = 15_000;
/// Flow windows of a stream and of a connection, bytes: 16 MB hold a gigabit a second over 128 ms.
const STREAM_WINDOW: u32 = 4_000_000;
const CONNECTION_WINDOW: u32 = 16_000_000;
/// Most requests of a peer at once.
const MAX_STREAMS: u32 = 64;
/// Largest packet that is tried; what does not pass is not sent again.
const MTU_MAX: u16 = 9_000;

/// The identity, and how connections behave.
pub(super) struct Quic {
    keypair: Keypair,
    transport: Arc<TransportConfig>,
    server: ServerConfig,
}

impl Quic {
    pub(super) fn new(secret: [u8; 32]) -> Result<Quic, BulkError> {
        let failed = |error: String| BulkError::Certificate(error);
        let keypair = Keypair::ed25519_from_bytes(secret).map_err(|error| failed(error.to_string()))?;
        let mut tls = libp2p_tls::make_server_config(&keypair).map_err(|error| failed(error.to_string()))?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.key_log = Arc::new(quinn::rustls::NoKeyLog {});
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
        let transport = Arc::new(transport());
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::clone(&transport));
        Ok(Quic { keypair, transport, server })
    }

    pub(super) fn key(&self) -> PeerKey {
        PeerKey::from_peer_id(&self.keypair.public().to_peer_id()).expect("the key pair is ed25519")
    }

    pub(super) fn server(&self) -> ServerConfig {
        self.server.clone()
    }

    /// For a connection to this peer and no other.
    pub(super) fn client(&self, peer: PeerKey) -> Result<ClientConfig, String> {
        let tls = libp2p_tls::make_client_config(&self.keypair, Some(peer.to_peer_id()));
        let mut tls = tls.map_err(|error| error.to_string())?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.key_log = Arc::new(quinn::rustls::NoKeyLog {});
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::clone(&self.transport));
        Ok(client)
    }
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        // A loss says little of congestion where radio is part of the way.
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS).into()))
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .initial_rtt(Duration::from_millis(100));
    transport
}

/// Who is at the other end.
pub(super) fn peer_of(connection: &Connection) -> Option<PeerKey> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let peer: PeerId = libp2p_tls::certificate::parse(certificates.first()?).ok()?.peer_id();
    PeerKey::from_peer_id(&peer)
}

/// A socket on which IPv6 is IPv6 only, so that both families can have the same port.
pub(super) fn socket(ip: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let addr = SocketAddr::new(ip, port);
    let domain = if addr.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As large as the system lets it be: at a gigabit a second 2 MiB are 16 ms.
    let _ = socket.set_recv_buffer_size(2 << 20);
    let _ = socket.set_send_buffer_size(2 << 20);
    socket.bind(&addr.into())?;
    Ok(socket.into())
}
