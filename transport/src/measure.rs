//! What a link is like, from the probes that went over it.
//!
//! The least round trip of the last ten seconds is the link's own delay, without the queues of the moment (as in BBR,
//! Cardwell et al. 2016). What is announced stays until the link left a dead-band around it, so that an idle fleet
//! announces nothing. What changes much is seen sooner: four late round trips in a row are the link's new delay, until a
//! short one shows that they were losses, and three late ones of the last eight are its loss, whatever was before; a late one
//! asks for more at once ([`Meter::is_in_doubt`]).
//! Pure: times are handed in, since any fixed moment.

use std::collections::VecDeque;
use std::time::Duration;

/// Round trips count for so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Most round trips that are kept; of more, the oldest are forgotten.
const SAMPLES_MAX: usize = 64;
/// A round trip moves the jitter by this share of what it differs.
const JITTER_SHARE: u64 = 16;
/// Of so many probes it is remembered whether they were late.
const PROBES: u32 = u64::BITS;
/// Before so many probes were answered, nothing is said of loss.
const PROBES_MIN: u32 = 8;
/// The last so many probes of a link in use speak for themselves where at least so many of them were late.
const RECENT: u32 = u8::BITS;
const RECENT_LATE: u32 = 3;
/// After so many in a row that were not, what was lost before is forgotten.
const RECOVERED: u32 = 24;
/// So many late round trips in a row are no losses.
const SHIFTED: u32 = 4;
/// Before so many probes were answered nothing is announced, and the one before is forgotten: it finds both ends busy with
/// greeting.
const ANSWERS_MIN: u32 = 2;
/// A probe that took half as long again as the least round trip and this was lost once, microseconds.
const LATE_MICROS: u64 = 20_000;

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// The least round trip of late, microseconds.
    pub rtt_micros: u64,
    /// What round trips took beyond that, smoothed as in RFC 3550 and without those that were lost once, microseconds.
    pub jitter_micros: u64,
    /// Lost packets, one way, in a million. A session's streams are reliable: what is lost shows as a probe that is late,
    /// where either direction may have lost it.
    pub loss_ppm: u64,
}

impl Measured {
    /// Whether others should hear of it at once: the round trip has doubled, or a tenth more is lost.
    pub fn is_much_worse_than(&self, before: &Measured) -> bool {
        self.rtt_micros > before.rtt_micros.saturating_mul(2).saturating_add(LATE_MICROS)
            || self.loss_ppm > before.loss_ppm.saturating_add(100_000)
    }

    /// Whether another measurement is so different that it is worth announcing: a share of it, and an amount.
    fn is_left_by(&self, now: &Measured) -> bool {
        let leaves = |was: u64, is: u64, share: u64, amount: u64| was.abs_diff(is) > was.max(is) / share + amount;
        leaves(self.rtt_micros, now.rtt_micros, 4, 1_000)
            || leaves(self.jitter_micros, now.jitter_micros, 2, 3_000)
            || leaves(self.loss_ppm, now.loss_ppm, 2, 20_000)
    }
}

/// Measures one link.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    samples: VecDeque<(Duration, u64)>,
    /// Microseconds, times [`JITTER_SHARE`].
    jitter: u64,
    /// One bit a probe, the last one lowest: whether it was late.
    late: u64,
    /// The same of the last eight while the link was in use.
    recent: u8,
    answered: u32,
    announced: Option<Measured>,
}

impl Meter {
    /// A probe came back. Only of a link in use little is believed soon: at an idle one a busy machine is late as well, and
    /// nobody waits for what it is like.
    pub fn answered(&mut self, now: Duration, rtt_micros: u64, is_in_use: bool) {
        if self.is_new() {
            (self.samples, self.late, self.recent) = (VecDeque::new(), 0, 0);
        }
        let least = self.samples.iter().map(|(_, rtt)| *rtt).min().unwrap_or(rtt_micros).min(rtt_micros);
        let is_late = rtt_micros > least.saturating_add(least / 2).saturating_add(LATE_MICROS);
        if !is_late {
            self.jitter = (self.jitter - self.jitter / JITTER_SHARE).saturating_add(rtt_micros - least);
        }
        self.late = self.late << 1 | u64::from(is_late);
        if is_in_use {
            self.recent = self.recent << 1 | u8::from(is_late);
        }
        self.answered = self.answered.saturating_add(1);
        self.samples.push_back((now, rtt_micros));
        if self.late.trailing_zeros() >= RECOVERED {
            (self.late, self.recent) = (0, 0);
        }
        // The last one stays, however old.
        while self.samples.len() > 1 {
            let is_old = self.samples.front().is_some_and(|(at, _)| *at + WINDOW < now);
            if !is_old && self.samples.len() <= SAMPLES_MAX {
                break;
            }
            self.samples.pop_front();
        }
        let shifted = self.shifted();
        if shifted > 0 && self.samples.len() <= shifted as usize {
            // Nothing is left of what was before: they were never losses.
            (self.late, self.recent) = (self.late.checked_shr(shifted).unwrap_or(0), 0);
        }
    }

