//! Scenarios: what work is done and which faults happen how often. A seed makes a plan of one.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::{Boundary, LinkOracle, Plan, Step};
use super::random::Random;
use super::topology::{Ground, Topology, TopologyError};

/// The scenarios that come with the program.
pub(crate) const BUILT_IN: [(&str, &str); 7] = [
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("storm", include_str!("../../scenarios/storm.toml")),
    ("churn", include_str!("../../scenarios/churn.toml")),
    ("restored", include_str!("../../scenarios/restored.toml")),
    ("byzantine", include_str!("../../scenarios/byzantine.toml")),
    ("mesh", include_str!("../../scenarios/mesh.toml")),
    ("thousand", include_str!("../../scenarios/thousand.toml")),
];
/// Longest time of work and faults, minutes.
const MINUTES_MAX: u64 = 600;
/// Where hosts choose their links, so many a node can be named.
const LINKS_A_NODE: usize = 6;
/// Most steps of a plan.
const STEPS_MAX: usize = 200_000;

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ScenarioError {
    #[error("there is no scenario {0:?}, neither built in ({names}) nor as a file", names = names())]
    Unknown(String),
    #[error("the scenario {0} cannot be read: {1}")]
    File(String, std::io::Error),
    #[error("the scenario {0} is malformed: {1}")]
    Malformed(String, Box<toml::de::Error>),
    #[error("minutes must be 1 to {MINUTES_MAX}, this is {0}")]
    Minutes(u64),
    #[error(
        "there is no fault {0:?}; cuts, one_way, partitions, crashes, power_cuts, freezes, slow, clock_jumps, restores and byzantine are some"
    )]
    Fault(String),
    #[error("the scenario asks for more than {STEPS_MAX} steps; lower its rates or its minutes")]
    Steps,
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

fn names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

/// Work a minute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Work {
    /// Writes of each device.
    pub(crate) telemetry: f64,
    /// Writes of one device, which is busier than all others.
    pub(crate) hot_author: f64,
    /// Values of 8 KiB that devices write, anywhere.
    pub(crate) bulk: f64,
    /// Operators' edits, anywhere.
    pub(crate) edits: f64,
    /// Times at which a node does fifty writes at once.
    pub(crate) bursts: f64,
    /// Labels, anywhere.
    pub(crate) labels: f64,
    /// Devices that are removed.
    pub(crate) removals: f64,
    /// Devices that go and never come back, not more than a fifth of all.
    pub(crate) leaves: f64,
    /// Devices that join, of a tenth that is no member at the start.
    pub(crate) joins: f64,
}

/// Faults a minute.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Faults {
    /// Lines that are cut for a while.
    pub(crate) cuts: f64,
    /// Lines on which nothing passes one way for a while.
    pub(crate) one_way: f64,
    /// Parts of the fleet that are cut off for a while.
    pub(crate) partitions: f64,
    /// Processes that end, at any boundary of a batch.
    pub(crate) crashes: f64,
    /// Nodes whose power goes, at any boundary of a batch.
    pub(crate) power_cuts: f64,
    /// Nodes that freeze for up to twenty seconds.
    pub(crate) freezes: f64,
    /// Nodes that become slow, up to 20 ms an input.
    pub(crate) slow: f64,
    /// Wall clocks that jump by up to ten years either way.
    pub(crate) clock_jumps: f64,
    /// Disks that are restored from a copy, or whose clone takes over.
    pub(crate) restores: f64,
    /// Peers that begin to drop, repeat and alter frames.
    pub(crate) byzantine: f64,
}

/// A scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    #[serde(skip)]
    pub(crate) name: String,
    /// A preset's name, or a topology's file.
    pub(crate) topology: String,
    /// Whether hosts choose their links themselves, as nodes do, instead of the topology's.
    #[serde(default)]
    pub(crate) chooses_links: bool,
    /// How long work and faults go on.
    pub(crate) minutes: u64,
    /// How long a sync takes.
    #[serde(default = "sync_ms")]
    pub(crate) sync_ms: f64,
    /// How long after the last fault the roots must be equal.
    #[serde(default = "bound_s")]
    pub(crate) bound_s: u64,
    #[serde(default)]
    pub(crate) work: Work,
    #[serde(default)]
    pub(crate) faults: Faults,
    #[serde(default = "link_oracle")]
    pub(crate) links: LinkOracle,
}

fn sync_ms() -> f64 {
    1.0
}

fn bound_s() -> u64 {
    150
}

fn link_oracle() -> LinkOracle {
    LinkOracle { up_ms: 500, down_ms: 200, error_ppm: 10_000, routes_ms: 300, routes_error_ppm: 2_000 }
}

impl Scenario {
    /// A built-in scenario, or a file.
    pub(crate) fn load(name: &str) -> Result<Scenario, ScenarioError> {
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let text = match built_in {
            Some(text) => text,
            None if Path::new(name).exists() => {
                std::fs::read_to_string(name).map_err(|error| ScenarioError::File(name.to_owned(), error))?
            }
            None => return Err(ScenarioError::Unknown(name.to_owned())),
        };
        Scenario::parse(name, &text)
    }

