//! Scenarios: what is done to a fleet, step by step, while operators write all the time. All keys:
//!
//! ```toml
//! about = "a line for people"
//! topology = "lan-12"        # where no lab is up and no other is asked for
//! agree_within_s = 60        # after everything is healed; default 60
//!
//! [writers]
//! nodes = 5                  # that write, spread over the fleet; default 5
//! writes_per_s = 20          # of all of them; default 20
//!
//! [[step]]                   # one thing each, after the one before
//! after_s = 2.0              # and a pause; default 0
//! cut = ["part:1/2", "part:2/2"]      # nodes are chosen as in `lab cut`
//! # cut_one_way = ["#0", "*"]
//! # bend = { between = ["*", "*"], loss_percent = 5 }   # and delay_ms, jitter_ms, rate_mbit, rtt_times, mtu_bytes
//! # freeze = "part:1/4"               # thaw, kill and start the same
//! # restart_each = "#0"               # SIGTERM and a new start, one after the other; `kill_each` with SIGKILL
//! # heal = true
//! # heal_between = ["#0", "*"]
//! # unplug = "part:1/4"               # their network interfaces go down; plug brings them up
//! # rebind = "zone:site-a"            # the routers before them forget their mappings
//! # linked = ["zone:site-a", "zone:site-b"]   # each of the first must have a direct link with each of the second
//! # within_s = 60                             # in this time; default 30
//! # agree_within_s = 30               # the operators pause, and all nodes must agree in this time
//! ```
//!
//! In the end everything is healed, the writers stop, and all nodes must agree and hold every acknowledged write.

use std::path::Path;

use serde::Deserialize;

use super::failure::Failure;
use super::quality::Bend;

/// The scenarios that come with the program.
pub(crate) const BUILT_IN: [(&str, &str); 6] = [
    ("partition", include_str!("../../lab/partition.toml")),
    ("rolling-restart", include_str!("../../lab/rolling-restart.toml")),
    ("three-ways", include_str!("../../lab/three-ways.toml")),
    ("freeze", include_str!("../../lab/freeze.toml")),
    ("behind-nat", include_str!("../../lab/behind-nat.toml")),
    ("interfaces", include_str!("../../lab/interfaces.toml")),
];
/// Most steps.
const STEPS_MAX: usize = 1_000;
/// Longest pause and bound, seconds.
const SECONDS_MAX: f64 = 3_600.0;
/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Who writes, and how much.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Writers {
    pub(crate) nodes: usize,
    pub(crate) writes_per_s: f64,
}

impl Default for Writers {
    fn default() -> Writers {
        Writers { nodes: 5, writes_per_s: 20.0 }
    }
}

/// What is done to lines. (With serde's `flatten` unknown keys would pass.)
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct BendTable {
    between: (String, String),
    delay_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss_percent: Option<f64>,
    rate_mbit: Option<f64>,
    rtt_times: Option<f64>,
    mtu_bytes: Option<u32>,
}

