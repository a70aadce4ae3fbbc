//! `bench suspicion`: whether the mesh accuses those that are well. Twenty-five real nodes in the lab while other work keeps
//! every core busy; nothing fails. Needs root.
//!
//! A node that hears of an answer late suspects a link at most for a moment; what must not happen is that a link is closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use node::client::Client;
use serde_json::Value;

use super::report::{Report, Row};
use super::{Format, fleetsync, machine, note};
use crate::lab::fleet::{Fleet, Plan};
use crate::sim::topology::Topology;

/// The fleet comes to rest for so long before anything counts.
const SETTLES: Duration = Duration::from_secs(20);

/// `bench suspicion`
#[derive(Args)]
pub(crate) struct SuspicionArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// For how long
    #[arg(long, value_name = "MIN", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// The fleet
    #[arg(long, value_name = "FILE", default_value = "lab-25")]
    topology: String,
}

/// Threads that do nothing, as much as they can, until this goes.
struct Busy {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Busy {
    fn on_all_cores() -> Busy {
        let is_over = Arc::new(AtomicBool::new(false));
        let spin = |is_over: Arc<AtomicBool>| {
            move || {
                let mut turns = 0_u64;
                while !is_over.load(Ordering::Relaxed) {
                    turns = std::hint::black_box(turns.wrapping_add(1));
                }
                turns
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..cores).map(|_| std::thread::spawn(spin(is_over.clone()))).collect();
        Busy { is_over, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has counted, which cannot fail.
            let _ = thread.join();
        }
    }
}

/// What happened on all nodes.
#[derive(Debug, Default)]
struct Tally {
    suspicions: AtomicU64,
    losses: AtomicU64,
}

impl Tally {
    fn note(&self, name: &str, event: &Value) {
        let counter = match event["event"].as_str() {
            Some("suspect") => &self.suspicions,
            Some("link down") => &self.losses,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        note(&format!("    {name}: {} {} {}", event["event"], event["subject"], event["detail"]));
    }
}

/// Runs the bench.
pub(super) async fn bench(args: &SuspicionArgs) -> anyhow::Result<Report> {
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let program = fleetsync(args.fleetsync.as_deref())?;
    let topology = Topology::load(&args.topology, 1)?;
    note(&format!("==> {} nodes: {} in {}", topology.nodes.len(), program.display(), temporary.path().display()));
    let plan = Plan { topology, seed: 1, program, run_with: Vec::new() };
    let fleet = Fleet::start(plan, temporary.path(), &note).await?;
    tokio::time::sleep(SETTLES).await;
    let tally = Arc::new(Tally::default());
    let mut followers = Vec::new();
    for (node, place) in fleet.topology().nodes.iter().enumerate() {
        let (mut client, name, tally): (Client, _, _) = (fleet.client(node).await?, place.name.clone(), tally.clone());
        followers.push(tokio::spawn(async move {
            // A node that ended is an error of its own: its peers lose their links.
            let _ = client
                .follow("/v1/events", |event| {
                    tally.note(&name, &event);
                    true
                })
                .await;
        }));
    }
    let busy = Busy::on_all_cores();
    tokio::time::sleep(Duration::from_secs(60 * args.minutes)).await;
    let load = machine::load()?;
    drop(busy);
    followers.iter().for_each(tokio::task::JoinHandle::abort);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let mut report = Report::new("suspicion");
    report.extend([
        Row::new("minutes with all cores busy", "", args.minutes as f64),
        Row::new("load average over the last one", "", load),
        Row::new("links that were suspect for a while, both ends counted", "", count(&tally.suspicions)),
        Row::new("links that were closed", "", count(&tally.losses)).at_most(0.0),
    ]);
    Ok(report)
}
