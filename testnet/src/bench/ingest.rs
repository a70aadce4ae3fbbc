//! `bench ingest`: how fast a node takes what a peer sends, all checks and its own store included.
//!
//! A peer's frames, made beforehand, go into the shipped engine as the node's agent would give them: frames that are
//! waiting go in together. One core is a run with one thread, counted in the time that the whole process had a core for,
//! RocksDB's threads included; two cores are counted by the clock on the wall.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use crdt::change::{RUN_CHANGES_MAX, signing_bytes};
use crdt::id::FleetId;
use crdt::statement::SignedStatement;
use crdt::store::Batch;
use crdt::sync::frame::{Changes, Frame, Name};
use crdt::sync::{Channel, Config, LinkFrame, LinkId};
use ed25519_dalek::{Signature, SigningKey};
use node::store::Store;
use tempfile::TempDir;

use super::author::{Author, enrol, found, key, readings};
use super::history::KINDS;
use super::offline::Offline;
use super::report::{Report, Row, median};
use super::{Format, machine, note};

const LINK: LinkId = LinkId(1);
/// A fleet's devices have keys of this purpose, their invitations of the next.
const DEVICE_KEYS: u8 = 3;
/// Foreign changes are synced this often, as the agent does it.
const GROUP_SYNC: Duration = Duration::from_millis(100);
const SIGNATURES: usize = 4_000;
const LIVE_TARGET: f64 = 12_000.0;
const BACKFILL_TARGET: f64 = 50_000.0;
const SCALING_TARGET: f64 = 1.8;

/// `bench ingest`
#[derive(Args)]
pub(crate) struct IngestArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// Runs, of which medians are printed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Devices, with four logs each
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    devices: u16,
    /// Of each log, changes that come one by one
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1000))]
    live: u64,
    /// Of each log, runs of 32 changes
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=25))]
    backfill: u64,
    /// Only what has this in its name: `live`, `backfill`
    #[arg(long, value_name = "WORD", default_value = "")]
    only: String,
}

/// A fleet whose devices all write; the first one is the peer that sends.
struct Fleet {
    id: FleetId,
    devices: Vec<SigningKey>,
    statements: Vec<SignedStatement>,
}

impl Fleet {
    fn new(devices: u16) -> Fleet {
        let (operator, mut statements) = found();
        let devices: Vec<SigningKey> = (0..devices).map(|number| key(number, DEVICE_KEYS)).collect();
        for (number, device) in (0..).zip(&devices) {
            statements.extend(enrol(&operator, device, &key(number, DEVICE_KEYS + 1), &format!("device-{number}")));
        }
        Fleet { id: operator.fleet, devices, statements }
    }

    fn authors(&self) -> Vec<Author> {
        let logs = self.devices.iter().flat_map(|device| KINDS.map(|kind| (device, kind)));
        logs.map(|(device, kind)| Author::new(self.id, device, kind, 1)).collect()
    }

    /// A node of the fleet that is linked with the peer and has none of the logs yet.
    fn node(&self) -> anyhow::Result<(Offline, TempDir)> {
        let folder = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
        let config = Config { fleet: self.id, key: key(0, DEVICE_KEYS + 2), incarnation: 1, seed: 1 };
        let mut node = Offline::on(config, &folder.path().join("store"))?;
        node.state(&self.statements)?;
        let root = node.engine.root();
        node.greet(LINK, &self.devices[0], root)?;
        Ok((node, folder))
    }
}

/// What a peer sends: names of logs, and changes.
struct Load {
    name: String,
    target: f64,
    frames: Vec<Vec<u8>>,
    changes: u64,
}

/// A run of `count` changes of `values` values that ends at one signature.
fn run(author: &mut Author, number: u32, count: usize, values: u64) -> anyhow::Result<Frame> {
    let first_seq = author.seq + 1;
    let mut changes = Vec::with_capacity(count);
    loop {
        let mut run = author.write(&readings(author.seq * values, values))?;
        changes.append(&mut run.changes);
        if changes.len() >= count {
            return Ok(Frame::Changes(Changes { number, first_seq, changes, signature: run.signature }));
        }
    }
}

impl Load {
    fn named(authors: &[Author]) -> Vec<Vec<u8>> {
        let name = |(number, author): (u32, &Author)| Frame::Name(Name { number, log: author.log.clone() }).encode();
        (0..).zip(authors).map(name).collect()
    }

    /// Changes as they are made: each by itself, of one log after another.
    fn live(fleet: &Fleet, values: u64, turns: u64) -> anyhow::Result<Load> {
        let mut authors = fleet.authors();
        let mut frames = Load::named(&authors);
        for _ in 0..turns {
            for (number, author) in (0..).zip(&mut authors) {
                frames.push(run(author, number, 1, values)?.encode());
            }
        }
        let name = format!("live, a signature each, {values} {}", plural(values));
        Ok(Load { name, target: LIVE_TARGET, frames, changes: turns * authors.len() as u64 })
    }

    /// What a peer lacks: log after log in runs.
    fn backfill(fleet: &Fleet, values: u64, runs: u64) -> anyhow::Result<Load> {
        let mut authors = fleet.authors();
        let mut frames = Load::named(&authors);
        for (number, author) in (0..).zip(&mut authors) {
            for _ in 0..runs {
                frames.push(run(author, number, RUN_CHANGES_MAX, values)?.encode());
            }
        }
        let name = format!("backfill in runs of {RUN_CHANGES_MAX}, {values} {}", plural(values));
        let changes = runs * authors.len() as u64 * RUN_CHANGES_MAX as u64;
        Ok(Load { name, target: BACKFILL_TARGET, frames, changes })
    }
}

fn plural(values: u64) -> &'static str {
    if values == 1 { "value" } else { "values" }
}

