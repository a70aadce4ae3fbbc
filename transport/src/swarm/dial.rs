//! Dials and outbound joins.

use std::collections::BTreeMap;

use libp2p::core::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, Stream};
use tokio::sync::oneshot;

use super::link::Ready;
use super::{Internal, MAX_ADDRS, Task, is_circuit, plain};
use crate::event::Event;
use crate::join::{self, JoinError};
use crate::peer::PeerKey;
use crate::session::handler::{Open, Protocol};

/// Most joins of our own under way.
const MAX_JOINS: usize = 16;
/// Most dials waiting for an old connection to close. Further ones fail.
const MAX_REDIALS: usize = 256;
/// Longest line in a list of dial errors, characters.
const MAX_ERROR_CHARS: usize = 300;

/// What is wanted of a dial.
struct Wanted {
    addrs: Vec<String>,
    /// A session; otherwise only a join.
    session: bool,
}

/// A dial under way.
#[derive(Default)]
struct Dialing {
    /// Whether a session is wanted.
    session: bool,
    /// What is dialled now, and the connection that is to come of it.
    addrs: Vec<Multiaddr>,
    connection: Option<ConnectionId>,
    /// What is dialled where no direct address answers.
    circuits: Vec<Multiaddr>,
    errors: Vec<String>,
    /// There is a session that may be dead, on which so many bytes came before.
    renews: Option<u64>,
}

struct Join {
    peer: PeerKey,
    request: Vec<u8>,
    reply: oneshot::Sender<Result<Vec<u8>, JoinError>>,
    /// The connection that its stream is being opened on.
    on: Option<ConnectionId>,
}

/// Dials and joins under way.
#[derive(Default)]
pub(super) struct Dialer {
    /// The dials the swarm works on.
    dialing: BTreeMap<PeerKey, Dialing>,
    /// Dials that wait until an old connection with the peer has closed: libp2p ignores them before.
    redials: BTreeMap<PeerKey, Wanted>,
    joins: BTreeMap<u64, Join>,
    next_token: u64,
}

impl Dialer {
    pub(super) fn dialing(&self) -> Vec<PeerKey> {
        self.dialing.keys().chain(self.redials.keys()).copied().collect()
    }

    /// A connection we dialled is up: whether a session is wanted on it. `received`: bytes on the session that is there.
    pub(super) fn dialled(&mut self, peer: PeerKey, received: Option<u64>) -> bool {
        // Where nobody ordered it AutoNAT dials back, or a hole is punched, as DCUtR will say.
        let is_needed = |dialing: Dialing| dialing.session && (dialing.renews.is_none() || dialing.renews == received);
        self.dialing.remove(&peer).is_some_and(is_needed)
    }

    /// Nothing is wanted of the peer any more.
    pub(super) fn forget(&mut self, peer: PeerKey) {
        self.redials.remove(&peer);
    }
}

impl Task {
    pub(super) fn dial_for_session(&mut self, peer: PeerKey, addrs: Vec<String>) {
        if !(self.admit)(&peer) {
            return self.tell_failed(peer, vec!["the peer is not admitted here".to_owned()]);
        }
        self.dial(peer, Wanted { addrs, session: true });
    }

    fn dial(&mut self, peer: PeerKey, wanted: Wanted) {
        if wanted.session {
            match self.links.readiness(peer) {
                Ready::Session => return,
                Ready::Idle(connection) => return self.open_session(connection),
                Ready::Busy => return self.redial_later(peer, wanted),
                Ready::Nothing => {}
            }
        } else if self.links.any(peer) {
            return self.redial_later(peer, wanted);
        }
        if let Some(dialing) = self.dialer.dialing.get_mut(&peer) {
            dialing.session |= wanted.session;
            return;
        }
        let (addrs, mut errors) = parse(peer, &wanted.addrs);
        let (circuits, direct): (Vec<_>, Vec<_>) = addrs.into_iter().partition(is_circuit);
        if direct.is_empty() && circuits.is_empty() && errors.is_empty() {
            errors.push("no address to dial".to_owned());
        }
        self.dialer.dialing.insert(peer, Dialing { session: wanted.session, circuits, ..Dialing::default() });
        if direct.is_empty() { self.dial_failed(peer, errors) } else { self.dial_at(peer, direct) }
    }

    /// Dials beside a session of ours that may be dead: the judge takes the newer of two connections of one dialler.
    pub(super) fn renew(&mut self, peer: PeerKey, addrs: &[String]) {
        let Some(received) = self.links.received_on_own(peer) else { return };
        let (addrs, _) = parse(peer, addrs);
        let direct: Vec<_> = addrs.into_iter().filter(|addr| !is_circuit(addr)).collect();
        if direct.is_empty() || self.dialer.dialing.contains_key(&peer) {
            return;
        }
        tracing::debug!(%peer, "dialling beside a session that may be dead");
        let renewal = Dialing { session: true, renews: Some(received), ..Dialing::default() };
        self.dialer.dialing.insert(peer, renewal);
        self.dial_at(peer, direct);
    }

