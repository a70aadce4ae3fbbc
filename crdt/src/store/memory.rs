//! A store in memory, for tests and the simulator.

use std::collections::BTreeMap;

use super::{Batch, LogStore, StoreError, Table, Visit};

/// An ordered map per table; everything is applied at once and nothing survives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryStore {
    /// Applies a batch.
    pub fn apply(&mut self, batch: &Batch) {
        for (table, key, value) in batch.iter() {
            let rows = self.tables.entry(table).or_default();
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key),
            };
        }
    }

    /// Rows of a table.
    pub fn rows(&self, table: Table) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.tables.get(&table).into_iter().flatten()
    }
}

impl LogStore for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let rows = self.tables.get(&table).into_iter().flat_map(|rows| rows.range(from.to_vec()..to.to_vec()));
        for (key, value) in rows {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
