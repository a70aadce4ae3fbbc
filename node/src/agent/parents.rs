//! From whom this node has the changes of each device, while the mesh measures no routes: from the device itself where a
//! link to it is up, else from the peer over which its `link` document came first.

use std::collections::BTreeMap;

use crdt::id::DeviceId;
use crdt::sync::{Input, LinkId, Parents};

use super::Node;

/// Peers over which the `link` documents of devices came that are not linked themselves.
#[derive(Debug, Default)]
pub(super) struct FirstFrom(BTreeMap<DeviceId, DeviceId>);

impl Node {
    /// A link to a device is up, or gone. What the engine asks for then is done by the caller's loop over effects.
    pub(super) fn hand_over_parents(&mut self, device: DeviceId) {
        // Strangers may come and go as they like.
        if !self.is_member(&device) {
            return;
        }
        let parents = vec![self.parents_of(device)];
        let now = self.now();
        self.engine.handle(now, Input::Parents(parents), &self.writer);
    }

    /// A new engine knows nothing of what an earlier one was told.
    pub(super) fn hand_over_all_parents(&mut self) {
        let devices: Vec<DeviceId> = self.parents.0.keys().copied().collect();
        devices.into_iter().for_each(|device| self.hand_over_parents(device));
    }

    fn parents_of(&self, origin: DeviceId) -> Parents {
        let own_link = self.is_linked(&origin).then_some(origin);
        // While a link is greeted, what served until then goes on to.
        let sources = own_link.into_iter().chain(self.parents.0.get(&origin).copied()).collect();
        Parents { origin, sources }
    }

    /// A device's `link` document came over a link. The first such link stays, as long as it is up.
    pub(super) fn link_document_came(&mut self, device: DeviceId, link: LinkId) {
        let Some(peer) = self.sessions.get(&link).map(|session| session.peer.device()) else { return };
        let is_settled = self.parents.0.get(&device).is_some_and(|first| self.is_linked(first));
        if device == self.device() || self.is_linked(&device) || is_settled {
            return;
        }
        self.parents.0.insert(device, peer);
        self.hand_over_parents(device);
    }

    fn is_linked(&self, device: &DeviceId) -> bool {
        self.sessions.iter().any(|(_, session)| session.peer.device() == *device)
    }
}
