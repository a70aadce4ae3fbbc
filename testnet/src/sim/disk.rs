//! A store that keeps the contract of `LogStore` with explicit durability: what was not synced is lost with the power.
//! Nodes share what they all started with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crdt::store::{Batch, LogStore, MemoryStore, StoreError, Table, Visit, scan_over};

/// A row's value, or that it was deleted.
type Written = Option<Vec<u8>>;
type RowKey = (Table, Vec<u8>);
type Rows = BTreeMap<RowKey, Written>;

/// A batch that is not synced: what stood there before it.
#[derive(Debug, Clone)]
struct Undo {
    number: u64,
    before: Vec<(RowKey, Option<Written>)>,
}

/// A node's disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    base: Arc<MemoryStore>,
    rows: Rows,
    unsynced: VecDeque<Undo>,
    next: u64,
}

impl Disk {
    /// A disk that holds what `base` holds, synced.
    pub(crate) fn new(base: Arc<MemoryStore>) -> Disk {
        Disk { base, rows: Rows::new(), unsynced: VecDeque::new(), next: 0 }
    }

    /// Applies a batch, whole; returns its number.
    pub(crate) fn apply(&mut self, batch: &Batch) -> u64 {
        let mut before = Vec::new();
        for (table, key, value) in batch.iter() {
            let key = (table, key.to_vec());
            before.push((key.clone(), self.rows.insert(key, value.map(<[u8]>::to_vec))));
        }
        self.next += 1;
        self.unsynced.push_back(Undo { number: self.next, before });
        self.next
    }

    /// The number of the last batch.
    pub(crate) fn last(&self) -> u64 {
        self.next
    }

    /// Batches up to this number survive a power cut from now on.
    pub(crate) fn sync(&mut self, number: u64) {
        while self.unsynced.front().is_some_and(|undo| undo.number <= number) {
            self.unsynced.pop_front();
        }
    }

    /// Batches that a power cut would lose.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The power goes: of what is not synced, only the first `kept` batches reached the disk.
    pub(crate) fn lose_power(&mut self, kept: usize) {
        while self.unsynced.len() > kept {
            let Some(undo) = self.unsynced.pop_back() else { break };
            for (key, value) in undo.before.into_iter().rev() {
                match value {
                    Some(value) => self.rows.insert(key, value),
                    None => self.rows.remove(&key),
                };
            }
        }
        self.unsynced.clear();
    }

    /// What no disk may do: of the oldest batch that is not synced, only what names the logs reaches it.
    pub(crate) fn tear(&mut self) {
        if let Some(undo) = self.unsynced.front_mut() {
            undo.before.retain(|((table, _), _)| *table != Table::Meta);
        }
    }

    /// How many rows of a table were written since the start.
    pub(crate) fn written_rows(&self, table: Table) -> usize {
        let range = (table, Vec::new())..;
        self.rows.range(range).take_while(|((of, _), _)| *of == table).filter(|(_, value)| value.is_some()).count()
    }
}

impl LogStore for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.rows.get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let over = self.rows.range((table, from.to_vec())..(table, to.to_vec()));
        let over = over.map(|((_, key), value)| (key.as_slice(), value.as_deref()));
        scan_over(self.base.as_ref(), over, table, from, to, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(key: u8, value: Option<u8>) -> Batch {
        let mut batch = Batch::default();
        match value {
            Some(value) => batch.put(Table::Setting, [key], vec![value]),
            None => batch.delete(Table::Setting, [key]),
        }
        batch
    }

    fn rows(disk: &Disk) -> Vec<(u8, u8)> {
        let mut rows = Vec::new();
        disk.scan(Table::Setting, &[0], &[9], &mut |key, value| {
            rows.push((key[0], value[0]));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn what_was_not_synced_is_lost_with_the_power_from_the_end() {
        let mut base = MemoryStore::default();
        base.apply(&batch(1, Some(1)));
        let mut disk = Disk::new(Arc::new(base));
        let first = disk.apply(&batch(2, Some(2)));
        disk.sync(first);
        disk.apply(&batch(1, None));
        disk.apply(&batch(2, Some(3)));
        disk.apply(&batch(3, Some(3)));
        assert_eq!(rows(&disk), [(2, 3), (3, 3)]);
        let mut kept = disk.clone();
        kept.lose_power(1);
        assert_eq!(rows(&kept), [(2, 2)]);
        disk.lose_power(0);
        assert_eq!(rows(&disk), [(1, 1), (2, 2)]);
        assert_eq!(disk.unsynced(), 0);
    }
}
