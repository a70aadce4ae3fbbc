//! Fleets in virtual time: every node with its overlay and its routes, and the round trips between them.

use super::*;
use crate::cost::Cost;

const STEP: Duration = Duration::from_millis(50);
/// A dial that nobody answers is over, as in the swarm.
const NO_ANSWER: Duration = Duration::from_secs(8);
/// Neighbours suspect a dead node, and close the link.
const NOTICED: Duration = Duration::from_millis(500);
const EVICTED: Duration = Duration::from_secs(7);
/// Backoff of dials.
const BACKOFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
const MEASURED_EVERY: Duration = Duration::from_secs(8);

struct Node {
    overlay: Overlay,
    routes: Routes,
    is_dead: bool,
    /// How often a dial failed in a row, and when the next one may be.
    tries: BTreeMap<usize, (u32, Duration)>,
    /// When dials end.
    dials: BTreeMap<usize, Duration>,
    /// Something has happened since it chose.
    is_due: bool,
}

struct Fleet {
    nodes: Vec<Node>,
    zones: Vec<usize>,
    /// Of the nodes: which part of a network that is cut they are in.
    parts: Vec<usize>,
    /// Links that are up, with when they are measured next.
    links: BTreeMap<(usize, usize), Duration>,
    /// Those who suspect a link to a dead node, and until when.
    suspects: BTreeMap<(usize, usize), Duration>,
    now: Duration,
    dials: u64,
}

fn key(node: usize) -> PeerKey {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&(node as u64).to_be_bytes());
    PeerKey(key)
}

fn number(key: &PeerKey) -> usize {
    u64::from_be_bytes(key.0[..8].try_into().expect("eight bytes")) as usize
}

