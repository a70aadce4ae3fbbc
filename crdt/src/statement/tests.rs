use ed25519_dalek::{Verifier, VerifyingKey};
use proptest::prelude::*;

use super::*;
use crate::fixture::{Rng, public, secret};
use crate::id::DeviceId;

mod golden;

const FLEET: FleetId = FleetId([0xf1; 32]);

/// One body of each kind that is known.
fn bodies() -> Vec<Body> {
    let device = public(&secret(3)).device();
    vec![
        Body::Root(RootKeys { keys: vec![public(&secret(1)), public(&secret(2))], threshold: 2 }),
        Body::Operator(Operator {
            key: public(&secret(2)),
            name: "ada".to_owned(),
            roles: vec![Role::Enrol, Role::Config],
        }),
        Body::Invitation(Invitation {
            key: public(&secret(4)),
            name: "robot-7".to_owned(),
            zone: "yard".to_owned(),
            labels: [("rack".to_owned(), "b".to_owned())].into(),
            not_after_ms: 1_800_000_000_000,
        }),
        Body::Admission(Admission {
            invitation: public(&secret(4)),
            device: public(&secret(3)),
            sealing: [9; 32],
            fingerprint: [[1; 32], [2; 32], [3; 32]],
        }),
        Body::Pin(Pin { invitation: public(&secret(4)), admission: StatementId([7; 32]) }),
        Body::Assigned(Assigned { device, attribute: "label/rack".to_owned(), value: Some("c".to_owned()) }),
        Body::Removal(Removal { device, reason: "sold".to_owned() }),
    ]
}

fn statement_of(body: Body) -> Statement {
    let fleet = (!matches!(body, Body::Root(_))).then_some(FLEET);
    body.into_statement(fleet, &[], 1_700_000_000_000)
}

fn sample() -> Statement {
    let body = Body::Removal(Removal { device: DeviceId([5; 32]), reason: "sold".to_owned() });
    body.into_statement(Some(FLEET), &[(StatementId([2; 32]), 4), (StatementId([1; 32]), 6)], 1_000)
}

#[test]
fn every_kind_round_trips() {
    for body in bodies() {
        let statement = statement_of(body.clone());
        assert_eq!(Statement::decode(&statement.encode()), Ok(statement.clone()));
        assert_eq!(Body::of(&statement), Ok(body));
        let signed = statement.sign(&secret(1));
        assert_eq!(SignedStatement::from_parts(signed.parts()), Ok(signed));
    }
    let unknown = Statement { kind: "heartbeat".to_owned(), ..sample() };
    assert_eq!(Body::of(&unknown), Ok(Body::Unknown));
}

#[test]
fn versions_follow_what_is_replaced() {
    assert_eq!((sample().version, sample().replaces), (7, vec![StatementId([1; 32]), StatementId([2; 32])]));
    assert_eq!(statement_of(bodies().remove(1)).version, 1);
}

/// The pairs of the sample's map, encoded.
fn pairs() -> Vec<(Vec<u8>, Vec<u8>)> {
    let bytes = sample().encode();
    let Ipld::Map(map) = serde_ipld_dagcbor::from_slice(&bytes).unwrap() else { panic!("a map") };
    let encode = |value: &Ipld| serde_ipld_dagcbor::to_vec(value).unwrap();
    let mut pairs: Vec<_> = map.iter().map(|(k, v)| (encode(&Ipld::String(k.clone())), encode(v))).collect();
    pairs.sort_by_key(|(key, _)| (key.len(), key.clone()));
    pairs
}

fn map_of(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0xa0 + pairs.len() as u8];
    pairs.iter().for_each(|(key, value)| bytes.extend([&key[..], value].concat()));
    bytes
}

fn at(pairs: &[(Vec<u8>, Vec<u8>)], name: &str) -> usize {
    pairs.iter().position(|(key, _)| &key[1..] == name.as_bytes()).unwrap()
}

