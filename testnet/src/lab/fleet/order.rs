//! In which order devices join: each once a neighbour is up, of whom it gets its ticket.

use std::collections::{BTreeMap, BTreeSet};

use crate::sim::topology::Topology;

/// Who is up, who waits, and who invited how many.
#[derive(Debug)]
pub(super) struct Order {
    neighbours: Vec<Vec<usize>>,
    waiting: BTreeSet<usize>,
    /// Invitations of those that are up.
    invited: BTreeMap<usize, usize>,
    /// Those in sites, of whom others are asked after all others: tickets of theirs need a relay.
    inside: BTreeSet<usize>,
}

impl Order {
    /// With the node up on which the fleet is founded: the first that all others reach, where there is one.
    pub(super) fn new(topology: &Topology) -> Order {
        let mut neighbours = vec![Vec::new(); topology.nodes.len()];
        for line in &topology.lines {
            neighbours[line.ends.0].push(line.ends.1);
            neighbours[line.ends.1].push(line.ends.0);
        }
        let inside = (0..topology.nodes.len()).filter(|node| topology.nodes[*node].nat.is_some()).collect();
        let founder = founder(topology);
        let waiting = (0..topology.nodes.len()).filter(|node| *node != founder).collect();
        Order { neighbours, waiting, invited: BTreeMap::from([(founder, 0)]), inside }
    }

    /// A device whose neighbour is up, and the neighbour that has invited the fewest.
    pub(super) fn next(&mut self) -> Option<(usize, usize)> {
        let (node, inviter) = self.waiting.iter().find_map(|node| {
            let up = self.neighbours[*node]
                .iter()
                .filter_map(|inviter| Some((self.inside.contains(inviter), self.invited.get(inviter)?, inviter)));
            up.min().map(|(_, _, inviter)| (*node, *inviter))
        })?;
        self.waiting.remove(&node);
        *self.invited.entry(inviter).or_default() += 1;
        Some((node, inviter))
    }

    pub(super) fn is_up(&mut self, node: usize) {
        self.invited.insert(node, 0);
    }
}

/// The node on which the fleet is founded.
pub(super) fn founder(topology: &Topology) -> usize {
    topology.nodes.iter().position(|place| place.nat.is_none()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_invited_once_by_a_neighbour_that_is_up() {
        for name in ["lan-12", "glomers-25", "line", "star-behind-nat", "behind-nat"] {
            let topology = Topology::load(name, 1).expect("a preset");
            let mut order = Order::new(&topology);
            let mut up = BTreeSet::from([0]);
            while let Some((node, inviter)) = order.next() {
                assert!(up.contains(&inviter) && up.insert(node), "{name}: {node} by {inviter}");
                let ends = (node.min(inviter), node.max(inviter));
                assert!(topology.lines.iter().any(|line| line.ends == ends), "{name}: {ends:?}");
                order.is_up(node);
            }
            assert_eq!(up.len(), topology.nodes.len(), "{name}");
        }
    }

    #[test]
    fn a_fleet_is_founded_where_all_others_reach_it() {
        let text = "[zones.crowd]\nnodes = 3\nnat = \"port-restricted\"\n[zones.hub]\nnodes = 1\n[within]\ndelay_ms = 1\n\
            [across]\ndelay_ms = 1\n[mesh]\nkind = \"full\"\n";
        let topology = Topology::parse("crowd", text, 1).expect("a topology");
        assert_eq!(topology.nodes[founder(&topology)].name, "hub-0");
        let mut order = Order::new(&topology);
        let inviters: Vec<usize> = std::iter::from_fn(|| order.next()).map(|(_, inviter)| inviter).collect();
        assert_eq!(inviters, [founder(&topology); 3]);
    }

    #[test]
    fn who_has_invited_fewer_is_asked_first() {
        let topology = Topology::load("lan-12", 1).expect("a preset");
        let mut order = Order::new(&topology);
        assert_eq!(order.next(), Some((1, 0)));
        order.is_up(1);
        assert_eq!((order.next(), order.next(), order.next()), (Some((2, 1)), Some((3, 0)), Some((4, 1))));
    }
}
