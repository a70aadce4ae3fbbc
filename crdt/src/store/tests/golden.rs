//! Golden: what lies in data folders. A change here is a new storage format.

use super::*;
use crate::change::{LogName, RawBytes};
use crate::id::{Actor, ChainHash, ChangeHash, DeviceId, Key, StatementId, hex};
use crate::raw::OpId;
use crate::schema::{DocumentName, Value};
use crate::statement::SignatureBytes;

fn lines(entries: &[(&str, Vec<u8>)]) -> String {
    entries.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect()
}

#[test]
fn golden_keys() {
    let actor = Actor([0xaa; 16]);
    let document = DocumentName::config("camera").unwrap();
    let id = OpId { counter: 258, actor };
    let (from, to, path_at) = index_range(&document);
    let (history_from, history_to) = history_range(&document, "a.b");
    let keys = [
        ("meta", meta_key(&actor).to_vec()),
        ("change", change_key(&actor, 258).to_vec()),
        ("hash", hash_key(&ChangeHash([0xbb; 32])).to_vec()),
        ("statement", statement_key(&StatementId([0xcc; 32])).to_vec()),
        ("position", position_key(258).to_vec()),
        ("index", index_key(&document, "a.b")),
        ("index_from", from.clone()),
        ("index_to", to.clone()),
        ("history", history_key(&document, "a.b", &id)),
        ("history_from", history_from.clone()),
        ("history_to", history_to.clone()),
    ];
    assert_eq!(lines(&keys), GOLDEN_KEYS);
    assert_eq!(change_of_key(&change_key(&actor, 258)), Some((actor, 258)));
    assert_eq!(change_of_key(&[0; 23]), None);
    assert_eq!(change_of_key(&[0; 25]), None);
    let history = history_key(&document, "a.b", &id);
    assert_eq!(op_of_history_key(&history), Some(id));
    assert_eq!(op_of_history_key(&[0; 23]), None);
    assert!(history_from < history && history < history_to);
    assert_eq!(&index_key(&document, "a.b")[path_at..], b"a.b");
    // The range of a document holds no key of another whose name it starts, and that of a path no longer path.
    let longer = index_key(&DocumentName::config("camera-2").unwrap(), "a");
    assert!(!(from..to).contains(&longer));
    let longer = history_key(&document, "a.bc", &id);
    assert!(!(history_from..history_to).contains(&longer));
}

const GOLDEN_KEYS: &str = "\
meta aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
change aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0000000000000102
hash bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
statement cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
position 0000000000000102
index 000d636f6e6669672f63616d657261612e62
index_from 000d636f6e6669672f63616d657261
index_to 000d636f6e6669672f63616d657262
history 010d636f6e6669672f63616d657261612e62000000000000000102aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
history_from 010d636f6e6669672f63616d657261612e6200
history_to 010d636f6e6669672f63616d657261612e6201
";

fn log() -> LogName {
    LogName {
        document: DocumentName::config("camera").unwrap(),
        epoch: 1,
        author: Key([1; 32]),
        carrier: DeviceId([2; 32]),
        incarnation: 300,
    }
}

#[test]
fn golden_records() {
    let actor = Actor([0xaa; 16]);
    let id = |counter| OpId { counter, actor };
    let leaf = |counter, value| Leaf { id: id(counter), seq: 2, value, time_s: -5 };
    let values = [
        Value::Null,
        Value::Bool(true),
        Value::Int(-3),
        Value::Uint(300),
        Value::Float(1.5),
        Value::Text("night".to_owned()),
        Value::Bytes(vec![1, 2]),
        Value::Timestamp(1_000),
    ];
    let mut leaves = vec![leaf(1, None)];
    leaves.extend((2..).zip(values).map(|(counter, value)| leaf(counter, Some(value))));
    let change =
        |signature| encode_record(&ChangeRecord { raw: RawBytes(vec![1, 2, 3]), chain: ChainHash([4; 32]), signature });
    let log_record = LogRecord {
        log: log(),
        seq: 200,
        head: ChangeHash([3; 32]),
        chain: ChainHash([4; 32]),
        max_op: 5,
        raw_bytes: 6,
        values_bytes: 7,
    };
    let hash = HashRecord { actor, seq: 200, max_op: 5, clock: vec![(actor, 200), (Actor([0xbb; 16]), 1)] };
    let audit = AuditRecord {
        time_ms: 1_000,
        peer: Some(Key([5; 32])),
        author: None,
        carrier: Some(DeviceId([2; 32])),
        document: Some("config/camera".to_owned()),
        actor: Some(actor),
        seq: 3,
        reason: "because".to_owned(),
        evidence: vec![RawBytes(vec![9])],
    };
    let records = [
        ("log", encode_record(&log_record)),
        ("change", change(None)),
        ("signed", change(Some(SignatureBytes([6; 64])))),
        ("hash", encode_record(&hash)),
        ("order_log", encode_record(&OrderRecord::Log(actor, 200))),
        ("order_statement", encode_record(&OrderRecord::Statement(StatementId([0xcc; 32])))),
        ("key", encode_record(&KeyRecord { leaves })),
        ("history", encode_record(&HistoryRecord { seq: 2, is_delete: true, pred: vec![id(1), id(300)] })),
        ("audit", encode_record(&audit)),
    ];
    assert_eq!(lines(&records), GOLDEN_RECORDS);
    assert_eq!(decode_record(Table::Meta, &[], &records[0].1), Ok(log_record));
    assert_eq!(decode_record(Table::Hash, &[], &records[3].1), Ok(hash));
    assert_eq!(decode_record(Table::Audit, &[], &records[8].1), Ok(audit));
}

const GOLDEN_RECORDS: &str = "\
log 010d636f6e6669672f63616d6572610101010101010101010101010101010101010101010101010101010101010101010202020202\
020202020202020202020202020202020202020202020202020202ac02c801030303030303030303030303030303030303030303030303\
03030303030303030404040404040404040404040404040404040404040404040404040404040404050607
change 0103010203040404040404040404040404040404040404040404040404040404040404040400
signed 0103010203040404040404040404040404040404040404040404040404040404040404040401060606060606060606060606060\
60606060606060606060606060606060606060606060606060606060606060606060606060606060606060606060606060606
hash 01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac8010502aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac801bbbbbbbbbbbbbbbbbbbbbbbbbbb\
bbbbb01
order_log 0100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac801
order_statement 0101cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
key 010901aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa02000902aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0201000903aaaaaaaaaaaaaaaaaa\
aaaaaaaaaaaaaa020101010904aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa020102050905aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa020103ac\
020906aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa020104000000000000f83f0907aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa020105056e6967\
68740908aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0201060201020909aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa020107d00f09
history 0102010201aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac02aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
audit 01e80701050505050505050505050505050505050505050505050505050505050505050500010202020202020202020202020202\
020202020202020202020202020202020202010d636f6e6669672f63616d65726101aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa0307626563\
61757365010109
";

#[test]
fn golden_names_of_tables() {
    let names: Vec<&str> = TABLES.iter().map(|(_, name)| *name).collect();
    let expected = "meta change hash order index seal statement pending stranded audit default";
    assert_eq!(names.join(" "), expected);
    assert_eq!(STORAGE_FORMAT, 1);
}
