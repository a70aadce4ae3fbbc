//! Automerge is the oracle: the index sees what it sees, whatever the order of arrival.

use automerge::{AutoCommit, Change};

use super::history::{History, of_device, of_operators};
use super::*;
use crate::fixture::{Holder, Rng, automerge_values, index_values};
use crate::raw::{NewChange, OpId, Operation, encode};
use crate::schema::Value;
use crate::store::MemoryStore;
use crate::view;

fn admit_in_order(history: &History) -> Holder {
    let mut holder = Holder::default();
    for run in &history.runs {
        holder.must_admit(&history.fleet, run);
    }
    holder
}

/// Admits runs in the order given; what waits is tried again.
fn admit_with_retries(history: &History, mut runs: Vec<Run>) -> Holder {
    let mut holder = Holder::default();
    while !runs.is_empty() {
        let before = runs.len();
        runs.retain(|run| match holder.admit(&history.fleet, run) {
            Outcome::Admitted(_) => false,
            Outcome::Waits(_) => true,
            other => panic!("an honest change: {other:?}"),
        });
        assert!(runs.len() < before, "{before} honest changes wait for ever");
    }
    holder
}

fn assert_sees(history: &mut History, holder: &Holder, seed: u64) {
    let heads: Vec<ChangeHash> = history.merged.get_heads().iter().map(|hash| ChangeHash(hash.0)).collect();
    assert_eq!(holder.heads(&history.document), heads, "seed {seed}");
    assert_eq!(index_values(holder, &history.document), automerge_values(&history.merged), "seed {seed}");
}

fn rows(store: &MemoryStore, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    store.rows(table).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn several_writers_in_any_order() {
    let mut conflicts = 0;
    for seed in 0..200 {
        let mut rng = Rng(!seed);
        let mut history = of_operators(seed, 2 + (seed % 3) as u8, 10 + rng.below(50));
        let straight = admit_in_order(&history);
        assert_sees(&mut history, &straight, seed);
        let mut runs = history.runs.clone();
        rng.shuffle(&mut runs);
        let shuffled = admit_with_retries(&history, runs);
        assert_sees(&mut history, &shuffled, seed);
        for table in [Table::Meta, Table::Change, Table::Hash, Table::Index] {
            assert_eq!(rows(&straight.store, table), rows(&shuffled.store, table), "seed {seed}: {table:?}");
        }
        conflicts += automerge_values(&history.merged).values().filter(|all| all.len() > 1).count();
    }
    assert!(conflicts > 100, "the histories have conflicts to see: {conflicts}");
}

#[test]
fn every_prefix_is_seen_as_automerge_sees_it() {
    for seed in 1_000..1_010 {
        let history = of_operators(seed, 4, 40);
        let mut holder = Holder::default();
        let mut doc = AutoCommit::new();
        for run in &history.runs {
            holder.must_admit(&history.fleet, run);
            doc.apply_changes([Change::from_bytes(run.changes[0].0.clone()).unwrap()]).unwrap();
            assert_eq!(index_values(&holder, &history.document), automerge_values(&doc), "seed {seed}");
        }
    }
}

#[test]
fn a_device_in_runs_of_any_length() {
    for seed in 0..60 {
        let mut rng = Rng(!seed);
        let commits = 5 + rng.below(60);
        let mut history = of_device(seed, commits);
        let straight = admit_in_order(&history);
        assert_sees(&mut history, &straight, seed);
        // The same log in runs, in any order: the last signature of each stands for all of it.
        let mut runs = Vec::new();
        let mut rest = &history.runs[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at((1 + rng.below(RUN_CHANGES_MAX)).min(rest.len()));
            let changes = now.iter().flat_map(|run| run.changes.clone()).collect();
            let signature = now[now.len() - 1].signature;
            runs.push(Run { log: now[0].log.clone(), first_seq: now[0].first_seq, changes, signature });
            rest = later;
        }
        rng.shuffle(&mut runs);
        let holder = admit_with_retries(&history, runs);
        assert_sees(&mut history, &holder, seed);
        for table in [Table::Meta, Table::Hash, Table::Index] {
            assert_eq!(rows(&straight.store, table), rows(&holder.store, table), "seed {seed}: {table:?}");
        }
    }
}

/// The operations that the engine writes for an edit (`sync/write.rs`): a put or a delete of all that is visible.
fn own_operation(rng: &mut Rng, holder: &Holder, document: &crate::schema::DocumentName) -> Option<Operation> {
    let path = (*rng.pick(&["a", "b.c", "b.d", "z"])).to_owned();
    let leaves = index::read_key(&holder.store, document, &path).unwrap().leaves;
    let pred: Vec<OpId> = leaves.iter().filter(|leaf| leaf.value.is_some()).map(|leaf| leaf.id).collect();
    let action = match rng.below(4) {
        0 if pred.is_empty() => return None,
        0 => raw::Action::Delete,
        1 => raw::Action::Put(Value::Text("x".repeat(rng.below(30)))),
        2 => raw::Action::Put(Value::Float(rng.below(10) as f64 / 4.0)),
        _ => raw::Action::Put(Value::Int(rng.below(5) as i64)),
    };
    Some(Operation { path, action, pred })
}

/// Changes that are encoded from the index, on top of histories that Automerge made: Automerge takes them and sees
/// the same.
#[test]
fn own_encoding_is_read_by_automerge() {
    for seed in 0..40 {
        let mut rng = Rng(seed + 7);
        let mut history = of_operators(seed, 3, 20);
        let mut holder = admit_in_order(&history);
        for turn in 0..10 {
            let actors = holder.siblings(&history.document).to_vec();
            let heads = view::head_records(&holder.store, &actors).unwrap();
            let writer = rng.below(history.writers.len());
            let writer = &mut history.writers[writer];
            let own: Option<LogRecord> = read_record(&holder.store, Table::Meta, &meta_key(&writer.actor)).unwrap();
            let mut deps: Vec<ChangeHash> = heads.iter().map(|head| head.head).collect();
            deps.extend(own.as_ref().map(|own| own.head).filter(|head| !deps.contains(head)));
            let Some(operation) = own_operation(&mut rng, &holder, &history.document) else { continue };
            let new = NewChange {
                actor: writer.actor,
                seq: writer.seq + 1,
                start_op: heads.iter().map(|head| head.max_op).max().unwrap_or(0) + 1,
                time_s: turn,
                message: None,
                deps,
                operations: vec![operation],
            };
            let raw = encode(&new).unwrap();
            let (seq, chain) = (writer.seq + 1, writer.chain);
            let run =
                crate::fixture::run_of(&writer.key, &history.fleet.id, &writer.log, seq, chain, vec![raw.clone()]);
            writer.seq = seq;
            writer.chain = chain.next(&raw::hash_of(&raw).unwrap());
            holder.must_admit(&history.fleet, &run);
            history.merged.apply_changes([Change::from_bytes(raw).unwrap()]).unwrap();
            assert_sees(&mut history, &holder, seed);
        }
        let mut loaded = AutoCommit::load(&history.merged.save()).unwrap();
        assert_eq!(loaded.get_heads(), history.merged.get_heads(), "seed {seed}");
    }
}