fn ends(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Fleet {
    fn new(count: usize, zones: usize) -> Fleet {
        let zone = |node: usize| node % zones;
        let nodes = (0..count).map(|node| {
            let others = (0..count).filter(|other| *other != node);
            let mut overlay = Overlay::new(key(node), node as u64);
            overlay
                .members(zone(node).to_string(), others.map(|other| (key(other), zone(other).to_string())).collect());
            let routes = Routes::new(key(node));
            Node { overlay, routes, is_dead: false, tries: BTreeMap::new(), dials: BTreeMap::new(), is_due: true }
        });
        Fleet {
            nodes: nodes.collect(),
            zones: (0..count).map(zone).collect(),
            parts: vec![0; count],
            links: BTreeMap::new(),
            suspects: BTreeMap::new(),
            now: Duration::ZERO,
            dials: 0,
        }
    }

    /// A round trip, microseconds: within a zone 1 to 9 ms, else 60 to 200.
    fn rtt(&self, a: usize, b: usize) -> u64 {
        let (a, b) = ends(a, b);
        let scatter = (a as u64 * 7919 + b as u64 * 104_729) % 1000;
        match self.zones[a] == self.zones[b] {
            true => 1_000 + scatter * 8,
            false => 60_000 + (self.zones[a] + self.zones[b]) as u64 * 20_000 + scatter * 20,
        }
    }

    fn run(&mut self, for_so_long: Duration) {
        let end = self.now + for_so_long;
        while self.now < end {
            self.now += STEP;
            self.measure();
            self.evict();
            (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_dead).collect::<Vec<_>>().into_iter().for_each(
                |node| {
                    self.end_dials(node);
                    self.choose(node);
                },
            );
        }
    }

    fn measure(&mut self) {
        let due: Vec<(usize, usize)> =
            self.links.iter().filter(|(_, at)| **at <= self.now).map(|(link, _)| *link).collect();
        for (a, b) in due {
            let rtt = self.rtt(a, b);
            for (node, peer) in [(a, b), (b, a)] {
                self.nodes[node].overlay.measured(key(peer), rtt);
                self.nodes[node].is_due = true;
            }
            self.links.insert((a, b), self.now + MEASURED_EVERY);
        }
    }

    fn evict(&mut self) {
        for ((node, peer), _) in self.suspects.extract_if(.., |_, at| *at <= self.now) {
            self.nodes[node].overlay.down(self.now, key(peer));
            self.nodes[node].is_due = true;
        }
    }

    fn end_dials(&mut self, node: usize) {
        let ended: Vec<usize> =
            self.nodes[node].dials.iter().filter(|(_, at)| **at <= self.now).map(|(peer, _)| *peer).collect();
        for peer in ended {
            self.nodes[node].dials.remove(&peer);
            self.nodes[node].is_due = true;
            let is_answered = !self.nodes[peer].is_dead && self.parts[node] == self.parts[peer];
            if !is_answered {
                self.nodes[node].overlay.failed(key(peer));
                let (failures, at) = self.nodes[node].tries.entry(peer).or_default();
                *at = self.now + (BACKOFF[0] * (1 << (*failures).min(10))).min(BACKOFF[1]);
                *failures += 1;
            } else if self.links.contains_key(&ends(node, peer)) {
                self.nodes[node].overlay.failed(key(peer));
            } else {
                self.nodes[node].tries.remove(&peer);
                self.nodes[node].overlay.up(self.now, key(peer));
                self.nodes[peer].overlay.up(self.now, key(node));
                self.links.insert(ends(node, peer), self.now + Duration::from_micros(self.rtt(node, peer)));
                self.reported(&[node, peer]);
            }
        }
    }

    fn choose(&mut self, node: usize) {
        let now = self.now;
        let Node { overlay, routes, tries, is_due, .. } = &mut self.nodes[node];
        let retries = tries.values().any(|(_, at)| (*at..*at + STEP).contains(&now)) && overlay.is_short();
        if !std::mem::take(is_due) && !retries && overlay.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let can_dial = |peer: &PeerKey| tries.get(&number(peer)).is_none_or(|(_, at)| *at <= now);
        let has_failed = |peer: &PeerKey| tries.contains_key(&number(peer));
        overlay.choose(now, &Surroundings { routes, can_dial: &can_dial, has_failed: &has_failed });
        let dropped: Vec<PeerKey> = std::iter::from_fn(|| overlay.poll_drop()).map(|(peer, _)| peer).collect();
        let wanted: Vec<PeerKey> = overlay.wanted().keys().copied().collect();
        for peer in wanted {
            self.dials += 1;
            self.nodes[node].overlay.dialled(now, peer);
            let takes = Duration::from_micros(self.rtt(node, number(&peer)));
            let is_answered = !self.nodes[number(&peer)].is_dead && self.parts[node] == self.parts[number(&peer)];
            self.nodes[node].dials.insert(number(&peer), now + if is_answered { takes } else { NO_ANSWER });
        }
        dropped.into_iter().for_each(|peer| self.cut(node, number(&peer)));
    }

    fn cut(&mut self, a: usize, b: usize) {
        if self.links.remove(&ends(a, b)).is_some() {
            self.nodes[a].overlay.down(self.now, key(b));
            self.nodes[b].overlay.down(self.now, key(a));
            self.reported(&[a, b]);
        }
    }

    fn neighbours(&self, node: usize) -> Vec<usize> {
        let others = self.links.keys().filter(|(a, b)| *a == node || *b == node);
        others.map(|(a, b)| if *a == node { *b } else { *a }).collect()
    }

    /// All that live in its part hear what these nodes say of their links.
    fn reported(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.nodes[*node].is_due = true);
        for node in nodes {
            let links: Vec<(PeerKey, Cost)> = self
                .neighbours(*node)
                .into_iter()
                .map(|peer| (key(peer), Cost::from_micros(self.rtt(*node, peer) / 2)))
                .collect();
            let part = self.parts[*node];
            for hears in (0..self.nodes.len()).filter(|other| self.parts[*other] == part) {
                self.nodes[hears].routes.report(key(*node), &links);
            }
        }
        self.nodes.iter_mut().for_each(|node| drop(node.routes.update()));
    }

    fn kill(&mut self, nodes: impl IntoIterator<Item = usize>) {
        let dead: Vec<usize> = nodes.into_iter().collect();
        dead.iter().for_each(|node| self.nodes[*node].is_dead = true);
        self.run(NOTICED);
        for node in dead {
            for peer in self.neighbours(node) {
                self.links.remove(&ends(node, peer));
                self.nodes[peer].overlay.suspected(key(node), true);
                self.suspects.insert((peer, node), self.now + EVICTED);
                self.reported(&[peer]);
            }
        }
    }

    /// Cuts the network between two halves, or heals it.
    fn split(&mut self, is_cut: bool) {
        let halves = if is_cut { 2 } else { 1 };
        self.parts = (0..self.nodes.len()).map(|node| node * halves / self.nodes.len()).collect();
        let across: Vec<(usize, usize)> =
            self.links.keys().filter(|(a, b)| self.parts[*a] != self.parts[*b]).copied().collect();
        across.into_iter().for_each(|(a, b)| self.cut(a, b));
    }

    /// The share of those that live that can be reached from the largest part.
    fn connected(&self) -> f64 {
        let alive: BTreeSet<usize> = (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_dead).collect();
        let (mut left, mut largest) = (alive.clone(), 0);
        while let Some(first) = left.pop_first() {
            let (mut front, mut size) = (vec![first], 1);
            while let Some(node) = front.pop() {
                for next in self.neighbours(node) {
                    if left.remove(&next) {
                        size += 1;
                        front.push(next);
                    }
                }
            }
            largest = largest.max(size);
        }
        largest as f64 / alive.len() as f64
    }

    fn degrees(&self) -> Vec<usize> {
        let alive = (0..self.nodes.len()).filter(|node| !self.nodes[*node].is_dead);
        alive.map(|node| self.neighbours(node).len()).collect()
    }
}

