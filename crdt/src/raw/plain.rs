//! Plain changes, read without Automerge: no message, and no operations of other logs among what they supersede. Nearly
//! all changes of documents of one writer are such.
//!
//! A change is read, and then written again as Automerge would write it; only where that gives the same bytes it counts
//! as read. So all that rests on this reader is that [`body_of`] writes what Automerge writes, which tests hold up
//! against it, with honest changes and mutants. Whatever else there is, Automerge reads and refuses.

use sha2::Digest;

use super::guard::{Reader, open};
use super::{Action, COUNTER_LIMIT, DEPS_MAX, OPERATIONS_MAX, OpId, Operation, RawChange, TIME_MAX_S};
use crate::id::{Actor, ChangeHash};
use crate::schema::{Value, check_path};

const KEY: u64 = 0x15;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;
const VALUE_META: u64 = 0x56;
const VALUE: u64 = 0x57;
const PRED_COUNT: u64 = 0x70;
const PRED_ACTOR: u64 = 0x71;
const PRED_COUNTER: u64 = 0x73;
const PUT: u64 = 1;
const DELETE: u64 = 3;
const CHUNK_CHANGE: u8 = 1;

/// Reads a change that the guard let pass; none where it is not plain, or not valid.
pub(super) fn read(bytes: &[u8]) -> Option<RawChange> {
    let body = open(bytes).ok()?;
    let hashed = bytes.get(8..)?;
    let hash: [u8; 32] = sha2::Sha256::digest(hashed).into();
    if bytes.get(4..8)? != &hash[..4] {
        return None;
    }
    let mut reader = Reader { rest: body };
    let change = read_head(&mut reader, ChangeHash(hash))?;
    let columns = Columns::read(&mut reader)?;
    let operations = columns.operations(&change.actor)?;
    let last = change.start_op.checked_add(operations.len() as u64)?.checked_sub(1)?;
    let is_whole = reader.rest.is_empty() && !operations.is_empty() && last < COUNTER_LIMIT;
    let change = RawChange { operations, ..change };
    let written = is_whole.then(|| body_of(&change))?;
    let mut head = vec![CHUNK_CHANGE];
    unsigned(&mut head, written.len() as u64);
    (hashed.strip_prefix(head.as_slice()) == Some(written.as_slice())).then_some(change)
}

fn read_head(reader: &mut Reader<'_>, hash: ChangeHash) -> Option<RawChange> {
    let count = usize::try_from(reader.unsigned().ok()?).ok().filter(|count| *count <= DEPS_MAX)?;
    let mut deps = Vec::with_capacity(count);
    for _ in 0..count {
        deps.push(ChangeHash(reader.take(32).ok()?.try_into().ok()?));
    }
    if !deps.windows(2).all(|pair| pair[0] < pair[1]) || reader.unsigned().ok()? != 16 {
        return None;
    }
    let actor = Actor(reader.take(16).ok()?.try_into().ok()?);
    let (seq, start_op, time_s) = (reader.unsigned().ok()?, reader.unsigned().ok()?, reader.signed().ok()?);
    let (message, others) = (reader.unsigned().ok()?, reader.unsigned().ok()?);
    let is_plain = message == 0 && others == 0 && start_op > 0 && (0..=TIME_MAX_S).contains(&time_s);
    is_plain.then(|| RawChange { hash, actor, seq, start_op, time_s, message: None, deps, operations: Vec::new() })
}

