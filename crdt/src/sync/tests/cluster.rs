//! Engines, their stores and the links between them, in virtual time. One seed decides everything.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;

use super::fleet::{Fleet, key_of};
use crate::change::sign;
use crate::id::{Actor, DeviceId, Root, Time};
use crate::roster::Standing;
use crate::schema::{DocumentName, Kind, Value};
use crate::store::{AuditRecord, Batch, Durability, MemoryStore, Table, read_record};
use crate::sync::{Changed, Channel, Config, Edit, Effect, Engine, Input, LinkId, Parents, Reply, RequestId, Token};
use crate::view::{self, View};

const STREAM_BUDGET: usize = 64 * 1024;
const SYNC_MS: u64 = 1;
const FIRST_INCARNATION: u64 = 7;
const EVENTS_MAX: usize = 2_000_000;

/// What a crash leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// The process ended: what was applied stays.
    Process,
    /// The power went: what was not synced is lost.
    Power,
}

pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) store: MemoryStore,
    /// What survives a power cut, and the batches since.
    synced: MemoryStore,
    unsynced: Vec<Batch>,
    /// Kept over restarts, as the driver must.
    pub(super) incarnation: u64,
    pub(super) is_up: bool,
    /// It takes no input and does nothing, while its sessions stand.
    is_frozen: bool,
    pub(super) audit: Vec<AuditRecord>,
    pub(super) closed: Vec<String>,
    pub(super) faults: Vec<String>,
    pub(super) replies: BTreeMap<RequestId, Reply>,
    /// Acknowledged (log, seq).
    pub(super) acknowledged: BTreeMap<Actor, u64>,
    pub(super) payload_bytes: usize,
    /// Links that were told to be behind.
    pub(super) behind: Vec<LinkId>,
    /// Messages of the mesh's own that came.
    pub(super) routed: Vec<(LinkId, Vec<u8>)>,
    /// What probes took, microseconds.
    pub(super) round_trips: Vec<u64>,
    /// Frames that were sent, by their type.
    pub(super) frames: BTreeMap<u8, usize>,
    starts: u64,
}

#[derive(Debug, Clone)]
enum Event {
    Deliver { to: usize, link: LinkId, channel: Channel, bytes: Vec<u8> },
    Credit { to: usize, link: LinkId, channel: Channel, bytes: usize },
    Persisted { to: usize, start: u64, token: Token, durability: Durability },
}

struct Wire {
    ends: [(usize, LinkId); 2],
    /// When the last frame of each direction and stream arrives: streams are ordered.
    last: BTreeMap<(usize, Channel), Time>,
}

pub(super) struct Cluster {
    pub(super) fleet: Fleet,
    pub(super) nodes: Vec<Node>,
    pub(super) now: Time,
    pub(super) delay_ms: (u64, u64),
    events: BTreeMap<(Time, u64), Event>,
    wires: Vec<Wire>,
    next: u64,
    random: u64,
}

pub(super) fn config_document() -> DocumentName {
    DocumentName::config("camera").unwrap()
}

impl Cluster {
    pub(super) fn new(nodes: usize, seed: u64) -> Cluster {
        let fleet = Fleet::new(nodes);
        let mut cluster = Cluster {
            fleet,
            nodes: Vec::new(),
            now: Time(1_000_000),
            delay_ms: (1, 20),
            events: BTreeMap::new(),
            wires: Vec::new(),
            next: 1,
            random: seed,
        };
        for number in 0..nodes {
            let store = MemoryStore::default();
            let engine = Engine::open(cluster.config(number, 1), &store).unwrap();
            cluster.nodes.push(Node {
                engine,
                store,
                synced: MemoryStore::default(),
                unsynced: Vec::new(),
                incarnation: FIRST_INCARNATION,
                is_up: true,
                is_frozen: false,
                audit: Vec::new(),
                closed: Vec::new(),
                faults: Vec::new(),
                replies: BTreeMap::new(),
                acknowledged: BTreeMap::new(),
                payload_bytes: 0,
                behind: Vec::new(),
                routed: Vec::new(),
                round_trips: Vec::new(),
                frames: BTreeMap::new(),
                starts: 1,
            });
            let statements = cluster.fleet.statements_of(number);
            cluster.request(number, |request| Input::Statements { request, statements });
        }
        cluster.run_until_quiescent();
        cluster
    }

