//! Behaviours of which strangers get nothing, and that believe nobody but this node about its addresses.
//!
//! libp2p's own let anyone ask for what they do: have this node dial addresses (AutoNAT v2), or send packets to them (DCUtR).
//! And identify, which names the addresses that are to be tried, takes it that a translator keeps the port (libp2p-identify
//! 0.48, `_address_translation`); where it does not, others have to be told where peers really see this node.

use std::task::{Context, Poll};

use either::Either;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::PeerId;
use libp2p::swarm::behaviour::NewExternalAddrCandidate;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    dummy,
};

use super::{Admit, is_circuit};
use crate::peer::PeerKey;

/// Punches holes at the end of circuits.
pub(crate) type HolePunching = libp2p_dcutr::Behaviour;
/// Has others dial back.
pub(crate) type Tests = libp2p_autonat::v2::client::Behaviour;
/// Dials back.
pub(crate) type Tester = libp2p_autonat::v2::server::Behaviour;

/// A behaviour that is kept from strangers on some connections.
pub(crate) trait Guard: NetworkBehaviour {
    /// What refuses all, for a stranger's connection to this address; `None` where a stranger gets what members get.
    fn refusing(local: &Multiaddr) -> Option<THandler<Self>>;
}

impl Guard for HolePunching {
    fn refusing(local: &Multiaddr) -> Option<THandler<Self>> {
        // It keeps account of the others.
        is_circuit(local).then_some(Either::Right(dummy::ConnectionHandler))
    }
}

impl Guard for Tests {
    fn refusing(_: &Multiaddr) -> Option<THandler<Self>> {
        // It answers nothing that it has not asked for.
        None
    }
}

impl Guard for Tester {
    fn refusing(_: &Multiaddr) -> Option<THandler<Self>> {
        Some(Either::Left(Either::Right(dummy::ConnectionHandler)))
    }
}

/// A behaviour for members.
pub(crate) struct Guarded<B> {
    inner: B,
    admit: Admit,
}

impl<B: Guard> Guarded<B> {
    pub(crate) fn new(inner: B, admit: &Admit) -> Self {
        Self { inner, admit: admit.clone() }
    }

    /// An address at which others may reach this node.
    pub(crate) fn candidate(&mut self, addr: &Multiaddr) {
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
    }
}

impl<B: Guard> NetworkBehaviour for Guarded<B> {
    type ConnectionHandler = B::ConnectionHandler;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let is_member = PeerKey::from_peer_id(&peer).is_some_and(|peer| (self.admit)(&peer));
        if let Some(refusing) = B::refusing(local).filter(|_| !is_member) {
            return Ok(refusing);
        }
        self.inner.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if !matches!(event, FromSwarm::NewExternalAddrCandidate(_)) {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}