/// The columns of a change's operations, decoded as far as rows go.
#[derive(Default)]
struct Columns<'a> {
    keys: Vec<&'a str>,
    insert: u64,
    actions: Vec<u64>,
    metas: Vec<u64>,
    values: &'a [u8],
    pred_counts: Vec<u64>,
    pred_actors: Vec<u64>,
    pred_deltas: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Columns<'a>> {
        let count = reader.unsigned().ok().filter(|count| *count <= 8)?;
        let mut about = Vec::with_capacity(8);
        for _ in 0..count {
            about.push((reader.unsigned().ok()?, reader.unsigned().ok()?));
        }
        let mut columns = Columns::default();
        for (column, length) in about {
            let mut cells = Reader { rest: reader.take(length).ok()? };
            match column {
                KEY => columns.keys = runs(&mut cells, text)?,
                INSERT => {
                    columns.insert = cells.unsigned().ok()?;
                    cells.rest.is_empty().then_some(())?;
                }
                ACTION => columns.actions = runs(&mut cells, |cells| cells.unsigned().ok())?,
                VALUE_META => columns.metas = runs(&mut cells, |cells| cells.unsigned().ok())?,
                VALUE => columns.values = cells.rest,
                PRED_COUNT => columns.pred_counts = runs(&mut cells, |cells| cells.unsigned().ok())?,
                PRED_ACTOR => columns.pred_actors = runs(&mut cells, |cells| cells.unsigned().ok())?,
                PRED_COUNTER => columns.pred_deltas = runs(&mut cells, |cells| cells.signed().ok())?,
                _ => return None,
            }
        }
        Some(columns)
    }

    fn operations(&self, actor: &Actor) -> Option<Vec<Operation>> {
        let rows = self.keys.len();
        let is_even = [self.actions.len(), self.metas.len(), self.pred_counts.len()] == [rows; 3];
        let preds = self.pred_counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count))?;
        let are_own = self.pred_actors.iter().all(|actor| *actor == 0);
        let has_preds = [self.pred_actors.len() as u64, self.pred_deltas.len() as u64] == [preds; 2];
        if !is_even || self.insert != rows as u64 || !are_own || !has_preds {
            return None;
        }
        let mut values = Reader { rest: self.values };
        let mut deltas = self.pred_deltas.iter();
        let mut counter: i64 = 0;
        let mut operations = Vec::with_capacity(rows);
        for (row, path) in self.keys.iter().enumerate() {
            let value = value(&mut values, self.metas[row])?;
            let action = match self.actions[row] {
                PUT => Action::Put(value),
                DELETE if value == Value::Null => Action::Delete,
                _ => return None,
            };
            let count = usize::try_from(self.pred_counts[row]).ok()?;
            let mut pred: Vec<OpId> = Vec::with_capacity(count);
            for delta in deltas.by_ref().take(count) {
                counter = counter.checked_add(*delta).filter(|counter| (1..1 << 32).contains(counter))?;
                pred.push(OpId { counter: counter.unsigned_abs(), actor: *actor });
            }
            let is_ascending = pred.windows(2).all(|pair| pair[0] < pair[1]);
            if !is_ascending || check_path(path).is_err() {
                return None;
            }
            operations.push(Operation { path: (*path).to_owned(), action, pred });
        }
        values.rest.is_empty().then_some(operations)
    }
}

/// The rows of a run-length encoded column without nulls.
fn runs<'a, T: Clone>(cells: &mut Reader<'a>, cell: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut rows = Vec::new();
    while !cells.rest.is_empty() {
        let run = cells.signed().ok()?;
        let count = usize::try_from(run.unsigned_abs()).ok()?;
        if run == 0 || count > 4 * OPERATIONS_MAX as usize {
            return None;
        }
        if run > 0 {
            let value = cell(cells)?;
            rows.extend(std::iter::repeat_n(value, count));
        } else {
            for _ in 0..count {
                rows.push(cell(cells)?);
            }
        }
    }
    Some(rows)
}

fn text<'a>(cells: &mut Reader<'a>) -> Option<&'a str> {
    let length = cells.unsigned().ok()?;
    std::str::from_utf8(cells.take(length).ok()?).ok()
}

/// A value, by its length and type.
fn value(values: &mut Reader<'_>, meta: u64) -> Option<Value> {
    let mut bytes = Reader { rest: values.take(meta >> 4).ok()? };
    let value = match meta & 15 {
        0 => Value::Null,
        1 => Value::Bool(false),
        2 => Value::Bool(true),
        3 => Value::Uint(bytes.unsigned().ok()?),
        4 => Value::Int(bytes.signed().ok()?),
        5 => Value::Float(f64::from_le_bytes(bytes.take(8).ok()?.try_into().ok()?)),
        6 => Value::Text(std::str::from_utf8(std::mem::take(&mut bytes.rest)).ok()?.to_owned()),
        7 => Value::Bytes(std::mem::take(&mut bytes.rest).to_vec()),
        9 => Value::Timestamp(bytes.signed().ok()?),
        _ => return None,
    };
    (bytes.rest.is_empty() && value.check().is_ok()).then_some(value)
}

