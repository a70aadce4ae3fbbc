//! The same fleet with fewer nodes: a failing run is first made smaller.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::parts::Parts;
use super::{Line, Topology};

/// All packets, in the unit of loss.
const MILLION: u64 = 1_000_000;
/// A node that has lost links gets ways instead up to here: few nodes of a large fleet are hardly linked with each
/// other, and a mere tree would not show again what needs two ways to go wrong.
const LINKS_AGAIN: usize = 4;

impl Topology {
    /// The first so many nodes, at least one, with the links between them. Where they fall apart, the cheapest ways
    /// through the nodes that are gone become links and make one part of them again, with the sum of the delays and
    /// jitters of the way, its lowest rate and all of its loss; a few more keep a mesh from becoming a tree.
    pub(crate) fn shrink_to(&self, nodes: usize) -> Topology {
        let nodes = nodes.max(1);
        if nodes >= self.nodes.len() {
            return self.clone();
        }
        let is_left = |line: &&Line| line.ends.1 < nodes;
        let mut small = Topology {
            name: format!("{}, the first {nodes} nodes", self.name),
            nodes: self.nodes[..nodes].to_vec(),
            lines: self.lines.iter().filter(is_left).cloned().collect(),
        };
        let ways = self.ways(nodes);
        let mut parts = Parts::of(&small);
        // Kruskal over the ways between neighbouring regions of kept nodes, which hold a minimum spanning tree of all
        // ways (Mehlhorn 1988).
        let (needed, spare): (Vec<Line>, Vec<Line>) =
            ways.into_iter().partition(|way| parts.join(way.ends.0, way.ends.1));
        small.lines.extend(needed);
        small.thicken(&self.degrees(), spare);
        small.lines.sort_by_key(|line| line.ends);
        small
    }

    /// Adds ways, the first first, between nodes that both have fewer links than they had.
    fn thicken(&mut self, degrees_before: &[usize], ways: Vec<Line>) {
        let mut degrees = self.degrees();
        let mut linked: BTreeSet<(usize, usize)> = self.lines.iter().map(|line| line.ends).collect();
        for way in ways {
            let has_room = |node: usize| degrees[node] < degrees_before[node].min(LINKS_AGAIN);
            if has_room(way.ends.0) && has_room(way.ends.1) && linked.insert(way.ends) {
                degrees[way.ends.0] += 1;
                degrees[way.ends.1] += 1;
                self.lines.push(way);
            }
        }
    }

    /// How many links each node has.
    fn degrees(&self) -> Vec<usize> {
        let mut degrees = vec![0; self.nodes.len()];
        for line in &self.lines {
            degrees[line.ends.0] += 1;
            degrees[line.ends.1] += 1;
        }
        degrees
    }

    /// Ways between the first `kept` nodes, the cheapest first.
    fn ways(&self, kept: usize) -> Vec<Line> {
        let nearest = self.nearest(kept);
        let mut ways = Vec::new();
        for line in &self.lines {
            if let (Some(one), Some(other)) = (&nearest[line.ends.0], &nearest[line.ends.1])
                && one.ends.0 != other.ends.0
            {
                let ends = (one.ends.0.min(other.ends.0), one.ends.0.max(other.ends.0));
                ways.push(Line { ends, ..along(&along(one, line), other) });
            }
        }
        ways.sort_by_key(|way| (way.delay_us, way.ends));
        ways
    }

    /// For every node the way from the nearest of the first `kept`: `ends` are that one and the node (Dijkstra).
    fn nearest(&self, kept: usize) -> Vec<Option<Line>> {
        let mut lines_of = vec![Vec::new(); self.nodes.len()];
        for line in &self.lines {
            lines_of[line.ends.0].push((line.ends.1, line));
            lines_of[line.ends.1].push((line.ends.0, line));
        }
        let mut nearest: Vec<Option<Line>> = vec![None; self.nodes.len()];
        let mut queue = BinaryHeap::new();
        for (node, way) in nearest.iter_mut().enumerate().take(kept) {
            *way = Some(Line { ends: (node, node), delay_us: 0, jitter_us: 0, rate: 0, loss_ppm: 0 });
            queue.push(Reverse((0, node)));
        }
        while let Some(Reverse((delay_us, node))) = queue.pop() {
            let Some(way) = nearest[node].clone().filter(|way| way.delay_us == delay_us) else { continue };
            for (next, line) in &lines_of[node] {
                let longer = Line { ends: (way.ends.0, *next), ..along(&way, line) };
                if nearest[*next].as_ref().is_none_or(|known| longer.delay_us < known.delay_us) {
                    queue.push(Reverse((longer.delay_us, *next)));
                    nearest[*next] = Some(longer);
                }
            }
        }
        nearest
    }
}

/// A way of two parts; the ends are the first's.
fn along(first: &Line, second: &Line) -> Line {
    let kept_ppm = (MILLION - u64::from(first.loss_ppm)) * (MILLION - u64::from(second.loss_ppm)) / MILLION;
    Line {
        ends: first.ends,
        delay_us: first.delay_us + second.delay_us,
        jitter_us: first.jitter_us + second.jitter_us,
        rate: match (first.rate, second.rate) {
            (0, rate) | (rate, 0) => rate,
            (one, other) => one.min(other),
        },
        loss_ppm: (MILLION - kept_ppm) as u32,
    }
}
