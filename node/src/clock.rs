//! The two clocks of a node: a monotonic one for the engine, and the wall clock for claims and for people.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crdt::id::Time;

/// A source of time; tests put their own in its place.
pub(crate) trait Clock: Send + Sync {
    /// Microseconds since the node started; never goes back.
    fn monotonic(&self) -> Time;
    /// Milliseconds since 1970, as this machine believes; may jump either way.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(crate) fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }
}

/// Milliseconds since 1970 by this machine's clock, for the CLI; 0 for a clock before that. A node takes its [`Clock`].
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
