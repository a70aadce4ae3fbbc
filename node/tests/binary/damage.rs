//! Flipped bytes in what a stopped node has stored.

use std::fs;
use std::path::{Path, PathBuf};

use crdt::change::RawBytes;
use crdt::store::{ChangeRecord, LogRecord, TABLES, Table, change_key, decode_record, encode_record};
use rocksdb::{DB, Options};
use serde_json::json;

use crate::fleet::{Fleet, config};

/// Positions that are tried in a file.
const POSITIONS: usize = 8;
const WRITES: usize = 40;

/// RocksDB's own hand on a stopped node's store; opening and closing it writes the tables out to SST files.
fn open(store: &Path) -> DB {
    DB::open_cf(&Options::default(), store, TABLES.map(|(_, name)| name)).unwrap()
}

fn files(store: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(suffix) && fs::metadata(path).unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

/// A stopped node with `config/camera` in its store.
fn stopped() -> Fleet {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let mut operator = crate::operator::Operator::of(&fleet);
    let mut api = a.api();
    for number in 0..WRITES {
        let status = operator.set(&mut api, "config/camera", &format!("key{number}"), &json!("value".repeat(20)));
        assert_eq!(status.unwrap(), 200);
    }
    a.kill();
    fleet
}

/// With a flipped byte a node refuses to start and names the file, or it has lost nothing.
fn every_flip_is_noticed(fleet: &Fleet, file: &Path) -> usize {
    let name = file.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(file).unwrap();
    // The node may write to its store before it finds the damage.
    let store = fleet.data_dir("a").join("store");
    let copy = fleet.path().join("copy");
    let _ = fs::remove_dir_all(&copy);
    copy_folder(&store, &copy);
    let mut refused = 0;
    // The first and the last bytes too: the last record of a write-ahead log looks like one that broke off.
    let spread = (0..POSITIONS).map(|number| whole.len() * (2 * number + 1) / (2 * POSITIONS));
    for at in spread.chain([0, whole.len() - 1, whole.len() - 40]) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(file, flipped).unwrap();
        let mut node = fleet.start("a", &[]);
        let what = format!("byte {at} of {} of {name}", whole.len());
        if node.is_ready() {
            for number in 0..WRITES {
                assert!(config(&node, "camera", &format!("key{number}")).is_some(), "key{number} is lost: {what}");
            }
            fleet.cli("a", &["doc", "verify", "config/camera"]).ok();
            eprintln!("{what} does no harm");
            node.kill();
        } else {
            let ran = node.end();
            ran.fails(5, &["the store cannot be opened", "is damaged", "member invite"]);
            // RocksDB names no file where its own description of a file is damaged: then the folder is named.
            assert!(ran.err.contains(name) || ran.err.contains("properties"), "{what}: {ran:?}");
            refused += 1;
        }
        let _ = fs::remove_dir_all(&store);
        copy_folder(&copy, &store);
    }
    refused
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_flipped_byte_in_an_sst_is_named_by_run() {
    let fleet = stopped();
    let store = fleet.data_dir("a").join("store");
    drop(open(&store));
    // The largest has the changes.
    let file = files(&store, ".sst").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let refused = every_flip_is_noticed(&fleet, &file);
    assert!(refused * 2 > POSITIONS, "only {refused} of {POSITIONS} flips were refused");
    fs::remove_file(&file).unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    fleet.start("a", &[]).end().fails(5, &["the store cannot be opened", name, "member invite"]);
}

#[test]
fn a_flipped_byte_in_the_write_ahead_log_is_named_by_run() {
    let fleet = stopped();
    let file = files(&fleet.data_dir("a").join("store"), ".log").pop().unwrap();
    let refused = every_flip_is_noticed(&fleet, &file);
    assert!(refused * 2 > POSITIONS, "only {refused} of {POSITIONS} flips were refused");
}

#[test]
fn a_flipped_byte_in_a_stored_value_is_found_by_verify() {
    verify_names(7);
}

/// The last change of a log too: it costs itself alone, and the node goes on in another log.
#[test]
fn a_flipped_byte_in_the_last_change_of_a_log_is_found_by_verify() {
    verify_names(WRITES as u64);
}

fn verify_names(seq: u64) {
    let fleet = stopped();
    let store = open(&fleet.data_dir("a").join("store"));
    let family = |table: Table| {
        let (_, name) = TABLES.iter().find(|(known, _)| *known == table).unwrap();
        store.cf_handle(name).unwrap()
    };
    let (actor, log) = store
        .iterator_cf(family(Table::Meta), rocksdb::IteratorMode::Start)
        .map(|row| row.unwrap())
        .find_map(|(key, value)| {
            let log: LogRecord = decode_record(Table::Meta, &key, &value).unwrap();
            (log.log.document.as_str() == "config/camera").then(|| (crdt::id::Actor((*key).try_into().unwrap()), log))
        })
        .unwrap();
    assert_eq!(log.seq, WRITES as u64);
    let key = change_key(&actor, seq);
    let bytes = store.get_cf(family(Table::Change), key).unwrap().unwrap();
    let mut record: ChangeRecord = decode_record(Table::Change, &key, &bytes).unwrap();
    let mut raw = record.raw.0.clone();
    let at = raw.windows(5).position(|window| window == b"value").expect("the value stands in the raw change");
    raw[at] ^= 0x01;
    record.raw = RawBytes(raw);
    store.put_cf(family(Table::Change), key, encode_record(&record)).unwrap();
    drop(store);

    let a = fleet.run("a");
    let verified = fleet.cli("a", &["doc", "verify", "config/camera", "-o", "json"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let report: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    let is_damaged = |log: &&serde_json::Value| !log["damage"].is_null();
    let damage = &report["logs"].as_array().unwrap().iter().find(is_damaged).unwrap()["damage"];
    assert_eq!((&damage["log"], &damage["seq"]), (&json!(actor.to_string()), &json!(seq)), "{report}");
    for words in ["error: ", &format!("log \"{actor}\" change {seq}: "), "hint: "] {
        assert!(verified.err.contains(words), "no {words:?} in {verified:?}");
    }
    let shown = fleet.cli("a", &["doc", "verify", "config/camera"]);
    assert!(shown.code == 1 && shown.out.contains(&format!("damaged at {seq}: ")), "{shown:?}");
    // Other documents are whole, and the node goes on.
    fleet.cli("a", &["doc", "verify", "device/a"]).ok();
    fleet.cli("a", &["doc", "verify", "config/none"]).fails(4, &["config/none"]);
    fleet.cli("a", &["config", "set", "other", "gain", "1"]).ok();
    fleet.cli("a", &["config", "set", "camera", "key0", "other"]).ok();
    assert_eq!(config(&a, "camera", "key0"), Some(json!("other")));
}
