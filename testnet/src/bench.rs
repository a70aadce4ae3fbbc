//! `testnet bench`: each bench prints its numbers, each with its target and what the machine itself needs beside it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};

mod admission;
mod author;
mod balance;
mod bulk;
mod converge;
mod dissemination;
mod failover;
mod history;
mod ingest;
mod lab;
pub(crate) mod machine;
mod memory;
mod mesh;
mod offline;
pub(crate) mod operator;
mod package;
mod pair;
pub(crate) mod process;
mod reconcile;
mod reconnect;
mod report;
mod spread;
mod suspicion;
mod traffic;

use report::Report;

/// The benches.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// Five real processes on loopback: how soon a write is readable everywhere, and what that costs
    Converge(ConvergeArgs),
    /// Simulated fleets: how soon a change is everywhere, and how many copies that costs, beside a model of gossipsub
    Dissemination(dissemination::DisseminationArgs),
    /// Two equal ways in the lab: what a blob gets of both, and how evenly the nodes between have to work; needs root
    Balance(balance::BalanceArgs),
    /// Blobs over a long line and on loopback: how fast, what waits, what is sent again; needs root
    Bulk(bulk::BulkArgs),
    /// Six hubs and three leaves in the lab: how soon questions and changes go past what fails; needs root
    Failover(failover::FailoverArgs),
    /// One node in process: how many changes a second it takes from a peer, checked and stored
    Ingest(ingest::IngestArgs),
    /// The lab's network: whether delay, loss, rate and cuts are as asked, and how much it carries; needs root
    Lab(lab::LabArgs),
    /// What documents and peers take of a node's memory, and a node with thousands of documents
    Memory(memory::MemoryArgs),
    /// The route search of every node, and how good the ways are that it chooses on measured links
    Mesh(mesh::MeshArgs),
    /// The program to carry away (scripts/package): its size, and how soon it answers
    Package(package::PackageArgs),
    /// Two engines over a slow link: bytes to find what differs, and time to heal, beside automerge::sync
    Reconcile(reconcile::ReconcileArgs),
    /// Simulated fleets that choose their links: a start of all at once, halves, and the death of four in five
    Reconnect(reconnect::ReconnectArgs),
    /// Twenty-five nodes in the lab with all cores busy: whether a link is closed that is well; needs root
    Suspicion(suspicion::SuspicionArgs),
}

/// `bench converge`
#[derive(Args)]
pub(crate) struct ConvergeArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// Writes of each sort, a run
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=5000))]
    count: u64,
    /// Runs, of which medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Seconds for which the idle nodes are watched
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// One JSON value
    Json,
}

/// Runs a bench; says whether every target was met.
pub(crate) fn run(command: BenchCommand) -> anyhow::Result<bool> {
    let (report, output) = match command {
        BenchCommand::Converge(args) => (with_processes(converge::run(&args))?, args.output),
        BenchCommand::Dissemination(args) => (dissemination::run(&args)?, args.output),
        BenchCommand::Balance(args) => (with_processes(balance::bench(&args))?, args.output),
        BenchCommand::Bulk(args) => (with_processes(bulk::bench(&args))?, args.output),
        BenchCommand::Failover(args) => (with_processes(failover::bench(&args))?, args.output),
        BenchCommand::Ingest(args) => (ingest::bench(&args)?, args.output),
        BenchCommand::Lab(args) => (lab::bench(&args)?, args.output),
        BenchCommand::Memory(args) => (with_processes(memory::bench(&args))?, args.output),
        BenchCommand::Mesh(args) => (mesh::bench(&args)?, args.output),
        BenchCommand::Package(args) => (with_processes(package::bench(&args))?, args.output),
        BenchCommand::Reconcile(args) => (reconcile::run(&args)?, args.output),
        BenchCommand::Reconnect(args) => (reconnect::bench(&args)?, args.output),
        BenchCommand::Suspicion(args) => (with_processes(suspicion::bench(&args))?, args.output),
    };
    print(&match output {
        Format::Table => report.to_table(),
        Format::Json => report.to_json()?,
    });
    Ok(report.passes())
}

/// Runs a bench that starts processes.
fn with_processes(bench: impl Future<Output = anyhow::Result<Report>>) -> anyhow::Result<Report> {
    // One thread, so that what watches takes at most one core from what is watched.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            report = bench => report,
            // The nodes are killed when their guards go.
            _ = ended() => Err(anyhow::anyhow!("interrupted")),
        }
    })
}

pub(crate) async fn ended() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// The program to measure.
pub(crate) fn fleetsync(path: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = path {
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    let own = std::env::current_exe().context("where this program lies")?;
    let path = own.with_file_name("fleetsync");
    path.canonicalize().with_context(|| format!("{} (--fleetsync PATH names another)", path.display()))
}

/// Writes to stdout; a reader that went away is no failure.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody is left to be told.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to stderr.
pub(crate) fn note(text: &str) {
    // Where stderr is closed nobody wants to know.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
