//! What a reader sees of a document: for each path the value that is read, and the values beside it.
//!
//! The rule for conflicts is Automerge's: the greatest operation id is read, which has nothing to do with time.
//! Nobody writes the resolution back; a `set` settles the conflict everywhere.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::id::{ChangeHash, DeviceId, Key};
use crate::schema::{DocumentName, Value};
use crate::store::{
    KeyRecord, Leaf, LogRecord, LogStore, StoreError, Table, decode_record, index_range_below, meta_key, read_record,
};

/// How conflicts are read, in words.
pub const RULE: &str = "greatest operation id, not time";
/// Most paths of one view.
pub const PATHS_MAX: usize = 65_536;

/// A value with where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The value.
    pub value: Value,
    /// Who vouches for it.
    pub author: Key,
    /// The device on which it was written.
    pub carrier: DeviceId,
    /// When the author says it was written: seconds since 1970.
    pub time_s: i64,
}

/// The values of a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The value that is read.
    pub read: Shown,
    /// Values that were written without knowing of each other, the greatest operation first.
    pub others: Vec<Shown>,
}

/// A document as a reader sees it: dotted path → values.
pub type View = BTreeMap<String, Entry>;

/// Reads a document's view from the index, `prefix` and below it, or everything where `prefix` is empty.
pub fn read(store: &dyn LogStore, document: &DocumentName, prefix: &str) -> Result<View, StoreError> {
    let (from, to, path_at) = index_range_below(document, prefix);
    let mut records: Vec<(String, KeyRecord)> = Vec::new();
    let mut failure = None;
    store.scan(Table::Index, &from, &to, &mut |key, bytes| {
        let path = String::from_utf8_lossy(&key[path_at..]).into_owned();
        let is_below = prefix.is_empty()
            || path == prefix
            || (path.starts_with(prefix) && path.as_bytes().get(prefix.len()) == Some(&b'.'));
        if !is_below {
            return ControlFlow::Continue(());
        }
        match decode_record(Table::Index, key, bytes) {
            Ok(record) => records.push((path, record)),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || records.len() >= PATHS_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let mut view = View::new();
    for (path, record) in records {
        if let Some(entry) = entry_of(store, &record)? {
            view.insert(path, entry);
        }
    }
    Ok(view)
}

fn entry_of(store: &dyn LogStore, record: &KeyRecord) -> Result<Option<Entry>, StoreError> {
    let mut shown = Vec::new();
    for leaf in record.leaves.iter().rev() {
        if let Some(value) = &leaf.value {
            shown.push(show(store, leaf, value)?);
        }
    }
    let mut shown = shown.into_iter();
    Ok(shown.next().map(|read| Entry { read, others: shown.collect() }))
}

fn show(store: &dyn LogStore, leaf: &Leaf, value: &Value) -> Result<Shown, StoreError> {
    let key = meta_key(&leaf.id.actor);
    let log: Option<LogRecord> = read_record(store, Table::Meta, &key)?;
    let log = log.ok_or_else(|| StoreError::Damaged { table: Table::Meta, key: leaf.id.actor.to_string() })?.log;
    Ok(Shown { value: value.clone(), author: log.author, carrier: log.carrier, time_s: leaf.time_s })
}

/// The heads of a document: hashes that no change of it builds on, ascending.
pub fn heads(store: &dyn LogStore, logs: &[crate::id::Actor]) -> Result<Vec<ChangeHash>, StoreError> {
    let mut heads = Vec::new();
    for record in head_records(store, logs)? {
        heads.push(record.head);
    }
    heads.sort_unstable();
    Ok(heads)
}

/// The logs whose last change no change of another log builds on.
pub(crate) fn head_records(store: &dyn LogStore, logs: &[crate::id::Actor]) -> Result<Vec<LogRecord>, StoreError> {
    let mut records: Vec<(crate::id::Actor, LogRecord, crate::store::HashRecord)> = Vec::new();
    for actor in logs {
        let Some(log) = read_record::<LogRecord>(store, Table::Meta, &meta_key(actor))? else { continue };
        let key = crate::store::hash_key(&log.head);
        let hash = read_record(store, Table::Hash, &key)?
            .ok_or_else(|| StoreError::Damaged { table: Table::Hash, key: log.head.to_string() })?;
        records.push((*actor, log, hash));
    }
    let is_covered = |actor: &crate::id::Actor, seq: u64| {
        records
            .iter()
            .any(|(other, _, hash)| other != actor && hash.clock.iter().any(|(of, known)| of == actor && *known >= seq))
    };
    let keep: Vec<bool> = records.iter().map(|(actor, log, _)| !is_covered(actor, log.seq)).collect();
    Ok(records.into_iter().zip(keep).filter(|(_, keep)| *keep).map(|((_, log, _), _)| log).collect())
}
