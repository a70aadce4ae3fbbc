//! Ways with a rate of their own, in virtual time.

use super::*;
use proptest::prelude::*;

const MEGABYTE: u64 = 1 << 20;

fn key(number: u8) -> PeerKey {
    PeerKey([number; 32])
}

/// A device that is asked itself.
fn holder(number: u8) -> Via {
    Via { hop: key(number), holder: key(number) }
}

/// What carries the requests: each way one after the other at its rate.
struct Carriers {
    fetch: Fetch,
    now: Duration,
    /// Bytes a second; 0: nothing is ever heard.
    rates: BTreeMap<Via, u64>,
    /// When each way is free.
    free: BTreeMap<Via, Duration>,
    under_way: BTreeMap<(Duration, PartId), (Via, u64)>,
    carried: BTreeMap<Via, u64>,
    is_done: bool,
}

impl Carriers {
    fn new(size: u64, rates: &[(Via, u64)]) -> Carriers {
        let mut fetch = Fetch::new(size, [0..size]);
        fetch.ways(rates.iter().map(|(via, _)| *via));
        Carriers {
            fetch,
            now: Duration::ZERO,
            rates: rates.iter().copied().collect(),
            free: BTreeMap::new(),
            under_way: BTreeMap::new(),
            carried: BTreeMap::new(),
            is_done: false,
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.fetch.poll_action(self.now) {
            match action {
                Action::Request { part, via, bytes } => {
                    let (rate, count) = (self.rates[&via], bytes.end - bytes.start);
                    if rate > 0 {
                        let begins = self.free.get(&via).copied().unwrap_or_default().max(self.now);
                        let ends = begins + Duration::from_micros(count * 1_000_000 / rate);
                        self.free.insert(via, ends);
                        self.under_way.insert((ends, part), (via, count));
                    }
                }
                Action::Cancel(part) => self.under_way.retain(|(_, id), _| *id != part),
                Action::Done => self.is_done = true,
            }
        }
    }

    /// Until all is here, or nothing more happens.
    fn run(&mut self) {
        self.act();
        while !self.is_done {
            let end = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let timeout = self.fetch.poll_timeout();
            match (end, timeout) {
                (Some(end), timeout) if timeout.is_none_or(|timeout| end <= timeout) => {
                    self.now = end;
                    let ((_, part), (via, count)) = self.under_way.pop_first().expect("it is there");
                    *self.carried.entry(via).or_default() += count;
                    self.fetch.ended(self.now, part, count, None);
                }
                (_, Some(timeout)) => {
                    self.now = self.now.max(timeout);
                    self.fetch.timer(self.now);
                }
                (None, None) => return,
                (Some(_), None) => unreachable!("a request has a timeout"),
            }
            self.act();
        }
    }
}

#[test]
fn a_way_is_given_more_before_it_runs_dry_and_what_it_carries_is_all_there_is() {
    let mut carriers = Carriers::new(100 * MEGABYTE, &[(holder(1), 10_000_000)]);
    carriers.run();
    assert!(carriers.is_done);
    assert_eq!(carriers.carried[&holder(1)], 100 * MEGABYTE);
    let ideal = Duration::from_micros(100 * MEGABYTE / 10);
    assert!(carriers.now < ideal + Duration::from_millis(10), "{:?}", carriers.now);
}

#[test]
fn two_equal_ways_carry_half_each_and_unequal_ones_what_they_can() {
    let over = |hop: u8| Via { hop: key(hop), holder: key(9) };
    let mut equal = Carriers::new(64 * MEGABYTE, &[(over(1), 2_500_000), (over(2), 2_500_000)]);
    equal.run();
    let alone = Duration::from_micros(64 * MEGABYTE * 1_000_000 / 2_500_000);
    assert!(equal.is_done && equal.now < alone * 53 / 100, "{:?} of {alone:?}", equal.now);
    let (one, two) = (equal.carried[&over(1)], equal.carried[&over(2)]);
    assert!(one.abs_diff(two) <= 4 * MEGABYTE, "{one} and {two}");

    let mut unequal = Carriers::new(64 * MEGABYTE, &[(holder(1), 3_000_000), (holder(2), 1_000_000)]);
    unequal.run();
    let together = Duration::from_micros(64 * MEGABYTE / 4);
    assert!(unequal.is_done && unequal.now < together * 106 / 100, "{:?} of {together:?}", unequal.now);
}

#[test]
fn what_a_silent_way_was_asked_for_goes_to_the_others_and_it_rests_longer_each_time() {
    let mut carriers = Carriers::new(200 * MEGABYTE, &[(holder(1), 5_000_000), (holder(2), 0)]);
    carriers.run();
    assert!(carriers.is_done);
    assert_eq!(carriers.carried[&holder(1)], 200 * MEGABYTE);
    let ideal = Duration::from_micros(200 * MEGABYTE / 5);
    assert!(carriers.now < ideal + FIRST_BYTES + Duration::from_secs(1), "{:?}", carriers.now);
}

#[test]
fn a_holder_that_has_something_else_is_not_asked_again() {
    let mut fetch = Fetch::new(MEGABYTE, [0..MEGABYTE]);
    fetch.ways([holder(1)]);
    let now = Duration::ZERO;
    let Some(Action::Request { part, bytes, .. }) = fetch.poll_action(now) else { panic!("a request") };
    assert_eq!(bytes.start, 0);
    fetch.ended(now, part, 0, Some(Fault::Holder));
    assert!(!fetch.has_ways());
    fetch.ways([holder(1), holder(2)]);
    let Some(Action::Request { via, bytes, .. }) = fetch.poll_action(now) else { panic!("a request") };
    assert_eq!((via, bytes.start), (holder(2), 0), "what it had not brought is asked for first");
}

#[test]
fn what_came_before_a_fault_is_kept_in_whole_groups() {
    let mut fetch = Fetch::new(MEGABYTE, [0..MEGABYTE]);
    fetch.ways([holder(1)]);
    let Some(Action::Request { part, .. }) = fetch.poll_action(Duration::ZERO) else { panic!("a request") };
    fetch.ended(Duration::ZERO, part, 2 * GROUP_BYTES + 5, Some(Fault::Way));
    assert_eq!(fetch.missing_bytes(), MEGABYTE - 2 * GROUP_BYTES);
    assert_eq!(fetch.poll_action(Duration::ZERO), None, "the way rests");
    assert_eq!(fetch.poll_timeout(), Some(REST[0]));
    let Some(Action::Request { bytes, .. }) = fetch.poll_action(REST[0]) else { panic!("a request") };
    assert_eq!(bytes.start, 2 * GROUP_BYTES);
    assert_eq!(fetch.poll_action(REST[0]), None, "it has to show with one that it carries again");
}

#[test]
fn a_pause_asks_for_nothing_new_and_a_way_that_is_gone_loses_nothing() {
    let mut fetch = Fetch::new(10 * MEGABYTE, [0..10 * MEGABYTE]);
    fetch.ways([holder(1)]);
    let Some(Action::Request { part, .. }) = fetch.poll_action(Duration::ZERO) else { panic!("a request") };
    fetch.set_paused(true);
    assert_eq!(fetch.poll_action(Duration::ZERO), None);
    fetch.ways([]);
    assert_eq!(fetch.poll_action(Duration::ZERO), Some(Action::Cancel(part)));
    assert_eq!(fetch.missing_bytes(), 10 * MEGABYTE);
    fetch.set_paused(false);
    assert_eq!(fetch.poll_action(Duration::ZERO), None, "there is nobody to ask");
    fetch.ways([holder(2)]);
    assert!(matches!(fetch.poll_action(Duration::ZERO), Some(Action::Request { .. })));
}

#[test]
fn nothing_missing_is_done_at_once() {
    let mut fetch = Fetch::new(5, []);
    assert_eq!(fetch.poll_action(Duration::ZERO), Some(Action::Done));
    assert_eq!(fetch.poll_action(Duration::ZERO), None);
}

proptest! {
    /// Whatever fails and whatever of it was stored: each byte is stored once, and all are in the end.
    #[test]
    fn every_byte_comes_once(
        size in 1u64..40_000_000,
        faults in proptest::collection::vec((any::<u8>(), 0u8..4), 0..60),
    ) {
        let mut fetch = Fetch::new(size, [0..size]);
        let ways = [holder(1), Via { hop: key(3), holder: key(2) }];
        fetch.ways(ways);
        let (mut now, mut stored, mut faults) = (Duration::ZERO, BTreeMap::<u64, u64>::new(), faults.into_iter());
        let mut asked = Vec::new();
        for _ in 0..10_000 {
            now += Duration::from_millis(20);
            fetch.timer(now);
            while let Some(action) = fetch.poll_action(now) {
                match action {
                    Action::Request { part, bytes, .. } => {
                        prop_assert!(bytes.start % GROUP_BYTES == 0 && bytes.end <= size && bytes.end > bytes.start);
                        prop_assert!(bytes.end % GROUP_BYTES == 0 || bytes.end == size);
                        asked.push((part, bytes));
                    }
                    Action::Cancel(part) => asked.retain(|(id, _)| *id != part),
                    Action::Done => {
                        let mut end = 0;
                        for (start, until) in &stored {
                            prop_assert_eq!(*start, end, "each byte once, without a gap");
                            end = *until;
                        }
                        prop_assert_eq!(end, size);
                        return Ok(());
                    }
                }
            }
            if asked.is_empty() {
                now = fetch.poll_timeout().expect("ways rest").max(now);
                continue;
            }
            let (part, bytes) = asked.remove(0);
            let whole = bytes.end - bytes.start;
            let (share, what) = faults.next().unwrap_or((255, 0));
            let (came, fault) = match what {
                0 => (whole, None),
                _ => (whole * u64::from(share) / 255, Some(Fault::Way)),
            };
            let kept = if came >= whole { whole } else { came - came % GROUP_BYTES };
            if kept > 0 {
                stored.insert(bytes.start, bytes.start + kept);
            }
            fetch.ended(now, part, came, fault);
        }
        prop_assert!(false, "it does not end");
    }
}
