//! Roots: 32 bytes that are equal exactly where sets of logs and statements are equal (PROTOCOL 4).
//!
//! An item is BLAKE3(type ‖ id ‖ value); it lies in one of 4,096 buckets by the first 12 bits of BLAKE3(type ‖ id).
//! A bucket is BLAKE3 over its items in the order of their ids; 64 buckets make a group, 64 groups the root.

use std::cell::RefCell;
#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

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

    /// Where it lies in the tree.
    pub fn bucket(&self) -> u16 {
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

    /// Three bytes that stand for an item among those of its bucket.
    pub fn short_id(&self, item: &Item) -> [u8; 3] {
        match item {
            Item::Log(actor) => self.print(&[&[TYPE_LOG], &actor.0[..]].concat()),
            Item::Statement(id, signer) => self.print(&[&[TYPE_STATEMENT], &id.0[..], &signer.0].concat()),
        }
    }

    /// A byte that stands for an item's value, a log's head or a signature; never 0.
    pub fn short_value(&self, value: &[u8]) -> u8 {
        let [short] = self.print(value);
        short.max(1)
    }
}

/// The items of a tree, wherever they are kept.
pub trait Items {
    /// Visits the items of a bucket with their values, ascending.
    fn visit(&self, bucket: u16, visit: &mut dyn FnMut(&Item, &[u8]));
}

/// What a log's item says of it.
pub fn log_value(seq: u64, head: &ChangeHash) -> [u8; 40] {
    let mut value = [0; 40];
    value[..8].copy_from_slice(&seq.to_be_bytes());
    value[8..].copy_from_slice(&head.0);
    value
}

/// The Merkle tree over items that are kept elsewhere. A change costs one bucket, one group and the root, when they are
/// asked for.
#[derive(Debug, Clone)]
pub struct Digests {
    known: RefCell<Known>,
}

/// Buckets that copies of a tree share until one changes.
const SHARED_BUCKETS: usize = 8;
type Shared = [[u8; 32]; SHARED_BUCKETS];

#[derive(Debug, Clone)]
struct Known {
    dirty: BTreeSet<u16>,
    buckets: Vec<Arc<Shared>>,
    groups: [[u8; 32]; GROUPS],
    root: Root,
}

impl Default for Digests {
    fn default() -> Self {
        let empty = *blake3::hash(&[]).as_bytes();
        let groups = [*blake3::hash(&empty.repeat(GROUP_BUCKETS)).as_bytes(); GROUPS];
        let root = Root(*blake3::hash(groups.as_flattened()).as_bytes());
        let buckets = std::iter::repeat_n(Arc::new([empty; SHARED_BUCKETS]), BUCKETS / SHARED_BUCKETS).collect();
        let known = Known { dirty: BTreeSet::new(), buckets, groups, root };
        Digests { known: RefCell::new(known) }
    }
}

impl Digests {
    /// An item of this bucket has come, has changed or is gone.
    pub fn touch(&mut self, bucket: u16) {
        self.known.get_mut().dirty.insert(bucket);
    }

    /// A keyed fingerprint over the buckets of a range: equal where their items are equal.
    pub fn print(&self, items: &impl Items, key: &RangeKey, buckets: Range<usize>) -> [u8; 6] {
        self.refresh(items);
        let known = self.known.borrow();
        let digests = buckets.map(|bucket| known.buckets[bucket / SHARED_BUCKETS][bucket % SHARED_BUCKETS]);
        key.print(digests.collect::<Vec<_>>().as_flattened())
    }

    /// The root.
    pub fn root(&self, items: &impl Items) -> Root {
        self.refresh(items);
        self.known.borrow().root
    }

