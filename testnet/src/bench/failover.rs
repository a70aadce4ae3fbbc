//! `bench failover`: the real program in the lab. One leaf asks another fifty times a second over one of six hubs; the hub,
//! or a link of it, fails, and the other leaf writes that very moment.
//!
//! Measured from the moment before the fault: the longest time in which no answer came, when the change is readable on all
//! nodes that run, and, where the link still carries something, when the last answer came over it. Needs root.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::report::{Report, Row, median, quantile};
use super::{Format, fleetsync, machine, note};
use asking::Asking;
use ground::{Broken, Fault, Ground};

mod asking;
mod ground;

const SILENCE_MS_P50: f64 = 600.0;
const SILENCE_MS_P99: f64 = 1_000.0;
const CHANGE_MS_P99: f64 = 1_000.0;
const REROUTED_MS: f64 = 3_000.0;
/// A fault lasts for this long.
const FAULT: Duration = Duration::from_millis(2_000);
/// Before a link is made worse nothing happens for so long that earlier reports of it dampen the next one no more.
const QUIET: Duration = Duration::from_millis(10_500);
/// A link that is worse stays so for this long, and whatever goes over it until then counts.
const SOFT_FAULT: Duration = Duration::from_millis(6_000);

/// `bench failover`
#[derive(Args)]
pub(crate) struct FailoverArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// How often each fault happens
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    trials: u64,
    /// Only these faults
    #[arg(long, value_name = "FAULT,…", value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// A line a trial, and the nodes' logs and data stay in this new folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// What was seen of one fault, over all trials, milliseconds.
#[derive(Debug, Default)]
struct Seen {
    silences: Vec<f64>,
    changes: Vec<f64>,
    rerouted: Vec<f64>,
}

impl Seen {
    /// The last trial, in a line.
    fn last(&self, fault: Fault, number: u64, broken: &Broken) -> String {
        let last = |times: &[f64]| times.last().map_or("-".to_owned(), |millis| format!("{millis:.0}"));
        let [silence, change, rerouted] = [&self.silences, &self.changes, &self.rerouted].map(|times| last(times));
        let at = super::operator::wall_ms() % 86_400_000;
        format!(
            "{at} {} {number} at {}: silence {silence}, change {change}, rerouted {rerouted} ms",
            fault.name(),
            broken.link.join("-")
        )
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn trial(
    ground: &mut Ground,
    asking: &Asking,
    fault: Fault,
    number: u64,
    seen: &mut Seen,
) -> anyhow::Result<Broken> {
    if fault.is_soft() {
        tokio::time::sleep(QUIET).await;
    }
    ground.is_steady(asking).await?;
    let (_, path) = asking.last().context("no question was answered")?;
    let broken = Broken::of(&path, number).context("the path of an answer has no hub")?;
    let start = Instant::now();
    ground.break_it(fault, &broken, number)?;
    seen.changes.push(millis(ground.change(fault, &broken.hub, start).await?));
    let lasts = if fault.is_soft() { SOFT_FAULT } else { FAULT };
    tokio::time::sleep(lasts.saturating_sub(start.elapsed())).await;
    seen.silences.push(millis(asking.longest_silence(start)));
    if fault.is_soft() {
        let last_over = asking.last_over(&broken.link, start);
        seen.rerouted.push(millis(last_over.map_or(Duration::ZERO, |at| at - start)));
    }
    ground.mend().await?;
    Ok(broken)
}

fn rows(fault: Fault, seen: &Seen) -> Vec<Row> {
    let name = fault.name();
    let silence = format!("{name}: time without an answer");
    let mut rows = vec![
        Row::new(format!("{silence}, p50"), "ms", median(&seen.silences)),
        Row::new(format!("{silence}, p99"), "ms", quantile(&seen.silences, 0.99)),
    ];
    if fault.is_soft() {
        let rerouted = Row::new(format!("{name}: nothing goes over it any more, p50"), "ms", median(&seen.rerouted));
        rows.push(rerouted);
        let worst = quantile(&seen.rerouted, 0.99);
        rows.push(Row::new(format!("{name}: the same, p99"), "ms", worst).at_most(REROUTED_MS));
    } else {
        let mut targets = [SILENCE_MS_P50, SILENCE_MS_P99].into_iter();
        rows = rows.into_iter().map(|row| row.at_most(targets.next().unwrap_or(SILENCE_MS_P99))).collect();
    }
    rows.push(Row::new(format!("{name}: a change made then is everywhere, p50"), "ms", median(&seen.changes)));
    let worst = quantile(&seen.changes, 0.99);
    let row = Row::new(format!("{name}: the same, p99"), "ms", worst);
    rows.push(if fault.is_soft() { row } else { row.at_most(CHANGE_MS_P99) });
    rows
}

/// Runs the bench.
pub(super) async fn bench(args: &FailoverArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let folder = match &args.keep {
        Some(folder) => std::fs::create_dir(folder).map(|()| folder.as_path())?,
        None => temporary.path(),
    };
    let program = fleetsync(args.fleetsync.as_deref())?;
    note(&format!("==> six hubs and three leaves: {} in {}", program.display(), folder.display()));
    let mut report = Report::new("failover");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    let mut ground = Ground::start(&program, folder).await?;
    let asking = ground.asking()?;
    for fault in
        Fault::value_variants().iter().copied().filter(|fault| args.only.is_empty() || args.only.contains(fault))
    {
        let mut seen = Seen::default();
        for number in 0..args.trials {
            let broken = trial(&mut ground, &asking, fault, number, &mut seen).await?;
            if args.keep.is_some() {
                note(&seen.last(fault, number, &broken));
            }
        }
        report.extend(rows(fault, &seen));
    }
    ground.is_steady(&asking).await?;
    ground.has_each_write_once().await?;
    let (answers, failed) = asking.counts();
    ensure!(answers > 0, "no question was answered");
    report.add(Row::new("writes, each of which every node has once", "", ground.written as f64));
    report.add(Row::new(
        "questions that were not answered at all, of a thousand",
        "",
        1e3 * failed as f64 / answers as f64,
    ));
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
