//! Readings of this machine as values of the schema (DESIGN 4).
//!
//! A [`Collector`] reads files under a root, `/` live or a folder of a [`Replay`], and gives a [`Collection`]: one flat
//! map from path to value for each of the documents `device`, `environment` and `resource`. A [`Significance`] decides
//! which of them are worth a change, and when. Both are told the time; neither knows a network or a store.
//!
//! ```text
//! Collector::collect(elapsed) ── Collection ──▶ Significance::handle(now, readings) ── edits ──▶ the engine
//! ```
//!
//! Paths are lowercase parts of `[a-z0-9_-]` joined by dots, with the unit at the end: `disk.nvme0n1.size_bytes`.
//! Values are text, booleans and whole numbers. A source that hangs, lies or vanishes costs its own values only.
//!
//! Serial numbers, hardware addresses and machine ids leave this crate only as BLAKE3 keyed with the fleet id.

#![deny(missing_docs, unreachable_pub)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bounds;
mod collector;
mod derive;
mod device;
mod environment;
mod fingerprint;
mod probe;
mod rates;
mod replay;
mod resource;
mod significance;
mod source;
mod system;
mod tree;

pub use collector::{Collection, Collector, VALUES_MAX};
pub use device::{DISKS_MAX, INTERFACES_MAX};
pub use environment::{CHANNELS_MAX, HWMONS_MAX, POWER_SUPPLIES_MAX, THERMAL_ZONES_MAX};
pub use probe::TEXT_CHARS_MAX;
pub use replay::{FRAME_MS_MAX, FRAMES_MAX, REPLAY_FILE, Replay, ReplayError};
pub use resource::FILESYSTEMS_MAX;
pub use significance::{
    CHANGE_BYTES, CROSSINGS_PER_MINUTE, Edits, INTERVAL_MS_MIN, MISSING_MAX, Significance, TELEMETRY_BYTES_PER_S,
    interval_ms,
};
pub use source::{COLLECT_MS_MAX, STUCK_WORKERS_MAX, SourceReport, SourceState, TAKE_OVER_MS};
pub use system::{Filesystem, LiveSystem, SYSTEM_FILE, System, SystemError};
pub use tree::{ENTRIES_MAX, FILE_BYTES_MAX, TreeError};
