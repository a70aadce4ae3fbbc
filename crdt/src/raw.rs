//! Raw Automerge changes: a guarded reader for what peers send, and a writer for own changes.
//!
//! Hostile bytes with a valid checksum can make Automerge allocate gigabytes or panic (a 92-byte change can ask for
//! two thousand million operations), so [`guard`] sums the runs of every column *before* Automerge sees the bytes,
//! and [`decode`] runs inside `catch_unwind`. Format: <https://automerge.org/automerge-binary-format-spec/>.

use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::legacy::{Key as OpKey, ObjectId, Op as LegacyOp, OpId as LegacyOpId, OpType};
use automerge::{ActorId, Change, ExpandedChange, ScalarValue};
use serde::{Deserialize, Serialize};

use crate::change::RAW_BYTES_MAX;
use crate::id::{Actor, ChangeHash};
use crate::schema::{Value, ValueError, check_path};

mod guard;
mod plain;
pub use guard::{GuardError, guard, hash_of};

/// Most operations of one change.
pub const OPERATIONS_MAX: u64 = 4096;
/// Operation counters stay below this.
pub const COUNTER_LIMIT: u64 = 1 << 31;
/// Latest time of a change: the end of the year 9999. Automerge stores times as differences, which overflow where
/// one author says the greatest and another the least number.
pub const TIME_MAX_S: i64 = 253_402_300_799;
/// Most dependencies of one change.
pub const DEPS_MAX: usize = 64;
/// Longest commit message, bytes; only seals of epochs have one.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// The id of an operation: a Lamport counter and the actor that breaks ties. Its order decides conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpId {
    /// From 1.
    pub counter: u64,
    /// The log.
    pub actor: Actor,
}

/// What an operation does to its key.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Sets the value.
    Put(Value),
    /// Takes away the values that it names.
    Delete,
}

/// One operation on the root map.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The whole dotted path.
    pub path: String,
    /// What happens.
    pub action: Action,
    /// The operations that it supersedes, ascending.
    pub pred: Vec<OpId>,
}

/// A raw change, decoded; every operation's id is `start_op` + its position.
#[derive(Debug, Clone, PartialEq)]
pub struct RawChange {
    /// SHA-256 as Automerge defines it.
    pub hash: ChangeHash,
    /// The log.
    pub actor: Actor,
    /// Position in the log, from 1.
    pub seq: u64,
    /// Counter of the first operation.
    pub start_op: u64,
    /// Seconds since 1970 by the author's clock: a claim.
    pub time_s: i64,
    /// The seal of the epoch before, in the first change of an epoch.
    pub message: Option<String>,
    /// Hashes of the changes that it builds on, ascending.
    pub deps: Vec<ChangeHash>,
    /// What it does.
    pub operations: Vec<Operation>,
}

impl RawChange {
    /// Counter of the last operation.
    pub fn max_op(&self) -> u64 {
        (self.start_op + self.operations.len() as u64).saturating_sub(1)
    }
}

/// Why bytes are no change that may be stored. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RawError {
    /// Larger than [`RAW_BYTES_MAX`].
    #[error("a change has at most {RAW_BYTES_MAX} bytes, this one has {0}")]
    Size(usize),
    /// The guard refused it.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Automerge refused it, or panicked.
    #[error("not an Automerge change: {0}")]
    Automerge(String),
    /// Encoding it again gives other bytes.
    #[error("the change is not encoded canonically")]
    NotCanonical,
    /// Extra bytes or an author field.
    #[error("the change has extra bytes")]
    ExtraBytes,
    /// An actor that is not 16 bytes.
    #[error("an actor of the change has not 16 bytes")]
    Actor,
    /// No operation, or too many.
    #[error("a change has 1 to {OPERATIONS_MAX} operations")]
    Operations,
    /// Too many dependencies.
    #[error("a change has at most {DEPS_MAX} dependencies")]
    Deps,
    /// Dependencies out of order or twice.
    #[error("the dependencies are not sorted and distinct")]
    DepsOrder,
    /// A counter at or above [`COUNTER_LIMIT`].
    #[error("an operation counter is 2^31 or more")]
    Counter,
    /// A time before 1970 or after [`TIME_MAX_S`].
    #[error("a change was made between the years 1970 and 9999, this one {0} seconds after 1970")]
    Time(i64),
    /// Something else than a put or a delete of a scalar on the root map.
    #[error("operation {0} is not a put or a delete on the root map")]
    Operation(usize),
    /// A path or value that the schema does not allow.
    #[error("operation {0}: {1}")]
    Value(usize, ValueError),
    /// A message where none may be, or a long one.
    #[error("the change has a message of {0} bytes")]
    Message(usize),
}

