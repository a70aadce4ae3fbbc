//! `bench bulk`: blobs between real nodes in the lab and on loopback. Needs root.
//!
//! Over one long line that loses packets: how much of it a blob takes, what questions wait meanwhile, and what is sent again
//! after the fetching node was killed; and how much of it changes take that a node has missed. On loopback: how much the
//! program can do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use node::client::Client;
use serde_json::Value;

mod backfill;

use super::process::{PATIENCE, Program};
use super::report::{Report, Row, median, quantile};
use super::{Format, fleetsync, machine, note};
use crate::lab::fleet::{Fleet, Plan};
use crate::sim::topology::Topology;

/// What `bulk-long` carries, bits a second.
const LONG: f64 = 100e6;
pub(super) const MEBIBYTE: u64 = 1 << 20;
/// Between two questions, and how many without a blob beside them.
const QUESTIONS_EVERY: Duration = Duration::from_millis(100);
const QUESTIONS: usize = 30;
pub(super) const POLL: Duration = Duration::from_millis(50);

/// `bench bulk`
#[derive(Args)]
pub(crate) struct BulkArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// The size of the blob, MiB
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=16_384))]
    mib: u64,
    /// The size of the changes that a node has missed, MiB
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(64..=1_024))]
    missed_mib: u64,
}

/// A file of that many bytes that do not repeat, different for each seed.
fn file(folder: &Path, seed: u64, bytes: u64) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("blob-{seed}"));
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path)?);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..bytes / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.write_all(&(state ^ (state >> 29)).to_le_bytes())?;
    }
    out.flush()?;
    Ok(path)
}

/// A blob on a node, and its hash.
fn put(program: &Program, node: &Path, path: &Path) -> anyhow::Result<String> {
    program.run(node, &["blob", "put", &path.to_string_lossy()])
}

