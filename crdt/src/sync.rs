//! The sync engine: decides what goes to whom, as a pure state machine.
//!
//! `handle(now, input, store)` takes what happened, `poll_effect()` gives what is to be done, `poll_timeout()` says
//! when to call [`Engine::handle`] with [`Input::Timer`]. Reads go through the [`LogStore`] and are bounded; writes
//! leave as [`Effect::Persist`] and come back as [`Input::Persisted`]; nothing is told to anyone before that.
//!
//! A change goes along one tree for each origin, chosen by the receivers (`trees`). When a link comes up, and now and then,
//! the two sides find out what differs (`compare`); what peers have and this node lacks is asked for (`fetch`). What a peer lacks is sent in the
//! order of [`Class`](crate::schema::Class) (`lacking`), as much as the way takes without a queue (`flow`); it is known per
//! log, so a link's backlog is a set of cursors and never a queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::admission::Wait;
use crate::id::{Actor, DeviceId, Key, Root, StatementId, Time};
use crate::store::{Durability, LogStore, Staged, StoreError};

mod compare;
mod devices;
mod fetch;
mod flow;
mod foresight;
pub mod frame;
mod lacking;
mod link;
mod links;
mod missing;
mod modes;
mod names;
mod origins;
mod pending;
mod ports;
mod receive;
mod refusal;
mod replica;
mod send;
mod trees;
mod write;

pub use foresight::{Foresight, Judged, LinkFrame};
pub use frame::Channel;
pub use link::LinkSummary;
pub use modes::Mode;
pub use ports::{Changed, Config, Edit, Effect, Input, LinkId, Parents, Reply, RequestId, Token};
pub use replica::{AUDIT_MAX, Log, LogState, Logs, OpenError, Replica, read_run};

use compare::Touched;
use foresight::Foreseen;
use frame::Frame;
use link::Link;
use missing::Missing;
use origins::{Origin, Origins, Recent};
use pending::Pending;

/// Most bytes of changes that one call of [`Engine::handle`] sends; the rest follows at once by a timer.
pub const SEND_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of control frames that may wait for a peer while messages of the mesh's own are sent to it.
pub const ROUTED_WAITING_MAX: usize = 512 * 1024;
/// How long a link may take to greet, and then to answer a first probe, milliseconds. From then on the driver watches over
/// it, with [`Input::Probe`] and [`Effect::RoundTrip`].
pub const GREETING_TIMEOUT_MS: u64 = 10_000;
/// The round trip of a link that was not measured yet, microseconds.
pub const RTT_MICROS_UNKNOWN: u64 = 200_000;
/// How long `Have` entries are gathered where nothing else is sent, milliseconds.
pub const HAVE_MS: u64 = 250;
/// Roots are compared with one random peer every 30 to 60 s.
pub const RECONCILE_MS: (u64, u64) = (30_000, 60_000);
/// Most links.
pub const LINKS_MAX: usize = 256;

/// What follows once a batch is stored.
#[derive(Debug, Clone, PartialEq)]
enum After {
    AnnounceLog(Actor, u64, Option<LinkId>),
    AnnounceStatement(StatementId, Option<Origin>, Option<LinkId>),
    Reply(RequestId, Reply),
    Hello(LinkId),
    Compare(LinkId),
    Graft(LinkId, Origin),
}

/// A batch that the store has not reported yet.
#[derive(Debug, Clone)]
struct Unstored {
    token: Token,
    /// Where the order of admission stands once it has.
    position: u64,
    after: Vec<After>,
}

/// The engine of a node.
#[derive(Debug, Clone)]
pub struct Engine {
    config: Config,
    device: DeviceId,
    replica: Replica,
    links: BTreeMap<LinkId, Link>,
    origins: Origins,
    /// Where statements of late entered the mesh.
    statement_origins: Recent,
    missing: Missing,
    pending: Pending,
    /// Logs of which something was not kept in `pending`, by what it waits for, with a link that has it.
    evicted: BTreeSet<(Wait, Actor, LinkId)>,
    effects: VecDeque<Effect>,
    after: Vec<After>,
    unstored: VecDeque<Unstored>,
    /// How much of the order of admission is stored.
    order_stored: u64,
    touched: Touched,
    durability: Durability,
    next_token: u64,
    wall_ms: u64,
    random: u64,
    reconcile_at: Time,
    pump_again: bool,
    /// Logs of which a stored record does not read; each is said once.
    unreadable: BTreeSet<Actor>,
    /// Inputs that were taken.
    turn: u64,
    foreseen: Foreseen,
}

