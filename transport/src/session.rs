//! The session protocols as a libp2p behaviour: opens streams on connections and reports those that came.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

pub(crate) mod detour;
pub(crate) mod duel;
pub(crate) mod frame;
pub(crate) mod handler;
pub(crate) mod handshake;
pub(crate) mod io;
pub(crate) mod outbox;

use crate::peer::PeerKey;
use handler::{Handler, Negotiated, Open};

/// A stream came, or an order to open one failed.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) connection: ConnectionId,
    pub(crate) negotiated: Negotiated,
}

/// A peer whose key is not ed25519 can't be named, and is refused.
#[derive(Debug, thiserror::Error)]
#[error("the peer's key is not ed25519")]
struct NotEd25519;

/// The behaviour. Its queue is bounded by what the swarm's task orders, and by one event a poll of the swarm.
#[derive(Default)]
pub(crate) struct Behaviour {
    out: VecDeque<ToSwarm<Streamed, Open>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Opens a stream on a connection.
    pub(crate) fn open(&mut self, peer_id: PeerId, connection: ConnectionId, open: Open) {
        self.out.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event: open });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Streamed;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        PeerKey::from_peer_id(&peer).ok_or_else(|| ConnectionDenied::new(NotEd25519))?;
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        PeerKey::from_peer_id(&peer).ok_or_else(|| ConnectionDenied::new(NotEd25519))?;
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, connection: ConnectionId, negotiated: THandlerOutEvent<Self>) {
        // The swarm polls its behaviour right after this.
        self.out.push_back(ToSwarm::GenerateEvent(Streamed { connection, negotiated }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Streamed, THandlerInEvent<Self>>> {
        if let Some(next) = self.out.pop_front() {
            return Poll::Ready(next);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
