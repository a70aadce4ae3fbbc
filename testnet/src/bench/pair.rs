//! Two shipped engines on stores in memory and one link between them, in virtual time.
//!
//! The link has a delay and a rate each way. A session has two streams, each of which takes [`STREAM_BYTES`] of frames that
//! have not left the sender's end; of what waits there control frames go first. Only frames are counted: what a transport
//! adds is not there. A disk takes no time, and neither does an engine.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{bail, ensure};
use crdt::id::{Key, Time};
use crdt::sync::{Channel, Effect, Engine, Input, LinkId, Reply, RequestId};

pub(crate) use self::line::Wire;
use self::line::{Line, Passed};
pub(crate) use self::traffic::{Traffic, kind};
use crate::sim::disk::Disk;

mod line;
mod traffic;

/// Bytes that a stream takes before they have left.
const STREAM_BYTES: usize = 64 * 1024;
/// When virtual time begins, microseconds.
const START_US: u64 = 1_000_000;
/// Most things that may happen in one wait: beyond, the two never come to rest.
const EVENTS_MAX: u64 = 10_000_000;

/// Frames that an engine sends.
pub(crate) type Sent = Vec<(Channel, Vec<u8>)>;

/// An engine, its disk and the answers that it gave.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) disk: Disk,
    pub(crate) key: Key,
    replies: BTreeMap<RequestId, Reply>,
    next_request: u64,
}

impl Node {
    pub(crate) fn new(engine: Engine, key: Key, disk: Disk) -> Node {
        Node { engine, disk, key, replies: BTreeMap::new(), next_request: 1 }
    }

    /// Does what a node does with an input; returns what is to be sent. What no honest pair should see is an error.
    pub(crate) fn handle(&mut self, now_us: u64, input: Input) -> anyhow::Result<Sent> {
        let mut sent = Sent::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.engine.handle(Time(now_us), input, &self.disk);
            while let Some(effect) = self.engine.poll_effect() {
                match effect {
                    Effect::Persist { batch, token, .. } => {
                        let number = self.disk.apply(&batch);
                        self.disk.sync(number);
                        inputs.push_back(Input::Persisted(token));
                    }
                    Effect::Send { channel, bytes, .. } => sent.push((channel, bytes)),
                    Effect::Reply { request, reply } => {
                        self.replies.insert(request, reply);
                    }
                    Effect::Close { reason, .. } => bail!("a session was closed: {reason}"),
                    Effect::Audit(record) => bail!("something was refused: {}", record.reason),
                    Effect::Fault(error) => bail!(error),
                    _ => {}
                }
            }
        }
        Ok(sent)
    }

    /// Makes a request and returns its answer, which is there at once.
    pub(crate) fn request(
        &mut self,
        now_us: u64,
        sent: &mut Sent,
        input: impl FnOnce(RequestId) -> Input,
    ) -> anyhow::Result<Reply> {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        sent.extend(self.handle(now_us, input(request))?);
        self.replies.remove(&request).ok_or_else(|| anyhow::anyhow!("a request was not answered at once"))
    }
}

/// Two nodes and the link between them.
pub(crate) struct Pair {
    pub(crate) nodes: [Node; 2],
    now_us: u64,
    wire: Wire,
    /// The direction from each end.
    lines: [Line; 2],
    /// The session, while there is one, under one number at both ends.
    link: Option<LinkId>,
    sessions: u64,
    traffic: Traffic,
}

impl Pair {
    /// Two nodes, not linked yet.
    pub(crate) fn new(wire: Wire, nodes: [Node; 2]) -> Pair {
        let lines = [Line::new(wire), Line::new(wire)];
        Pair { nodes, now_us: START_US, wire, lines, link: None, sessions: 0, traffic: Traffic::default() }
    }

    /// What was sent since this was asked last.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// What was sent since then, so far.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether both have the same.
    pub(crate) fn is_equal(&self) -> bool {
        self.nodes[0].engine.root() == self.nodes[1].engine.root()
    }

    /// A session comes up at both ends at once.
    pub(crate) fn link_up(&mut self) -> anyhow::Result<()> {
        self.cut()?;
        self.sessions += 1;
        let link = LinkId(self.sessions);
        self.link = Some(link);
        for number in 0..2 {
            let peer = self.nodes[1 - number].key;
            self.input(number, Input::LinkUp { link, peer, dialled: number == 0 })?;
            for channel in [Channel::Control, Channel::Data] {
                self.input(number, Input::Writable { link, channel, bytes: STREAM_BYTES })?;
            }
        }
        Ok(())
    }

    /// The session is gone, and what was on its way.
    pub(crate) fn cut(&mut self) -> anyhow::Result<()> {
        let Some(link) = self.link.take() else { return Ok(()) };
        self.lines = [Line::new(self.wire), Line::new(self.wire)];
        (0..2).try_for_each(|number| self.input(number, Input::LinkDown(link)))
    }

    /// Lets a node do something, and sends what comes of it.
    pub(crate) fn act(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Node, u64) -> anyhow::Result<Sent>,
    ) -> anyhow::Result<()> {
        let sent = act(&mut self.nodes[number], self.now_us)?;
        ensure!(sent.is_empty() || self.link.is_some(), "a node sends without a session");
        for (channel, bytes) in sent {
            self.traffic.note(number, &bytes);
            self.lines[number].send(self.now_us, channel, bytes);
        }
        Ok(())
    }

    fn input(&mut self, number: usize, input: Input) -> anyhow::Result<()> {
        self.act(number, |node, now_us| node.handle(now_us, input))
    }

    /// Does the next thing that is due by `until_us`; whether there was one.
    fn step(&mut self, until_us: u64) -> anyhow::Result<bool> {
        let lines = self.lines.iter().enumerate().filter_map(|(from, line)| line.next_us().map(|at| (at, false, from)));
        let timer = |node: &Node| node.engine.poll_timeout().map(|Time(at)| at);
        let timers =
            self.nodes.iter().enumerate().filter_map(|(number, node)| timer(node).map(|at| (at, true, number)));
        // What lines bring comes before what time brings.
        let next = lines.chain(timers).map(|(at, is_timer, of)| (at.max(self.now_us), is_timer, of)).min();
        let Some((at, is_timer, of)) = next.filter(|(at, ..)| *at <= until_us) else { return Ok(false) };
        self.now_us = at;
        if is_timer {
            self.input(of, Input::Timer)?;
            return Ok(true);
        }
        match (self.lines[of].pass(at), self.link) {
            (Some(Passed::Left { channel, bytes }), Some(link)) => {
                self.input(of, Input::Writable { link, channel, bytes })?;
            }
            (Some(Passed::Arrived { channel, bytes }), Some(link)) => {
                self.input(1 - of, Input::Frame { link, channel, bytes })?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Waits until something holds; returns how long that took, microseconds.
    pub(crate) fn run_until(&mut self, limit_us: u64, holds: impl Fn(&Pair) -> bool) -> anyhow::Result<u64> {
        let start_us = self.now_us;
        for _ in 0..EVENTS_MAX {
            if holds(self) {
                return Ok(self.now_us - start_us);
            }
            ensure!(self.step(start_us + limit_us)?, "what is waited for does not come within {limit_us} µs");
        }
        bail!("the pair never comes to rest")
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, millis: u64) -> anyhow::Result<()> {
        let until_us = self.now_us + millis * 1000;
        for _ in 0..EVENTS_MAX {
            if !self.step(until_us)? {
                self.now_us = until_us;
                return Ok(());
            }
        }
        bail!("the pair never comes to rest")
    }
}
