//! Fleets on paper: nodes in zones, and the links between them with delay, jitter, rate and loss.
//!
//! A topology is a preset's name or a TOML file. The file says what the network is like and how links are chosen in it,
//! not each link, so the simulator and a lab of real processes can build the same fleet from it; what is drawn is drawn
//! from a seed. All keys:
//!
//! ```toml
//! [zones.lab]              # one table a zone; lowercase letters, digits and `-`. Its nodes are lab-0, lab-1, …
//! nodes = 12
//! access_ms = 2.0          # here instead of the one of [within]
//!
//! [zones.yard]
//! nodes = 30
//! nat = "port-restricted"  # a lab puts the zone behind a router that translates addresses (also "full-cone",
//!                          # "symmetric"); nothing where it is left out. The simulator's links need no addresses
//!
//! [within]                 # between two nodes of one zone
//! delay_ms = 0.2           # one way; default 0.2
//! jitter_ms = 0.0          # as much more at most, evenly; default 0
//! rate_mbit_s = 1000       # each way; 0, the default, for no limit
//! loss_percent = 0.0       # default 0
//! access_ms = 0.5          # each node adds its own part, drawn evenly from 0 to this, to its links; default 0
//!
//! [across]                 # between two zones of which no [[between]] says more; default 40 ms, the rest 0
//! delay_ms = 40
//!
//! [[between]]              # between these two zones; what it leaves out is as in [across]
//! zones = ["lab", "yard"]
//! delay_ms = 12.5
//!
//! [mesh]
//! kind = "near-far"        # the default; or "full", "line", "star", "listed"
//! near = 8                 # near-far: links to the nearest
//! far = 4                  # near-far: half by rendezvous hash over all, half into other zones in turn
//! within_zones = false     # true: the mesh of each zone stands alone, and only [[link]] leads out of it
//! # hubs = ["lab-0"]       # star: the hubs, all linked; each other node is linked with each. Default: the first node
//!
//! [[link]]                 # one link more, or a chosen one with other properties; all links where kind = "listed"
//! between = ["lab-0", "yard-3"]
//! delay_ms = 300           # the whole delay, nothing is added; what is left out is as between its nodes otherwise
//! ```
//!
//! Nodes are numbered across the zones, first the `-0` of each zone in order of name, then the `-1`: the first nodes
//! of a fleet are a small fleet in the same zones. A line runs through one zone after the other. A near-far mesh of at
//! most 12 nodes is full; beyond, each node has `near + far` links, some a third more at most (12 to 16). Unknown keys
//! are errors, and so is a fleet in which some node cannot be reached.
//!
//! Limits: 20,000 nodes, 256 zones, 64 links a node on average, 10 s of delay and of jitter, 4 MiB of TOML.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use self::direct::Direct;
pub(crate) use self::error::TopologyError;
use self::file::Plan;
pub(crate) use self::ground::Ground;
pub(crate) use self::parts::Parts;

mod direct;
mod error;
mod file;
mod ground;
mod mesh;
mod near_far;
mod parts;
mod shrink;
mod values;

#[cfg(test)]
mod tests;

/// Most nodes of a topology.
pub(crate) const NODES_MAX: usize = 20_000;
/// Most zones of a topology: what is said of each pair of them is kept.
pub(crate) const ZONES_MAX: usize = 256;
/// Most links a node, on average over the fleet.
pub(crate) const LINKS_PER_NODE_MAX: usize = 64;
/// Longest file, bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The presets: name and file.
const PRESETS: [(&str, &str); 16] = [
    ("lan-12", include_str!("../../topologies/lan-12.toml")),
    ("balance", include_str!("../../topologies/balance.toml")),
    ("bulk-long", include_str!("../../topologies/bulk-long.toml")),
    ("bulk-paths", include_str!("../../topologies/bulk-paths.toml")),
    ("failover", include_str!("../../topologies/failover.toml")),
    ("fleet-12-4z", include_str!("../../topologies/fleet-12-4z.toml")),
    ("lab-25", include_str!("../../topologies/lab-25.toml")),
    ("fleet-100-4z", include_str!("../../topologies/fleet-100-4z.toml")),
    ("fleet-200-8z", include_str!("../../topologies/fleet-200-8z.toml")),
    ("fleet-1000-8z", include_str!("../../topologies/fleet-1000-8z.toml")),
    ("fleet-10000-8z", include_str!("../../topologies/fleet-10000-8z.toml")),
    ("glomers-25", include_str!("../../topologies/glomers-25.toml")),
    ("islands", include_str!("../../topologies/islands.toml")),
    ("behind-nat", include_str!("../../topologies/behind-nat.toml")),
    ("line", include_str!("../../topologies/line.toml")),
    ("star-behind-nat", include_str!("../../topologies/star-behind-nat.toml")),
];

/// A node's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its name: its zone's and a number.
    pub(crate) name: String,
    /// Its zone.
    pub(crate) zone: String,
    /// What the zone's router does to addresses, where it has one that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nat: Option<Nat>,
}

/// How a router translates addresses (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Nat {
    /// One port outside for all destinations, and everybody is let in there.
    FullCone,
    /// One port for all destinations; only those are let in to whom something was sent.
    PortRestricted,
    /// A port for each destination.
    Symmetric,
}

/// A link between two nodes; both directions are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The nodes' numbers, the lower first.
    pub(crate) ends: (usize, usize),
    /// One way, microseconds.
    pub(crate) delay_us: u64,
    /// As much more at most, evenly, microseconds.
    pub(crate) jitter_us: u64,
    /// Bytes a second; 0 for no limit.
    pub(crate) rate: u64,
    /// Lost packets in a million.
    pub(crate) loss_ppm: u32,
}

/// Nodes and the links between them. As loaded, every node reaches every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Topology {
    /// Where it comes from, for people.
    pub(crate) name: String,
    /// The nodes, by number.
    pub(crate) nodes: Vec<Place>,
    /// The links.
    pub(crate) lines: Vec<Line>,
}

impl Topology {
    /// The preset of this name, or the topology in the file of this path: what has a `/` or ends in `.toml` is a path.
    /// The same name and seed give the same topology everywhere.
    ///
    /// # Errors
    ///
    /// A name that no preset has; a file that cannot be read or breaks a rule, saying which key and what is allowed.
    pub(crate) fn load(name_or_path: &str, seed: u64) -> Result<Topology, TopologyError> {
        Topology::parse(name_or_path, &text_of(name_or_path)?, seed)
    }

    pub(crate) fn parse(name: &str, text: &str, seed: u64) -> Result<Topology, TopologyError> {
        Plan::parse(text)
            .and_then(|plan| plan.build(name, seed))
            .map_err(|fault| TopologyError::Faulty { name: name.to_owned(), fault: Box::new(fault) })
    }
}

/// The file of a preset, or the one that lies there.
fn text_of(name_or_path: &str) -> Result<Cow<'static, str>, TopologyError> {
    if let Some((_, text)) = PRESETS.iter().find(|(name, _)| *name == name_or_path) {
        return Ok(Cow::Borrowed(text));
    }
    if !name_or_path.contains('/') && !name_or_path.ends_with(".toml") {
        return Err(TopologyError::Unknown { name: name_or_path.to_owned(), presets: names_of_presets() });
    }
    read(Path::new(name_or_path)).map(Cow::Owned)
}

fn names_of_presets() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

fn read(path: &Path) -> Result<String, TopologyError> {
    let unreadable = |cause| TopologyError::Unreadable { path: path.display().to_string(), cause };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > FILE_BYTES_MAX {
        return Err(TopologyError::TooLong { path: path.display().to_string() });
    }
    Ok(text)
}
