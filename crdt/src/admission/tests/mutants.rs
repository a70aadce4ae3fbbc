//! Hostile changes with good signatures: nothing panics, nothing that breaks a rule is staged, and whatever is
//! admitted is a document that Automerge loads and sees as the index does.
//!
//! `FLEETSYNC_MUTANTS=N` makes N of them; the number printed with a failure is the seed of one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::legacy::{Key as OpKey, ObjectId, OpId as LegacyOpId, OpType};
use automerge::transaction::Transactable;
use automerge::{ActorId, Author, AutoCommit, Change, ExpandedChange, ObjType, ROOT, ReadDoc, ScalarValue};

use super::history::{History, of_device, of_operators};
use super::*;
use crate::fixture::{Holder, Rng, automerge_values, chunk, index_values, mend, run_of};
use crate::raw::GuardError;

const MUTANTS: u64 = 40_000;
const HISTORIES: u64 = 8;

/// An honest change and the store just before it.
struct Place {
    history: usize,
    before: Holder,
    chain: ChainHash,
    at: usize,
}

fn places(histories: &[History]) -> Vec<Place> {
    let mut places = Vec::new();
    for (history, of) in histories.iter().enumerate() {
        let mut holder = Holder::default();
        let mut chains: BTreeMap<Actor, ChainHash> = BTreeMap::new();
        for (at, run) in of.runs.iter().enumerate() {
            let actor = run.log.actor(&of.fleet.id);
            let chain = chains.entry(actor).or_insert(ChainHash::START);
            places.push(Place { history, before: holder.clone(), chain: *chain, at });
            *chain = chain.next(&raw::hash_of(&run.changes[0].0).unwrap());
            holder.must_admit(&of.fleet, run);
        }
    }
    places
}

/// Flips, replaces, inserts, removes and doubles bytes behind the header; length and checksum are mended.
fn mutate_bytes(rng: &mut Rng, honest: &[u8]) -> Vec<u8> {
    let header = if honest.len() - 10 < 128 { 10 } else { 11 };
    let mut body = honest[header..].to_vec();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(body.len());
        match rng.below(8) {
            0..4 => body[at] ^= 1 << rng.below(8),
            4 => body[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
            5 => body.insert(at, rng.next() as u8),
            6 if body.len() > 1 => drop(body.remove(at)),
            _ => {
                let other = rng.below(body.len());
                body.swap(at, other);
            }
        }
    }
    chunk(1, &body)
}

/// Bytes that are no plain change, or not only one.
fn mutate_chunk(rng: &mut Rng, honest: &[u8], history: &mut History) -> Vec<u8> {
    match rng.below(6) {
        0 => honest[..rng.below(honest.len())].to_vec(),
        1 => [honest, &vec![0; 1 + rng.below(9)]].concat(),
        2 => [honest, honest].concat(),
        3 => history.merged.save(),
        4 => {
            let mut bytes = honest.to_vec();
            bytes[8] = rng.below(6) as u8;
            mend(&mut bytes);
            bytes
        }
        _ => {
            let hashes: Vec<_> = history.merged.get_changes(&[]).iter().map(Change::hash).collect();
            history.merged.bundle(hashes).expect("known changes").bytes().to_vec()
        }
    }
}

fn other_action(rng: &mut Rng) -> OpType {
    match rng.below(7) {
        0 => OpType::Make(*rng.pick(&[ObjType::Map, ObjType::List, ObjType::Text])),
        1 => OpType::Increment(rng.next() as i64),
        2 => OpType::MarkEnd(true),
        3 => OpType::Put(ScalarValue::counter(5)),
        4 => OpType::Put(ScalarValue::F64(f64::NAN)),
        5 => OpType::Put(ScalarValue::Unknown { type_code: 10 + rng.below(6) as u8, bytes: vec![1, 2] }),
        _ => OpType::Delete,
    }
}

/// An actor of the history, or one of nobody.
fn some_actor(rng: &mut Rng, history: &History) -> ActorId {
    match rng.below(4) {
        0 => ActorId::from([9; 16]),
        _ => ActorId::from(rng.pick(&history.writers).actor.0),
    }
}

