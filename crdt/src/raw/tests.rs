use proptest::prelude::*;

use super::*;
use crate::fixture::{Rng, chunk};

pub(super) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::Uint),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::Float),
        ".{0,40}".prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(Value::Bytes),
        any::<i64>().prop_map(Value::Timestamp),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = (1..COUNTER_LIMIT, any::<u8>()).prop_map(|(counter, n)| OpId { counter, actor: Actor([n; 16]) });
    let pred = proptest::collection::btree_set(id, 0..4).prop_map(|pred| pred.into_iter().collect::<Vec<_>>());
    let action = prop_oneof![4 => value().prop_map(Action::Put), 1 => Just(Action::Delete)];
    ("[a-zäß0-9_-]{1,12}(\\.[a-z]{1,9}){0,3}", action, pred).prop_map(|(path, action, pred)| Operation {
        path,
        action,
        pred,
    })
}

prop_compose! {
    pub(super) fn new_change()(
        actor in any::<[u8; 16]>(),
        seq in 1..u64::MAX / 2,
        start_op in 1..COUNTER_LIMIT - 100,
        time_s in 0..=TIME_MAX_S,
        message in proptest::option::of("[ -~]{1,80}"),
        deps in proptest::collection::btree_set(any::<[u8; 32]>(), 0..6),
        operations in proptest::collection::vec(operation(), 1..40),
    ) -> NewChange {
        let deps = deps.into_iter().map(ChangeHash).collect();
        NewChange { actor: Actor(actor), seq, start_op, time_s, message, deps, operations }
    }
}

fn sample() -> NewChange {
    let put =
        |path: &str, value, pred: Vec<OpId>| Operation { path: path.to_owned(), action: Action::Put(value), pred };
    let id = |counter, n| OpId { counter, actor: Actor([n; 16]) };
    NewChange {
        actor: Actor([0xaa; 16]),
        seq: 3,
        start_op: 12,
        time_s: 1_700_000_000,
        message: None,
        deps: vec![ChangeHash([1; 32]), ChangeHash([2; 32])],
        operations: vec![
            put("exposure.mode", Value::Text("night".to_owned()), vec![id(4, 0xaa), id(5, 0xbb)]),
            put("gain", Value::Float(1.5), vec![]),
            Operation { path: "old".to_owned(), action: Action::Delete, pred: vec![id(7, 0xbb)] },
        ],
    }
}

/// Golden: the bytes of changes are hashed and signed everywhere.
#[test]
fn golden_change() {
    let bytes = encode(&sample()).unwrap();
    assert_eq!(crate::id::hex(&bytes), GOLDEN_CHANGE);
    assert_eq!(hash_of(&bytes).unwrap().to_string(), GOLDEN_HASH);
}

const GOLDEN_CHANGE: &str = "856f4a8368f0104d01b801020101010101010101010101010101010101010101010101010101010101010101020202020202\
    020202020202020202020202020202020202020202020202020210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa030c80e2cfaa06\
    000110bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb081518340142045605570d7004710473047d0d6578706f737572652e6d6f64\
    65046761696e036f6c640302017f037d568501006e69676874000000000000f83f7d0200017f0002017d040102";
const GOLDEN_HASH: &str = "68f0104d5d46f1702faa927c0076f90ed3bf77c9209f271c2c4b69e133eaac8d";

#[test]
fn what_decodes_is_what_was_encoded() {
    let new = sample();
    let read = decode(&encode(&new).unwrap()).unwrap();
    assert_eq!((read.actor, read.seq, read.start_op, read.max_op()), (new.actor, 3, 12, 14));
    assert_eq!((read.deps, read.operations), (new.deps, new.operations));
    assert_eq!(encode(&NewChange { start_op: 0, ..sample() }), None);
}

#[test]
fn limits_of_a_change() {
    let many = |count: u64| {
        let put = |n| Operation { path: format!("p{n}"), action: Action::Put(Value::Null), pred: vec![] };
        encode(&NewChange { operations: (0..count).map(put).collect(), ..sample() }).unwrap()
    };
    assert_eq!(decode(&many(OPERATIONS_MAX)).map(|change| change.operations.len()), Ok(4096));
    assert_eq!(decode(&many(OPERATIONS_MAX + 1)), Err(RawError::Guard(GuardError::Rows)));
    assert_eq!(decode(&many(0)), Err(RawError::Operations));
    assert_eq!(decode(&vec![0; RAW_BYTES_MAX + 1]), Err(RawError::Size(RAW_BYTES_MAX + 1)));
    let at_the_end = NewChange { start_op: COUNTER_LIMIT - 3, ..sample() };
    assert!(decode(&encode(&at_the_end).unwrap()).is_ok());
    for start_op in [COUNTER_LIMIT - 2, COUNTER_LIMIT, 1 << 32, (1 << 32) - 2, u64::MAX >> 1] {
        let error = decode(&encode(&NewChange { start_op, ..sample() }).unwrap()).unwrap_err();
        assert!(matches!(error, RawError::Counter | RawError::Automerge(_)), "{start_op}: {error}");
    }
    for time_s in [0, TIME_MAX_S] {
        assert_eq!(decode(&encode(&NewChange { time_s, ..sample() }).unwrap()).map(|change| change.time_s), Ok(time_s));
    }
    for time_s in [-1, TIME_MAX_S + 1, i64::MIN, i64::MAX] {
        assert_eq!(decode(&encode(&NewChange { time_s, ..sample() }).unwrap()), Err(RawError::Time(time_s)));
    }
    let deps = |count: u8| (0..count).map(|n| ChangeHash([n; 32])).collect();
    assert!(decode(&encode(&NewChange { deps: deps(64), ..sample() }).unwrap()).is_ok());
    assert_eq!(decode(&encode(&NewChange { deps: deps(65), ..sample() }).unwrap()), Err(RawError::Deps));
    let message = Some("x".repeat(MESSAGE_BYTES_MAX + 1));
    assert_eq!(decode(&encode(&NewChange { message, ..sample() }).unwrap()), Err(RawError::Message(1025)));
}

