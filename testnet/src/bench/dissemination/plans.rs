//! The runs: what is written, and what happens to the fleet meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::plan::{Boundary, LinkOracle, Plan, Step};
use crate::sim::random::Random;
use crate::sim::topology::Topology;

/// Links come up and settle for so long before anything counts.
pub(crate) const SETTLE_MS: u64 = 20_000;
/// Changes are spread over so long.
const SPAN_MS: u64 = 60_000;
/// What is on its way at the end gets there meanwhile.
const TAIL_MS: u64 = 5_000;
/// A device that joins writes its own first change so long after it.
const FIRST_WRITE_MS: u64 = 5_000;
/// Gossip Glomers 3d: so many writes, and as many reads, which cost no message.
pub(crate) const GLOMERS_WRITES: usize = 1_000;
const GLOMERS_SPAN_MS: u64 = 20_000;
const GLOMERS_CUT_MS: u64 = 10_000;
/// One in so many survives.
const SURVIVORS: usize = 5;
/// After so many died at once, changes are spread over so long.
const AFTER_DEATHS_MS: u64 = 30_000;
/// A death is noticed by its neighbours at the latest after this.
const NOTICED_MS: u64 = 1_000;

/// A plan in the making.
pub(crate) struct Draft {
    topology: Topology,
    seed: u64,
    random: Random,
    steps: Vec<(u64, Step)>,
}

impl Draft {
    pub(crate) fn new(topology: Topology, seed: u64) -> Draft {
        Draft { topology, seed, random: Random::of(seed, 21), steps: Vec::new() }
    }

    fn finish(mut self, joiners: Vec<usize>, ends_ms: u64) -> Plan {
        self.steps.sort_by_key(|(at_ms, _)| *at_ms);
        Plan {
            scenario: "dissemination".to_owned(),
            seed: self.seed,
            topology: self.topology,
            ground: None,
            oracle: LinkOracle { up_ms: 500, down_ms: 200, error_ppm: 0, routes_ms: 300, routes_error_ppm: 0 },
            sync_us: 1_000,
            joiners,
            steps: self.steps,
            heal_ms: ends_ms + TAIL_MS,
            bound_ms: 150_000,
        }
    }

    fn write(&mut self, at_ms: u64, node: usize) {
        let value = i64::try_from(self.random.below(1 << 40)).unwrap_or(0);
        self.steps.push((at_ms, Step::Write { node, path: "reading.value".to_owned(), value }));
    }

    /// A moment while changes go on.
    fn moment(&mut self) -> u64 {
        SETTLE_MS + self.random.below(SPAN_MS)
    }

    fn shuffle(&mut self, nodes: &mut [usize]) {
        for at in (1..nodes.len()).rev() {
            nodes.swap(at, self.random.index(at + 1));
        }
    }