impl BendTable {
    fn bend(&self) -> Bend {
        let BendTable { delay_ms, jitter_ms, loss_percent, rate_mbit, rtt_times, mtu_bytes, .. } = *self;
        Bend { delay_ms, jitter_ms, loss_percent, rate_mbit, rtt_times, mtu_bytes }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTable {
    #[serde(default)]
    after_s: f64,
    cut: Option<(String, String)>,
    cut_one_way: Option<(String, String)>,
    bend: Option<BendTable>,
    freeze: Option<String>,
    thaw: Option<String>,
    kill: Option<String>,
    start: Option<String>,
    restart_each: Option<String>,
    kill_each: Option<String>,
    heal: Option<bool>,
    heal_between: Option<(String, String)>,
    rebind: Option<String>,
    unplug: Option<String>,
    plug: Option<String>,
    linked: Option<(String, String)>,
    within_s: Option<f64>,
    agree_within_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    topology: String,
    #[serde(default = "agree_within_s")]
    agree_within_s: f64,
    #[serde(default)]
    writers: Writers,
    step: Vec<StepTable>,
}

fn agree_within_s() -> f64 {
    60.0
}

/// Where a step that waits for links says nothing else, seconds.
const LINKED_WITHIN_S: f64 = 30.0;

/// What a step does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    Cut {
        one: String,
        other: String,
        is_one_way: bool,
    },
    Bend {
        one: String,
        other: String,
        bend: Bend,
    },
    Freeze(String),
    Thaw(String),
    Kill(String),
    Start(String),
    /// Each in turn ends, by SIGKILL or SIGTERM, and is started again.
    RestartEach {
        nodes: String,
        is_killed: bool,
    },
    Heal,
    HealBetween {
        one: String,
        other: String,
    },
    /// The routers before them forget their mappings.
    Rebind(String),
    Unplug(String),
    Plug(String),
    /// Each of the one side is linked with each of the other.
    Linked {
        one: String,
        other: String,
        within_s: f64,
    },
    Agree {
        within_s: f64,
    },
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::Cut { one, other, is_one_way: false } => write!(f, "cut {one} {other}"),
            Action::Cut { one, other, is_one_way: true } => write!(f, "cut {one} {other} --one-way"),
            Action::Bend { one, other, bend } => write!(f, "bend {one} {other}: {bend}"),
            Action::Freeze(nodes) => write!(f, "freeze {nodes}"),
            Action::Thaw(nodes) => write!(f, "thaw {nodes}"),
            Action::Kill(nodes) => write!(f, "kill {nodes}"),
            Action::Start(nodes) => write!(f, "start {nodes}"),
            Action::RestartEach { nodes, is_killed: false } => write!(f, "restart each of {nodes}"),
            Action::RestartEach { nodes, is_killed: true } => write!(f, "kill and start each of {nodes}"),
            Action::Heal => f.write_str("heal"),
            Action::HealBetween { one, other } => write!(f, "heal {one} {other}"),
            Action::Unplug(nodes) => write!(f, "unplug {nodes}"),
            Action::Plug(nodes) => write!(f, "plug {nodes}"),
            Action::Rebind(nodes) => write!(f, "rebind {nodes}"),
            Action::Linked { one, other, within_s } => write!(f, "linked {one} {other} within {within_s} s"),
            Action::Agree { within_s } => write!(f, "agree within {within_s} s"),
        }
    }
}

/// A step, after a pause.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) after_s: f64,
    pub(crate) action: Action,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) about: String,
    pub(crate) topology: String,
    pub(crate) agree_within_s: f64,
    pub(crate) writers: Writers,
    pub(crate) steps: Vec<Step>,
}