#[test]
fn paths_and_values_that_the_schema_refuses() {
    let with = |path: &str, value| {
        let operations = vec![Operation { path: path.to_owned(), action: Action::Put(value), pred: vec![] }];
        decode(&encode(&NewChange { operations, ..sample() }).unwrap())
    };
    for path in ["a..b", "a b", "a\u{0}", ".", "a."] {
        assert_eq!(with(path, Value::Null), Err(RawError::Value(0, ValueError::Path(path.to_owned()))));
    }
    assert!(with("", Value::Null).is_err());
    // Such a path is refused before Automerge reads it: it could be repeated in every row.
    assert_eq!(with(&"p".repeat(513), Value::Null), Err(RawError::Guard(GuardError::Rows)));
    assert!(with(&"p".repeat(512), Value::Text("x".repeat(16 * 1024))).is_ok());
    let long = Value::Bytes(vec![0; 16 * 1024 + 1]);
    assert_eq!(with("p", long), Err(RawError::Value(0, ValueError::ValueLength(16_385))));
    assert_eq!(with("p", Value::Float(f64::NAN)), Err(RawError::Value(0, ValueError::NotFinite)));
    assert_eq!(with("p", Value::Float(f64::INFINITY)), Err(RawError::Value(0, ValueError::NotFinite)));
}

/// A change of the root map with columns of run lengths, as ANCHORS describes them: `count` puts of null.
fn bomb(count: u64) -> Vec<u8> {
    let run = |cell: &[u8]| [&signed_leb(count), cell].concat();
    let columns: [(u8, Vec<u8>); 5] =
        [(0x15, run(b"\x01a")), (0x34, unsigned_leb(count)), (0x42, run(&[1])), (0x56, run(&[0])), (0x70, run(&[0]))];
    change_with(&columns)
}

fn change_with(columns: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![0, 16];
    body.extend([0xaa; 16]);
    body.extend([1, 1, 0, 0, 0, columns.len() as u8]);
    for (specification, bytes) in columns {
        body.push(*specification);
        body.extend(unsigned_leb(bytes.len() as u64));
    }
    columns.iter().for_each(|(_, bytes)| body.extend(bytes));
    chunk(1, &body)
}

fn unsigned_leb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn signed_leb(value: u64) -> Vec<u8> {
    let mut bytes = unsigned_leb(value);
    if bytes.last().is_some_and(|last| last & 0x40 != 0) {
        let last = bytes.len() - 1;
        bytes[last] |= 0x80;
        bytes.push(0);
    }
    bytes
}

#[test]
fn run_length_bombs_are_refused_before_automerge_sees_them() {
    let harmless = Change::from_bytes(bomb(3)).expect("a well-formed change");
    assert_eq!((harmless.len(), decode(&bomb(3)).map(|change| change.operations.len())), (3, Ok(3)));
    assert_eq!(guard(&bomb(OPERATIONS_MAX)), Ok(()));
    for count in [OPERATIONS_MAX + 1, 1_000_000, 10_000_000, 2_000_000_000, 1 << 62] {
        let bytes = bomb(count);
        assert!(bytes.len() <= 110, "{} bytes", bytes.len());
        assert_eq!(guard(&bytes), Err(GuardError::Rows), "{count}");
    }
}

