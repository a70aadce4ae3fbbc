//! Storage keys. Big-endian numbers, so that byte order is number order.

use crate::id::{Actor, ChangeHash, StatementId};
use crate::raw::OpId;
use crate::schema::DocumentName;

const INDEX_CURRENT: u8 = 0;
const INDEX_HISTORY: u8 = 1;

/// Key of a log in `meta` and of a stranded log's head in `stranded`.
pub fn meta_key(actor: &Actor) -> [u8; 16] {
    actor.0
}

/// Key of a change in `change` and `stranded`.
pub fn change_key(actor: &Actor, seq: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&actor.0);
    key[16..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The (log, seq) of a key in `change`.
pub fn change_of_key(key: &[u8]) -> Option<(Actor, u64)> {
    let actor = key.get(..16)?.try_into().ok()?;
    let seq = key.get(16..)?.try_into().ok()?;
    Some((Actor(actor), u64::from_be_bytes(seq)))
}

/// Key of a change in `hash`.
pub fn hash_key(hash: &ChangeHash) -> [u8; 32] {
    hash.0
}

/// Key of a statement in `statement`.
pub fn statement_key(id: &StatementId) -> [u8; 32] {
    id.0
}

/// Key of a position in `order` and `audit`.
pub fn position_key(position: u64) -> [u8; 8] {
    position.to_be_bytes()
}

/// The position of a key in `order` and `audit`.
pub fn position_of_key(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

fn index_prefix(tag: u8, document: &DocumentName) -> Vec<u8> {
    let name = document.as_str().as_bytes();
    let mut key = Vec::with_capacity(name.len() + 64);
    key.push(tag);
    key.push(u8::try_from(name.len()).expect("document names have at most 160 bytes"));
    key.extend_from_slice(name);
    key
}

/// Key of a path's current operations in `index`.
pub fn index_key(document: &DocumentName, path: &str) -> Vec<u8> {
    let mut key = index_prefix(INDEX_CURRENT, document);
    key.extend_from_slice(path.as_bytes());
    key
}

/// The range of a document's current keys in `index`: from, to (excluded), and where the path starts.
pub fn index_range(document: &DocumentName) -> (Vec<u8>, Vec<u8>, usize) {
    index_range_below(document, "")
}

/// The range of the keys whose path starts with `prefix`.
pub fn index_range_below(document: &DocumentName, prefix: &str) -> (Vec<u8>, Vec<u8>, usize) {
    let document = index_prefix(INDEX_CURRENT, document);
    let length = document.len();
    let from = [document, prefix.as_bytes().to_vec()].concat();
    (from.clone(), after(from), length)
}

/// Key of one operation in the history of a path; only documents of several writers keep it.
pub fn history_key(document: &DocumentName, path: &str, id: &OpId) -> Vec<u8> {
    let mut key = history_prefix(document, path);
    key.extend_from_slice(&id.counter.to_be_bytes());
    key.extend_from_slice(&id.actor.0);
    key
}

/// The range of a path's history in `index`.
pub fn history_range(document: &DocumentName, path: &str) -> (Vec<u8>, Vec<u8>) {
    let from = history_prefix(document, path);
    (from.clone(), after(from))
}

fn history_prefix(document: &DocumentName, path: &str) -> Vec<u8> {
    let mut key = index_prefix(INDEX_HISTORY, document);
    key.extend_from_slice(path.as_bytes());
    key.push(0); // paths have no control characters, so this separates them from what follows
    key
}

/// The operation id at the end of a history key.
pub fn op_of_history_key(key: &[u8]) -> Option<OpId> {
    let tail = key.get(key.len().checked_sub(24)?..)?;
    let counter = u64::from_be_bytes(tail[..8].try_into().ok()?);
    Some(OpId { counter, actor: Actor(tail[8..].try_into().ok()?) })
}

/// The first key that does not start with `prefix`.
fn after(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.last_mut() {
        if *last < 0xff {
            *last += 1;
            return prefix;
        }
        prefix.pop();
    }
    prefix
}