/// Reads a raw change that anyone may have made. Never panics; its cost is bounded by the guard.
pub fn decode(bytes: &[u8]) -> Result<RawChange, RawError> {
    if bytes.len() > RAW_BYTES_MAX {
        return Err(RawError::Size(bytes.len()));
    }
    guard(bytes)?;
    catch_unwind(AssertUnwindSafe(|| plain::read(bytes).map_or_else(|| decode_guarded(bytes), Ok)))
        .unwrap_or_else(|_| Err(RawError::Automerge("it panicked".to_owned())))
}

fn decode_guarded(bytes: &[u8]) -> Result<RawChange, RawError> {
    let change = Change::try_from(bytes).map_err(|error| RawError::Automerge(error.to_string()))?;
    if !change.extra_bytes().is_empty() {
        return Err(RawError::ExtraBytes);
    }
    let expanded = change.decode();
    let parsed = parse(&change, &expanded)?;
    // Only one encoding of each change may exist: what is signed, hashed and stored is then the same everywhere.
    if Change::from(expanded).raw_bytes() != bytes {
        return Err(RawError::NotCanonical);
    }
    Ok(parsed)
}

fn parse(change: &Change, expanded: &ExpandedChange) -> Result<RawChange, RawError> {
    if expanded.operations.is_empty() || expanded.operations.len() as u64 > OPERATIONS_MAX {
        return Err(RawError::Operations);
    }
    let deps: Vec<ChangeHash> = change.deps().iter().map(|hash| ChangeHash(hash.0)).collect();
    if deps.len() > DEPS_MAX {
        return Err(RawError::Deps);
    }
    if !deps.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(RawError::DepsOrder);
    }
    if change.max_op() >= COUNTER_LIMIT {
        return Err(RawError::Counter);
    }
    if !(0..=TIME_MAX_S).contains(&change.timestamp()) {
        return Err(RawError::Time(change.timestamp()));
    }
    if let Some(message) = change.message().filter(|message| message.len() > MESSAGE_BYTES_MAX) {
        return Err(RawError::Message(message.len()));
    }
    let operations = expanded
        .operations
        .iter()
        .enumerate()
        .map(|(at, operation)| parse_operation(at, operation))
        .collect::<Result<_, _>>()?;
    Ok(RawChange {
        hash: ChangeHash(change.hash().0),
        actor: actor_of(change.actor_id())?,
        seq: change.seq(),
        start_op: change.start_op().get(),
        time_s: change.timestamp(),
        message: change.message().map(str::to_owned),
        deps,
        operations,
    })
}

fn actor_of(actor: &ActorId) -> Result<Actor, RawError> {
    actor.to_bytes().try_into().map(Actor).map_err(|_| RawError::Actor)
}

