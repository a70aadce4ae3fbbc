//! `bench failover`: two hubs, and two leaves that only dial; the hub over which one leaf hears of the other stands still
//! (SIGSTOP), and a change is made at the other leaf that very moment.
//!
//! Measured on the first leaf, from the moment before the signal: when the change is readable, and when the leaf takes
//! the other way. Between trials the hub goes on, until both leaves use it again; hubs that stand still often have to
//! prove themselves for longer, so a run takes minutes.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use node::client::ClientError;
use serde_json::{Value, json};

use super::operator::Operator;
use super::process::{NodeProcess, PATIENCE, Program};
use super::report::{Report, Row, median, quantile};
use super::spread::{Question, watch};
use super::{Format, fleetsync, machine, note};

const CONFIG: &str = "config/bench";
const CHANGE_MS_P99: f64 = 1_000.0;
const WAY_MS_P50: f64 = 600.0;
const WAY_MS_P99: f64 = 1_000.0;
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(2);

/// `bench failover`
#[derive(Args)]
pub(crate) struct FailoverArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<std::path::PathBuf>,
    /// How often a hub stands still
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    trials: u64,
}

/// The hubs, and the leaves: the one that hears and the one that writes.
struct Star {
    hubs: [NodeProcess; 2],
    leaf: NodeProcess,
    writer: NodeProcess,
}

const HUBS: [&str; 2] = ["hub-0", "hub-1"];
const LEAF: &str = "leaf";
const WRITER: &str = "writer";

impl Star {
    async fn start(program: &Program, root: &std::path::Path) -> anyhow::Result<(Star, Operator)> {
        let folder = |name: &str| root.join(name);
        let fleet = program.run(&folder(HUBS[0]), &["init", "--name", HUBS[0], "--no-passphrase"])?;
        let first = program.start(&folder(HUBS[0]), &[]).await?;
        for name in [HUBS[1], LEAF, WRITER] {
            program.join(&first, &folder(name), name)?;
        }
        let second = program.start(&folder(HUBS[1]), &[]).await?;
        let leaf = program.start_at("none", &folder(LEAF), &[]).await?;
        let writer = program.start_at("none", &folder(WRITER), &[]).await?;
        let star = Star { hubs: [first, second], leaf, writer };
        Ok((star, Operator::open(&program.keys, &fleet)?))
    }

    /// Waits until both leaves use both hubs.
    async fn is_whole(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let ways = [ways(&mut self.leaf, WRITER).await?, ways(&mut self.writer, LEAF).await?];
            if ways.iter().all(|ways| HUBS.iter().all(|hub| ways.iter().any(|way| way == hub))) {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "the leaves do not use both hubs: {ways:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The first hops of a node's ways to a device, the one that is taken first.
async fn ways(node: &mut NodeProcess, to: &str) -> anyhow::Result<Vec<String>> {
    let route = match node.client.get(&format!("/v1/routes/{to}")).await {
        // It does not know of the device yet.
        Err(ClientError::Problem { status: 404, .. }) => return Ok(Vec::new()),
        route => route?,
    };
    let ways = route["ways"].as_array().context("a route without ways")?;
    Ok(ways.iter().filter_map(|way| way["via"].as_str()).map(str::to_owned).collect())
}

/// How long it took until the change was readable, and until the way was another, milliseconds.
async fn trial(star: &mut Star, operator: &Operator, value: u64) -> anyhow::Result<(f64, f64)> {
    star.is_whole().await?;
    let used = ways(&mut star.leaf, WRITER).await?.into_iter().next().context("no way")?;
    let hub = HUBS.iter().position(|hub| *hub == used).context("the way begins with no hub")?;
    let question = Question {
        resource: format!("/v1/document?document={CONFIG}&path=gain"),
        pointer: "/values/gain/value".to_owned(),
    };
    let start = Instant::now();
    star.hubs[hub].signal("STOP")?;
    let past = past(star, operator, &question, value, &used, start).await;
    star.hubs[hub].signal("CONT")?;
    past
}

async fn past(
    star: &mut Star,
    operator: &Operator,
    question: &Question,
    value: u64,
    used: &str,
    start: Instant,
) -> anyhow::Result<(f64, f64)> {
    operator.set(&mut star.writer.client, CONFIG, "gain", value).await?;
    let value: Value = json!(value);
    let seen = watch(std::slice::from_mut(&mut star.leaf), question, &value, start).await?;
    while ways(&mut star.leaf, WRITER).await?.first().is_some_and(|way| way == used) {
        ensure!(start.elapsed() < PATIENCE, "the way over the hub that stands still is not left");
        tokio::time::sleep(POLL).await;
    }
    Ok((seen.all().as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3))
}

/// Runs the bench.
pub(super) async fn bench(args: &FailoverArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let root = temporary.path();
    let program = Program { path: fleetsync(args.fleetsync.as_deref())?, keys: root.join("keys") };
    note(&format!("==> two hubs and two leaves: {} in {}", program.path.display(), root.display()));
    let mut report = Report::new("failover");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    let (mut star, operator) = Star::start(&program, root).await?;
    star.is_whole().await?;
    operator.set(&mut star.writer.client, CONFIG, "gain", 0).await?;
    let (mut changes, mut moved) = (Vec::new(), Vec::new());
    for number in 1..=args.trials {
        let (change, way) = trial(&mut star, &operator, number).await?;
        changes.push(change);
        moved.push(way);
    }
    let what = "a hub on the way stands still";
    report.extend([
        Row::new(format!("{what}: a change made then is readable behind it, p50"), "ms", median(&changes)),
        Row::new(format!("{what}: the same, p99"), "ms", quantile(&changes, 0.99)).at_most(CHANGE_MS_P99),
        Row::new(format!("{what}: the other way is taken, p50"), "ms", median(&moved)).at_most(WAY_MS_P50),
        Row::new(format!("{what}: the same, p99"), "ms", quantile(&moved, 0.99)).at_most(WAY_MS_P99),
    ]);
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
