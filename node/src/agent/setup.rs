//! What a node is started with.

use std::sync::Arc;

use crdt::id::FleetId;
use ed25519_dalek::SigningKey;

use super::{BulkPort, Pulse};
use crate::clock::Clock;
use crate::folder::Folder;
use crate::store::Store;

/// What a node is started with.
pub(crate) struct Setup {
    pub(crate) folder: Folder,
    pub(crate) store: Store,
    pub(crate) fleet: FleetId,
    pub(crate) incarnation: u64,
    pub(crate) key: SigningKey,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) mesh: MeshSetup,
    /// Where a service manager wants signs of life.
    pub(crate) pulse: Option<Pulse>,
}

/// How the mesh is started.
pub(crate) struct MeshSetup {
    pub(crate) listen: transport::Listen,
    pub(crate) mdns: bool,
    /// How others reach this device where they cannot dial it.
    pub(crate) reach: transport::Reaching,
    /// Whether this device pays for what it sends.
    pub(crate) is_metered: bool,
    pub(crate) bulk_port: BulkPort,
    /// Whether what a peer sends after the first MiB is asked for over the bulk plane.
    pub(crate) bulk_backfill: bool,
    /// Bytes a second of questions and answers that are passed on for others; 0 is no limit.
    pub(crate) relay_rate: u64,
}
