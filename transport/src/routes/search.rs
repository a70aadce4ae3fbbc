//! One search for three ways to every node, each over another neighbour of this node.
//!
//! Dijkstra (1959), where a node has three labels instead of one. Of ways that begin alike only the cheapest counts, and a
//! way that is not among the three cheapest of a node is not part of one of another node's: the three that are better there
//! can be continued the same way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::ME;
use super::graph::{Change, Links};
use crate::cost::Cost;

/// A node's number.
pub(super) type Place = u32;
/// No node.
pub(super) const NOBODY: Place = Place::MAX;
/// Ways that are kept to each node.
pub(super) const WAYS: usize = 3;

/// A way from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) cost: Cost,
    /// The neighbour with which it begins.
    pub(super) first: Place,
    /// The node after that; nobody where the way ends with the first.
    pub(super) second: Place,
}

/// A node's cheapest ways, the cheapest first; then those with nobody.
pub(super) type Labels = [Label; WAYS];

/// No way leads there.
pub(super) const NO_WAYS: Labels = [Label { cost: Cost::MAX, first: NOBODY, second: NOBODY }; WAYS];

/// Takes a way among a node's cheapest. Whether it is one of them.
fn offer(labels: &mut Labels, new: Label) -> bool {
    // Where none begins alike, the last gives way.
    let alike = labels.iter().position(|label| label.first == new.first);
    let mut at = alike.unwrap_or(WAYS - 1);
    let old = labels[at];
    let is_better = match alike {
        Some(_) => new.cost < old.cost,
        None => (new.cost, new.first) < (old.cost, old.first),
    };
    if !is_better {
        return false;
    }
    while at > 0 && (new.cost, new.first) < (labels[at - 1].cost, labels[at - 1].first) {
        labels[at] = labels[at - 1];
        at -= 1;
    }
    labels[at] = new;
    true
}

/// A node's way continued over a link. This node itself is no part of any way.
fn over(label: &Label, (from, to): (Place, Place), link: Cost) -> Label {
    let second = if from == label.first { to } else { label.second };
    Label { cost: label.cost.plus(link), first: label.first, second }
}

/// The cheapest ways to all nodes.
pub(super) fn search(links: &Links) -> Vec<Labels> {
    let mut labels = vec![NO_WAYS; links.len()];
    let mut front = BinaryHeap::with_capacity(links.len());
    for (peer, cost) in &links[ME as usize] {
        offer(&mut labels[*peer as usize], Label { cost: *cost, first: *peer, second: NOBODY });
        front.push(Reverse((*cost, *peer, *peer)));
    }
    while let Some(Reverse((cost, node, first))) = front.pop() {
        // One that was bettered since is not continued.
        let is_current = |label: &&Label| label.first == first && label.cost == cost;
        let Some(label) = labels[node as usize].iter().find(is_current).copied() else { continue };
        for (peer, link) in links[node as usize].iter().filter(|(peer, _)| *peer != ME) {
            let new = over(&label, (node, *peer), *link);
            if offer(&mut labels[*peer as usize], new) {
                front.push(Reverse((new.cost, *peer, first)));
            }
        }
    }
    labels
}

/// Whether a link that changed is part of a way, or betters one.
pub(super) fn matters(labels: &[Labels], change: &Change) -> bool {
    let (a, b) = change.ends;
    [(a, b), (b, a)].into_iter().filter(|(_, to)| *to != ME).any(|ends| {
        let continued = |link: Cost| ways_over(labels, ends, link);
        let known = &labels[ends.1 as usize];
        let is_used = |way: Label| known.iter().any(|label| label.first == way.first && label.cost == way.cost);
        let betters = |way: Label| offer(&mut known.clone(), way);
        change.before.is_some_and(|link| continued(link).any(is_used))
            || change.after.is_some_and(|link| continued(link).any(betters))
    })
}

/// The ways to the end of a link over its beginning.
fn ways_over(labels: &[Labels], ends: (Place, Place), link: Cost) -> impl Iterator<Item = Label> {
    let own = (ends.0 == ME).then_some(Label { cost: link, first: ends.1, second: NOBODY });
    let others = labels[ends.0 as usize].iter().filter(move |label| ends.0 != ME && label.first != NOBODY);
    own.into_iter().chain(others.map(move |label| over(label, ends, link)))
}

/// The cheapest way between two nodes that avoids this one: the nodes after the first, each with what the link to it costs.
pub(super) fn path(links: &Links, from: Place, to: Place) -> Option<Vec<(Place, Cost)>> {
    // From the end, so that each node knows the next one.
    let mut ways: Vec<Option<(Cost, Place)>> = vec![None; links.len()];
    let mut front = BinaryHeap::from([Reverse((None, to, NOBODY))]);
    while let Some(Reverse((cost, node, next))) = front.pop() {
        if ways[node as usize].is_some() {
            continue;
        }
        ways[node as usize] = Some((cost.unwrap_or(Cost::MAX), next));
        for (peer, link) in links[node as usize].iter().filter(|(peer, _)| *peer != ME) {
            let over = cost.map_or(*link, |cost: Cost| cost.plus(*link));
            front.push(Reverse((Some(over), *peer, node)));
        }
    }
    let mut path = Vec::new();
    let mut node = from;
    while node != to {
        let (_, next) = ways[node as usize]?;
        let link = links[node as usize].iter().find(|(peer, _)| *peer == next)?;
        path.push(*link);
        node = next;
    }
    Some(path)
}

/// The neighbour with which the cheapest way begins that uses no barred link.
pub(super) fn way_round(links: &Links, to: Place, is_barred: impl Fn(Place, Place) -> bool) -> Option<Place> {
    let mut is_done = vec![false; links.len()];
    let mut front = BinaryHeap::from([Reverse((None, ME, NOBODY))]);
    while let Some(Reverse((cost, node, first))) = front.pop() {
        if node == to {
            return Some(first);
        }
        if std::mem::replace(&mut is_done[node as usize], true) {
            continue;
        }
        for (peer, link) in links[node as usize].iter().filter(|(peer, _)| !is_barred(node, *peer)) {
            let over = cost.map_or(*link, |cost: Cost| cost.plus(*link));
            front.push(Reverse((Some(over), *peer, if node == ME { *peer } else { first })));
        }
    }
    None
}
