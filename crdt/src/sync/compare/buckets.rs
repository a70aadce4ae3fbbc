//! One bucket of two trees: which items differ, told by short ids alone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::frame::ShortItem;
use super::super::replica::Replica;
use crate::id::{Actor, StatementId};
use crate::root::{Item, RangeKey};

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sync) struct Found {
    /// Logs of which the peer has more, up to which number.
    pub(in crate::sync) ahead: Vec<(Actor, u64)>,
    /// Logs that the peer has with another change at the same number.
    pub(in crate::sync) forked: Vec<Actor>,
    /// What the peer lacks, or has less of, or otherwise.
    pub(in crate::sync) logs: Vec<Actor>,
    /// Those of them of which the peer has less, with the number up to which it has them.
    pub(in crate::sync) behind: Vec<(Actor, u64)>,
    pub(in crate::sync) statements: BTreeSet<StatementId>,
    /// What the peer has and this node does not know: bucket and short id.
    pub(in crate::sync) unknown: Vec<(u16, [u8; 3])>,
}

impl Found {
    pub(in crate::sync) fn is_empty(&self) -> bool {
        *self == Found::default()
    }
}

/// The items of a bucket that may be told, with what they are.
pub(in crate::sync) fn short_items<'a>(
    replica: &'a Replica,
    key: &'a RangeKey,
    bucket: u16,
) -> impl Iterator<Item = (ShortItem, Item)> + 'a {
    replica.tree().bucket(bucket).filter_map(|item| {
        let (value, seq) = match &item {
            Item::Log(actor) => {
                let state = replica.logs().get(actor).filter(|state| state.stored > 0)?;
                let head = if state.stored == state.seq { key.short_value(&state.head().0) } else { 0 };
                (head, state.stored)
            }
            Item::Statement(id, signer) => {
                let entry = replica.stored_statement(id)?;
                (key.short_value(entry.signed.signatures().get(signer)?), 0)
            }
        };
        Some(((key.short_id(&item), value, seq), item))
    })
}

/// Compares a bucket with all that the peer has in it.
pub(in crate::sync) fn compare(
    replica: &Replica,
    key: &RangeKey,
    bucket: u16,
    theirs: &[ShortItem],
    found: &mut Found,
) {
    let mut own: BTreeMap<[u8; 3], (ShortItem, Item)> =
        short_items(replica, key, bucket).map(|(short, item)| (short.0, (short, item))).collect();
    for (id, value, seq) in theirs {
        match own.remove(id) {
            Some(((_, own_value, own_seq), Item::Log(actor))) if *seq > 0 => {
                if *seq > own_seq {
                    found.ahead.push((actor, *seq));
                } else if *seq < own_seq {
                    found.logs.push(actor);
                    found.behind.push((actor, *seq));
                } else if *value != 0 && own_value != 0 && *value != own_value {
                    found.forked.push(actor);
                    found.logs.push(actor);
                }
            }
            Some(((_, own_value, _), Item::Statement(statement, _))) if *seq == 0 => {
                if *value != own_value {
                    found.statements.insert(statement);
                    found.unknown.push((bucket, *id));
                }
            }
            // Two items of one short id: the next comparison has another key.
            _ => found.unknown.push((bucket, *id)),
        }
    }
    for (_, item) in own.into_values() {
        match item {
            Item::Log(actor) => found.logs.push(actor),
            Item::Statement(id, _) => {
                found.statements.insert(id);
            }
        }
    }
}
