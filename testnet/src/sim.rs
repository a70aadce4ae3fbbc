//! `testnet sim`: fleets in virtual time, with the shipped engine, codec, admission and store contract. One seed decides
//! everything; a seed that fails is made smaller before it is printed.

use std::collections::BTreeMap;
use std::io::{BufReader, IsTerminal};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use crate::bench::{note, print};

pub(crate) mod disk;
pub(crate) mod fleet;
mod host;
pub(crate) mod measure;
mod mesh;
mod mutant;
pub(crate) mod plan;
mod plot;
pub(crate) mod random;
mod report;
mod scenario;
mod shrink;
pub(crate) mod topology;
mod trace;
mod verdict;
pub(crate) mod wire;
pub(crate) mod world;

use mutant::MUTANTS;
use plan::Plan;
use plot::Deliveries;
use report::Tally;
use scenario::{BUILT_IN, Scenario};
use trace::{Happened, TraceWriter};
use verdict::Violation;
use world::{Ended, run};

/// `sim`
#[derive(Args)]
pub(crate) struct SimArgs {
    /// Scenarios: calm, storm, churn, restored, byzantine, mesh, thousand, or a file [default: all that are built in]
    scenario: Vec<String>,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Seeds of each scenario
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// The topology instead of the scenario's: a preset's name or a file
    #[arg(long, value_name = "NAME")]
    topology: Option<String>,
    /// Minutes of work and faults instead of the scenario's
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Faults that are switched off, by their names in a scenario's file
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    without: Vec<String>,
    /// Runs a plan that was kept of a failing seed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "topology", "minutes", "mutants", "soak"])]
    replay: Option<PathBuf>,
    /// Shows that each oracle catches the node that is broken for it
    #[arg(long, conflicts_with_all = ["soak", "trace", "plot"])]
    mutants: bool,
    /// Runs new seeds until that many minutes are over
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["trace", "plot"])]
    soak: Option<u64>,
    /// Runs at once [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Writes what happened to each change to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Draws delays and a tree into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Where failing plans are kept
    #[arg(long, value_name = "DIR", default_value = ".")]
    keep: PathBuf,
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    output: crate::bench::Format,
}

/// `trace`
#[derive(Args)]
pub(crate) struct TraceArgs {
    /// What `sim --trace` wrote
    file: PathBuf,
    /// The change: the first digits of its hash, or `log:seq`
    #[arg(long, value_name = "HASH")]
    change: String,
}

/// Prints the tree by which a change reached every node.
pub(crate) fn show_trace(args: &TraceArgs) -> anyhow::Result<bool> {
    let open = || std::fs::File::open(&args.file).with_context(|| format!("{} cannot be read", args.file.display()));
    let tree = trace::tree(BufReader::new(open()?), &args.change);
    print(&tree.map_err(|error| anyhow::anyhow!("{error}\nhint: {}", error.hint(&args.file)))?);
    Ok(true)
}

/// Runs simulations; says whether nothing was breached.
pub(crate) fn simulate(args: &SimArgs) -> anyhow::Result<bool> {
    if args.mutants {
        return Ok(catch_mutants());
    }
    let mut tally = Tally::default();
    if let Some(file) = &args.replay {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let plan: Plan = serde_json::from_str(&text).with_context(|| format!("{} is no plan", file.display()))?;
        tally.add(&plan, &observe(args, &plan)?);
        print(&tally.render(args.output)?);
        return Ok(tally.passes());
    }
    let scenarios = scenarios(args)?;
    let until = args.soak.map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let mut seed = args.seed;
    let mut is_over = false;
    while !is_over {
        // One seed of each scenario at a time in a soak, all seeds at once otherwise.
        let next = if until.is_some() { seed + 1 } else { args.seed + args.seeds };
        let plans = (seed..next)
            .flat_map(|seed| scenarios.iter().map(move |scenario| scenario.plan(seed)))
            .collect::<Result<Vec<Plan>, _>>()?;
        for (plan, ended) in plans.iter().zip(run_all(args, &plans)?) {
            tally.add(plan, &ended);
            if let Some(first) = ended.violations.first() {
                keep_failure(args, plan.clone(), first)?;
            }
        }
        seed = next;
        is_over = until.is_none_or(|until| Instant::now() >= until);
    }
    print(&tally.render(args.output)?);
    Ok(tally.passes())
}

