//! Near and far links, as the mesh chooses them (full mesh up to 12 nodes; beyond, degree 12, 8 to 16: 8 near by delay,
//! 4 far): what its exchanges settle on, computed at once.
//!
//! Links are symmetric, so a choice is a matching: pairs in the order in which both like them, as long as both have
//! room. Who is left with less takes the nearest that have less than the most.

use super::ground::{Ground, Purpose};

/// How many of a node's best partners it looks at in a round: the mesh's passive view has 48.
const SHORTLIST: usize = 48;

/// No node has more links than this: 16 for 12.
pub(super) fn degree_max(near: usize, far: usize) -> usize {
    (near + far) * 4 / 3
}

/// The links among a group, each pair with the lower number first. That they make one part is likely beyond measure and
/// checked later, not made sure of here.
pub(super) fn choose(ground: &Ground, group: &[usize], near: usize, far: usize) -> Vec<(usize, usize)> {
    let mut choice = Choice { ground, group, peers: vec![Vec::new(); group.len()] };
    let zones = choice.zones();
    let into_zones = if zones.len() > 1 { far / 2 } else { 0 };
    choice.link_zones(&zones, into_zones);
    choice.pair_up(near, |a, b| (nearness(ground.delay_us(a, b)), ground.draw(Purpose::Near, a, b)));
    choice.pair_up(far - into_zones, |a, b| (0, ground.draw(Purpose::Far, a, b)));
    choice.fill(near + far, degree_max(near, far));
    choice.pairs()
}

/// Delays in steps of about 0.7, below which the mesh does not exchange a neighbour: 2 to 3, 3 to 4, 4 to 6, 6 to 8, …
/// Within a step the hash decides, or the nodes with the best access would be everyone's neighbours.
fn nearness(delay_us: u64) -> u32 {
    let delay_us = delay_us.max(2);
    let exponent = delay_us.ilog2();
    exponent * 2 + u32::from(delay_us >> (exponent - 1) & 1 == 1)
}

/// The links so far. Nodes are indices into the group here.
struct Choice<'a> {
    ground: &'a Ground,
    group: &'a [usize],
    peers: Vec<Vec<usize>>,
}

impl Choice<'_> {
    fn is_linked(&self, a: usize, b: usize) -> bool {
        a == b || self.peers[a].contains(&b)
    }

    fn link(&mut self, a: usize, b: usize) {
        self.peers[a].push(b);
        self.peers[b].push(a);
    }

    /// The group by zone.
    fn zones(&self) -> Vec<Vec<usize>> {
        let mut zones = vec![Vec::new(); self.ground.zones()];
        for (at, node) in self.group.iter().enumerate() {
            zones[self.ground.zone(*node)].push(at);
        }
        zones.retain(|zone| !zone.is_empty());
        zones
    }

    /// Links each node with `want` in other zones. Each zone takes the others in turn, so that it is linked with all of
    /// them alike; there it takes the node with room and the highest hash.
    fn link_zones(&mut self, zones: &[Vec<usize>], want: usize) {
        let mut room = vec![want; self.group.len()];
        let mut turns: Vec<usize> = (1..=zones.len()).collect();
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        for rank in 0..longest {
            for (home, zone) in zones.iter().enumerate() {
                let Some(a) = zone.get(rank).copied() else { continue };
                while room[a] > 0 {
                    let found = (0..zones.len()).find_map(|_| {
                        let away = turns[home] % zones.len();
                        turns[home] += 1;
                        if away == home { None } else { self.best_of(a, &zones[away], &room) }
                    });
                    let Some(b) = found else { break };
                    self.link(a, b);
                    room[a] -= 1;
                    room[b] -= 1;
                }
            }
        }
    }

    fn best_of(&self, a: usize, zone: &[usize], room: &[usize]) -> Option<usize> {
        let open = zone.iter().copied().filter(|b| room[*b] > 0 && !self.is_linked(a, *b));
        open.max_by_key(|b| self.ground.draw(Purpose::FarZone, self.group[a], self.group[*b]))
    }

    /// Links each node with `want` more: the pairs in order of liking, the lowest first, while both have room. In
    /// rounds, because all of a node's shortlist may be taken by others.
    fn pair_up(&mut self, want: usize, liking: impl Fn(usize, usize) -> (u32, u64)) {
        let mut room = vec![want; self.group.len()];
        let mut open: Vec<usize> = (0..self.group.len()).collect();
        let mut has_linked = want > 0;
        while has_linked {
            has_linked = false;
            for (_, a, b) in self.shortlists(&open, &liking) {
                if room[a] > 0 && room[b] > 0 && !self.is_linked(a, b) {
                    self.link(a, b);
                    room[a] -= 1;
                    room[b] -= 1;
                    has_linked = true;
                }
            }
            open.retain(|node| room[*node] > 0);
        }
    }

    /// The pairs on the shortlists of these nodes, the best first.
    fn shortlists(
        &self,
        open: &[usize],
        liking: &impl Fn(usize, usize) -> (u32, u64),
    ) -> Vec<((u32, u64), usize, usize)> {
        let mut pairs = Vec::new();
        for a in open.iter().copied() {
            let mut list = Vec::with_capacity(2 * SHORTLIST);
            let mut worst = None;
            for b in open.iter().copied() {
                let pair = (liking(self.group[a], self.group[b]), a.min(b), a.max(b));
                if worst.is_some_and(|worst| pair > worst) || self.is_linked(a, b) {
                    continue;
                }
                list.push(pair);
                // The better half each time it is full: a list of all would cost most of the time.
                if list.len() == 2 * SHORTLIST {
                    worst = Some(*list.select_nth_unstable(SHORTLIST - 1).1);
                    list.truncate(SHORTLIST);
                }
            }
            list.sort_unstable();
            list.truncate(SHORTLIST);
            pairs.extend(list);
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Gives those that have too few the nearest that have room: all whom they like may have found others, as happens
    /// to a small zone beside a large one.
    fn fill(&mut self, want: usize, most: usize) {
        for a in 0..self.group.len() {
            while self.peers[a].len() < want {
                let has_room = |b: &usize| self.peers[*b].len() < most && !self.is_linked(a, *b);
                let open = (0..self.group.len()).filter(has_room);
                let Some(b) = open.min_by_key(|b| (self.delay_us(a, *b), *b)) else { break };
                self.link(a, b);
            }
        }
    }

    fn delay_us(&self, a: usize, b: usize) -> u64 {
        self.ground.delay_us(self.group[a], self.group[b])
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let peers = self.peers.iter().enumerate();
        peers
            .flat_map(|(a, peers)| peers.iter().filter(move |b| a < **b).map(move |b| (a, *b)))
            .map(|(a, b)| (self.group[a].min(self.group[b]), self.group[a].max(self.group[b])))
            .collect()
    }
}