    /// Changes of so many different nodes of these; of each as many, where there are not enough.
    fn write_from(&mut self, mut nodes: Vec<usize>, changes: usize) {
        self.shuffle(&mut nodes);
        for node in nodes.into_iter().cycle().take(changes) {
            let at_ms = self.moment();
            self.write(at_ms, node);
        }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.topology.nodes.len()).collect()
    }

    /// Each change by another device.
    pub(crate) fn many_origins(mut self, changes: usize) -> Plan {
        let nodes = self.all();
        self.write_from(nodes, changes);
        self.finish(Vec::new(), SETTLE_MS + SPAN_MS)
    }

    /// All changes by one device, evenly.
    pub(crate) fn one_origin(mut self, changes: usize) -> Plan {
        let node = self.random.index(self.topology.nodes.len());
        for number in 0..changes as u64 {
            self.write(SETTLE_MS + number * SPAN_MS / changes as u64, node);
        }
        self.finish(Vec::new(), SETTLE_MS + SPAN_MS)
    }

    /// As with many origins, while every line loses so many packets in a million.
    pub(crate) fn losses(mut self, changes: usize, loss_ppm: u32) -> Plan {
        self.topology.lines.iter_mut().for_each(|line| line.loss_ppm = loss_ppm);
        self.many_origins(changes)
    }

    /// As with many origins, while a tenth of the devices join, each with a first change of its own.
    pub(crate) fn joins(mut self, changes: usize) -> Plan {
        let joiners: Vec<usize> = self.all().into_iter().skip(5).step_by(10).collect();
        let is_member = |node: &usize| !joiners.contains(node);
        let members: Vec<usize> = self.all().into_iter().filter(is_member).collect();
        for node in joiners.iter().copied() {
            let over = members[self.random.index(members.len())];
            let at_ms = SETTLE_MS + self.random.below(SPAN_MS - FIRST_WRITE_MS);
            self.steps.push((at_ms, Step::Join { node, over }));
            self.write(at_ms + FIRST_WRITE_MS, node);
        }
        self.write_from(members, changes);
        self.finish(joiners, SETTLE_MS + SPAN_MS)
    }

    /// As with many origins, while a tenth of the nodes crash and come back within seconds, every other one with a loss
    /// of power.
    pub(crate) fn churn(mut self, changes: usize) -> Plan {
        let mut nodes = self.all();
        self.shuffle(&mut nodes);
        for (number, node) in nodes.into_iter().enumerate().take(self.topology.nodes.len().div_ceil(10)) {
            let at_ms = self.moment();
            let back_ms = at_ms + 3_000 + self.random.below(10_000);
            self.steps.push((at_ms, Step::Crash { node, power: number % 2 == 0, at: Boundary::Now }));
            self.steps.push((back_ms, Step::Start { node }));
        }
        let nodes = self.all();
        self.write_from(nodes, changes);
        self.finish(Vec::new(), SETTLE_MS + SPAN_MS + 15_000)
    }

    /// Four in five nodes die at once and for good. Then those survivors write that still reach each other over links of
    /// survivors; these come with the plan, the largest such part.
    pub(crate) fn deaths(mut self, changes: usize) -> (Plan, BTreeSet<usize>) {
        let mut nodes = self.all();
        self.shuffle(&mut nodes);
        let dead = nodes.split_off(nodes.len().div_ceil(SURVIVORS));
        self.steps.extend(dead.into_iter().map(|node| (SETTLE_MS, Step::Leave { node })));
        let part = largest_part(&self.topology, &nodes);
        let writers: Vec<usize> = part.iter().copied().collect();
        for _ in 0..changes {
            let at_ms = SETTLE_MS + 1 + self.random.below(AFTER_DEATHS_MS);
            let node = writers[self.random.index(writers.len())];
            self.write(at_ms, node);
        }
        let mut plan = self.finish(Vec::new(), SETTLE_MS + AFTER_DEATHS_MS + 5_000);
        plan.oracle.down_ms = NOTICED_MS;
        (plan, part)
    }

    /// Writes on random nodes; where it is parted, half of the nodes are cut off from the others for ten seconds.
    pub(crate) fn glomers(mut self, parted: bool) -> Plan {
        for number in 0..GLOMERS_WRITES as u64 {
            let node = self.random.index(self.topology.nodes.len());
            self.write(SETTLE_MS + number * GLOMERS_SPAN_MS / GLOMERS_WRITES as u64, node);
        }
        if parted {
            let mut side = self.all();
            self.shuffle(&mut side);
            side.truncate(self.topology.nodes.len() / 2);
            let at_ms = SETTLE_MS + (GLOMERS_SPAN_MS - GLOMERS_CUT_MS) / 2;
            self.steps.push((at_ms, Step::Part { side }));
            self.steps.push((at_ms + GLOMERS_CUT_MS, Step::MendAll));
        }
        self.finish(Vec::new(), SETTLE_MS + GLOMERS_SPAN_MS)
    }
}

/// The largest set of these nodes that reach each other over links between them; of equal ones that of the lowest node.
fn largest_part(topology: &Topology, nodes: &[usize]) -> BTreeSet<usize> {
    let mut links: BTreeMap<usize, Vec<usize>> = nodes.iter().map(|node| (*node, Vec::new())).collect();
    for (a, b) in topology.lines.iter().map(|line| line.ends) {
        if links.contains_key(&a) && links.contains_key(&b) {
            links.entry(a).or_default().push(b);
            links.entry(b).or_default().push(a);
        }
    }
    let mut largest = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for first in links.keys().copied() {
        if !seen.insert(first) {
            continue;
        }
        let (mut part, mut front) = (BTreeSet::from([first]), vec![first]);
        while let Some(node) = front.pop() {
            front.extend(links[&node].iter().copied().filter(|peer| part.insert(*peer)));
        }
        seen.extend(&part);
        if part.len() > largest.len() {
            largest = part;
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft::new(Topology::load("fleet-100-4z", 1).unwrap(), 1)
    }

    fn writers(plan: &Plan) -> Vec<usize> {
        let node = |step: &Step| if let Step::Write { node, .. } = step { Some(*node) } else { None };
        plan.steps.iter().filter_map(|(_, step)| node(step)).collect()
    }

    #[test]
    fn nothing_is_written_before_links_have_settled() {
        let plans = [
            draft().many_origins(50),
            draft().one_origin(50),
            draft().losses(50, 20_000),
            draft().joins(50),
            draft().churn(50),
            draft().deaths(50).0,
            draft().glomers(true),
        ];
        for plan in plans {
            assert!(plan.steps.is_sorted_by_key(|(at_ms, _)| *at_ms));
            assert!(plan.steps.iter().all(|(at_ms, _)| (SETTLE_MS..plan.heal_ms).contains(at_ms)));
            assert!(writers(&plan).len() >= 50);
        }
    }

    #[test]
    fn many_origins_are_different_ones_and_one_is_one() {
        let distinct = |plan: &Plan| writers(plan).into_iter().collect::<BTreeSet<usize>>().len();
        assert_eq!((distinct(&draft().many_origins(60)), distinct(&draft().one_origin(60))), (60, 1));
        assert_eq!(distinct(&draft().many_origins(250)), 100);
    }

    #[test]
    fn survivors_that_write_reach_each_other() {
        let (plan, part) = draft().deaths(30);
        let left = plan.steps.iter().filter(|(_, step)| matches!(step, Step::Leave { .. })).count();
        assert_eq!(left, 80);
        assert!((2..=20).contains(&part.len()), "{part:?}");
        assert!(writers(&plan).iter().all(|node| part.contains(node)));
    }
}
