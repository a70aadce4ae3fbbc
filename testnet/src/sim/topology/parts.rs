//! Which nodes reach each other: union-find.

use super::{Line, Topology};

/// Nodes in parts; at first each is one of its own.
pub(crate) struct Parts {
    parent: Vec<usize>,
}

impl Parts {
    pub(crate) fn new(nodes: usize) -> Parts {
        Parts { parent: (0..nodes).collect() }
    }

    /// The parts that a topology's links make.
    pub(super) fn of(topology: &Topology) -> Parts {
        let mut parts = Parts::new(topology.nodes.len());
        for Line { ends, .. } in &topology.lines {
            parts.join(ends.0, ends.1);
        }
        parts
    }

    /// The node that stands for a node's part.
    pub(crate) fn find(&mut self, mut node: usize) -> usize {
        while self.parent[node] != node {
            self.parent[node] = self.parent[self.parent[node]];
            node = self.parent[node];
        }
        node
    }

    /// Makes one part of two nodes' parts; whether they were two.
    pub(crate) fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[a.max(b)] = a.min(b);
        a != b
    }

    /// The first node that the first does not reach.
    pub(super) fn stranger(mut self) -> Option<usize> {
        (1..self.parent.len()).find(|node| self.find(*node) != self.find(0))
    }
}
