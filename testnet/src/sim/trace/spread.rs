//! How one change reached the nodes: at each of them, when, and who brought it first.

use std::collections::{BTreeMap, BTreeSet};

use super::{Happened, What};

/// One change's way over the nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spread {
    /// The first writer and when.
    written: Option<(usize, u64)>,
    arrivals: BTreeMap<usize, Arrival>,
    /// Who came first where it is not stored yet.
    came: BTreeMap<usize, usize>,
}

/// A node's first copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it was stored or written there, microseconds.
    pub(crate) at_us: u64,
    /// Who brought it; nobody where it was written.
    pub(crate) from: Option<usize>,
}

/// A node on a walk over the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) node: usize,
    /// Steps from the root.
    pub(crate) depth: usize,
    /// Whether its parent has no further child after it.
    pub(crate) last: bool,
    pub(crate) arrival: Arrival,
}

impl Spread {
    /// Takes an event of this change. Only the first time at each node counts: who stores it again after a crash had
    /// it before. Says whether it was the first.
    pub(crate) fn take(&mut self, happened: &Happened) -> bool {
        let Happened { at_us, node, peer, what, .. } = *happened;
        let from = match what {
            What::Written => {
                self.written.get_or_insert((node, at_us));
                None
            }
            // Where the event does not tell who brought it, it was whoever came first.
            What::Stored => self.came.remove(&node).filter(|_| peer.is_none()).or(peer),
            What::Came => {
                if let Some(peer) = peer.filter(|_| !self.arrivals.contains_key(&node)) {
                    self.came.entry(node).or_insert(peer);
                }
                return false;
            }
            What::Sent | What::CameAgain | What::Refused => return false,
        };
        let before = self.arrivals.len();
        self.arrivals.entry(node).or_insert(Arrival { at_us, from });
        self.arrivals.len() > before
    }

    /// Where it was first written and when, if that was seen.
    pub(crate) fn written(&self) -> Option<(usize, u64)> {
        self.written
    }

    /// When it was first anywhere.
    pub(crate) fn first_us(&self) -> Option<u64> {
        let written_us = self.written.map(|(_, at_us)| at_us);
        written_us.or_else(|| self.arrivals.values().map(|arrival| arrival.at_us).min())
    }

    /// Where it is.
    pub(crate) fn arrivals(&self) -> &BTreeMap<usize, Arrival> {
        &self.arrivals
    }

    /// For each node that got it from another: its number and how long after the first one, microseconds.
    pub(crate) fn delays_us(&self) -> impl Iterator<Item = (usize, u64)> {
        let first_us = self.first_us().unwrap_or_default();
        let brought = self.arrivals.iter().filter(|(_, arrival)| arrival.from.is_some());
        brought.map(move |(node, arrival)| (*node, arrival.at_us.saturating_sub(first_us)))
    }

    /// Every node once, parents before children and earlier children first. Roots are those that wrote it, those whose
    /// parent does not have it (lost in a crash, say), and one of each ring of nodes that name each other.
    pub(crate) fn visits(&self) -> Vec<Visit> {
        let mut order: Vec<(u64, usize)> = self.arrivals.iter().map(|(node, arrival)| (arrival.at_us, *node)).collect();
        order.sort_unstable();
        let mut children: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut roots = Vec::new();
        for (_, node) in &order {
            match self.arrivals[node].from.filter(|from| self.arrivals.contains_key(from)) {
                Some(from) => children.entry(from).or_default().push(*node),
                None => roots.push(*node),
            }
        }
        let mut seen = BTreeSet::new();
        let mut visits = Vec::new();
        // After the roots' trees only rings are left, each entered at its earliest node.
        for root in roots.into_iter().chain(order.into_iter().map(|(_, node)| node)) {
            if !seen.insert(root) {
                continue;
            }
            // A stack of its own: a chain of 10,000 nodes is as deep.
            let mut stack = vec![Visit { node: root, depth: 0, last: true, arrival: self.arrivals[&root] }];
            while let Some(visit) = stack.pop() {
                visits.push(visit);
                let next: Vec<usize> = children
                    .get(&visit.node)
                    .into_iter()
                    .flatten()
                    .copied()
                    .filter(|node| seen.insert(*node))
                    .collect();
                stack.extend(next.iter().enumerate().rev().map(|(index, node)| Visit {
                    node: *node,
                    depth: visit.depth + 1,
                    last: index + 1 == next.len(),
                    arrival: self.arrivals[node],
                }));
            }
        }
        visits
    }
}

/// The value below which a share of the sorted ones lies (nearest rank); 0 without values.
pub(crate) fn quantile_us(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}