impl Engine {
    /// Opens the engine on what a store holds.
    pub fn open(config: Config, store: &dyn LogStore) -> Result<Engine, OpenError> {
        let mut random = config.seed;
        let generation = next_random(&mut random) >> 32; // short on the wire
        let replica = Replica::open(config.fleet, store, generation)?;
        let mut engine = Engine::new(Config { seed: random, ..config }, replica, Origins::default());
        let devices: Vec<DeviceId> = engine.replica.roster().devices().collect();
        engine.note_origins(&devices);
        // An own damaged log is never continued (PROTOCOL 10).
        if engine.replica.damaged().any(|log| engine.is_own(&log.name())) {
            engine.draw_incarnation();
        }
        Ok(engine)
    }

    /// The same for another device, on a copy of what this one holds: a simulator makes many nodes of one. It has no links.
    pub fn copy_for(&self, config: Config) -> Engine {
        Engine::new(config, self.replica.clone(), self.origins.clone())
    }

    fn new(config: Config, replica: Replica, origins: Origins) -> Engine {
        let device = Key(config.key.verifying_key().to_bytes()).device();
        let random = config.seed;
        let order_stored = replica.order().position;
        Engine {
            config,
            device,
            replica,
            links: BTreeMap::new(),
            origins,
            statement_origins: Recent::default(),
            missing: Missing::default(),
            pending: Pending::default(),
            evicted: BTreeSet::new(),
            effects: VecDeque::new(),
            after: Vec::new(),
            unstored: VecDeque::new(),
            order_stored,
            touched: Touched::default(),
            durability: Durability::Written,
            next_token: 1,
            wall_ms: 0,
            random,
            reconcile_at: Time(0),
            pump_again: false,
            unreadable: BTreeSet::new(),
            turn: 0,
            foreseen: Foreseen::default(),
        }
    }

    /// Takes what happened. Never panics on what a peer or a store gives.
    pub fn handle(&mut self, now: Time, input: Input, store: &dyn LogStore) {
        let mut staged = Staged::new(store);
        self.durability = Durability::Written;
        self.turn += 1;
        let request = input.request();
        if let Err(error) = self.dispatch(now, input, &mut staged) {
            if let Some(request) = request {
                self.reply(request, Reply::Refused(error.to_string()));
            }
            self.effects.push_back(Effect::Fault(error));
        }
        self.finish(now, staged, store);
    }

