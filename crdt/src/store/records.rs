//! Storage records: one format byte, then postcard; a new field is a new format number.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{LogStore, StoreError, Table};
use crate::change::{LogName, RawBytes};
use crate::id::{Actor, ChainHash, ChangeHash, DeviceId, Key, StatementId};
use crate::raw::OpId;
use crate::schema::Value;
use crate::statement::SignatureBytes;

const RECORD_FORMAT: u8 = 1;
/// Room for most records, so that their memory is asked for once.
const RECORD_BYTES: usize = 256;

/// Encodes a record.
pub fn encode_record<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    bytes.push(RECORD_FORMAT);
    postcard::to_extend(record, bytes).expect("plain data always encodes")
}

/// Decodes a record that was read at a key.
pub fn decode_record<T: DeserializeOwned>(table: Table, key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = || StoreError::Damaged { table, key: crate::id::hex(key) };
    match bytes.split_first() {
        Some((&RECORD_FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| damaged()),
        _ => Err(damaged()),
    }
}

/// Reads and decodes the record at a key.
pub fn read_record<T: DeserializeOwned>(
    store: &dyn LogStore,
    table: Table,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    store.get(table, key)?.map(|bytes| decode_record(table, key, &bytes)).transpose()
}

/// A log, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The parts that name it.
    pub log: LogName,
    /// Sequence number of the last change.
    pub seq: u64,
    /// Hash of the last change.
    pub head: ChangeHash,
    /// The hash chain at the last change.
    pub chain: ChainHash,
    /// Greatest operation counter.
    pub max_op: u64,
    /// Bytes of all raw changes.
    pub raw_bytes: u64,
    /// Bytes of the paths and values that are visible; only kept for documents of one writer.
    pub values_bytes: u64,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// The raw Automerge change.
    pub raw: RawBytes,
    /// The hash chain at this change.
    pub chain: ChainHash,
    /// The author's signature, where one was received; it was verified.
    pub signature: Option<SignatureBytes>,
}

/// A change, found by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashRecord {
    /// The log.
    pub actor: Actor,
    /// Its position there.
    pub seq: u64,
    /// Its greatest operation counter.
    pub max_op: u64,
    /// The logs of its past with their sequence numbers, itself included, ascending; empty in documents of one
    /// writer, where the past is the log.
    pub clock: Vec<(Actor, u64)>,
}

/// What was admitted at a position of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderRecord {
    /// A log grew up to this sequence number.
    Log(Actor, u64),
    /// A statement came, or a signature of it.
    Statement(StatementId),
}

/// The operations of a path that none succeeds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Ascending by id; the last one with a value is what is read.
    pub leaves: Vec<Leaf>,
}

/// An operation that none succeeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leaf {
    /// The operation.
    pub id: OpId,
    /// The sequence number of its change.
    pub seq: u64,
    /// The value; none for a delete.
    pub value: Option<Value>,
    /// When its author says it was made: seconds since 1970.
    pub time_s: i64,
}

/// An operation in the history of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// The sequence number of its change.
    pub seq: u64,
    /// Whether it is a delete.
    pub is_delete: bool,
    /// What it succeeds.
    pub pred: Vec<OpId>,
}

/// Something that a node refused or saw go wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Milliseconds since 1970 by this node's clock: a claim.
    pub time_ms: u64,
    /// The peer that brought it; none for this node.
    pub peer: Option<Key>,
    /// The author that is named.
    pub author: Option<Key>,
    /// The carrier that is named.
    pub carrier: Option<DeviceId>,
    /// The document that is named.
    pub document: Option<String>,
    /// The log, where one was derived.
    pub actor: Option<Actor>,
    /// The first sequence number that is meant.
    pub seq: u64,
    /// Why.
    pub reason: String,
    /// What was refused and what stands in its place, as they came; for a fork both changes.
    pub evidence: Vec<RawBytes>,
}
