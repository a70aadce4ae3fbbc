//! `bench dissemination`: the shipped engine in simulated fleets, and a model of gossipsub on the same plans.
//!
//! D is the largest direct one-way delay from a change's origin to any node, linked or not, as the topology's ground
//! has it. Times count from the moment at which a change's writer is told that it is on the disk. Copies are changes in
//! the frames that links take; what each run sent before its links had settled does not count, and before that nothing
//! is written. Virtual time: the machine's speed changes no number.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use clap::{Args, ValueEnum};

use self::judged::Judged;
use self::plans::{Draft, SETTLE_MS};
use self::rows::Pair;
use super::report::{Report, Row};
use super::{Format, note};
use crate::sim::plan::Plan;
use crate::sim::topology::{Direct, Topology};
use crate::sim::world::{Ended, run as simulate};

mod gossipsub;
mod judged;
mod plans;
mod rows;

/// The challenge's fleet.
const GLOMERS: &str = "glomers-25";
/// What the soak runs beside.
const SOAK: &str = "fleet-10000-8z";
/// Lost packets in a million, in the run with losses.
const LOSS_PPM: u32 = 20_000;

/// `bench dissemination`
#[derive(Args)]
pub(crate) struct DisseminationArgs {
    /// Runs [default: all]
    #[arg(value_enum)]
    runs: Vec<Work>,
    /// The fleet of all runs but glomers: a preset's name or a file
    #[arg(long, value_name = "NAME", default_value = "fleet-1000-8z")]
    topology: String,
    /// Changes of a run
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// Decides everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Runs at once [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Times and copies on fleet-10000-8z too, which takes hours and much memory
    #[arg(long)]
    soak: bool,
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

/// A run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    /// Each change by another device
    Many,
    /// All changes by one device
    One,
    /// Two packets in a hundred are lost on every line
    Loss,
    /// A tenth of the devices join meanwhile
    Joins,
    /// A tenth of the nodes crash and come back meanwhile
    Churn,
    /// Four in five nodes die at once
    Deaths,
    /// Gossip Glomers 3d: 25 nodes, 100 ms a hop
    Glomers,
    /// The same, with half of the nodes cut off for ten seconds
    Parted,
}

/// A run to be done.
struct Job {
    work: Work,
    topology: String,
    /// What p50 and p99 of the time to the last node may be.
    last_node: (f64, f64),
}

/// Runs everything.
pub(crate) fn run(args: &DisseminationArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("dissemination").beside("TIMES GOSSIPSUB (A MODEL)");
    let mut breaches = 0;
    for done in all_at_once(args, &jobs(args))? {
        breaches += done.breaches;
        report.extend(done.rows);
    }
    report.add(Row::new("all runs: what the simulator's oracles found broken", "", breaches as f64).at_most(0.0));
    Ok(report)
}

fn jobs(args: &DisseminationArgs) -> Vec<Job> {
    let works = if args.runs.is_empty() { Work::value_variants() } else { &args.runs };
    let job = |work: &Work| {
        let topology = match work {
            Work::Glomers | Work::Parted => GLOMERS.to_owned(),
            _ => args.topology.clone(),
        };
        Job { work: *work, topology, last_node: (1.15, 1.25) }
    };
    let mut jobs: Vec<Job> = works.iter().map(job).collect();
    if args.soak {
        let of_soak = works.iter().filter(|work| matches!(work, Work::Many | Work::One | Work::Joins | Work::Churn));
        jobs.extend(of_soak.map(|work| Job { work: *work, topology: SOAK.to_owned(), last_node: (1.15, 1.3) }));
    }
    jobs
}

/// What came of a job.
struct Done {
    rows: Vec<Row>,
    breaches: usize,
}

