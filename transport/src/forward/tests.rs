use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;
use crate::cost::Cost;

mod bytes;

/// One way over a link.
const DELAY: Duration = Duration::from_millis(5);
/// After so long neighbours see that a node stands still, or is back.
const NOTICED: Duration = Duration::from_millis(300);
/// Nothing of a request is left after that.
const END: Duration = Duration::from_secs(40);

fn key(node: usize) -> PeerKey {
    PeerKey([node as u8; 32])
}

fn number(key: PeerKey) -> usize {
    usize::from(key.0[0])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It stands still for so many milliseconds.
    Freezes(u64),
    Dies,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Ask {
        from: usize,
        to: usize,
        number: u64,
    },
    Message {
        from: usize,
        to: usize,
        message: Message,
    },
    Stops(usize),
    GoesOn(usize),
    /// Its neighbours can use a node, or no longer.
    Noticed(usize, bool),
    Timer(usize),
}

/// How a request ended.
type End = Result<(Duration, Vec<usize>), Unanswered>;

/// A mesh of forwarders in virtual time. What each believes of links further on stays as it was at the beginning.
struct World {
    links: BTreeSet<(usize, usize)>,
    nodes: Vec<(Forwarder, Routes)>,
    /// What a node that stands still has not read yet; none where it runs.
    unread: Vec<Option<Vec<Event>>>,
    is_dead: Vec<bool>,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, usize)>>,
    events: Vec<Event>,
    ends: BTreeMap<u64, Vec<End>>,
}

impl World {
    fn new(count: usize, links: &BTreeSet<(usize, usize)>) -> World {
        let neighbours = |node: usize| -> Vec<PeerKey> {
            let ends = links.iter().filter_map(|(a, b)| match (*a == node, *b == node) {
                (true, _) => Some(key(*b)),
                (_, true) => Some(key(*a)),
                _ => None,
            });
            ends.collect()
        };
        let mut world = World {
            links: links.clone(),
            nodes: Vec::new(),
            unread: vec![None; count],
            is_dead: vec![false; count],
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            ends: BTreeMap::new(),
        };
        for node in 0..count {
            let mut routes = Routes::new(key(node));
            for other in 0..count {
                let links: Vec<_> =
                    neighbours(other).into_iter().map(|peer| (peer, Cost::from_micros(1_000))).collect();
                routes.report(key(other), &links);
            }
            routes.update();
            let mut forwarder = Forwarder::new(key(node));
            forwarder.peers(neighbours(node).into_iter().collect(), &routes);
            world.nodes.push((forwarder, routes));
        }
        world
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.queue.push(Reverse((at, self.events.len())));
        self.events.push(event);
    }

    fn run(&mut self) {
        while let Some(Reverse((at, event))) = self.queue.pop().filter(|Reverse((at, _))| *at <= END) {
            self.now = at;
            self.step(self.events[event].clone());
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Stops(node) => {
                self.unread[node] = Some(Vec::new());
                return;
            }
            Event::GoesOn(node) if !self.is_dead[node] => {
                let unread = self.unread[node].take().unwrap_or_default();
                unread.into_iter().for_each(|event| self.step(event));
                return;
            }
            Event::GoesOn(_) => return,
            Event::Noticed(node, is_well) => {
                let ends: Vec<usize> = self.links.iter().filter_map(|link| other_end(*link, node)).collect();
                ends.into_iter().for_each(|peer| self.noticed(peer, node, is_well));
                return;
            }
            Event::Ask { from, .. } => debug_assert!(self.unread[from].is_none()),
            Event::Message { .. } | Event::Timer(_) => {}
        }
        let (Event::Ask { from: node, .. } | Event::Message { to: node, .. } | Event::Timer(node)) = event else {
            return;
        };
        if let Some(unread) = &mut self.unread[node] {
            return unread.push(event);
        }
        let (forwarder, routes) = &mut self.nodes[node];
        match event {
            Event::Ask { to, number, .. } => forwarder.ask(self.now, number, key(to), vec![to as u8], routes),
            Event::Message { from, message, .. } => {
                assert_eq!(Message::decode(&message.encode()), Ok(message.clone()));
                forwarder.message(self.now, key(from), message, routes).expect("nobody breaks the rules");
            }
            _ => forwarder.timer(self.now),
        }
        self.actions(node);
    }

