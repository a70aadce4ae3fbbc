//! Presence: a view derived from link state, this node's own links first.

use std::collections::BTreeMap;

use crdt::id::DeviceId;

use super::Node;

/// Where a device is, as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// This very node.
    Here,
    /// A session is up.
    Linked,
    /// Another device that is present says that it holds a link.
    SeenBy(DeviceId),
    /// Nobody present holds a link; since when, milliseconds since 1970, where that is known.
    Away(Option<u64>),
}

impl Node {
    /// The presence of every device of the roster.
    ///
    /// Only what present devices say counts: the last words of a device that is gone may name links long dead.
    pub(crate) fn presences(&self) -> BTreeMap<DeviceId, Presence> {
        let mut present = BTreeMap::from([(self.device(), Presence::Here)]);
        let used = self.sessions.iter().filter(|(link, _)| !self.routing.is_suspect(link));
        let linked = used.map(|(_, session)| session.peer.device());
        present.extend(linked.filter(|device| self.is_member(device)).map(|device| (device, Presence::Linked)));
        let mut front: Vec<DeviceId> = present.keys().copied().filter(|device| *device != self.device()).collect();
        while let Some(witness) = front.pop() {
            let Some(said) = self.neighbours.reported.get(&witness) else { continue };
            for (device, _) in said.neighbours.iter().filter(|(_, report)| report.is_up) {
                if !present.contains_key(device) && self.is_member(device) {
                    present.insert(*device, Presence::SeenBy(witness));
                    front.push(*device);
                }
            }
        }
        let roster = self.engine.replica().roster();
        for device in roster.devices() {
            present.entry(device).or_insert_with(|| Presence::Away(self.last_seen(&device)));
        }
        present
    }

    /// When someone last lost a link to the device.
    pub(crate) fn last_seen(&self, device: &DeviceId) -> Option<u64> {
        let reports = self.neighbours.reported.values().filter_map(|said| said.neighbours.get(device));
        let reported = reports.filter(|report| !report.is_up).map(|report| report.since_ms);
        reported.chain(self.neighbours.lost_ms(device)).max()
    }
}
