//! The tree over what a replica holds; its items are the logs and who signed which statement.

use std::ops::Range;

use super::Replica;
use crate::id::{Key, StatementId};
use crate::root::{Item, Items, RangeKey};

/// All items.
pub(super) struct All<'a>(pub(super) &'a Replica);

/// Statements, and logs of documents that operators write.
pub(super) struct Durable<'a>(pub(super) &'a Replica);

/// The tree, as comparisons read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a>(pub(super) &'a Replica);

impl Items for All<'_> {
    fn visit(&self, bucket: u16, visit: &mut dyn FnMut(&Item, &[u8])) {
        for (item, value) in self.0.logs.in_bucket(bucket).map(|log| log.item()) {
            visit(&item, &value);
        }
        self.0.visit_signatures(bucket, visit);
    }
}

impl Items for Durable<'_> {
    fn visit(&self, bucket: u16, visit: &mut dyn FnMut(&Item, &[u8])) {
        let durable = self.0.logs.in_bucket(bucket).filter(|log| log.kind().has_many_writers());
        for (item, value) in durable.map(|log| log.item()) {
            visit(&item, &value);
        }
        self.0.visit_signatures(bucket, visit);
    }
}

impl Replica {
    fn signed_in(&self, bucket: u16) -> impl Iterator<Item = (StatementId, Key)> + '_ {
        let from = (bucket, StatementId([0; 32]), Key([0; 32]));
        let of_bucket = self.signatures.range(from..).take_while(move |(of, ..)| *of == bucket);
        of_bucket.map(|(_, id, signer)| (*id, *signer))
    }

    fn visit_signatures(&self, bucket: u16, visit: &mut dyn FnMut(&Item, &[u8])) {
        for (id, signer) in self.signed_in(bucket) {
            let signatures = self.roster.entries().get(&id).map(|entry| entry.signed.signatures());
            if let Some(signature) = signatures.and_then(|signatures| signatures.get(&signer)) {
                visit(&Item::Statement(id, signer), signature);
            }
        }
    }
}

impl<'a> Tree<'a> {
    /// The number of items.
    pub(crate) fn len(self) -> usize {
        self.0.logs.len() + self.0.signatures.len()
    }

    /// The items of a bucket, ascending.
    pub(crate) fn bucket(self, bucket: u16) -> impl Iterator<Item = Item> + 'a {
        let logs = self.0.logs.in_bucket(bucket).map(|log| Item::Log(log.actor()));
        logs.chain(self.0.signed_in(bucket).map(|(id, signer)| Item::Statement(id, signer)))
    }

    /// The first bucket from `from` on that has items.
    pub(crate) fn next_bucket(self, from: u16) -> Option<u16> {
        let signed = self.0.signatures.range((from, StatementId([0; 32]), Key([0; 32]))..).next();
        signed.map(|(bucket, ..)| *bucket).into_iter().chain(self.0.logs.next_bucket(from)).min()
    }

    /// A keyed fingerprint over the buckets of a range.
    pub(crate) fn print(self, key: &RangeKey, buckets: Range<usize>) -> [u8; 6] {
        self.0.digests.print(&All(self.0), key, buckets)
    }
}
