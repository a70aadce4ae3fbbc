//! Reads of the store for the API. The agent waits for nobody, so its task gives away what its memory has, and the
//! store is read on a thread that may wait for the disk.

use std::collections::BTreeMap;

use crdt::change::LogName;
use crdt::id::{DeviceId, Key};
use crdt::store::LogStore;
use crdt::view::Shown;

use super::devices::operator_name;
use super::status::name_of;
use super::{Api, Problem};
use crate::agent::Node;

/// Reads of the store at once, each of which holds one answer in memory; more of them wait.
pub(super) const READS_MAX: usize = 8;

impl Api {
    /// Looks at the agent's memory, then reads the store as it is at one moment. `look` runs inside the agent's task
    /// and must read nothing but memory.
    ///
    /// The store may be newer than what was looked at: a view may have a value of a change, or of a log, that is not
    /// counted beside it yet, and a log that was looked at may be gone. It is never older.
    pub(super) async fn read<S: Send + 'static, T: Send + 'static>(
        &self,
        look: impl FnOnce(&Node) -> Result<S, Problem> + Send + 'static,
        read: impl FnOnce(S, &dyn LogStore) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.reads.clone().acquire_owned().await.map_err(|error| Problem::internal(&error))?;
        let seen = self.agent.look(look).await??;
        let store = self.agent.store().clone();
        let task = tokio::task::spawn_blocking(move || {
            // Who asked may be gone; the turn is over when the read is.
            let _turn = turn;
            store.frozen(|frozen| read(seen, frozen))
        });
        task.await.map_err(|error| Problem::internal(&error))??
    }
}

/// The names of those whom some logs name. A log that is newer than they are is shown with the first digits of its
/// author and carrier.
#[derive(Default)]
pub(super) struct Names {
    devices: BTreeMap<DeviceId, String>,
    operators: BTreeMap<Key, String>,
}

impl Names {
    pub(super) fn of<'a>(node: &Node, logs: impl Iterator<Item = &'a LogName>) -> Names {
        let mut names = Names::default();
        for log in logs {
            names.devices.entry(log.carrier).or_insert_with(|| name_of(node, &log.carrier));
            names.operators.entry(log.author).or_insert_with(|| operator_name(node, &log.author));
        }
        names
    }

    pub(super) fn device(&self, device: &DeviceId) -> String {
        self.devices.get(device).cloned().unwrap_or_else(|| device.short())
    }

    pub(super) fn operator(&self, key: &Key) -> String {
        self.operators.get(key).cloned().unwrap_or_else(|| key.short())
    }

    /// Author and carrier of a value; a device that writes for itself is both by its name.
    pub(super) fn of_value(&self, shown: &Shown) -> (String, String) {
        let carrier = self.device(&shown.carrier);
        let is_own = shown.author.device() == shown.carrier;
        (if is_own { carrier.clone() } else { self.operator(&shown.author) }, carrier)
    }
}
