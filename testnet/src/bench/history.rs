//! A node with a long history: how soon it is ready after a start, and how soon its CLI answers.
//!
//! The history is made in process by 25 devices with four documents each and taken through the engine's own door, as
//! frames of a peer, into a store on disk. A node runs on that store; a second one joins it and fetches everything
//! over the mesh. That second store, written by the real program alone, is the one that is measured.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use crdt::id::Root;
use crdt::schema::Kind;
use crdt::sync::LinkId;
use crdt::sync::frame::{Changes, Frame, Name};

use super::author::{Author, enrol, key, readings};
use super::machine::folder_bytes;
use super::offline::Offline;
use super::operator::Operator;
use super::process::{NodeProcess, PATIENCE, Program};
use super::report::{Row, median};

pub(crate) const KINDS: [Kind; 4] = [Kind::Device, Kind::Environment, Kind::Resource, Kind::Link];
/// How much history is made: each device has a document of each kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) devices: u16,
    pub(crate) changes_a_log: u64,
}

const HISTORY: Size = Size { devices: 25, changes_a_log: 1000 };
/// A document of one writer has at most 256 KiB an epoch; three values a change fit.
const VALUES: u64 = 3;
const STARTS: usize = 11;
const STATUSES: usize = 31;

/// Admits the history of all devices. Changes travel one by one, each with its signature, as they do live.
pub(crate) fn make(folder: &Path, operator: &Operator, size: Size) -> anyhow::Result<()> {
    let mut offline = Offline::open(folder, operator)?;
    let devices: Vec<_> = (0..size.devices).map(|number| key(number, 2)).collect();
    let mut statements = Vec::new();
    for (number, device) in (0..).zip(&devices) {
        statements.extend(enrol(operator, device, &key(number, 3), &format!("device-{number}")));
    }
    offline.state(&statements)?;
    let link = LinkId(1);
    offline.greet(link, &devices[0], Root([1; 32]))?;
    let logs = devices.iter().flat_map(|device| KINDS.map(|kind| (device, kind)));
    for (number, (device, kind)) in (0..).zip(logs) {
        let mut author = Author::new(operator.fleet, device, kind, 1);
        offline.frame(link, &Frame::Name(Name { number, log: author.log.clone() }))?;
        for turn in 0..size.changes_a_log {
            let run = author.write(&readings(turn * VALUES, VALUES))?;
            let changes = Changes { number, first_seq: run.first_seq, changes: run.changes, signature: run.signature };
            offline.frame(link, &Frame::Changes(changes))?;
        }
    }
    let changes = offline.engine.replica().logs().changes();
    let expected = u64::from(size.devices) * KINDS.len() as u64 * size.changes_a_log;
    ensure!(changes == expected, "{changes} changes were admitted, not {expected}");
    offline.store.close();
    Ok(())
}

/// Waits until `node` has all that `source` has; returns how many changes.
pub(crate) async fn fetched(source: &mut NodeProcess, node: &mut NodeProcess) -> anyhow::Result<u64> {
    let start = Instant::now();
    loop {
        let (there, here) = (source.client.get("/v1/status").await?, node.client.get("/v1/status").await?);
        if there["root"] == here["root"] {
            return here["changes"].as_u64().context("a status without changes");
        }
        ensure!(
            start.elapsed() < PATIENCE * 5,
            "the history does not arrive: {} of {}",
            here["changes"],
            there["changes"]
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Start to ready, and `fleetsync status`, on a node with the whole history.
pub(crate) async fn rows(program: &Program, root: &Path) -> anyhow::Result<Vec<Row>> {
    let (source_folder, folder) = (root.join("source"), root.join("history"));
    let fleet = program.run(&source_folder, &["init", "--name", "source", "--no-passphrase"])?;
    let operator = Operator::open(&program.keys, &fleet)?;
    let made = Instant::now();
    make(&source_folder, &operator, HISTORY).context("making the history")?;
    super::note(&format!("    the history was made in {:.1} s", made.elapsed().as_secs_f64()));
    let mut source = program.start(&source_folder, &[]).await?;
    program.join(&source, &folder, "history")?;
    let started = Instant::now();
    let mut node = program.start(&folder, &[]).await?;
    let changes = fetched(&mut source, &mut node).await?;
    let fetched_s = started.elapsed().as_secs_f64();
    source.kill();
    let mut folder = node.kill();
    let mut ready = Vec::new();
    let mut node = None;
    for _ in 0..STARTS {
        drop(node.take());
        let started = program.start(&folder, &[]).await?;
        ready.push(started.ready_after.as_secs_f64() * 1e3);
        folder = started.folder.clone();
        node = Some(started);
    }
    let mut status = Vec::new();
    for _ in 0..STATUSES {
        let start = Instant::now();
        program.run(&folder, &["status"])?;
        status.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let rate = changes as f64 / fetched_s;
    let stored = folder_bytes(&folder.join("store"))? as f64 / 1e6;
    Ok(vec![
        Row::new("start to ready with 100 logs of 1,000 changes (after SIGKILL)", "ms", median(&ready)).at_most(300.0),
        Row::new("`fleetsync status` on that node, the whole process", "ms", median(&status)).at_most(30.0),
        Row::new("that history fetched from one peer, joins included", "changes/s", rate),
        Row::new("that history on disk", "MB", stored),
    ])
}
