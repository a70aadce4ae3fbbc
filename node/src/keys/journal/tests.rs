#![allow(clippy::unwrap_used)]

use std::sync::Barrier;

use crdt::change::{LogName, RawBytes};
use crdt::id::Key;
use crdt::raw::{Action, NewChange, Operation, encode};
use crdt::schema::{DocumentName, Value};
use tempfile::TempDir;

use super::*;

const FLEET: FleetId = FleetId([0xf1; 32]);
const CARRIER: DeviceId = DeviceId([0xd1; 32]);

/// Entry of the first change of [`log_name`], which sets the path to "a".
const GOLDEN_ENTRY: &str = "\
    {\"version\":1,\"actor\":\"b775f1e792ba36d3068a048b05976144\",\"seq\":1,\"hash\":\"b75687a03edd56f160fc13722\
    d00f144041e1a87e1f9ba46f2d6deb907197c03\",\"change\":\"010b636f6e6669672f7369746501ea4a6c63e29c520abef5507b1\
    32ec5f9954776aebebe7b92421eea691446d22cd1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d103010\
    00000000000000000000000000000000000000000000000000000000000000049856f4a83b75687a0013f0010b775f1e792ba36d3068\
    a048b05976144010180e2cfaa06000006150f340142025602570170027f0d6578706f737572652e6d6f6465017f017f16617f00\",\"\
    signature\":\"0444156e494888a80a60a64e125be447556b66f95deed4224cf69dbd8bf25f9161313920c1ed0caa07e6c2b874e134\
    e086a99c73278056fc34110b023da46509\",\"accepted\":false}\n";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn log_name(carrier: DeviceId) -> LogName {
    let document = DocumentName::config("site").unwrap();
    LogName { document, epoch: 1, author: public_of(&key()), carrier, incarnation: 3 }
}

/// Change `seq` of the log on `carrier`, which sets a path to `value`.
fn prepared_on(carrier: DeviceId, seq: u64, chain_before: ChainHash, value: &str) -> PreparedChange {
    let log = log_name(carrier);
    let operation = Operation {
        path: "exposure.mode".to_owned(),
        action: Action::Put(Value::Text(value.to_owned())),
        pred: vec![],
    };
    let new = NewChange {
        actor: log.actor(&FLEET),
        seq,
        start_op: seq,
        time_s: 1_700_000_000,
        message: None,
        deps: vec![],
        operations: vec![operation],
    };
    PreparedChange { log, seq, chain_before, raw: RawBytes(encode(&new).unwrap()) }
}

fn prepared(seq: u64, chain_before: ChainHash, value: &str) -> PreparedChange {
    prepared_on(CARRIER, seq, chain_before, value)
}

fn keys() -> (TempDir, Keys) {
    let dir = TempDir::new().unwrap();
    let keys = Keys::open(dir.path(), FLEET);
    (dir, keys)
}

/// Signs numbers 1 to `count` and returns what was signed.
fn signed_chain(keys: &Keys, count: u64) -> Vec<Signed> {
    let mut chain = ChainHash::START;
    (1..=count)
        .map(|seq| {
            let signed = keys.sign_change(&key(), &prepared(seq, chain, &seq.to_string())).unwrap();
            chain = signed.chain_after();
            signed
        })
        .collect()
}

fn path(keys: &Keys, signed: &Signed) -> PathBuf {
    keys.log(signed.actor).path(signed.seq)
}

