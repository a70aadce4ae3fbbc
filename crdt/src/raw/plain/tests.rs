//! Automerge is the oracle: what this reader takes, Automerge takes as the same; what Automerge writes, it takes.

use proptest::prelude::*;

use super::super::tests::{new_change, value};
use super::super::{NewChange, decode_guarded, encode, guard};
use super::*;
use crate::fixture::{Rng, chunk, mend};

prop_compose! {
    /// Changes with paths and values that repeat, as columns have them.
    fn plain_change()(
        new in new_change(),
        values in proptest::collection::vec(value(), 1..3),
        seed in any::<u64>(),
    ) -> NewChange {
        let random = &mut Rng(seed);
        let actor = new.actor;
        let mut operations = new.operations;
        for operation in &mut operations {
            operation.pred.iter_mut().for_each(|pred| pred.actor = actor);
            if random.chance(40) {
                operation.path = ["a", "b.c"][random.below(2)].to_owned();
            }
            if random.chance(40) {
                operation.action = Action::Put(values[random.below(values.len())].clone());
            }
            match random.below(3) {
                0 => operation.pred.truncate(1),
                1 => operation.pred.clear(),
                _ => operation.pred.sort(),
            }
            operation.pred.dedup();
        }
        NewChange { message: None, operations, ..new }
    }
}

/// One or two bytes of the body changed, left out or added; the header fits.
fn mutant(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut body = open(bytes).expect("a change").to_vec();
    for _ in 0..1 + random.below(2) {
        let at = random.below(body.len());
        match random.below(4) {
            0 => body[at] ^= 1 << random.below(8),
            1 => body[at] = body[at].wrapping_add(1),
            2 => drop(body.remove(at)),
            _ => body.insert(at, random.next() as u8),
        }
    }
    chunk(CHUNK_CHANGE, &body)
}

proptest! {
    #![proptest_config(crate::fixture::cases(2_000))]

    #[test]
    fn what_automerge_writes_is_read(new in plain_change()) {
        let bytes = encode(&new).expect("a start counter");
        let read = read(&bytes);
        prop_assert!(read.is_some());
        prop_assert_eq!(read, decode_guarded(&bytes).ok());
    }

    #[test]
    fn of_mutants_only_what_automerge_reads_is_read(new in plain_change(), seed in any::<u64>()) {
        let bytes = encode(&new).expect("a start counter");
        let random = &mut Rng(seed);
        for _ in 0..40 {
            let mutant = mutant(&bytes, random);
            if guard(&mutant).is_ok() && let Some(change) = read(&mutant) {
                prop_assert_eq!(Ok(change), decode_guarded(&mutant));
            }
        }
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        mend(&mut bytes);
        prop_assert_eq!(read(&bytes), None);
        prop_assert_eq!(read(&chunk(CHUNK_CHANGE, &bytes)), None);
    }
}

#[test]
fn what_is_not_plain_is_left_to_automerge() {
    let other = OpId { counter: 1, actor: Actor([2; 16]) };
    let put = |pred| Operation { path: "a".to_owned(), action: Action::Put(Value::Int(1)), pred };
    let plain = NewChange {
        actor: Actor([1; 16]),
        seq: 1,
        start_op: 5,
        time_s: 0,
        message: None,
        deps: Vec::new(),
        operations: vec![put(Vec::new())],
    };
    let is_read = |new: &NewChange| read(&encode(new).expect("a start counter")).is_some();
    assert!(is_read(&plain));
    assert!(!is_read(&NewChange { message: Some("seal".to_owned()), ..plain.clone() }));
    assert!(!is_read(&NewChange { operations: vec![put(vec![other])], ..plain.clone() }));
    assert!(!is_read(&NewChange { operations: Vec::new(), ..plain.clone() }));
    assert!(!is_read(&NewChange { start_op: COUNTER_LIMIT, ..plain.clone() }));
    assert!(!is_read(&NewChange { time_s: -1, ..plain.clone() }));
    let mut bytes = encode(&plain).expect("a start counter");
    bytes[5] ^= 1;
    assert_eq!(read(&bytes), None, "a checksum that is wrong");
}
