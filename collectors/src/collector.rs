//! The collector: reads every source once and sorts what they gave into three documents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdt::id::{FleetId, Time};
use crdt::schema::{Kind, Value};

use crate::derive::{Hanging, derive};
use crate::fingerprint;
use crate::probe::{Origin, Outcome, Probe};
use crate::rates::Rates;
use crate::replay::{Replay, ReplayError};
use crate::source::{Answer, COLLECT_MS_MAX, Pool, Source, SourceReport, SourceState, shown};
use crate::system::{LiveSystem, System};
use crate::tree::Tree;
use crate::{device, environment, resource};

/// Values of one document; what comes after them in the order of paths is left out.
pub const VALUES_MAX: usize = 2048;

type Read = fn(&mut Probe<'_>, &str);

/// Where a collection starts: name, path under the root, and how it is read. Folders lead to more sources.
const SOURCES: [(&str, &str, Read); 18] = [
    ("dmi", "sys/class/dmi/id", device::read_dmi),
    ("device-tree", "proc/device-tree", device::read_device_tree),
    ("os-release", "etc/os-release", device::read_os_release),
    ("kernel", "proc/sys/kernel", device::read_kernel),
    ("architecture", "uname", device::read_architecture),
    ("machine-id", "etc/machine-id", device::read_machine_id),
    ("cpu", "proc/cpuinfo", device::read_cpu),
    ("block", "sys/block", device::list_disks),
    ("net", "sys/class/net", device::list_interfaces),
    ("thermal", "sys/class/thermal", environment::list_thermal),
    ("hwmon", "sys/class/hwmon", environment::list_hwmon),
    ("power_supply", "sys/class/power_supply", environment::list_power),
    ("cpu-ticks", "proc/stat", resource::read_cpu_ticks),
    ("load", "proc/loadavg", resource::read_load),
    ("memory", "proc/meminfo", resource::read_memory),
    ("disk-counters", "proc/diskstats", resource::read_disk_counters),
    ("network-counters", "proc/net/dev", resource::read_network_counters),
    ("filesystems", "statvfs", resource::read_filesystems),
];

/// One reading of everything, as flat maps from path to value. A value that could not be read, or was not believed,
/// is not in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Collection {
    /// Facts: the `device` document.
    pub device: BTreeMap<String, Value>,
    /// Temperatures, fans, power: the `environment` document.
    pub environment: BTreeMap<String, Value>,
    /// Capacity and utilisation: the `resource` document.
    pub resource: BTreeMap<String, Value>,
}

impl Collection {
    /// The values of a document; none for kinds that are not collected.
    pub fn of(&self, kind: Kind) -> Option<&BTreeMap<String, Value>> {
        match kind {
            Kind::Device => Some(&self.device),
            Kind::Environment => Some(&self.environment),
            Kind::Resource => Some(&self.resource),
            _ => None,
        }
    }

    fn insert(&mut self, kind: Kind, path: String, value: Value) {
        let document = match kind {
            Kind::Device => &mut self.device,
            Kind::Environment => &mut self.environment,
            _ => &mut self.resource,
        };
        document.insert(path, value);
        if document.len() > VALUES_MAX {
            document.pop_last();
        }
    }
}

enum Place {
    Live { tree: Arc<Tree>, system: Arc<dyn System> },
    Replay(Replay),
}

/// Reads this machine, or a replay of one.
pub struct Collector {
    place: Place,
    fleet: FleetId,
    pool: Pool,
    rates: Rates,
    reports: Vec<SourceReport>,
}

impl Collector {
    /// Reads this machine. What identifies it is hashed with the fleet id as the key.
    pub fn live(fleet: FleetId) -> Collector {
        Collector::at_root(Path::new("/"), Arc::new(LiveSystem), fleet)
    }

    /// Reads the files under a folder as if it were `/`, and asks `system` for what they do not tell.
    pub fn at_root(root: &Path, system: Arc<dyn System>, fleet: FleetId) -> Collector {
        Collector::new(Place::Live { tree: Arc::new(Tree::at(root)), system }, fleet)
    }

    /// Reads the replay in a folder. Everything in it that can be wrong is an error here.
    pub fn replay(path: impl Into<PathBuf>, fleet: FleetId) -> Result<Collector, ReplayError> {
        Ok(Collector::new(Place::Replay(Replay::open(&path.into())?), fleet))
    }

    fn new(place: Place, fleet: FleetId) -> Collector {
        Collector { place, fleet, pool: Pool::new(), rates: Rates::default(), reports: Vec::new() }
    }