    /// A scenario of a file's text.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let malformed = |error| ScenarioError::Malformed(name.to_owned(), Box::new(error));
        let mut scenario: Scenario = toml::from_str(text).map_err(malformed)?;
        scenario.name = name.to_owned();
        if scenario.minutes == 0 || scenario.minutes > MINUTES_MAX {
            return Err(ScenarioError::Minutes(scenario.minutes));
        }
        Ok(scenario)
    }

    /// Switches faults off, by their names in a scenario's file.
    pub(crate) fn without(&mut self, names: &[String]) -> Result<(), ScenarioError> {
        for name in names {
            let rate = match name.as_str() {
                "cuts" => &mut self.faults.cuts,
                "one_way" => &mut self.faults.one_way,
                "partitions" => &mut self.faults.partitions,
                "crashes" => &mut self.faults.crashes,
                "power_cuts" => &mut self.faults.power_cuts,
                "freezes" => &mut self.faults.freezes,
                "slow" => &mut self.faults.slow,
                "clock_jumps" => &mut self.faults.clock_jumps,
                "restores" => &mut self.faults.restores,
                "byzantine" => &mut self.faults.byzantine,
                _ => return Err(ScenarioError::Fault(name.clone())),
            };
            *rate = 0.0;
        }
        Ok(())
    }

    /// The plan of this scenario with a seed.
    pub(crate) fn plan(&self, seed: u64) -> Result<Plan, ScenarioError> {
        let mut topology = Topology::load(&self.topology, seed)?;
        let ground = self.chooses_links.then(|| Ground::load(&self.topology, seed)).transpose()?;
        if ground.is_some() {
            topology.lines.clear();
        }
        let mut maker = Maker { scenario: self, random: Random::of(seed, 7), topology: &topology, steps: Vec::new() };
        let joiners = maker.joiners();
        maker.work(&joiners)?;
        maker.faults()?;
        let mut steps = maker.steps;
        // What would end later ends with the last fault.
        let heal_ms = self.minutes * 60_000;
        steps.retain(|(at_ms, _)| *at_ms < heal_ms);
        steps.sort_by_key(|(at_ms, _)| *at_ms);
        Ok(Plan {
            scenario: self.name.clone(),
            seed,
            ground,
            oracle: self.links,
            sync_us: (self.sync_ms * 1000.0) as u64,
            joiners,
            steps,
            heal_ms,
            bound_ms: self.bound_s * 1000,
            topology,
        })
    }
}

struct Maker<'s> {
    scenario: &'s Scenario,
    random: Random,
    topology: &'s Topology,
    steps: Vec<(u64, Step)>,
}

