//! The task that owns the swarm. It waits for no one: whatever could be slow is a task of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::multiaddr::{Multiaddr, Protocol as Part};
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Swarm, identify, mdns};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

mod build;
pub(crate) mod bulk;
mod dial;
mod guard;
mod link;
mod reach;
mod tcp;
#[cfg(test)]
mod tests;

use crate::config::{Config, StartError};
use crate::event::{DownReason, Event};
use crate::handle::{Command, Handle, MAX_COMMANDS, Sessions, Snapshot};
use crate::join;
use crate::peer::PeerKey;
use crate::rate::Rate;
use crate::reach::Reach;
use crate::session::duel::Boot;
use crate::session::handshake::{Ask, HandshakeError};
use build::{Node, NodeEvent};
use dial::Dialer;
use link::Links;

/// Asked for each connection, and again when a peer opens a session on it. Must answer at once: it runs in the swarm's task.
pub type Admit = Arc<dyn Fn(&PeerKey) -> bool + Send + Sync>;

/// Most events waiting for the owner. Sessions wait when it is full.
pub const EVENT_QUEUE: usize = 64;
/// Most addresses of one peer that are dialled or told.
pub const MAX_ADDRS: usize = 16;

/// Most notifications of the swarm's task that wait for room in the event queue. Beyond, they are dropped for a `Resync`.
const MAX_NOTICES: usize = 256;
/// Most messages from session tasks that wait for the swarm's task. The session tasks wait.
const MAX_INTERNAL: usize = 64;
/// Most peers remembered from multicast DNS. Further ones are told but not remembered.
const MAX_DISCOVERED: usize = 256;
/// Most refusals being told at once. Beyond, streams are reset without a word.
const MAX_REFUSALS: usize = 16;
/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Longest shutdown.
const SHUTDOWN: Duration = Duration::from_millis(800);

/// What the session tasks tell the swarm's task.
#[derive(Debug)]
pub(crate) enum Internal {
    /// What becomes of this connection?
    Ask(Ask),
    /// The owner has been told of the session.
    Up { connection: ConnectionId },
    /// A session or its handshake is over.
    Ended { connection: ConnectionId, failure: Option<HandshakeError> },
    /// A join's stream is done.
    JoinOver { connection: ConnectionId },
}

/// Starts the mesh: one task, which lives until [`Handle::shutdown`], until all handles are dropped, or until the receiver is.
///
/// # Errors
/// See [`StartError`]; nothing is left running.
pub fn spawn(config: Config, admit: Admit) -> Result<(Handle, mpsc::Receiver<Event>), StartError> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| StartError::NoRandomness)?;
    let (boot, epoch) = random.split_at(8);
    let boot: Boot = boot.try_into().expect("half of 16 bytes");
    let epoch: [u8; 8] = epoch.try_into().expect("half of 16 bytes");

    let keypair = Keypair::ed25519_from_bytes(&mut config.secret.clone()).expect("any 32 bytes are an ed25519 secret");
    let me = PeerKey::from_peer_id(&keypair.public().to_peer_id()).expect("the key pair is ed25519");
    let (swarm, port) = build::start(&config, &keypair, &admit)?;
    let (commands, orders) = mpsc::channel(MAX_COMMANDS);
    let (events, owner) = mpsc::channel(EVENT_QUEUE);
    let (internal, told) = mpsc::channel(MAX_INTERNAL);
    let (sessions, joins) = (Arc::new(Sessions::default()), Arc::new(join::Pending::default()));
    let handle = Handle { me, port, commands, sessions: sessions.clone(), joins: joins.clone() };
    let notices = Notices::start(events.clone(), &runtime);
    let task = Task {
        swarm,
        bound: (config.listen.ips, port),
        me,
        boot,
        admit,
        sessions,
        joins,
        events,
        notices,
        internal,
        tasks: JoinSet::new(),
        // Half of the numbers are left to count through.
        links: Links::new(u64::from_le_bytes(epoch) >> 1),
        dialer: Dialer::default(),
        rate: Rate::default(),
        bulk: bulk::BulkStreams::new(config.bulk),
        started: Instant::now(),
        refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
        listening: BTreeSet::new(),
        reachable: BTreeSet::new(),
        discovered: BTreeMap::new(),
        reach: Reach::default(),
        reservations: BTreeMap::new(),
        stopping: None,
    };
    runtime.spawn(task.run(orders, told));
    Ok((handle, owner))
}

