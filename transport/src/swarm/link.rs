//! Connections and what becomes of them: a session, a join, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::{ConnectionId, Stream};
use tokio::sync::oneshot;

use super::reach::{NO_HOLE, PUNCHING};
use super::{Internal, Task, plain};
use crate::event::{DownReason, SessionId};
use crate::join;
use crate::peer::PeerKey;
use crate::session::Streamed;
use crate::session::duel::{Candidate, Held, Verdict, judge, obey};
use crate::session::handler::{Negotiated, Open, Protocol};
use crate::session::handshake::{self, Ask, Grant, HandshakeError, Hello, Opened};
use crate::session::io::{Run, Session};

/// How long a connection may be without a session: that of a peer that is not admitted, and any other.
const WITHOUT_SESSION: Duration = Duration::from_secs(30);
/// How long a connection stays that nobody here ordered: AutoNAT dials back on it, or it is a hole.
const NOT_ORDERED: Duration = Duration::from_secs(5);
/// How long a connection that a peer made to join stays after that: the peer closes it, or joins again.
const AFTER_JOIN: Duration = Duration::from_secs(2);
/// Most inbound connections of peers that are not admitted. Further ones are closed at once.
const MAX_STRANGERS: usize = 32;
/// How long a peer's connection waits for our own dial to come up.
const PARKED: Duration = Duration::from_millis(900);
/// Most peers whose last session's epoch is remembered. When it is full a new one is not, and a session that only the peer
/// lost is then replaced a QUIC idle timeout later.
const MAX_LOST: usize = 1024;

enum Phase {
    /// No session is wanted on it yet.
    Idle,
    /// Streams are being opened, or the handshake runs.
    Opening,
    /// It carries the session.
    Up(Arc<Session>),
    /// Its session is over, replaced by one that is not up yet.
    Stale,
    Closing,
}

struct Link {
    peer: PeerKey,
    peer_id: PeerId,
    /// We dialled. Where a hole was punched both ends did, and one of them has the listener's part.
    outbound: bool,
    /// Over a relay: it carries joins and what a hole takes, never a session.
    circuit: bool,
    /// The listener's part of a connection that both ends dialled: it proves nothing of who else can dial.
    punched: bool,
    /// Dialled from a passing port, as AutoNAT does: where the peer sees this node says nothing.
    passing: bool,
    /// A circuit that was dialled for a session: its failure is told.
    punching: bool,
    addr: String,
    order: u64,
    /// When it has to be a session, or go.
    expires: Instant,
    phase: Phase,
    /// Streams that wait for the other one.
    control: Option<Stream>,
    data: Option<Stream>,
    /// Both were there, and the handshake or the session on them is not over: there are no others.
    meets: bool,
    /// Joins on it.
    joins: usize,
    /// The handshake's question, when it waits for our own dial.
    parked: Option<Ask>,
    /// When it was first put.
    asked: Option<Instant>,
}

struct Current {
    connection: ConnectionId,
    held: Held,
    session: Arc<Session>,
    /// Closes when the session has told its end.
    done: oneshot::Receiver<()>,
    up: bool,
}

/// Whether a dial has anything to do.
pub(super) enum Ready {
    /// A session is there, or on its way on a connection of ours.
    Session,
    /// A connection of ours waits for a session to be wanted.
    Idle(ConnectionId),
    /// Something has to close first.
    Busy,
    Nothing,
}

/// All connections, bounded by the connection limits.
pub(super) struct Links {
    links: BTreeMap<ConnectionId, Link>,
    current: BTreeMap<PeerKey, Current>,
    /// The epoch of the last session with a judge that we saw end.
    lost: BTreeMap<PeerKey, u64>,
    epoch: u64,
    orders: u64,
    sessions: u64,
}