/// Runs plans, as many at once as is allowed; their ends in the order of the plans.
fn run_all(args: &SimArgs, plans: &[Plan]) -> anyhow::Result<Vec<Ended>> {
    if args.trace.is_some() || args.plot.is_some() {
        let [plan] = plans else { bail!("--trace and --plot show one run: name one scenario, and one seed") };
        return Ok(vec![observe(args, plan)?]);
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let ends: Mutex<BTreeMap<usize, Ended>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(plans.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(number) else { return };
                    progress(&format!("{} on {}, seed {}", plan.scenario, plan.topology.name, plan.seed));
                    let ended = run(plan, None, None);
                    ends.lock().unwrap_or_else(PoisonError::into_inner).insert(number, ended);
                }
            });
        }
    });
    Ok(ends.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
}

fn scenarios(args: &SimArgs) -> anyhow::Result<Vec<Scenario>> {
    let all = || BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names: Vec<String> = if args.scenario.is_empty() { all() } else { args.scenario.clone() };
    let mut scenarios = Vec::new();
    for name in names {
        let mut scenario = Scenario::load(&name)?;
        if let Some(topology) = &args.topology {
            scenario.topology.clone_from(topology);
        }
        scenario.minutes = args.minutes.unwrap_or(scenario.minutes);
        scenario.without(&args.without)?;
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

/// Runs a plan, with what is to be seen of it.
fn observe(args: &SimArgs, plan: &Plan) -> anyhow::Result<Ended> {
    if args.trace.is_none() && args.plot.is_none() {
        return Ok(run(plan, None, None));
    }
    let mut writer = match &args.trace {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("{} is not written", path.display()))?;
            Some(TraceWriter::to(Box::new(file), &plan.topology, plan.seed))
        }
        None => None,
    };
    let mut deliveries = args.plot.as_ref().map(|_| Deliveries::default());
    let mut watch = |happened: Happened| {
        writer.iter_mut().for_each(|writer| writer.happened(&happened));
        deliveries.iter_mut().for_each(|deliveries| deliveries.happened(&happened));
    };
    let ended = run(plan, None, Some(&mut watch));
    if let Some(writer) = writer {
        writer.finish().context("the trace was not written")?;
    }
    if let Some((path, deliveries)) = args.plot.as_ref().zip(deliveries) {
        let direct_us = plan.topology.lines.iter().map(|line| line.delay_us).max();
        match plot::delays_and_tree(&plan.topology, plan.seed, direct_us, &deliveries) {
            Ok(svg) => std::fs::write(path, svg).with_context(|| format!("{} was not written", path.display()))?,
            Err(error) => note(&format!("{} was not drawn: {error}", path.display())),
        }
    }
    Ok(ended)
}

/// Makes a failing plan smaller and keeps it.
fn keep_failure(args: &SimArgs, plan: Plan, first: &Violation) -> anyhow::Result<()> {
    note(&format!("{} seed {}: {first}", plan.scenario, plan.seed));
    let name = format!("{}-{}-{:?}.json", plan.scenario.replace(['/', '.'], "-"), plan.seed, first.oracle);
    let small = shrink::shrink(plan, first.oracle, |plan| {
        progress(&format!("{} nodes, {} steps, {} ms", plan.topology.nodes.len(), plan.steps.len(), plan.heal_ms));
    });
    let path = args.keep.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(&small)? + "\n")
        .with_context(|| format!("{} was not written", path.display()))?;
    note(&format!("kept as {}; again with: testnet sim --replay {}", path.display(), path.display()));
    Ok(())
}

/// Runs each mutant until its oracle catches it; says whether all were caught.
fn catch_mutants() -> bool {
    let mut rows = Vec::new();
    let mut all = true;
    for (mutant, oracle, about) in MUTANTS {
        progress(about);
        let caught = mutant::hunt(mutant, oracle);
        all &= caught.is_some();
        rows.push((oracle, about, caught));
    }
    print(&report::mutants(&rows));
    all
}

/// Says on a terminal what goes on.
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        note(what);
    }
}

#[cfg(test)]
mod tests;