#[test]
fn a_small_fleet_is_linked_in_full() {
    for count in [1, 2, FULL + 1] {
        let mut fleet = Fleet::new(count, 3);
        fleet.run(Duration::from_secs(5));
        assert_eq!(fleet.links.len(), count * (count - 1) / 2);
        assert!(fleet.nodes.iter().all(|node| node.overlay.poll_timeout().is_none()));
    }
}

#[test]
fn a_large_fleet_has_about_twelve_links_a_node_into_other_zones_too() {
    let mut fleet = Fleet::new(80, 5);
    fleet.run(Duration::from_secs(60));
    let degrees = fleet.degrees();
    assert!(degrees.iter().all(|degree| (8..=DEGREE_MAX + 1).contains(degree)), "{degrees:?}");
    assert_eq!(fleet.connected(), 1.0);
    for node in 0..80 {
        let zones: BTreeSet<usize> = fleet.neighbours(node).into_iter().map(|peer| fleet.zones[peer]).collect();
        assert!(zones.len() > ZONES, "{node}: {zones:?}");
    }
}

#[test]
fn trials_find_near_ones_and_the_mesh_comes_to_rest() {
    let mut fleet = Fleet::new(40, 2);
    // The eighth nearest of each in its zone, and of those that it is linked with there.
    let eighth = |mut rtts: Vec<u64>| {
        rtts.sort_unstable();
        rtts[7.min(rtts.len() - 1)] as f64
    };
    let excess = |fleet: &Fleet| {
        let all = (0..40).map(|node| {
            let near = |others: Vec<usize>| {
                let others =
                    others.into_iter().filter(|other| *other != node && fleet.zones[*other] == fleet.zones[node]);
                eighth(others.map(|other| fleet.rtt(node, other)).collect())
            };
            near(fleet.neighbours(node)) / near((0..40).collect())
        });
        all.sum::<f64>() / 40.0
    };
    fleet.run(Duration::from_secs(60));
    let first = excess(&fleet);
    fleet.run(Duration::from_secs(3_600));
    let (later, before) = (excess(&fleet), fleet.links.clone());
    assert!(later < first && later < 2.0, "{first} {later}");
    fleet.run(Duration::from_secs(120));
    let kept = before.keys().filter(|link| fleet.links.contains_key(link)).count();
    assert!(kept * 10 >= before.len() * 9, "{kept} of {}", before.len());
}

#[test]
fn what_is_left_after_most_died_is_one_mesh_again_within_five_seconds() {
    let mut fleet = Fleet::new(100, 4);
    fleet.run(Duration::from_secs(60));
    fleet.kill((0..100).filter(|node| node % 5 != 0));
    fleet.run(Duration::from_secs(5));
    assert_eq!(fleet.connected(), 1.0);
}

#[test]
fn halves_that_were_apart_find_each_other() {
    let mut fleet = Fleet::new(60, 3);
    fleet.run(Duration::from_secs(60));
    fleet.split(true);
    fleet.run(Duration::from_secs(120));
    assert_eq!(fleet.connected(), 0.5);
    let before = fleet.dials;
    fleet.run(Duration::from_secs(60));
    let a_second = (fleet.dials - before) as f64 / 60.0;
    assert!(a_second < 2.5 * f64::from(ISLANDS_A_SECOND), "{a_second} dials a second in a fleet that is cut apart");
    fleet.split(false);
    fleet.run(Duration::from_secs(10));
    assert_eq!(fleet.connected(), 1.0);
}

