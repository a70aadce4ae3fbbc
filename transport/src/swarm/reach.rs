//! The swarm's side of how others reach this node (decision 021): what libp2p says goes into [`Reach`], and what that wants
//! is done; circuits are dialled where no direct address answers, and given up once a hole is punched, or none can be.

use std::time::Duration;

use libp2p::core::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::core::transport::ListenerId;
use libp2p::swarm::ConnectionId;
use libp2p::{identify, relay};

use super::{Task, plain};
use crate::event::Event;
use crate::peer::PeerKey;
use crate::reach::Effect;

/// Longest wait for a hole: DCUtR tries three times, each as long as a QUIC handshake may take.
pub(super) const PUNCHING: Duration = Duration::from_secs(20);
/// What a dial over a circuit ends with where no hole was punched.
pub(super) const NO_HOLE: &str = "no direct link through the address translation between the two: others forward";

impl Task {
    /// A peer says where it sees this node, and what it does for others.
    pub(super) fn identified(&mut self, peer: PeerKey, connection: ConnectionId, info: &identify::Info) {
        let now = self.started.elapsed();
        let Some(was_dialled) = self.links.is_telling(connection) else { return };
        let at = plain(&info.observed_addr);
        // The port of an outgoing TCP connection is a passing one.
        if at.ends_with("/quic-v1") {
            self.reach.seen(now, peer, &at, was_dialled);
            // A private address that is this machine's own leads to somebody else beyond a translator, who answers first.
            let leads_astray = self.listening.contains(&at) && is_private(&info.observed_addr);
            if !was_dialled && !leads_astray {
                self.swarm.behaviour_mut().candidate(&info.observed_addr);
            }
        }
        self.reach.relays(now, peer, info.protocols.contains(&relay::HOP_PROTOCOL_NAME));
        self.reach_out();
        self.notices.tell(Event::Observed { peer, addr: at });
    }

    /// Does what [`Reach`](crate::reach::Reach) wants.
    pub(super) fn reach_out(&mut self) {
        while let Some(effect) = self.reach.poll_effect() {
            match effect {
                Effect::Confirm(address) => self.confirmed(&address, true),
                Effect::Withdraw(address) => self.confirmed(&address, false),
                Effect::Reserve(relay) => self.reserve(relay),
                Effect::Release(relay) => {
                    if let Some(listener) = self.reservations.remove(&relay) {
                        self.swarm.remove_listener(listener);
                    }
                }
            }
        }
    }

    fn confirmed(&mut self, text: &str, is_reached: bool) {
        let Ok(address) = text.parse::<Multiaddr>() else { return };
        match is_reached {
            true => self.swarm.add_external_address(address),
            false => self.swarm.remove_external_address(&address),
        }
        if !self.listening.contains(text) {
            self.reachable(text.to_owned(), is_reached);
        }
    }

    /// Tells whether others reach this node at an address that is not this machine's.
    pub(super) fn reachable(&mut self, addr: String, is_so: bool) {
        if is_so && self.reachable.insert(addr.clone()) {
            self.notices.tell(Event::Reachable { addr });
        } else if !is_so && self.reachable.remove(&addr) {
            self.notices.tell(Event::NotReachable { addr });
        }
    }

    /// Asks a linked peer for a reservation.
    fn reserve(&mut self, relay: PeerKey) {
        let address = self.links.direct_addr(relay).and_then(|addr| addr.parse::<Multiaddr>().ok());
        let listened = address.map(|address| {
            let circuit = address.with(Part::P2p(relay.to_peer_id())).with(Part::P2pCircuit);
            self.swarm.listen_on(circuit)
        });
        match listened {
            Some(Ok(listener)) => {
                self.reservations.insert(relay, listener);
            }
            _ => self.reach.unreserved(self.started.elapsed(), relay),
        }
    }

    /// A relay holds a reservation.
    pub(super) fn reserved(&mut self, listener: ListenerId, circuit: &Multiaddr) {
        if let Some((relay, _)) = self.reservations.iter().find(|(_, of)| **of == listener) {
            self.reach.reserved(*relay);
        }
        self.reachable(plain(circuit), true);
    }

    /// A relay gave no reservation, or it ended.
    pub(super) fn unreserved(&mut self, listener: ListenerId) {
        let ended = self.reservations.extract_if(.., |_, of| *of == listener).next();
        if let Some((relay, _)) = ended {
            self.reach.unreserved(self.started.elapsed(), relay);
            self.reach_out();
        }
    }

    /// DCUtR punched a hole, or gave up.
    pub(super) fn punched(&mut self, event: libp2p_dcutr::Event) {
        let Some(peer) = PeerKey::from_peer_id(&event.remote_peer_id) else { return };
        match event.result {
            Ok(connection) => {
                if (self.admit)(&peer) && self.links.is_idle_outbound(connection) {
                    self.open_session(connection);
                }
                tracing::debug!(%peer, "a hole is punched");
            }
            Err(error) => tracing::debug!(%peer, %error, "no hole was punched"),
        }
        for circuit in self.links.idle_circuits(peer) {
            self.hang_up(circuit);
        }
    }
}

/// Whether an address means something on its own network, or machine, only (RFC 1918, RFC 4193, RFC 3927, RFC 4291).
fn is_private(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Part::Ip4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        Part::Ip6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_told_from_others() {
        let of = |text: &str| is_private(&text.parse().expect("an address"));
        for private in
            ["/ip4/192.168.0.2/udp/1/quic-v1", "/ip4/10.1.2.3/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1"]
        {
            assert!(of(private), "{private}");
        }
        for other in ["/ip4/192.0.2.7/udp/1/quic-v1", "/ip6/2001:db8::1/tcp/1", "/dns4/a.example/tcp/1"] {
            assert!(!of(other), "{other}");
        }
    }
}
