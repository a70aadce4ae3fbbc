//! `bench package`: the program to carry away: how large it is, and how soon it answers.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::process::Program;
use super::report::{Report, Row, median, quantile};
use super::{Format, fleetsync, note};

const PROGRAM_MB_MAX: f64 = 35.0;
const READY_MS_MAX: f64 = 300.0;

/// `bench package`
#[derive(Args)]
pub(crate) struct PackageArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// Starts, of which the median and the 99th percentile are printed
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    starts: u64,
}

/// Runs it; every process ends with it.
pub(super) async fn bench(args: &PackageArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let root = temporary.path();
    let program = Program { path: fleetsync(args.fleetsync.as_deref())?, keys: root.join("keys") };
    note(&format!("==> {}", program.path.display()));
    let bytes = std::fs::metadata(&program.path).context("the program")?.len();
    let mut report = Report::new("package");
    report.add(Row::new("the program", "MB", bytes as f64 / 1e6).at_most(PROGRAM_MB_MAX));

    let mut folder = root.join("node");
    program.run(&folder, &["init", "--name", "node", "--no-passphrase"])?;
    let mut ready_ms = Vec::new();
    for _ in 0..args.starts {
        let node = program.start(&folder, &[]).await?;
        ready_ms.push(node.ready_after.as_secs_f64() * 1e3);
        folder = node.kill();
    }
    let what = "start to the first answer of its API (after SIGKILL)";
    report.add(Row::new(format!("{what}, p50"), "ms", median(&ready_ms)).at_most(READY_MS_MAX));
    report.add(Row::new(format!("{what}, p99"), "ms", quantile(&ready_ms, 0.99)).at_most(READY_MS_MAX));
    Ok(report)
}
