//! Epochs of documents of one writer: which of them counts, and what an epoch may hold.

use super::*;
use crate::fixture::{Fleet, Holder, Writer, devices_log, index_values, run_of, secret};
use crate::raw::{NewChange, Operation, encode};
use crate::schema::Value;
use crate::store::Batch;

fn fleet() -> Fleet {
    let mut fleet = Fleet::with_operator();
    fleet.device(&secret(20));
    fleet
}

fn put(path: &str, value: Value) -> Operation {
    Operation { path: path.to_owned(), action: raw::Action::Put(value), pred: vec![] }
}

/// The first change of a log.
fn opening(fleet: &Fleet, log: &LogName, operations: Vec<Operation>) -> Run {
    let seal = Seal { actor: Actor([1; 16]), last_seq: 7, chain: ChainHash([2; 32]), values: [3; 32] };
    let message = (log.epoch > 1).then(|| seal.to_string());
    let actor = log.actor(&fleet.id);
    let new = NewChange { actor, seq: 1, start_op: 1, time_s: 0, message, deps: vec![], operations };
    run_of(&secret(20), &fleet.id, log, 1, ChainHash::START, vec![encode(&new).unwrap()])
}

fn all_rows(holder: &Holder) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let tables = crate::store::TABLES.into_iter().map(|(table, _)| table);
    let kept = tables.filter(|table| !matches!(table, Table::Order | Table::Audit));
    kept.flat_map(|table| holder.store.rows(table).map(move |(k, v)| (table, k.clone(), v.clone()))).collect()
}

#[test]
fn a_greater_epoch_takes_the_place_of_a_smaller_one() {
    let fleet = fleet();
    let mut first = Writer::device(&fleet.id, secret(20));
    let runs = [first.set("a", 1), first.set("old", 2), first.set("a", 3)];
    let log = devices_log(&secret(20), 2);
    let later = opening(&fleet, &log, vec![put("a", Value::Int(3)), put("new", Value::Null)]);

    let mut forward = Holder::default();
    runs.iter().for_each(|run| forward.must_admit(&fleet, run));
    let Outcome::Admitted(admitted) = forward.admit(&fleet, &later) else { panic!("a greater epoch") };
    assert_eq!(admitted.superseded, [first.actor]);
    let is_of_first = |(_, key, _): &(Table, Vec<u8>, Vec<u8>)| key.starts_with(&first.actor.0);
    assert!(!all_rows(&forward).iter().any(is_of_first), "nothing of the old log is left");
    assert_eq!(forward.store.rows(Table::Hash).count(), 1);
    let paths: Vec<String> = index_values(&forward, &log.document).into_keys().collect();
    assert_eq!(paths, ["a", "new"]);

    let mut backward = Holder::default();
    backward.must_admit(&fleet, &later);
    for run in &runs {
        let outcome = backward.admit(&fleet, run);
        let expected = Outcome::Refused { reason: Reason::Stale, seq: run.first_seq, evidence: vec![] };
        assert_eq!(outcome, expected);
    }
    assert_eq!(all_rows(&forward), all_rows(&backward));
}