impl Links {
    pub(super) fn new(epoch: u64) -> Self {
        Self { links: BTreeMap::new(), current: BTreeMap::new(), lost: BTreeMap::new(), epoch, orders: 0, sessions: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn peers(&self) -> BTreeSet<PeerKey> {
        self.links.values().map(|link| link.peer).collect()
    }

    pub(super) fn any(&self, peer: PeerKey) -> bool {
        self.of(peer).next().is_some()
    }

    fn of(&self, peer: PeerKey) -> impl Iterator<Item = (ConnectionId, &Link)> {
        self.links.iter().filter(move |(_, link)| link.peer == peer).map(|(connection, link)| (*connection, link))
    }

    /// A connection that a join can use.
    pub(super) fn usable(&self, peer: PeerKey) -> Option<ConnectionId> {
        self.of(peer)
            .find(|(_, link)| !matches!(link.phase, Phase::Closing | Phase::Stale))
            .map(|(connection, _)| connection)
    }

    pub(super) fn join_began(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.joins += 1;
        }
    }

    pub(super) fn readiness(&self, peer: PeerKey) -> Ready {
        if self.has_session(peer) {
            return Ready::Session;
        }
        let mut ready = Ready::Nothing;
        for (connection, link) in self.of(peer) {
            match link.phase {
                // Its failure will be told.
                _ if link.punching => return Ready::Session,
                _ if link.circuit => ready = Ready::Busy,
                // Its failure will be told.
                Phase::Opening if link.outbound => return Ready::Session,
                Phase::Idle if link.outbound => return Ready::Idle(connection),
                _ => ready = Ready::Busy,
            }
        }
        ready
    }

    /// The connection that carries the session with a peer.
    pub(super) fn carrying(&self, peer: PeerKey) -> Option<ConnectionId> {
        self.current.get(&peer).map(|current| current.connection)
    }

    /// The peer whose session a connection carries.
    pub(super) fn carried(&self, connection: ConnectionId) -> Option<PeerKey> {
        let peer = self.links.get(&connection)?.peer;
        (self.carrying(peer) == Some(connection)).then_some(peer)
    }

    /// Bytes that came on the session with a peer, if we dialled that.
    pub(super) fn received_on_own(&self, peer: PeerKey) -> Option<u64> {
        let current = self.current.get(&peer).filter(|current| current.held.by_us)?;
        let lanes = [&current.session.control, &current.session.data];
        Some(lanes.iter().map(|lane| lane.bytes_in.load(Ordering::Relaxed)).sum())
    }

    fn has_session(&self, peer: PeerKey) -> bool {
        self.current.get(&peer).is_some_and(|current| !current.session.is_ending())
    }

    /// Whether a session is there, or a connection that may yet carry one.
    pub(super) fn session_coming(&self, peer: PeerKey) -> bool {
        self.has_session(peer) || self.of(peer).any(|(_, link)| matches!(link.phase, Phase::Opening))
    }

    /// Whether where the peer sees this node on a connection says something, and if so, whether the peer dialled that.
    pub(super) fn is_telling(&self, connection: ConnectionId) -> Option<bool> {
        let link = self.links.get(&connection).filter(|link| !link.circuit && !link.passing)?;
        Some(!link.outbound && !link.punched)
    }

    /// Where a peer was dialled, or came from, without a relay.
    pub(super) fn direct_addr(&self, peer: PeerKey) -> Option<String> {
        let direct = |(_, link): &(ConnectionId, &Link)| !link.circuit && !matches!(link.phase, Phase::Closing);
        self.of(peer).find(direct).map(|(_, link)| link.addr.clone())
    }

    /// Whether a connection of ours waits for what it is there for.
    pub(super) fn is_idle_outbound(&self, connection: ConnectionId) -> bool {
        self.links.get(&connection).is_some_and(|link| link.outbound && matches!(link.phase, Phase::Idle))
    }

    /// The circuits to and from a peer that carry no join.
    pub(super) fn idle_circuits(&self, peer: PeerKey) -> Vec<ConnectionId> {
        self.of(peer).filter(|(_, link)| link.circuit && link.joins == 0).map(|(connection, _)| connection).collect()
    }

    fn strangers(&self, admit: impl Fn(&PeerKey) -> bool) -> usize {
        self.links
            .values()
            .filter(|link| !link.outbound && matches!(link.phase, Phase::Idle) && !admit(&link.peer))
            .count()
    }

    /// Whether a connection that we dialled is about to carry the session.
    fn own_opening(&self, peer: PeerKey) -> bool {
        self.of(peer).any(|(_, link)| link.outbound && matches!(link.phase, Phase::Opening))
    }
}

impl Task {
    pub(super) fn connected(&mut self, peer_id: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(peer) = PeerKey::from_peer_id(&peer_id) else {
            self.swarm.close_connection(connection);
            return;
        };
        let outbound = matches!(endpoint, ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. });
        let (circuit, admitted) = (endpoint.is_relayed(), (self.admit)(&peer));
        let wanted = outbound && self.dialer.dialled(peer, self.links.received_on_own(peer));
        let punching = wanted && circuit && admitted;
        let stranger = !outbound && !admitted && self.links.strangers(&*self.admit) >= MAX_STRANGERS;
        let lasts = match (punching, endpoint.is_dialer() && !wanted) {
            (true, _) => PUNCHING,
            (_, true) => NOT_ORDERED,
            _ => WITHOUT_SESSION,
        };
        self.links.orders += 1;
        let link = Link {
            peer,
            peer_id,
            outbound,
            circuit,
            punched: endpoint.is_dialer() && !outbound,
            passing: matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::New, .. }),
            punching,
            addr: plain(endpoint.get_remote_address()),
            order: self.links.orders,
            expires: Instant::now() + lasts,
            phase: Phase::Idle,
            control: None,
            data: None,
            meets: false,
            joins: 0,
            parked: None,
            asked: None,
        };
        tracing::debug!(%peer, addr = link.addr, outbound, admitted, "connected");
        self.links.links.insert(connection, link);
        if stranger || self.stopping.is_some() {
            return self.hang_up(connection);
        }
        if wanted && admitted && !circuit {
            self.open_session(connection);
        }
        self.open_joins(peer, connection);
    }

    /// Opens both streams on a connection that we dialled.
    pub(super) fn open_session(&mut self, connection: ConnectionId) {
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        link.phase = Phase::Opening;
        link.expires = Instant::now() + WITHOUT_SESSION;
        for protocol in [Protocol::Control, Protocol::Data] {
            self.swarm.behaviour_mut().session.open(link.peer_id, connection, Open { protocol, token: 0 });
        }
    }

    pub(super) fn streamed(&mut self, Streamed { connection, negotiated }: Streamed) {
        match negotiated {
            Negotiated::Inbound(Protocol::Join, stream) => self.join_came(connection, stream),
            Negotiated::Outbound(Open { protocol: Protocol::Join, token }, stream) => {
                self.join_opened(token, connection, stream)
            }
            Negotiated::Failed(Open { protocol: Protocol::Join, token }, why) => {
                self.join_failed(token, connection, why)
            }
            Negotiated::Inbound(Protocol::Bulk, stream) => self.bulk_came(connection, stream),
            Negotiated::Outbound(Open { protocol: Protocol::Bulk, token }, stream) => self.bulk_opened(token, stream),
            Negotiated::Failed(Open { protocol: Protocol::Bulk, token }, why) => self.bulk_failed(token, why),
            Negotiated::Inbound(protocol, stream) => self.session_stream_came(connection, protocol, stream),
            Negotiated::Outbound(open, stream) => self.place(connection, open.protocol, stream),
            Negotiated::Failed(_, why) => self.ended(connection, Some(HandshakeError::Io(std::io::Error::other(why)))),
        }
    }

    fn session_stream_came(&mut self, connection: ConnectionId, protocol: Protocol, stream: Stream) {
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        // The dialler opens the streams, and only once: anything else is reset.
        if link.outbound || link.circuit || !matches!(link.phase, Phase::Idle | Phase::Opening) {
            return;
        }
        if !(self.admit)(&link.peer) {
            if protocol == Protocol::Control
                && let Ok(permit) = self.refusals.clone().try_acquire_owned()
            {
                tracing::debug!(peer = %link.peer, addr = link.addr, "a peer that is not admitted asks for a session");
                self.tasks.spawn(async move {
                    handshake::refuse(stream).await;
                    drop(permit);
                });
            }
            return;
        }
        if matches!(link.phase, Phase::Idle) {
            link.expires = Instant::now() + WITHOUT_SESSION;
        }
        link.phase = Phase::Opening;
        self.place(connection, protocol, stream);
    }

    /// Keeps a stream until both are there; then the handshake begins.
    fn place(&mut self, connection: ConnectionId, protocol: Protocol, stream: Stream) {
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        let place = if protocol == Protocol::Control { &mut link.control } else { &mut link.data };
        if !matches!(link.phase, Phase::Opening) || link.meets || place.is_some() {
            return;
        }
        *place = Some(stream);
        if link.control.is_none() || link.data.is_none() {
            return;
        }
        if let (Some(control), Some(data)) = (link.control.take(), link.data.take()) {
            link.meets = true;
            let ours = Hello { boot: self.boot, lost: self.links.lost.get(&link.peer).copied().unwrap_or(0) };
            let (dialler, judge) = (link.outbound, self.me < link.peer);
            let opened = Opened { connection, control, data, dialler, judge, ours };
            self.tasks.spawn(handshake::establish(opened, self.internal.clone()));
        }
    }

    /// A handshake asks what becomes of its connection. Dropping the question ends the handshake.
    pub(super) fn asked(&mut self, ask: Ask) {
        let Some(link) = self.links.links.get_mut(&ask.connection).filter(|link| matches!(link.phase, Phase::Opening))
        else {
            return;
        };
        let since = *link.asked.get_or_insert_with(Instant::now);
        let links = &self.links;
        let Some(link) = links.links.get(&ask.connection) else { return };
        let held = links.current.get(&link.peer).map(|current| &current.held);
        let Hello { boot, lost } = ask.theirs;
        let verdict = match ask.go {
            Some(epoch) => obey(held, boot, epoch, link.order),
            None => {
                let own_opening = since.elapsed() < PARKED && links.own_opening(link.peer);
                judge(held, own_opening, &Candidate { by_us: link.outbound, boot, lost, order: link.order })
            }
        };
        tracing::debug!(peer = %link.peer, addr = link.addr, outbound = link.outbound, ?held, ?verdict, "a connection asks for the session");
        match verdict {
            Verdict::Take => self.grant(ask),
            Verdict::Refuse => {
                let _ = ask.reply.send(None);
            }
            Verdict::Wait => {
                if let Some(link) = self.links.links.get_mut(&ask.connection) {
                    link.parked = Some(ask);
                }
            }
        }
    }

    fn grant(&mut self, ask: Ask) {
        let links = &mut self.links;
        let Some(link) = links.links.get_mut(&ask.connection) else { return };
        links.sessions += 1;
        let epoch = ask.go.unwrap_or_else(|| {
            links.epoch += 1;
            links.epoch
        });
        let session = Arc::new(Session::new(SessionId(links.sessions), link.peer, link.outbound, link.addr.clone()));
        link.phase = Phase::Up(session.clone());
        link.parked = None;
        let (alive, done) = oneshot::channel();
        let held = Held { by_us: link.outbound, boot: ask.theirs.boot, epoch, order: link.order };
        let current = Current { connection: ask.connection, held, session: session.clone(), done, up: false };
        let peer = link.peer;
        let after = links.current.insert(peer, current).map(|before| {
            before.session.end(DownReason::Replaced);
            before.done
        });
        self.sessions.insert(session.clone());
        self.dialer.forget(peer);
        let run = Run { session, events: self.events.clone(), after };
        // Fails when the handshake's time has run out; its end is told next, and undoes this.
        if let Err(Some(grant)) = ask.reply.send(Some(Grant { epoch, run, done: alive }))
            && let (Some(after), Some(current)) = (grant.run.after, self.links.current.get_mut(&peer))
        {
            current.done = after;
        }
    }

    /// The session on this connection is up: the others have lost.
    pub(super) fn up(&mut self, connection: ConnectionId) {
        let Some(peer) = self.links.links.get(&connection).map(|link| link.peer) else { return };
        if let Some(current) = self.links.current.get_mut(&peer).filter(|current| current.connection == connection) {
            current.up = true;
        }
        let stale = self.links.of(peer).filter(|(_, link)| matches!(link.phase, Phase::Stale));
        for connection in stale.map(|(connection, _)| connection).collect::<Vec<_>>() {
            self.hang_up(connection);
        }
        self.settle(peer);
    }

    /// A session or its handshake is over. May come after its connection has closed.
    pub(super) fn ended(&mut self, connection: ConnectionId, failure: Option<HandshakeError>) {
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        let (peer, outbound) = (link.peer, link.outbound);
        link.control = None;
        link.data = None;
        link.meets = false;
        link.parked = None;
        let phase = std::mem::replace(&mut link.phase, Phase::Idle);
        let idle = link.joins == 0;
        let closing = matches!(phase, Phase::Closing);
        let told = !matches!(phase, Phase::Opening | Phase::Up(_));
        if let Phase::Up(session) = phase {
            self.session_over(connection, &session);
        }
        let replaced_by =
            self.links.current.get(&peer).filter(|current| current.connection != connection && !current.up);
        if replaced_by.is_some() && !closing {
            if let Some(link) = self.links.links.get_mut(&connection) {
                link.phase = Phase::Stale;
            }
        } else if idle || closing || failure.is_none() {
            self.hang_up(connection);
        }
        if let Some(error) = failure.filter(|_| !told) {
            self.handshake_failed(peer, outbound, &error);
        }
        self.settle(peer);
    }

    fn handshake_failed(&mut self, peer: PeerKey, outbound: bool, error: &HandshakeError) {
        tracing::debug!(%peer, outbound, %error, "a connection came to no session");
        let other = self.links.session_coming(peer);
        if outbound && !other && !matches!(error, HandshakeError::Duplicate) {
            self.tell_failed(peer, vec![error.to_string()]);
        }
    }

    fn session_over(&mut self, connection: ConnectionId, session: &Session) {
        self.sessions.remove(session.id);
        let Some(current) = self.links.current.get(&session.peer).filter(|current| current.connection == connection)
        else {
            return;
        };
        let lost = &mut self.links.lost;
        if session.peer < self.me && (lost.len() < MAX_LOST || lost.contains_key(&session.peer)) {
            lost.insert(session.peer, current.held.epoch);
        }
        self.links.current.remove(&session.peer);
    }

    pub(super) fn closed(&mut self, connection: ConnectionId, cause: Option<String>) {
        let why = cause.unwrap_or_else(|| "the connection closed".to_owned());
        let Some(link) = self.links.links.remove(&connection) else { return };
        tracing::debug!(peer = %link.peer, addr = link.addr, why, "disconnected");
        match link.phase {
            Phase::Up(session) => {
                session.end(DownReason::Lost(why.clone()));
                self.session_over(connection, &session);
            }
            Phase::Opening => {
                let error = HandshakeError::Io(std::io::Error::other(why.clone()));
                self.handshake_failed(link.peer, link.outbound, &error);
            }
            Phase::Idle | Phase::Stale | Phase::Closing => {}
        }
        if link.punching && !self.links.session_coming(link.peer) {
            self.tell_failed(link.peer, vec![format!("{}: {NO_HOLE}", link.addr)]);
        }
        self.joins_closed(connection, &why);
        self.bulk_closed(connection, &why);
        if !self.links.any(link.peer) {
            self.reach.gone(self.started.elapsed(), link.peer);
            self.reach_out();
            self.redial(link.peer);
        }
        self.settle(link.peer);
    }

    /// Something changed for a peer: the handshakes that wait ask again.
    fn settle(&mut self, peer: PeerKey) {
        let links = self.links.links.iter_mut().filter(|(_, link)| link.peer == peer);
        for ask in links.filter_map(|(_, link)| link.parked.take()).collect::<Vec<_>>() {
            self.asked(ask);
        }
    }

    pub(super) fn hang_up(&mut self, connection: ConnectionId) {
        if let Some(link) = self.links.links.get_mut(&connection) {
            link.phase = Phase::Closing;
            link.parked = None;
        }
        self.swarm.close_connection(connection);
    }

    /// Closes all that leads to a peer; sessions get time for a good-bye.
    pub(super) fn close_peer(&mut self, peer: PeerKey, reason: &DownReason) {
        self.dialer.forget(peer);
        let links = self.links.of(peer).map(|(connection, _)| connection).collect::<Vec<_>>();
        if links.is_empty() {
            // Aborts a dial.
            let _ = self.swarm.disconnect_peer_id(peer.to_peer_id());
        }
        for connection in links {
            match self.links.links.get(&connection).map(|link| &link.phase) {
                Some(Phase::Up(session)) => session.end(reason.clone()),
                _ => self.hang_up(connection),
            }
        }
    }

    /// A peer asks to join. Over a limit it is refused, or, when there are too many refusals, reset.
    fn join_came(&mut self, connection: ConnectionId, stream: Stream) {
        let now = self.started.elapsed();
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        let (peer, addr) = (link.peer, link.addr.clone());
        let slot = self.joins.slots.clone().try_acquire_owned().ok();
        let slot = slot.filter(|_| self.rate.take(now, peer));
        let internal = self.internal.clone();
        let over = async move {
            let _ = internal.send(Internal::JoinOver { connection }).await;
        };
        if let Some(slot) = slot {
            link.joins += 1;
            let (joins, events) = (self.joins.clone(), self.events.clone());
            self.tasks.spawn(async move {
                join::serve(stream, peer, addr, &joins, &events).await;
                drop(slot);
                over.await;
            });
        } else if let Ok(permit) = self.refusals.clone().try_acquire_owned() {
            tracing::debug!(%peer, addr, "a join over the limits");
            link.joins += 1;
            self.tasks.spawn(async move {
                join::refuse(stream).await;
                drop(permit);
                over.await;
            });
        }
    }

    /// A join is over; a connection that was there for it is closed, by the asker: it knows whether it asks again.
    pub(super) fn join_over(&mut self, connection: ConnectionId) {
        let Some(link) = self.links.links.get_mut(&connection) else { return };
        link.joins = link.joins.saturating_sub(1);
        if link.joins > 0 || !matches!(link.phase, Phase::Idle) {
            return;
        }
        if link.outbound {
            self.hang_up(connection);
        } else {
            link.expires = link.expires.min(Instant::now() + AFTER_JOIN);
        }
    }

    pub(super) fn sweep_links(&mut self) {
        let now = Instant::now();
        let expired = |link: &Link| {
            matches!(link.phase, Phase::Idle | Phase::Opening | Phase::Stale) && link.joins == 0 && now > link.expires
        };
        let links = self.links.links.iter().filter(|(_, link)| expired(link));
        for connection in links.map(|(connection, _)| *connection).collect::<Vec<_>>() {
            self.hang_up(connection);
        }
        let parked = self.links.links.values().filter(|link| link.parked.is_some());
        for peer in parked.map(|link| link.peer).collect::<BTreeSet<_>>() {
            self.settle(peer);
        }
    }
}
