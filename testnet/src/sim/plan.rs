//! What is done to a fleet, step by step: made from a scenario and a seed, kept as a file where a run failed.

use serde::{Deserialize, Serialize};

use super::topology::{Ground, Topology};

/// Where in the way of a batch to the disk a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Boundary {
    /// At once.
    Now,
    /// Before the next batch is applied.
    BeforeApply,
    /// After the next batch is applied, before anything else.
    AfterApply,
    /// After the next synced batch, before it is reported.
    AfterSync,
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// A device writes a value of its own.
    Write { node: usize, path: String, value: i64 },
    /// A device writes a large value of its own.
    Bulk { node: usize, path: String, bytes: usize },
    /// An operator edits a shared document on a node, in two steps.
    Edit { node: usize, operator: usize, document: String, path: String, value: Option<i64> },
    /// An operator labels a device, on a node.
    Label { node: usize, operator: usize, device: usize, value: String },
    /// An operator ends a device's membership, on a node; the device goes on as if nothing was.
    Remove { node: usize, operator: usize, device: usize },
    /// A device joins over a node.
    Join { node: usize, over: usize },
    /// A device goes and never comes back; it stays a member.
    Leave { node: usize },
    /// A line is cut; what is on its way is lost.
    Cut { line: usize },
    /// A line is whole again.
    Mend { line: usize },
    /// Nothing passes a line in one direction any more (to its first end, or to its second), while sessions stand.
    Mute { line: usize, to_first: bool },
    /// No line between these nodes and the others is whole.
    Part { side: Vec<usize> },
    /// Every line is whole again.
    MendAll,
    /// A node dies.
    Crash { node: usize, power: bool, at: Boundary },
    /// A node starts on what its disk holds.
    Start { node: usize },
    /// A node does nothing, and its sessions stand.
    Freeze { node: usize, for_ms: u64 },
    /// Every input costs a node that much.
    Slow { node: usize, input_us: u64 },
    /// A node's wall clock jumps, milliseconds.
    Jump { node: usize, by_ms: i64 },
    /// A copy of a node's disk is made.
    Backup { node: usize },
    /// A node dies, and starts on the last copy of its disk: restored, or a clone that took its place.
    PutBack { node: usize },
    /// A node's outgoing frames are dropped, repeated and altered, each that many in a million.
    Misbehave { node: usize, drop_ppm: u32, repeat_ppm: u32, alter_ppm: u32 },
}

impl Step {
    /// The nodes that a step names.
    pub(crate) fn nodes(&self) -> Vec<usize> {
        match self {
            Step::Write { node, .. }
            | Step::Bulk { node, .. }
            | Step::Edit { node, .. }
            | Step::Crash { node, .. }
            | Step::Start { node }
            | Step::Leave { node }
            | Step::Freeze { node, .. }
            | Step::Slow { node, .. }
            | Step::Jump { node, .. }
            | Step::Backup { node }
            | Step::PutBack { node }
            | Step::Misbehave { node, .. } => vec![*node],
            Step::Label { node, device, .. } | Step::Remove { node, device, .. } => vec![*node, *device],
            Step::Join { node, over } => vec![*node, *over],
            Step::Part { side } => side.clone(),
            Step::Cut { .. } | Step::Mend { .. } | Step::Mute { .. } | Step::MendAll => Vec::new(),
        }
    }

    /// Whether it is a fault, and not work or its end.
    pub(crate) fn is_fault(&self) -> bool {
        !matches!(
            self,
            Step::Write { .. }
                | Step::Bulk { .. }
                | Step::Edit { .. }
                | Step::Label { .. }
                | Step::Remove { .. }
                | Step::Join { .. }
                | Step::Leave { .. }
                | Step::Backup { .. }
                | Step::Start { .. }
                | Step::Mend { .. }
                | Step::MendAll
        )
    }
}

/// How the oracle of links works, where hosts do not choose their links themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkOracle {
    /// A session comes up at most this long after both ends could hold it, milliseconds.
    pub(crate) up_ms: u64,
    /// An end learns at most this long after it that a session is gone, milliseconds.
    pub(crate) down_ms: u64,
    /// That many sessions in a million come up and are gone at once.
    pub(crate) error_ppm: u32,
    /// Nodes learn of better ways to origins that much after a session came up or went, and at most as much later again,
    /// milliseconds; in a fleet of more nodes than that, after as many milliseconds as it has nodes.
    #[serde(default = "routes_ms")]
    pub(crate) routes_ms: u64,
    /// That many in a million of the ways that are handed over lead anywhere.
    #[serde(default)]
    pub(crate) routes_error_ppm: u32,
}

fn routes_ms() -> u64 {
    300
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// Decides what the plan leaves open: delays, losses, jitter.
    pub(crate) seed: u64,
    pub(crate) topology: Topology,
    /// Where hosts choose their links themselves: what a link between any two is like. The topology has none then, and a
    /// step that names a line means one of the links that are up at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ground: Option<Ground>,
    pub(crate) oracle: LinkOracle,
    /// How long a sync takes, microseconds.
    pub(crate) sync_us: u64,
    /// Nodes that are no members from the start.
    pub(crate) joiners: Vec<usize>,
    /// Milliseconds from the start, ascending, and what is done then.
    pub(crate) steps: Vec<(u64, Step)>,
    /// When every fault ends, milliseconds.
    pub(crate) heal_ms: u64,
    /// How long after that the roots must be equal, milliseconds.
    pub(crate) bound_ms: u64,
}