#[test]
fn of_two_incarnations_in_one_epoch_the_greater_actor_counts() {
    let fleet = fleet();
    let log = |incarnation| LogName { incarnation, ..devices_log(&secret(20), 3) };
    let mut logs: Vec<LogName> = (1..6).map(log).collect();
    logs.sort_by_key(|log| log.actor(&fleet.id));
    let runs: Vec<Run> = logs.iter().map(|log| opening(&fleet, log, vec![put("a", Value::Null)])).collect();
    let mut greatest = Holder::default();
    greatest.must_admit(&fleet, &runs[4]);
    for seed in 0..20 {
        let mut order: Vec<usize> = (0..5).collect();
        crate::fixture::Rng(seed).shuffle(&mut order);
        let mut holder = Holder::default();
        for at in order {
            match holder.admit(&fleet, &runs[at]) {
                Outcome::Admitted(_) | Outcome::Refused { reason: Reason::Stale, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(all_rows(&holder), all_rows(&greatest), "seed {seed}");
    }
}

/// A refused opening of a later epoch does not take the current one away.
#[test]
fn a_malformed_later_epoch_leaves_the_current_one() {
    let fleet = fleet();
    let mut holder = Holder::default();
    let mut writer = Writer::device(&fleet.id, secret(20));
    holder.must_admit(&fleet, &writer.set("a", 1));
    let before = all_rows(&holder);
    let wrong = Operation { path: "a".to_owned(), action: raw::Action::Delete, pred: vec![] };
    let later = opening(&fleet, &devices_log(&secret(20), 2), vec![wrong]);
    let outcome = holder.admit(&fleet, &later);
    assert!(
        matches!(outcome, Outcome::Refused { reason: Reason::Operation(IndexError::Delete(0)), .. }),
        "{outcome:?}"
    );
    assert_eq!(all_rows(&holder), before);
}

#[test]
fn an_epoch_holds_so_many_bytes_of_values() {
    let fleet = fleet();
    let log = devices_log(&secret(20), 1);
    let with = |lengths: &[usize]| {
        let puts =
            lengths.iter().enumerate().map(|(at, length)| put(&format!("p{at}"), Value::Bytes(vec![0; *length])));
        let run = opening(&fleet, &log, puts.collect());
        Holder::default().judge(&fleet, &run).0
    };
    let limit = EPOCH_VALUES_BYTES_MAX as usize;
    let last = limit - 3 * 16_000 - 4 * 2; // four paths of two bytes
    assert!(matches!(with(&[16_000, 16_000, 16_000, last]), Outcome::Admitted(_)));
    let outcome = with(&[16_000, 16_000, 16_000, last + 1]);
    assert!(matches!(outcome, Outcome::Refused { reason: Reason::EpochFull, .. }), "{outcome:?}");

    // What is replaced or deleted does not count.
    let mut holder = Holder::default();
    let mut writer = Writer::device(&fleet.id, secret(20));
    for n in 0..12u8 {
        holder.must_admit(&fleet, &writer.set("p", vec![n; 16_000]));
    }
    let record: LogRecord = read_record(&holder.store, Table::Meta, &meta_key(&writer.actor)).unwrap().unwrap();
    assert_eq!(record.values_bytes, 16_001);
    automerge::transaction::Transactable::delete(&mut writer.doc, automerge::ROOT, "p").unwrap();
    let run = writer.commit(1).unwrap();
    let Outcome::Admitted(admitted) = holder.admit(&fleet, &run) else { panic!("a delete") };
    assert_eq!(admitted.record.values_bytes, 0);
    // The bytes of the log count nevertheless.
    let full =
        (0..9u8).map(|n| holder.admit(&fleet, &writer.set("q", vec![n; 16_000]))).find_map(|outcome| match outcome {
            Outcome::Refused { reason, .. } => Some(reason),
            _ => None,
        });
    assert_eq!(full, Some(Reason::EpochFull));
}

/// Logs of 4,095 changes, as the store would hold them.
#[test]
fn an_epoch_holds_so_many_changes() {
    let fleet = fleet();
    let mut holder = Holder::default();
    let mut writer = Writer::device(&fleet.id, secret(20));
    let first = writer.set("a", 1);
    holder.must_admit(&fleet, &first);
    let mut record: LogRecord = read_record(&holder.store, Table::Meta, &meta_key(&writer.actor)).unwrap().unwrap();
    record.seq = EPOCH_CHANGES_MAX - 1;
    let change = ChangeRecord { raw: first.changes[0].clone(), chain: record.chain, signature: None };
    let mut batch = Batch::default();
    batch.put(Table::Meta, meta_key(&writer.actor), encode_record(&record));
    batch.put(Table::Change, change_key(&writer.actor, record.seq), encode_record(&change));
    holder.store.apply(&batch);

    let next = |seq: u64, deps: ChangeHash, chain: ChainHash, start_op: u64| {
        let operations = vec![put(&format!("p{seq}"), Value::Null)];
        let new =
            NewChange { actor: writer.actor, seq, start_op, time_s: 0, message: None, deps: vec![deps], operations };
        run_of(&writer.key, &fleet.id, &writer.log, seq, chain, vec![encode(&new).unwrap()])
    };
    let last = next(EPOCH_CHANGES_MAX, record.head, record.chain, 2);
    let Outcome::Admitted(admitted) = holder.admit(&fleet, &last) else { panic!("the last one") };
    let record = admitted.record;
    let beyond = next(EPOCH_CHANGES_MAX + 1, record.head, record.chain, 3);
    let expected = Outcome::Refused { reason: Reason::EpochFull, seq: EPOCH_CHANGES_MAX + 1, evidence: vec![] };
    assert_eq!(holder.judge(&fleet, &beyond).0, expected);
}

/// A run is admitted whole or not at all, also where only its last change is wrong.
#[test]
fn a_run_with_one_wrong_change_leaves_nothing() {
    let fleet = fleet();
    let mut writer = Writer::device(&fleet.id, secret(20));
    let (one, two) = (writer.set("a", 1), writer.set("a", 2));
    let new = NewChange {
        actor: writer.actor,
        seq: 3,
        start_op: 3,
        time_s: 0,
        message: None,
        deps: vec![raw::hash_of(&two.changes[0].0).unwrap()],
        operations: vec![put("a", Value::Null)],
    };
    let changes = vec![one.changes[0].0.clone(), two.changes[0].0.clone(), encode(&new).unwrap()];
    let run = run_of(&writer.key, &fleet.id, &writer.log, 1, ChainHash::START, changes);
    let expected = Outcome::Refused { reason: Reason::Operation(IndexError::Put(0)), seq: 3, evidence: vec![] };
    assert_eq!(Holder::default().judge(&fleet, &run), (expected, Batch::default()));
}