    /// How many of the last round trips of a link in use are so much longer than before that they may be its delay now. A
    /// short one shows that they were losses: of many in a row, some follow each other.
    fn shifted(&self) -> u32 {
        let in_a_row = self.late.trailing_ones();
        if in_a_row.min(self.recent.trailing_ones()) >= SHIFTED { in_a_row } else { 0 }
    }

    /// What the link is like now; none before its first probe came back.
    pub fn measured(&self) -> Option<Measured> {
        let shifted = self.shifted();
        let counted = if shifted > 0 { shifted as usize } else { self.samples.len() };
        let rtt_micros = self.samples.iter().rev().take(counted).map(|(_, rtt)| *rtt).min()?;
        let probes = self.answered.min(PROBES);
        let loss = |late: u32, probes: u32| u64::from(late) * 1_000_000 / (2 * u64::from(probes));
        let late = self.late.checked_shr(shifted).unwrap_or(0).count_ones();
        let recent = self.recent.checked_shr(shifted).unwrap_or(0).count_ones();
        let loss_ppm = match probes {
            ..PROBES_MIN => 0,
            _ if recent >= RECENT_LATE => loss(recent, RECENT).max(loss(late, probes)),
            _ => loss(late, probes),
        };
        Some(Measured { rtt_micros, jitter_micros: self.jitter / JITTER_SHARE, loss_ppm })
    }

    /// Takes over what is measured now as what is announced, where it left its dead-bands. Whether it did.
    pub fn settle(&mut self) -> bool {
        let now = self.measured().filter(|_| self.answered >= ANSWERS_MIN);
        let has_left = match (&self.announced, &now) {
            (Some(was), Some(is)) => was.is_left_by(is),
            (was, is) => was.is_some() != is.is_some(),
        };
        if has_left {
            self.announced = now;
        }
        has_left
    }

    /// Whether the last round trip was late: some more at once tell whether the link has changed.
    pub fn is_in_doubt(&self) -> bool {
        self.late & 1 == 1
    }

    /// Whether the link is so new that it should be probed again at once.
    pub fn is_new(&self) -> bool {
        self.answered < ANSWERS_MIN
    }

