//! `bench reconnect`: a fleet whose nodes choose their links, in virtual time: all start at once, it is left alone, it is cut
//! into halves and healed, and four in five die at once.
//!
//! The shipped `transport::{Dials, Overlay, Routes, Liveness}` of every node, and its engine. Connected is who reaches the
//! others over links that both ends hold and neither suspects; it is looked twenty times a second.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Args;

use super::report::{Report, Row, median, quantile};
use super::{Format, note};
use crate::sim::measure::{Measured, Sample};
use crate::sim::plan::{LinkOracle, Plan, Step};
use crate::sim::random::Random;
use crate::sim::topology::{Ground, Topology};
use crate::sim::world::run as simulate;

/// Nothing happens meanwhile, once the links have settled.
const QUIET_MS: Range<u64> = 120_000..180_000;
/// Half of the fleet does not reach the other.
const PARTED_MS: Range<u64> = 180_000..210_000;
const DEATHS_MS: u64 = 270_000;
/// One in so many survives.
const SURVIVORS: usize = 5;
/// The survivors are to be one mesh again by then, and write from then on.
const CONNECTED_MS: u64 = 5_000;
const WRITES: u64 = 30;
const WRITE_EVERY_MS: u64 = 500;
const TAIL_MS: u64 = 10_000;

const CONNECTED_PERCENT: f64 = 99.9;
const LINKS_MOST: f64 = 16.0;

