//! The agent: the one task that owns the engine. Everything else talks to it through [`Agent`].
//!
//! It applies the engine's batches before the next input, or keeps them behind where they need not be synced
//! ([`Writer`]), hands tokens that must be synced to a thread of its own, and moves frames between the engine and the
//! mesh. It never waits for a peer, a disk or a person.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use crdt::id::{DeviceId, FleetId, Key, Time};
use crdt::join::{JoinAnswer, JoinRefusal};
use crdt::roster::Standing;
use crdt::schema::Kind;
use crdt::store::AuditRecord;
use crdt::sync::{Changed, Config, Effect, Engine, Input, Reply, RequestId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::PeerKey;
use transport::bulk::Bulk;

use crate::blobs::BlobId;
use crate::clock::Clock;
use crate::folder::Folder;
use crate::judging;
use crate::store::{Applied, Store, WriteError, Writer};

mod addresses;
pub(crate) mod bulk;
mod busyness;
mod events;
mod forwarding;
mod handle;
mod joins;
pub(crate) mod link_document;
mod moves;
pub(crate) mod nat;
mod neighbours;
mod outbox;
mod presence;
mod pulse;
mod routing;
mod sessions;
mod setup;
mod storing;
mod syncer;
#[cfg(test)]
mod tests;

pub(crate) use addresses::{announced, source_towards};
pub(crate) use bulk::{BulkPort, Plane};
use events::Past;
pub(crate) use events::{NodeEvent, held_text};
pub(crate) use forwarding::{Answered, AskError, FACTS, Fact, Place, Question, Reply as AnswerOf};
use forwarding::{Forwarding, Read};
use handle::Command;
pub(crate) use handle::{Agent, Stopped};
pub(crate) use joins::{OFFLINE, Wishes};
pub(crate) use nat::Observed;
pub(crate) use neighbours::Neighbours;
pub(crate) use presence::Presence;
pub(crate) use pulse::Pulse;
use routing::Routing;
use sessions::Sessions;
pub(crate) use setup::{MeshSetup, Setup};
pub(crate) use storing::RESERVE_BYTES;
use syncer::{Syncer, Ticket};

/// Requests that wait for the agent.
const COMMANDS_MAX: usize = 1024;
/// Events that a slow watcher may lag behind.
const EVENTS_MAX: usize = 1024;
/// How often the free space is looked at, milliseconds.
const SPACE_CHECK_MS: u64 = 500;
/// Events of the mesh that are taken in a row before a request that waits has its turn.
const MESH_EVENTS_MAX: u32 = 64;

/// What the transport asks for each connection.
#[derive(Default)]
struct Gatekeeper {
    offline: AtomicBool,
    removed: RwLock<BTreeSet<Key>>,
    members: RwLock<BTreeSet<Key>>,
}

impl Gatekeeper {
    fn admits(&self, peer: &PeerKey) -> bool {
        let is_removed = self.removed.read().is_ok_and(|removed| removed.contains(&Key(peer.0)));
        !self.offline.load(Ordering::Relaxed) && !is_removed
    }

    /// Whether someone may ask on the bulk plane: only members, as far as is known here.
    fn admits_to_bulk(&self, peer: &PeerKey) -> bool {
        self.admits(peer) && self.members.read().is_ok_and(|members| members.contains(&Key(peer.0)))
    }
}

/// The state that the agent's task owns.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    store: Store,
    /// The store, as the engine sees it.
    writer: Writer,
    pub(crate) key: Key,
    pub(crate) fleet: FleetId,
    pub(crate) started: Instant,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) sessions: Sessions,
    pub(crate) neighbours: Neighbours,
    pub(crate) routing: Routing,
    pub(crate) forwarding: Forwarding,
    pub(crate) listening: BTreeSet<String>,
    /// Addresses that are not this machine's at which others reach this node: circuits, and what a translation leads here.
    pub(crate) reachable: BTreeSet<String>,
    /// Where peers see this node.
    pub(crate) observed: Observed,
    /// Why nothing is taken now, where that is so.
    pub(crate) full: Option<String>,
    config: Config,
    folder: Folder,
    pub(crate) mesh: transport::Handle,
    bulk: Bulk,
    /// Whether much that comes from a peer is asked for over the bulk plane.
    bulk_backfill: bool,
    announced_blobs: BTreeMap<BlobId, u64>,
    gatekeeper: Arc<Gatekeeper>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    joins: BTreeMap<RequestId, u64>,
    pub(crate) wishes: Wishes,
    next_request: u64,
    syncer: Syncer,
    events: broadcast::Sender<NodeEvent>,
    past: Past,
    restored: watch::Sender<u64>,
    space_check_at: Instant,
    group_sync_at: Option<Instant>,
    pulse: Option<Pulse>,
    /// Threads that judge changes.
    threads: usize,
    /// Why the node cannot go on, where that is so.
    failure: Option<Failed>,
}