/// Does the jobs, as many at once as is allowed; what came of them in their order.
fn all_at_once(args: &DisseminationArgs, jobs: &[Job]) -> anyhow::Result<Vec<Done>> {
    let threads = args.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let all: Mutex<BTreeMap<usize, anyhow::Result<Done>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(number) else { return };
                    let done = job.run(args);
                    all.lock().unwrap_or_else(PoisonError::into_inner).insert(number, done);
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

impl Job {
    fn run(&self, args: &DisseminationArgs) -> anyhow::Result<Done> {
        let load = || Topology::load(&self.topology, args.seed).with_context(|| self.topology.clone());
        let direct = Direct::load(&self.topology, args.seed).with_context(|| self.topology.clone())?;
        let (plan, part) = self.plan(Draft::new(load()?, args.seed), args.changes as usize);
        let start = Instant::now();
        let ended = simulate(&plan, None, None);
        let name = format!("{}, {}", self.topology, self.work.about());
        tell(&name, &ended, start);
        let model = gossipsub::run(&plan);
        let judged = |measured| Judged { measured, direct: &direct, from_us: SETTLE_MS * 1000 };
        let pair = Pair { name, plan: &plan, engine: judged(&ended.stats.measured), model: judged(&model) };
        Ok(Done { rows: self.rows(&pair, &part), breaches: ended.violations.len() })
    }

    /// The plan, and the survivors that are judged where nodes die.
    fn plan(&self, draft: Draft, changes: usize) -> (Plan, BTreeSet<usize>) {
        let plan = match self.work {
            Work::Many => draft.many_origins(changes),
            Work::One => draft.one_origin(changes),
            Work::Loss => draft.losses(changes, LOSS_PPM),
            Work::Joins => draft.joins(changes),
            Work::Churn => draft.churn(changes),
            Work::Deaths => return draft.deaths(changes),
            Work::Glomers => draft.glomers(false),
            Work::Parted => draft.glomers(true),
        };
        (plan, BTreeSet::new())
    }

    fn rows(&self, pair: &Pair<'_>, part: &BTreeSet<usize>) -> Vec<Row> {
        let (p50, p99) = self.last_node;
        let with = |mut rows: Vec<Row>, more: Vec<Row>| {
            rows.extend(more);
            rows
        };
        match self.work {
            Work::Many | Work::One => with(pair.last_node(p50, p99), vec![pair.copies(0.01)]),
            Work::Loss => pair.losses(3.0),
            Work::Joins => vec![pair.copies(0.01), pair.statements(), pair.missing()],
            Work::Churn => vec![pair.copies(1.0), pair.missing()],
            Work::Deaths => vec![pair.survivors(part, 0.1)],
            Work::Glomers => with(pair.glomers(), pair.delays(215.0, 400.0)),
            Work::Parted => vec![pair.lost()],
        }
    }
}

/// Says what a run took, and what was broken in it.
fn tell(name: &str, ended: &Ended, start: Instant) {
    let healed = ended.stats.healed_ms.map_or("not".to_owned(), |ms| format!("after {ms} ms"));
    note(&format!(
        "==> {name}: {} events, {} changes, equal roots {healed}, {:.0} s",
        ended.stats.events,
        ended.stats.changes,
        start.elapsed().as_secs_f64()
    ));
    ended.violations.iter().for_each(|violation| note(&format!("    {violation}")));
}

impl Work {
    /// What its rows are called.
    fn about(self) -> &'static str {
        match self {
            Work::Many => "many origins",
            Work::One => "one origin",
            Work::Loss => "many origins at 2 % loss",
            Work::Joins => "a tenth joins meanwhile",
            Work::Churn => "churn of 10 % a minute",
            Work::Deaths => "80 % die at once",
            Work::Glomers => "100 ms a hop",
            Work::Parted => "100 ms a hop, cut in two for 10 s",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn rows(runs: Vec<Work>) -> BTreeMap<String, f64> {
        let args = DisseminationArgs {
            runs,
            topology: "lan-12".to_owned(),
            changes: 12,
            seed: 1,
            jobs: None,
            soak: false,
            output: Format::Json,
        };
        let report: Value = serde_json::from_str(&run(&args).unwrap().to_json().unwrap()).unwrap();
        let row = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["value"].as_f64().unwrap());
        report["rows"].as_array().unwrap().iter().map(row).collect()
    }

    #[test]
    fn a_small_fleet_shows_what_it_should() {
        let rows = rows(vec![Work::Many, Work::Joins, Work::Deaths]);
        let of = |what: &str| {
            let found = rows.iter().find(|(name, _)| name.contains(what));
            found.map_or_else(|| panic!("no row of {what} in {rows:?}"), |(_, value)| *value)
        };
        // Each is linked with each, so that the direct way is there.
        assert!((1.0..2.0).contains(&of("many origins: write → last node, p50")), "{rows:?}");
        assert!((0.0..=0.01).contains(&of("many origins: copies beyond")), "{rows:?}");
        assert!((0.0..=0.01).contains(&of("joins meanwhile: copies beyond")), "{rows:?}");
        assert!((-0.5..0.5).contains(&of("joins meanwhile: copies of statements")), "{rows:?}");
        assert_eq!(of("joins meanwhile: deliveries that never came"), 0.0);
        assert_eq!((of("survivors that are connected"), of("oracles found broken")), (0.0, 0.0));
    }
}