#[test]
fn only_the_canonical_form_is_a_statement() {
    assert_eq!(map_of(&pairs()), sample().encode(), "the pairs are put together as they were");
    let refused = |what: &str, bytes: Vec<u8>| assert!(Statement::decode(&bytes).is_err(), "{what}");
    let mut reordered = pairs();
    reordered.swap(0, 1);
    refused("reordered keys", map_of(&reordered));
    let mut twice = pairs();
    twice.insert(0, twice[0].clone());
    refused("a key twice", map_of(&twice));
    let mut twice = pairs();
    twice[1] = twice[0].clone();
    refused("a key twice instead of another", map_of(&twice));
    let mut extra = pairs();
    extra.push((b"\x68zzzzzzzz".to_vec(), vec![0xf6]));
    refused("an extra field", map_of(&extra));
    let mut without = pairs();
    without.remove(3);
    refused("a missing field", map_of(&without));
    let version = at(&pairs(), "version");
    for wrong in [&[0x18, 7][..], &[0x19, 0, 7], &[0x1b, 0, 0, 0, 0, 0, 0, 0, 7], &[0x26], &[0xfb, 0x40, 0x1c], &[0x67]]
    {
        let mut pairs = pairs();
        pairs[version].1 = wrong.to_vec();
        refused("another form of a number", map_of(&pairs));
    }
    let kind = at(&pairs(), "kind");
    for wrong in [&b"\x7f\x67removal\xff"[..], b"\x78\x07removal", b"\x47removal", b"\x60", b"\x67remova\xff"] {
        let mut pairs = pairs();
        pairs[kind].1 = wrong.to_vec();
        refused("another form of a text", map_of(&pairs));
    }
    let indefinite = [&[0xbf], &map_of(&pairs())[1..], &[0xff]].concat();
    refused("an indefinite length", indefinite);
    refused("trailing bytes", [sample().encode(), vec![0]].concat());
    refused("two statements", [sample().encode(), sample().encode()].concat());
    for cut in 0..sample().encode().len() {
        refused("a statement cut short", sample().encode()[..cut].to_vec());
    }
    let format = at(&pairs(), "format");
    let mut pairs = pairs();
    pairs[format].1 = vec![2];
    assert_eq!(Statement::decode(&map_of(&pairs)), Err(StatementError::Format(2)));
}

/// What DAG-CBOR does not have must neither pass nor reach the encoder, which cannot write it.
#[test]
fn bodies_with_numbers_that_do_not_exist() {
    let body = at(&pairs(), "body");
    let floats: [&[u8]; 6] = [
        &[0xfb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0],
        &[0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0],
        &[0xfb, 0xff, 0xf0, 0, 0, 0, 0, 0, 0],
        &[0xf9, 0x7e, 0],
        &[0xfa, 0x7f, 0x80, 0, 0],
        &[0xf7],
    ];
    for wrong in floats {
        for value in [wrong.to_vec(), [&[0x81], wrong].concat(), [&[0xa1, 0x61, b'a'], wrong].concat()] {
            let mut pairs = pairs();
            pairs[body].1 = value;
            assert!(Statement::decode(&map_of(&pairs)).is_err(), "{wrong:x?}");
        }
    }
    // What exists, in another form than the canonical one.
    let others: [&[u8]; 12] = [
        &[0xf9, 0x3e, 0],
        &[0xfa, 0x3f, 0xc0, 0, 0],
        &[0x18, 5],
        &[0x38, 5],
        &[0xf8, 20],
        &[0x9f, 0xf6, 0xff],
        &[0x98, 1, 0xf6],
        &[0xb8, 1, 0x61, b'a', 0xf6],
        &[0xa2, 0x61, b'b', 0xf6, 0x61, b'a', 0xf6],
        &[0xa2, 0x62, b'a', b'a', 0xf6, 0x61, b'b', 0xf6],
        &[0xa2, 0x61, b'a', 0xf6, 0x61, b'a', 0xf6],
        &[0xa1, 0x01, 0xf6],
    ];
    for wrong in others {
        let mut pairs = pairs();
        pairs[body].1 = wrong.to_vec();
        assert!(Statement::decode(&map_of(&pairs)).is_err(), "{wrong:x?}");
    }
    let finite = Statement { body: Ipld::Float(1.5), ..sample() };
    assert_eq!(Statement::decode(&finite.encode()), Ok(finite));
}

