//! The stored index of a document: the gate that checks operations, and the source of views (PROTOCOL 3).
//!
//! For each path the index holds the operations that none succeeds (*leaves*). Documents of several writers also
//! keep every operation of a path (*history*), because a change may arrive that was made without knowing them.
//!
//! Why leaves are enough in the common case: let D be the past of a change. If every leaf of a path lies in D, then
//! no operation in D has a successor outside D (the chain of successors would end in a leaf, whose past holds all of
//! it), so what is visible in D is what is visible now. Only otherwise the history is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::id::Actor;
use crate::raw::{Action, OpId, Operation, RawChange};
use crate::schema::DocumentName;
use crate::store::{
    HistoryRecord, KeyRecord, Leaf, LogStore, Staged, StoreError, Table, decode_record, encode_record, history_key,
    history_range, index_key, op_of_history_key, read_record,
};

/// What lies in the past of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// Everything that is known: documents of one writer.
    Everything,
    /// Prefixes of logs.
    Clock(BTreeMap<Actor, u64>),
}

impl Past {
    /// Whether change `seq` of a log lies in it.
    pub fn contains(&self, actor: &Actor, seq: u64) -> bool {
        match self {
            Past::Everything => true,
            Past::Clock(clock) => clock.get(actor).is_some_and(|known| seq <= *known),
        }
    }
}

/// Why operations do not fit what they say they build on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A put does not succeed exactly what was visible.
    #[error("operation {0} does not succeed exactly what was visible of its path")]
    Put(usize),
    /// A delete does not succeed what was visible, or that without its winner.
    #[error("operation {0} deletes something else than what was visible of its path")]
    Delete(usize),
    /// The index could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The leaves of a path.
pub fn read_key(store: &dyn LogStore, document: &DocumentName, path: &str) -> Result<KeyRecord, StoreError> {
    Ok(read_record(store, Table::Index, &index_key(document, path))?.unwrap_or_default())
}

/// Checks the operations of a change against the index and, if all fit, stages what they change there.
///
/// Returns by how many bytes of paths and values the visible document grew. On an error `staged` may hold writes of
/// earlier operations: the caller stages each change apart.
pub fn apply(
    staged: &mut Staged<'_>,
    document: &DocumentName,
    change: &RawChange,
    past: &Past,
) -> Result<i64, IndexError> {
    let mut paths: BTreeMap<&str, PathState> = BTreeMap::new();
    for (at, operation) in change.operations.iter().enumerate() {
        let state = match paths.entry(&operation.path) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(PathState::read(staged, document, &operation.path, past)?)
            }
        };
        let id = OpId { counter: change.start_op + at as u64, actor: change.actor };
        state.check(at, operation)?;
        state.apply(id, operation, change);
        if document.kind().has_many_writers() {
            let is_delete = operation.action == Action::Delete;
            let record = HistoryRecord { seq: change.seq, is_delete, pred: operation.pred.clone() };
            staged.put(Table::Index, history_key(document, &operation.path, &id), encode_record(&record));
        }
    }
    let mut growth = 0;
    for (path, state) in paths {
        growth += state.stage(staged, document, path, past);
    }
    Ok(growth)
}

/// A path while a change is applied.
struct PathState {
    leaves: Vec<Leaf>,
    /// What the next operation sees: ids ascending.
    visible: Vec<OpId>,
    size_before: i64,
}

fn visible_size(path: &str, leaves: &[Leaf]) -> i64 {
    let sizes = leaves.iter().filter_map(|leaf| leaf.value.as_ref()).map(|value| (path.len() + value.size()) as i64);
    sizes.sum()
}

impl PathState {
    fn read(staged: &Staged<'_>, document: &DocumentName, path: &str, past: &Past) -> Result<PathState, StoreError> {
        let leaves = read_key(staged, document, path)?.leaves;
        let size_before = visible_size(path, &leaves);
        let visible = visible_of(staged, document, path, &leaves, past)?;
        Ok(PathState { leaves, visible, size_before })
    }

    fn check(&self, at: usize, operation: &Operation) -> Result<(), IndexError> {
        match operation.action {
            Action::Put(_) if operation.pred == self.visible => Ok(()),
            Action::Put(_) => Err(IndexError::Put(at)),
            Action::Delete => {
                let losers = &self.visible[..self.visible.len().saturating_sub(1)];
                let is_allowed = operation.pred == self.visible || operation.pred == losers;
                if is_allowed && !operation.pred.is_empty() { Ok(()) } else { Err(IndexError::Delete(at)) }
            }
        }
    }

    fn apply(&mut self, id: OpId, operation: &Operation, change: &RawChange) {
        let is_succeeded = |other: &OpId| operation.pred.contains(other);
        self.leaves.retain(|leaf| !is_succeeded(&leaf.id));
        self.visible.retain(|other| !is_succeeded(other));
        let value = match &operation.action {
            Action::Put(value) => {
                self.visible.push(id);
                Some(value.clone())
            }
            Action::Delete => None,
        };
        let at = self.leaves.partition_point(|leaf| leaf.id < id);
        self.leaves.insert(at, Leaf { id, seq: change.seq, value, time_s: change.time_s });
    }

    /// Stages the leaves. Deletes that lie in the past are not needed any more: this change's operation, or what
    /// succeeds it, stands for them in every later past.
    fn stage(mut self, staged: &mut Staged<'_>, document: &DocumentName, path: &str, past: &Past) -> i64 {
        self.leaves.retain(|leaf| leaf.value.is_some() || !past.contains(&leaf.id.actor, leaf.seq));
        let growth = visible_size(path, &self.leaves) - self.size_before;
        let key = index_key(document, path);
        if self.leaves.is_empty() {
            staged.delete(Table::Index, key);
        } else {
            staged.put(Table::Index, key, encode_record(&KeyRecord { leaves: self.leaves }));
        }
        growth
    }
}

/// What is visible of a path in a past: ids ascending.
pub(crate) fn visible_of(
    store: &dyn LogStore,
    document: &DocumentName,
    path: &str,
    leaves: &[Leaf],
    past: &Past,
) -> Result<Vec<OpId>, StoreError> {
    if leaves.iter().all(|leaf| past.contains(&leaf.id.actor, leaf.seq)) {
        return Ok(leaves.iter().filter(|leaf| leaf.value.is_some()).map(|leaf| leaf.id).collect());
    }
    visible_in(store, document, path, past)
}

/// What was visible of a path in a past, from its history: ids ascending.
fn visible_in(store: &dyn LogStore, document: &DocumentName, path: &str, past: &Past) -> Result<Vec<OpId>, StoreError> {
    let (from, to) = history_range(document, path);
    let mut puts = BTreeSet::new();
    let mut succeeded = BTreeSet::new();
    let mut failure = None;
    store.scan(Table::Index, &from, &to, &mut |key, bytes| {
        let record: Result<HistoryRecord, _> = decode_record(Table::Index, key, bytes);
        match (record, op_of_history_key(key)) {
            (Ok(record), Some(id)) => {
                if past.contains(&id.actor, record.seq) {
                    succeeded.extend(record.pred);
                    if !record.is_delete {
                        puts.insert(id);
                    }
                }
                ControlFlow::Continue(())
            }
            (Err(error), _) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
            (_, None) => {
                failure = Some(StoreError::Damaged { table: Table::Index, key: crate::id::hex(key) });
                ControlFlow::Break(())
            }
        }
    })?;
    match failure {
        Some(error) => Err(error),
        None => Ok(puts.difference(&succeeded).copied().collect()),
    }
}