impl Scenario {
    /// The text of a built-in scenario, or of a file.
    pub(crate) fn text(name_or_path: &str) -> Result<String, Failure> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Ok((*text).to_owned());
        }
        let names = BUILT_IN.map(|(name, _)| name).join(", ");
        let unreadable = |cause: &dyn std::fmt::Display| {
            Failure::new(format!("there is no scenario {name_or_path:?}"))
                .cause(format!("it is none of {names}, and as a file: {cause}"))
                .hint("testnet lab run partition")
        };
        let path = Path::new(name_or_path);
        let length = std::fs::metadata(path).map_err(|error| unreadable(&error))?.len();
        if length > FILE_BYTES_MAX {
            return Err(unreadable(&format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        std::fs::read_to_string(path).map_err(|error| unreadable(&error))
    }

    /// Reads a scenario.
    pub(crate) fn parse(text: &str) -> Result<Scenario, Failure> {
        let malformed = |cause: String| {
            Failure::new("the scenario is malformed").cause(cause).hint("testnet lab run partition  # one that works")
        };
        let file: File = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if file.step.len() > STEPS_MAX {
            return Err(malformed(format!("it has more than {STEPS_MAX} steps")));
        }
        let seconds = file.step.iter().flat_map(|step| [Some(step.after_s), step.agree_within_s, step.within_s]);
        let seconds = seconds.flatten();
        if let Some(off) = seconds.chain([file.agree_within_s]).find(|value| !(0.0..=SECONDS_MAX).contains(value)) {
            return Err(malformed(format!("{off} is no number of seconds from 0 to {SECONDS_MAX}")));
        }
        if !(0.1..=1000.0).contains(&file.writers.writes_per_s) {
            return Err(malformed("writes_per_s is 0.1 to 1000".to_owned()));
        }
        let mut steps = Vec::new();
        for (number, table) in file.step.into_iter().enumerate() {
            let after_s = table.after_s;
            let action = action(table).map_err(|cause| malformed(format!("step {}: {cause}", number + 1)))?;
            steps.push(Step { after_s, action });
        }
        Ok(Scenario {
            about: file.about,
            topology: file.topology,
            agree_within_s: file.agree_within_s,
            writers: file.writers,
            steps,
        })
    }
}

/// The one thing that a step says.
fn action(table: StepTable) -> Result<Action, String> {
    let cut = |(one, other), is_one_way| Action::Cut { one, other, is_one_way };
    if table.within_s.is_some() && table.linked.is_none() {
        return Err("within_s says for how long links are waited for, and goes with linked".to_owned());
    }
    let within_s = table.within_s.unwrap_or(LINKED_WITHIN_S);
    if let Some(fault) = table.bend.as_ref().and_then(|table| table.bend().fault()) {
        return Err(fault.to_owned());
    }
    let said = [
        table.cut.map(|pair| cut(pair, false)),
        table.cut_one_way.map(|pair| cut(pair, true)),
        table.bend.map(|table| {
            let bend = table.bend();
            Action::Bend { one: table.between.0, other: table.between.1, bend }
        }),
        table.freeze.map(Action::Freeze),
        table.thaw.map(Action::Thaw),
        table.kill.map(Action::Kill),
        table.start.map(Action::Start),
        table.restart_each.map(|nodes| Action::RestartEach { nodes, is_killed: false }),
        table.kill_each.map(|nodes| Action::RestartEach { nodes, is_killed: true }),
        table.heal.filter(|heal| *heal).map(|_| Action::Heal),
        table.heal_between.map(|(one, other)| Action::HealBetween { one, other }),
        table.rebind.map(Action::Rebind),
        table.unplug.map(Action::Unplug),
        table.plug.map(Action::Plug),
        table.linked.map(|(one, other)| Action::Linked { one, other, within_s }),
        table.agree_within_s.map(|within_s| Action::Agree { within_s }),
    ];
    let mut said = said.into_iter().flatten();
    match (said.next(), said.next()) {
        (Some(action), None) => Ok(action),
        (None, _) => Err("it does nothing".to_owned()),
        (Some(one), Some(other)) => Err(format!("it does two things, {one} and {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::select;
    use crate::sim::topology::Topology;

    #[test]
    fn what_is_built_in_can_be_read_and_means_nodes_of_its_topology() {
        for (name, text) in BUILT_IN {
            let scenario = Scenario::parse(text).unwrap_or_else(|failure| panic!("{name}: {failure:?}"));
            let topology = Topology::load(&scenario.topology, 1).expect("its topology");
            for step in &scenario.steps {
                match &step.action {
                    Action::Cut { one, other, .. }
                    | Action::Bend { one, other, .. }
                    | Action::HealBetween { one, other }
                    | Action::Linked { one, other, .. } => {
                        select::pairs(&topology, one, other).expect("lines");
                    }
                    Action::Freeze(nodes)
                    | Action::Thaw(nodes)
                    | Action::Kill(nodes)
                    | Action::Start(nodes)
                    | Action::Rebind(nodes)
                    | Action::Unplug(nodes)
                    | Action::Plug(nodes)
                    | Action::RestartEach { nodes, .. } => {
                        select::nodes(&topology, nodes).expect("nodes");
                    }
                    Action::Heal | Action::Agree { .. } => {}
                }
            }
        }
    }

    #[test]
    fn a_step_does_one_thing() {
        let parse = |step: &str| Scenario::parse(&format!("about = 'x'\ntopology = 'line'\n[[step]]\n{step}"));
        let one = parse("after_s = 1.5\nkill = '#1'").expect("one thing");
        assert_eq!(one.steps, [Step { after_s: 1.5, action: Action::Kill("#1".to_owned()) }]);
        let bent = parse("bend = { between = ['*', '*'], loss_percent = 5 }").expect("a bend");
        assert_eq!(bent.steps[0].action.to_string(), "bend * *: loss 5 %");
        for step in [
            "",
            "after_s = 1",
            "kill = '#1'\nheal = true",
            "after_s = -1\nheal = true",
            "kill = '#1'\nwithin_s = 5",
            "linked = ['#1', '#2']\nwithin_s = -5",
            "heal = false",
            "cut = ['a']",
            "explode = '*'",
            "bend = { between = ['*', '*'], loss_percent = 500 }",
            "bend = { between = ['*', '*'], lost = 5 }",
        ] {
            assert!(parse(step).is_err(), "{step}");
        }
    }
}
