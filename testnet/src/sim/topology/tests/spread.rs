//! How far everything is: the model's figures for shortest paths over a fleet of degree 12.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::super::Topology;
use super::{links_of, load};

/// When a change from a node reaches the last one over shortest paths, microseconds.
fn last(topology: &Topology, origin: usize) -> u64 {
    let links = links_of(topology);
    let mut reached = vec![u64::MAX; topology.nodes.len()];
    let mut queue = BinaryHeap::from([Reverse((0, origin))]);
    while let Some(Reverse((at_us, node))) = queue.pop() {
        if at_us < reached[node] {
            reached[node] = at_us;
            queue.extend(links[node].iter().map(|(peer, line)| Reverse((at_us + line.delay_us, *peer))));
        }
    }
    reached.into_iter().max().unwrap()
}

/// The largest delay of a direct link out of each zone.
fn direct(topology: &Topology) -> BTreeMap<&str, u64> {
    let mut direct = BTreeMap::new();
    for line in &topology.lines {
        for end in [line.ends.0, line.ends.1] {
            let longest = direct.entry(topology.nodes[end].zone.as_str()).or_insert(0);
            *longest = line.delay_us.max(*longest);
        }
    }
    direct
}

/// The model has p50 1.11 D and p99 1.14 D at 1,000 nodes, 1.13 and 1.16 D at 10,000; what is promised of the engine is
/// 1.15 and 1.25 D. Less here leaves it more: these bounds are to notice a mesh that becomes worse.
#[test]
fn shortest_paths_are_hardly_longer_than_direct_links() {
    for (name, step) in [("fleet-200-8z", 1), ("fleet-1000-8z", 3), ("fleet-10000-8z", 100)] {
        let topology = load(name, 1);
        let direct = direct(&topology);
        let ratio = |node: usize| last(&topology, node) as f64 / direct[topology.nodes[node].zone.as_str()] as f64;
        let mut ratios: Vec<f64> = (0..topology.nodes.len()).step_by(step).map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let (p50, p99) = (ratios[ratios.len() / 2], ratios[ratios.len() * 99 / 100]);
        assert!(p50 <= 1.06 && p99 <= 1.1, "{name}: p50 {p50:.3} D, p99 {p99:.3} D");
    }
}