/// The body of the chunk that Automerge makes of a plain change.
fn body_of(change: &RawChange) -> Vec<u8> {
    let operations = &change.operations;
    let mut columns = Vec::with_capacity(8);
    columns.push((KEY, encoded(operations.iter().map(|operation| operation.path.as_str()), push_text)));
    let mut insert = Vec::new();
    unsigned(&mut insert, operations.len() as u64);
    columns.push((INSERT, insert));
    let action = |operation: &Operation| if operation.action == Action::Delete { DELETE } else { PUT };
    columns.push((ACTION, encoded(operations.iter().map(action), unsigned)));
    let mut values = Vec::new();
    let metas: Vec<u64> = operations.iter().map(|operation| push_value(&mut values, &operation.action)).collect();
    columns.push((VALUE_META, encoded(metas.into_iter(), unsigned)));
    columns.push((VALUE, values));
    let preds = || operations.iter().flat_map(|operation| &operation.pred);
    columns.push((PRED_COUNT, encoded(operations.iter().map(|operation| operation.pred.len() as u64), unsigned)));
    columns.push((PRED_ACTOR, encoded(preds().map(|_| 0), unsigned)));
    let mut before = 0;
    let delta = |pred: &OpId| pred.counter.cast_signed() - std::mem::replace(&mut before, pred.counter.cast_signed());
    columns.push((PRED_COUNTER, encoded(preds().map(delta), signed)));
    columns.retain(|(_, cells)| !cells.is_empty());

    let mut body = Vec::with_capacity(128 + columns.iter().map(|(_, cells)| cells.len()).sum::<usize>());
    unsigned(&mut body, change.deps.len() as u64);
    change.deps.iter().for_each(|dep| body.extend_from_slice(&dep.0));
    unsigned(&mut body, 16);
    body.extend_from_slice(&change.actor.0);
    unsigned(&mut body, change.seq);
    unsigned(&mut body, change.start_op);
    signed(&mut body, change.time_s);
    body.extend_from_slice(&[0, 0]); // no message, no other logs
    unsigned(&mut body, columns.len() as u64);
    for (column, cells) in &columns {
        unsigned(&mut body, *column);
        unsigned(&mut body, cells.len() as u64);
    }
    columns.iter().for_each(|(_, cells)| body.extend_from_slice(cells));
    body
}

/// A run-length encoded column: two or more equal rows are a run, what lies between runs is given row by row.
fn encoded<T: PartialEq + Copy>(rows: impl Iterator<Item = T>, push: impl Fn(&mut Vec<u8>, T)) -> Vec<u8> {
    let rows: Vec<T> = rows.collect();
    let mut cells = Vec::new();
    let mut single: &[T] = &[];
    let mut rest = rows.as_slice();
    let flush = |cells: &mut Vec<u8>, single: &[T]| {
        if !single.is_empty() {
            signed(cells, -(single.len() as i64));
            single.iter().for_each(|row| push(cells, *row));
        }
    };
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|row| *row == first).count();
        let at = rows.len() - rest.len();
        if count == 1 {
            single = &rows[at - single.len()..=at];
        } else {
            flush(&mut cells, std::mem::take(&mut single));
            signed(&mut cells, count as i64);
            push(&mut cells, *first);
        }
        rest = &rest[count..];
    }
    flush(&mut cells, single);
    cells
}

/// Writes a value; returns its length and type.
fn push_value(values: &mut Vec<u8>, action: &Action) -> u64 {
    let start = values.len();
    let kind = match action {
        Action::Delete | Action::Put(Value::Null) => 0,
        Action::Put(Value::Bool(flag)) => 1 + u64::from(*flag),
        Action::Put(Value::Uint(number)) => {
            unsigned(values, *number);
            3
        }
        Action::Put(Value::Int(number)) => {
            signed(values, *number);
            4
        }
        Action::Put(Value::Float(number)) => {
            values.extend_from_slice(&number.to_le_bytes());
            5
        }
        Action::Put(Value::Text(text)) => {
            values.extend_from_slice(text.as_bytes());
            6
        }
        Action::Put(Value::Bytes(bytes)) => {
            values.extend_from_slice(bytes);
            7
        }
        Action::Put(Value::Timestamp(millis)) => {
            signed(values, *millis);
            9
        }
    };
    ((values.len() - start) as u64) << 4 | kind
}

fn push_text(cells: &mut Vec<u8>, text: &str) {
    unsigned(cells, text.len() as u64);
    cells.extend_from_slice(text.as_bytes());
}

/// LEB128, the shortest form.
fn unsigned(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Signed LEB128, the shortest form.
fn signed(out: &mut Vec<u8>, mut number: i64) {
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        let is_last = (number == 0 && byte & 0x40 == 0) || (number == -1 && byte & 0x40 != 0);
        if is_last {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests;
