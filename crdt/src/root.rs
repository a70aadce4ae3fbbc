//! Roots: 32 bytes that are equal exactly where sets of logs and statements are equal (PROTOCOL 4).
//!
//! An item is BLAKE3(type ‖ id ‖ value); it lies in one of 4,096 buckets by the first 12 bits of BLAKE3(type ‖ id).
//! A bucket is BLAKE3 over its items in the order of their ids; 64 buckets make a group, 64 groups the root.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::id::{Actor, ChangeHash, Key, Root, StatementId};

const GROUPS: usize = 64;
const GROUP_BUCKETS: usize = 64;
/// Buckets of a tree.
pub const BUCKETS: usize = GROUPS * GROUP_BUCKETS;
/// Context of the keys under which ranges are compared.
const RANGE_KEY_CONTEXT: &str = "fleetsync ranges v1";
const TYPE_LOG: u8 = 1;
const TYPE_STATEMENT: u8 = 2;

/// What an item of the tree is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// A log.
    Log(Actor),
    /// A statement with one signer.
    Statement(StatementId, Key),
}

impl Item {
    fn hash(&self, value: Option<&[u8]>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        match self {
            Item::Log(actor) => hasher.update(&[TYPE_LOG]).update(&actor.0),
            Item::Statement(id, signer) => hasher.update(&[TYPE_STATEMENT]).update(&id.0).update(&signer.0),
        };
        if let Some(value) = value {
            hasher.update(value);
        }
        *hasher.finalize().as_bytes()
    }

    fn bucket(&self) -> u16 {
        let hash = self.hash(None);
        u16::from(hash[0]) << 4 | u16::from(hash[1] >> 4)
    }
}

/// The key of one comparison, drawn when it begins: nobody can prepare items whose fingerprints collide under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeKey([u8; 32]);

impl RangeKey {
    /// The key that a comparison's number stands for.
    pub fn new(number: u64) -> RangeKey {
        RangeKey(blake3::derive_key(RANGE_KEY_CONTEXT, &number.to_be_bytes()))
    }

    /// The first `N` bytes of the keyed hash of some bytes.
    fn print<const N: usize>(&self, bytes: &[u8]) -> [u8; N] {
        let hash = blake3::keyed_hash(&self.0, bytes);
        *hash.as_bytes().first_chunk().expect("a fingerprint is shorter than a hash")
    }

    /// Four bytes that stand for an item among those of its bucket.
    pub fn short_id(&self, item: &Item) -> [u8; 4] {
        match item {
            Item::Log(actor) => self.print(&[&[TYPE_LOG], &actor.0[..]].concat()),
            Item::Statement(id, signer) => self.print(&[&[TYPE_STATEMENT], &id.0[..], &signer.0].concat()),
        }
    }

    /// Two bytes that stand for an item's value, a log's head or a signature; never both 0.
    pub fn short_value(&self, value: &[u8]) -> [u8; 2] {
        match self.print(value) {
            [0, 0] => [0, 1],
            short => short,
        }
    }
}

/// A Merkle tree over items; changes cost one bucket, one group and the root, when the root is asked for.
#[derive(Debug, Clone)]
pub struct Tree {
    items: BTreeMap<(u16, Item), [u8; 32]>,
    digests: RefCell<Digests>,
}

#[derive(Debug, Clone)]
struct Digests {
    dirty: BTreeSet<u16>,
    buckets: Vec<[u8; 32]>,
    groups: Vec<[u8; 32]>,
    root: Root,
}

impl Default for Tree {
    fn default() -> Self {
        let empty = *blake3::hash(&[]).as_bytes();
        let group = *blake3::hash(&empty.repeat(GROUP_BUCKETS)).as_bytes();
        let root = Root(*blake3::hash(&group.repeat(GROUPS)).as_bytes());
        let digests =
            Digests { dirty: BTreeSet::new(), buckets: vec![empty; BUCKETS], groups: vec![group; GROUPS], root };
        Tree { items: BTreeMap::new(), digests: RefCell::new(digests) }
    }
}

impl Tree {
    /// Sets a log's head.
    pub fn set_log(&mut self, actor: Actor, seq: u64, head: &ChangeHash) {
        let value = [&seq.to_be_bytes()[..], &head.0].concat();
        self.set(Item::Log(actor), &value);
    }

    /// Sets the signature of a statement by one signer.
    pub fn set_signature(&mut self, id: StatementId, signer: Key, signature: &[u8; 64]) {
        self.set(Item::Statement(id, signer), signature);
    }

    fn set(&mut self, item: Item, value: &[u8]) {
        let bucket = item.bucket();
        self.items.insert((bucket, item), item.hash(Some(value)));
        self.digests.get_mut().dirty.insert(bucket);
    }