fn some_hash(rng: &mut Rng, history: &History) -> automerge::ChangeHash {
    let run = rng.pick(&history.runs);
    automerge::ChangeHash(raw::hash_of(&run.changes[0].0).expect("a plain change").0)
}

/// Alters one operation.
fn mutate_operation(rng: &mut Rng, history: &History, change: &mut ExpandedChange) {
    let id = LegacyOpId::new(1 + rng.below(60) as u64, &some_actor(rng, history));
    let at = rng.below(change.operations.len());
    let operation = &mut change.operations[at];
    let mut pred: Vec<LegacyOpId> = operation.pred.iter().cloned().collect();
    match rng.below(12) {
        0 => pred.clear(),
        1 => pred.push(id),
        2 => drop(pred.pop()),
        3 => pred.reverse(),
        4 if !pred.is_empty() => pred.push(pred[0].clone()),
        5 if !pred.is_empty() => pred[0] = id,
        6 => operation.key = OpKey::Map(rng.pick(&["a", "b.c", "", "z", "new.one", "a..b"]).to_string().into()),
        7 => operation.action = other_action(rng),
        8 => operation.insert = true,
        9 => operation.obj = ObjectId::Id(id),
        10 => operation.action = OpType::Put(ScalarValue::Int(rng.next() as i64)),
        _ => {
            let copy = operation.clone();
            change.operations.push(copy);
            return;
        }
    }
    operation.pred = pred.into_iter().collect();
}

/// What `set_author` writes.
fn author_footer() -> Vec<u8> {
    let mut doc = AutoCommit::new();
    doc.set_author(Some(Author::from(vec![1; 16])));
    doc.put(ROOT, "a", 1).expect("a put on the root map");
    doc.commit();
    doc.get_last_local_change().expect("it was just committed").extra_bytes().to_vec()
}

/// Alters one field of the change.
fn mutate_field(rng: &mut Rng, history: &History, change: &mut ExpandedChange) {
    match rng.below(16) {
        0 => change.seq = *rng.pick(&[0, change.seq ^ 1, change.seq ^ 2, change.seq.wrapping_sub(1), u64::MAX]),
        1 => {
            let starts = [1, change.start_op.get() + 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62];
            change.start_op = (*rng.pick(&starts)).try_into().expect("not 0");
        }
        2 => change.actor_id = some_actor(rng, history),
        3 => change.deps.push(some_hash(rng, history)),
        4 => drop(change.deps.pop()),
        5 => change.deps = vec![some_hash(rng, history), some_hash(rng, history)],
        6 => change.deps.extend(change.deps.first().copied()),
        7 => change.extra_bytes = vec![rng.next() as u8; 1 + rng.below(4)],
        8 => change.message = Some("hello".to_owned()),
        9 => change.time = *rng.pick(&[0, 1, 5_000_000_000, raw::TIME_MAX_S, -1, i64::MIN, i64::MAX]),
        10 => change.extra_bytes = author_footer(),
        11 => {
            let first = change.operations.remove(0);
            change.operations.push(first);
        }
        _ => mutate_operation(rng, history, change),
    }
    change.deps.sort_unstable();
}

/// None where Automerge's own encoder does not write such a change.
fn mutate_fields(rng: &mut Rng, history: &History, honest: &[u8]) -> Option<Vec<u8>> {
    let mut change = Change::from_bytes(honest.to_vec()).expect("an honest change").decode();
    for _ in 0..1 + rng.below(2) {
        if !change.operations.is_empty() {
            mutate_field(rng, history, &mut change);
        }
    }
    catch_unwind(AssertUnwindSafe(|| Change::from(change).raw_bytes().to_vec())).ok()
}