    fn noticed(&mut self, node: usize, peer: usize, is_well: bool) {
        let (forwarder, routes) = &mut self.nodes[node];
        let mut peers = forwarder.peers.clone();
        if is_well {
            peers.insert(key(peer))
        } else {
            peers.remove(&key(peer))
        };
        forwarder.peers(peers, routes);
        if self.unread[node].is_none() {
            self.actions(node);
        }
    }

    fn actions(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].0.poll_action() {
            match action {
                Action::Send { peer, message } => {
                    let to = number(peer);
                    assert!(other_end((node.min(to), node.max(to)), node).is_some());
                    self.at(self.now + DELAY, Event::Message { from: node, to, message });
                }
                Action::Deliver { id, hops, body } => {
                    assert_eq!(body, [node as u8], "what comes is for this node");
                    self.nodes[node].0.answer(id, hops, vec![body[0], 1]);
                }
                Action::Answered { number: id, hops, body } => {
                    let hops: Vec<usize> = hops.into_iter().map(number).collect();
                    assert_eq!(body, [hops.last().copied().unwrap_or(node) as u8, 1]);
                    let is_link = |pair: &[usize]| self.links.contains(&(pair[0].min(pair[1]), pair[0].max(pair[1])));
                    let path = [&[node][..], &hops].concat();
                    assert!(path.windows(2).all(is_link) && hops.len() <= MAX_HOPS, "{path:?}");
                    self.ends.entry(id).or_default().push(Ok((self.now, hops)));
                }
                Action::Failed { number, reason } => self.ends.entry(number).or_default().push(Err(reason)),
            }
        }
        if let Some(at) = self.nodes[node].0.poll_timeout() {
            self.at(at, Event::Timer(node));
        }
    }

    fn happens(&mut self, at: Duration, node: usize, fault: Fault) {
        self.at(at, Event::Stops(node));
        self.at(at + NOTICED, Event::Noticed(node, false));
        match fault {
            Fault::Dies => self.is_dead[node] = true,
            Fault::Freezes(millis) => {
                let goes_on = at + NOTICED + Duration::from_millis(millis);
                self.at(goes_on, Event::GoesOn(node));
                self.at(goes_on + NOTICED, Event::Noticed(node, true));
            }
        }
    }
}

fn other_end(link: (usize, usize), node: usize) -> Option<usize> {
    match link {
        (a, b) if a == node => Some(b),
        (a, b) if b == node => Some(a),
        _ => None,
    }
}

/// Whether nodes reach each other over nodes that never fail.
fn is_connected(links: &BTreeSet<(usize, usize)>, faulty: &BTreeSet<usize>, from: usize, to: usize) -> bool {
    let (mut seen, mut front) = (BTreeSet::from([from]), vec![from]);
    while let Some(node) = front.pop() {
        for next in links.iter().filter_map(|link| other_end(*link, node)).filter(|next| !faulty.contains(next)) {
            if seen.insert(next) {
                front.push(next);
            }
        }
    }
    seen.contains(&to)
}

fn meshes() -> impl Strategy<Value = (usize, BTreeSet<(usize, usize)>)> {
    (3_usize..=9).prop_flat_map(|count| {
        let tree = proptest::collection::vec(any::<prop::sample::Index>(), count - 1);
        let more = proptest::collection::vec((0..count, 0..count), 0..6);
        (tree, more).prop_map(move |(tree, more)| {
            let mut links: BTreeSet<(usize, usize)> =
                tree.iter().enumerate().map(|(at, parent)| (parent.index(at + 1), at + 1)).collect();
            links.extend(more.into_iter().filter(|(a, b)| a != b).map(|(a, b)| (a.min(b), a.max(b))));
            (count, links)
        })
    })
}

fn faults() -> impl Strategy<Value = Vec<(u64, usize, Fault)>> {
    let fault = prop_oneof![(0_u64..3_000).prop_map(Fault::Freezes), Just(Fault::Dies)];
    proptest::collection::vec((0_u64..500, 0_usize..9, fault), 0..4)
}