    /// Takes an item away.
    pub fn remove(&mut self, item: &Item) {
        let bucket = item.bucket();
        if self.items.remove(&(bucket, *item)).is_some() {
            self.digests.get_mut().dirty.insert(bucket);
        }
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items of a bucket, ascending.
    pub fn bucket(&self, bucket: u16) -> impl Iterator<Item = &Item> {
        let lowest = Item::Log(Actor([0; 16]));
        self.items
            .range((bucket, lowest)..)
            .map(|((of, item), _)| (of, item))
            .take_while(move |(of, _)| **of == bucket)
            .map(|(_, item)| item)
    }

    /// The first bucket from `from` on that has items.
    pub fn next_bucket(&self, from: u16) -> Option<u16> {
        self.items.range((from, Item::Log(Actor([0; 16])))..).next().map(|((bucket, _), _)| *bucket)
    }

    /// A keyed fingerprint over the buckets of a range: equal where their items are equal.
    pub fn print(&self, key: &RangeKey, buckets: Range<usize>) -> [u8; 6] {
        self.refresh();
        key.print(self.digests.borrow().buckets[buckets].as_flattened())
    }

    /// The root.
    pub fn root(&self) -> Root {
        self.refresh();
        self.digests.borrow().root
    }

    /// Computes anew what changed since it was asked for last.
    fn refresh(&self) {
        let mut digests = self.digests.borrow_mut();
        let dirty = std::mem::take(&mut digests.dirty);
        if dirty.is_empty() {
            return;
        }
        let mut groups = BTreeSet::new();
        for bucket in dirty {
            let mut hasher = blake3::Hasher::new();
            let lowest = Item::Log(Actor([0; 16]));
            for (_, hash) in self.items.range((bucket, lowest)..).take_while(|((of, _), _)| *of == bucket) {
                hasher.update(hash);
            }
            digests.buckets[usize::from(bucket)] = *hasher.finalize().as_bytes();
            groups.insert(usize::from(bucket) / GROUP_BUCKETS);
        }
        for group in groups {
            let range = group * GROUP_BUCKETS..(group + 1) * GROUP_BUCKETS;
            digests.groups[group] = *blake3::hash(digests.buckets[range].as_flattened()).as_bytes();
        }
        digests.root = Root(*blake3::hash(digests.groups.as_flattened()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_equal_roots_in_any_order() {
        let items: Vec<(Actor, u64)> = (0..200u8).map(|n| (Actor([n; 16]), u64::from(n) + 1)).collect();
        let mut forward = Tree::default();
        let mut backward = Tree::default();
        let empty = forward.root();
        for (actor, seq) in &items {
            forward.set_log(*actor, *seq, &ChangeHash([1; 32]));
            forward.root();
        }
        for (actor, seq) in items.iter().rev() {
            backward.set_log(*actor, *seq + 1, &ChangeHash([1; 32]));
            backward.set_log(*actor, *seq, &ChangeHash([1; 32]));
        }
        assert_eq!(forward.root(), backward.root());
        backward.set_log(items[0].0, 9, &ChangeHash([1; 32]));
        assert_ne!(forward.root(), backward.root());
        for (actor, _) in &items {
            forward.remove(&Item::Log(*actor));
        }
        assert_eq!(forward.root(), empty);
        assert!(forward.is_empty());
    }

    #[test]
    fn prints_differ_exactly_where_items_do() {
        let mut one = Tree::default();
        for n in 0..200u8 {
            one.set_log(Actor([n; 16]), 1, &ChangeHash([1; 32]));
        }
        let mut other = one.clone();
        other.set_log(Actor([7; 16]), 2, &ChangeHash([1; 32]));
        let at = usize::from(Item::Log(Actor([7; 16])).bucket());
        let (key, next) = (RangeKey::new(1), RangeKey::new(2));
        for bucket in 0..BUCKETS {
            let range = bucket..bucket + 1;
            assert_eq!(one.print(&key, range.clone()) == other.print(&key, range), bucket != at, "{bucket}");
        }
        assert_ne!(one.print(&key, 0..BUCKETS), one.print(&next, 0..BUCKETS));
        let walked: usize = std::iter::successors(one.next_bucket(0), |bucket| one.next_bucket(bucket + 1))
            .map(|bucket| one.bucket(bucket).count())
            .sum();
        assert_eq!(walked, 200);
    }

    /// Golden: roots are compared between versions.
    #[test]
    fn golden_root() {
        let mut tree = Tree::default();
        tree.set_log(Actor([1; 16]), 2, &ChangeHash([3; 32]));
        tree.set_signature(StatementId([4; 32]), Key([5; 32]), &[6; 64]);
        assert_eq!(tree.root().to_string(), "b88dbef7fae3c4efafc469e4caa6d6b0ec4701611397d9462480de05652573d9");
    }
}