/// What was admitted is, with all before it, a document that loads again and reads the same.
fn assert_harmless(history: &History, holder: &Holder, mutant: &[u8], seed: u64) {
    let mut changes: Vec<Change> = Vec::new();
    for (key, value) in holder.store.rows(Table::Change) {
        let record: ChangeRecord = crate::store::decode_record(Table::Change, key, value).unwrap();
        changes.push(Change::from_bytes(record.raw.0).expect("Automerge reads what is stored"));
    }
    let mut doc = AutoCommit::new();
    doc.apply_changes(changes).unwrap_or_else(|error| panic!("seed {seed}: {error}: {mutant:?}"));
    let mut loaded = AutoCommit::load(&doc.save()).unwrap_or_else(|error| panic!("seed {seed}: {error}: {mutant:?}"));
    let heads: Vec<ChangeHash> = loaded.get_heads().iter().map(|hash| ChangeHash(hash.0)).collect();
    assert_eq!(heads, holder.heads(&history.document), "seed {seed}");
    assert_eq!(doc.get_heads(), loaded.get_heads(), "seed {seed}");
    let seen = index_values(holder, &history.document);
    assert_eq!(seen, automerge_values(&loaded), "seed {seed}");
    assert_eq!(seen, automerge_values(&doc), "seed {seed}");
    assert_eq!(loaded.keys(ROOT).count(), seen.len(), "seed {seed}");
}

#[test]
fn mutants_are_refused_or_harmless() {
    let mutants = std::env::var("FLEETSYNC_MUTANTS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTANTS);
    let mut histories: Vec<History> = (0..HISTORIES).map(|seed| of_operators(seed, 4, 30)).collect();
    histories.extend((0..2).map(|seed| of_device(seed, 20)));
    let places = places(&histories);
    let (mut parsed, mut admitted) = (0, 0);
    for seed in 0..mutants {
        let mut rng = Rng(seed);
        let place = rng.pick(&places);
        let history = &mut histories[place.history];
        let run = history.runs[place.at].clone();
        let honest = &run.changes[0].0;
        let mutant = match rng.below(20) {
            0 => Some(mutate_chunk(&mut rng, honest, history)),
            1..7 => Some(mutate_bytes(&mut rng, honest)),
            _ => mutate_fields(&mut rng, history, honest),
        };
        let Some(mutant) = mutant.filter(|mutant| mutant != honest) else { continue };
        parsed += u64::from(raw::decode(&mutant).is_ok());
        let key = &history.writers.iter().find(|writer| writer.log == run.log).expect("its author").key;
        let (fleet, first_seq) = (&history.fleet, run.first_seq);
        let run = run_of(key, &fleet.id, &run.log, first_seq, place.chain, vec![mutant.clone()]);
        let mut holder = place.before.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| holder.admit(fleet, &run)));
        match outcome.unwrap_or_else(|_| panic!("seed {seed} panics: {mutant:?}")) {
            Outcome::Admitted(_) => {
                admitted += 1;
                assert_harmless(history, &holder, &mutant, seed);
            }
            Outcome::Refused { .. } | Outcome::Waits(_) => assert_eq!(holder.store, place.before.store, "seed {seed}"),
            Outcome::Known => panic!("seed {seed}: another change is not known"),
        }
    }
    // The mutants reach every depth of the gate: some are changes, and some of those are even right.
    assert!(parsed > mutants / 8 && admitted > mutants / 50, "{parsed} decode and {admitted} pass of {mutants}");
}

/// Chunks that Automerge itself would take as changes.
#[test]
fn documents_bundles_and_compressed_changes_are_no_changes() {
    let mut history = of_operators(3, 3, 25);
    let all: Vec<Change> = history.merged.get_changes(&[]);
    let hashes: Vec<_> = all.iter().map(Change::hash).collect();
    let writer = &mut history.writers[0];
    let long = writer.put("long", "x".repeat(2_000)).commit(1).expect("a new value");
    let mut long_change = Change::from_bytes(long.changes[0].0.clone()).unwrap();
    let compressed = long_change.bytes().into_owned();
    assert_eq!(compressed[8], 2, "Automerge compresses it");
    let bundle = history.merged.bundle(hashes).unwrap();
    for (kind, bytes) in [(0, history.merged.save()), (2, compressed), (3, bundle.bytes().to_vec())] {
        assert_eq!(bytes[8], kind);
        assert_eq!(raw::guard(&bytes), Err(GuardError::ChunkType(kind)));
        let writer = &history.writers[0];
        let run = run_of(&writer.key, &writer.fleet, &writer.log, 1, ChainHash::START, vec![bytes]);
        let outcome = Holder::default().judge(&history.fleet, &run).0;
        let reason = Reason::Raw(RawError::Guard(GuardError::Header));
        assert_eq!(outcome, Outcome::Refused { reason, seq: 1, evidence: vec![] });
    }
}
