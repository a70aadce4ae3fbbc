//! Where the mesh is thin: the links and the nodes without which some nodes are cut off from the others (bridges and
//! articulation points; Hopcroft and Tarjan 1973).
//!
//! ```
//! use transport::{PeerKey, cuts};
//!
//! let [a, b, c] = [1, 2, 3].map(|number| PeerKey([number; 32]));
//! let found = cuts(&[(a, b), (b, c)]);
//! assert_eq!(found.links.len(), 2);
//! assert_eq!(found.nodes[0].at, b);
//! ```

use std::collections::BTreeMap;

use crate::peer::PeerKey;

/// What splits the mesh when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut<T> {
    /// The link or the node.
    pub at: T,
    /// How many nodes are without the most then.
    pub cut_off: usize,
}

/// All that splits the mesh when it goes, in order of key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cuts {
    /// Links, the end with the lower key first.
    pub links: Vec<Cut<(PeerKey, PeerKey)>>,
    /// Nodes; those that are cut off do not count the node itself.
    pub nodes: Vec<Cut<PeerKey>>,
}

/// A node on the path of the search.
struct Visit {
    place: usize,
    parent: Option<usize>,
    /// Of its links, the next one to be looked at.
    next: usize,
}

/// What is known of a node.
#[derive(Clone, Default)]
struct Seen {
    /// In which order it was found, from 1; 0 where it was not.
    found: usize,
    /// The first found of those that it or one below it is linked with.
    low: usize,
    /// It and those below it.
    size: usize,
    /// Those below it that hang on it alone, piece by piece.
    pieces: Vec<usize>,
}

/// Finds them in the graph of these links. One search, in time and memory linear in the links.
pub fn cuts(links: &[(PeerKey, PeerKey)]) -> Cuts {
    let ends = links.iter().flat_map(|(a, b)| [*a, *b]);
    let mut places: BTreeMap<PeerKey, usize> = ends.map(|key| (key, 0)).collect();
    places.values_mut().enumerate().for_each(|(number, place)| *place = number);
    let keys: Vec<PeerKey> = places.keys().copied().collect();
    let mut neighbours = vec![Vec::new(); keys.len()];
    for (a, b) in links.iter().filter(|(a, b)| a != b) {
        neighbours[places[a]].push(places[b]);
        neighbours[places[b]].push(places[a]);
    }
    neighbours.iter_mut().for_each(|peers| {
        peers.sort_unstable();
        peers.dedup();
    });
    let mut search = Search { seen: vec![Seen::default(); keys.len()], found: 0, keys: &keys, cuts: Cuts::default() };
    for root in 0..keys.len() {
        if search.seen[root].found == 0 {
            search.piece(root, &neighbours);
        }
    }
    let mut cuts = search.cuts;
    cuts.links.sort_unstable_by_key(|cut| cut.at);
    cuts.nodes.sort_unstable_by_key(|cut| cut.at);
    cuts
}

struct Search<'a> {
    seen: Vec<Seen>,
    found: usize,
    keys: &'a [PeerKey],
    cuts: Cuts,
}