#[test]
fn deep_and_long_bodies() {
    let body = at(&pairs(), "body");
    for opener in [&[0x81][..], &[0xa1, 0x61, b'a'], &[0x9f], &[0xd8, 0x2a], &[0xc1]] {
        for depth in [100, 1_000, 3_500 / opener.len()] {
            let mut pairs = pairs();
            pairs[body].1 = [opener.repeat(depth), vec![0xf6]].concat();
            let _ = Statement::decode(&map_of(&pairs)); // it returns
        }
        assert!(Statement::decode(&opener.repeat(2_000 / opener.len())).is_err());
    }
    // A length that no bytes follow asks for no memory.
    for bomb in [&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0x5b, 0, 0, 0, 0xff, 0, 0, 0, 0]] {
        let mut pairs = pairs();
        pairs[body].1 = bomb.to_vec();
        assert!(Statement::decode(&map_of(&pairs)).is_err());
    }
    let sized = |length: usize| Statement { body: Ipld::Bytes(vec![0; length]), ..sample() };
    let rest = sized(1_000).encode().len() - 1_000;
    let most = sized(STATEMENT_BYTES_MAX - rest);
    assert_eq!(most.encode().len(), STATEMENT_BYTES_MAX);
    assert_eq!(Statement::decode(&most.encode()), Ok(most));
    let more = sized(STATEMENT_BYTES_MAX - rest + 1).encode();
    assert_eq!(Statement::decode(&more), Err(StatementError::Size(STATEMENT_BYTES_MAX + 1)));
}

#[test]
fn limits_of_the_envelope() {
    let ids = |count: usize| (0..count).map(|n| StatementId([n as u8; 32])).collect::<Vec<_>>();
    let with = |statement: Statement| Statement::decode(&statement.encode()).map(|_| ());
    assert_eq!(with(Statement { replaces: ids(32), ..sample() }), Ok(()));
    let envelope = |field| Err(StatementError::Envelope(field));
    assert_eq!(with(Statement { replaces: ids(33), ..sample() }), envelope("replaces"));
    let twice = vec![StatementId([1; 32]); 2];
    assert_eq!(with(Statement { replaces: twice, ..sample() }), envelope("replaces"));
    let backward = ids(2).into_iter().rev().collect();
    assert_eq!(with(Statement { replaces: backward, ..sample() }), envelope("replaces"));
    assert_eq!(with(Statement { kind: String::new(), ..sample() }), envelope("kind"));
    assert_eq!(with(Statement { kind: "k".repeat(257), ..sample() }), envelope("kind"));
    assert_eq!(with(Statement { subject: "s".repeat(257), ..sample() }), envelope("subject"));
    assert_eq!(with(Statement { version: u64::MAX, ..sample() }), Ok(()));
}

#[test]
fn bodies_that_do_not_fit_their_kind() {
    for body in bodies() {
        let right = statement_of(body);
        let Ipld::Map(fields) = &right.body else { panic!("a map") };
        let is_free = |name: &str| name == "time";
        for name in fields.keys().filter(|name| !is_free(name)) {
            let mut without = fields.clone();
            without.remove(name);
            let statement = Statement { body: Ipld::Map(without), ..right.clone() };
            assert!(Body::of(&statement).is_err(), "{} without {name}", right.kind);
            let mut other = fields.clone();
            other.insert(name.clone(), Ipld::Bool(true));
            let statement = Statement { body: Ipld::Map(other), ..right.clone() };
            assert!(Body::of(&statement).is_err(), "{} with another {name}", right.kind);
        }
        let mut more = fields.clone();
        more.insert("later".to_owned(), Ipld::Null);
        assert!(Body::of(&Statement { body: Ipld::Map(more), ..right.clone() }).is_ok(), "new fields are ignored");
        assert!(Body::of(&Statement { subject: "another".to_owned(), ..right.clone() }).is_err());
        assert!(Body::of(&Statement { body: Ipld::Null, ..right }).is_err());
    }
    for (keys, threshold) in [(1, 0), (1, 2), (17, 1), (0, 0), (0, 1)] {
        let keys = (0..keys).map(|n| Key([n; 32])).collect();
        assert!(Body::of(&statement_of(Body::Root(RootKeys { keys, threshold }))).is_err());
    }
    let twice = RootKeys { keys: vec![Key([1; 32]); 2], threshold: 2 };
    assert!(Body::of(&statement_of(Body::Root(twice))).is_err());
}