/// One column at a time asks for too many rows, each in every form of a run.
#[test]
fn each_column_is_counted() {
    let two = 2_000_000_000;
    let repeat = |cell: &[u8]| [&signed_leb(two), cell].concat();
    let nulls = [vec![0], unsigned_leb(two)].concat();
    for (specification, cell) in
        [(0x01, &[0][..]), (0x02, &[0]), (0x11, &[0]), (0x13, &[0]), (0x15, b"\x01a"), (0x42, &[1]), (0x56, &[0])]
    {
        assert_eq!(guard(&change_with(&[(specification, repeat(cell))])), Err(GuardError::Rows), "{specification:x}");
        assert_eq!(guard(&change_with(&[(specification, nulls.clone())])), Err(GuardError::Rows), "{specification:x}");
    }
    assert_eq!(guard(&change_with(&[(0x34, unsigned_leb(two))])), Err(GuardError::Rows));
    assert_eq!(guard(&change_with(&[(0x34, vec![0xff, 0x1f, 0x01])])), Ok(()), "4,095 and 1");
    assert_eq!(guard(&change_with(&[(0x34, vec![0xff, 0x1f, 0x02])])), Err(GuardError::Rows), "4,095 and 2");
    // A single row that asks for rows in the columns of its group.
    assert_eq!(guard(&change_with(&[(0x70, [vec![1], unsigned_leb(two)].concat())])), Err(GuardError::Rows));
    assert_eq!(guard(&change_with(&[(0x70, [vec![0x7f], unsigned_leb(two)].concat())])), Err(GuardError::Rows));
    assert_eq!(guard(&change_with(&[(0x73, repeat(&[0]))])), Err(GuardError::Rows));
    // A literal run that says more cells than there are bytes; the type of a compressed column.
    assert_eq!(guard(&change_with(&[(0x42, vec![0x80, 0x60])])), Err(GuardError::Malformed));
    assert_eq!(guard(&change_with(&[(0x4a, vec![])])), Err(GuardError::Column(10)));
    let columns: Vec<_> = (0..33).map(|_| (0x42, vec![])).collect();
    assert_eq!(guard(&change_with(&columns)), Err(GuardError::Rows));
}

#[test]
fn chunks_that_are_no_plain_change() {
    let honest = encode(&sample()).unwrap();
    let body = &honest[11..]; // a length of two bytes
    assert_eq!(chunk(1, body)[..], honest[..], "the mended checksum is Automerge's");
    for kind in [0, 2, 3, 4, 255] {
        assert_eq!(guard(&chunk(kind, body)), Err(GuardError::ChunkType(kind)));
        assert_eq!(hash_of(&chunk(kind, body)), None);
    }
    for cut in 0..honest.len() {
        assert!(guard(&honest[..cut]).is_err() && hash_of(&honest[..cut]).is_none(), "{cut}");
    }
    assert_eq!(guard(&[&honest[..], &[0]].concat()), Err(GuardError::Trailing));
    let mut checksum = honest.clone();
    checksum[4] ^= 1;
    assert!(decode(&checksum).is_err(), "the checksum is checked");
    assert_eq!(decode(&chunk(1, &[body, &[1]].concat())), Err(RawError::ExtraBytes));
}

/// A length, count or number that is written longer than needed gives other bytes for the same change.
#[test]
fn only_one_encoding_of_a_change_is_taken() {
    let honest = encode(&NewChange { deps: vec![], ..sample() }).unwrap();
    let body = &honest[10..];
    assert_eq!(body[..2], [0, 16]);
    let long = chunk(1, &[&[0x80, 0], &body[1..]].concat());
    assert!(decode(&long).is_err());
    let mut header = honest.clone();
    header.splice(9..10, [honest[9] | 0x80, 0]);
    crate::fixture::mend(&mut header);
    assert!(decode(&header).is_err());
    // Two nulls in two runs where one would do.
    let columns = |value: Vec<u8>| {
        change_with(&[
            (0x15, b"\x7e\x01a\x01b".to_vec()),
            (0x34, vec![2]),
            (0x42, vec![2, 1]),
            (0x56, value),
            (0x70, vec![2, 0]),
        ])
    };
    assert!(decode(&columns(vec![2, 0])).is_ok());
    assert!(decode(&columns(vec![1, 0, 1, 0])).is_err());
}

fn never_panics(bytes: &[u8]) {
    let _ = hash_of(bytes);
    let _ = guard(bytes);
    let _ = decode(bytes);
}

#[test]
fn mutated_bytes_never_panic() {
    let honest = encode(&sample()).unwrap();
    for seed in 0..6_000 {
        let mut rng = Rng(seed);
        let mut bytes = honest.clone();
        for _ in 0..1 + rng.below(4) {
            let at = 8 + rng.below(bytes.len() - 8);
            match rng.below(3) {
                0 => bytes[at] ^= 1 << rng.below(8),
                1 => bytes[at] = rng.next() as u8,
                _ => bytes.insert(at, rng.next() as u8),
            }
        }
        crate::fixture::mend(&mut bytes);
        never_panics(&bytes);
    }
}

proptest! {
    #![proptest_config(crate::fixture::cases(512))]

    #[test]
    fn decode_is_the_inverse_of_encode(new in new_change()) {
        let bytes = encode(&new).unwrap();
        let read = decode(&bytes).unwrap();
        prop_assert_eq!(Some(read.hash), hash_of(&bytes));
        let NewChange { actor, seq, start_op, time_s, message, deps, operations } = new;
        let hash = read.hash;
        prop_assert_eq!(read, RawChange { hash, actor, seq, start_op, time_s, message, deps, operations });
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..5) {
        never_panics(&bytes);
        never_panics(&chunk(kind, &bytes));
        never_panics(&chunk(1, &[&[0, 16][..], &[7; 16], &[1, 1, 0, 0, 0], &bytes].concat()));
    }
}