    fn dial_at(&mut self, peer: PeerKey, addrs: Vec<Multiaddr>) {
        let is_renewal = self.dialer.dialing.get(&peer).is_some_and(|dialing| dialing.renews.is_some());
        let condition = if is_renewal { PeerCondition::NotDialing } else { PeerCondition::DisconnectedAndNotDialing };
        let dial = DialOpts::peer_id(peer.to_peer_id()).condition(condition).addresses(addrs.clone()).build();
        if let Some(dialing) = self.dialer.dialing.get_mut(&peer) {
            (dialing.addrs, dialing.connection) = (addrs, Some(dial.connection_id()));
        }
        if let Err(error) = self.swarm.dial(dial) {
            self.dial_failed(peer, explain(&error));
        }
    }

    /// A dial came to nothing, if it is one that was ordered: AutoNAT and DCUtR have their own.
    pub(super) fn dial_ended(&mut self, peer: PeerKey, connection: ConnectionId, error: &DialError) {
        let dialing = self.dialer.dialing.get_mut(&peer);
        let Some(dialing) = dialing.filter(|dialing| dialing.connection == Some(connection)) else {
            return tracing::debug!(%peer, %error, "a dial failed that nobody here ordered");
        };
        // Somebody else has this address here, and answered before the others were tried to their end.
        if let DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } = error {
            let before = dialing.addrs.len();
            dialing.addrs.retain(|addr| plain(addr) != plain(address));
            if dialing.addrs.len() < before && !dialing.addrs.is_empty() {
                dialing.errors.extend(explain(error));
                let rest = std::mem::take(&mut dialing.addrs);
                return self.dial_at(peer, rest);
            }
        }
        self.dial_failed(peer, explain(error));
    }

    fn redial_later(&mut self, peer: PeerKey, mut wanted: Wanted) {
        if let Some(before) = self.dialer.redials.get(&peer) {
            wanted.session |= before.session;
        } else if self.dialer.redials.len() >= MAX_REDIALS {
            return self.tell_failed(peer, vec!["too many dials wait".to_owned()]);
        }
        self.dialer.redials.insert(peer, wanted);
    }

    /// The last connection with a peer has closed: what waited for it is dialled.
    pub(super) fn redial(&mut self, peer: PeerKey) {
        if let Some(wanted) = self.dialer.redials.remove(&peer)
            && self.stopping.is_none()
        {
            self.dial(peer, wanted);
        }
    }

    /// A dial failed. Its joins fail with it, unless a connection came from the other side.
    fn dial_failed(&mut self, peer: PeerKey, mut errors: Vec<String>) {
        let Dialing { session, circuits, errors: before, .. } = self.dialer.dialing.remove(&peer).unwrap_or_default();
        errors.splice(0..0, before);
        if !circuits.is_empty() && !self.links.any(peer) {
            self.dialer.dialing.insert(peer, Dialing { session, errors, ..Dialing::default() });
            return self.dial_at(peer, circuits);
        }
        if !self.links.any(peer) {
            let waiting = self.dialer.joins.extract_if(.., |_, join| join.peer == peer && join.on.is_none());
            for (_, join) in waiting.collect::<Vec<_>>() {
                let _ = join.reply.send(Err(JoinError::Unreachable(errors.clone())));
            }
        }
        if session && !self.links.session_coming(peer) {
            self.tell_failed(peer, errors);
        }
    }

    pub(super) fn tell_failed(&mut self, peer: PeerKey, errors: Vec<String>) {
        tracing::debug!(%peer, ?errors, "dial failed");
        self.notices.tell(Event::DialFailed { peer, errors });
    }

    pub(super) fn start_join(
        &mut self,
        peer: PeerKey,
        addrs: Vec<String>,
        request: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<u8>, JoinError>>,
    ) {
        if self.dialer.joins.len() >= MAX_JOINS {
            let _ = reply.send(Err(JoinError::Busy));
            return;
        }
        self.dialer.next_token += 1;
        let token = self.dialer.next_token;
        self.dialer.joins.insert(token, Join { peer, request, reply, on: None });
        match self.links.usable(peer) {
            Some(connection) => self.open_join(token, connection),
            None => self.dial(peer, Wanted { addrs, session: false }),
        }
    }

    fn open_join(&mut self, token: u64, connection: ConnectionId) {
        let Some(join) = self.dialer.joins.get_mut(&token) else { return };
        join.on = Some(connection);
        self.links.join_began(connection);
        self.swarm.behaviour_mut().session.open(
            join.peer.to_peer_id(),
            connection,
            Open { protocol: Protocol::Join, token },
        );
    }

    /// A connection with a peer is up: its waiting joins use it.
    pub(super) fn open_joins(&mut self, peer: PeerKey, connection: ConnectionId) {
        let waiting = self.dialer.joins.iter().filter(|(_, join)| join.peer == peer && join.on.is_none());
        for token in waiting.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.open_join(token, connection);
        }
    }

    pub(super) fn join_opened(&mut self, token: u64, connection: ConnectionId, mut stream: Stream) {
        let Some(join) = self.dialer.joins.remove(&token) else { return self.join_over(connection) };
        let internal = self.internal.clone();
        self.tasks.spawn(async move {
            let Join { request, mut reply, .. } = join;
            tokio::select! {
                answer = join::ask(&mut stream, &request) => { let _ = reply.send(answer); }
                // The owner's time is up.
                () = reply.closed() => {}
            }
            drop(stream);
            let _ = internal.send(Internal::JoinOver { connection }).await;
        });
    }

    pub(super) fn join_failed(&mut self, token: u64, connection: ConnectionId, why: String) {
        if let Some(join) = self.dialer.joins.remove(&token) {
            let _ = join.reply.send(Err(JoinError::Unsupported(why)));
        }
        self.join_over(connection);
    }

    /// A connection closed: the joins that were being opened on it fail.
    pub(super) fn joins_closed(&mut self, connection: ConnectionId, why: &str) {
        let broken = self.dialer.joins.extract_if(.., |_, join| join.on == Some(connection));
        for (_, join) in broken.collect::<Vec<_>>() {
            let _ = join.reply.send(Err(JoinError::Closed(why.to_owned())));
        }
    }

    /// Joins whose owner has stopped waiting make room.
    pub(super) fn sweep_joins(&mut self) {
        self.dialer.joins.retain(|_, join| join.on.is_some() || !join.reply.is_closed());
    }
}