    fn dispatch(&mut self, now: Time, input: Input, staged: &mut Staged<'_>) -> Result<(), StoreError> {
        match input {
            Input::Seed(seed) => self.random ^= seed,
            Input::WallClock(millis) => self.wall_ms = millis,
            Input::LinkUp { link, peer, dialled } => self.link_up(now, link, peer, dialled),
            Input::LinkDown(link) => self.link_down(link),
            Input::Writable { link, channel, bytes } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.add_budget(channel, bytes);
                }
                self.pump(now, staged, Some(link));
            }
            Input::Lossy { link, is_lossy } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.outflow.set_lossy(is_lossy);
                }
            }
            Input::Frame { link, channel, bytes } => {
                self.receive(now, staged, link, &bytes)?;
                self.settle_name(link, &bytes);
                self.count_payload(link, channel, &bytes);
            }
            Input::Frames { frames, judged } => self.receive_frames(now, staged, frames, judged),
            Input::Dropped { link, channel, bytes } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.fragments.dropped(&bytes);
                }
                self.count_payload(link, channel, &bytes);
            }
            Input::Persisted(token) => self.persisted(now, staged, token),
            Input::Timer => self.timer(now, staged),
            Input::Resync => self.resync(),
            Input::Stop => self.stop(staged),
            Input::Parents(parents) => self.set_parents(parents),
            Input::Probe(link) => self.probe_link(now, link),
            Input::Route { link, message } => self.route(link, message),
            Input::Write { request, document, edits } => self.write(staged, request, &document, &edits)?,
            Input::Prepare { request, document, author, edits } => {
                self.prepare(staged, request, &document, author, &edits)?;
            }
            Input::Submit { request, change, signature } => self.submit(now, staged, request, *change, signature)?,
            Input::Statements { request, statements } => {
                self.submit_statements(now, staged, request, statements)?;
            }
        }
        Ok(())
    }

    /// Hands the staged writes to the driver, and what must wait for them.
    fn finish(&mut self, now: Time, mut staged: Staged<'_>, store: &dyn LogStore) {
        self.settle_cursors(&mut staged);
        for (log, name) in self.replica.logs.take_gone() {
            self.links.values_mut().for_each(|link| link.names.gone(log, &name));
        }
        let batch = staged.into_batch();
        let after = std::mem::take(&mut self.after);
        if batch.is_empty() && self.unstored.is_empty() {
            // Nothing is on its way to the store: what would wait for it follows now.
            return self.follow(now, &Staged::new(store), after);
        }
        if batch.is_empty() {
            if let Some(last) = self.unstored.back_mut() {
                last.after.extend(after);
            }
            return;
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        if Replica::reopens_order(&batch) {
            self.durability = Durability::Synced;
        }
        self.unstored.push_back(Unstored { token, position: self.replica.order().position, after });
        self.effects.push_back(Effect::Persist { batch, token, durability: self.durability });
    }

    fn persisted(&mut self, now: Time, staged: &Staged<'_>, token: Token) {
        while let Some(stored) = self.unstored.pop_front_if(|oldest| oldest.token <= token) {
            self.order_stored = stored.position;
            self.follow(now, staged, stored.after);
        }
    }

    fn follow(&mut self, now: Time, staged: &Staged<'_>, after: Vec<After>) {
        let mut changed = false;
        for step in after {
            match step {
                After::AnnounceLog(actor, seq, source) => {
                    self.announce_log(now, actor, seq, source);
                    self.effects.push_back(Effect::Changed(Changed::Log { actor, seq, source }));
                    changed = true;
                }
                After::AnnounceStatement(id, origin, source) => {
                    self.replica.statement_is_stored(&id);
                    self.announce_statement(now, id, origin, source);
                    self.effects.push_back(Effect::Changed(Changed::Statement(id)));
                    changed = true;
                }
                After::Reply(request, reply) => self.effects.push_back(Effect::Reply { request, reply }),
                After::Hello(link) => {
                    if let Err(error) = self.send_hello(now, staged, link) {
                        self.effects.push_back(Effect::Fault(error));
                    }
                }
                After::Compare(link) => self.compare_soon(now, link),
                After::Graft(link, origin) => self.graft(link, origin),
            }
        }
        if changed {
            self.pump(now, staged, None);
        }
    }

    fn resync(&mut self) {
        let ready = self.links().filter(|link| link.is_ready).map(|link| After::Compare(link.link));
        let comparisons: Vec<After> = ready.collect();
        self.after.extend(comparisons);
    }

    fn stop(&mut self, staged: &mut Staged<'_>) {
        self.durability = Durability::Synced;
        self.replica.close_order(staged);
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        self.effects.push_back(Effect::Reply { request, reply });
    }

    fn random(&mut self) -> u64 {
        next_random(&mut self.random)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Engine::handle`] with [`Input::Timer`].
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.pump_again {
            return Some(Time(0));
        }
        let links = self.links.values().filter_map(Link::timeout).min();
        let reconcile = (!self.links.is_empty()).then_some(self.reconcile_at);
        links.into_iter().chain(reconcile).chain(self.missing.timeout()).min()
    }

    /// What this node holds.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// This device.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Links that are up.
    pub fn links(&self) -> impl Iterator<Item = LinkSummary> + '_ {
        self.links.iter().map(|(id, link)| link.summary(*id))
    }

    /// Changes that live peers have and this node lacks.
    pub fn behind(&self) -> u64 {
        let mut most: BTreeMap<Actor, u64> = BTreeMap::new();
        for (actor, seq) in self.links.values().flat_map(|link| &link.ahead) {
            let known = most.entry(*actor).or_default();
            *known = (*known).max(*seq);
        }
        let own = |actor: &Actor| self.replica.logs.get(actor).map_or(0, |state| state.seq);
        // What peers claim may be anything.
        most.iter().map(|(actor, seq)| seq.saturating_sub(own(actor))).fold(0, u64::saturating_add)
    }

    /// Changes that wait for what they build on, and their bytes.
    pub fn pending(&self) -> (usize, usize) {
        self.pending.size()
    }

    /// The root over everything.
    pub fn root(&self) -> Root {
        self.replica.root()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough for jitter and choices, and the same everywhere.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
