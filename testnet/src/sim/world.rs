//! A run: hosts, lines and what happens to them in virtual time. One seed decides everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crdt::change::PreparedChange;
use crdt::id::{Actor, Time};
use crdt::statement::SignatureBytes;
use crdt::sync::{Channel, Engine, Input, LinkId, Token};

use super::fleet::Fleet;
use super::host::{Host, Waiting};
use super::measure::Measured;
use super::mutant::Mutant;
use super::plan::{Boundary, Plan};
use super::random::Random;
use super::topology::Line;
use super::trace::{Happened, TraceWriter, What};
use super::verdict::{Oracle, Violation};
use super::wire::Session;

mod driver;
mod links;
mod liveness;
mod mesh;
mod reports;
pub(crate) mod routes;
mod steps;

pub(crate) use steps::name_of;

/// What the engine may have on its way on a stream before it is credited: the window of the node's outbox.
pub(crate) const WINDOW_BYTES: usize = 256 * 1024;
/// Foreign changes are synced at the latest after this, as the node does it.
const GROUP_SYNC_US: u64 = 100_000;
/// After the roots are equal, copies may be on their way for this long: a comparison of which an altered frame was lost is
/// over after 30 s, and only then its link hears what came meanwhile.
const GRACE_MS: u64 = 35_000;
/// How often the roots are compared until they are equal.
const POLL_US: u64 = 20_000;
/// For this long nothing may be sent then: every node compares roots meanwhile.
const SILENCE_MS: u64 = 70_000;
/// How often a broken host repeats itself.
const REPEAT_US: u64 = 3_000_000;
/// More events than this, and the fleet never comes to rest.
const EVENTS_MAX: u64 = 400_000_000;
/// Breaches that are kept of a run.
const VIOLATIONS_MAX: usize = 32;

#[derive(Debug, Clone)]
enum Event {
    Step(usize),
    Arrive { node: usize, start: u64, waiting: Waiting },
    Wake(usize),
    Up(usize),
    Dial(mesh::Dial),
    DialFailed { node: usize, start: u64, peer: usize },
    Hear { node: usize, start: u64, origin: usize, report: Arc<reports::Report> },
    Compare { session: u64 },
    Sample,
    Routes,
    Parents { node: usize, start: u64, origins: Vec<u16> },
    Gone { node: usize, start: u64, link: LinkId },
    Stored { node: usize, start: u64, token: Token, synced: Option<u64> },
    GroupSync { node: usize, start: u64 },
    Die { node: usize, start: u64, power: bool },
    Repeat { node: usize, start: u64, link: LinkId, bytes: Vec<u8> },
    Credit { node: usize, start: u64, link: LinkId, channel: Channel, bytes: usize },
}

/// A line between two hosts as it is now.
#[derive(Debug, Clone)]
struct LineState {
    line: Line,
    is_whole: bool,
    /// Whether nothing passes to the first end, and to the second.
    is_muted: [bool; 2],
    session: Option<u64>,
    /// The links that the ends believe to be up.
    believed: [Option<LinkId>; 2],
}

impl LineState {
    fn new(line: Line, is_whole: bool) -> LineState {
        LineState { line, is_whole, is_muted: [false; 2], session: None, believed: [None; 2] }
    }
}

/// What a run cost and how fast it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stats {
    pub(crate) events: u64,
    /// Acknowledged changes.
    pub(crate) changes: u64,
    pub(crate) statements: u64,
    /// Frames with changes that were given to links.
    pub(crate) copies: u64,
    /// Frames with statements that were given to links.
    pub(crate) statement_copies: u64,
    pub(crate) bytes: u64,
    /// Refusals, by what was refused for.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// From a write to each other node's store, microseconds.
    pub(crate) delays_us: Vec<u64>,
    /// Links that a node took for dead, and those that it closed for it.
    pub(crate) suspicions: u64,
    pub(crate) evictions: u64,
    /// Steps that were done, by their name.
    pub(crate) done: BTreeMap<&'static str, u64>,
    /// From the end of the faults to equal roots, milliseconds.
    pub(crate) healed_ms: Option<u64>,
    /// For benches.
    pub(crate) measured: Measured,
}

/// Takes what happens to changes, where someone wants to see it.
pub(crate) type Watcher<'w> = dyn FnMut(Happened) + 'w;

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Equal for equal runs.
    pub(crate) trace: [u8; 32],
    pub(crate) violations: Vec<Violation>,
    pub(crate) stats: Stats,
}