fn seqs(entries: &[Signed]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn a_signature_is_stored_before_it_is_handed_out_and_verifies() {
    let (_dir, keys) = keys();
    let change = prepared(1, ChainHash::START, "a");
    let signed = keys.sign_change(&key(), &change).unwrap();
    assert_eq!(signed.actor, log_name(CARRIER).actor(&FLEET));
    let chain = ChainHash::START.next(&change.hash().unwrap());
    assert!(is_vouched(&public_of(&key()), &FLEET, &signed.actor, 1, &chain, &signed.signature));
    assert_eq!(std::fs::read_to_string(path(&keys, &signed)).unwrap(), signed.to_json());
    assert_eq!(keys.log(signed.actor).read(1).unwrap(), signed);
}

/// Golden: entries of an older version of this program must be read, or a number could be signed twice.
#[test]
fn golden_entry() {
    let (_dir, keys) = keys();
    let mut signed = keys.sign_change(&key(), &prepared(1, ChainHash::START, "a")).unwrap();
    assert_eq!(signed.to_json(), GOLDEN_ENTRY);
    signed.lost_to = Some(ChainHash([0xc1; 32]));
    signed.accepted = true;
    let end = format!(r#""accepted":true,"lost_to":"{}"}}"#, "c1".repeat(32));
    assert!(signed.to_json().trim_end().ends_with(&end), "{}", signed.to_json());
    assert_eq!(Signed::from_json(signed.to_json().as_bytes(), &FLEET, signed.actor, 1), Ok(signed));
}

#[test]
fn a_number_is_never_signed_for_a_second_change() {
    let (_dir, keys) = keys();
    let first = prepared(1, ChainHash::START, "a");
    let signed = keys.sign_change(&key(), &first).unwrap();
    // The command died before it could submit; the daemon prepares the change anew, with another hash.
    let keys = Keys::open(keys.folder.parent().unwrap(), FLEET);
    std::fs::write(path(&keys, &signed).with_file_name(".1.json.new"), b"half").unwrap();
    for _ in 0..2 {
        let other = keys.sign_change(&key(), &prepared(1, ChainHash::START, "b")).unwrap_err();
        assert!(matches!(other, SignError::Other(entry) if *entry == signed));
    }
    assert_eq!(keys.sign_change(&key(), &first).unwrap(), signed);
    assert_eq!(keys.unaccepted(None).unwrap().entries, std::slice::from_ref(&signed));
    keys.accepted(&signed).unwrap();
    keys.accepted(&signed).unwrap();
    assert!(keys.sign_change(&key(), &first).unwrap().accepted);
    assert!(keys.unaccepted(None).unwrap().entries.is_empty());
    let other = keys.sign_change(&key(), &prepared(1, ChainHash::START, "b")).unwrap_err();
    assert!(matches!(other, SignError::Other(_)));
}

/// One signature vouches for the whole log, so a later one must not vouch for another change at a signed number.
#[test]
fn a_later_signature_cannot_vouch_for_another_history() {
    let (_dir, keys) = keys();
    let signed = signed_chain(&keys, 1).remove(0);
    let other = prepared(1, ChainHash::START, "other").hash().unwrap();
    let error = keys.sign_change(&key(), &prepared(2, ChainHash::START.next(&other), "2")).unwrap_err();
    assert!(matches!(&error, SignError::History(entry) if **entry == signed), "{error}");
    assert!(keys.sign_change(&key(), &prepared(2, signed.chain_after(), "2")).is_ok());
    // A node that fell back asks for a number that the journal has passed by.
    let signed = keys.sign_change(&key(), &prepared(9, ChainHash([9; 32]), "9")).unwrap();
    let behind = keys.sign_change(&key(), &prepared(5, ChainHash([5; 32]), "5")).unwrap_err();
    assert!(matches!(behind, SignError::Behind { seq: 5, newest: 9 }));
    assert_eq!(signed.seq, 9);
}

#[test]
fn a_number_lost_to_another_folder_with_this_key_lets_the_log_go_on() {
    let (_dir, keys) = keys();
    let (_dir, laptop) = self::keys();
    let ours = signed_chain(&keys, 1).remove(0);
    let theirs = laptop.sign_change(&key(), &prepared(1, ChainHash::START, "theirs")).unwrap();
    let next = prepared(2, theirs.chain_after(), "2");
    assert!(matches!(keys.sign_change(&key(), &next), Err(SignError::History(_))));
    // Not without proof: another number's signature, or the very same change.
    let forged = keys.lost(&ours, &theirs.change, &ours.signature).unwrap_err();
    assert!(matches!(forged, SignError::NotLost(1)));
    assert!(matches!(keys.lost(&ours, &ours.change, &ours.signature), Err(SignError::NotLost(1))));
    keys.lost(&ours, &theirs.change, &theirs.signature).unwrap();
    assert!(keys.unaccepted(None).unwrap().entries.is_empty());
    assert_eq!(keys.sign_change(&key(), &next).unwrap().seq, 2);
    assert!(matches!(keys.sign_change(&key(), &theirs.change), Err(SignError::Other(_))));
    // What a node took cannot be lost.
    laptop.accepted(&theirs).unwrap();
    assert!(matches!(laptop.lost(&theirs, &ours.change, &ours.signature), Err(SignError::NotLost(1))));
}

#[test]
fn what_is_not_as_it_is_said_to_be_is_not_signed() {
    let (_dir, keys) = keys();
    let good = prepared(1, ChainHash::START, "a");
    let strangers = PreparedChange { log: LogName { author: Key([1; 32]), ..good.log.clone() }, ..good.clone() };
    let cases = [
        PreparedChange { seq: 2, ..good.clone() },
        PreparedChange { log: log_name(DeviceId([0xd2; 32])), ..good.clone() },
        PreparedChange { chain_before: ChainHash([1; 32]), ..good.clone() },
        PreparedChange { raw: RawBytes(vec![1, 2, 3]), ..good.clone() },
        strangers,
    ];
    for change in cases {
        let error = keys.sign_change(&key(), &change).unwrap_err();
        assert!(matches!(error, SignError::Unsound(_)), "{error}");
    }
    let error = keys.sign_change(&SigningKey::from_bytes(&[8; 32]), &good).unwrap_err();
    assert!(matches!(error, SignError::Author));
    assert!(keys.logs().unwrap().is_empty());
}

#[test]
fn a_damaged_entry_is_an_error_and_is_never_signed_over() {
    let (_dir, keys) = keys();
    let signed = signed_chain(&keys, 2);
    let last = &signed[1];
    let path = path(&keys, last);
    let good = last.to_json();
    let damages = [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace(&last.hash.to_string(), &signed[0].hash.to_string()),
        good.replace(&hex(&last.signature.0), &hex(&signed[0].signature.0)),
        good.replace(&hex(&last.change.encode()), &hex(&signed[0].change.encode())),
        good.replace("\"seq\":2", "\"seq\":3"),
        good.replace("\"accepted\":false", "\"accepted\":false,\"more\":1"),
        signed[0].to_json(),
        "x".repeat(300_000),
    ];
    for damage in damages {
        assert_ne!(damage, good);
        std::fs::write(&path, &damage).unwrap();
        let attempts = [prepared(2, signed[0].chain_after(), "again"), prepared(3, last.chain_after(), "3")];
        for attempt in attempts.iter().chain([&last.change]) {
            let error = keys.sign_change(&key(), attempt).unwrap_err();
            assert!(matches!(error, SignError::Keys(KeyError::Damaged { .. })), "{error}");
        }
        assert!(matches!(keys.accepted(last), Err(KeyError::Damaged { .. })));
        let found = keys.unaccepted(None).unwrap();
        assert!(found.entries.is_empty());
        assert_eq!(found.damaged.len(), 1);
        assert_eq!(keys.prune_to(1).unwrap(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), damage);
        assert_eq!(keys.log(last.actor).seqs().unwrap(), BTreeSet::from([1, 2]));
    }
}

#[test]
fn lost_answers_are_found_by_carrier_and_in_order() {
    let (_dir, keys) = keys();
    let elsewhere = DeviceId([0xd2; 32]);
    let signed = signed_chain(&keys, 12);
    keys.sign_change(&key(), &prepared_on(elsewhere, 1, ChainHash::START, "a")).unwrap();
    assert_eq!(seqs(&keys.unaccepted(Some(&CARRIER)).unwrap().entries), (1..=12).collect::<Vec<_>>());
    keys.accepted(&signed[8]).unwrap();
    assert_eq!(seqs(&keys.unaccepted(Some(&CARRIER)).unwrap().entries), [10, 11, 12]);
    assert_eq!(seqs(&keys.unaccepted(Some(&elsewhere)).unwrap().entries), [1]);
    assert_eq!(keys.unaccepted(None).unwrap().entries.len(), 4);
}

#[test]
fn pruning_takes_the_oldest_settled_and_never_opens_a_number_again() {
    let (_dir, keys) = keys();
    assert_eq!(keys.prune().unwrap(), 0);
    let signed = signed_chain(&keys, 7);
    assert_eq!(keys.prune_to(1).unwrap(), 0);
    keys.accepted(&signed[4]).unwrap();
    assert_eq!(keys.prune_to(2).unwrap(), 3);
    assert_eq!(keys.log(signed[0].actor).seqs().unwrap(), BTreeSet::from([4, 5, 6, 7]));
    let again = keys.sign_change(&key(), &prepared(2, signed[0].chain_after(), "again")).unwrap_err();
    assert!(matches!(again, SignError::Behind { seq: 2, newest: 7 }));
    keys.accepted(&signed[6]).unwrap();
    assert_eq!(keys.prune_to(0).unwrap(), 3);
    let again = keys.sign_change(&key(), &prepared(7, signed[5].chain_after(), "again")).unwrap_err();
    assert!(matches!(again, SignError::Other(_)));
    assert!(matches!(keys.accepted(&signed[0]), Err(KeyError::NoEntry { .. })));
}

#[test]
fn of_signers_at_once_one_gets_the_number() {
    const SIGNERS: usize = 8;
    let (_dir, keys) = keys();
    let mut chain = ChainHash::START;
    for seq in 1..=5 {
        let barrier = Barrier::new(SIGNERS);
        let sign = |signer: usize| {
            barrier.wait();
            keys.sign_change(&key(), &prepared(seq, chain, &format!("by {signer}")))
        };
        let answers: Vec<Result<Signed, SignError>> = std::thread::scope(|scope| {
            let signers: Vec<_> = (0..SIGNERS).map(|signer| scope.spawn(move || sign(signer))).collect();
            signers.into_iter().map(|signer| signer.join().unwrap()).collect()
        });
        let winners: Vec<&Signed> = answers.iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        for answer in &answers {
            let entry = match answer {
                Ok(entry) => entry,
                Err(SignError::Other(entry)) => entry,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(entry, winners[0]);
        }
        chain = winners[0].chain_after();
    }
}
