//! How fast bytes may leave: a token bucket in its virtual scheduling form (ITU-T I.371).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may leave at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// A limit that several senders share.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second; none is no limit.
    rate: Option<u64>,
    /// When all that was granted has left.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// `rate` in bytes a second; 0 is no limit.
    pub(crate) fn new(rate: u64) -> Pace {
        Pace { rate: Some(rate).filter(|rate| *rate > 0), free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may leave.
    pub(crate) async fn take(&self, bytes: usize) {
        if let Some(at) = self.grant(Instant::now(), bytes) {
            sleep_until(at).await;
        }
    }

    /// When so many bytes may leave, where that is limited.
    fn grant(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.rate?;
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate);
        let from = now.checked_sub(BURST).map_or(*free_at, |earliest| earliest.max(*free_at));
        *free_at = from + takes;
        Some(*free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_together_takes_the_time_of_the_sum_less_a_burst_after_a_rest() {
        let pace = Pace::new(1_000_000);
        let start = Instant::now() + Duration::from_secs(10);
        let last = (0..20).filter_map(|_| pace.grant(start, 100_000)).last().expect("a limit");
        assert_eq!(last, start + Duration::from_secs(2) - BURST);
        let rested = start + Duration::from_secs(60);
        assert_eq!(pace.grant(rested, 100_000), Some(rested));
        assert_eq!(pace.grant(rested, 100_000), Some(rested + Duration::from_millis(100)));
        assert_eq!(Pace::new(0).grant(start, usize::MAX), None);
    }
}
