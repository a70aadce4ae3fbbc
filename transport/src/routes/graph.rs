//! What nodes say of their links, and which links count.

use std::collections::BTreeMap;

use super::ME;
use super::search::Place;
use crate::cost::Cost;

/// A link that counts otherwise than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) ends: (Place, Place),
    pub(super) before: Option<Cost>,
    pub(super) after: Option<Cost>,
}

/// The links by place, sorted by the other end.
pub(super) type Links = Vec<Vec<(Place, Cost)>>;

/// The graph of links.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    /// What each node says.
    said: Vec<BTreeMap<Place, Cost>>,
    /// Those that count, from both ends.
    links: Links,
}

impl Graph {
    pub(super) fn add_node(&mut self) -> Place {
        self.said.push(BTreeMap::new());
        self.links.push(Vec::new());
        self.said.len() as Place - 1
    }

    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// What a link that counts costs.
    pub(super) fn link(&self, a: Place, b: Place) -> Option<Cost> {
        let links = &self.links[a as usize];
        let at = links.binary_search_by_key(&b, |(peer, _)| *peer).ok()?;
        Some(links[at].1)
    }

    /// A link counts where both ends say so, at the dearer cost. This node holds sessions, which have two ends.
    fn counts(&self, a: Place, b: Place) -> Option<Cost> {
        let said = |by: Place, of: Place| self.said[by as usize].get(&of).copied();
        match (said(a, b), said(b, a)) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (Some(own), None) if a == ME => Some(own),
            (None, Some(own)) if b == ME => Some(own),
            _ => None,
        }
    }

    /// Takes over all that a node says. Which links count otherwise since.
    pub(super) fn say(&mut self, node: Place, said: BTreeMap<Place, Cost>) -> Vec<Change> {
        let before = std::mem::replace(&mut self.said[node as usize], said);
        let said = &self.said[node as usize];
        let differs = |peer: &&Place| said.get(*peer) != before.get(*peer);
        let new = said.keys().filter(|peer| !before.contains_key(*peer));
        let peers: Vec<Place> = before.keys().chain(new).filter(differs).copied().collect();
        peers.into_iter().filter_map(|peer| self.settle(node, peer)).collect()
    }

    fn settle(&mut self, a: Place, b: Place) -> Option<Change> {
        let (before, after) = (self.link(a, b), self.counts(a, b));
        if before == after {
            return None;
        }
        for (from, to) in [(a, b), (b, a)] {
            let links = &mut self.links[from as usize];
            match (links.binary_search_by_key(&to, |(peer, _)| *peer), after) {
                (Ok(at), Some(cost)) => links[at].1 = cost,
                (Ok(at), None) => {
                    links.remove(at);
                }
                (Err(at), Some(cost)) => links.insert(at, (to, cost)),
                (Err(_), None) => {}
            }
        }
        Some(Change { ends: (a, b), before, after })
    }
}