    /// What is to be announced; see [`Meter::settle`].
    pub fn announced(&self) -> Option<Measured> {
        self.announced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter after one probe every two seconds.
    fn after(rtts: impl IntoIterator<Item = u64>) -> Meter {
        measured(rtts, false)
    }

    fn measured(rtts: impl IntoIterator<Item = u64>, is_in_use: bool) -> Meter {
        let mut meter = Meter::default();
        (0..).zip(rtts).for_each(|(number, rtt)| meter.answered(Duration::from_secs(2 * number), rtt, is_in_use));
        meter
    }

    #[test]
    fn the_least_round_trip_of_ten_seconds_counts() {
        assert_eq!(Meter::default().measured(), None);
        let rtt = |meter: &Meter| meter.measured().map(|measured| measured.rtt_micros);
        assert_eq!(rtt(&after([9_000, 5_000, 8_000])), Some(5_000));
        assert_eq!(
            rtt(&after([5_000, 8_000, 8_000, 8_000, 8_000, 8_000, 8_100])),
            Some(8_000),
            "the first is 12 s old"
        );
        let mut meter = after([5_000]);
        meter.answered(Duration::from_secs(100), 7_000, false);
        assert_eq!(rtt(&meter), Some(7_000), "what is old is believed only where there is nothing else");
    }

    #[test]
    fn jitter_is_what_round_trips_take_beyond_the_least() {
        let jitter = |meter: &Meter| meter.measured().map(|measured| measured.jitter_micros);
        let steady = after((0..500).map(|number| 10_000 + number % 5 * 1_000));
        assert!(jitter(&steady).is_some_and(|micros| (1_700..2_300).contains(&micros)), "{:?}", steady.measured());
        let lossy = after((0..500).map(|number| if number % 10 == 9 { 90_000 } else { 10_000 + number % 5 * 1_000 }));
        assert!(jitter(&lossy).is_some_and(|micros| (1_600..2_300).contains(&micros)), "what was lost is no jitter");
        assert_eq!(jitter(&after([10_000, 10_000])), Some(0));
    }

    #[test]
    fn late_probes_are_losses_on_one_of_two_ways() {
        let meter = after((0..64).map(|number| if number % 4 == 3 { 70_000 } else { 20_000 }));
        assert_eq!(meter.measured().map(|measured| measured.loss_ppm), Some(125_000));
        let meter = after([20_000, 70_000]);
        assert_eq!(meter.measured().map(|measured| measured.loss_ppm), Some(0), "two probes prove nothing");
    }

    #[test]
    fn a_link_that_is_much_slower_is_so_after_four_round_trips() {
        let steady = || std::iter::repeat_n(20_000, 64);
        let shown =
            |rtts: &[u64]| measured(steady().chain(rtts.iter().copied()), true).measured().expect("it was probed");
        assert_eq!(shown(&[200_000; 3]).rtt_micros, 20_000, "they may have been lost");
        let slower = shown(&[200_000, 201_000, 200_500, 200_200]);
        assert_eq!((slower.rtt_micros, slower.loss_ppm), (200_000, 0));
        let back = shown(&[200_000, 201_000, 200_500, 200_200, 21_000]);
        assert_eq!((back.rtt_micros, back.loss_ppm), (20_000, 250_000), "they were losses: it is as fast as before");
        let stays = shown(&[200_000; 12]);
        assert_eq!((stays.rtt_micros, stays.loss_ppm), (200_000, 0), "nothing is left of what was before");
        let stays = shown(&[&[200_000; 12][..], &[210_000]].concat());
        assert_eq!((stays.rtt_micros, stays.loss_ppm), (200_000, 0));
        let idle = after(steady().chain([200_000; 4])).measured().expect("it was probed");
        assert_eq!(idle.rtt_micros, 20_000, "nobody uses it: a busy machine is late as well");
        let mut meter = measured(steady().chain([200_000]), true);
        assert!(meter.is_in_doubt());
        meter.answered(Duration::from_secs(200), 20_000, true);
        assert!(!meter.is_in_doubt());
    }

    #[test]
    fn a_link_that_loses_much_does_so_after_eight_round_trips() {
        let loss = |rtts: &[u64]| {
            measured(std::iter::repeat_n(20_000, 64).chain(rtts.iter().copied()), true)
                .measured()
                .expect("it was probed")
        };
        let lossy = loss(&[90_000, 20_000, 90_000, 90_000, 20_000, 90_000]);
        assert_eq!(loss(&[90_000, 20_000, 90_000, 20_000, 20_000, 90_000]).loss_ppm, 187_500);
        assert_eq!((lossy.rtt_micros, lossy.loss_ppm), (20_000, 250_000));
        let recovers =
            |times| loss(&[&[90_000, 20_000, 90_000, 90_000, 20_000, 90_000][..], &vec![20_000; times]].concat());
        assert!(recovers(22).loss_ppm > 20_000 && recovers(24).loss_ppm == 0);
        let in_a_row = loss(&[90_000, 20_000, 90_000, 95_000, 40_000, 90_000, 91_000, 20_000]);
        assert!(in_a_row.rtt_micros == 20_000 && in_a_row.loss_ppm >= 250_000, "{in_a_row:?}");
        let rarely = loss(&[90_000, 20_000, 20_000, 90_000, 20_000, 20_000, 20_000]);
        assert!(rarely.loss_ppm < 30_000, "{rarely:?}");
    }

    #[test]
    fn what_was_lost_while_a_link_was_in_use_is_not_forgotten_with_its_use() {
        let mut meter = measured(std::iter::repeat_n(20_000, 64).chain([90_000, 20_000, 90_000, 90_000]), true);
        let loss = |meter: &Meter| meter.measured().map(|measured| measured.loss_ppm);
        for number in 0..23 {
            assert_eq!(loss(&meter), Some(187_500));
            meter.answered(Duration::from_secs(200 + number), 20_000, false);
        }
        meter.answered(Duration::from_secs(300), 20_000, false);
        assert_eq!(loss(&meter), Some(0));
    }

    #[test]
    fn noise_within_the_dead_bands_announces_nothing() {
        let mut meter = after([45_000]);
        assert!(meter.is_new() && !meter.settle(), "the first one proves little");
        meter.answered(Duration::from_secs(1), 20_000, false);
        assert!(!meter.is_new() && meter.settle() && !meter.settle());
        let mut announcements = 0;
        for number in 1..1_000 {
            meter.answered(Duration::from_secs(2 * number), 20_000 + number * 7_919 % 4_000, false);
            announcements += u32::from(meter.settle());
            assert!(announcements <= 1, "once the jitter is known, {number}");
        }
        announcements = 0;
        for number in 1_000..1_010 {
            meter.answered(Duration::from_secs(2 * number), 60_000, false);
            announcements += u32::from(meter.settle());
        }
        assert!((1..=3).contains(&announcements), "{announcements}: up once, then what it looked like is forgotten");
        assert_eq!(meter.announced().map(|measured| measured.rtt_micros), Some(60_000));
    }

    #[test]
    fn a_meter_keeps_little_and_bears_any_number() {
        let mut meter = Meter::default();
        for rtt in (0..10_000).map(|number| if number % 2 == 0 { u64::MAX } else { number }) {
            meter.answered(Duration::ZERO, rtt, true);
        }
        assert!(meter.samples.len() <= SAMPLES_MAX + 1 && meter.measured().is_some());
    }
}