impl Maker<'_> {
    fn nodes(&self) -> usize {
        self.topology.nodes.len()
    }

    fn node(&mut self) -> usize {
        let nodes = self.nodes();
        self.random.index(nodes)
    }

    /// Every tenth node joins later, where the scenario has joins.
    fn joiners(&self) -> Vec<usize> {
        if self.scenario.work.joins > 0.0 { (5..self.nodes()).step_by(10).collect() } else { Vec::new() }
    }

    /// Moments of something that happens so often a minute.
    fn moments(&mut self, a_minute: f64) -> Result<Vec<u64>, ScenarioError> {
        let span_ms = self.scenario.minutes * 60_000;
        let wanted = a_minute * self.scenario.minutes as f64;
        let count = wanted.floor() as usize + usize::from(self.random.happens((wanted.fract() * 1e6) as u32));
        if self.steps.len() + count > STEPS_MAX {
            return Err(ScenarioError::Steps);
        }
        Ok((0..count).map(|_| self.random.below(span_ms)).collect())
    }

    fn write(&mut self, at_ms: u64, node: usize) {
        let path = format!("reading.{}", self.random.below(4));
        let value = i64::try_from(self.random.below(1 << 40)).unwrap_or(0);
        self.steps.push((at_ms, Step::Write { node, path, value }));
    }

    fn work(&mut self, joiners: &[usize]) -> Result<(), ScenarioError> {
        let work = self.scenario.work.clone();
        self.telemetry(&work)?;
        self.operators(&work)?;
        let moments = self.moments(work.joins)?;
        for (node, at_ms) in joiners.iter().zip(moments) {
            let over = self.node();
            self.steps.push((at_ms, Step::Join { node: *node, over }));
        }
        Ok(())
    }

    fn telemetry(&mut self, work: &Work) -> Result<(), ScenarioError> {
        for node in 0..self.nodes() {
            for at_ms in self.moments(work.telemetry)? {
                self.write(at_ms, node);
            }
        }
        let hot = self.node();
        for at_ms in self.moments(work.hot_author)? {
            self.write(at_ms, hot);
        }
        for at_ms in self.moments(work.bursts)? {
            let node = self.node();
            (0..50).for_each(|_| self.write(at_ms, node));
        }
        for at_ms in self.moments(work.bulk)? {
            let (node, path) = (self.node(), format!("bulk.{}", self.random.below(4)));
            self.steps.push((at_ms, Step::Bulk { node, path, bytes: 8 << 10 }));
        }
        Ok(())
    }

    fn operators(&mut self, work: &Work) -> Result<(), ScenarioError> {
        for at_ms in self.moments(work.edits)? {
            let (node, operator) = (self.node(), self.random.index(3));
            let document = format!("shared-{}", self.random.below(3));
            let path = format!("key.{}", self.random.below(6));
            let value = (self.random.below(5) > 0).then(|| i64::try_from(self.random.below(1000)).unwrap_or(0));
            self.steps.push((at_ms, Step::Edit { node, operator, document, path, value }));
        }
        for (number, at_ms) in self.moments(work.labels)?.into_iter().enumerate() {
            let (node, device, operator) = (self.node(), self.node(), self.random.index(3));
            let value = format!("l{}-{number}", self.random.below(3));
            self.steps.push((at_ms, Step::Label { node, operator, device, value }));
        }
        for at_ms in self.moments(work.leaves)?.into_iter().take(self.nodes() / 5) {
            let node = self.node();
            self.steps.push((at_ms, Step::Leave { node }));
        }
        for at_ms in self.moments(work.removals)? {
            let (node, device, operator) = (self.node(), self.node(), self.random.index(3));
            self.steps.push((at_ms, Step::Remove { node, operator, device }));
        }
        Ok(())
    }

    fn faults(&mut self) -> Result<(), ScenarioError> {
        let faults = self.scenario.faults.clone();
        self.line_faults(&faults)?;
        for (rate, power) in [(faults.crashes, false), (faults.power_cuts, true)] {
            for at_ms in self.moments(rate)? {
                let boundaries = [Boundary::Now, Boundary::BeforeApply, Boundary::AfterApply, Boundary::AfterSync];
                let (node, at) = (self.node(), boundaries[self.random.index(4)]);
                let up_ms = at_ms + 6_000 + self.random.below(20_000);
                self.steps.push((at_ms, Step::Crash { node, power, at }));
                self.steps.push((up_ms, Step::Start { node }));
            }
        }
        for at_ms in self.moments(faults.freezes)? {
            let (node, for_ms) = (self.node(), 200 + self.random.below(20_000));
            self.steps.push((at_ms, Step::Freeze { node, for_ms }));
        }
        for at_ms in self.moments(faults.slow)? {
            let (node, input_us) = (self.node(), self.random.below(20_000));
            self.steps.push((at_ms, Step::Slow { node, input_us }));
            self.steps.push((at_ms + 10_000, Step::Slow { node, input_us: 0 }));
        }
        for at_ms in self.moments(faults.clock_jumps)? {
            const TEN_YEARS_MS: u64 = 10 * 365 * 86_400_000;
            let by_ms = i64::try_from(self.random.below(2 * TEN_YEARS_MS)).unwrap_or(0) - TEN_YEARS_MS as i64;
            let node = self.node();
            self.steps.push((at_ms, Step::Jump { node, by_ms }));
        }
        for at_ms in self.moments(faults.restores)? {
            let node = self.node();
            let back_ms = at_ms + 5_000 + self.random.below(30_000);
            self.steps.push((at_ms, Step::Backup { node }));
            self.steps.push((back_ms, Step::PutBack { node }));
        }
        for at_ms in self.moments(faults.byzantine)? {
            let node = self.node();
            let mut rate = || u32::try_from(self.random.below(60_000)).unwrap_or(0);
            let (drop_ppm, repeat_ppm, alter_ppm) = (rate(), rate(), rate());
            self.steps.push((at_ms, Step::Misbehave { node, drop_ppm, repeat_ppm, alter_ppm }));
        }
        Ok(())
    }

    fn line_faults(&mut self, faults: &Faults) -> Result<(), ScenarioError> {
        let lines = if self.scenario.chooses_links { self.nodes() * LINKS_A_NODE } else { self.topology.lines.len() };
        for at_ms in self.moments(faults.cuts)? {
            let line = self.random.index(lines.max(1));
            let mend_ms = at_ms + 100 + self.random.below(20_000);
            self.steps.push((at_ms, Step::Cut { line }));
            self.steps.push((mend_ms, Step::Mend { line }));
        }
        for at_ms in self.moments(faults.one_way)? {
            let (line, to_first) = (self.random.index(lines.max(1)), self.random.below(2) == 0);
            let mend_ms = at_ms + 1_000 + self.random.below(40_000);
            self.steps.push((at_ms, Step::Mute { line, to_first }));
            self.steps.push((mend_ms, Step::Mend { line }));
        }
        for at_ms in self.moments(faults.partitions)? {
            let share = 100_000 + u32::try_from(self.random.below(400_000)).unwrap_or(0);
            let side = (0..self.nodes()).filter(|_| self.random.happens(share)).collect();
            let mend_ms = at_ms + 1_000 + self.random.below(30_000);
            self.steps.push((at_ms, Step::Part { side }));
            self.steps.push((mend_ms, Step::MendAll));
        }
        Ok(())
    }
}