#[test]
fn signatures_of_a_statement() {
    let mut signed = sample().sign(&secret(1));
    signed.add_signature(&secret(2));
    let parts = signed.parts();
    assert_eq!(parts.signatures.len(), 2);
    let none = StatementParts { signatures: vec![], ..parts.clone() };
    assert_eq!(SignedStatement::from_parts(none), Err(StatementError::Signatures));
    let mut backward = parts.clone();
    backward.signatures.reverse();
    assert_eq!(SignedStatement::from_parts(backward), Err(StatementError::Signatures));
    let mut twice = parts.clone();
    twice.signatures[1] = twice.signatures[0];
    assert_eq!(SignedStatement::from_parts(twice), Err(StatementError::Signatures));
    let mut swapped = parts.clone();
    swapped.signatures[0].1 = parts.signatures[1].1;
    assert!(matches!(SignedStatement::from_parts(swapped), Err(StatementError::Signature(_))));
    let mut many = sample().sign(&secret(1));
    (2..34).for_each(|n| many.add_signature(&secret(n)));
    assert_eq!(SignedStatement::from_parts(many.parts()), Err(StatementError::Signatures));
    // Signatures do not change the id; of two by one key the lower bytes stay, from either side.
    assert_eq!(sample().sign(&secret(9)).id(), signed.id());
    assert!(!signed.clone().merge(&signed));
    let mut one = sample().sign(&secret(1));
    assert!(one.merge(&signed) && one == signed);
    let other = Statement { version: 8, ..sample() }.sign(&secret(5));
    assert!(!one.merge(&other));
}

/// The order of the group of ed25519, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn signatures_are_verified_strictly() {
    let signed = sample().sign(&secret(1));
    let message = signing_bytes(&signed.id());
    let (key, signature) = (public(&secret(1)), signed.signatures()[&public(&secret(1))]);
    assert!(verifies(&key, &message, &signature));
    let mut malleable = signature;
    let mut carry = 0;
    for (byte, order) in malleable[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert!(!verifies(&key, &message, &malleable), "S + L");
    // The neutral element as a key, as R, and S = 0: without strictness a signature of every message.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut forged = [0; 64];
    forged[0] = 1;
    let lax = VerifyingKey::from_bytes(&neutral).unwrap();
    assert!(lax.verify(&message, &ed25519_dalek::Signature::from_bytes(&forged)).is_ok(), "it would pass");
    assert!(!verifies(&Key(neutral), &message, &forged));
    assert!(!verifies(&Key([0; 32]), &message, &[0; 64]));
    let mut parts = signed.parts();
    parts.signatures = vec![(Key(neutral), SignatureBytes(forged))];
    assert_eq!(SignedStatement::from_parts(parts), Err(StatementError::Signature(Key(neutral))));
}

#[test]
fn mutated_statements_never_panic_and_never_pass() {
    for (number, body) in bodies().into_iter().enumerate() {
        let signed = statement_of(body).sign(&secret(1));
        for seed in 0..2_000 {
            let mut rng = Rng(seed * 7 + number as u64);
            let mut parts = signed.parts();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(parts.bytes.len());
                match rng.below(3) {
                    0 => parts.bytes[at] ^= 1 << rng.below(8),
                    1 => parts.bytes[at] = *rng.pick(&[0xfb, 0x9f, 0xbf, 0xff, 0x1b, 0xd8, 0xf7, 0x5f, 0x80]),
                    _ => parts.bytes.insert(at, rng.next() as u8),
                }
            }
            if let Ok(statement) = Statement::decode(&parts.bytes) {
                assert_eq!(statement.encode(), parts.bytes);
                let _ = Body::of(&statement);
            }
            let is_same = parts.bytes == signed.parts().bytes;
            assert_eq!(SignedStatement::from_parts(parts).is_ok(), is_same, "seed {seed}");
        }
    }
}

fn ipld() -> impl Strategy<Value = Ipld> {
    let leaf = prop_oneof![
        Just(Ipld::Null),
        any::<bool>().prop_map(Ipld::Bool),
        any::<i64>().prop_map(|number| Ipld::Integer(number.into())),
        any::<u64>().prop_map(|number| Ipld::Integer(number.into())),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Ipld::Float),
        ".{0,12}".prop_map(Ipld::String),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Ipld::Bytes),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Ipld::List),
            proptest::collection::btree_map(".{0,6}", inner, 0..5).prop_map(Ipld::Map),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_round_trips(body in ipld(), version in any::<u64>(), fleet in proptest::option::of(any::<[u8; 32]>())) {
        let statement = Statement { body, version, fleet: fleet.map(FleetId), ..sample() };
        let bytes = statement.encode();
        prop_assume!(bytes.len() <= STATEMENT_BYTES_MAX);
        prop_assert_eq!(Statement::decode(&bytes), Ok(statement));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Statement::decode(&bytes);
        let body = at(&pairs(), "body");
        let mut pairs = pairs();
        pairs[body].1 = bytes;
        let _ = Statement::decode(&map_of(&pairs));
    }
}
