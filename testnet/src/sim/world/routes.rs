//! The oracle of routes, where hosts have the topology's lines: from whom each node would have the changes of each origin,
//! by shortest paths over the sessions that are up. It is late, and sometimes wrong for a while, so that the engine has to
//! do with any ways it is told. Hosts that choose their links have ways of their own (`mesh`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crdt::sync::{Input, Parents};

use super::{Event, World};
use crate::sim::host::Waiting;
use crate::sim::wire::Session;

/// What a hop costs beside its delay, microseconds.
const HOP_US: u32 = 500;
/// A mesh that is wrong about a way finds out within this long.
const ERROR_US: u64 = 10_000_000;
/// Sources that are handed over of an origin.
const SOURCES: usize = 3;
const NOBODY: u16 = u16::MAX;
pub(crate) const UNREACHED: u32 = u32::MAX;

/// The best sources of an origin, best first.
type Sources = [u16; SOURCES];

/// What each node was told.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Node → origin → sources; empty where the node runs on an engine that was told nothing.
    handed: Vec<Vec<Sources>>,
    is_due: bool,
}

/// Sessions that are up, as a graph: each node's neighbours with what the way to them costs.
type Graph = Vec<Vec<(u16, u32)>>;

/// A node's distance to the origin, and its next hop.
pub(crate) type Hop = (u32, u16);

/// The shortest way of every node to an origin (Dijkstra 1959).
pub(crate) fn shortest_ways(graph: &[Vec<(u16, u32)>], origin: usize) -> Vec<Hop> {
    let mut ways = vec![(UNREACHED, NOBODY); graph.len()];
    ways[origin] = (0, NOBODY);
    let mut front = BinaryHeap::from([Reverse((0, origin))]);
    while let Some(Reverse((distance, node))) = front.pop() {
        if distance > ways[node].0 {
            continue;
        }
        for (peer, cost) in &graph[node] {
            let peer = usize::from(*peer);
            let over = distance.saturating_add(*cost);
            if over < ways[peer].0 {
                ways[peer] = (over, node as u16);
                front.push(Reverse((over, peer)));
            }
        }
    }
    ways
}

/// From whom a node would have an origin's changes: the next hop; then those nearer to the origin than itself, so that
/// no way leads back, and of these first the ones behind another parent (RFC 5286, downstream paths); then any others
/// that do not come over this node.
fn sources_of(node: usize, neighbours: &[(u16, u32)], ways: &[Hop]) -> Sources {
    let (distance, parent) = ways[node];
    let reached = neighbours.iter().filter(|(peer, _)| ways[usize::from(*peer)].0 != UNREACHED);
    let mut ranked: Vec<_> = reached
        .filter(|(peer, cost)| {
            let (of_peer, next) = ways[usize::from(*peer)];
            usize::from(next) != node && of_peer < distance.saturating_add(*cost)
        })
        .map(|(peer, cost)| {
            let (of_peer, next) = ways[usize::from(*peer)];
            (*peer != parent, of_peer >= distance, next == parent, of_peer.saturating_add(*cost), *peer)
        })
        .collect();
    ranked.sort_unstable();
    let mut sources = [NOBODY; SOURCES];
    for (source, (.., peer)) in sources.iter_mut().zip(ranked) {
        *source = peer;
    }
    sources
}

impl World<'_, '_> {
    /// A session came up or went: the oracle notices, later.
    pub(super) fn routes_changed(&mut self) {
        if self.mesh.is_none() && !std::mem::replace(&mut self.routes.is_due, true) {
            // A large fleet's mesh changes all the time; to look at all of it at once costs a second's worth of work.
            let late_ms = self.plan.oracle.routes_ms.max(self.hosts.len() as u64);
            self.schedule(self.now_us + late_ms * 1000, Event::Routes);
        }
    }

    /// An engine ended: the next one on that node knows nothing.
    pub(super) fn forget_routes(&mut self, node: usize) {
        if let Some(handed) = self.routes.handed.get_mut(node) {
            handed.clear();
        }
    }

    fn graph(&self) -> Graph {
        let mut graph: Graph = vec![Vec::new(); self.hosts.len()];
        let is_used = |session: &&Session| session.ends.iter().all(|(node, link)| !self.is_suspect(*node, *link));
        for session in self.sessions.values().filter(is_used) {
            let line = &self.lines[session.line].line;
            let [a, b] = session.ends.map(|(node, _)| node);
            let cost = u32::try_from(line.delay_us + line.jitter_us / 2).unwrap_or(u32::MAX / 4) + HOP_US;
            graph[a].push((b as u16, cost));
            graph[b].push((a as u16, cost));
        }
        graph.iter_mut().for_each(|neighbours| neighbours.sort_unstable());
        graph
    }