#[test]
fn a_bridge_is_kept() {
    let mut overlay = Overlay::new(key(0), 1);
    overlay.members("a".to_owned(), (1..40).map(|peer| (key(peer), "a".to_owned())).collect());
    let mut routes = Routes::new(key(0));
    let links: Vec<(PeerKey, Cost)> = (1..20).map(|peer| (key(peer), Cost::from_micros(1_000))).collect();
    routes.report(key(0), &links);
    // All but the farthest are linked with the first one as well.
    let hub: Vec<(PeerKey, Cost)> = (2..19).chain([0]).map(|peer| (key(peer), Cost::from_micros(1_000))).collect();
    routes.report(key(1), &hub);
    (2..19).for_each(|peer| {
        routes.report(key(peer), &[(key(0), Cost::from_micros(1_000)), (key(1), Cost::from_micros(1_000))]);
    });
    routes.report(key(19), &[(key(0), Cost::from_micros(1_000))]);
    routes.update();
    for peer in 1..20 {
        overlay.up(Duration::ZERO, key(peer));
        overlay.measured(key(peer), 1_000 * peer as u64);
    }
    let around = Surroundings { routes: &routes, can_dial: &|_| false, has_failed: &|_| false };
    overlay.choose(YOUNG / 2, &around);
    assert_eq!(overlay.poll_drop(), None, "all are young");
    overlay.choose(YOUNG, &around);
    let (dropped, why) = overlay.poll_drop().expect("nineteen are too many");
    assert!(number(&dropped) != 19 && number(&dropped) > 10, "{dropped}");
    assert_eq!(why, LetGo::TooMany);
}

#[test]
fn of_a_trial_and_the_farthest_link_one_goes() {
    for (rtt_micros, expected) in [(1_000, (key(12), LetGo::Swapped)), (90_000, (key(13), LetGo::TriedOut))] {
        let mut overlay = Overlay::new(key(0), 1);
        overlay.members("a".to_owned(), (1..14).map(|peer| (key(peer), "a".to_owned())).collect());
        let all: Vec<(PeerKey, Cost)> = (0..14).map(|peer| (key(peer), Cost::from_micros(1_000))).collect();
        let mut routes = Routes::new(key(0));
        (0..14).for_each(|peer| routes.report(key(peer), &all));
        routes.update();
        for peer in 1..13 {
            overlay.up(Duration::ZERO, key(peer));
            overlay.measured(key(peer), 5_000 * peer as u64);
        }
        let around = Surroundings { routes: &routes, can_dial: &|_| true, has_failed: &|_| false };
        overlay.choose(TRIAL_EVERY, &around);
        assert_eq!(overlay.wanted().get(&key(13)), Some(&Reason::Trial));
        overlay.dialled(TRIAL_EVERY, key(13));
        overlay.up(TRIAL_EVERY, key(13));
        for _ in 0..2 {
            overlay.measured(key(13), rtt_micros);
        }
        overlay.choose(TRIAL_EVERY * 2, &around);
        assert_eq!(overlay.poll_drop(), Some(expected));
    }
}

#[test]
fn in_a_small_fleet_all_are_wanted_also_one_that_was_started_anew() {
    let mut overlay = Overlay::new(key(0), 1);
    overlay.members(String::new(), (1..4).map(|peer| (key(peer), String::new())).collect());
    let routes = Routes::new(key(0));
    let around = Surroundings { routes: &routes, can_dial: &|_| true, has_failed: &|_| false };
    overlay.choose(Duration::ZERO, &around);
    assert_eq!(overlay.wanted().len(), 3);
    overlay.dialled(Duration::ZERO, key(2));
    overlay.choose(super::DIAL / 2, &around);
    assert_eq!(overlay.wanted().len(), 2);
    overlay.choose(super::DIAL, &around);
    assert_eq!(overlay.wanted().len(), 3, "nothing was heard of that dial");
    overlay.dialled(Duration::ZERO, key(1));
    overlay.up(Duration::ZERO, key(1));
    assert_eq!(overlay.reason(&key(1)), Some(Reason::Few));
    overlay.down(Duration::from_secs(1), key(1));
    overlay.choose(Duration::from_secs(1), &around);
    assert_eq!(overlay.wanted().len(), 3);
}

