//! A model of gossipsub on the same topology and work: what the engine's rows stand beside.
//!
//! Its rules are those of gossipsub v1.1 with the defaults of `libp2p-gossipsub` 0.50, on the same lines as the
//! simulator's ([`Session`]: delay, jitter, rate, and loss as a delay of all that is behind):
//!
//! 1. One topic, to which every node subscribes; peers are the nodes that a line links.
//! 2. At its heartbeat, once a second, a node with fewer than D_lo = 5 mesh peers grafts random peers until it has
//!    D = 6. Who has D_hi = 12 refuses, so that nobody has to prune. A graft takes effect at both ends at once.
//! 3. Who writes sends to all its peers (`flood_publish`). Who gets a message for the first time sends it to its mesh
//!    peers at once, but not to the one that brought it, and not to the author.
//! 4. At its heartbeat a node sends `IHAVE` with what it got in the last 3 heartbeats to random peers that are not in
//!    its mesh, D_lazy = 6 or a quarter of them, whichever is more. Who lacks something of it asks with `IWANT`, for
//!    3 s not a second time, and gets what is among the last 5 heartbeats.
//! 5. No scores, so no opportunistic grafting; no `IDONTWANT`, as messages are smaller than its 1,000 bytes.
//!
//! Gossipsub forgets, so an application keeps the changes and repairs by `automerge::sync` over the same lines, in the
//! two messages that it needs at best: when a session comes up, each end sends its heads, and gets all that it lacks in
//! one answer. It asks one neighbour at a time, and what it learns so it does not forward.
//!
//! What is left out favours the model: no time for handshakes or checks, no disk, an end of a session is noticed at
//! once. Cuts of lines are not modelled. One seed gives one run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crdt::sync::{Channel, LinkId};

use crate::sim::measure::{Measured, Sort};
use crate::sim::plan::{Plan, Step};
use crate::sim::random::Random;
use crate::sim::wire::Session;

mod message;

use message::Message;

/// Mesh peers that a node aims at (`mesh_n`).
const D: usize = 6;
/// With fewer it grafts (`mesh_n_low`).
const D_LO: usize = 5;
/// With as many it takes no graft (`mesh_n_high`).
const D_HI: usize = 12;
/// Peers that get an `IHAVE` at a heartbeat, at least (`gossip_lazy`).
const D_LAZY: usize = 6;
/// Of this many peers outside of the mesh one gets an `IHAVE`, at least (`gossip_factor` 0.25).
const GOSSIP_SHARE: usize = 4;
/// Between two heartbeats (`heartbeat_interval`).
const HEARTBEAT_US: u64 = 1_000_000;
/// Heartbeats for which a message can be asked for (`history_length`).
const HISTORY: usize = 5;
/// Heartbeats for which a message is announced (`history_gossip`).
const HISTORY_GOSSIP: usize = 3;
/// So long after an `IWANT` nobody else is asked for the same (`iwant_followup_time`).
const IWANT_US: u64 = 3_000_000;
/// It goes on so long after a plan's end.
const GRACE_US: u64 = 30_000_000;

#[derive(Debug)]
enum Event {
    Step(usize),
    /// A node's heartbeat, of its start of that number.
    Beat(usize, u64),
    /// A session is to come up on a line.
    Up(usize),
    Arrive {
        line: usize,
        session: u64,
        to: usize,
        message: Message,
    },
}

/// A line with its session.
struct Wire {
    ends: (usize, usize),
    is_up: bool,
    is_in_mesh: bool,
    /// Counts sessions: what an earlier one carried is lost.
    number: u64,
    session: Session,
}

impl Wire {
    fn other(&self, node: usize) -> usize {
        if self.ends.0 == node { self.ends.1 } else { self.ends.0 }
    }
}

#[derive(Default)]
struct Node {
    is_up: bool,
    is_gone: bool,
    start: u64,
    lines: Vec<usize>,
    /// What it got in each of the last heartbeats, the current one first.
    history: VecDeque<Vec<usize>>,
    /// Until when nobody else is asked for a message, microseconds.
    asked_us: BTreeMap<usize, u64>,
    /// Lines over which it has still to compare heads, and the one over which it does.
    to_compare: VecDeque<usize>,
    compares: Option<usize>,
}

struct Model<'p> {
    plan: &'p Plan,
    nodes: Vec<Node>,
    wires: Vec<Wire>,
    /// Message → which nodes have it.
    had: Vec<Vec<bool>>,
    queue: BTreeMap<(u64, u64), Event>,
    next: u64,
    now_us: u64,
    chance: Random,
    losses: Random,
    measured: Measured,
}