/// A fleet and what happens to it.
pub(crate) struct World<'p, 'w> {
    pub(super) plan: &'p Plan,
    pub(super) fleet: Fleet,
    pub(super) hosts: Vec<Host>,
    pub(super) mutant: Option<Mutant>,
    /// Devices that someone tried to remove: whether they are members is open until that is stored.
    pub(super) targets: BTreeSet<usize>,
    /// Devices that left for good.
    gone: BTreeSet<usize>,
    /// Removals that were acknowledged: the device, and the node that did.
    pub(super) removals: Vec<(usize, usize)>,
    pub(super) violations: Vec<Violation>,
    pub(super) stats: Stats,
    lines: Vec<LineState>,
    lines_of: Vec<Vec<usize>>,
    routes: routes::Routes,
    /// Where hosts choose their links themselves.
    mesh: Option<mesh::Ground>,
    sessions: BTreeMap<u64, Session>,
    /// Host and link → session.
    links: BTreeMap<(usize, LinkId), u64>,
    /// Bytes of a stream that are not credited yet.
    owed: BTreeMap<(usize, LinkId, Channel), usize>,
    names: BTreeMap<(usize, LinkId), Vec<Actor>>,
    queue: BTreeMap<(u64, u64), Event>,
    timers: BTreeSet<(u64, usize)>,
    now_us: u64,
    next: u64,
    wires: Random,
    chance: Random,
    trace: TraceWriter,
    /// What operators have signed, of all numbers of all logs.
    journal: BTreeMap<(Actor, u64), (PreparedChange, SignatureBytes)>,
    written_us: BTreeMap<(Actor, u64), (u64, usize)>,
    seen: BTreeMap<(usize, Actor), u64>,
    /// Who brought a change to a host first, where someone watches.
    brought: BTreeMap<(usize, Actor, u64), usize>,
    watcher: Option<&'w mut Watcher<'w>>,
}

/// Runs a plan to its end.
pub(crate) fn run<'w>(plan: &Plan, mutant: Option<Mutant>, watcher: Option<&'w mut Watcher<'w>>) -> Ended {
    let mut world = World::new(plan, mutant, watcher);
    world.begin();
    world.run_until(plan.heal_ms * 1000);
    world.heal();
    let healed = world.wait_for_equal_roots();
    if healed {
        world.expect_silence();
    }
    world.judge(healed);
    world.stats.measured.up_at_end = world.members();
    let World { trace, violations, stats, .. } = world;
    Ended { trace: trace.hash(), violations, stats }
}

impl<'p, 'w> World<'p, 'w> {
    fn new(plan: &'p Plan, mutant: Option<Mutant>, watcher: Option<&'w mut Watcher<'w>>) -> World<'p, 'w> {
        let nodes = plan.topology.nodes.len();
        let joiners: BTreeSet<usize> = plan.joiners.iter().copied().collect();
        let fleet = Fleet::new(&plan.topology.nodes, |number| !joiners.contains(&number));
        let hosts = (0..nodes).map(|number| Host::new(&fleet, number)).collect();
        let mut lines_of = vec![Vec::new(); nodes];
        for (number, line) in plan.topology.lines.iter().enumerate() {
            lines_of[line.ends.0].push(number);
            lines_of[line.ends.1].push(number);
        }
        let mesh = plan.ground.as_ref().map(|_| mesh::Ground::new(&fleet, nodes));
        World {
            plan,
            fleet,
            hosts,
            mutant,
            targets: BTreeSet::new(),
            gone: BTreeSet::new(),
            removals: Vec::new(),
            violations: Vec::new(),
            stats: Stats::default(),
            lines: plan.topology.lines.iter().map(|line| LineState::new(line.clone(), true)).collect(),
            lines_of,
            routes: routes::Routes::default(),
            mesh,
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            owed: BTreeMap::new(),
            names: BTreeMap::new(),
            queue: BTreeMap::new(),
            timers: BTreeSet::new(),
            now_us: 0,
            next: 0,
            wires: Random::of(plan.seed, 1),
            chance: Random::of(plan.seed, 2),
            trace: TraceWriter::new(),
            journal: BTreeMap::new(),
            written_us: BTreeMap::new(),
            seen: BTreeMap::new(),
            brought: BTreeMap::new(),
            watcher,
        }
    }

    fn begin(&mut self) {
        for number in 0..self.hosts.len() {
            if !self.plan.joiners.contains(&number) {
                self.hosts[number].start_fresh(&self.fleet, number, self.plan.seed);
                self.came_up(number);
            }
        }
        if self.mesh.is_some() {
            self.schedule(0, Event::Sample);
        }
        for (number, (at_ms, _)) in self.plan.steps.iter().enumerate() {
            self.schedule(at_ms * 1000, Event::Step(number));
        }
    }