#[test]
fn in_a_large_fleet_who_closes_at_once_is_passed_over_longer_each_time() {
    let mut overlay = Overlay::new(key(0), 1);
    overlay.members(String::new(), (1..=14).map(|peer| (key(peer), String::new())).collect());
    let routes = Routes::new(key(0));
    let mut now = Duration::ZERO;
    // Nobody else can be dialled.
    let around = Surroundings { routes: &routes, can_dial: &|peer| *peer == key(1), has_failed: &|_| false };
    let mut waits = Vec::new();
    for lives in [1, 1, 1, 40, 1, 1, 1, 1, 1, 1, 1, 1].map(Duration::from_secs) {
        let since = now;
        while !overlay.wanted().contains_key(&key(1)) {
            now += Duration::from_secs(1);
            overlay.choose(now, &around);
        }
        waits.push((now - since).as_secs());
        overlay.dialled(now, key(1));
        overlay.up(now, key(1));
        now += lives;
        overlay.down(now, key(1));
    }
    assert_eq!(waits, [1, 5, 10, 20, 1, 5, 10, 20, 40, 80, 160, 300]);
}

/// A node of a hundred that knows nothing but their zones, and can dial all.
fn newcomer() -> Overlay {
    let mut overlay = Overlay::new(key(0), 1);
    overlay.members("0".to_owned(), (1..100).map(|peer| (key(peer), (peer % 4).to_string())).collect());
    overlay
}

/// Dials whom it wants.
fn dial(overlay: &mut Overlay, now: Duration, has_failed: &dyn Fn(&PeerKey) -> bool) -> Vec<PeerKey> {
    let routes = Routes::new(key(0));
    overlay.choose(now, &Surroundings { routes: &routes, can_dial: &|_| true, has_failed });
    let wanted: Vec<PeerKey> = overlay.wanted().keys().copied().collect();
    wanted.iter().for_each(|peer| overlay.dialled(now, *peer));
    wanted
}

#[test]
fn who_does_not_answer_promptly_holds_nobodys_place() {
    let mut overlay = newcomer();
    let second = Duration::from_secs;
    let first = dial(&mut overlay, second(1), &|_| false);
    // And one to whom no way leads.
    assert!((DIALS_PROMPT..=DIALS_PROMPT + 1).contains(&first.len()), "others seek links as well: {first:?}");
    assert_eq!(dial(&mut overlay, second(1), &|_| false), []);
    let prompt = overlay.poll_timeout().expect("others are to be tried");
    assert!((second(1) + PROMPT[0]..=second(1) + PROMPT[2]).contains(&prompt), "{prompt:?}");
    let mut all = first.len();
    for step in 2..10 {
        all += dial(&mut overlay, second(step), &|_| false).len();
    }
    assert!((DIALS..=DIALS + 2).contains(&all), "{all} dials are open");
    assert!(!dial(&mut overlay, second(1) + DIAL, &|_| false).is_empty(), "the first ones are over");
}

#[test]
fn who_failed_is_tried_after_those_who_did_not() {
    let mut overlay = newcomer();
    let (routes, has_failed) = (Routes::new(key(0)), |peer: &PeerKey| number(peer) > 40);
    let around = Surroundings { routes: &routes, can_dial: &|_| true, has_failed: &has_failed };
    overlay.choose(Duration::from_secs(1), &around);
    let near: Vec<usize> =
        overlay.wanted().iter().filter(|(_, reason)| **reason == Reason::Near).map(|(peer, _)| number(peer)).collect();
    assert!(near.len() >= 2 && near.iter().all(|peer| *peer <= 40), "ten of its zone did not fail: {near:?}");
}

#[test]
fn a_suspect_link_is_replaced_and_not_let_go() {
    let mut overlay = newcomer();
    let now = Duration::from_secs(1);
    let links: Vec<PeerKey> = (1..=DEGREE_MAX).map(key).collect();
    links.iter().for_each(|peer| overlay.up(now, *peer));
    assert!(!overlay.is_short());
    links.iter().for_each(|peer| overlay.suspected(*peer, true));
    assert!(overlay.is_short() && dial(&mut overlay, now, &|_| false).len() >= DIALS_PROMPT);
    (20..40).for_each(|peer| {
        overlay.up(now, key(peer));
        overlay.measured(key(peer), 1_000);
    });
    for peer in &links {
        overlay.measured(*peer, 900_000);
    }
    dial(&mut overlay, now + YOUNG, &|_| false);
    assert!(overlay.poll_timeout() <= Some(now + YOUNG + DROP_EVERY * 3 / 2), "there are too many yet");
    let dropped = overlay.poll_drop().map(|(peer, _)| number(&peer));
    assert!(dropped.is_none_or(|peer| peer >= 20), "{dropped:?}: liveness decides about those");
    links.iter().for_each(|peer| overlay.suspected(*peer, false));
    dial(&mut overlay, now + YOUNG * 2, &|_| false);
    assert!(overlay.poll_drop().is_some_and(|(peer, _)| number(&peer) < 20));
}