    /// `live` or `replay`, for people who must not mistake one for the other.
    pub fn source_name(&self) -> &'static str {
        match self.place {
            Place::Live { .. } => "live",
            Place::Replay(_) => "replay",
        }
    }

    /// The machine's fingerprint (PROTOCOL 1): BLAKE3 keyed with the fleet id over machine id, board serial number and
    /// first lasting hardware address, each with a tag, or over the tag alone where the machine has none. Of a
    /// replay: that of its first frame. Blocks as [`Collector::collect`] does.
    pub fn fingerprint(&self) -> [[u8; 32]; 3] {
        fingerprint::fingerprint(&self.origin_at(Time(0)))
    }

    fn origin_at(&self, elapsed: Time) -> Origin {
        match &self.place {
            Place::Live { tree, system } => Origin { tree: tree.clone(), system: system.clone(), fleet: self.fleet },
            Place::Replay(replay) => replay.origin_at(elapsed, self.fleet),
        }
    }

    /// Reads every source once. `elapsed` is the time since the caller's start: a replay stands there, and rates use
    /// it where the machine tells no uptime. Blocks for some milliseconds, and for [`COLLECT_MS_MAX`] when a source
    /// hangs; so call it off an async runtime's threads. Rates of disks and networks need two
    /// collections.
    pub fn collect(&mut self, elapsed: Time) -> Collection {
        let origin = self.origin_at(elapsed);
        let source =
            |(name, path, read): (&str, &str, Read)| Source { name: name.to_owned(), path: path.to_owned(), read };
        let mut answers = self.pool.read(&origin, SOURCES.into_iter().map(source).collect());
        // Workers answer in any order; where two sources give one path the later by name stands.
        answers.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        let mut hanging = Hanging::default();
        for (source, _) in answers.iter().filter(|(_, outcome)| outcome.is_none()) {
            hanging.temperature |= source.name.starts_with("thermal") || source.name.starts_with("hwmon");
            hanging.power |= source.name.starts_with("power_supply");
        }
        let mut reports = self.reports(elapsed, answers);
        let mut collection = Collection::default();
        for (kind, path, value) in reports.iter().flat_map(|report| &report.values) {
            collection.insert(*kind, path.clone(), value.clone());
        }
        let values: Vec<(Kind, String, Value)> = derive(&collection.environment, hanging)
            .into_iter()
            .map(|(path, value)| (Kind::Environment, path, value))
            .collect();
        for (kind, path, value) in &values {
            collection.insert(*kind, path.clone(), value.clone());
        }
        let state = if values.is_empty() { SourceState::Absent } else { SourceState::Found };
        reports.push(SourceReport {
            name: "derived".to_owned(),
            path: "computed".to_owned(),
            state,
            values,
            notes: Vec::new(),
        });
        self.tell_changes(&reports);
        self.reports = reports;
        collection
    }

    /// Every source of the last collection: where it is, what became of it, what it gave. Empty before the first.
    pub fn explain(&self) -> Vec<SourceReport> {
        self.reports.clone()
    }

    /// Reports of all answers, with the rates that their counters make.
    fn reports(&mut self, elapsed: Time, answers: Vec<Answer>) -> Vec<SourceReport> {
        let mut reports = Vec::with_capacity(answers.len() + 1);
        let mut samples = Vec::new();
        let mut owners = BTreeMap::new();
        for (source, outcome) in answers {
            let state = outcome.as_ref().map_or(SourceState::Hung, Outcome::state);
            let hung =
                || Outcome { notes: vec![format!("no answer within {COLLECT_MS_MAX} ms")], ..Outcome::default() };
            let outcome = outcome.unwrap_or_else(hung);
            owners.extend(outcome.samples.iter().map(|sample| (sample.key.clone(), reports.len())));
            samples.extend(outcome.samples);
            let path = shown(&source.path);
            reports.push(SourceReport { name: source.name, path, state, values: outcome.values, notes: outcome.notes });
        }
        for (key, path, value) in self.rates.update(elapsed, samples) {
            if let Some(report) = owners.get(&key).and_then(|at| reports.get_mut(*at)) {
                report.values.push((Kind::Resource, path, value));
            }
        }
        reports
    }

    /// Logs, once, what an operator may act on: a source that begins to lie or to hang.
    fn tell_changes(&self, reports: &[SourceReport]) {
        let before: BTreeMap<&str, SourceState> =
            self.reports.iter().map(|report| (report.name.as_str(), report.state)).collect();
        for report in reports {
            let is_new = before.get(report.name.as_str()) != Some(&report.state);
            if is_new && report.state == SourceState::Implausible {
                let why = report.notes.join("; ");
                tracing::warn!(source = %report.name, path = %report.path, %why, "implausible: dropped");
            } else if is_new && report.state != SourceState::Absent {
                tracing::debug!(source = %report.name, path = %report.path, state = report.state.name(), "source");
            }
        }
    }
}