/// How the agent's task ends.
pub(crate) type End = Result<(), Failed>;

/// Why a node does not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum StartError {
    #[error(transparent)]
    Mesh(#[from] transport::StartError),
    #[error("the bulk plane: {0}")]
    Bulk(#[from] transport::bulk::BulkError),
    #[error(transparent)]
    Replica(#[from] crdt::sync::OpenError),
}

/// Why a running node cannot go on; what was acknowledged is on the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Failed {
    #[error("the task of the mesh ended")]
    Mesh,
    #[error("the thread that syncs the store ended")]
    Syncer,
    #[error("the store cannot be read again after a write failed: {0}")]
    Replica(#[from] crdt::sync::OpenError),
}

/// What comes to the agent's task.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    mesh: mpsc::Receiver<transport::Event>,
    synced: mpsc::UnboundedReceiver<Result<Ticket, WriteError>>,
    read: mpsc::UnboundedReceiver<Read>,
}

/// Starts the agent's task. It ends when `stop` fires, or when the node cannot go on, having closed the mesh and synced
/// the store.
pub(crate) fn start(setup: Setup, stop: oneshot::Receiver<()>) -> Result<(Agent, Plane, JoinHandle<End>), StartError> {
    let (agent, plane, node, inbox) = open(setup)?;
    Ok((agent, plane, tokio::spawn(run(node, inbox, stop))))
}

fn open(setup: Setup) -> Result<(Agent, Plane, Node, Inbox), StartError> {
    let gatekeeper = Arc::new(Gatekeeper::default());
    gatekeeper.offline.store(setup.folder.is_offline(), Ordering::Relaxed);
    let config = Config {
        fleet: setup.fleet,
        key: setup.key.clone(),
        incarnation: setup.incarnation,
        seed: u64::from_be_bytes(crate::folder::random()),
    };
    let engine = Engine::open(config.clone(), &setup.store)?;
    for damaged in engine.replica().damaged() {
        let (document, seq) = (damaged.name().document, damaged.seq);
        tracing::error!(%document, seq, "the last change of a log is damaged on this disk; see: fleetsync doc verify {document}");
    }
    let (plane, mesh_events) = start_networks(&setup, &gatekeeper)?;
    let (mesh, bulk) = (plane.mesh.clone(), plane.bulk.clone());
    let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let (restored, restored_seen) = watch::channel(0);
    let (syncer, synced) = Syncer::start(setup.store.clone());
    let agent = Agent { commands: command_sender, restored: restored_seen, store: setup.store.clone() };
    let (now, threads) = (Instant::now(), judging::threads());
    let number = u64::from_be_bytes(crate::folder::random());
    let (forwarding, read) = Forwarding::new(setup.key.clone(), number, setup.mesh.relay_rate);
    let mut node = Node {
        engine,
        writer: Writer::start(setup.store.clone(), threads),
        store: setup.store,
        key: Key(setup.key.verifying_key().to_bytes()),
        fleet: setup.fleet,
        started: now,
        clock: setup.clock,
        sessions: Sessions::default(),
        neighbours: Neighbours::new(
            Key(setup.key.verifying_key().to_bytes()),
            u64::from_be_bytes(crate::folder::random()),
        ),
        routing: Routing::new(Key(setup.key.verifying_key().to_bytes()), setup.mesh.is_metered),
        forwarding,
        listening: BTreeSet::new(),
        reachable: BTreeSet::new(),
        observed: Observed::default(),
        full: None,
        config,
        folder: setup.folder,
        mesh,
        bulk,
        bulk_backfill: setup.mesh.bulk_backfill,
        announced_blobs: BTreeMap::new(),
        gatekeeper,
        waiting: BTreeMap::new(),
        joins: BTreeMap::new(),
        wishes: Wishes::default(),
        next_request: 1,
        syncer,
        events,
        past: Past::default(),
        restored,
        space_check_at: now,
        group_sync_at: None,
        pulse: setup.pulse,
        threads,
        failure: None,
    };
    node.note_seeds();
    node.read_link_documents();
    node.note_roster();
    node.environment_changed();
    Ok((agent, plane, node, Inbox { commands, mesh: mesh_events, synced, read }))
}

/// Starts the mesh and the bulk plane.
fn start_networks(
    setup: &Setup,
    gatekeeper: &Arc<Gatekeeper>,
) -> Result<(Plane, mpsc::Receiver<transport::Event>), StartError> {
    let mut config = transport::Config::new(setup.key.to_bytes(), setup.mesh.listen.clone());
    config.mdns = setup.mesh.mdns;
    config.reach = setup.mesh.reach;
    let (to_mesh, to_bulk) = (Arc::clone(gatekeeper), Arc::clone(gatekeeper));
    let admit_to_bulk: transport::Admit = Arc::new(move |peer: &PeerKey| to_bulk.admits_to_bulk(peer));
    let (bulk, asked) = bulk::start(setup.key.to_bytes(), &config.listen.ips, setup.mesh.bulk_port, &admit_to_bulk)?;
    bulk::keep_port(&setup.folder, bulk.port());
    config.bulk = Some(bulk.inlet());
    let (mesh, events) = transport::spawn(config, Arc::new(move |peer: &PeerKey| to_mesh.admits(peer)))?;
    Ok((Plane { bulk, mesh, asked }, events))
}

async fn run(mut node: Node, inbox: Inbox, mut stop: oneshot::Receiver<()>) -> End {
    let Inbox { mut commands, mut mesh, mut synced, mut read } = inbox;
    let mut mesh_events_in_a_row = 0;
    let applied = node.writer.wake();
    while node.failure.is_none() {
        if mesh.is_empty() {
            node.writer.begin();
        }
        let wake = node.next_wake();
        tokio::select! {
            biased;
            _ = &mut stop => break,
            result = synced.recv() => match result {
                Some(result) => node.synced(result),
                None => node.failure = Some(Failed::Syncer),
            },
            () = applied.notified() => node.applied(),
            event = mesh.recv() => match event {
                Some(event) => {
                    mesh_events_in_a_row += node.mesh_events(event, &mut mesh);
                }
                None => node.failure = Some(Failed::Mesh),
            },
            Some(command) = commands.recv() => {
                node.command(command);
                mesh_events_in_a_row = 0;
            }
            Some(read) = read.recv() => node.was_read(read),
            () = tokio::time::sleep_until(wake) => {}
        }
        if mesh_events_in_a_row >= MESH_EVENTS_MAX {
            mesh_events_in_a_row = 0;
            // An error means that nobody asks for anything.
            if let Ok(command) = commands.try_recv() {
                node.command(command);
            }
        }
        node.timers();
    }
    if node.failure.is_none() {
        node.input(Input::Stop);
    }
    node.settle();
    let Node { mesh, bulk, store, failure, .. } = node;
    tokio::join!(mesh.shutdown(), bulk.stop());
    if let Err(error) = store.sync() {
        tracing::error!(%error, "the store was not synced at the end");
    }
    store.close();
    failure.map_or(Ok(()), Err)
}

impl Node {
    pub(crate) fn now(&self) -> Time {
        self.clock.monotonic()
    }

    pub(crate) fn device(&self) -> DeviceId {
        self.engine.device()
    }

    /// Whether a device belongs to the fleet; whatever else holds a session has not shown so.
    pub(crate) fn is_member(&self, device: &DeviceId) -> bool {
        matches!(self.engine.replica().standing(device), Standing::Member | Standing::Contested)
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.gatekeeper.offline.load(Ordering::Relaxed)
    }

    /// Gives the engine an input and does what it asks for.
    fn input(&mut self, input: Input) {
        self.tell_time();
        let now = self.now();
        self.engine.handle(now, input, &self.writer);
        self.effects();
    }

    /// Tells the engine what the wall clock says.
    fn tell_time(&mut self) {
        let wall = Input::WallClock(self.clock.wall_ms());
        let now = self.now();
        self.engine.handle(now, wall, &self.writer);
    }

    fn effects(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { batch, token, durability } => {
                    match self.writer.persist(batch, Applied { token, durability }) {
                        Ok(applied) => applied.into_iter().for_each(|applied| self.persisted(applied)),
                        Err(error) => return self.lost_batch(&error),
                    }
                }
                Effect::Send { link, channel, bytes } => self.send(link, channel, bytes),
                Effect::RoundTrip { link, micros } => self.round_trip(link, micros),
                Effect::Routed { link, message } => self.routed(link, &message),
                Effect::Behind(link) => self.routing.behind(self.clock.monotonic(), link),
                Effect::Close { link, reason } => self.close_link(link, &reason),
                Effect::Reply { request, reply } => self.answer(request, reply),
                Effect::Changed(changed) => self.changed(changed),
                Effect::Audit(record) => self.audited(&record),
                Effect::Incarnation(incarnation) => self.keep_incarnation(incarnation),
                Effect::Fault(error) => {
                    tracing::error!(%error, "the store cannot be read");
                    self.emit(NodeEvent::fault(&error));
                }
                _ => {}
            }
        }
    }

    /// The folder was restored or copied: what is written from now on goes to new logs, also after a restart.
    fn keep_incarnation(&mut self, incarnation: u64) {
        tracing::warn!("peers have changes of this node that it had not: it goes on under a new incarnation");
        self.config.incarnation = incarnation;
        self.note_restored();
        let kept = self.folder.node().and_then(|node| {
            let incarnation = crdt::id::hex(&incarnation.to_be_bytes());
            self.folder.write_node(&crate::folder::NodeFile { incarnation, ..node })
        });
        if let Err(error) = kept {
            tracing::error!(%error, "the new incarnation was not kept");
        }
    }

    fn answer(&mut self, request: RequestId, reply: Reply) {
        if let Some(join) = self.joins.remove(&request) {
            let answer = match reply {
                Reply::Stored(_) => JoinAnswer::Welcome,
                Reply::Refused(reason) => JoinAnswer::Refused(JoinRefusal::Invalid(reason)),
                _ => return,
            };
            return self.answer_join(join, &answer);
        }
        if let Some(waiting) = self.waiting.remove(&request) {
            // An error means that the asker is gone.
            let _ = waiting.send(reply);
        } else if let Reply::Refused(reason) = reply {
            tracing::warn!(%reason, "an own write was refused");
        }
    }

    fn request_id(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    fn command(&mut self, command: Command) {
        self.settle();
        match command {
            Command::Look(look) => look(self),
            Command::Ask(to, question, answer) => self.ask(to, &question, answer),
            Command::AnnounceBlobs(blobs) => self.announce_blobs(blobs),
            // An error of these two means that the asker is gone.
            Command::SetOffline(offline, reply) => {
                let _ = reply.send(self.set_offline(offline));
            }
            Command::AddAddresses(peer, addresses, reply) => {
                let _ = reply.send(self.add_seeds(peer, &addresses));
            }
            Command::Request(make, reply) => match &self.full {
                Some(reason) => {
                    let refused = Reply::Refused(format!("this node takes no writes now: {reason}"));
                    let _ = reply.send(refused);
                }
                None => {
                    let request = self.request_id();
                    self.waiting.insert(request, reply);
                    self.input(make(request));
                }
            },
        }
    }

    fn set_offline(&mut self, offline: bool) -> Result<(), String> {
        self.folder.set_offline(offline).map_err(|error| error.to_string())?;
        self.gatekeeper.offline.store(offline, Ordering::Relaxed);
        self.emit(NodeEvent::offline(offline));
        if offline {
            for link in self.sessions.links() {
                self.close_link(link, "this node goes offline");
            }
        } else {
            self.neighbours.try_all_now(self.now());
        }
        Ok(())
    }

    fn changed(&mut self, changed: Changed) {
        match changed {
            Changed::Log { actor, seq, source } => {
                let Some(log) = self.engine.replica().logs().get(&actor).map(|log| log.name()) else { return };
                let (document, incarnation) = (log.document, log.incarnation);
                if document.kind() == Kind::Link {
                    self.read_link_document(&document);
                    if let Some((device, link)) = document.device().zip(source) {
                        self.link_document_came(device, link);
                    }
                }
                let is_own = document.device() == Some(self.device());
                if is_own {
                    self.readings_changed(document.kind());
                }
                if is_own && incarnation != self.config.incarnation {
                    self.note_restored();
                }
                self.emit(NodeEvent::change(&document, &actor, seq));
            }
            Changed::Statement(id) => {
                self.note_roster();
                let entry = self.engine.replica().roster().entries().get(&id);
                let event = entry.map(|entry| NodeEvent::statement(&id, entry.signed.statement()));
                event.into_iter().for_each(|event| self.emit(event));
            }
            _ => {}
        }
    }

    /// What this device says of itself may be what it said under another incarnation: it is compared with what is so now.
    fn note_restored(&mut self) {
        self.restored.send_modify(|times| *times += 1);
        self.neighbours.addresses_changed(self.now());
    }

    fn audited(&mut self, record: &AuditRecord) {
        tracing::warn!(reason = %record.reason, document = ?record.document, seq = record.seq, "refused");
        self.emit(NodeEvent::audit(record));
    }

    /// What follows from the statements: who is kept out, whom to look for.
    fn note_roster(&mut self) {
        let roster = self.engine.replica().roster();
        let mut removed = BTreeSet::new();
        let zone_of = |device: &DeviceId| roster.zone_of(device).unwrap_or_default();
        let mut members = BTreeMap::new();
        for device in roster.devices() {
            match (roster.standing(&device), roster.key_of(&device)) {
                (Standing::Removed, Some(key)) => {
                    removed.insert(key);
                }
                (Standing::Member | Standing::Contested, Some(key)) if key != self.key => {
                    members.insert(key, zone_of(&device));
                }
                _ => {}
            }
        }
        if let Ok(mut known) = self.gatekeeper.members.write() {
            *known = members.keys().copied().collect();
        }
        removed.iter().for_each(|key| self.bulk.close(&PeerKey(key.0)));
        let up = self.sessions.iter().map(|(_, session)| session.peer).collect();
        let own_zone = zone_of(&self.device());
        self.neighbours.set_members(self.now(), own_zone, members, &removed, &up);
        self.roster_changed();
        if let Ok(mut known) = self.gatekeeper.removed.write() {
            *known = removed;
        }
    }

    fn read_link_documents(&mut self) {
        let documents: Vec<_> = self.engine.replica().logs().documents().into_keys().collect();
        for document in documents.iter().filter(|document| document.kind() == Kind::Link) {
            self.read_link_document(document);
        }
    }

    fn next_wake(&self) -> Instant {
        let start = self.started;
        let at = |time: Time| start + Duration::from_micros(time.0);
        let engine = self.engine.poll_timeout().map(at);
        let mesh = (!self.is_offline()).then(|| self.neighbours.poll_timeout().map(at)).flatten();
        let report = self.neighbours.report_timeout().map(at);
        let routing = self.routing.poll_timeout().map(at);
        let forwarding = self.forwarding.poll_timeout().map(at);
        let pulse = self.pulse.as_ref().map(Pulse::next);
        [engine, mesh, report, routing, forwarding, pulse, self.group_sync_at, Some(self.space_check_at)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.space_check_at)
    }

    fn timers(&mut self) {
        let now = self.now();
        while self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.input(Input::Timer);
            if self.engine.poll_timeout().is_some_and(|at| at > Time(0)) {
                break;
            }
        }
        if self.group_sync_at.is_some_and(|at| at <= Instant::now()) {
            self.group_sync_at = None;
            self.syncer.sync_group();
        }
        if self.space_check_at <= Instant::now() {
            self.space_check_at = Instant::now() + Duration::from_millis(SPACE_CHECK_MS);
            self.check_space();
        }
        self.routing_timers();
        self.forwarding_timers();
        self.dial_due();
        self.report_links();
        self.beat();
    }
}
