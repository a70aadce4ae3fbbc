//! `bench memory`: what documents and peers take of a node's memory, and what a node with thousands of documents takes.
//!
//! What lies in memory for a document or a peer is too little beside what allocators keep. So whole replicas and
//! engines are copied, and the copies are weighed: they hold what the original holds, and nothing that was used on
//! the way.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use crdt::id::{FleetId, Root};
use crdt::raw::hash_of;
use crdt::store::{Batch, ChangeRecord, LogRecord, MemoryStore, Table, change_key, encode_record, meta_key};
use crdt::sync::frame::{Changes, Frame, Name};
use crdt::sync::{Config, LinkId, Replica};

use super::author::{Author, enrol, found, key, readings};
use super::history::{self, KINDS, Size};
use super::offline::Offline;
use super::operator::Operator;
use super::process::Program;
use super::report::{Report, Row, median};
use super::{Format, fleetsync, machine, note};

const DOCUMENTS_TARGET_BYTES: f64 = 128.0;
const PEER_TARGET_BYTES: f64 = 64.0 * 1024.0;
const NODE_TARGET_MB: f64 = 100.0;
/// Devices of the node whose memory counts, with four documents each.
const NODE: Size = Size { devices: 1000, changes_a_log: 10 };
const PEERS: u64 = 16;
/// Copies that are made before one is weighed.
const FIRST_COPIES: usize = 64;

/// `bench memory`
#[derive(Args)]
pub(crate) struct MemoryArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// The program to measure [default: FLEETSYNC, else fleetsync beside this program]
    #[arg(long, value_name = "PATH", env = "FLEETSYNC")]
    fleetsync: Option<PathBuf>,
    /// Runs, of which medians are printed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Documents in memory
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(4..=200_000))]
    documents: u64,
}

/// Copies, and the bytes of resident memory that one of them takes. As long as they are kept, whoever is weighed next
/// finds no room that was given back.
fn weighed<T: Clone>(original: &T, runs: u64) -> anyhow::Result<(Vec<T>, f64)> {
    let own = std::process::id();
    // The first ones take what was given back before.
    let mut copies = vec![original.clone(); FIRST_COPIES];
    let mut bytes = Vec::new();
    for _ in 0..runs {
        let before = machine::resident_mb(own)?;
        copies.push(original.clone());
        bytes.push((machine::resident_mb(own)? - before) * 1e6);
    }
    Ok((copies, median(&bytes)))
}

/// A store with documents of one change each.
fn documents(fleet: FleetId, count: u64) -> anyhow::Result<MemoryStore> {
    let mut batch = Batch::default();
    let devices = u16::try_from(count / KINDS.len() as u64)?;
    for device in (0..devices).map(|number| key(number, 3)) {
        for kind in KINDS {
            let mut author = Author::new(fleet, &device, kind, 1);
            let run = author.write(&readings(0, 1))?;
            let raw = run.changes.into_iter().next().context("a run without changes")?;
            let record = LogRecord {
                log: author.log.clone(),
                seq: 1,
                head: hash_of(&raw.0).context("a change without a header")?,
                chain: author.chain,
                max_op: 1,
                raw_bytes: raw.0.len() as u64,
                values_bytes: 0,
            };
            batch.put(Table::Meta, meta_key(&author.actor), encode_record(&record));
            let change = ChangeRecord { raw, chain: author.chain, signature: Some(run.signature) };
            batch.put(Table::Change, change_key(&author.actor, 1), encode_record(&change));
        }
    }
    let mut store = MemoryStore::default();
    store.apply(&batch);
    Ok(store)
}

/// Bytes of a document that nobody reads.
fn document_bytes(args: &MemoryArgs) -> anyhow::Result<f64> {
    let (operator, _) = found();
    let store = documents(operator.fleet, args.documents)?;
    let replica = Replica::open(operator.fleet, &store, 1)?;
    let documents = replica.logs().documents_len();
    let (_copies, bytes) = weighed(&replica, args.runs)?;
    Ok(bytes / documents as f64)
}

