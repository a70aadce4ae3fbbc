//! Signs of life to the service manager. They come from the agent's own task, so that a node whose agent is stuck is
//! ended and started anew, whatever else of it still runs.

use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use crate::supervisor::Supervisor;

/// How often a service manager is told at least how the node stands.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Whom to tell, and when next.
pub(crate) struct Pulse {
    supervisor: Supervisor,
    every: Duration,
    next: Instant,
}

impl Pulse {
    /// Begins at once and goes on at half the watchdog's time or sooner, as sd_watchdog_enabled(3) asks.
    pub(crate) fn new(supervisor: Supervisor, now: Instant) -> Pulse {
        let every = supervisor.watchdog().map_or(STATUS_EVERY, |watchdog| STATUS_EVERY.min(watchdog / 2));
        Pulse { supervisor, every, next: now }
    }

    pub(super) fn next(&self) -> Instant {
        self.next
    }

    fn beat(&mut self, now: Instant, line: &str) {
        match self.supervisor.watchdog() {
            Some(_) => self.supervisor.alive(line),
            None => self.supervisor.status(line),
        }
        self.next = now + self.every;
    }
}

impl Node {
    /// Tells the service manager, where that is due.
    pub(super) fn beat(&mut self) {
        let now = Instant::now();
        if let Some(mut pulse) = self.pulse.take_if(|pulse| pulse.next <= now) {
            pulse.beat(now, &self.summary());
            self.pulse = Some(pulse);
        }
    }

    /// How the node stands, in a line.
    fn summary(&self) -> String {
        let replica = self.engine.replica();
        let linked = self.engine.links().filter(|link| self.is_member(&link.device)).count();
        let others = replica.roster().devices().count().saturating_sub(1);
        let (documents, changes) = (replica.logs().documents_len(), replica.logs().changes());
        let reach = if self.is_offline() {
            "told to stay offline".to_owned()
        } else {
            format!("linked with {linked} of {others} others")
        };
        let refusing = self.full.as_ref().map(|reason| format!("; takes no writes: {reason}")).unwrap_or_default();
        format!("{reach}, {documents} documents, {changes} changes{refusing}")
    }
}