/// The addresses that can be dialled, without `/p2p` suffix, and what is wrong with the others.
fn parse(peer: PeerKey, texts: &[String]) -> (Vec<Multiaddr>, Vec<String>) {
    let (mut addrs, mut errors) = (Vec::new(), Vec::new());
    for text in texts.iter().take(MAX_ADDRS) {
        match text.parse::<Multiaddr>() {
            Err(error) => errors.push(short(format!("{text}: {error}"))),
            Ok(mut addr) => {
                let other =
                    matches!(addr.iter().last(), Some(Part::P2p(id)) if PeerKey::from_peer_id(&id) != Some(peer));
                if other {
                    errors.push(short(format!("{text}: leads to another peer")));
                    continue;
                }
                if matches!(addr.iter().last(), Some(Part::P2p(_))) {
                    addr.pop();
                }
                addrs.push(addr);
            }
        }
    }
    (addrs, errors)
}

/// A dial error for people: one line an address, with the innermost cause.
fn explain(error: &DialError) -> Vec<String> {
    match error {
        DialError::Transport(errors) => errors
            .iter()
            .map(|(addr, error)| {
                let mut cause: &dyn std::error::Error = error;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                short(format!("{addr}: {cause}"))
            })
            .collect(),
        DialError::WrongPeerId { address, .. } => vec![short(format!("{address}: another peer answers there"))],
        DialError::LocalPeerId { .. } => vec!["that is ourselves".to_owned()],
        DialError::Denied { cause } => vec![short(format!("over a limit here: {cause}"))],
        other => vec![short(other.to_string())],
    }
}

fn short(text: String) -> String {
    text.chars().take(MAX_ERROR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted_into_good_and_bad() {
        let (peer, other) = (PeerKey([1; 32]), PeerKey([2; 32]));
        let texts = [
            "/ip4/10.0.0.1/tcp/1".to_owned(),
            format!("/ip4/10.0.0.1/udp/1/quic-v1/p2p/{}", peer.to_peer_id()),
            format!("/ip4/10.0.0.1/udp/1/quic-v1/p2p/{}", other.to_peer_id()),
            "10.0.0.1:1".to_owned(),
        ];
        let (addrs, errors) = parse(peer, &texts);
        let addrs: Vec<_> = addrs.iter().map(Multiaddr::to_string).collect();
        assert_eq!(addrs, ["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1"]);
        assert_eq!(errors.len(), 2);
        assert!(errors[0].ends_with("leads to another peer"), "{errors:?}");
    }

    #[test]
    fn a_session_on_which_something_came_meanwhile_is_not_renewed() {
        let peer = PeerKey([1; 32]);
        for (received, is_wanted) in [(Some(5), true), (Some(6), false), (None, false)] {
            let mut dialer = Dialer::default();
            let renewal = Dialing { session: true, renews: Some(5), ..Dialing::default() };
            dialer.dialing.insert(peer, renewal);
            assert_eq!(dialer.dialled(peer, received), is_wanted);
            assert!(dialer.dialing.is_empty());
        }
        let mut dialer = Dialer::default();
        assert!(!dialer.dialled(peer, None), "nobody ordered it");
        dialer.dialing.insert(peer, Dialing { session: true, ..Dialing::default() });
        assert!(dialer.dialled(peer, None));
    }

    #[test]
    fn only_so_many_addresses_are_used() {
        let texts = vec!["/ip4/10.0.0.1/tcp/1".to_owned(); MAX_ADDRS + 5];
        assert_eq!(parse(PeerKey([1; 32]), &texts).0.len(), MAX_ADDRS);
    }
}
