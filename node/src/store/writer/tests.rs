use crdt::store::MemoryStore;
use proptest::prelude::*;

use super::*;

/// One of which rows are kept in memory, and one of which none are.
const TABLES: [Table; 2] = [Table::Index, Table::Change];

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

fn rows(store: &dyn LogStore, table: Table, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Continue(())
    };
    store.scan(table, from, to, &mut visit).unwrap();
    seen
}

fn batch(key: u8, value: u8) -> Batch {
    let mut batch = Batch::default();
    batch.put(Table::Change, [key], vec![value]);
    batch.put(Table::Index, [key], vec![value]);
    batch
}

fn written(token: u64) -> Applied {
    Applied { token: Token(token), durability: Durability::Written }
}

fn synced(token: u64) -> Applied {
    Applied { token: Token(token), durability: Durability::Synced }
}

#[derive(Debug, Clone)]
enum Step {
    /// Writes; the batch need not be synced.
    Persist(Vec<(usize, Vec<u8>, Option<u8>)>, bool),
    Begin,
    Poll,
    Wait,
    Scan(usize, Vec<u8>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0usize..2, key(), prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        6 => (prop::collection::vec(write, 1..6), any::<bool>()).prop_map(|(writes, short)| Step::Persist(writes, short)),
        2 => Just(Step::Begin),
        2 => Just(Step::Poll),
        1 => Just(Step::Wait),
        4 => (0usize..2, key(), key()).prop_map(|(table, from, to)| Step::Scan(table, from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// The contract: reads see every batch at once, on one thread and on two; each is reported once, in order, and when it
    /// is in the store.
    #[test]
    fn reads_see_what_is_behind(steps in prop::collection::vec(step(), 1..40), threads in 1usize..=2) {
        let (_folder, store) = store();
        let mut writer = Writer::start(store.clone(), threads);
        let mut model = MemoryStore::default();
        let (mut last, mut reported) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Persist(writes, is_written) => {
                    let mut batch = Batch::default();
                    for (table, key, value) in writes {
                        batch.rows_mut(TABLES[table]).insert(key, value.map(|value| vec![value]));
                    }
                    model.apply(&batch);
                    last += 1;
                    let applied = if is_written { written(last) } else { synced(last) };
                    reported.extend(writer.persist(batch.clone(), applied).unwrap());
                    prop_assert!(is_written || reported.last() == Some(&applied));
                    for (table, key, _) in batch.iter() {
                        prop_assert_eq!(writer.get(table, key), model.get(table, key));
                    }
                }
                Step::Begin => writer.begin(),
                Step::Poll => reported.extend(writer.poll().map(Result::unwrap)),
                Step::Wait => reported.extend(writer.wait().map(Result::unwrap)),
                Step::Scan(table, from, to) => {
                    let table = TABLES[table];
                    prop_assert_eq!(rows(&writer, table, &from, &to), rows(&model, table, &from, &to));
                }
            }
            prop_assert!(last - reported.len() as u64 <= BEHIND_MAX as u64);
        }
        while let Some(applied) = writer.wait() {
            reported.push(applied.unwrap());
        }
        prop_assert_eq!(reported.iter().map(|applied| applied.token.0).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
        for table in TABLES {
            prop_assert_eq!(rows(&store, table, &[], &[0xff]), rows(&model, table, &[], &[0xff]));
        }
    }
}

#[test]
fn what_is_held_is_in_no_store_before_it_is_handed_over() {
    let (_folder, store) = store();
    let mut writer = Writer::start(store.clone(), 2);
    assert_eq!(writer.persist(batch(1, 1), written(1)), Ok(vec![]));
    assert_eq!(writer.get(Table::Change, &[1]), Ok(Some(vec![1])));
    assert_eq!(store.get(Table::Change, &[1]), Ok(None));
    assert_eq!(writer.poll(), None);
    // What has to be synced is behind nothing.
    assert_eq!(writer.persist(batch(2, 2), synced(2)), Ok(vec![written(1), synced(2)]));
    assert_eq!(count(&store), 2);
}

fn count(store: &Store) -> usize {
    rows(store, Table::Change, &[], &[0xff]).len()
}

/// What is behind a batch that was not applied builds on it.
#[test]
fn after_a_batch_that_is_not_applied_none_is_until_all_are_forgotten() {
    let (_folder, store) = store();
    let refuse = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&refuse);
    let into = store.clone();
    let apply = move |batch: &Batch| {
        if asked.swap(false, std::sync::atomic::Ordering::SeqCst) { Err(WriteError::Full) } else { into.apply(batch) }
    };
    let mut writer = Writer::start(store.clone(), 1);
    writer.applier = Some(Applier::start(apply, Arc::clone(&writer.wake)));
    assert_eq!(writer.persist(batch(1, 1), written(1)), Ok(vec![]));
    assert_eq!(writer.persist(batch(2, 2), written(2)), Ok(vec![]));
    assert_eq!(writer.wait(), Some(Err(WriteError::Full)));
    assert_eq!(writer.persist(batch(3, 3), synced(3)), Err(WriteError::Full), "the second one is not applied either");
    assert_eq!(count(&store), 0);
    assert_eq!(writer.persist(batch(4, 4), written(4)), Ok(vec![]));
    writer.forget();
    assert_eq!((writer.get(Table::Change, &[4]), writer.wait()), (Ok(None), None));
    assert_eq!(writer.get(Table::Index, &[4]), Ok(None), "nor is it remembered");
    assert_eq!(writer.persist(batch(5, 5), written(5)), Ok(vec![]));
    assert_eq!(writer.wait(), Some(Ok(written(5))));
    assert_eq!(rows(&store, Table::Change, &[], &[0xff]), [(vec![5], vec![5])]);
}

/// Batches that are handed over when the writer goes are applied, and nothing uses the store after that.
#[test]
fn a_writer_that_goes_ends_its_thread() {
    let (_folder, store) = store();
    let mut writer = Writer::start(store.clone(), 2);
    writer.persist(batch(1, 1), written(1)).unwrap();
    writer.begin();
    drop(writer);
    assert_eq!((count(&store), Arc::strong_count(&store.shared)), (1, 1));
}
