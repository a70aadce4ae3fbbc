//! Rows that were written of late, in memory: what a log's next change builds on was written by the one before.

use std::collections::HashMap;

use crdt::store::{Batch, Table};

/// Most bytes of each of the two generations, their last batch aside.
const GENERATION_BYTES_MAX: usize = 512 * 1024;
/// What a row costs beside its key and value, about.
const ROW_BYTES: usize = 96;
/// Tables that are read for every change.
const TABLES: [Table; 2] = [Table::Meta, Table::Index];

type Rows = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// The last written rows of some tables. It is true as long as it is told of every batch.
#[derive(Debug, Default)]
pub(super) struct Recent {
    young: [Rows; TABLES.len()],
    young_bytes: usize,
    old: [Rows; TABLES.len()],
}

impl Recent {
    /// A batch is written.
    pub(super) fn note(&mut self, batch: &Batch) {
        if self.young_bytes > GENERATION_BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        for (table, rows) in TABLES.iter().zip(&mut self.young) {
            for (key, value) in batch.rows(*table) {
                let size = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
                match rows.get_mut(key) {
                    Some(row) => {
                        self.young_bytes = (self.young_bytes + size(value)).saturating_sub(size(row));
                        row.clone_from(value);
                    }
                    None => {
                        self.young_bytes += ROW_BYTES + key.len() + size(value);
                        rows.insert(key.clone(), value.clone());
                    }
                }
            }
        }
    }

    /// What stands at a key, a value or that there is none; nothing where it is not known.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        let at = TABLES.iter().position(|known| *known == table)?;
        self.young[at].get(key).or_else(|| self.old[at].get(key)).map(Option::as_deref)
    }
}

#[cfg(test)]
mod tests {
    use crdt::store::{LogStore, MemoryStore};

    use super::*;

    /// What it knows is what a store would have, however many rows have gone by, and it does not grow with them.
    #[test]
    fn it_knows_the_last_rows() {
        let (mut recent, mut model, mut known) = (Recent::default(), MemoryStore::default(), 0);
        for turn in 0..4_000u32 {
            let key = |number: u32| (number.wrapping_mul(2_654_435_761) % 3_000).to_be_bytes();
            let mut batch = Batch::default();
            batch.put(Table::Index, key(turn), vec![turn as u8; 500]);
            batch.put(Table::Change, key(turn), vec![]);
            batch.delete(Table::Meta, key(turn / 2));
            batch.put(Table::Meta, key(turn), vec![turn as u8]);
            recent.note(&batch);
            model.apply(&batch);
            for (table, key) in
                TABLES.into_iter().flat_map(|table| (0..20).map(move |back| (table, key(turn - turn.min(back * 150)))))
            {
                if let Some(row) = recent.get(table, &key) {
                    known += 1;
                    assert_eq!(row.map(<[u8]>::to_vec), model.get(table, &key).unwrap(), "{table:?} {turn}");
                }
            }
            assert_eq!(recent.get(Table::Index, &key(turn)), Some(Some([turn as u8; 500].as_slice())));
            assert_eq!(recent.get(Table::Change, &key(turn)), None);
            assert!(recent.young_bytes <= GENERATION_BYTES_MAX + 1_000);
        }
        let rows = recent.young.iter().chain(&recent.old).map(HashMap::len).sum::<usize>();
        assert!(known > 4_000 && (900..4_000).contains(&rows), "{known} {rows}");
    }
}