fn parse_operation(at: usize, operation: &LegacyOp) -> Result<Operation, RawError> {
    let OpKey::Map(path) = &operation.key else { return Err(RawError::Operation(at)) };
    if operation.obj != ObjectId::Root || operation.insert {
        return Err(RawError::Operation(at));
    }
    let action = match &operation.action {
        OpType::Delete => Action::Delete,
        OpType::Put(scalar) => Action::Put(value_of(scalar).ok_or(RawError::Operation(at))?),
        _ => return Err(RawError::Operation(at)),
    };
    check_path(path).map_err(|error| RawError::Value(at, error))?;
    if let Action::Put(value) = &action {
        value.check().map_err(|error| RawError::Value(at, error))?;
    }
    let pred = operation
        .pred
        .iter()
        .map(|id| Ok(OpId { counter: id.counter(), actor: actor_of(id.actor())? }))
        .collect::<Result<Vec<_>, RawError>>()?;
    if !pred.windows(2).all(|pair| pair[0] < pair[1]) {
        return Err(RawError::Operation(at));
    }
    Ok(Operation { path: path.to_string(), action, pred })
}

fn value_of(scalar: &ScalarValue) -> Option<Value> {
    Some(match scalar {
        ScalarValue::Null => Value::Null,
        ScalarValue::Boolean(flag) => Value::Bool(*flag),
        ScalarValue::Int(number) => Value::Int(*number),
        ScalarValue::Uint(number) => Value::Uint(*number),
        ScalarValue::F64(number) => Value::Float(*number),
        ScalarValue::Str(text) => Value::Text(text.to_string()),
        ScalarValue::Bytes(bytes) => Value::Bytes(bytes.clone()),
        ScalarValue::Timestamp(millis) => Value::Timestamp(*millis),
        _ => return None,
    })
}

fn scalar_of(value: &Value) -> ScalarValue {
    match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(flag) => ScalarValue::Boolean(*flag),
        Value::Int(number) => ScalarValue::Int(*number),
        Value::Uint(number) => ScalarValue::Uint(*number),
        Value::Float(number) => ScalarValue::F64(*number),
        Value::Text(text) => ScalarValue::Str(text.as_str().into()),
        Value::Bytes(bytes) => ScalarValue::Bytes(bytes.clone()),
        Value::Timestamp(millis) => ScalarValue::Timestamp(*millis),
    }
}

/// A change to be encoded; its hash is not known yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewChange {
    /// The log.
    pub actor: Actor,
    /// Position in the log.
    pub seq: u64,
    /// 1 + the greatest operation counter of the dependencies.
    pub start_op: u64,
    /// Seconds since 1970: a claim.
    pub time_s: i64,
    /// The seal, in the first change of a later epoch.
    pub message: Option<String>,
    /// Hashes of the changes that it builds on.
    pub deps: Vec<ChangeHash>,
    /// What it does; not empty.
    pub operations: Vec<Operation>,
}

/// The raw bytes of a change, encoded by Automerge without a document. `None` where `start_op` is 0.
pub fn encode(new: &NewChange) -> Option<Vec<u8>> {
    let operations = new
        .operations
        .iter()
        .map(|operation| LegacyOp {
            action: match &operation.action {
                Action::Put(value) => OpType::Put(scalar_of(value)),
                Action::Delete => OpType::Delete,
            },
            obj: ObjectId::Root,
            key: OpKey::Map(operation.path.as_str().into()),
            pred: operation.pred.iter().map(|id| LegacyOpId::new(id.counter, &ActorId::from(id.actor.0))).collect(),
            insert: false,
        })
        .collect();
    let mut deps: Vec<_> = new.deps.iter().map(|hash| automerge::ChangeHash(hash.0)).collect();
    deps.sort_unstable();
    let expanded = ExpandedChange {
        operations,
        actor_id: ActorId::from(new.actor.0),
        author: None,
        hash: None,
        seq: new.seq,
        start_op: NonZeroU64::new(new.start_op)?,
        time: new.time_s,
        message: new.message.clone(),
        deps,
        extra_bytes: Vec::new(),
    };
    Some(Change::from(expanded).raw_bytes().to_vec())
}

#[cfg(test)]
mod tests;
