//! How far any two nodes are from each other, linked or not: what dissemination is measured against.

use std::collections::BTreeMap;

use super::ground::Ground;
use super::{Topology, TopologyError};

/// The delays of links that a topology has and of those that it could have.
pub(crate) struct Direct {
    ground: Ground,
    nodes: usize,
    /// Links, the lower end first, microseconds: a file may say of one what its ground does not.
    lines: BTreeMap<(usize, usize), u64>,
}

impl Direct {
    /// The ground of a topology, by the same name and seed as the topology itself. Jitter is no part of it.
    ///
    /// # Errors
    ///
    /// As [`Topology::load`].
    pub(crate) fn load(name_or_path: &str, seed: u64) -> Result<Direct, TopologyError> {
        Direct::parse(name_or_path, &super::text_of(name_or_path)?, seed)
    }

    fn parse(name: &str, text: &str, seed: u64) -> Result<Direct, TopologyError> {
        let topology = Topology::parse(name, text, seed)?;
        let ground = Ground::parse(name, text, seed)?;
        let lines = topology.lines.iter().map(|line| (line.ends, line.delay_us)).collect();
        Ok(Direct { ground, nodes: topology.nodes.len(), lines })
    }

    /// From one node to another, one way, microseconds.
    pub(crate) fn between_us(&self, a: usize, b: usize) -> u64 {
        if a == b {
            return 0;
        }
        let line = self.lines.get(&(a.min(b), a.max(b)));
        line.copied().unwrap_or_else(|| self.ground.delay_us(a, b))
    }

    /// From a node to the one that is furthest from it, one way, microseconds.
    pub(crate) fn furthest_us(&self, node: usize) -> u64 {
        (0..self.nodes).map(|other| self.between_us(node, other)).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_as_long_as_the_direct_way() {
        for name in ["fleet-200-8z", "islands", "glomers-25"] {
            let (topology, direct) = (Topology::load(name, 3).unwrap(), Direct::load(name, 3).unwrap());
            assert!(topology.lines.iter().all(|line| direct.between_us(line.ends.0, line.ends.1) == line.delay_us));
        }
    }

    #[test]
    fn nodes_that_are_not_linked_have_a_direct_way_too() {
        let direct = Direct::load("fleet-200-8z", 1).unwrap();
        let topology = Topology::load("fleet-200-8z", 1).unwrap();
        let number = |name: &str| topology.nodes.iter().position(|place| place.name == name).unwrap();
        // 162.2 ms between the zones, and up to 1.2 ms of each node's own.
        let (singapore, sao_paulo) = (number("singapore-0"), number("sao-paulo-7"));
        let far_us = direct.between_us(singapore, sao_paulo);
        assert!((162_200..=164_600).contains(&far_us), "{far_us}");
        assert_eq!(far_us, direct.between_us(sao_paulo, singapore));
        assert!((far_us..=164_600).contains(&direct.furthest_us(singapore)));
        assert_eq!(direct.between_us(7, 7), 0);
    }

    #[test]
    fn a_link_that_is_longer_than_its_ground_counts_as_it_is() {
        let text =
            "[zones.a]\nnodes = 2\n[mesh]\nkind = \"full\"\n[[link]]\nbetween = [\"a-0\", \"a-1\"]\ndelay_ms = 9";
        assert_eq!(Direct::parse("test", text, 1).unwrap().furthest_us(1), 9_000);
    }
}
