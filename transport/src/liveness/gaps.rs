//! How long a link is silent between two arrivals.

use std::time::Duration;

/// Gaps that are remembered.
const GAPS: usize = 64;
/// Before so many are known, silence says nothing.
const GAPS_MIN: u32 = 16;

/// A gap is a surprise when it is half as long again as the longest one, and this.
const SURPRISE: Duration = Duration::from_millis(20);

/// The last gaps of a link.
#[derive(Debug, Clone)]
pub(super) struct Gaps {
    /// Microseconds, round and round.
    last: [u32; GAPS],
    noted: u32,
    longest: u32,
}

impl Default for Gaps {
    fn default() -> Gaps {
        Gaps { last: [0; GAPS], noted: 0, longest: 0 }
    }
}

impl Gaps {
    /// Bytes came after so long. Whether that was much longer than any gap before: something may have been lost, and sent
    /// again.
    pub(super) fn note(&mut self, gap: Duration) -> bool {
        let is_surprise = self.longest().is_some_and(|longest| gap > longest + longest / 2 + SURPRISE);
        let micros = u32::try_from(gap.as_micros()).unwrap_or(u32::MAX);
        let at = self.noted as usize % GAPS;
        let forgotten = std::mem::replace(&mut self.last[at], micros);
        self.noted = self.noted.checked_add(1).unwrap_or(GAPS as u32);
        if micros >= self.longest {
            self.longest = micros;
        } else if forgotten == self.longest {
            // Only where the longest one is forgotten all are looked at.
            self.longest = self.last.iter().copied().max().unwrap_or(micros);
        }
        is_surprise
    }

    /// The longest of the last 64 gaps: what all but one or two in a hundred are shorter than. None before enough are
    /// known.
    pub(super) fn longest(&self) -> Option<Duration> {
        (self.noted >= GAPS_MIN).then(|| Duration::from_micros(u64::from(self.longest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_is_much_longer_than_all_before_is_a_surprise_once() {
        let mut gaps = Gaps::default();
        let mut note = |millis| gaps.note(Duration::from_millis(millis));
        assert!((0..16).all(|_| !note(20)), "too few are known");
        assert!(!note(50), "half as long again, and 20 ms");
        assert!(note(96));
        assert!(!note(96), "it is known now");
    }

    #[test]
    fn the_longest_of_the_last_gaps() {
        let mut gaps = Gaps::default();
        let note = |gaps: &mut Gaps, millis| {
            gaps.note(Duration::from_millis(millis));
        };
        (0..15).for_each(|_| note(&mut gaps, 20));
        assert_eq!(gaps.longest(), None);
        note(&mut gaps, 90);
        assert_eq!(gaps.longest(), Some(Duration::from_millis(90)));
        (0..63).for_each(|number| note(&mut gaps, number % 20));
        assert_eq!(gaps.longest(), Some(Duration::from_millis(90)));
        note(&mut gaps, 5);
        assert_eq!(gaps.longest(), Some(Duration::from_millis(19)), "the long one is forgotten");
        gaps.note(Duration::MAX);
        assert_eq!(gaps.longest(), Some(Duration::from_micros(u64::from(u32::MAX))));
    }
}
