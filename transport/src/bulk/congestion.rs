//! How much of an answer may be on its way: what keeps the queue of the narrowest link at a few milliseconds (decision 018).
//!
//! Blobs are never in a hurry and changes are, and both share links. So the window follows delay and not loss (LEDBAT, RFC
//! 6817, with a smaller target): it grows while packets wait less than [`TARGET`] and shrinks while they wait longer; single
//! losses, of which radio links have many, change nothing. Where others fill the queue it makes room for them.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

#[cfg(test)]
mod tests;

/// How long packets may wait in queues.
const TARGET: Duration = Duration::from_millis(20);
/// Growth of the window in a round trip without any queue, bytes; and the most that it shrinks in one. Who has little grows
/// as fast as who has much, and who has much shrinks more: so flows that share a link come to equal shares.
const GROWTH: f64 = 16_384.0;
const SHRINKS_TO: f64 = 0.7;
/// A round trip in which more of the packets are lost than this is one with too many in flight.
const LOSS_MAX: f64 = 0.15;
/// The least round trip is forgotten after one to two of these. At each it is looked for with half a window for some round
/// trips, after which there is a little less of it: others may have come.
const BASE_AGE: Duration = Duration::from_secs(10);
const DRAINING_ROUNDS: u8 = 2;
const AFTER_DRAINING: f64 = 0.85;
const WINDOW_MIN: u64 = 16 * 1024;
const WINDOW_INITIAL: u64 = 64 * 1024;

/// Makes a controller for each connection.
#[derive(Debug, Default)]
pub(super) struct DelayConfig;

impl ControllerFactory for DelayConfig {
    fn build(self: Arc<Self>, now: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Delay::new(now))
    }
}

/// What was seen in a round trip.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    least: Option<Duration>,
    acked: u64,
    lost: u64,
    /// There was not always something to send.
    is_idle: bool,
}

/// The controller of a connection.
#[derive(Debug, Clone)]
pub(super) struct Delay {
    window: f64,
    /// Doubling, until packets wait.
    is_starting: bool,
    round: Round,
    round_since: Instant,
    /// The least round trip in this age and in the one before.
    base: [Option<Duration>; 2],
    age_since: Instant,
    /// For so many more rounds the window is halved, so that queues run empty.
    draining: u8,
}

impl Delay {
    fn new(now: Instant) -> Delay {
        Delay {
            window: WINDOW_INITIAL as f64,
            is_starting: true,
            round: Round::default(),
            round_since: now,
            base: [None; 2],
            age_since: now,
            draining: 0,
        }
    }

    fn acked(&mut self, now: Instant, sent: Instant, bytes: u64, is_idle: bool) {
        let rtt = now.saturating_duration_since(sent);
        let least = self.round.least.map_or(rtt, |least| least.min(rtt));
        self.round.least = Some(least);
        self.base[0] = Some(self.base[0].map_or(rtt, |base| base.min(rtt)));
        self.round.acked += bytes;
        self.round.is_idle |= is_idle;
        if self.is_starting && !is_idle {
            self.window += bytes as f64;
        }
        if now.saturating_duration_since(self.round_since) >= least {
            self.end_round(now, least);
        }
    }

    fn end_round(&mut self, now: Instant, least: Duration) {
        let Round { acked, lost, is_idle, .. } = std::mem::take(&mut self.round);
        let took = now.saturating_duration_since(self.round_since);
        self.round_since = now;
        let base = self.base.iter().flatten().min().copied().unwrap_or(least);
        let queue = least.saturating_sub(base).as_secs_f64() / TARGET.as_secs_f64();
        let has_lost = lost as f64 > LOSS_MAX * (acked + lost) as f64;
        if self.draining > 0 {
            self.draining -= 1;
            return; // what was seen is of half a window
        }
        if self.is_starting {
            if queue > 0.5 || has_lost {
                self.is_starting = false;
                let rate = acked as f64 / took.as_secs_f64().max(1e-6);
                let carried = rate * (base + TARGET / 2).as_secs_f64();
                self.window = self.window.min(carried);
            }
        } else if has_lost {
            self.window *= SHRINKS_TO;
        } else if queue > 1.0 {
            self.window *= (1.0 - (queue - 1.0) / 2.0).max(SHRINKS_TO);
        } else if !is_idle {
            self.window += GROWTH * (1.0 - queue);
        }
        self.window = self.window.max(WINDOW_MIN as f64);
        if now.saturating_duration_since(self.age_since) >= BASE_AGE {
            self.age_since = now;
            self.base = [None, self.base[0]];
            if !self.is_starting {
                self.draining = DRAINING_ROUNDS;
                self.window *= AFTER_DRAINING;
            }
        }
    }
}

impl Controller for Delay {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.acked(now, sent, bytes, app_limited);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.round.lost += lost_bytes;
        if is_persistent_congestion {
            self.window = WINDOW_MIN as f64;
            self.is_starting = true;
        }
    }

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        let window = if self.draining > 0 { self.window / 2.0 } else { self.window };
        (window as u64).max(WINDOW_MIN)
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        WINDOW_INITIAL
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
