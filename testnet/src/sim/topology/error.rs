//! Why there is no topology.

use super::{FILE_BYTES_MAX, LINKS_PER_NODE_MAX, NODES_MAX, ZONES_MAX};

/// Why a topology cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum TopologyError {
    /// Not a preset, and nothing that looks like a path.
    #[error("no topology is named `{name}`: there are {presets}, or the path of a .toml file")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The presets' names.
        presets: String,
    },
    /// The file cannot be opened, or is no UTF-8.
    #[error("topology {path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The file is longer than a topology may be.
    #[error("topology {path} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong {
        /// The file.
        path: String,
    },
    /// What the file says makes no topology.
    #[error("topology {name}: {fault}")]
    Faulty {
        /// The preset or the file.
        name: String,
        /// What is wrong in it.
        fault: Box<Fault>,
    },
}

/// Which rule a file breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Fault {
    /// No TOML, an unknown or missing key, a value of the wrong type or beyond its limits; with the place in the file.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Not 1 to the limit of zones.
    #[error("[zones] has {0} zones, allowed are 1 to {ZONES_MAX}")]
    Zones(usize),
    /// A zone's name that cannot begin a node's.
    #[error(
        "[zones] has `{0}`, allowed are 1 to 32 lowercase letters, digits and `-`, a letter first and no `-` at the end"
    )]
    ZoneName(String),
    /// More nodes than a topology may have.
    #[error("the zones have {0} nodes, allowed are {NODES_MAX}")]
    Nodes(usize),
    /// A pair of zones one of which there is not.
    #[error("[[between]] zones has `{zone}`, allowed are {zones}")]
    UnknownZone {
        /// What it says.
        zone: String,
        /// The zones.
        zones: String,
    },
    /// A pair of one zone.
    #[error("[[between]] zones has `{0}` twice, allowed are two different ones; [within] is for nodes of one zone")]
    SameZone(String),
    /// Two tables about one pair.
    #[error("[[between]] zones has `{0}` and `{1}` a second time, allowed is one table a pair")]
    ZonesAgain(String, String),
    /// A node's name that none has.
    #[error("{key} has `{node}`, allowed are {allowed}")]
    UnknownNode {
        /// The key.
        key: &'static str,
        /// What it says.
        node: String,
        /// The nodes.
        allowed: String,
    },
    /// A link of a node with itself.
    #[error("[[link]] between has `{0}` twice, allowed are two different nodes")]
    SameNode(String),
    /// Two tables about one link.
    #[error("[[link]] between has `{0}` and `{1}` a second time, allowed is one table a link")]
    LinkAgain(String, String),
    /// A key of another kind of mesh.
    #[error("[mesh] {key} has no meaning where kind = \"{kind}\", only where kind = {allowed}")]
    Meaningless {
        /// The key.
        key: &'static str,
        /// The mesh's kind.
        kind: &'static str,
        /// The kinds that it speaks of.
        allowed: &'static str,
    },
    /// Hubs without a hub, or with too many.
    #[error("[mesh] hubs has {hubs} nodes, allowed are 1 to {most} different ones")]
    Hubs {
        /// Different ones that it names.
        hubs: usize,
        /// Most of them.
        most: usize,
    },
    /// More links than the fleet may have.
    #[error("{links} links of {nodes} nodes are too many, allowed are {LINKS_PER_NODE_MAX} a node on average")]
    Links {
        /// Links.
        links: usize,
        /// Nodes.
        nodes: usize,
    },
    /// Two nodes between which no way leads.
    #[error("no way leads from {0} to {1}, allowed are fleets of one part: link them with a [[link]]")]
    Apart(String, String),
}
