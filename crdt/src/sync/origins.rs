//! Origins by number, with the neighbours that a node would have their changes from.
//!
//! An origin is the device that carries a log: the place where its changes enter the mesh. Each is a number here, so that
//! what is kept for each (link, origin) is two bits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::devices::{Devices, make_room};
use crate::id::{DeviceId, StatementId};

/// Most neighbours that are kept of an origin, best first: the parent, its backup, and one more.
pub(super) const SOURCES_MAX: usize = 3;
/// Most origins that peers name and the roster does not know; further ones are not kept.
const STRANGERS_MAX: usize = 4096;

/// Most statements of which the origin is kept.
const RECENT_MAX: usize = 1024;

const NONE: u32 = u32::MAX;

/// An origin's number in this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(pub(super) u32);

impl Origin {
    /// Stands for a device that a peer named and for which there was no room.
    pub(super) const NOBODY: Origin = Origin(NONE);

    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// All origins.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins {
    /// Shared by the copies of an engine until one gives a number of its own.
    devices: Arc<Devices>,
    sources: Vec<[u32; SOURCES_MAX]>,
    strangers: usize,
}

impl Origins {
    /// The number of a device, given to it where it has none.
    pub(super) fn intern(&mut self, device: &DeviceId) -> Origin {
        let known = self.devices.find(device);
        let number = known.unwrap_or_else(|| Arc::make_mut(&mut self.devices).intern(device));
        while self.sources.len() < self.devices.len() {
            make_room(&mut self.sources);
            self.sources.push([NONE; SOURCES_MAX]);
        }
        Origin(number)
    }

    /// The number of a device that a peer names: of one that the roster does not know only while there is room.
    pub(super) fn intern_named(&mut self, device: &DeviceId, is_known: bool) -> Option<Origin> {
        if let Some(origin) = self.find(device) {
            return Some(origin);
        }
        if !is_known {
            if self.strangers >= STRANGERS_MAX {
                return None;
            }
            self.strangers += 1;
        }
        Some(self.intern(device))
    }

    pub(super) fn find(&self, device: &DeviceId) -> Option<Origin> {
        self.devices.find(device).map(Origin)
    }

    pub(super) fn device(&self, origin: Origin) -> DeviceId {
        *self.devices.id(origin.0)
    }

    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Origin> + use<> {
        (0..u32::try_from(self.devices.len()).unwrap_or(NONE)).map(Origin)
    }

    /// The neighbours from which an origin's changes are to come, best first.
    pub(super) fn sources(&self, origin: Origin) -> impl Iterator<Item = Origin> + '_ {
        self.sources[origin.index()].iter().take_while(|source| **source != NONE).map(|source| Origin(*source))
    }

    /// Sets them; of more than [`SOURCES_MAX`] the first are kept.
    pub(super) fn set_sources(&mut self, origin: Origin, sources: impl IntoIterator<Item = Origin>) {
        let mut kept = [NONE; SOURCES_MAX];
        let mut count = 0;
        for Origin(source) in sources {
            if count < SOURCES_MAX && !kept.contains(&source) {
                kept[count] = source;
                count += 1;
            }
        }
        self.sources[origin.index()] = kept;
    }

    /// Puts a neighbour first.
    pub(super) fn promote(&mut self, origin: Origin, source: Origin) {
        let before: Vec<Origin> = self.sources(origin).collect();
        self.set_sources(origin, [source].into_iter().chain(before));
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.devices.heap_bytes() + self.sources.capacity() * size_of::<[u32; SOURCES_MAX]>()
    }
}

/// Statements of which it is known where they entered the mesh: the newest of them, for those who ask for them late.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    origins: BTreeMap<StatementId, Origin>,
    order: VecDeque<StatementId>,
}

impl Recent {
    pub(super) fn insert(&mut self, id: StatementId, origin: Origin) {
        if self.origins.insert(id, origin).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.origins.remove(&oldest);
        }
    }

    pub(super) fn get(&self, id: &StatementId) -> Option<&Origin> {
        self.origins.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId([number; 32])
    }

    #[test]
    fn the_best_sources_are_kept_in_their_order() {
        let mut origins = Origins::default();
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|number| origins.intern(&device(number)));
        origins.set_sources(a, [b, c, b, d, e]);
        assert_eq!(origins.sources(a).collect::<Vec<_>>(), [b, c, d]);
        origins.promote(a, e);
        assert_eq!(origins.sources(a).collect::<Vec<_>>(), [e, b, c]);
        origins.promote(a, b);
        assert_eq!(origins.sources(a).collect::<Vec<_>>(), [b, e, c]);
        assert_eq!(origins.sources(b).count(), 0);
    }

    #[test]
    fn strangers_take_little_room() {
        let mut origins = Origins::default();
        let stranger = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            DeviceId(id)
        };
        let named = (0..2 * STRANGERS_MAX).filter_map(|number| origins.intern_named(&stranger(number), false)).count();
        assert_eq!((named, origins.len()), (STRANGERS_MAX, STRANGERS_MAX));
        assert!(origins.intern_named(&device(0xff), true).is_some(), "members always have room");
    }
}
