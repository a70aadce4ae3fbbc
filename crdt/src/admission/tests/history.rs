//! Random histories of one document, made by Automerge itself.

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ROOT, ReadDoc, ScalarValue};

use crate::change::Run;
use crate::fixture::{Fleet, Rng, Writer, scalar_in, secret};
use crate::schema::DocumentName;
use crate::statement::Role;

/// Honest changes of one document, in an order in which causes come first.
pub(super) struct History {
    pub(super) fleet: Fleet,
    pub(super) document: DocumentName,
    pub(super) writers: Vec<Writer>,
    pub(super) runs: Vec<Run>,
    /// What came of all of them.
    pub(super) merged: AutoCommit,
}

const PATHS: [&str; 7] = ["a", "b.c", "b.d", "exposure.mode", "disk.nvme0n1.temperature", "ü", "z"];

fn scalar(rng: &mut Rng) -> ScalarValue {
    match rng.below(9) {
        0 => ScalarValue::Null,
        1 => ScalarValue::Boolean(rng.chance(50)),
        2 => ScalarValue::Int(*rng.pick(&[0, -1, 5, i64::MIN, i64::MAX])),
        3 => ScalarValue::Uint(*rng.pick(&[0, 1, u64::MAX])),
        4 => ScalarValue::F64(*rng.pick(&[0.0, -2.5, 1e300, f64::MIN_POSITIVE])),
        5 => ScalarValue::Str("night".repeat(rng.below(4)).into()),
        6 => ScalarValue::Bytes(vec![rng.next() as u8; rng.below(5)]),
        7 => ScalarValue::Timestamp(rng.next() as i64 >> 20),
        _ => ScalarValue::Int(rng.below(3) as i64),
    }
}

/// One random edit; it may turn out to change nothing.
fn edit(rng: &mut Rng, writer: &mut Writer) {
    let path = *rng.pick(&PATHS);
    let winner = writer.doc.get(ROOT, path).expect("the root is a map").map(|(value, _)| value.into_owned());
    match (winner, rng.below(10)) {
        // The winner's own value again: on a conflicted key Automerge writes that as a delete of the losers.
        (Some(winner), 0..3) => {
            writer.put(path, scalar_in(&winner).clone());
        }
        (Some(_), 3..5) => writer.doc.delete(ROOT, path).expect("the key has a value"),
        _ => {
            let value = scalar(rng);
            writer.put(path, value);
        }
    }
}

/// `count` operators write one configuration and take over from each other at random.
pub(super) fn of_operators(seed: u64, count: u8, commits: usize) -> History {
    let mut rng = Rng(seed);
    let mut fleet = Fleet::with_operator();
    let keys: Vec<_> = (10..10 + count).map(secret).collect();
    for key in &keys {
        fleet.operator(key, &[Role::Config]);
    }
    let mut writers: Vec<Writer> = keys.into_iter().map(|key| Writer::operator(&fleet.id, key)).collect();
    let mut runs = Vec::new();
    for _ in 0..commits {
        let at = rng.below(writers.len());
        if rng.chance(40) {
            let other = (at + 1 + rng.below(writers.len() - 1)) % writers.len();
            let [writer, other] = writers.get_disjoint_mut([at, other]).expect("two writers");
            writer.merge(other);
        }
        for _ in 0..1 + rng.below(4) {
            edit(&mut rng, &mut writers[at]);
        }
        runs.extend(writers[at].commit(rng.below(2_000_000_000) as i64));
    }
    finish(fleet, writers, runs)
}

/// A device writes its own document.
pub(super) fn of_device(seed: u64, commits: usize) -> History {
    let mut rng = Rng(seed);
    let mut fleet = Fleet::with_operator();
    let key = secret(20);
    fleet.device(&key);
    let mut writer = Writer::device(&fleet.id, key);
    let mut runs = Vec::new();
    for time in 0..commits {
        for _ in 0..1 + rng.below(5) {
            edit(&mut rng, &mut writer);
        }
        runs.extend(writer.commit(time as i64));
    }
    finish(fleet, vec![writer], runs)
}

fn finish(fleet: Fleet, mut writers: Vec<Writer>, runs: Vec<Run>) -> History {
    let mut merged = AutoCommit::new();
    for writer in &mut writers {
        let changes = writer.doc.get_changes(&merged.get_heads());
        merged.apply_changes(changes).expect("honest changes apply");
    }
    History { document: writers[0].log.document.clone(), fleet, writers, runs, merged }
}