impl Search<'_> {
    /// All that hangs together with a node.
    fn piece(&mut self, root: usize, neighbours: &[Vec<usize>]) {
        let mut path = vec![self.enter(root, None)];
        let mut members = vec![root];
        let mut bridges = Vec::new();
        while let Some(visit) = path.last_mut() {
            let (place, parent) = (visit.place, visit.parent);
            let Some(peer) = neighbours[place].get(visit.next).copied() else {
                path.pop();
                bridges.extend(parent.and_then(|parent| self.leave(place, parent)));
                continue;
            };
            visit.next += 1;
            if self.seen[peer].found == 0 {
                members.push(peer);
                path.push(self.enter(peer, Some(place)));
            } else if Some(peer) != parent {
                self.seen[place].low = self.seen[place].low.min(self.seen[peer].found);
            }
        }
        let all = members.len();
        for (a, b, below) in bridges {
            let at = (self.keys[a.min(b)], self.keys[a.max(b)]);
            self.cuts.links.push(Cut { at, cut_off: below.min(all - below) });
        }
        for place in members {
            let pieces = std::mem::take(&mut self.seen[place].pieces);
            let rest = all - 1 - pieces.iter().sum::<usize>();
            // Where the search began, nothing lies above.
            let parts = pieces.len() + usize::from(rest > 0);
            if parts > 1 {
                let most = pieces.iter().copied().max().unwrap_or(0).max(rest);
                self.cuts.nodes.push(Cut { at: self.keys[place], cut_off: all - 1 - most });
            }
        }
    }

    fn enter(&mut self, place: usize, parent: Option<usize>) -> Visit {
        self.found += 1;
        self.seen[place] = Seen { found: self.found, low: self.found, size: 1, pieces: Vec::new() };
        Visit { place, parent, next: 0 }
    }

    /// Everything below a node was seen. Its link to its parent, where that is a bridge, with those that lie below.
    fn leave(&mut self, place: usize, parent: usize) -> Option<(usize, usize, usize)> {
        let Seen { low, size, .. } = self.seen[place];
        let above = &mut self.seen[parent];
        above.low = above.low.min(low);
        above.size += size;
        if low >= above.found {
            above.pieces.push(size);
        }
        (low > above.found).then_some((parent, place, size))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> PeerKey {
        PeerKey([number; 32])
    }

    type Found = (Vec<(u8, u8, usize)>, Vec<(u8, usize)>);

    fn found(links: &[(u8, u8)]) -> Found {
        let links: Vec<_> = links.iter().map(|(a, b)| (key(*a), key(*b))).collect();
        let Cuts { links, nodes } = cuts(&links);
        let links = links.iter().map(|cut| (cut.at.0.0[0], cut.at.1.0[0], cut.cut_off));
        (links.collect(), nodes.iter().map(|cut| (cut.at.0[0], cut.cut_off)).collect())
    }

    #[test]
    fn a_ring_has_none_and_a_line_has_them_everywhere() {
        assert_eq!(found(&[]), (vec![], vec![]));
        assert_eq!(found(&[(1, 2)]), (vec![(1, 2, 1)], vec![]));
        assert_eq!(found(&[(1, 2), (2, 3), (3, 1)]), (vec![], vec![]));
        let line = (vec![(1, 2, 1), (2, 3, 2), (3, 4, 1)], vec![(2, 1), (3, 1)]);
        assert_eq!(found(&[(2, 3), (4, 3), (1, 2)]), line);
    }

    #[test]
    fn two_rings_hang_on_the_link_or_the_node_between_them() {
        let rings = [(1, 2), (2, 3), (3, 1), (4, 5), (5, 6), (6, 7), (7, 4)];
        let linked = [&rings[..], &[(3, 4)]].concat();
        assert_eq!(found(&linked), (vec![(3, 4, 3)], vec![(3, 2), (4, 3)]));
        let at_a_node = [&rings[..], &[(3, 4), (3, 5)]].concat();
        assert_eq!(found(&at_a_node), (vec![], vec![(3, 2)]));
        assert_eq!(found(&rings), (vec![], vec![]), "apart already");
    }

    /// The pieces in which the nodes hang together, without one of them and without one of the links.
    fn pieces(links: &[(u8, u8)], without: Option<u8>, cut: Option<(u8, u8)>) -> Vec<BTreeSet<u8>> {
        let mut pieces: Vec<BTreeSet<u8>> = Vec::new();
        let nodes: BTreeSet<u8> = links.iter().flat_map(|(a, b)| [*a, *b]).collect();
        pieces.extend(nodes.into_iter().filter(|node| Some(*node) != without).map(|node| BTreeSet::from([node])));
        let is_cut = |a: u8, b: u8| cut == Some((a, b)) || cut == Some((b, a));
        for (a, b) in links.iter().filter(|(a, b)| ![Some(*a), Some(*b)].contains(&without) && !is_cut(*a, *b)) {
            let (joined, others): (Vec<_>, Vec<_>) =
                pieces.into_iter().partition(|piece| piece.contains(a) || piece.contains(b));
            pieces = others;
            pieces.push(joined.into_iter().flatten().collect());
        }
        pieces
    }

    proptest! {
        /// Taking each away in turn and looking what hangs together finds the same.
        #[test]
        fn as_many_as_by_trying_all(links in proptest::collection::vec((0u8..12, 0u8..12), 0..24)) {
            let (cut_links, cut_nodes) = found(&links);
            let links: BTreeSet<(u8, u8)> =
                links.into_iter().filter(|(a, b)| a != b).map(|(a, b)| (a.min(b), a.max(b))).collect();
            let links: Vec<(u8, u8)> = links.into_iter().collect();
            let whole = pieces(&links, None, None);
            let splits: Vec<(u8, u8)> = links.iter().copied()
                .filter(|link| pieces(&links, None, Some(*link)).len() > whole.len()).collect();
            prop_assert_eq!(cut_links.iter().map(|(a, b, _)| (*a, *b)).collect::<Vec<_>>(), splits);
            for (node, cut_off) in &cut_nodes {
                let of = whole.iter().find(|piece| piece.contains(node)).expect("it is linked");
                let left = pieces(&links, Some(*node), None);
                let most = left.iter().filter(|piece| piece.is_subset(of)).map(BTreeSet::len).max().unwrap_or(0);
                prop_assert_eq!(*cut_off, of.len() - 1 - most);
            }
            let nodes: BTreeSet<u8> = links.iter().flat_map(|(a, b)| [*a, *b]).collect();
            let splits = nodes.into_iter().filter(|node| pieces(&links, Some(*node), None).len() > whole.len());
            prop_assert_eq!(cut_nodes.iter().map(|(node, _)| *node).collect::<Vec<_>>(), splits.collect::<Vec<_>>());
        }
    }
}