/// The swarm's own notifications: queued without waiting, dropped for a `Resync` when the queue is full.
struct Notices {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicBool>,
}

impl Notices {
    fn start(events: mpsc::Sender<Event>, runtime: &tokio::runtime::Handle) -> Self {
        let (queue, mut waiting) = mpsc::channel(MAX_NOTICES);
        let dropped = Arc::new(AtomicBool::new(false));
        let seen = dropped.clone();
        // Ends when the swarm's task has dropped the queue and the owner has taken what is in it, or is gone.
        runtime.spawn(async move {
            while let Some(event) = waiting.recv().await {
                if event != Event::Resync && events.send(event).await.is_err() {
                    return;
                }
                if seen.swap(false, Ordering::AcqRel) && events.send(Event::Resync).await.is_err() {
                    return;
                }
            }
        });
        Self { queue, dropped }
    }

    fn tell(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.dropped.store(true, Ordering::Release);
            // Either this fits, or the queue is still full: in both cases the forwarder sees the flag.
            let _ = self.queue.try_send(Event::Resync);
        }
    }
}

struct Stopping {
    deadline: Instant,
    replies: Vec<oneshot::Sender<()>>,
}

struct Task {
    swarm: Swarm<Node>,
    /// What it listens on.
    bound: (Vec<IpAddr>, u16),
    me: PeerKey,
    boot: Boot,
    admit: Admit,
    sessions: Arc<Sessions>,
    joins: Arc<join::Pending>,
    events: mpsc::Sender<Event>,
    notices: Notices,
    internal: mpsc::Sender<Internal>,
    /// Session, join and refusal tasks; they end with the swarm's task.
    tasks: JoinSet<()>,
    links: Links,
    dialer: Dialer,
    rate: Rate,
    bulk: bulk::BulkStreams,
    started: Instant,
    refusals: Arc<Semaphore>,
    listening: BTreeSet<String>,
    /// Addresses that are not this machine's at which others reach this node.
    reachable: BTreeSet<String>,
    discovered: BTreeMap<PeerKey, Vec<String>>,
    reach: Reach,
    /// The listeners of circuits, by the relays that were asked.
    reservations: BTreeMap<PeerKey, ListenerId>,
    stopping: Option<Stopping>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>, mut told: mpsc::Receiver<Internal>) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let owner = self.events.clone();
        let mut orderable = true;
        loop {
            let deadline = self.stopping.as_ref().map(|stopping| stopping.deadline);
            if deadline.is_some() && self.links.is_empty() && self.tasks.is_empty() {
                break;
            }
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm(event),
                Some(message) = told.recv() => self.on_internal(message),
                order = orders.recv(), if orderable => match order {
                    Some(order) => self.on_command(order),
                    None => {
                        orderable = false;
                        self.stop(None);
                    }
                },
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a task of the mesh failed");
                    }
                }
                () = owner.closed(), if deadline.is_none() => self.stop(None),
                _ = sweep.tick() => self.sweep(),
                () = sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => break,
            }
        }
        self.tasks.shutdown().await;
        let replies = self.stopping.take().map(|stopping| stopping.replies).unwrap_or_default();
        // The sockets close with the swarm, before the owner hears that all is done.
        let (ips, port) = std::mem::take(&mut self.bound);
        drop(self);
        build::freed(&ips, port).await;
        for reply in replies {
            let _ = reply.send(());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            // Only another `shutdown` is heard now; dropping a question answers it.
            _ if self.stopping.is_some() && !matches!(command, Command::Shutdown { .. }) => {}
            Command::Dial { peer, addrs } => self.dial_for_session(peer, addrs),
            Command::Renew { peer, addrs } => self.renew(peer, &addrs),
            Command::Close { peer } => self.close_peer(peer, &DownReason::Closed),
            Command::Join { peer, addrs, request, reply } => self.start_join(peer, addrs, request, reply),
            Command::AskBulk { peer, request, reply } => self.ask_bulk(peer, request, reply),
            Command::Snapshot { reply } => {
                let _ = reply.send(self.snapshot());
            }
            Command::Shutdown { reply } => self.stop(Some(reply)),
        }
    }

    fn on_internal(&mut self, message: Internal) {
        match message {
            Internal::Ask(ask) => self.asked(ask),
            Internal::Up { connection } => self.up(connection),
            Internal::Ended { connection, failure } => self.ended(connection, failure),
            Internal::JoinOver { connection } => self.join_over(connection),
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<NodeEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                self.closed(connection_id, cause.map(|cause| cause.to_string()));
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer_id), connection_id, error } => {
                if let Some(peer) = PeerKey::from_peer_id(&peer_id) {
                    self.dial_ended(peer, connection_id, &error);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(addr = %send_back_addr, %error, "an incoming connection failed");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if is_circuit(&address) {
                    return self.reserved(listener_id, &address);
                }
                let addr = plain(&address);
                tracing::info!(addr, "listening");
                self.reach.listening(self.started.elapsed(), &addr);
                if self.listening.insert(addr.clone()) {
                    self.notices.tell(Event::Listening { addr });
                }
                self.reach_out();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.not_listening(&address),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                if let Err(error) = reason {
                    tracing::warn!(%error, "a listener closed");
                }
                self.unreserved(listener_id);
                addresses.iter().for_each(|address| self.not_listening(address));
            }
            SwarmEvent::Behaviour(NodeEvent::Session(streamed)) => self.streamed(streamed),
            SwarmEvent::Behaviour(NodeEvent::Dcutr(event)) => self.punched(event),
            SwarmEvent::Behaviour(NodeEvent::Tests(event)) => {
                let address = plain(&event.tested_addr);
                self.reach.tested(self.started.elapsed(), &address, event.result.is_ok());
                self.reach_out();
            }
            SwarmEvent::Behaviour(NodeEvent::Identify(identify::Event::Received { connection_id, peer_id, info })) => {
                if let Some(peer) = PeerKey::from_peer_id(&peer_id).filter(|peer| (self.admit)(peer)) {
                    self.identified(peer, connection_id, &info);
                }
            }
            SwarmEvent::Behaviour(NodeEvent::Mdns(mdns::Event::Discovered(found))) => self.found(found),
            _ => {}
        }
    }

    fn not_listening(&mut self, address: &Multiaddr) {
        let addr = plain(address);
        if is_circuit(address) {
            return self.reachable(addr, false);
        }
        self.reach.not_listening(self.started.elapsed(), &addr);
        self.reach_out();
        if self.listening.remove(&addr) {
            self.notices.tell(Event::NotListening { addr });
        }
    }

    fn found(&mut self, found: Vec<(libp2p::PeerId, Multiaddr)>) {
        let mut peers = BTreeMap::<PeerKey, Vec<String>>::new();
        for (peer_id, address) in found {
            let Some(peer) = PeerKey::from_peer_id(&peer_id) else { continue };
            let (addrs, addr) = (peers.entry(peer).or_default(), plain(&address));
            if addrs.len() < MAX_ADDRS && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        for (peer, addrs) in peers {
            if self.discovered.len() < MAX_DISCOVERED || self.discovered.contains_key(&peer) {
                self.discovered.insert(peer, addrs.clone());
            }
            self.notices.tell(Event::Discovered { peer, addrs });
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            listening: self.listening.iter().cloned().collect(),
            sessions: self.sessions.states(),
            reachable: self.reach.confirmed().cloned().collect(),
            relays: self.reach.held().collect(),
            dialing: self.dialer.dialing(),
            discovered: self.discovered.iter().map(|(peer, addrs)| (*peer, addrs.clone())).collect(),
            connections: self.links.len(),
        }
    }

    /// Begins to stop, or has another one wait for it.
    fn stop(&mut self, reply: Option<oneshot::Sender<()>>) {
        let first = self.stopping.is_none();
        let deadline = Instant::now() + SHUTDOWN;
        let stopping = self.stopping.get_or_insert_with(|| Stopping { deadline, replies: Vec::new() });
        stopping.replies.extend(reply);
        if first {
            for peer in self.links.peers() {
                self.close_peer(peer, &DownReason::Shutdown);
            }
        }
    }

    fn sweep(&mut self) {
        self.sweep_links();
        self.sweep_joins();
        self.reach.handle_timeout(self.started.elapsed());
        self.reach_out();
    }
}

/// A multiaddr as the owner sees it: without the `/p2p` suffix. The relay of a circuit stays.
fn plain(address: &Multiaddr) -> String {
    let mut address = address.clone();
    if matches!(address.iter().last(), Some(Part::P2p(_))) {
        address.pop();
    }
    address.to_string()
}

/// Whether an address leads over a relay.
fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Part::P2pCircuit)
}
