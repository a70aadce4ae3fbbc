//! How often a key may ask to join: a token bucket a key, pure, driven by `now`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::peer::PeerKey;

/// Requests a key may make at once, and again in each minute.
pub(crate) const PER_MINUTE: u32 = 4;
/// The time in which one request comes back.
const REFILL: Duration = Duration::from_secs(60 / PER_MINUTE as u64);
/// Most keys remembered. When all of them are still short of tokens, a new key is refused: keys are free to make, so
/// forgetting the oldest would be no limit at all.
pub(crate) const MAX_KEYS: usize = 1024;

/// The buckets. A key not in the map has a full bucket.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// For each key the time at which its bucket is full again: the bucket's whole state (the "virtual scheduling" form of
    /// the token bucket, ITU-T I.371).
    full_at: BTreeMap<PeerKey, Duration>,
}

impl Rate {
    /// Takes a token of `key` at `now` (since any fixed start, not going back). False: over the limit.
    pub(crate) fn take(&mut self, now: Duration, key: PeerKey) -> bool {
        let full_at = self.full_at.get(&key).copied().unwrap_or(now).max(now);
        if full_at + REFILL > now + REFILL * PER_MINUTE {
            return false;
        }
        if !self.full_at.contains_key(&key) && self.full_at.len() >= MAX_KEYS {
            self.full_at.retain(|_, at| *at > now);
            if self.full_at.len() >= MAX_KEYS {
                return false;
            }
        }
        self.full_at.insert(key, full_at + REFILL);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u64) -> PeerKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        PeerKey(bytes)
    }

    #[test]
    fn four_at_once_then_one_each_fifteen_seconds() {
        let mut rate = Rate::default();
        let at = Duration::from_secs;
        assert_eq!((0..6).filter(|_| rate.take(at(0), key(1))).count(), 4);
        assert!(rate.take(at(0), key(2)), "another key has its own bucket");
        assert!(!rate.take(at(14), key(1)));
        assert!(rate.take(at(15), key(1)));
        assert!(!rate.take(at(15), key(1)));
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_passes() {
        let mut rate = Rate::default();
        let taken = (0..5000).filter(|n| rate.take(Duration::ZERO, key(*n))).count();
        assert_eq!((taken, rate.full_at.len()), (MAX_KEYS, MAX_KEYS));
        assert!(rate.take(Duration::from_secs(16), key(9999)));
        assert_eq!(rate.full_at.len(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_eight_in_any_minute(gaps in proptest::collection::vec(0u64..30_000, 1..200)) {
            let mut rate = Rate::default();
            let mut now = Duration::ZERO;
            let mut taken = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if rate.take(now, key(1)) {
                    taken.push(now);
                }
            }
            for start in &taken {
                let within = taken.iter().filter(|t| **t >= *start && **t < *start + Duration::from_secs(60)).count();
                prop_assert!(within <= 2 * PER_MINUTE as usize);
            }
        }
    }
}
