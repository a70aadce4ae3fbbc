//! Frames that are taken together, judged ahead or not, come to the same as frames one by one.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::fleet::{Fleet, key_of};
use crate::change::{LogName, Run};
use crate::fixture::{Rng, Writer, devices_log, operators_log};
use crate::id::Time;
use crate::statement::{Body, Removal, StatementParts};
use crate::store::MemoryStore;
use crate::sync::frame::{
    Changes, FRAME_BYTES_MAX, Frame, Hello, Name, PROTOCOL_RANGE, Place, PlaceOf, Scope, Statement,
};
use crate::sync::{Changed, Channel, Config, Effect, Engine, Input, Judged, LinkFrame, LinkId, RequestId, Token};

const NOW: Time = Time(1_000_000);
const LINKS: [LinkId; 2] = [LinkId(1), LinkId(2)];
/// The receiver, its two peers, and two that become members on the way.
const DEVICES: usize = 5;

/// An engine with its store, and what can be seen of it.
struct Receiver {
    engine: Engine,
    store: MemoryStore,
    changed: Vec<Changed>,
    audits: Vec<String>,
    /// Most batches that are reported later than the next input: reads see them, and they are on their way to the disk.
    behind_max: usize,
    behind: VecDeque<Token>,
}

fn framed(link: LinkId, frame: &Frame) -> LinkFrame {
    LinkFrame { link, channel: frame.channel(), bytes: frame.encode() }
}

impl Receiver {
    fn new(fleet: &Fleet) -> Receiver {
        let store = MemoryStore::default();
        let config = Config { fleet: fleet.id, key: fleet.devices[0].clone(), incarnation: 7, seed: 5 };
        let engine = Engine::open(config, &store).unwrap();
        let mut receiver =
            Receiver { engine, store, changed: Vec::new(), audits: Vec::new(), behind_max: 0, behind: VecDeque::new() };
        for number in 0..3 {
            let statements = fleet.statements_of(number);
            receiver.input(Input::Statements { request: RequestId(number as u64), statements });
        }
        for (link, number) in LINKS.into_iter().zip(1..) {
            receiver.input(Input::LinkUp { link, peer: key_of(&fleet.devices[number]), dialled: true });
            receiver.input(Input::Writable { link, channel: Channel::Control, bytes: 1 << 20 });
            let root = receiver.engine.root();
            let scope = Scope { name: "fleet".to_owned(), root, generation: 1, cursor: None };
            let hello = Hello {
                protocol: PROTOCOL_RANGE,
                fleet: fleet.id,
                chain: Vec::new(),
                scopes: vec![scope],
                frame_bytes_max: FRAME_BYTES_MAX as u32,
            };
            let place = Place { generation: 1, position: 0 };
            let place = PlaceOf { place, items_bits: 0, is_equal: false };
            receiver.one_by_one(&[framed(link, &Frame::Hello(hello)), framed(link, &Frame::Place(place))]);
        }
        receiver
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(NOW, input, &self.store);
        self.effects();
    }