/// Bytes of a peer that has named and sent all logs.
fn peer_bytes(args: &MemoryArgs) -> anyhow::Result<f64> {
    let (operator, mut statements) = found();
    let devices: Vec<_> = (0..NODE.devices).map(|number| key(number, 3)).collect();
    for (number, device) in (0..).zip(&devices) {
        statements.extend(enrol(&operator, device, &key(number, 4), &format!("device-{number}")));
    }
    let folder = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let config = Config { fleet: operator.fleet, key: key(0, 5), incarnation: 1, seed: 1 };
    let mut node = Offline::on(config, &folder.path().join("store"))?;
    node.state(&statements)?;
    let mut frames = Vec::new();
    let logs = devices.iter().flat_map(|device| KINDS.map(|kind| (device, kind)));
    for (number, (device, kind)) in (0..).zip(logs) {
        let mut author = Author::new(operator.fleet, device, kind, 1);
        let run = author.write(&readings(0, 1))?;
        frames.push(Frame::Name(Name { number, log: run.log }));
        frames.push(Frame::Changes(Changes { number, first_seq: 1, changes: run.changes, signature: run.signature }));
    }
    let send = |node: &mut Offline, peer: u64| -> anyhow::Result<()> {
        let root: Root = node.engine.root();
        node.greet(LinkId(peer), devices.get(usize::try_from(peer)?).context("too many peers")?, root)?;
        frames.iter().try_for_each(|frame| node.frame(LinkId(peer), frame))
    };
    send(&mut node, 0)?;
    let (_copies, before) = weighed(&node.engine, args.runs)?;
    (1..=PEERS).try_for_each(|peer| send(&mut node, peer))?;
    let (_more, after) = weighed(&node.engine, args.runs)?;
    node.store.close();
    Ok((after - before) / PEERS as f64)
}

/// Resident memory of the real program: one that starts with all documents, and one that fetched them.
async fn node_rows(program: &Program, root: &Path) -> anyhow::Result<Vec<Row>> {
    let (source_folder, folder) = (root.join("source"), root.join("fetched"));
    let fleet = program.run(&source_folder, &["init", "--name", "source", "--no-passphrase"])?;
    history::make(&source_folder, &Operator::open(&program.keys, &fleet)?, NODE).context("making the documents")?;
    let mut source = program.start(&source_folder, &[]).await?;
    let started = machine::resident_mb(source.pid())?;
    program.join(&source, &folder, "fetched")?;
    let mut node = program.start(&folder, &[]).await?;
    history::fetched(&mut source, &mut node).await?;
    let fetched = machine::resident_mb(node.pid())?;
    let served = machine::resident_mb(source.pid())?;
    source.kill();
    let node = program.start(&node.kill(), &[]).await?;
    let again = machine::resident_mb(node.pid())?;
    let what = "a node with 4,000 documents of 1,000 devices, resident";
    let row = |when: &str, value| Row::new(format!("{what}: {when}"), "MB", value).at_most(NODE_TARGET_MB);
    Ok(vec![
        row("started", started),
        row("after a peer has fetched all", served),
        row("having fetched all", fetched),
        row("that one, started again", again),
    ])
}

/// Runs the bench.
pub(super) async fn bench(args: &MemoryArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("memory");
    note("==> documents and peers, in process");
    // Peers first: what the documents give back is more than they take.
    let peer = peer_bytes(args)?;
    report.add(Row::new("a peer that has named and sent 4,000 logs", "B", peer).at_most(PEER_TARGET_BYTES));
    let documents = document_bytes(args)?;
    let name = format!("a document that nobody reads, of {}", args.documents);
    report.add(Row::new(name, "B", documents).at_most(DOCUMENTS_TARGET_BYTES));
    let temporary = tempfile::Builder::new().prefix("fleetsync-bench.").tempdir()?;
    let program = Program { path: fleetsync(args.fleetsync.as_deref())?, keys: temporary.path().join("keys") };
    note(&format!("==> {} in {}", program.path.display(), temporary.path().display()));
    report.extend(node_rows(&program, temporary.path()).await?);
    Ok(report)
}
