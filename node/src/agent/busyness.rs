//! Whether this device has so much to do that others should rather ask someone else. Pure: readings and times are handed in.

use std::time::Duration;

use crdt::id::Time;

/// Processors are at their limit from so much of their time on, and no longer below the other, in a thousand.
const LIMIT_PERMILLE: u64 = 900;
const CALM_PERMILLE: u64 = 700;
/// For so long either has to last: others hear of it, and what goes over this device moves.
const LASTS: Duration = Duration::from_secs(30);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Busyness {
    is_busy: bool,
    /// Since when it has been otherwise.
    otherwise_since: Option<Time>,
}

impl Busyness {
    /// How much of their time the processors work, in a thousand; none where that is not known.
    pub(super) fn reading(&mut self, now: Time, permille: Option<u64>) {
        let is_otherwise = match self.is_busy {
            false => permille.is_some_and(|permille| permille >= LIMIT_PERMILLE),
            true => permille.is_none_or(|permille| permille < CALM_PERMILLE),
        };
        self.otherwise_since = is_otherwise.then(|| self.otherwise_since.unwrap_or(now));
    }

    /// When [`Busyness::timer`] has something to say.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.otherwise_since.map(|since| Time(since.0 + LASTS.as_micros() as u64))
    }

    /// Whether it is busy, where that is no longer what it was.
    pub(super) fn timer(&mut self, now: Time) -> Option<bool> {
        self.poll_timeout().filter(|at| *at <= now)?;
        self.otherwise_since = None;
        self.is_busy = !self.is_busy;
        Some(self.is_busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn only_what_lasts_counts() {
        let mut busyness = Busyness::default();
        busyness.reading(at(0), Some(950));
        assert_eq!((busyness.poll_timeout(), busyness.timer(at(29))), (Some(at(30)), None));
        busyness.reading(at(29), Some(899));
        assert_eq!((busyness.poll_timeout(), busyness.timer(at(90))), (None, None), "it was calm in between");
        busyness.reading(at(100), Some(900));
        busyness.reading(at(110), Some(1_000));
        assert_eq!(busyness.timer(at(130)), Some(true));
        assert_eq!((busyness.poll_timeout(), busyness.timer(at(500))), (None, None));
        busyness.reading(at(500), Some(700));
        assert_eq!(busyness.poll_timeout(), None, "less than its limit is not calm");
        busyness.reading(at(510), Some(699));
        busyness.reading(at(520), None);
        assert_eq!(busyness.timer(at(540)), Some(false));
        busyness.reading(at(541), None);
        assert_eq!(busyness.poll_timeout(), None);
    }
}