    fn effects(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { batch, token, .. } => {
                    self.store.apply(&batch);
                    self.behind.push_back(token);
                    self.report(self.behind_max);
                }
                Effect::Changed(changed) => self.changed.push(changed),
                Effect::Audit(record) => self.audits.push(record.reason),
                Effect::Fault(error) => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Reports what was applied, up to this many batches.
    fn report(&mut self, behind_max: usize) {
        while self.behind.len() > behind_max {
            let token = self.behind.pop_front().unwrap();
            self.engine.handle(NOW, Input::Persisted(token), &self.store);
        }
    }

    fn one_by_one(&mut self, frames: &[LinkFrame]) {
        for LinkFrame { link, channel, bytes } in frames.iter().cloned() {
            self.input(Input::Frame { link, channel, bytes });
        }
    }

    /// Takes parts of the frames together; `judge` says which documents of each part are judged ahead, and where.
    fn together(&mut self, parts: &[&[LinkFrame]], judge: impl Fn(&Receiver, &[LinkFrame]) -> Vec<Judged>) {
        for part in parts {
            let judged = judge(self, part);
            self.input(Input::Frames { frames: part.to_vec(), judged });
        }
    }

    fn judge_on(&self, frames: &[LinkFrame], threads: usize) -> Vec<Judged> {
        let (foresight, store) = (self.engine.foresee(frames), &self.store);
        let every = |first: usize| (first..foresight.documents()).step_by(threads);
        let work = |first: usize| every(first).map(|at| foresight.judge(at, store)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// Authors of logs, some of which fork, take the place of others, or build on each other.
fn authors(fleet: &Fleet) -> Vec<Writer> {
    let own = |number: usize| {
        let key = fleet.devices[number].clone();
        let log = devices_log(&key, 1);
        Writer::new(&fleet.id, key, log)
    };
    let again = |number: usize| {
        let key = fleet.devices[number].clone();
        let log = LogName { incarnation: 2, ..devices_log(&key, 1) };
        Writer::new(&fleet.id, key, log)
    };
    let operator = |number: usize| {
        let key = fleet.operators[number].clone();
        let log = operators_log(&key);
        Writer::new(&fleet.id, key, log)
    };
    vec![own(1), own(1), again(1), own(2), own(3), own(4), operator(0), operator(1)]
}

/// Signed runs in the order in which they were made.
fn history(fleet: &Fleet, random: &mut Rng, count: usize) -> Vec<Run> {
    let mut authors = authors(fleet);
    let mut runs: Vec<Run> = Vec::new();
    for turn in 0..count {
        let at = random.below(authors.len());
        if at >= 6 && random.chance(50) {
            let (first, second) = authors.split_at_mut(7);
            let (own, other) = if at == 6 { (&mut first[6], &mut second[0]) } else { (&mut second[0], &mut first[6]) };
            own.merge(other);
        }
        let mut run = authors[at].set(["a", "b", "c"][random.below(3)], turn as i64);
        let last = runs.iter().rposition(|before| before.log == run.log);
        // Some runs have several changes; what several may write has one each.
        if at < 6
            && random.chance(30)
            && let Some(before) = last.filter(|last| runs[*last].last_seq() + 1 == run.first_seq)
        {
            run.first_seq = runs[before].first_seq;
            run.changes.splice(0..0, runs[before].changes.iter().cloned());
        }
        runs.push(run);
    }
    runs
}

fn statements(fleet: &Fleet) -> Vec<StatementParts> {
    let removal = Removal { device: fleet.device_id(2), reason: "lost".to_owned() };
    let joins = [3, 4].into_iter().flat_map(|number| fleet.statements_of(number));
    joins.chain([fleet.sign(Body::Removal(removal))]).collect()
}

/// What two peers send: most of it good.
fn frames(fleet: &Fleet, seed: u64, count: usize) -> Vec<LinkFrame> {
    let random = &mut Rng(seed);
    let mut payload: Vec<Frame> = Vec::new();
    let mut names: [Vec<LogName>; 2] = [Vec::new(), Vec::new()];
    let mut frames = Vec::new();
    let mut runs = history(fleet, random, count);
    for _ in 0..count / 4 {
        let at = random.below(runs.len());
        match random.below(3) {
            0 => runs.swap(at, (at + 1).min(count - 1)),
            1 => runs[at].signature.0[random.below(64)] ^= 1,
            _ => {
                let copy = runs[at].clone();
                runs.insert(random.below(runs.len()), copy);
            }
        }
    }
    let mut statements = statements(fleet);
    statements.truncate(random.below(statements.len() + 1));
    let mut statements = statements.into_iter();
    for run in runs {
        if random.chance(20)
            && let Some(parts) = statements.next()
        {
            payload.push(Frame::Statement(Statement { origin: None, parts }));
        }
        let side = random.below(2);
        let known = names[side].iter().position(|log| *log == run.log);
        let number = known.unwrap_or(names[side].len()) as u32;
        if known.is_none() {
            names[side].push(run.log.clone());
            payload.push(Frame::Name(Name { number, log: run.log.clone() }));
        }
        let Run { first_seq, changes, signature, .. } = run;
        payload.push(Frame::Changes(Changes { number, first_seq, changes, signature }));
        if random.chance(2) {
            payload.push(Frame::Probe(1));
        }
        frames.extend(payload.drain(..).map(|frame| framed(LINKS[side], &frame)));
    }
    frames
}

/// Cuts frames into parts of random lengths.
fn parts<'a>(frames: &'a [LinkFrame], random: &mut Rng) -> Vec<&'a [LinkFrame]> {
    let mut rest = frames;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, later) = rest.split_at((1 + random.below(40)).min(rest.len()));
        parts.push(part);
        rest = later;
    }
    parts
}

proptest! {
    #![proptest_config(crate::fixture::cases(64))]

    #[test]
    fn frames_together_are_frames_one_by_one(seed in any::<u64>(), count in 8usize..80) {
        let fleet = Fleet::new(DEVICES);
        let frames = frames(&fleet, seed, count);
        let mut single = Receiver::new(&fleet);
        single.one_by_one(&frames);
        for (threads, behind_max) in [(0, 0), (1, 0), (2, 0), (4, 0), (0, 1), (2, 1), (2, 2)] {
            let mut receiver = Receiver::new(&fleet);
            receiver.behind_max = behind_max;
            let parts = parts(&frames, &mut Rng(seed));
            receiver.together(&parts, |receiver, part| match threads {
                0 => Vec::new(),
                threads => receiver.judge_on(part, threads),
            });
            receiver.report(0);
            receiver.effects();
            prop_assert_eq!(receiver.engine.root(), single.engine.root());
            prop_assert_eq!(&receiver.changed, &single.changed);
            prop_assert_eq!(&receiver.audits, &single.audits);
            prop_assert_eq!(receiver.engine.pending(), single.engine.pending());
            prop_assert!(receiver.store == single.store, "the stores differ");
        }
    }
}

/// The property above would hold as well if no judgement were ever used, or if nothing were ever wrong.
#[test]
fn judgements_are_used_and_things_go_wrong() {
    let fleet = Fleet::new(DEVICES);
    let frames = frames(&fleet, 3, 200);
    let receiver = Receiver::new(&fleet);
    let foresight = receiver.engine.foresee(&frames);
    assert!(foresight.documents() >= 4, "{foresight:?}");
    let mut late = Receiver::new(&fleet);
    let judged = late.judge_on(&frames, 2);
    late.input(Input::Timer);
    let mut single = Receiver::new(&fleet);
    single.one_by_one(&frames);
    late.input(Input::Frames { frames, judged });
    assert_eq!(late.engine.root(), single.engine.root(), "judgements of an earlier turn are not used");
    assert!(single.changed.len() > 20 && single.audits.len() > 3, "{:?} {:?}", single.changed.len(), single.audits);
}
