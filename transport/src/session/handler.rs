//! One connection's protocols: negotiates streams and hands them on. It decides nothing and moves no payload.

use std::array;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};

/// Longest negotiation of one stream.
const NEGOTIATION: Duration = Duration::from_secs(5);
/// Most streams waiting for the swarm's task to take them. Further ones are reset.
const MAX_WAITING: usize = 16;

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Control,
    Data,
    Join,
    Bulk,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::Control, Self::Data, Self::Join, Self::Bulk];

    const fn name(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Control => "/fleetsync/control/1",
            Self::Data => "/fleetsync/data/1",
            Self::Join => "/fleetsync/join/1",
            Self::Bulk => "/fleetsync/bulk/1",
        })
    }
}

/// Accepts any of our protocols.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AnyProtocol;

impl UpgradeInfo for AnyProtocol {
    type Info = StreamProtocol;
    type InfoIter = array::IntoIter<StreamProtocol, 4>;

    fn protocol_info(&self) -> Self::InfoIter {
        Protocol::ALL.map(Protocol::name).into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyProtocol {
    type Output = (Option<Protocol>, Stream);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((Protocol::ALL.into_iter().find(|protocol| protocol.name() == name), stream)))
    }
}

impl UpgradeInfo for Protocol {
    type Info = StreamProtocol;
    type InfoIter = array::IntoIter<StreamProtocol, 1>;

    fn protocol_info(&self) -> Self::InfoIter {
        [self.name()].into_iter()
    }
}

impl OutboundUpgrade<Stream> for Protocol {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

/// An order to open a stream. `token` comes back with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) protocol: Protocol,
    pub(crate) token: u64,
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) enum Negotiated {
    Inbound(Protocol, Stream),
    Outbound(Open, Stream),
    Failed(Open, String),
}

/// The handler of one connection.
#[derive(Debug, Default)]
pub(crate) struct Handler {
    /// Bounded by the swarm's task: two for a session, and its limits of joins and bulk requests.
    orders: VecDeque<Open>,
    waiting: VecDeque<Negotiated>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Negotiated;
    type InboundProtocol = AnyProtocol;
    type OutboundProtocol = Protocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyProtocol> {
        SubstreamProtocol::new(AnyProtocol, ()).with_timeout(NEGOTIATION)
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Protocol, Open, Negotiated>> {
        // No waker is kept: both queues are only filled by calls after which the connection polls again.
        if let Some(negotiated) = self.waiting.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(negotiated));
        }
        if let Some(open) = self.orders.pop_front() {
            let protocol = SubstreamProtocol::new(open.protocol, open).with_timeout(NEGOTIATION);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.orders.push_back(open);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, AnyProtocol, Protocol, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (Some(protocol), stream),
                ..
            }) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back(Negotiated::Inbound(protocol, stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: open }) => {
                self.waiting.push_back(Negotiated::Outbound(open, stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: open, error }) => {
                let why = match error {
                    StreamUpgradeError::Timeout => "the peer did not answer in time".to_owned(),
                    StreamUpgradeError::NegotiationFailed => "the peer does not speak this protocol".to_owned(),
                    StreamUpgradeError::Io(error) => error.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.waiting.push_back(Negotiated::Failed(open, why));
            }
            _ => {}
        }
    }
}