/// `bench reconnect`
#[derive(Args)]
pub(crate) struct ReconnectArgs {
    /// The fleet: a preset's name or a file
    #[arg(long, value_name = "NAME", default_value = "fleet-1000-8z")]
    topology: String,
    /// Runs, each with the next seed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    runs: u64,
    /// The first run's seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Runs at once, of up to 6 GB each [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

fn plan(topology: &str, seed: u64) -> anyhow::Result<Plan> {
    let mut random = Random::of(seed, 31);
    let ground = Some(Ground::load(topology, seed)?);
    let topology = Topology { lines: Vec::new(), ..Topology::load(topology, seed)? };
    let mut nodes: Vec<usize> = (0..topology.nodes.len()).collect();
    let mut shuffle = |nodes: &mut Vec<usize>| {
        for at in (1..nodes.len()).rev() {
            nodes.swap(at, random.index(at + 1));
        }
    };
    shuffle(&mut nodes);
    let side = nodes[..nodes.len() / 2].to_vec();
    let mut steps = vec![(PARTED_MS.start, Step::Part { side }), (PARTED_MS.end, Step::MendAll)];
    shuffle(&mut nodes);
    let dead = nodes.split_off(nodes.len().div_ceil(SURVIVORS));
    steps.extend(dead.into_iter().map(|node| (DEATHS_MS, Step::Leave { node })));
    for (number, node) in (0..WRITES).zip(nodes.iter().copied().cycle()) {
        let value = i64::try_from(number)?;
        let at_ms = DEATHS_MS + CONNECTED_MS + number * WRITE_EVERY_MS;
        steps.push((at_ms, Step::Write { node, path: "reading.value".to_owned(), value }));
    }
    Ok(Plan {
        scenario: "reconnect".to_owned(),
        seed,
        topology,
        ground,
        oracle: LinkOracle { up_ms: 0, down_ms: 0, error_ppm: 0, routes_ms: 0, routes_error_ppm: 0 },
        sync_us: 1_000,
        joiners: Vec::new(),
        steps,
        heal_ms: DEATHS_MS + CONNECTED_MS + WRITES * WRITE_EVERY_MS + TAIL_MS,
        bound_ms: 150_000,
    })
}

/// What a run showed.
#[derive(Debug, Default)]
struct Outcome {
    /// Seconds until all that run are one mesh; infinite where they never were.
    started_s: f64,
    healed_s: f64,
    /// Seconds until 99.9 % of the survivors are, and how many are when they should be, per cent.
    survived_s: f64,
    survived_percent: f64,
    links_mean: f64,
    links_most: f64,
    /// A minute and node, while nothing happens.
    links_changed: f64,
    announcements: f64,
    /// Milliseconds until the last survivor has a change, and deliveries that never came.
    last_ms: Vec<f64>,
    missing: f64,
    breaches: f64,
}

fn percent(sample: &Sample) -> f64 {
    100.0 * sample.connected as f64 / sample.up.max(1) as f64
}

/// Seconds from a moment until such a share is connected, and stays so until another moment.
fn until(samples: &[Sample], span_ms: Range<u64>, at_least: f64) -> f64 {
    let span: Vec<&Sample> =
        samples.iter().filter(|sample| (span_ms.start * 1000..span_ms.end * 1000).contains(&sample.at_us)).collect();
    let last_apart = span.iter().rposition(|sample| percent(sample) < at_least).map_or(0, |at| at + 1);
    let connected_us = span.get(last_apart).map(|sample| sample.at_us);
    connected_us.map_or(f64::INFINITY, |at_us| (at_us as f64 / 1000.0 - span_ms.start as f64) / 1000.0)
}

fn judge(measured: &Measured, breaches: usize) -> Outcome {
    let samples = &measured.samples;
    // What begins at that moment has changed nothing yet.
    let at = |at_ms: u64| samples.iter().rev().find(|sample| sample.at_us < at_ms * 1000).copied();
    let mut outcome = Outcome {
        started_s: until(samples, 0..QUIET_MS.start, 100.0),
        healed_s: until(samples, PARTED_MS.end..DEATHS_MS, 100.0),
        survived_s: until(samples, DEATHS_MS..DEATHS_MS + 30_000, CONNECTED_PERCENT),
        survived_percent: at(DEATHS_MS + CONNECTED_MS).as_ref().map_or(0.0, percent),
        breaches: breaches as f64,
        ..Outcome::default()
    };
    if let Some((from, to)) = at(QUIET_MS.start).zip(at(QUIET_MS.end)) {
        let node_minutes = to.up as f64 * (QUIET_MS.end - QUIET_MS.start) as f64 / 60_000.0;
        outcome.links_mean = 2.0 * to.links as f64 / to.up as f64;
        outcome.links_most = to.most_links as f64;
        outcome.links_changed = (to.links_changed - from.links_changed) as f64 / node_minutes;
        outcome.announcements = (to.announcements - from.announcements) as f64 / node_minutes;
    }
    for (number, written) in measured.written.iter().enumerate() {
        let own = measured.deliveries.iter().filter(|delivery| delivery.change as usize == number);
        let delays: Vec<u64> = own.map(|delivery| delivery.at_us - written.at_us).collect();
        outcome.missing += (measured.up_at_end.len() - 1).saturating_sub(delays.len()) as f64;
        outcome.last_ms.push(delays.into_iter().max().unwrap_or(0) as f64 / 1000.0);
    }
    outcome
}

fn rows(nodes: usize, outcomes: &[Outcome]) -> Vec<Row> {
    let of = |what: fn(&Outcome) -> f64| outcomes.iter().map(what).collect::<Vec<f64>>();
    let mean = |what: fn(&Outcome) -> f64| of(what).iter().sum::<f64>() / outcomes.len().max(1) as f64;
    let most = |what: fn(&Outcome) -> f64| quantile(&of(what), 1.0);
    let name = |what: &str| format!("{nodes} nodes: {what}");
    let last_ms: Vec<f64> = outcomes.iter().flat_map(|outcome| outcome.last_ms.iter().copied()).collect();
    let deaths = |what: &str| name(&format!("80 % die at once: {what}"));
    vec![
        Row::new(deaths("survivors connected 5 s later, mean of the runs"), "%", mean(|run| run.survived_percent))
            .at_least(CONNECTED_PERCENT),
        Row::new(deaths("the same, the least"), "%", quantile(&of(|run| run.survived_percent), 0.0)),
        Row::new(deaths("99.9 % connected again, median"), "s", median(&of(|run| run.survived_s))).at_most(5.0),
        Row::new(deaths("the same, the latest"), "s", most(|run| run.survived_s)),
        Row::new(deaths("changes written from then on that a survivor never got"), "", mean(|run| run.missing))
            .at_most(0.0),
        Row::new(deaths("write → last survivor, p50"), "ms", median(&last_ms)),
        Row::new(deaths("write → last survivor, p99"), "ms", quantile(&last_ms, 0.99)),
        Row::new(name("all start at once: one mesh, median"), "s", median(&of(|run| run.started_s))),
        Row::new(name("the same, the latest"), "s", most(|run| run.started_s)),
        Row::new(name("halves apart for 30 s: one mesh again, median"), "s", median(&of(|run| run.healed_s))),
        Row::new(name("the same, the latest"), "s", most(|run| run.healed_s)),
        Row::new(name("links of a node, mean"), "", mean(|run| run.links_mean)),
        Row::new(name("links of a node, the most"), "", most(|run| run.links_most)).at_most(LINKS_MOST),
        Row::new(name("while nothing happens: links that come up"), "/min a node", mean(|run| run.links_changed)),
        Row::new(name("while nothing happens: announcements"), "/min a node", mean(|run| run.announcements)),
        Row::new("all runs: what the simulator's oracles found broken", "", mean(|run| run.breaches)).at_most(0.0),
    ]
}

fn outcome(plan: &Plan) -> Outcome {
    let began = Instant::now();
    let ended = simulate(plan, None, None);
    let outcome = judge(&ended.stats.measured, ended.violations.len());
    note(&format!(
        "==> seed {}: {:.1} % of the survivors connected after 5 s, 99.9 % after {:.1} s; {} events, {:.0} s",
        plan.seed,
        outcome.survived_percent,
        outcome.survived_s,
        ended.stats.events,
        began.elapsed().as_secs_f64()
    ));
    ended.violations.iter().for_each(|violation| note(&format!("    {violation}")));
    outcome
}

/// Runs the bench.
pub(super) fn bench(args: &ReconnectArgs) -> anyhow::Result<Report> {
    let seeds = args.seed..args.seed.saturating_add(args.runs);
    let plans = seeds.map(|seed| plan(&args.topology, seed)).collect::<anyhow::Result<Vec<Plan>>>()?;
    let threads = args.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.min(plans.len()) {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = outcome(plan);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut report = Report::new("reconnect");
    let nodes = plans.first().map_or(0, |plan| plan.topology.nodes.len());
    report.extend(rows(nodes, &outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_ms: u64, up: usize, connected: usize) -> Sample {
        Sample {
            at_us: at_ms * 1000,
            up,
            connected,
            links: 6 * up,
            most_links: 14,
            links_changed: at_ms / 1000,
            announcements: at_ms / 500,
        }
    }

    #[test]
    fn connected_is_who_stays_so() {
        let samples = [sample(0, 100, 50), sample(100, 100, 100), sample(200, 100, 99), sample(300, 100, 100)];
        assert_eq!(until(&samples, 0..1_000, 100.0), 0.3);
        assert_eq!(until(&samples, 0..1_000, 99.0), 0.1);
        assert_eq!(until(&samples, 100..200, 100.0), 0.0);
        assert_eq!(until(&samples[..3], 0..1_000, 100.0), f64::INFINITY);
    }

    #[test]
    fn a_run_is_judged_by_its_moments() {
        let mut measured = Measured::default();
        measured.up_at_end = vec![1, 2, 3];
        measured.samples = (0..DEATHS_MS / 100).map(|at| sample(at * 100, 10, 10)).collect();
        measured
            .samples
            .extend((0..400).map(|at| sample(DEATHS_MS + at * 100, 1_000, 990 + (at as usize / 3).min(10))));
        let change = measured.write(1, 7_000);
        measured.deliver(change, 2, 17_000);
        let outcome = judge(&measured, 0);
        assert_eq!((outcome.survived_s, outcome.survived_percent), (2.7, 100.0));
        assert_eq!((outcome.links_mean, outcome.links_most), (12.0, 14.0));
        assert_eq!((outcome.links_changed, outcome.announcements), (6.0, 12.0));
        assert_eq!((outcome.missing, &outcome.last_ms), (1.0, &vec![10.0]));
        let mut report = Report::new("x");
        report.extend(rows(10, &[Outcome { missing: 0.0, ..judge(&measured, 0) }]));
        assert!(report.passes());
        report.extend(rows(10, &[outcome]));
        assert!(!report.passes(), "one never got the change");
    }

    #[test]
    fn four_in_five_die_and_the_others_write() {
        let plan = plan("fleet-100-4z", 1).expect("a preset");
        let dead = plan.steps.iter().filter(|(_, step)| matches!(step, Step::Leave { .. })).count();
        let writes = plan.steps.iter().filter(|(_, step)| matches!(step, Step::Write { .. })).count();
        assert_eq!((dead, writes as u64, plan.topology.lines.len()), (80, WRITES, 0));
        assert!(plan.steps.is_sorted_by_key(|(at_ms, _)| *at_ms));
    }
}
