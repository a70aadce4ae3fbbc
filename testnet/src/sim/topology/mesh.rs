//! Which nodes are linked.

use std::collections::BTreeSet;

use super::ground::Ground;
use super::near_far;

/// Nodes that need no choice of neighbours: up to here each is linked with each.
const FULL_MESH_NODES_MAX: usize = 12;

/// How links are chosen.
#[derive(Debug)]
pub(super) enum Mesh {
    /// Each with each.
    Full,
    /// Some near ones, some far ones.
    NearFar {
        /// Links to the nearest.
        near: usize,
        /// Links to anywhere.
        far: usize,
    },
    /// A row.
    Line,
    /// Each with each hub, and the hubs with one another.
    Star {
        /// The hubs; the first node where none of them is in the group.
        hubs: BTreeSet<usize>,
    },
    /// None.
    Listed,
}

impl Mesh {
    /// More links are not chosen among so many nodes.
    pub(super) fn links_at_most(&self, nodes: usize) -> usize {
        match self {
            Mesh::Full => nodes * nodes.saturating_sub(1) / 2,
            Mesh::NearFar { near, far } => nodes * near_far::degree_max(*near, *far).div_ceil(2),
            Mesh::Line => nodes,
            Mesh::Star { hubs } => nodes * hubs.len().max(1),
            Mesh::Listed => 0,
        }
    }
}

/// Chooses the links among a group of nodes; each pair has the lower number first.
pub(super) fn choose(mesh: &Mesh, ground: &Ground, group: &[usize], pairs: &mut BTreeSet<(usize, usize)>) {
    match mesh {
        Mesh::Full => pairs.extend(full(group)),
        Mesh::NearFar { .. } if group.len() <= FULL_MESH_NODES_MAX => pairs.extend(full(group)),
        Mesh::NearFar { near, far } => pairs.extend(near_far::choose(ground, group, *near, *far)),
        Mesh::Line => pairs.extend(row(ground, group)),
        Mesh::Star { hubs } => pairs.extend(star(group, hubs)),
        Mesh::Listed => {}
    }
}

fn full(group: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    group.iter().enumerate().flat_map(|(at, a)| group[at + 1..].iter().map(|b| (*a, *b)))
}

fn row(ground: &Ground, group: &[usize]) -> Vec<(usize, usize)> {
    let mut row = group.to_vec();
    row.sort_by_key(|node| (ground.zone(*node), *node));
    row.windows(2).map(|ends| (ends[0].min(ends[1]), ends[0].max(ends[1]))).collect()
}

fn star(group: &[usize], hubs: &BTreeSet<usize>) -> BTreeSet<(usize, usize)> {
    let named: Vec<usize> = group.iter().copied().filter(|node| hubs.contains(node)).collect();
    let hubs = if named.is_empty() { group.iter().copied().take(1).collect() } else { named };
    let spokes = hubs.iter().flat_map(|hub| group.iter().map(|node| (*hub.min(node), *hub.max(node))));
    spokes.filter(|(a, b)| a != b).collect()
}