    fn config(&self, number: usize, start: u64) -> Config {
        let key: SigningKey = self.fleet.devices[number].clone();
        let incarnation = self.nodes.get(number).map_or(FIRST_INCARNATION, |node| node.incarnation);
        Config { fleet: self.fleet.id, key, incarnation, seed: self.random ^ start << 8 ^ number as u64 }
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        crate::sync::next_random(&mut self.random) % below.max(1)
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn schedule(&mut self, at: Time, event: Event) {
        let tie = self.id();
        self.events.insert((at, tie), event);
    }

    /// Makes a request of a node; the answer is in `replies` once it is there.
    pub(super) fn request(&mut self, number: usize, input: impl FnOnce(RequestId) -> Input) -> RequestId {
        let request = RequestId(self.id());
        self.input(number, input(request));
        request
    }

    pub(super) fn input(&mut self, number: usize, input: Input) {
        let node = &mut self.nodes[number];
        if !node.is_up || node.is_frozen {
            return;
        }
        node.engine.handle(self.now, input, &node.store);
        self.effects(number);
    }

    fn effects(&mut self, number: usize) {
        while let Some(effect) = self.nodes[number].engine.poll_effect() {
            let now = self.now;
            let node = &mut self.nodes[number];
            match effect {
                Effect::Persist { batch, token, durability } => {
                    node.store.apply(&batch);
                    node.unsynced.push(batch);
                    let start = node.starts;
                    let delay = if durability == Durability::Synced { SYNC_MS } else { 0 };
                    self.schedule(now.plus_millis(delay), Event::Persisted { to: number, start, token, durability });
                }
                Effect::Send { link, channel, bytes } => self.send(number, link, channel, bytes),
                Effect::Close { link, reason } => {
                    node.closed.push(reason);
                    self.cut_link(number, link);
                }
                Effect::Reply { request, reply } => {
                    if let Reply::Written { actor, seq } = &reply {
                        let known = node.acknowledged.entry(*actor).or_default();
                        *known = (*known).max(*seq);
                    }
                    node.replies.insert(request, reply);
                }
                Effect::Audit(record) => node.audit.push(*record),
                Effect::Changed(Changed::Log { .. } | Changed::Statement(_)) => {}
                Effect::Routed { link, message } => node.routed.push((link, message)),
                Effect::Behind(link) => node.behind.push(link),
                Effect::RoundTrip { micros, .. } => node.round_trips.push(micros),
                Effect::Incarnation(incarnation) => node.incarnation = incarnation,
                Effect::Fault(error) => node.faults.push(error.to_string()),
            }
        }
    }

    fn send(&mut self, from: usize, link: LinkId, channel: Channel, bytes: Vec<u8>) {
        self.nodes[from].payload_bytes += bytes.len();
        *self.nodes[from].frames.entry(bytes[0]).or_default() += 1;
        let (least, most) = self.delay_ms;
        let delay = least + self.random(most - least + 1);
        let arrival = self.now.plus_millis(delay);
        let Some(wire) = self.wires.iter_mut().find(|wire| wire.ends.contains(&(from, link))) else { return };
        let other = if wire.ends[0] == (from, link) { wire.ends[1] } else { wire.ends[0] };
        // A stream keeps its order; the two streams, and other links, overtake each other.
        let last = wire.last.entry((from, channel)).or_insert(arrival);
        *last = (*last).max(arrival);
        let at = *last;
        let credit = Event::Credit { to: from, link, channel, bytes: bytes.len() };
        self.schedule(at, Event::Deliver { to: other.0, link: other.1, channel, bytes });
        self.schedule(at, credit);
    }

    /// Brings a session up between two nodes.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        if a == b || !self.nodes[a].is_up || !self.nodes[b].is_up || self.is_connected(a, b) {
            return;
        }
        let links = [LinkId(self.id()), LinkId(self.id())];
        self.wires.push(Wire { ends: [(a, links[0]), (b, links[1])], last: BTreeMap::new() });
        for (number, other, link, dialled) in [(a, b, links[0], true), (b, a, links[1], false)] {
            let peer = key_of(&self.fleet.devices[other]);
            self.input(number, Input::LinkUp { link, peer, dialled });
            for channel in [Channel::Control, Channel::Data] {
                self.input(number, Input::Writable { link, channel, bytes: STREAM_BUDGET });
            }
        }
    }

    pub(super) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.wires.iter().any(|wire| {
            let ends = [wire.ends[0].0, wire.ends[1].0];
            ends == [a, b] || ends == [b, a]
        })
    }

    pub(super) fn link_to(&self, from: usize, to: usize) -> Option<LinkId> {
        self.wires.iter().find_map(|wire| match wire.ends {
            [(a, link), (b, _)] if a == from && b == to => Some(link),
            [(b, _), (a, link)] if a == from && b == to => Some(link),
            _ => None,
        })
    }

    /// Connects every pair.
    pub(super) fn connect_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                self.connect(a, b);
            }
        }
    }

    /// Cuts the session between two nodes: what is on its way is lost.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if let Some(link) = self.link_to(a, b) {
            self.cut_link(a, link);
        }
    }

    pub(super) fn cut_all(&mut self) {
        while let Some((number, link)) = self.wires.first().map(|wire| wire.ends[0]) {
            self.cut_link(number, link);
        }
    }

    fn cut_link(&mut self, number: usize, link: LinkId) {
        let Some(at) = self.wires.iter().position(|wire| wire.ends.contains(&(number, link))) else { return };
        let wire = self.wires.remove(at);
        let gone: BTreeSet<LinkId> = wire.ends.iter().map(|(_, link)| *link).collect();
        self.events.retain(|_, event| match event {
            Event::Deliver { link, .. } | Event::Credit { link, .. } => !gone.contains(link),
            Event::Persisted { .. } => true,
        });
        for (number, link) in wire.ends {
            self.input(number, Input::LinkDown(link));
        }
    }

    /// Drops every frame that is on its way, while the sessions stay up: what must never happen on a stream.
    pub(super) fn lose_everything_on_its_way(&mut self) {
        while self.events.values().any(|event| matches!(event, Event::Persisted { .. })) {
            self.step(self.now.plus_millis(1));
        }
        self.events.retain(|_, event| !matches!(event, Event::Deliver { .. }));
    }

    /// Takes the next frame to a node off the wire, once it is there.
    pub(super) fn take_frame_to(&mut self, number: usize) -> Option<Vec<u8>> {
        while self.events.values().any(|event| matches!(event, Event::Persisted { .. })) {
            self.step(self.now.plus_millis(1));
        }
        let is_for = |event: &Event| matches!(event, Event::Deliver { to, .. } if *to == number);
        let key = self.events.iter().find(|(_, event)| is_for(event)).map(|(key, _)| *key)?;
        match self.events.remove(&key) {
            Some(Event::Deliver { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    /// Ends a node; its sessions are cut.
    pub(super) fn crash(&mut self, number: usize, crash: Crash) {
        while let Some(link) =
            self.wires.iter().flat_map(|wire| wire.ends).find(|(of, _)| *of == number).map(|(_, link)| link)
        {
            self.cut_link(number, link);
        }
        let node = &mut self.nodes[number];
        node.is_up = false;
        match crash {
            Crash::Power => node.store = node.synced.clone(),
            Crash::Process => node.synced = node.store.clone(),
        }
        node.unsynced.clear();
    }

    /// A backup of a node's store.
    pub(super) fn backup(&self, number: usize) -> MemoryStore {
        self.nodes[number].store.clone()
    }

    /// Puts a backup in the place of a node's store, while the node is down.
    pub(super) fn restore(&mut self, number: usize, backup: MemoryStore) {
        assert!(!self.nodes[number].is_up);
        self.nodes[number].store = backup.clone();
        self.nodes[number].synced = backup;
        self.nodes[number].acknowledged.clear();
    }

    /// Damages what a node has stored at a key.
    pub(super) fn damage(&mut self, number: usize, table: Table, key: Vec<u8>) {
        let mut batch = Batch::default();
        batch.put(table, key, vec![0xff; 8]);
        self.nodes[number].store.apply(&batch);
        self.nodes[number].synced.apply(&batch);
    }

    /// Stops a node without ending it.
    pub(super) fn freeze(&mut self, number: usize) {
        self.nodes[number].is_frozen = true;
    }

    /// Starts a node again on what its crash left.
    pub(super) fn restart(&mut self, number: usize) {
        if self.nodes[number].is_up {
            return;
        }
        let start = self.nodes[number].starts + 1;
        let config = self.config(number, start);
        let node = &mut self.nodes[number];
        node.starts = start;
        node.engine = Engine::open(config, &node.store).expect("a store opens after a crash");
        node.is_up = true;
    }

    fn step(&mut self, until: Time) -> bool {
        let due = self.nodes.iter().enumerate().filter(|(_, node)| node.is_up && !node.is_frozen);
        let timer = due.filter_map(|(number, node)| node.engine.poll_timeout().map(|at| (at, number))).min();
        let event = self.events.keys().next().copied();
        match (timer, event) {
            (Some((at, number)), event) if at <= until && event.is_none_or(|(time, _)| at <= time) => {
                self.now = self.now.max(at);
                self.input(number, Input::Timer);
                true
            }
            (_, Some((at, tie))) if at <= until => {
                self.now = self.now.max(at);
                let event = self.events.remove(&(at, tie)).unwrap();
                self.happen(event);
                true
            }
            _ => false,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { to, link, channel, bytes } => self.input(to, Input::Frame { link, channel, bytes }),
            Event::Credit { to, link, channel, bytes } => self.input(to, Input::Writable { link, channel, bytes }),
            Event::Persisted { to, start, token, durability } => {
                let node = &mut self.nodes[to];
                if node.starts != start || !node.is_up {
                    return;
                }
                if durability == Durability::Synced {
                    node.synced = node.store.clone();
                    node.unsynced.clear();
                }
                self.input(to, Input::Persisted(token));
            }
        }
    }

    /// Runs until nothing is on its way and no timer but the slow comparison of roots is left.
    pub(super) fn run_until_quiescent(&mut self) {
        for _ in 0..EVENTS_MAX {
            let horizon = match self.events.keys().next() {
                Some((at, _)) => *at,
                None => self.now.plus_millis(2_000),
            };
            if !self.step(horizon) {
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, millis: u64) {
        let until = self.now.plus_millis(millis);
        for _ in 0..EVENTS_MAX {
            if !self.step(until) {
                self.now = until;
                return;
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// A device writes a value of its own.
    pub(super) fn write(&mut self, number: usize, kind: Kind, path: &str, value: Value) -> RequestId {
        let document = DocumentName::of_device(kind, &self.fleet.device_id(number));
        let edits = vec![Edit { path: path.to_owned(), value: Some(value) }];
        self.request(number, |request| Input::Write { request, document, edits })
    }

    /// An operator edits the shared document through a node, in two steps.
    pub(super) fn set(&mut self, number: usize, operator: usize, path: &str, value: Option<Value>) -> Reply {
        let author = key_of(&self.fleet.operators[operator]);
        let edits = vec![Edit { path: path.to_owned(), value }];
        let document = config_document();
        let request = self.request(number, |request| Input::Prepare { request, document, author, edits });
        let Some(Reply::Prepared(change)) = self.nodes[number].replies.get(&request).cloned() else {
            return self.nodes[number].replies.get(&request).cloned().expect("prepare answers at once");
        };
        let actor = change.log.actor(&self.fleet.id);
        let chain = change.chain_before.next(&change.hash().unwrap());
        let signature = sign(&self.fleet.operators[operator], &self.fleet.id, &actor, change.seq, &chain);
        let request = self.request(number, |request| Input::Submit { request, change, signature });
        self.nodes[number].replies.get(&request).cloned().unwrap_or(Reply::Unchanged)
    }

    pub(super) fn view(&self, number: usize, document: &DocumentName) -> View {
        view::read(&self.nodes[number].store, document, "").unwrap()
    }

    pub(super) fn device(&self, number: usize) -> DeviceId {
        self.fleet.device_id(number)
    }

    /// Frames of a type that all nodes have sent.
    pub(super) fn frames(&self, kind: u8) -> usize {
        self.nodes.iter().filter_map(|node| node.frames.get(&kind)).sum()
    }

    /// The mesh hands a node its sources of an origin.
    pub(super) fn set_sources(&mut self, number: usize, origin: usize, sources: &[usize]) {
        let sources = sources.iter().map(|source| self.device(*source)).collect();
        self.input(number, Input::Parents(vec![Parents { origin: self.device(origin), sources }]));
    }

    pub(super) fn root(&self, number: usize) -> Root {
        self.nodes[number].engine.root()
    }

    /// Every live node has the same root, documents and views, and everything that was acknowledged.
    pub(super) fn assert_converged(&self) {
        self.assert_equal();
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_up) {
            assert_eq!(node.engine.behind(), 0, "node {number} believes to lack something");
            assert!(node.faults.is_empty(), "node {number}: {:?}", node.faults);
            assert_eq!(node.engine.pending().0, 0, "something waits on {number}");
        }
    }

    /// Roots, documents and views are equal, and nothing acknowledged is lost.
    pub(super) fn assert_equal(&self) {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|number| self.nodes[*number].is_up).collect();
        let first = up[0];
        for number in &up {
            let (a, b) = (self.nodes[first].engine.replica(), self.nodes[*number].engine.replica());
            assert_eq!(a.logs().documents(), b.logs().documents(), "documents of {first} and {number}");
            assert_eq!(self.root(first), self.root(*number), "roots of {first} and {number}");
            assert_eq!(a.root_durable(), b.root_durable(), "durable roots of {first} and {number}");
            for document in a.logs().documents().keys() {
                assert_eq!(self.view(first, document), self.view(*number, document), "{document} on {number}");
            }
        }
        self.assert_nothing_lost(&up);
    }

    /// Whatever a member's node acknowledged is on every node; a removed or contested device's own does not count.
    fn assert_nothing_lost(&self, up: &[usize]) {
        for (carrier, node) in self.nodes.iter().enumerate() {
            for (actor, seq) in &node.acknowledged {
                for number in up {
                    if self.nodes[*number].engine.replica().standing(&self.device(carrier)) != Standing::Member {
                        continue;
                    }
                    let key = crate::store::change_key(actor, *seq);
                    let record: Option<crate::store::ChangeRecord> =
                        read_record(&self.nodes[*number].store, crate::store::Table::Change, &key).unwrap();
                    assert!(record.is_some(), "node {number} lost the acknowledged change {seq} of {actor}");
                }
            }
        }
    }
}