/// Syncs a store as the agent's thread does, until it goes.
struct Syncing {
    stop: Option<Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Syncing {
    fn start(store: Store) -> Syncing {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(GROUP_SYNC) == Err(RecvTimeoutError::Timeout) {
                // What does not sync fails the next write.
                let _ = store.sync();
            }
        });
        Syncing { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

/// Changes a second: of time that the process had a core for, and of time on the wall.
#[derive(Debug, Clone, Copy)]
struct Rates {
    core: f64,
    wall: f64,
}

fn timed(changes: u64, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Rates> {
    let own = std::process::id();
    let (cpu, start) = (machine::cpu_s(own)?, Instant::now());
    work()?;
    let wall = changes as f64 / start.elapsed().as_secs_f64();
    Ok(Rates { core: changes as f64 / (machine::cpu_s(own)? - cpu).max(0.01), wall })
}

/// Takes all of a load; the batches go to `batches`.
fn ingest(fleet: &Fleet, load: &Load, threads: usize, stored: impl FnMut(&Batch)) -> anyhow::Result<Rates> {
    let (mut node, _folder) = fleet.node()?;
    let syncing = Syncing::start(node.store.clone());
    let frames = load
        .frames
        .iter()
        .map(|bytes| LinkFrame { link: LINK, channel: Channel::Data, bytes: bytes.clone() })
        .collect();
    let rates = timed(load.changes, || node.frames(frames, threads, stored))?;
    drop(syncing);
    let changes = node.engine.replica().logs().changes();
    ensure!(changes == load.changes, "{changes} changes were admitted, not {}", load.changes);
    node.store.close();
    Ok(rates)
}

/// The same batches into an empty store, and nothing else.
fn writes_alone(batches: &[Batch], changes: u64) -> anyhow::Result<Rates> {
    let folder = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let store = Store::open(&folder.path().join("store"))?;
    let syncing = Syncing::start(store.clone());
    let rates = timed(changes, || Ok(batches.iter().try_for_each(|batch| store.apply(batch))?))?;
    drop(syncing);
    store.close();
    Ok(rates)
}

/// Strict verifications alone, on each of so many threads.
fn signatures_alone(fleet: &Fleet, threads: u64) -> anyhow::Result<Rates> {
    let mut authors = fleet.authors();
    let mut signed = Vec::with_capacity(SIGNATURES);
    for turn in 0..SIGNATURES {
        let at = turn % authors.len();
        let author = &mut authors[at];
        let run = author.write(&readings(0, 1))?;
        let message = signing_bytes(&fleet.id, &author.actor, author.seq, &author.chain);
        let key = fleet.devices[at / KINDS.len()].verifying_key();
        signed.push((key, message, Signature::from_bytes(&run.signature.0)));
    }
    let verify = || signed.iter().all(|(key, message, signature)| key.verify_strict(message, signature).is_ok());
    timed(threads * SIGNATURES as u64, || {
        let are_vouched = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(verify)).collect();
            let own = verify();
            others.into_iter().all(|other| other.join().unwrap_or(false)) && own
        });
        ensure!(are_vouched, "a signature does not verify");
        Ok(())
    })
}

fn median_of(rates: &[Rates], which: fn(&Rates) -> f64) -> f64 {
    median(&rates.iter().map(which).collect::<Vec<_>>())
}

fn rows(args: &IngestArgs, fleet: &Fleet, load: &Load, scaling: f64) -> anyhow::Result<Vec<Row>> {
    let (mut one, mut two, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..args.runs {
        one.push(ingest(fleet, load, 1, |_| {})?);
        two.push(ingest(fleet, load, 2, |_| {})?);
        let mut batches = Vec::new();
        ingest(fleet, load, 1, |batch| batches.push(batch.clone()))?;
        alone.push(writes_alone(&batches, load.changes)?);
    }
    let core = median_of(&one, |rates| rates.core);
    let writes = median_of(&alone, |rates| rates.core);
    let both = median_of(&two, |rates| rates.wall);
    let name = &load.name;
    Ok(vec![
        Row::new(format!("floor: {name}: its writes into RocksDB alone"), "changes/s", writes),
        Row::new(format!("{name}: one core"), "changes/s", core).at_least(load.target).beside(writes),
        Row::new(format!("{name}: one thread, on the wall"), "changes/s", median_of(&one, |rates| rates.wall)),
        Row::new(format!("{name}: two threads, on the wall"), "changes/s", both),
        Row::new(format!("{name}: two cores, times one"), "x", both / core).at_least(SCALING_TARGET).beside(scaling),
    ])
}

/// Runs the bench.
pub(super) fn bench(args: &IngestArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("ingest");
    report.add(Row::new("load average over a minute, before", "", machine::load()?));
    let fleet = Fleet::new(args.devices);
    let alone = |threads| (0..args.runs).map(|_| signatures_alone(&fleet, threads)).collect::<anyhow::Result<Vec<_>>>();
    let (one, two) = (alone(1)?, alone(2)?);
    let signatures = median_of(&one, |rates| rates.core);
    let scaling = median_of(&two, |rates| rates.wall) / signatures;
    report.add(Row::new("floor: strict verifications alone, one core", "/s", signatures));
    report.add(Row::new("floor: strict verifications alone, two threads, times one core", "x", scaling));
    for values in [1, 5] {
        let loads = [Load::live(&fleet, values, args.live)?, Load::backfill(&fleet, values, args.backfill)?];
        for load in loads.iter().filter(|load| load.name.contains(&args.only)) {
            note(&format!("==> {}: {} changes", load.name, load.changes));
            report.extend(rows(args, &fleet, load, scaling)?);
        }
    }
    report.add(Row::new("load average over a minute, after", "", machine::load()?));
    Ok(report)
}