/// Runs a plan's writes, crashes, starts, joins and leaves.
pub(crate) fn run(plan: &Plan) -> Measured {
    let mut model = Model::new(plan);
    for (number, (at_ms, _)) in plan.steps.iter().enumerate() {
        model.schedule(at_ms * 1000, Event::Step(number));
    }
    let joiners: BTreeSet<usize> = plan.joiners.iter().copied().collect();
    (0..model.nodes.len()).filter(|node| !joiners.contains(node)).for_each(|node| model.start(node));
    let until_us = plan.heal_ms * 1000 + GRACE_US;
    while let Some(((at_us, _), event)) = model.queue.pop_first().filter(|((at_us, _), _)| *at_us <= until_us) {
        model.now_us = at_us;
        model.happen(event);
    }
    model.measured.up_at_end = (0..model.nodes.len()).filter(|node| model.nodes[*node].is_up).collect();
    model.measured
}

impl<'p> Model<'p> {
    fn new(plan: &'p Plan) -> Model<'p> {
        let mut nodes: Vec<Node> = plan.topology.nodes.iter().map(|_| Node::default()).collect();
        for (number, line) in plan.topology.lines.iter().enumerate() {
            nodes[line.ends.0].lines.push(number);
            nodes[line.ends.1].lines.push(number);
        }
        let wire = |(number, ends): (usize, (usize, usize))| Wire {
            ends,
            is_up: false,
            is_in_mesh: false,
            number: 0,
            session: session(number, ends),
        };
        Model {
            plan,
            nodes,
            wires: plan.topology.lines.iter().map(|line| line.ends).enumerate().map(wire).collect(),
            had: Vec::new(),
            queue: BTreeMap::new(),
            next: 0,
            now_us: 0,
            chance: Random::of(plan.seed, 11),
            losses: Random::of(plan.seed, 12),
            measured: Measured::default(),
        }
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        self.next += 1;
        self.queue.insert((at_us, self.next), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Step(number) => {
                let plan = self.plan;
                self.step(&plan.steps[number].1);
            }
            Event::Beat(node, start) if self.nodes[node].start == start && self.nodes[node].is_up => self.beat(node),
            Event::Up(line) => self.bring_up(line),
            Event::Arrive { line, session, to, message } if self.wires[line].number == session => {
                self.arrive(line, to, message);
            }
            Event::Beat(..) | Event::Arrive { .. } => {}
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { node, .. } if self.nodes[*node].is_up => self.publish(*node),
            Step::Crash { node, .. } => self.die(*node),
            Step::Leave { node } => {
                self.nodes[*node].is_gone = true;
                self.die(*node);
            }
            Step::Start { node } | Step::Join { node, .. } => self.start(*node),
            _ => {}
        }
    }

    fn start(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        if state.is_up || state.is_gone {
            return;
        }
        (state.is_up, state.start) = (true, state.start + 1);
        let (start, lines) = (state.start, state.lines.clone());
        let beat_us = self.now_us + self.chance.below(HEARTBEAT_US);
        self.schedule(beat_us, Event::Beat(node, start));
        for line in lines {
            let up_us = self.now_us + self.chance.below(self.plan.oracle.up_ms * 1000 + 1);
            self.schedule(up_us, Event::Up(line));
        }
    }

    fn die(&mut self, node: usize) {
        let Node { start, lines, is_gone, .. } = std::mem::take(&mut self.nodes[node]);
        for line in &lines {
            let wire = &mut self.wires[*line];
            (wire.is_up, wire.is_in_mesh, wire.number) = (false, false, wire.number + 1);
            let other = wire.other(node);
            if self.nodes[other].compares == Some(*line) {
                self.nodes[other].compares = None;
                self.compare_next(other);
            }
        }
        self.nodes[node] = Node { start, lines, is_gone, ..Node::default() };
    }

    fn bring_up(&mut self, line: usize) {
        let wire = &mut self.wires[line];
        let (a, b) = wire.ends;
        if wire.is_up || !self.nodes[a].is_up || !self.nodes[b].is_up {
            return;
        }
        (wire.is_up, wire.number, wire.session) = (true, wire.number + 1, session(line, wire.ends));
        for node in [a, b] {
            self.nodes[node].to_compare.push_back(line);
            self.compare_next(node);
        }
    }

    /// Sends a node's heads over the next line, if no answer is awaited.
    fn compare_next(&mut self, node: usize) {
        while self.nodes[node].compares.is_none() {
            let Some(line) = self.nodes[node].to_compare.pop_front() else { return };
            if self.wires[line].is_up {
                self.nodes[node].compares = Some(line);
                let heads = (0..self.had.len()).filter(|change| self.had[*change][node]).collect();
                self.send(line, node, Message::Heads(heads));
            }
        }
    }

    fn send(&mut self, line: usize, from: usize, message: Message) {
        let wire = &mut self.wires[line];
        if !wire.is_up {
            return;
        }
        let (slot, to, number) = (wire.session.slot_of(from), wire.other(from), wire.number);
        let about = &self.plan.topology.lines[line];
        let passage = wire.session.pass(slot, about, self.now_us, Channel::Data, message.bytes(), &mut self.losses);
        self.measured.send(message.sort(), message.changes() as u64, self.now_us);
        self.schedule(passage.arrives_us, Event::Arrive { line, session: number, to, message });
    }

    fn publish(&mut self, node: usize) {
        let change = self.measured.write(node, self.now_us);
        self.had.push(vec![false; self.nodes.len()]);
        self.had[change][node] = true;
        self.remember(node, change);
        for line in self.nodes[node].lines.clone() {
            self.send(line, node, Message::Publish(change));
        }
    }

    fn remember(&mut self, node: usize, change: usize) {
        let history = &mut self.nodes[node].history;
        match history.front_mut() {
            Some(current) => current.push(change),
            None => history.push_front(vec![change]),
        }
    }

    /// Whether a change is new to a node, which has it now.
    fn take(&mut self, node: usize, change: usize) -> bool {
        if std::mem::replace(&mut self.had[change][node], true) {
            return false;
        }
        self.nodes[node].asked_us.remove(&change);
        self.measured.deliver(change, node, self.now_us);
        true
    }

    fn arrive(&mut self, line: usize, node: usize, message: Message) {
        match message {
            Message::Publish(change) => {
                if self.take(node, change) {
                    self.remember(node, change);
                    self.forward(line, node, change);
                }
            }
            Message::IHave(ids) => self.want(line, node, ids),
            Message::IWant(ids) => {
                let kept: BTreeSet<usize> = self.nodes[node].history.iter().flatten().copied().collect();
                for change in ids.into_iter().filter(|change| kept.contains(change)) {
                    self.send(line, node, Message::Publish(change));
                }
            }
            Message::Heads(heads) => {
                let lacks = |change: &usize| self.had[*change][node] && !heads.contains(change);
                let missing = (0..self.had.len()).filter(lacks).collect();
                self.send(line, node, Message::Missing(missing));
            }
            Message::Missing(changes) => {
                for change in changes {
                    self.take(node, change);
                }
                self.nodes[node].compares = None;
                self.compare_next(node);
            }
        }
    }

    fn forward(&mut self, from: usize, node: usize, change: usize) {
        let author = self.measured.written[change].node;
        for line in self.nodes[node].lines.clone() {
            let wire = &self.wires[line];
            if wire.is_in_mesh && line != from && wire.other(node) != author {
                self.send(line, node, Message::Publish(change));
            }
        }
    }

    fn want(&mut self, line: usize, node: usize, mut ids: Vec<usize>) {
        let (now_us, asked_us) = (self.now_us, &mut self.nodes[node].asked_us);
        ids.retain(|change| !self.had[*change][node] && asked_us.get(change).is_none_or(|until| *until <= now_us));
        if !ids.is_empty() {
            asked_us.extend(ids.iter().map(|change| (*change, now_us + IWANT_US)));
            self.send(line, node, Message::IWant(ids));
        }
    }

    fn mesh_degree(&self, node: usize) -> usize {
        self.nodes[node].lines.iter().filter(|line| self.wires[**line].is_in_mesh).count()
    }

    /// A node's peers outside of its mesh, in random order.
    fn lazy_lines(&mut self, node: usize) -> Vec<usize> {
        let is_lazy = |line: &usize| self.wires[*line].is_up && !self.wires[*line].is_in_mesh;
        let mut lines: Vec<usize> = self.nodes[node].lines.iter().copied().filter(is_lazy).collect();
        for at in (1..lines.len()).rev() {
            lines.swap(at, self.chance.index(at + 1));
        }
        lines
    }

    fn beat(&mut self, node: usize) {
        self.graft(node);
        let announced = self.nodes[node].history.iter().take(HISTORY_GOSSIP);
        let ids: Vec<usize> = announced.flatten().copied().collect();
        if !ids.is_empty() {
            let lines = self.lazy_lines(node);
            for line in lines.iter().take(D_LAZY.max(lines.len() / GOSSIP_SHARE)) {
                self.send(*line, node, Message::IHave(ids.clone()));
            }
        }
        let state = &mut self.nodes[node];
        state.history.push_front(Vec::new());
        state.history.truncate(HISTORY);
        let start = state.start;
        self.schedule(self.now_us + HEARTBEAT_US, Event::Beat(node, start));
    }

    fn graft(&mut self, node: usize) {
        let degree = self.mesh_degree(node);
        if degree >= D_LO {
            return;
        }
        let mut wanted = D - degree;
        for line in self.lazy_lines(node) {
            if wanted > 0 && self.mesh_degree(self.wires[line].other(node)) < D_HI {
                self.wires[line].is_in_mesh = true;
                self.measured.send(Sort::Digest, 0, self.now_us);
                wanted -= 1;
            }
        }
    }
}

fn session(line: usize, ends: (usize, usize)) -> Session {
    Session::new(line, [(ends.0, LinkId(0)), (ends.1, LinkId(1))])
}

#[cfg(test)]
mod tests;
