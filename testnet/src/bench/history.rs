//! A node with a long history: how soon it is ready after a start, and how soon its CLI answers.
//!
//! The history is made in process by 25 devices with four documents each and taken through the engine's own door, as
//! frames of a peer, into a store on disk. A node runs on that store; a second one joins it and fetches everything
//! over the mesh. That second store, written by the real program alone, is the one that is measured.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use crdt::id::{Root, Time};
use crdt::schema::Kind;
use crdt::store::{Batch, LogStore, StoreError, TABLES, Table, Visit};
use crdt::sync::frame::{Changes, FRAME_BYTES_MAX, Frame, Hello, Name, PROTOCOL_RANGE, Place, PlaceOf, Scope};
use crdt::sync::{Channel, Config, Effect, Engine, Input, LinkId, Reply, RequestId};
use rocksdb::{ColumnFamilyDescriptor, DB, DBCompressionType, Options, WriteBatch};
use serde_json::Value;

use super::author::{Author, enrol, key, public, readings};
use super::machine::folder_bytes;
use super::operator::{Operator, read_key};
use super::process::{NodeProcess, PATIENCE, Program};
use super::report::{Row, median};

const DEVICES: u8 = 25;
const KINDS: [Kind; 4] = [Kind::Device, Kind::Environment, Kind::Resource, Kind::Link];
const CHANGES_A_LOG: u64 = 1000;
/// A document of one writer has at most 256 KiB an epoch; three values a change fit.
const VALUES: u64 = 3;
const STARTS: usize = 11;
const STATUSES: usize = 31;

/// RocksDB in the layout that a node expects.
struct Disk {
    db: DB,
}

impl Disk {
    fn open(path: &Path) -> anyhow::Result<Disk> {
        let options = || {
            let mut options = Options::default();
            options.set_compression_type(DBCompressionType::Lz4);
            options
        };
        let families = TABLES.iter().map(|(_, name)| ColumnFamilyDescriptor::new(*name, options()));
        Ok(Disk { db: DB::open_cf_descriptors(&options(), path, families)? })
    }

    fn family(&self, table: Table) -> &rocksdb::ColumnFamily {
        let (_, name) = TABLES.iter().find(|(known, _)| *known == table).expect("TABLES names every table");
        self.db.cf_handle(name).expect("every table was opened")
    }

    fn apply(&self, batch: &Batch) -> anyhow::Result<()> {
        let mut writes = WriteBatch::default();
        for ((table, key), value) in &batch.writes {
            match value {
                Some(value) => writes.put_cf(self.family(*table), key, value),
                None => writes.delete_cf(self.family(*table), key),
            }
        }
        Ok(self.db.write(writes)?)
    }

    fn flush(&self) -> anyhow::Result<()> {
        TABLES.iter().try_for_each(|(table, _)| Ok(self.db.flush_cf(self.family(*table))?))
    }
}

impl LogStore for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(table), key).map_err(|error| StoreError::Read(error.into_string()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut rows = self.db.raw_iterator_cf(self.family(table));
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if key >= to || visit(key, value).is_break() {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|error| StoreError::Read(error.into_string()))
    }
}

/// The engine of a node that is not running.
struct Offline {
    engine: Engine,
    disk: Disk,
    start: Instant,
}

impl Offline {
    fn open(folder: &Path, operator: &Operator) -> anyhow::Result<Offline> {
        let disk = Disk::open(&folder.join("store"))?;
        let about: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("node.json"))?)?;
        let incarnation = about["incarnation"].as_str().context("node.json has no incarnation")?;
        let config = Config {
            fleet: operator.fleet,
            key: read_key(&folder.join("device.key"), "fleetsync-device-key-v1")?,
            incarnation: u64::from_str_radix(incarnation, 16)?,
            seed: 1,
        };
        Ok(Offline { engine: Engine::open(config, &disk)?, disk, start: Instant::now() })
    }

    /// Does what a node does with an input, for a peer that only sends.
    fn input(&mut self, input: Input) -> anyhow::Result<()> {
        let now = Time(u64::try_from(self.start.elapsed().as_micros())?);
        self.engine.handle(now, input, &self.disk);
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { batch, token, .. } => {
                    self.disk.apply(&batch)?;
                    self.engine.handle(now, Input::Persisted(token), &self.disk);
                }
                Effect::Reply { reply: Reply::Refused(reason), .. } | Effect::Close { reason, .. } => bail!(reason),
                Effect::Audit(record) => bail!("refused: {}", record.reason),
                Effect::Fault(error) => bail!(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn frame(&mut self, link: LinkId, frame: &Frame) -> anyhow::Result<()> {
        self.input(Input::Frame { link, channel: frame.channel(), bytes: frame.encode() })
    }
}

/// Admits the history of all devices. Changes travel one by one, each with its signature, as they do live.
fn make(folder: &Path, operator: &Operator) -> anyhow::Result<()> {
    let mut offline = Offline::open(folder, operator)?;
    let devices: Vec<_> = (0..DEVICES).map(|number| key(number, 2)).collect();
    let mut statements = Vec::new();
    for (number, device) in (0..DEVICES).zip(&devices) {
        statements.extend(enrol(operator, device, &key(number, 3), &format!("device-{number}")));
    }
    let statements = statements.iter().map(|signed| signed.parts()).collect();
    offline.input(Input::Statements { request: RequestId(1), statements })?;
    let link = LinkId(1);
    offline.input(Input::LinkUp { link, peer: public(&devices[0]), dialled: true })?;
    offline.input(Input::Writable { link, channel: Channel::Control, bytes: 1 << 20 })?;
    let scope = Scope { name: "fleet".to_owned(), root: Root([1; 32]), generation: 1, cursor: None };
    let hello = Hello {
        protocol: PROTOCOL_RANGE,
        fleet: operator.fleet,
        chain: Vec::new(),
        scopes: vec![scope],
        frame_bytes_max: FRAME_BYTES_MAX as u32,
    };
    offline.frame(link, &Frame::Hello(hello))?;
    let place = Place { generation: 1, position: 0 };
    offline.frame(link, &Frame::Place(PlaceOf { place, items: 0, is_equal: false }))?;
    let logs = devices.iter().flat_map(|device| KINDS.map(|kind| (device, kind)));
    for (number, (device, kind)) in (0..).zip(logs) {
        let mut author = Author::new(operator.fleet, device, kind, 1);
        offline.frame(link, &Frame::Name(Name { number, log: author.log.clone() }))?;
        for turn in 0..CHANGES_A_LOG {
            let run = author.write(&readings(turn * VALUES, VALUES))?;
            let changes = Changes { number, first_seq: run.first_seq, changes: run.changes, signature: run.signature };
            offline.frame(link, &Frame::Changes(changes))?;
        }
    }
    let changes = offline.engine.replica().changes();
    let expected = u64::from(DEVICES) * KINDS.len() as u64 * CHANGES_A_LOG;
    ensure!(changes == expected, "{changes} changes were admitted, not {expected}");
    offline.disk.flush()
}

/// Waits until `node` has all that `source` has; returns how many changes.
async fn fetched(source: &mut NodeProcess, node: &mut NodeProcess) -> anyhow::Result<u64> {
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
    make(&source_folder, &operator).context("making the history")?;
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
