//! The storage contract, its tables and what stands in them (PROTOCOL 10).
//!
//! Keys and records are this crate's, with golden tests; a store is an ordered map per table. The contract:
//!
//! * Reads are synchronous, see every batch that was applied, and are bounded by the caller.
//! * A driver applies the batch of a `Persist` effect, whole or not at all. *Before* it gives the engine its next input
//!   all reads see it, applied or not, so that the engine's reads always see its own writes; where one is not applied,
//!   none after it is, and the engine is opened anew.
//! * It reports `Persisted(token)` in order: for [`Durability::Synced`] after the batch would survive a power cut,
//!   for [`Durability::Written`] after it would survive the end of the process.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

mod keys;
mod memory;
mod records;

pub use keys::*;
pub use memory::MemoryStore;
pub use records::*;

/// Version of keys and records; a data folder of a greater one is refused.
pub const STORAGE_FORMAT: u32 = 1;

/// A table: a column family of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Actor → log name, head, chain, sizes.
    Meta,
    /// Actor ‖ seq → raw change, chain, signature.
    Change,
    /// Change hash → log, seq, greatest operation, clock of its past.
    Hash,
    /// Position → what was admitted there.
    Order,
    /// Tag ‖ document ‖ path → operations of that key.
    Index,
    /// Document → the latest seal.
    Seal,
    /// Statement id → statement and signatures.
    Statement,
    /// What waits for its causes.
    Pending,
    /// Changes that do not count: of removed or contested devices.
    Stranded,
    /// Position → audit event.
    Audit,
    /// Name → a setting of the node or the engine.
    Setting,
}

/// All tables with their column families' names.
pub const TABLES: [(Table, &str); 11] = [
    (Table::Meta, "meta"),
    (Table::Change, "change"),
    (Table::Hash, "hash"),
    (Table::Order, "order"),
    (Table::Index, "index"),
    (Table::Seal, "seal"),
    (Table::Statement, "statement"),
    (Table::Pending, "pending"),
    (Table::Stranded, "stranded"),
    (Table::Audit, "audit"),
    (Table::Setting, "default"),
];

/// Why a read failed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store could not read.
    #[error("the store cannot read: {0}")]
    Read(String),
    /// A record that does not decode.
    #[error("a damaged record in table {table:?} at key {key}")]
    Damaged {
        /// The table.
        table: Table,
        /// The key, hexadecimal.
        key: String,
    },
}

/// What a scan calls for each key and value, ascending by key.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Synchronous, bounded reads; see the module's contract.
pub trait LogStore {
    /// The value at a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Visits keys from `from` (included) to `to` (excluded), ascending, until the visitor breaks.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// How durable a batch must be before `Persisted` is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// It survives the end of the process.
    Written,
    /// It survives a power cut.
    Synced,
}

/// Writes of one table: the last one of each key, a value or its deletion.
pub type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Writes that are applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In the order of [`TABLES`].
    tables: [Rows; TABLES.len()],
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(Rows::is_empty)
    }

    /// Sets a value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.rows_mut(table).insert(key.into(), Some(value));
    }

    /// Takes a value away.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.rows_mut(table).insert(key.into(), None);
    }

    /// Adds the writes of a later batch.
    pub fn append(&mut self, later: Batch) {
        for (rows, later) in self.tables.iter_mut().zip(later.tables) {
            if rows.is_empty() {
                *rows = later;
            } else {
                rows.extend(later);
            }
        }
    }

    /// What is written at a key, if anything: a value, or none for its deletion.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.rows(table).get(key).map(Option::as_deref)
    }

    /// The writes of a table.
    pub fn rows(&self, table: Table) -> &Rows {
        &self.tables[table as usize]
    }

    /// The writes of a table, to be changed.
    pub fn rows_mut(&mut self, table: Table) -> &mut Rows {
        &mut self.tables[table as usize]
    }

    /// The writes of a table from `from` (included) to `to` (excluded), ascending.
    pub fn range(&self, table: Table, from: &[u8], to: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        // `BTreeMap::range` panics on a range that ends before it begins.
        let to = to.max(from);
        let rows = self.rows(table).range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        rows.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// All writes, by table and key.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        let tables = TABLES.iter().zip(&self.tables);
        tables.flat_map(|((table, _), rows)| rows.iter().map(|(key, value)| (*table, key.as_slice(), value.as_deref())))
    }

    /// Bytes of keys and values.
    pub fn size(&self) -> usize {
        self.iter().map(|(_, key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum()
    }
}

/// A store seen through writes that are not applied yet.
pub struct Staged<'a> {
    base: &'a dyn LogStore,
    batch: Batch,
}

impl<'a> Staged<'a> {
    /// No writes yet.
    pub fn new(base: &'a dyn LogStore) -> Staged<'a> {
        Staged { base, batch: Batch::default() }
    }

    /// Sets a value.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: Vec<u8>) {
        self.batch.put(table, key, value);
    }

    /// Takes a value away.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.batch.delete(table, key);
    }

    /// Takes over the writes of a batch that was staged on top of this one.
    pub fn append(&mut self, batch: Batch) {
        self.batch.append(batch);
    }

    /// The writes.
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    /// Takes everything of a key range away.
    pub fn delete_range(&mut self, table: Table, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        let mut keys = Vec::new();
        self.scan(table, from, to, &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        for key in keys {
            self.delete(table, key);
        }
        Ok(())
    }
}

impl LogStore for Staged<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.batch.get(table, key) {
            Some(written) => Ok(written.map(<[u8]>::to_vec)),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        scan_over(self.base, self.batch.range(table, from, to), table, from, to, visit)
    }
}

/// Scans a store seen through newer rows: `over` has keys of the range, ascending, with their values, none where the key
/// is deleted.
pub fn scan_over<'a>(
    base: &dyn LogStore,
    over: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    table: Table,
    from: &[u8],
    to: &[u8],
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    let mut over = over.peekable();
    if over.peek().is_none() {
        return base.scan(table, from, to, visit);
    }
    let mut stopped = false;
    base.scan(table, from, to, &mut |key, value| {
        while let Some((newer, newer_value)) = over.next_if(|(newer, _)| *newer < key) {
            if let Some(newer_value) = newer_value
                && visit(newer, newer_value).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
        }
        let flow = match over.next_if(|(newer, _)| *newer == key) {
            Some((_, None)) => ControlFlow::Continue(()),
            Some((_, Some(newer_value))) => visit(key, newer_value),
            None => visit(key, value),
        };
        stopped = flow.is_break();
        flow
    })?;
    for (key, value) in over {
        if stopped {
            break;
        }
        if let Some(value) = value {
            stopped = visit(key, value).is_break();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
