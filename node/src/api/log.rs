//! The newest changes of a document. However long its logs are, no more of them is read than is shown.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crdt::id::{Actor, ChangeHash};
use crdt::raw::RawChange;
use crdt::store::{ChangeRecord, LogStore, StoreError, Table, change_key, read_record};
use crdt::sync::LogState;
use serde_json::{Value, json};

use super::read::Names;
use super::values::age_s;

/// Most changes that are listed.
pub(super) const ENTRIES_MAX: usize = 1000;
/// Most bytes of paths that are held, with [`PATH_BYTES`] for each; the list ends where a change would exceed it.
const PATHS_BYTES_MAX: usize = 16 << 20;
/// What a path costs beside its letters, bytes.
const PATH_BYTES: usize = 32;

/// What is shown of a change; its values are not.
struct Change {
    seq: u64,
    hash: ChangeHash,
    time_s: i64,
    deps: Vec<ChangeHash>,
    paths: Vec<String>,
    bytes: usize,
}

impl Change {
    fn paths_bytes(&self) -> usize {
        self.paths.iter().map(|path| path.len() + PATH_BYTES).sum()
    }

    fn row(self, actor: &Actor, log: &LogState, names: &Names, now_ms: u64) -> Value {
        json!({
            "hash": self.hash.to_string(),
            "log": actor.to_string(),
            "seq": self.seq,
            "author": names.operator(&log.log.author),
            "carrier": names.device(&log.log.carrier),
            "age_s": age_s(now_ms, self.time_s),
            "deps": self.deps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "paths": self.paths,
            "bytes": self.bytes,
        })
    }
}

/// The changes of a document from the newest on, [`ENTRIES_MAX`] at most, later claims first. Those of one second are
/// in the order of their logs.
///
/// Each log is read from its end, always that one whose next change claims to be the latest, so that beside what is
/// listed one change a log is read at most.
pub(super) fn newest(
    logs: &[(Actor, LogState)],
    names: &Names,
    now_ms: u64,
    store: &dyn LogStore,
) -> Result<Value, StoreError> {
    let mut listed: Vec<(usize, Change)> = Vec::new();
    let mut ends = Ends { logs, store, next: BTreeMap::new(), room: PATHS_BYTES_MAX };
    for (at, (_, log)) in logs.iter().enumerate() {
        if !ends.read(at, log.seq)? {
            break;
        }
    }
    while let Some(((_, Reverse(at)), change)) = ends.next.pop_last() {
        let before = change.seq - 1;
        listed.push((at, change));
        if listed.len() == ENTRIES_MAX || !ends.read(at, before)? {
            break;
        }
    }
    listed.sort_by_key(|(at, change)| (Reverse(change.time_s), *at, change.seq));
    let rows = listed.into_iter().map(|(at, change)| {
        let (actor, log) = &logs[at];
        change.row(actor, log, names, now_ms)
    });
    Ok(Value::Array(rows.collect()))
}

/// The ends of the logs, as far as they are not listed yet.
struct Ends<'a> {
    logs: &'a [(Actor, LogState)],
    store: &'a dyn LogStore,
    /// The last change of each log by its time and its log, the earlier log last.
    next: BTreeMap<(i64, Reverse<usize>), Change>,
    /// Bytes of paths that may still be held.
    room: usize,
}

impl Ends<'_> {
    /// Reads the last change of a log up to `seq`, where there is one; `false` where there is no room for it.
    fn read(&mut self, at: usize, seq: u64) -> Result<bool, StoreError> {
        let (actor, _) = &self.logs[at];
        let Some(change) = up_to(self.store, actor, seq)? else { return Ok(true) };
        let Some(room) = self.room.checked_sub(change.paths_bytes()) else { return Ok(false) };
        self.room = room;
        self.next.insert((change.time_s, Reverse(at)), change);
        Ok(true)
    }
}