    /// Computes anew what changed since it was asked for last.
    fn refresh(&self, items: &impl Items) {
        let mut known = self.known.borrow_mut();
        let dirty = std::mem::take(&mut known.dirty);
        if dirty.is_empty() {
            return;
        }
        let mut groups = BTreeSet::new();
        for bucket in dirty {
            let mut hasher = blake3::Hasher::new();
            items.visit(bucket, &mut |item, value| {
                hasher.update(&item.hash(Some(value)));
            });
            let at = usize::from(bucket);
            let shared = Arc::make_mut(&mut known.buckets[at / SHARED_BUCKETS]);
            shared[at % SHARED_BUCKETS] = *hasher.finalize().as_bytes();
            groups.insert(at / GROUP_BUCKETS);
        }
        for group in groups {
            let mut hasher = blake3::Hasher::new();
            let first = group * GROUP_BUCKETS / SHARED_BUCKETS;
            for shared in &known.buckets[first..first + GROUP_BUCKETS / SHARED_BUCKETS] {
                hasher.update(shared.as_flattened());
            }
            known.groups[group] = *hasher.finalize().as_bytes();
        }
        known.root = Root(*blake3::hash(known.groups.as_flattened()).as_bytes());
    }
}

/// A tree with items of its own.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    items: BTreeMap<(u16, Item), Vec<u8>>,
    digests: Digests,
}

#[cfg(test)]
impl Items for BTreeMap<(u16, Item), Vec<u8>> {
    fn visit(&self, bucket: u16, visit: &mut dyn FnMut(&Item, &[u8])) {
        let from = (bucket, Item::Log(Actor([0; 16])));
        let of_bucket = self.range(from..).take_while(|((of, _), _)| *of == bucket);
        of_bucket.for_each(|((_, item), value)| visit(item, value));
    }
}

#[cfg(test)]
impl Tree {
    pub(crate) fn set(&mut self, item: Item, value: &[u8]) {
        self.items.insert((item.bucket(), item), value.to_vec());
        self.digests.touch(item.bucket());
    }

    pub(crate) fn remove(&mut self, item: &Item) {
        self.items.remove(&(item.bucket(), *item));
        self.digests.touch(item.bucket());
    }

    pub(crate) fn root(&self) -> Root {
        self.digests.root(&self.items)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    fn print(&self, key: &RangeKey, buckets: Range<usize>) -> [u8; 6] {
        self.digests.print(&self.items, key, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u8, seq: u64) -> (Item, [u8; 40]) {
        (Item::Log(Actor([number; 16])), log_value(seq, &ChangeHash([1; 32])))
    }

    #[test]
    fn equal_sets_have_equal_roots_in_any_order() {
        let mut forward = Tree::default();
        let mut backward = Tree::default();
        let empty = forward.root();
        for number in 0..200 {
            let (item, value) = log(number, u64::from(number) + 1);
            forward.set(item, &value);
            forward.root();
        }
        for number in (0..200).rev() {
            for seq in [2, 1] {
                let (item, value) = log(number, u64::from(number) + seq);
                backward.set(item, &value);
            }
        }
        assert_eq!(forward.root(), backward.root());
        let (item, value) = log(0, 9);
        backward.set(item, &value);
        assert_ne!(forward.root(), backward.root());
        (0..200).for_each(|number| forward.remove(&log(number, 1).0));
        assert_eq!((forward.root(), forward.len()), (empty, 0));
    }

    #[test]
    fn prints_differ_exactly_where_items_do() {
        let mut one = Tree::default();
        for number in 0..200 {
            let (item, value) = log(number, 1);
            one.set(item, &value);
        }
        let mut other = one.clone();
        let (item, value) = log(7, 2);
        other.set(item, &value);
        let (key, next) = (RangeKey::new(1), RangeKey::new(2));
        for bucket in 0..BUCKETS {
            let range = bucket..bucket + 1;
            let is_equal = one.print(&key, range.clone()) == other.print(&key, range);
            assert_eq!(is_equal, bucket != usize::from(item.bucket()), "{bucket}");
        }
        assert_ne!(one.print(&key, 0..BUCKETS), one.print(&next, 0..BUCKETS));
        assert_ne!(one.print(&key, 0..BUCKETS), other.print(&key, 0..BUCKETS));
    }

    /// Golden: roots are compared between versions.
    #[test]
    fn golden_root() {
        let mut tree = Tree::default();
        tree.set(Item::Log(Actor([1; 16])), &log_value(2, &ChangeHash([3; 32])));
        tree.set(Item::Statement(StatementId([4; 32]), Key([5; 32])), &[6; 64]);
        assert_eq!(tree.root().to_string(), "b88dbef7fae3c4efafc469e4caa6d6b0ec4701611397d9462480de05652573d9");
    }
}