/// Waits until a node has an answer; `otherwise` says what is amiss where it has none in time.
async fn has_answer(client: &mut Client, resource: &str, otherwise: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    while client.get(resource).await.is_err() {
        ensure!(start.elapsed() < PATIENCE, "{otherwise}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Waits until a node knows who has a blob.
async fn is_known(client: &mut Client, blob: &str) -> anyhow::Result<()> {
    has_answer(client, &format!("/v1/blobs/{blob}"), "nobody says that it has the blob").await
}

/// Fetches a blob to its end, or until `stop` says so of what came; seconds, and the last event.
async fn fetch(client: &mut Client, blob: &str, stop: impl Fn(&Value) -> bool) -> anyhow::Result<(f64, Value)> {
    let start = Instant::now();
    let mut last = Value::Null;
    client
        .follow(&format!("/v1/blobs/{blob}/fetch"), |event| {
            let is_over = stop(&event) || matches!(event["state"].as_str(), Some("done" | "stopped"));
            last = event;
            !is_over
        })
        .await?;
    Ok((start.elapsed().as_secs_f64(), last))
}

pub(super) async fn fetch_all(client: &mut Client, blob: &str) -> anyhow::Result<f64> {
    let (seconds, last) = fetch(client, blob, |_| false).await?;
    ensure!(last["state"] == "done", "the blob did not come: {last}");
    Ok(seconds)
}

/// A fleet on a network that was made for blobs.
pub(super) struct Ground {
    pub(super) fleet: Fleet,
    folder: PathBuf,
}

impl Ground {
    /// `name` is that of its folder.
    pub(super) async fn start(name: &str, topology: &str, program: &Path, folder: &Path) -> anyhow::Result<Ground> {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let topology = Topology::load(topology, 1)?;
        let plan = Plan { topology, seed: 1, program: program.to_owned(), run_with: Vec::new() };
        Ok(Ground { fleet: Fleet::start(plan, &folder, &note).await?, folder })
    }

    pub(super) fn node(&self, name: &str) -> anyhow::Result<usize> {
        self.fleet.topology().nodes.iter().position(|place| place.name == name).with_context(|| format!("no {name}"))
    }

    pub(super) async fn client(&self, name: &str) -> anyhow::Result<Client> {
        self.fleet.client(self.node(name)?).await
    }

    /// A new blob on a node, known on another.
    pub(super) async fn blob(&self, on: &str, to: &str, seed: u64, bytes: u64) -> anyhow::Result<String> {
        let path = file(&self.folder, seed, bytes)?;
        let blob = put(self.fleet.program(), &self.fleet.folder_of(self.node(on)?), &path)?;
        std::fs::remove_file(path)?;
        is_known(&mut self.client(to).await?, &blob).await?;
        Ok(blob)
    }

    fn carried(&self) -> u64 {
        self.fleet.network().traffic().lines.arrived_bytes
    }
}

/// Round trips of questions to a device, milliseconds, until it is said that it is enough.
async fn questions(
    mut client: Client,
    to: String,
    mut is_enough: impl FnMut(usize) -> bool,
) -> anyhow::Result<Vec<f64>> {
    let mut millis = Vec::new();
    while !is_enough(millis.len()) {
        let answer = client.get(&format!("/v1/ping/{to}")).await?;
        millis.push(answer["rtt_ms"].as_f64().context("an answer without a time")?);
        tokio::time::sleep(QUESTIONS_EVERY).await;
    }
    Ok(millis)
}

async fn over_a_long_line(report: &mut Report, program: &Path, folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut ground = Ground::start("blob", "bulk-long", program, folder).await?;
    let idle = questions(ground.client("ends-1").await?, "ends-0".to_owned(), |asked| asked >= QUESTIONS).await?;
    let blob = ground.blob("ends-0", "ends-1", 1, bytes).await?;
    let before = ground.carried();
    let (over, is_over) = tokio::sync::watch::channel(false);
    let asking = questions(ground.client("ends-1").await?, "ends-0".to_owned(), move |_| *is_over.borrow());
    let asking = tokio::spawn(asking);
    let seconds = fetch_all(&mut ground.client("ends-1").await?, &blob).await?;
    over.send(true)?;
    let busy = asking.await??;
    let cost = (ground.carried() - before) as f64 / bytes as f64;
    let share = bytes as f64 * 8.0 / seconds / LONG;
    report
        .add(Row::new("100 Mbit/s, 50 ms, 1 % loss: the blob's share of the line", "%", share * 100.0).at_least(85.0));
    report.add(Row::new("bytes on the line a byte of the blob", "", cost));
    let late = |share: f64| quantile(&busy, share) - median(&idle);
    report.add(Row::new("a question meanwhile, later than without, p50", "ms", late(0.5)).at_most(50.0));
    report.add(Row::new("the same, p99", "ms", late(0.99)));

    let blob = ground.blob("ends-0", "ends-1", 2, bytes).await?;
    let before = ground.carried();
    let is_half = move |event: &Value| event["here_bytes"].as_u64().is_some_and(|here| here > bytes / 2);
    let mut client = ground.client("ends-1").await?;
    fetch(&mut client, &blob, is_half).await?;
    let node = ground.node("ends-1")?;
    ground.fleet.kill(node);
    ground.fleet.start_again(node).await?;
    let mut client = ground.client("ends-1").await?;
    is_known(&mut client, &blob).await?;
    fetch_all(&mut client, &blob).await?;
    let again = (ground.carried() - before) as f64 / cost / bytes as f64 - 1.0;
    let row = Row::new("sent again after SIGKILL of the fetching node midway", "%", again.max(0.0) * 100.0);
    report.add(row.at_most(1.0));
    Ok(())
}

async fn on_loopback(report: &mut Report, program: &Path, folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let program = Program { path: program.to_owned(), keys: folder.join("keys") };
    let (a, b) = (folder.join("a"), folder.join("b"));
    program.run(&a, &["init", "--name", "a", "--no-passphrase"])?;
    let from = program.start(&a, &[]).await?;
    program.join(&from, &b, "b")?;
    let _to = program.start(&b, &[]).await?;
    let mut client = Client::connect(&b.join("api.sock")).await?;
    let mut rates = Vec::new();
    for seed in 5..8 {
        let path = file(folder, seed, bytes)?;
        let blob = put(&program, &a, &path)?;
        std::fs::remove_file(path)?;
        is_known(&mut client, &blob).await?;
        rates.push(bytes as f64 * 8e-9 / fetch_all(&mut client, &blob).await?);
        client = Client::connect(&b.join("api.sock")).await?;
    }
    report.add(Row::new("loopback, median of three", "Gbit/s", median(&rates)).at_least(4.0));
    Ok(())
}

/// Runs the bench.
pub(super) async fn bench(args: &BulkArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let program = fleetsync(args.fleetsync.as_deref())?;
    let (folder, bytes) = (temporary.path(), args.mib * MEBIBYTE);
    let mut report = Report::new("bulk");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    over_a_long_line(&mut report, &program, folder, bytes).await?;
    backfill::bench(&mut report, &program, folder, args.missed_mib * MEBIBYTE).await?;
    on_loopback(&mut report, &program, folder, bytes).await?;
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