proptest! {
    /// Whatever stands still or dies on the way: where there is another way, a request is answered, once, and soon.
    #[test]
    fn requests_are_answered_while_there_is_a_way(
        (count, links) in meshes(),
        faults in faults(),
        asks in proptest::collection::vec((0_u64..500, 0_usize..9, 0_usize..9), 1..8),
    ) {
        let mut world = World::new(count, &links);
        // One fault a node.
        let faults: BTreeMap<usize, (u64, Fault)> =
            faults.into_iter().filter(|fault| fault.1 < count).map(|(at, node, fault)| (node, (at, fault))).collect();
        for (node, (at, fault)) in &faults {
            world.happens(Duration::from_millis(*at), *node, *fault);
        }
        let faulty: BTreeSet<usize> = faults.keys().copied().collect();
        let mut expected = BTreeMap::new();
        for (number, (at, from, to)) in asks.into_iter().enumerate() {
            let (from, to, at) = (from % count, to % count, Duration::from_millis(at));
            if !faulty.contains(&from) {
                world.at(at, Event::Ask { from, to, number: number as u64 });
                let is_certain = !faulty.contains(&to) && is_connected(&links, &faulty, from, to);
                expected.insert(number as u64, (at, is_certain));
            }
        }
        world.run();
        for (number, (at, is_certain)) in expected {
            let ends = world.ends.get(&number).map_or(&[][..], Vec::as_slice);
            prop_assert_eq!(ends.len(), 1, "request {} ended {:?}", number, ends);
            if is_certain {
                let limit = (NOTICED + DELAY * 16) * (faults.len() as u32 + 1);
                prop_assert!(
                    ends[0].as_ref().is_ok_and(|(answered, _)| *answered - at <= limit),
                    "request {} asked at {:?} ended {:?}", number, at, ends,
                );
            }
        }
        let is_done = |(node, (forwarder, _)): (usize, &(Forwarder, Routes))| {
            world.unread[node].is_some() || (forwarder.is_empty() && forwarder.bytes == 0 && forwarder.ends.is_empty())
        };
        prop_assert!(world.nodes.iter().enumerate().all(is_done));
    }
}

/// 0 and 3 are joined by 1 and by 2.
fn square() -> World {
    World::new(4, &BTreeSet::from([(0, 1), (0, 2), (1, 3), (2, 3)]))
}

fn ask(world: &mut World, number: u64, to: usize) {
    world.at(world.now, Event::Ask { from: 0, to, number });
}

fn end_of(world: &World, number: u64) -> End {
    let ends = &world.ends[&number];
    assert_eq!(ends.len(), 1);
    ends[0].clone()
}

#[test]
fn an_answer_says_over_which_nodes_it_came() {
    let mut world = square();
    (0..4).for_each(|to| ask(&mut world, to as u64, to));
    world.run();
    assert_eq!(end_of(&world, 0), Ok((Duration::ZERO, vec![])));
    assert_eq!(end_of(&world, 1), Ok((DELAY * 2, vec![1])));
    assert_eq!(end_of(&world, 3), Ok((DELAY * 4, vec![2, 3])));
}

#[test]
fn equal_ways_are_shared_by_flow_and_dearer_ones_are_not() {
    // 0 and each of 4 to 19 are joined by 1, by 2 and, at twice the cost, over 3 and 20.
    let ends = 4..20_usize;
    let links = ends.clone().flat_map(|end| [(1, end), (2, end), (end, 20)]);
    let mut world = World::new(21, &links.chain([(0, 1), (0, 2), (0, 3), (3, 20)]).collect());
    for end in ends.clone() {
        (0..3).for_each(|again| ask(&mut world, (end * 10 + again) as u64, end));
    }
    world.run();
    let first = |number: usize| end_of(&world, number as u64).expect("an answer").1[0];
    let firsts: Vec<usize> = ends.clone().map(|end| first(end * 10)).collect();
    assert!(
        ends.clone().all(|end| (1..3).all(|again| first(end * 10 + again) == first(end * 10))),
        "a flow keeps its way"
    );
    let shares = [1, 2, 3].map(|hop| firsts.iter().filter(|first| **first == hop).count());
    assert!(shares[0] >= 4 && shares[1] >= 4 && shares[2] == 0, "{shares:?}");
}

