//! Routes: from what devices say of their links, the next hop and two backups for every destination.
//!
//! One search from this node gives all of it (`search`): every node keeps its three cheapest ways that begin with
//! different neighbours of this node. As links cost the same both ways, those neighbours are also the ones over which what
//! is made there comes here best. Pure: reports in, ways out; nothing here knows time.
//!
//! ```
//! use transport::{Cost, PeerKey, Routes};
//!
//! let [me, near, far] = [1, 2, 3].map(|number| PeerKey([number; 32]));
//! let cost = Cost::from_micros(2_000);
//! let mut routes = Routes::new(me);
//! routes.report(me, &[(near, cost)]);
//! routes.report(near, &[(me, cost), (far, cost)]);
//! routes.report(far, &[(near, cost)]);
//! assert_eq!(routes.update(), [near, far]);
//! assert_eq!(routes.ways(&far)[0].next, near);
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::Cost;
use crate::peer::PeerKey;
use graph::Graph;
use search::{Labels, NO_WAYS, NOBODY, Place, WAYS, search};

mod graph;
mod search;

#[cfg(test)]
mod tests;

/// Most nodes that are known. What is said of further ones is ignored.
pub const MAX_NODES: usize = 65_536;
/// Most links of a node that are looked at.
pub const MAX_LINKS: usize = 256;
/// Most ways to a node that are known: the cheapest ones that begin with different neighbours.
pub const MAX_WAYS: usize = WAYS;
/// This node's own place.
const ME: Place = 0;
/// A way stays while it costs at most this share of the best one more...
const STAYS_SHARE: u32 = 8;
/// ... and this, microseconds.
const STAYS_MICROS: u32 = 1_000;

/// A way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The neighbour with which it begins.
    pub next: PeerKey,
    /// What all of it costs.
    pub cost: Cost,
    /// Whether that neighbour's own best way avoids this node: only then it can be a parent.
    pub is_loop_free: bool,
}

/// A way as it was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hop {
    next: Place,
    is_loop_free: bool,
}

/// The ways to a destination as they were handed out, the one to be taken first.
type Hops = [Option<Hop>; WAYS];

/// What this node knows of the mesh, and its ways through it.
#[derive(Debug, Clone)]
pub struct Routes {
    places: BTreeMap<PeerKey, Place>,
    keys: Vec<PeerKey>,
    graph: Graph,
    /// By place; as of the last search.
    labels: Vec<Labels>,
    /// This node's own links; as of the last search.
    own: Vec<(Place, Cost)>,
    /// By place; as of the last [`Routes::update`].
    hops: Vec<Hops>,
    is_stale: bool,
}

impl Routes {
    /// No links are known.
    pub fn new(me: PeerKey) -> Routes {
        let mut routes = Routes {
            places: BTreeMap::new(),
            keys: Vec::new(),
            graph: Graph::default(),
            labels: Vec::new(),
            own: Vec::new(),
            hops: Vec::new(),
            is_stale: false,
        };
        routes.place(me);
        routes
    }

    fn place(&mut self, key: PeerKey) -> Option<Place> {
        if let Some(place) = self.places.get(&key) {
            return Some(*place);
        }
        if self.keys.len() >= MAX_NODES {
            return None;
        }
        let place = self.graph.add_node();
        self.places.insert(key, place);
        self.keys.push(key);
        self.labels.push(NO_WAYS);
        self.hops.push(Hops::default());
        Some(place)
    }

    /// All links that a node says it has, each peer once. Others of its links are gone; at most [`MAX_LINKS`] count.
    pub fn report(&mut self, node: PeerKey, links: &[(PeerKey, Cost)]) {
        let Some(place) = self.place(node) else { return };
        let known = links.iter().take(MAX_LINKS).filter_map(|(peer, cost)| Some((self.place(*peer)?, *cost)));
        let said: BTreeMap<Place, Cost> = known.filter(|(peer, _)| *peer != place).collect();
        for change in self.graph.say(place, said) {
            self.is_stale = self.is_stale || search::matters(&self.labels, &change);
        }
    }

    /// Whether the ways are no longer the best ones.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Finds the best ways. To whom they lead otherwise than before, in order of key.
    pub fn update(&mut self) -> Vec<PeerKey> {
        if !std::mem::take(&mut self.is_stale) {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.labels, search(self.graph.links()));
        let own = self.graph.links()[ME as usize].clone();
        let has_own_changed = std::mem::replace(&mut self.own, own) != self.graph.links()[ME as usize];
        let mut changed = Vec::new();
        for (key, place) in self.places.iter().filter(|(_, place)| **place != ME) {
            let at = *place as usize;
            // The same ways over the same own links are ordered as before.
            if !has_own_changed && before[at] == self.labels[at] {
                continue;
            }
            let first_before = self.hops[at][0].map(|hop| hop.next);
            let hops = self.hops_of(&self.labels[at], first_before);
            if std::mem::replace(&mut self.hops[at], hops) != hops {
                changed.push(*key);
            }
        }
        changed
    }

