//! The order of admission: each log stands in it where it grew last, so that a peer that was away asks for what came since.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::Replica;
use crate::id::{Actor, DeviceId, StatementId};
use crate::store::{
    Batch, LogStore, OrderRecord, Staged, StoreError, Table, decode_record, encode_record, position_key,
    position_of_key,
};
use crate::sync::frame::Place;

/// The name of the order, while the node is stopped in good order.
pub(super) const SETTING_CLOSED: &[u8] = b"closed";

/// What was admitted since a place in the order: logs and statements.
pub(crate) type Since = (Vec<Actor>, BTreeSet<StatementId>);

/// Keys of cursors in `Setting`: this and a device.
const SETTING_CURSOR: &[u8] = b"cursor ";

impl Replica {
    /// How far this node has its peers' orders.
    pub(super) fn load_cursors(&mut self, store: &dyn LogStore) -> Result<(), StoreError> {
        // Where something is damaged, it is not true any more that all is here.
        if !self.damaged.is_empty() {
            return Ok(());
        }
        let end = [SETTING_CURSOR, &[0xff; 33]].concat();
        store.scan(Table::Setting, SETTING_CURSOR, &end, &mut |key, value| {
            let device = key[SETTING_CURSOR.len()..].try_into().map(DeviceId);
            if let (Ok(device), Ok(place)) = (device, decode_record(Table::Setting, key, value)) {
                self.cursors.insert(device, place);
            }
            ControlFlow::Continue(())
        })
    }

    /// Up to where this node has everything of a peer's order.
    pub(crate) fn cursor_of(&self, device: &DeviceId) -> Option<Place> {
        self.cursors.get(device).copied()
    }

    /// All of a peer's order up to a place is here.
    pub(crate) fn set_cursor(&mut self, staged: &mut Staged<'_>, device: DeviceId, place: Place) {
        if self.cursors.insert(device, place) != Some(place) {
            staged.put(Table::Setting, [SETTING_CURSOR, &device.0].concat(), encode_record(&place));
        }
    }

    /// What was had of peers' orders may not be here.
    pub(crate) fn void_cursors(&mut self, staged: &mut Staged<'_>) {
        for device in std::mem::take(&mut self.cursors).into_keys() {
            staged.delete(Table::Setting, [SETTING_CURSOR, &device.0].concat());
        }
    }

    /// Where each log stands in the order. Damaged rows are passed over: a peer that is not told hears of it by comparing.
    pub(super) fn load_order(&mut self, store: &dyn LogStore) -> Result<(), StoreError> {
        store.scan(Table::Order, &[], &[0xff; 9], &mut |key, value| {
            let Some(position) = position_of_key(key) else { return ControlFlow::Continue(()) };
            self.order_next = position + 1;
            if let Ok(OrderRecord::Log(actor, _)) = decode_record(Table::Order, key, value) {
                self.logs.set_position(&actor, position);
            }
            ControlFlow::Continue(())
        })
    }

    pub(super) fn append_order(&mut self, staged: &mut Staged<'_>, record: &OrderRecord) {
        if std::mem::take(&mut self.is_closed) {
            staged.delete(Table::Setting, SETTING_CLOSED);
        }
        staged.put(Table::Order, position_key(self.order_next), encode_record(record));
        self.order_next += 1;
    }

    /// Puts a log that grew at the end of the order; it stands there once.
    pub(super) fn append_log(&mut self, staged: &mut Staged<'_>, actor: Actor, is_new: bool) {
        let position = self.order_next;
        let Some(before) = self.logs.set_position(&actor, position) else { return };
        let record = OrderRecord::Log(actor, self.logs.get(&actor).map_or(0, |log| log.seq));
        if !is_new {
            staged.delete(Table::Order, position_key(before));
        }
        self.append_order(staged, &record);
    }

    /// Keeps the name of the order over a stop: nothing is lost that anyone was told of. To be synced, and nothing may be
    /// told after it.
    pub(crate) fn close_order(&mut self, staged: &mut Staged<'_>) {
        staged.put(Table::Setting, SETTING_CLOSED, encode_record(&self.generation));
        self.is_closed = true;
    }

    /// Names the order anew: what peers were told of the old one does not hold.
    pub(crate) fn rename_order(&mut self, generation: u64) {
        self.generation = generation;
        self.told = Some(BTreeSet::new());
    }

    /// A device may know from now on how far it has this order.
    pub(crate) fn order_is_told(&mut self, device: DeviceId) {
        if let Some(told) = &mut self.told {
            told.insert(device);
        }
    }

    /// Whether a device may know how far it has this order.
    pub(crate) fn may_know_order(&self, device: &DeviceId) -> bool {
        self.told.as_ref().is_none_or(|told| told.contains(device))
    }

    /// Whether a batch makes an order that was closed go on. It has to be synced: else a power cut would bring back the name
    /// of the order without what was told under it.
    pub(crate) fn reopens_order(batch: &Batch) -> bool {
        batch.get(Table::Setting, SETTING_CLOSED) == Some(None)
    }

    /// The logs and statements that stand in the order from `position` on, told or not; `None` where they are more than
    /// `most`.
    pub(crate) fn admitted_since(
        &self,
        store: &dyn LogStore,
        position: u64,
        most: usize,
    ) -> Result<Option<Since>, StoreError> {
        let (mut logs, mut statements, mut rows) = (Vec::new(), BTreeSet::new(), 0);
        store.scan(Table::Order, &position_key(position), &[0xff; 9], &mut |key, value| {
            rows += 1;
            match decode_record(Table::Order, key, value) {
                Ok(OrderRecord::Log(actor, _)) if self.stands_at(&actor, key) => logs.push(actor),
                Ok(OrderRecord::Statement(id)) => {
                    statements.insert(id);
                }
                _ => {}
            }
            if rows > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok((rows <= most).then_some((logs, statements)))
    }

    fn stands_at(&self, actor: &Actor, key: &[u8]) -> bool {
        self.logs.get(actor).is_some_and(|log| Some(log.position()) == position_of_key(key))
    }
}
