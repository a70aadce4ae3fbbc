use proptest::prelude::*;

use super::*;

mod golden;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4)
}

/// Writes; no value is a deletion.
fn writes() -> impl Strategy<Value = Vec<(Vec<u8>, Option<u8>)>> {
    proptest::collection::vec((key(), proptest::option::of(any::<u8>())), 0..30)
}

fn write(model: &mut Model, key: &[u8], value: Option<u8>) -> Option<Vec<u8>> {
    let value = value.map(|byte| vec![byte]);
    match &value {
        Some(value) => drop(model.insert(key.to_vec(), value.clone())),
        None => drop(model.remove(key)),
    }
    value
}

/// What a scan visits until the visitor has had `count` rows.
fn scanned(store: &dyn LogStore, from: &[u8], to: &[u8], count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut visits = 0;
    store
        .scan(Table::Change, from, to, &mut |key, value| {
            visits += 1;
            assert!(visits <= count, "visited after a break");
            seen.push((key.to_vec(), value.to_vec()));
            if seen.len() == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    seen
}

fn expected(model: &Model, from: &[u8], to: &[u8], count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = model.iter().filter(|(key, _)| key.as_slice() >= from && key.as_slice() < to);
    rows.map(|(key, value)| (key.clone(), value.clone())).take(count).collect()
}

proptest! {
    #![proptest_config(crate::fixture::cases(1_000))]

    /// Layers of writes over a store read as one map, whatever the range and wherever the visitor stops.
    #[test]
    fn staged_writes_read_as_one_map(
        base in writes(), first in writes(), second in writes(),
        from in key(), to in key(), count in 1usize..12, range in proptest::option::of((key(), key())),
    ) {
        let mut model = Model::new();
        let mut store = MemoryStore::default();
        let mut batch = Batch::default();
        for (key, value) in &base {
            match write(&mut model, key, *value) {
                Some(value) => batch.put(Table::Change, key.clone(), value),
                None => batch.delete(Table::Change, key.clone()),
            }
            batch.put(Table::Meta, key.clone(), vec![7]);
        }
        store.apply(&batch);
        let mut outer = Staged::new(&store);
        for (key, value) in &first {
            match write(&mut model, key, *value) {
                Some(value) => outer.put(Table::Change, key.clone(), value),
                None => outer.delete(Table::Change, key.clone()),
            }
        }
        prop_assert_eq!(scanned(&outer, &from, &to, count), expected(&model, &from, &to, count));
        let mut inner = Staged::new(&outer);
        for (key, value) in &second {
            match write(&mut model, key, *value) {
                Some(value) => inner.put(Table::Change, key.clone(), value),
                None => inner.delete(Table::Change, key.clone()),
            }
        }
        if let Some((from, to)) = range {
            inner.delete_range(Table::Change, &from, &to).unwrap();
            model.retain(|key, _| key.as_slice() < from.as_slice() || key.as_slice() >= to.as_slice());
        }
        prop_assert_eq!(scanned(&inner, &from, &to, count), expected(&model, &from, &to, count));
        prop_assert_eq!(inner.get(Table::Change, &from).unwrap(), model.get(&from).cloned());
        let batch = inner.into_batch();
        outer.append(batch);
        let batch = outer.into_batch();
        store.apply(&batch);
        prop_assert_eq!(scanned(&store, &[], &[0xff; 5], 1_000), expected(&model, &[], &[0xff; 5], 1_000));
        prop_assert_eq!(store.rows(Table::Meta).count(), base.iter().map(|(key, _)| key).collect::<std::collections::BTreeSet<_>>().len());
    }
}

#[test]
fn damaged_records_are_named() {
    let mut store = MemoryStore::default();
    let mut batch = Batch::default();
    batch.put(Table::Meta, vec![1], vec![1, 0xff]);
    batch.put(Table::Meta, vec![2], vec![2, 0]);
    batch.put(Table::Meta, vec![3], vec![]);
    store.apply(&batch);
    for key in 1..=3u8 {
        let read: Result<Option<LogRecord>, _> = read_record(&store, Table::Meta, &[key]);
        assert_eq!(read, Err(StoreError::Damaged { table: Table::Meta, key: format!("0{key}") }));
    }
    assert_eq!(read_record::<LogRecord>(&store, Table::Meta, &[4]), Ok(None));
}

/// A batch keeps its rows by the place of their table.
#[test]
fn tables_stand_in_their_order() {
    assert!(TABLES.iter().enumerate().all(|(at, (table, _))| *table as usize == at));
}