    fn now(&self) -> Time {
        Time(self.now_us)
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        self.next += 1;
        self.queue.insert((at_us.max(self.now_us), self.next), event);
    }

    /// Notes a breach.
    pub(super) fn breach(&mut self, oracle: Oracle, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { oracle, what });
        }
    }

    /// Takes something into the hash of the run.
    fn note(&mut self, node: usize, label: &str, bytes: &[u8]) {
        self.trace.note(self.now_us, label, &(node as u64).to_be_bytes());
        self.trace.note(self.now_us, label, bytes);
    }

    fn happened(&mut self, node: usize, peer: Option<usize>, what: What, log: Actor, seq: u64, hash: String) {
        let at_us = self.now_us;
        if let Some(watcher) = &mut self.watcher {
            watcher(Happened { at_us, node, peer, what, log: log.to_string(), seq, hash });
        }
    }

    fn run_until(&mut self, until_us: u64) {
        while self.stats.events < EVENTS_MAX {
            let event = self.queue.keys().next().copied();
            let timer = self.timers.first().copied();
            match (event, timer) {
                (event, Some((at_us, node))) if at_us <= until_us && event.is_none_or(|(time, _)| at_us <= time) => {
                    self.now_us = self.now_us.max(at_us);
                    self.timer(node);
                }
                (Some(key), _) if key.0 <= until_us => {
                    self.now_us = self.now_us.max(key.0);
                    if let Some(event) = self.queue.remove(&key) {
                        self.happen(event);
                    }
                }
                _ => {
                    self.now_us = until_us;
                    return;
                }
            }
            self.stats.events += 1;
        }
        self.breach(Oracle::HealsInTime, format!("the fleet does not come to rest in {EVENTS_MAX} events"));
    }

    fn happen(&mut self, event: Event) {
        let is_current = |world: &World<'_, '_>, node: usize, start: u64| world.hosts[node].start == start;
        match event {
            Event::Step(number) => {
                let plan = self.plan;
                self.step(&plan.steps[number].1);
            }
            Event::Arrive { node, start, waiting } if is_current(self, node, start) => self.arrive(node, waiting),
            Event::Wake(node) => self.drain(node),
            Event::Up(line) => self.bring_up(line, None),
            Event::Dial(dial) if is_current(self, dial.node, dial.start) => self.dial_comes(dial),
            Event::DialFailed { node, start, peer } if is_current(self, node, start) => self.dial_failed(node, peer),
            Event::Hear { node, start, origin, report } if is_current(self, node, start) => {
                self.hear(node, origin, report);
            }
            Event::Compare { session } => self.compare(session),
            Event::Sample => self.sample(),
            Event::Routes => self.hand_over_routes(),
            Event::Parents { node, start, origins } if is_current(self, node, start) => self.hand_over(node, &origins),
            Event::Gone { node, start, link } if is_current(self, node, start) => self.gone(node, link),
            Event::Stored { node, start, token, synced } if is_current(self, node, start) => {
                if let Some(number) = synced {
                    self.hosts[node].disk.sync(number);
                    if self.dies(node, Boundary::AfterSync) {
                        return;
                    }
                }
                self.arrive(node, Waiting { input: Input::Persisted(token), from: None });
            }
            Event::GroupSync { node, start } if is_current(self, node, start) => {
                let host = &mut self.hosts[node];
                host.group_sync = false;
                host.disk.sync(host.disk.last());
            }
            Event::Die { node, start, power }
                if is_current(self, node, start) && self.hosts[node].dies_at.is_some() =>
            {
                self.die(node, power);
            }
            Event::Repeat { node, start, link, bytes } if is_current(self, node, start) => {
                self.pass(node, link, Channel::Data, bytes.clone(), false);
                self.schedule(self.now_us + REPEAT_US, Event::Repeat { node, start, link, bytes });
            }
            Event::Credit { node, start, link, channel, bytes } if is_current(self, node, start) => {
                self.credit(node, link, channel, bytes);
            }
            _ => {}
        }
    }

    fn arrive(&mut self, node: usize, waiting: Waiting) {
        if self.hosts[node].is_up() {
            self.hosts[node].inbox.push_back(waiting);
            self.drain(node);
        }
    }

    /// Gives a host what waits for it, as far as it takes it now.
    fn drain(&mut self, node: usize) {
        loop {
            let host = &mut self.hosts[node];
            if !host.is_up() || host.inbox.is_empty() {
                return;
            }
            if host.busy_until_us > self.now_us {
                let at_us = host.busy_until_us;
                return self.schedule(at_us, Event::Wake(node));
            }
            host.busy_until_us = self.now_us + host.input_us;
            if let Some(waiting) = host.inbox.pop_front() {
                self.input(node, waiting);
            }
        }
    }

    fn timer(&mut self, node: usize) {
        let (now_us, host) = (self.now_us, &mut self.hosts[node]);
        if let Some(at_us) = host.timer_us.take() {
            self.timers.remove(&(at_us, node));
        }
        if !host.is_up() {
            return;
        }
        if host.busy_until_us > now_us {
            host.timer_us = Some(host.busy_until_us);
            self.timers.insert((host.busy_until_us, node));
            return;
        }
        let is_due = host.engine.as_ref().and_then(Engine::poll_timeout).is_some_and(|at| at.0 <= now_us);
        if is_due {
            self.input(node, Waiting { input: Input::Timer, from: None });
        }
        self.judge_links(node);
        self.mesh_timers(node);
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: usize) {
        let now_us = self.now_us;
        let host = &mut self.hosts[node];
        let wanted = host.poll_timeout().map(|at_us| at_us.max(now_us));
        if wanted == host.timer_us {
            return;
        }
        if let Some(at_us) = host.timer_us.take() {
            self.timers.remove(&(at_us, node));
        }
        if let Some(at_us) = wanted {
            self.timers.insert((at_us, node));
        }
        host.timer_us = wanted;
    }

    /// The hosts that must be equal: those that run and that nobody tried to remove.
    pub(super) fn members(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|number| self.hosts[*number].is_up() && !self.targets.contains(number)).collect()
    }

    /// The part of the fleet that each member is in: members can reach each other over members only. Named by its lowest
    /// number.
    pub(super) fn parts(&self) -> BTreeMap<usize, usize> {
        let mut parts: BTreeMap<usize, usize> = self.members().into_iter().map(|node| (node, node)).collect();
        if self.mesh.is_some() {
            // Anyone can dial anyone.
            let first = parts.keys().next().copied().unwrap_or(0);
            parts.values_mut().for_each(|part| *part = first);
            return parts;
        }
        let mut front: Vec<usize> = parts.keys().rev().copied().collect();
        while let Some(node) = front.pop() {
            let part = parts[&node];
            for line in &self.lines_of[node] {
                let (a, b) = self.lines[*line].line.ends;
                let other = if a == node { b } else { a };
                if let Some(of_other) = parts.get_mut(&other).filter(|of_other| **of_other > part) {
                    *of_other = part;
                    front.push(other);
                }
            }
        }
        parts
    }

    fn has_equal_roots(&self, parts: &BTreeMap<usize, usize>) -> bool {
        let mut roots = BTreeMap::new();
        parts.iter().all(|(node, part)| {
            let Some(engine) = &self.hosts[*node].engine else { return true };
            let root = (engine.root(), engine.replica().root_durable());
            *roots.entry(*part).or_insert(root) == root
        })
    }

    /// Waits until the roots are equal, as long as is allowed.
    fn wait_for_equal_roots(&mut self) -> bool {
        let from_us = self.now_us;
        let until_us = from_us + self.plan.bound_ms * 1000;
        let parts = self.parts();
        while self.now_us < until_us {
            self.run_until((self.now_us + POLL_US).min(until_us));
            if self.has_equal_roots(&parts) {
                self.stats.healed_ms = Some((self.now_us - from_us) / 1000);
                return true;
            }
        }
        let what = self.differences();
        self.breach(Oracle::HealsInTime, what);
        false
    }

    /// Which nodes have which roots.
    fn differences(&self) -> String {
        let mut roots: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for number in self.members() {
            if let Some(engine) = &self.hosts[number].engine {
                roots.entry(engine.root().to_string()).or_default().push(number);
            }
        }
        let parts: Vec<String> = roots.values().map(|nodes| format!("{:?}", &nodes[..nodes.len().min(8)])).collect();
        format!("{} roots {} ms after the last fault, on nodes {}", roots.len(), self.plan.bound_ms, parts.join(" "))
    }

    /// Nothing is to be sent any more.
    fn expect_silence(&mut self) {
        self.run_until(self.now_us + GRACE_MS * 1000);
        let before = self.stats.copies + self.stats.statement_copies;
        self.run_until(self.now_us + SILENCE_MS * 1000);
        let sent = self.stats.copies + self.stats.statement_copies - before;
        if sent > 0 {
            self.breach(Oracle::SilenceAfterwards, format!("{sent} frames of payload after all were equal"));
        }
    }
}
