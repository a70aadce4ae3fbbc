//! `bench balance`: two equal ways in the lab. How much more a blob gets of both than of one, and how evenly the nodes in the
//! middle have to work, for a blob and for the questions of many pairs of nodes. Needs root.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use node::client::Client;

use super::bulk::{Ground, MEBIBYTE, POLL, fetch_all};
use super::process::PATIENCE;
use super::report::{Report, Row};
use super::{Format, fleetsync, machine};

const GAIN: f64 = 1.7;
const SHARE: f64 = 1.3;

/// `bench balance`
#[derive(Args)]
pub(crate) struct BalanceArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// The size of the blob, MiB
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..=1_024))]
    mib: u64,
    /// Questions of each leaf to each other one
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    questions: u64,
}

/// What the busiest has, of its share.
fn busiest(loads: &[f64]) -> f64 {
    let share = loads.iter().sum::<f64>() / loads.len() as f64;
    loads.iter().copied().fold(0.0, f64::max) / share
}

/// Bytes that a node has passed on.
async fn relayed(client: &mut Client) -> anyhow::Result<u64> {
    let status = client.get("/v1/status").await?;
    let all = status["relayed"].as_array().context("a status without what is relayed")?;
    Ok(all.iter().filter_map(|relayed| relayed["bytes"].as_u64()).sum())
}

/// Waits until a node knows so many ways to another.
async fn has_ways(asker: &mut Client, to: &str, count: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let route = asker.get(&format!("/v1/routes/{to}")).await?;
        if route["ways"].as_array().is_some_and(|ways| ways.len() == count) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{count} ways are expected: {route}");
        tokio::time::sleep(POLL).await;
    }
}

async fn of_a_blob(report: &mut Report, program: &Path, folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let ground = Ground::start("blob", "bulk-paths", program, folder).await?;
    let mut asker = ground.client("leaf-1").await?;
    let mut hubs = [ground.client("hub-0").await?, ground.client("hub-1").await?];
    has_ways(&mut asker, "leaf-0", 2).await?;
    let blob = ground.blob("leaf-0", "leaf-1", 3, bytes).await?;
    let mut before = Vec::new();
    for hub in &mut hubs {
        before.push(relayed(hub).await?);
    }
    let two = fetch_all(&mut asker, &blob).await?;
    let mut carried = Vec::new();
    for (hub, before) in hubs.iter_mut().zip(before) {
        carried.push((relayed(hub).await? - before) as f64);
    }
    ground.fleet.network().cut(ground.node("leaf-1")?, ground.node("hub-1")?);
    let mut asker = ground.client("leaf-1").await?;
    has_ways(&mut asker, "leaf-0", 1).await?;
    let blob = ground.blob("leaf-0", "leaf-1", 4, bytes).await?;
    let one = fetch_all(&mut asker, &blob).await?;
    let rate = |seconds: f64| bytes as f64 * 8e-6 / seconds;
    report.add(Row::new("one way of 20 Mbit/s", "Mbit/s", rate(one)));
    report.add(Row::new("two of them", "Mbit/s", rate(two)));
    report.add(Row::new("two ways against one", "x", one / two).at_least(GAIN));
    report.add(Row::new("the busier relay of the blob, of its share", "x", busiest(&carried)).at_most(SHARE));
    Ok(())
}

/// Every leaf asks every other one, over one hub or the other.
async fn of_questions(report: &mut Report, program: &Path, folder: &Path, questions: u64) -> anyhow::Result<()> {
    let ground = Ground::start("questions", "balance", program, folder).await?;
    let places = &ground.fleet.topology().nodes;
    let leaves: Vec<&str> =
        places.iter().filter(|place| place.zone == "leaf").map(|place| place.name.as_str()).collect();
    let mut over: BTreeMap<String, f64> = BTreeMap::new();
    for from in &leaves {
        let mut asker = ground.client(from).await?;
        for to in leaves.iter().filter(|to| *to != from) {
            has_ways(&mut asker, to, 2).await?;
            for _ in 0..questions {
                let answer = asker.get(&format!("/v1/ping/{to}")).await?;
                let hub = answer["hops"][0]["name"].as_str().context("an answer without its way")?;
                *over.entry(hub.to_owned()).or_default() += 1.0;
            }
        }
    }
    let loads: Vec<f64> = ["hub-0", "hub-1"].map(|hub| over.get(hub).copied().unwrap_or(0.0)).to_vec();
    report.add(Row::new("questions between twelve leaves over two hubs", "", over.values().sum()));
    report.add(Row::new("the busier relay of questions, of its share", "x", busiest(&loads)).at_most(SHARE));
    Ok(())
}

/// Runs the bench.
pub(super) async fn bench(args: &BalanceArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let program = fleetsync(args.fleetsync.as_deref())?;
    let mut report = Report::new("balance");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    of_a_blob(&mut report, &program, temporary.path(), args.mib * MEBIBYTE).await?;
    of_questions(&mut report, &program, temporary.path(), args.questions).await?;
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