    /// Tells every node what changed of its ways to all origins.
    pub(super) fn hand_over_routes(&mut self) {
        self.routes.is_due = false;
        let graph = self.graph();
        let nodes = graph.len();
        self.routes.handed.resize_with(nodes, Vec::new);
        // Only which origins: what is told of them is looked up when it is, as a large fleet's would not fit into memory.
        let mut news: Vec<Vec<u16>> = vec![Vec::new(); nodes];
        for origin in (0..nodes).filter(|origin| !graph[*origin].is_empty()) {
            let ways = shortest_ways(&graph, origin);
            for node in (0..nodes).filter(|node| *node != origin && !graph[*node].is_empty()) {
                let sources = sources_of(node, &graph[node], &ways);
                let handed = &mut self.routes.handed[node];
                if handed.is_empty() {
                    handed.resize(nodes, [NOBODY; SOURCES]);
                }
                if std::mem::replace(&mut handed[origin], sources) != sources {
                    news[node].push(origin as u16);
                }
            }
        }
        // A mesh does not learn it all at one moment.
        let span_ms = self.plan.oracle.routes_ms.max(nodes as u64 / 2);
        for (node, origins) in news.into_iter().enumerate() {
            if !origins.is_empty() && self.hosts[node].is_up() {
                let at_us = self.now_us + self.chance.below(span_ms * 1000 + 1);
                let start = self.hosts[node].start;
                self.schedule(at_us, Event::Parents { node, start, origins });
            }
        }
    }

    /// Tells a node of its ways to these origins.
    pub(super) fn hand_over(&mut self, node: usize, origins: &[u16]) {
        let neighbours = self.neighbours(node);
        let mut parents = Vec::with_capacity(origins.len());
        let mut wrong = Vec::new();
        for origin in origins.iter().map(|origin| usize::from(*origin)) {
            let Some(mut sources) = self.routes.handed[node].get(origin).copied() else { continue };
            if !neighbours.is_empty() && self.chance.happens(self.plan.oracle.routes_error_ppm) {
                sources[0] = neighbours[self.chance.index(neighbours.len())];
                wrong.push(origin as u16);
            }
            let known = sources.iter().filter(|source| **source != NOBODY);
            let sources = known.map(|source| self.fleet.device(usize::from(*source))).collect();
            parents.push(Parents { origin: self.fleet.device(origin), sources });
        }
        if !wrong.is_empty() {
            let at_us = self.now_us + self.chance.below(ERROR_US);
            let start = self.hosts[node].start;
            self.schedule(at_us, Event::Parents { node, start, origins: wrong });
        }
        self.arrive(node, Waiting { input: Input::Parents(parents), from: None });
    }

    /// The nodes at the other ends of a node's sessions.
    fn neighbours(&self, node: usize) -> Vec<u16> {
        let sessions = self.lines_of[node].iter().filter_map(|line| self.lines[*line].session);
        let ends = sessions.filter_map(|session| self.sessions.get(&session)).flat_map(|session| session.ends);
        ends.map(|(end, _)| end as u16).filter(|end| usize::from(*end) != node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 and 4 are joined by 1 (10), by 2 (12), and by 3 (30); 1 and 2 are linked as well.
    fn graph() -> Graph {
        let lines = [(0, 1, 5), (1, 4, 5), (0, 2, 6), (2, 4, 6), (0, 3, 15), (3, 4, 15), (1, 2, 2)];
        let mut graph = vec![Vec::new(); 5];
        for (a, b, cost) in lines {
            graph[a as usize].push((b, cost));
            graph[b as usize].push((a, cost));
        }
        graph
    }

    #[test]
    fn the_next_hop_comes_first_and_no_way_leads_back() {
        let graph = graph();
        let ways = shortest_ways(&graph, 0);
        assert_eq!(ways[4], (10, 1));
        assert_eq!(sources_of(4, &graph[4], &ways), [1, 2, 3]);
        // From 1 the origin is a neighbour; 2 is no nearer but has a way of its own, and 4 has its way over 1.
        assert_eq!(sources_of(1, &graph[1], &ways), [0, 2, NOBODY]);
    }

    #[test]
    fn who_is_not_reached_is_no_source() {
        let mut graph = graph();
        graph.push(vec![]);
        let ways = shortest_ways(&graph, 5);
        assert_eq!(ways[4].0, UNREACHED);
        assert_eq!(sources_of(4, &graph[4], &ways), [NOBODY; SOURCES]);
    }
}
