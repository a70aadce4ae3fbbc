//! When to do what is asked for often and should be done rarely: after what comes meanwhile was gathered, and less and less
//! often while it goes on. Pure: times are handed in, since any fixed moment.

use std::time::Duration;

/// What a node says of its links is gathered for so long before it says it.
pub const REPORT_SOON: Duration = Duration::from_millis(50);
/// What links are like is gathered for longer: nobody waits for it.
pub const REPORT_LATER: Duration = Duration::from_secs(1);
/// The longest damping of what it says.
pub const REPORT_DAMP_MAX: Duration = Duration::from_secs(10);
/// What others say is gathered for so long before ways are searched.
pub const SEARCH_SOON: Duration = Duration::from_millis(20);
/// The longest damping of searches, for each node that is known: a search takes a microsecond a node, and half a hundredth
/// of a core is enough for them.
pub const SEARCH_DAMP_MAX_A_NODE: Duration = Duration::from_micros(250);

/// Gathers reasons to do something.
#[derive(Debug, Clone)]
pub struct Gathering {
    least: Duration,
    most: Duration,
    /// From one time to the next.
    pause: Duration,
    last: Duration,
    at: Option<Duration>,
}

impl Gathering {
    /// The pause between two times is this at least, and doubles up to the most while there is always a reason.
    pub fn new(least: Duration, most: Duration) -> Gathering {
        Gathering { least, most, pause: least, last: Duration::ZERO, at: None }
    }

    /// Sets the longest pause.
    pub fn set_most(&mut self, most: Duration) {
        self.most = most.max(self.least);
    }

    /// There is a reason: it is done after so long, or after the pause.
    pub fn ask(&mut self, now: Duration, gather: Duration) {
        self.ask_at((self.last + self.pause).max(now + gather));
    }

    /// It is done at that time at the latest, whatever was before.
    pub fn ask_at(&mut self, at: Duration) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When it is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.at
    }

    /// Whether it is due now; if so, it counts as done.
    pub fn take(&mut self, now: Duration) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        let is_quiet = now > self.last + self.most;
        self.pause = if is_quiet { self.least } else { (self.pause * 2).min(self.most) };
        self.last = now;
        self.at = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_asked_for_all_the_time_is_done_ever_more_rarely() {
        let mut gathering = Gathering::new(LEAST, MOST);
        let mut done = Vec::new();
        for millis in 0..60_000 {
            let now = MOST * 100 + Duration::from_millis(millis);
            if millis % 20 == 0 {
                gathering.ask(now, LEAST);
            }
            if gathering.take(now) {
                done.push(millis);
            }
        }
        assert_eq!(done[..3], [50, 110, 210]);
        assert!((8..20).contains(&done.len()), "{done:?}");
        assert!(done.windows(2).all(|pair| pair[1] - pair[0] <= 10_000), "{done:?}");
    }

    #[test]
    fn after_a_quiet_time_it_is_done_soon_again_and_what_is_urgent_at_once() {
        let mut gathering = Gathering::new(LEAST, MOST);
        for second in 0..10 {
            gathering.ask(Duration::from_secs(second), Duration::ZERO);
            gathering.take(Duration::from_secs(second));
        }
        let busy = Duration::from_secs(10);
        gathering.ask(busy, LEAST);
        assert!(gathering.poll_timeout() > Some(busy + LEAST));
        gathering.ask_at(busy);
        assert!(gathering.take(busy) && !gathering.take(busy));
        let quiet = busy + MOST * 2;
        gathering.ask(quiet, LEAST);
        assert!(!gathering.take(quiet) && gathering.take(quiet + LEAST));
        gathering.ask(quiet + LEAST, LEAST);
        assert_eq!(gathering.poll_timeout(), Some(quiet + LEAST * 2));
    }
}
