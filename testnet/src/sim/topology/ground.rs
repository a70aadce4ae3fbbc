//! Where the nodes stand: what a link between any two of them would be like.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Line, Nat, Place, Plan, TopologyError};

/// Longest delay of a link, both nodes' own parts included, microseconds.
const DELAY_US_MAX: u64 = 10_000_000;

/// What hashes are for: one use tells nothing of another.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    /// A node's own part of its links' delay.
    Access = 1,
    /// Which of those that are equally near.
    Near = 2,
    /// Rendezvous over all nodes.
    Far = 3,
    /// Rendezvous over the nodes of another zone.
    FarZone = 4,
}

/// A zone as a file has it.
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) nodes: usize,
    /// Its nodes' own parts of delays lie between 0 and this, microseconds.
    pub(super) access_us: u64,
    pub(super) nat: Option<Nat>,
}

/// What a link is like; units as in [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quality {
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
    pub(super) rate: u64,
    pub(super) loss_ppm: u32,
}

impl Quality {
    pub(super) fn line(self, (a, b): (usize, usize)) -> Line {
        let Quality { delay_us, jitter_us, rate, loss_ppm } = self;
        Line { ends: (a.min(b), a.max(b)), delay_us, jitter_us, rate, loss_ppm }
    }
}

/// All nodes with their zones, and their own parts of delays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ground {
    zone: Vec<usize>,
    access_us: Vec<u64>,
    between: Vec<Vec<Quality>>,
    seed: u64,
}

impl Ground {
    /// The ground of a topology, by the same name and seed as the topology itself. What a `[[link]]` says is no part of it.
    ///
    /// # Errors
    ///
    /// As [`super::Topology::load`].
    pub(crate) fn load(name_or_path: &str, seed: u64) -> Result<Ground, TopologyError> {
        Ground::parse(name_or_path, &super::text_of(name_or_path)?, seed)
    }

    pub(super) fn parse(name: &str, text: &str, seed: u64) -> Result<Ground, TopologyError> {
        Plan::parse(text)
            .map(|plan| plan.ground(seed))
            .map_err(|fault| TopologyError::Faulty { name: name.to_owned(), fault: Box::new(fault) })
    }

    /// Where the first so many nodes stand.
    pub(crate) fn shrink_to(&self, nodes: usize) -> Ground {
        let first = |all: &[usize]| all[..nodes.min(all.len())].to_vec();
        let access_us = self.access_us[..nodes.min(self.access_us.len())].to_vec();
        Ground { zone: first(&self.zone), access_us, between: self.between.clone(), seed: self.seed }
    }

    pub(super) fn new(zones: &[Zone], places: &[Place], between: Vec<Vec<Quality>>, seed: u64) -> Ground {
        let index: BTreeMap<&str, usize> =
            zones.iter().enumerate().map(|(index, zone)| (zone.name.as_str(), index)).collect();
        let zone: Vec<usize> = places.iter().map(|place| index[place.zone.as_str()]).collect();
        let access =
            |(node, zone): (usize, &usize)| hash(seed, Purpose::Access, node, 0) % (zones[*zone].access_us + 1);
        let access_us = zone.iter().enumerate().map(access).collect();
        Ground { zone, access_us, between, seed }
    }

    /// The zone's index, in order of name.
    pub(crate) fn zone(&self, node: usize) -> usize {
        self.zone[node]
    }

    /// How many zones there are.
    pub(super) fn zones(&self) -> usize {
        self.between.len()
    }

    /// The nodes of each zone.
    pub(super) fn by_zone(&self) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new(); self.zones()];
        for (node, zone) in self.zone.iter().enumerate() {
            groups[*zone].push(node);
        }
        groups
    }

    pub(super) fn delay_us(&self, a: usize, b: usize) -> u64 {
        let base_us = self.between[self.zone[a]][self.zone[b]].delay_us;
        (base_us + self.access_us[a] + self.access_us[b]).min(DELAY_US_MAX)
    }

    pub(super) fn quality(&self, a: usize, b: usize) -> Quality {
        Quality { delay_us: self.delay_us(a, b), ..self.between[self.zone[a]][self.zone[b]] }
    }

    /// A link between two nodes.
    pub(crate) fn line(&self, a: usize, b: usize) -> Line {
        self.quality(a, b).line((a, b))
    }

    /// A number for two nodes that both compute alike.
    pub(super) fn draw(&self, purpose: Purpose, a: usize, b: usize) -> u64 {
        hash(self.seed, purpose, a.min(b), a.max(b))
    }
}

fn hash(seed: u64, purpose: Purpose, a: usize, b: usize) -> u64 {
    // Numbers of nodes fit 32 bits, so each pair is a word of its own.
    mix(mix(seed ^ ((purpose as u64) << 60)) ^ ((a as u64) << 32 | b as u64))
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