#[test]
fn only_who_was_handed_a_request_answers_it() {
    let mut world = square();
    let (forwarder, routes) = &mut world.nodes[0];
    forwarder.ask(Duration::ZERO, 7, key(3), vec![3], routes);
    let Some(Action::Send { peer, .. }) = forwarder.poll_action() else { panic!("it is handed on") };
    let other = if peer == key(1) { key(2) } else { key(1) };
    let id = RequestId { from: key(0), number: 7 };
    let answer = |body: u8| Message::Answer(Answer { id, hops: vec![peer, key(3)], body: vec![body] });
    forwarder.message(Duration::ZERO, other, answer(1), routes).expect("nothing is wrong with the message");
    assert_eq!(forwarder.poll_action(), None, "whoever saw the number can say anything");
    // The first one is given up, and answers yet.
    forwarder.peers(BTreeSet::from([other]), routes);
    assert!(matches!(forwarder.poll_action(), Some(Action::Send { peer: next, .. }) if next == other));
    forwarder.message(Duration::ZERO, peer, answer(2), routes).expect("nothing is wrong with the message");
    assert_eq!(forwarder.poll_action(), Some(Action::Answered { number: 7, hops: vec![peer, key(3)], body: vec![2] }));
}

#[test]
fn a_hop_that_stands_still_is_passed_when_its_neighbour_sees_it() {
    let mut world = square();
    world.happens(Duration::ZERO, 2, Fault::Freezes(10));
    ask(&mut world, 7, 3);
    world.run();
    // Once the first hop goes on it hands on what it has; that is answered too, to a neighbour that waits no more.
    assert_eq!(end_of(&world, 7), Ok((NOTICED + DELAY * 4, vec![1, 3])));
}

#[test]
fn who_knows_no_way_gives_it_back_to_who_does() {
    // 1 is nearer to 4 than 2, but its link to 4 is gone.
    let mut world = World::new(5, &BTreeSet::from([(0, 1), (0, 2), (1, 4), (2, 3), (3, 4)]));
    world.noticed(1, 4, false);
    ask(&mut world, 7, 4);
    world.run();
    assert_eq!(end_of(&world, 7), Ok((DELAY * 8, vec![2, 3, 4])));
    world.noticed(3, 4, false);
    ask(&mut world, 8, 4);
    world.run();
    assert_eq!(end_of(&world, 8), Err(Unanswered::NoWay));
}

#[test]
fn nothing_goes_over_more_links_than_allowed() {
    let line = |count: usize| World::new(count, &(1..count).map(|node| (node - 1, node)).collect());
    let mut world = line(MAX_HOPS + 1);
    ask(&mut world, 7, MAX_HOPS);
    world.run();
    assert!(end_of(&world, 7).is_ok());
    let mut world = line(MAX_HOPS + 2);
    ask(&mut world, 7, MAX_HOPS + 1);
    world.run();
    assert_eq!(end_of(&world, 7), Err(Unanswered::NoWay));
}

#[test]
fn a_request_that_is_not_answered_in_time_has_failed() {
    let mut world = World::new(2, &BTreeSet::from([(0, 1)]));
    world.at(Duration::ZERO, Event::Stops(1));
    ask(&mut world, 7, 1);
    world.run();
    assert_eq!(end_of(&world, 7), Err(Unanswered::Late));
    assert!(world.nodes[0].0.is_empty());
}

fn request(from: usize, number: u64, path: &[usize]) -> Message {
    let id = RequestId { from: key(from), number };
    let path = path.iter().map(|node| key(*node)).collect();
    Message::Request(Request { id, to: key(3), ttl: 2, path, failed: vec![], body: vec![3] })
}

#[test]
fn a_path_that_cannot_be_is_refused_and_changes_nothing() {
    let mut world = square();
    let (forwarder, routes) = &mut world.nodes[1];
    for path in [&[][..], &[2], &[0, 2], &[2, 0], &[0, 1, 0], &[1, 0]] {
        let said = forwarder.message(Duration::ZERO, key(0), request(0, 7, path), routes);
        assert!(said == Err(Malformed) && forwarder.is_empty(), "{path:?}");
    }
    assert_eq!(forwarder.poll_action(), None);
}