/// The last change of a log up to `seq`. One that does not decode is left out; [`super::documents::verify`] names it.
fn up_to(store: &dyn LogStore, actor: &Actor, seq: u64) -> Result<Option<Change>, StoreError> {
    for seq in (1..=seq).rev() {
        let record: Option<ChangeRecord> = read_record(store, Table::Change, &change_key(actor, seq))?;
        let Some(record) = record else { return Ok(None) };
        let bytes = record.raw.0.len();
        if let Ok(RawChange { hash, time_s, deps, operations, .. }) = crdt::raw::decode(&record.raw.0) {
            let paths = operations.into_iter().map(|operation| operation.path).collect();
            return Ok(Some(Change { seq, hash, time_s, deps, paths, bytes }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crdt::change::{LogName, RawBytes};
    use crdt::id::{ChainHash, DeviceId, Key};
    use crdt::raw::{Action, NewChange, Operation, encode};
    use crdt::schema::{self, DocumentName};
    use crdt::store::{Batch, MemoryStore, Visit, encode_record};
    use proptest::prelude::*;

    /// Counts the changes that are read.
    struct Counting {
        store: MemoryStore,
        reads: Cell<usize>,
    }

    impl LogStore for Counting {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.reads.set(self.reads.get() + 1);
            self.store.get(table, key)
        }

        fn scan(&self, _: Table, _: &[u8], _: &[u8], _: &mut Visit<'_>) -> Result<(), StoreError> {
            panic!("a log is not read whole")
        }
    }

    fn change(actor: Actor, seq: u64, time_s: i64, paths: &[String]) -> ChangeRecord {
        let put = |path: &String| Operation {
            path: path.clone(),
            action: Action::Put(schema::Value::Bool(true)),
            pred: Vec::new(),
        };
        let operations = paths.iter().map(put).collect();
        let new = NewChange { actor, seq, start_op: seq, time_s, message: None, deps: Vec::new(), operations };
        ChangeRecord { raw: RawBytes(encode(&new).unwrap()), chain: ChainHash::START, signature: None }
    }

    /// Logs whose changes were made at these times.
    fn logs(times: &[Vec<i64>], paths: &[String]) -> (Vec<(Actor, LogState)>, Counting) {
        let mut batch = Batch::default();
        let mut logs = Vec::new();
        for (number, times) in (1..).zip(times) {
            let actor = Actor([number; 16]);
            for (seq, time_s) in (1..).zip(times) {
                let record = change(actor, seq, *time_s, paths);
                batch.put(Table::Change, change_key(&actor, seq), encode_record(&record));
            }
            let document = DocumentName::config("camera").unwrap();
            let (author, carrier) = (Key([number; 32]), DeviceId([number; 32]));
            let log = LogName { document, epoch: 1, author, carrier, incarnation: 1 };
            let seq = times.len() as u64;
            logs.push((actor, LogState { log, seq, head: ChangeHash([0; 32]) }));
        }
        let mut store = MemoryStore::default();
        store.apply(&batch);
        (logs, Counting { store, reads: Cell::new(0) })
    }

    fn short() -> Vec<String> {
        vec!["a".to_owned()]
    }

    /// Log, seq and age of what is listed.
    fn listed(times: &[Vec<i64>], now_s: u64) -> (Vec<(String, u64, u64)>, usize) {
        let (logs, store) = logs(times, &short());
        let rows = newest(&logs, &Names::default(), now_s * 1000, &store).unwrap();
        let number = |row: &Value, field: &str| row[field].as_u64().unwrap();
        let key = |row: &Value| (row["log"].as_str().unwrap().to_owned(), number(row, "seq"), number(row, "age_s"));
        (rows.as_array().unwrap().iter().map(key).collect(), store.reads.get())
    }

    /// What is listed where everything is read.
    fn all(times: &[Vec<i64>], now_s: u64) -> Vec<(String, u64, u64)> {
        let mut all = Vec::new();
        for (number, times) in (1..).zip(times) {
            let actor = Actor([number; 16]).to_string();
            all.extend((1..).zip(times).map(|(seq, time_s)| (*time_s, actor.clone(), seq)));
        }
        all.sort_by_key(|(time_s, actor, seq)| (Reverse(*time_s), actor.clone(), *seq));
        all.into_iter().map(|(time_s, actor, seq)| (actor, seq, age_s(now_s * 1000, time_s))).collect()
    }

    proptest! {
        /// Clocks may run any way: few changes are all listed, by their claims.
        #[test]
        fn few_changes_are_listed_whole(times in prop::collection::vec(prop::collection::vec(0..9i64, 0..12), 0..4)) {
            prop_assert_eq!(listed(&times, 5).0, all(&times, 5));
        }
    }

    #[test]
    fn no_more_is_read_than_is_listed() {
        let times: Vec<Vec<i64>> = vec![(0..3000).step_by(2).collect(), (1..3000).step_by(2).collect(), vec![2990; 3]];
        let (listed, reads) = listed(&times, 3000);
        assert_eq!(listed, all(&times, 3000)[..ENTRIES_MAX]);
        assert!(reads <= ENTRIES_MAX + times.len(), "{reads} changes were read");
    }

    #[test]
    fn the_list_ends_where_its_paths_take_too_much_memory() {
        let path = "p".repeat(schema::PATH_BYTES_MAX);
        let (logs, store) = logs(&[(0..20).collect()], &vec![path; crdt::raw::OPERATIONS_MAX as usize]);
        let rows = newest(&logs, &Names::default(), 0, &store).unwrap();
        let seqs: Vec<u64> = rows.as_array().unwrap().iter().filter_map(|row| row["seq"].as_u64()).collect();
        assert_eq!(seqs, (14..=20).rev().collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_decode_is_left_out() {
        let (logs, mut store) = logs(&[(0..3).collect()], &short());
        let mut batch = Batch::default();
        let damaged = ChangeRecord { raw: RawBytes(vec![1]), chain: ChainHash::START, signature: None };
        batch.put(Table::Change, change_key(&logs[0].0, 2), encode_record(&damaged));
        store.store.apply(&batch);
        let rows = newest(&logs, &Names::default(), 0, &store).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
    }
}