    /// Orders ways: the one that is taken, then those whose neighbour is nearer to the destination than this node, so that
    /// no two nodes' backups make a circle (RFC 5286, downstream paths), of these first the ones that avoid the first.
    fn hops_of(&self, labels: &Labels, first_before: Option<Place>) -> Hops {
        let best = labels[0].cost;
        let link = |first: Place| self.graph.link(ME, first).map_or(0, Cost::micros);
        // Beyond the link, what is left to go from the neighbour without this node.
        let rest = |label: &search::Label| label.cost.micros().saturating_sub(link(label.first));
        let leads_back = |label: &search::Label| rest(label) >= link(label.first).saturating_add(best.micros());
        let stays_up_to = best.micros().saturating_add(best.micros() / STAYS_SHARE).saturating_add(STAYS_MICROS);
        let known = labels.iter().filter(|label| label.first != NOBODY);
        let stays = |label: &&search::Label| {
            Some(label.first) == first_before && label.cost.micros() <= stays_up_to && !leads_back(label)
        };
        let taken = known.clone().find(stays).map_or(labels[0].first, |label| label.first);
        let mut ranked: Vec<_> = known
            .map(|label| {
                let is_upstream = rest(label) >= best.micros();
                let rank = (label.first != taken, leads_back(label), is_upstream, label.second == taken, label.cost);
                (rank, Hop { next: label.first, is_loop_free: !leads_back(label) })
            })
            .collect();
        ranked.sort_unstable_by_key(|(rank, hop)| (*rank, hop.next));
        let mut hops = Hops::default();
        hops.iter_mut().zip(ranked).for_each(|(hop, (_, ranked))| *hop = Some(ranked));
        hops
    }

    /// The ways to a node as of the last [`Routes::update`]: the one to be taken, then its backups. Empty where none is
    /// known.
    pub fn ways(&self, to: &PeerKey) -> Vec<Way> {
        let Some(at) = self.places.get(to).map(|place| *place as usize) else { return Vec::new() };
        let cost = |hop: &Hop| self.labels[at].iter().find(|label| label.first == hop.next).map(|label| label.cost);
        let way = |hop: &Hop| Some(Way { next: self.key(hop.next), cost: cost(hop)?, is_loop_free: hop.is_loop_free });
        self.hops[at].iter().flatten().filter_map(way).collect()
    }

    /// The nodes of the cheapest way that begins with a neighbour, that neighbour first and the destination last, each
    /// with what the link to it costs. None where there is no such way.
    pub fn path(&self, next: &PeerKey, to: &PeerKey) -> Option<Vec<(PeerKey, Cost)>> {
        let (next, to) = (*self.places.get(next)?, *self.places.get(to)?);
        let mut path = vec![(self.key(next), self.graph.link(ME, next)?)];
        let rest = search::path(self.graph.links(), next, to)?;
        path.extend(rest.into_iter().map(|(place, cost)| (self.key(place), cost)));
        Some(path)
    }

    /// The neighbour with which the cheapest way to a node begins, as the mesh is known now, of those that avoid some nodes
    /// and links and begin with a neighbour that is open. Costs a search.
    pub fn way_round(
        &self,
        to: &PeerKey,
        nodes: &[PeerKey],
        links: &[(PeerKey, PeerKey)],
        is_open: impl Fn(&PeerKey) -> bool,
    ) -> Option<PeerKey> {
        let place = |key: &PeerKey| self.places.get(key).copied();
        let nodes: BTreeSet<Place> = nodes.iter().filter_map(place).collect();
        let both = |(a, b): &(PeerKey, PeerKey)| Some([(place(a)?, place(b)?), (place(b)?, place(a)?)]);
        let links: BTreeSet<(Place, Place)> = links.iter().filter_map(both).flatten().collect();
        let is_barred = |from: Place, to: Place| {
            nodes.contains(&to) || links.contains(&(from, to)) || (from == ME && !is_open(&self.key(to)))
        };
        search::way_round(self.graph.links(), place(to)?, is_barred).map(|next| self.key(next))
    }

    /// Whether a neighbour would not be reached without the link to it.
    pub fn is_bridge(&self, peer: &PeerKey) -> bool {
        let Some(place) = self.places.get(peer).copied() else { return false };
        let is_barred = |from: Place, to: Place| from == ME && to == place;
        search::way_round(self.graph.links(), place, is_barred).is_none()
    }

    /// The links that count, each once, in order of the keys of their ends.
    pub fn links(&self) -> Vec<(PeerKey, PeerKey, Cost)> {
        let links = self.graph.links().iter().zip(&self.keys);
        let all = links.flat_map(|(links, key)| links.iter().map(|(peer, cost)| (*key, self.key(*peer), *cost)));
        let mut once: Vec<_> = all.filter(|(a, b, _)| a < b).collect();
        once.sort_unstable();
        once
    }

    fn key(&self, place: Place) -> PeerKey {
        self.keys[place as usize]
    }
}