#[test]
fn one_neighbour_cannot_take_all_the_room() {
    let mut world = square();
    let (forwarder, routes) = &mut world.nodes[1];
    for number in 0..MAX_UNDER_WAY_OF_PEER as u64 {
        forwarder.message(Duration::ZERO, key(0), request(0, number, &[0]), routes).expect("nobody breaks the rules");
    }
    while forwarder.poll_action().is_some() {}
    forwarder.message(Duration::ZERO, key(0), request(0, 1 << 20, &[0]), routes).expect("nobody breaks the rules");
    let id = RequestId { from: key(0), number: 1 << 20 };
    let back = Message::NoWay(NoWay { id, failed: vec![] });
    assert_eq!(forwarder.poll_action(), Some(Action::Send { peer: key(0), message: back }));
    // Another one has room still.
    let Message::Request(other) = request(2, 1, &[2, 3]) else { unreachable!() };
    forwarder
        .message(Duration::ZERO, key(3), Message::Request(Request { to: key(0), ..other }), routes)
        .expect("nobody breaks the rules");
    assert_eq!(forwarder.len(), MAX_UNDER_WAY_OF_PEER + 1);
    // What is over makes room.
    forwarder.timer(LIFETIME);
    assert!(forwarder.is_empty() && forwarder.poll_timeout().is_none());
}

#[test]
fn an_own_request_beyond_the_limit_fails_at_once() {
    let mut world = square();
    let (forwarder, routes) = &mut world.nodes[0];
    let body = vec![0; MAX_BODY_BYTES];
    let fit = (MAX_UNDER_WAY_BYTES / MAX_BODY_BYTES) as u64;
    (0..=fit).for_each(|number| forwarder.ask(Duration::ZERO, number, key(3), body.clone(), routes));
    assert_eq!(forwarder.len() as u64, fit);
    let last = std::iter::from_fn(|| forwarder.poll_action()).last();
    assert_eq!(last, Some(Action::Failed { number: fit, reason: Unanswered::Busy }));
}

/// Node 1 between 0 and 2, with a limit; what it is handed and what comes of it.
struct Between {
    forwarder: Forwarder,
    routes: Routes,
}

impl Between {
    fn new(bytes_per_s: u64) -> Between {
        let world = World::new(3, &BTreeSet::from([(0, 1), (1, 2)]));
        let (mut forwarder, routes) = world.nodes[1].clone();
        forwarder.limit_relayed(bytes_per_s);
        Between { forwarder, routes }
    }

    /// Whether a request of so many bytes goes on, or is delivered.
    fn takes(&mut self, now: Duration, number: u64, to: usize, bytes: usize) -> bool {
        let id = RequestId { from: key(0), number };
        let path = vec![key(0)];
        let request = Request { id, to: key(to), ttl: 7, path, failed: Vec::new(), body: vec![0; bytes] };
        let message = Message::Request(request);
        self.forwarder.message(now, key(0), message, &self.routes).expect("it keeps to the protocol");
        match self.forwarder.poll_action() {
            Some(Action::Send { peer, message: Message::Request(_) }) => peer == key(2),
            Some(Action::Deliver { .. }) => true,
            Some(Action::Send { peer, message: Message::NoWay(_) }) if peer == key(0) => false,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn beyond_its_share_a_node_gives_requests_back_and_still_answers_for_itself() {
    let mut between = Between::new(1_000);
    let second = Duration::from_secs(1);
    // Two seconds' worth at once after a rest: what is under way, and a burst.
    let taken = (0..10).filter(|number| between.takes(second, *number, 2, 500)).count();
    assert_eq!(taken, 3);
    assert!(between.takes(second, 20, 1, 500), "it is for this node");
    assert!(!between.takes(second, 21, 2, 500));
    let answer = Answer { id: RequestId { from: key(0), number: 0 }, hops: vec![key(2)], body: vec![0; 700] };
    between.forwarder.message(second, key(2), Message::Answer(answer), &between.routes).expect("an answer");
    assert!(matches!(between.forwarder.poll_action(), Some(Action::Send { .. })), "what was handed on is answered");
    assert_eq!(between.forwarder.relayed(), &BTreeMap::from([((key(0), key(2)), 3 * 500 + 700)]));
    assert!(between.takes(second * 4, 22, 2, 500));
    let mut unlimited = Between::new(0);
    assert!((0..100).all(|number| unlimited.takes(second, number, 2, 1_000)));
}
