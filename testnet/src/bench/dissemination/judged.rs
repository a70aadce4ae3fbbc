//! From what was measured of a run to the numbers that are promised. The engine's runs and the model's go through here
//! alike.

use std::collections::BTreeSet;

use crate::sim::measure::{Delivery, Measured, Sort, Written};
use crate::sim::topology::Direct;

/// A run to be judged. Changes count that were written from `from_us` on; a delivery that never came is infinitely late.
pub(crate) struct Judged<'a> {
    pub(crate) measured: &'a Measured,
    pub(crate) direct: &'a Direct,
    /// When links have settled, microseconds.
    pub(crate) from_us: u64,
}

/// A change with its deliveries.
struct Spread<'a> {
    written: Written,
    deliveries: &'a [Delivery],
    /// Nodes that should have it and do not.
    missing: usize,
}

impl Judged<'_> {
    /// Each change that counts, with what it needs.
    fn each(&self, mut take: impl FnMut(&Spread<'_>)) {
        let mut deliveries = self.measured.deliveries.clone();
        deliveries.sort_by_key(|delivery| (delivery.change, delivery.at_us));
        let mut rest = deliveries.as_slice();
        for (number, written) in self.measured.written.iter().enumerate() {
            let until = rest.partition_point(|delivery| delivery.change as usize <= number);
            let (own, others) = rest.split_at(until);
            rest = others;
            if written.at_us < self.from_us {
                continue;
            }
            let have: BTreeSet<usize> = own.iter().map(|delivery| delivery.node as usize).collect();
            let lacks = |node: &&usize| **node != written.node && !have.contains(node);
            let missing = self.measured.up_at_end.iter().filter(lacks).count();
            take(&Spread { written: *written, deliveries: own, missing });
        }
    }

    /// For each change the time until the last node had it, over the delay of the direct way to the node that is
    /// furthest from its origin.
    pub(crate) fn last_over_direct(&self) -> Vec<f64> {
        let mut ratios = Vec::new();
        self.each(|spread| {
            let direct_us = self.direct.furthest_us(spread.written.node).max(1);
            let last_us = spread.deliveries.last().map_or(0, |delivery| delivery.at_us - spread.written.at_us);
            ratios.push(if spread.missing > 0 { f64::INFINITY } else { last_us as f64 / direct_us as f64 });
        });
        ratios
    }

    /// For each change and each other node how much longer it took than the direct way to the furthest node, in round
    /// trips of that way; what took less is 0.
    pub(crate) fn late_round_trips(&self) -> Vec<f64> {
        let mut late = Vec::new();
        self.each(|spread| {
            let direct_us = self.direct.furthest_us(spread.written.node).max(1);
            let over = |delivery: &Delivery| (delivery.at_us - spread.written.at_us).saturating_sub(direct_us);
            late.extend(spread.deliveries.iter().map(|delivery| over(delivery) as f64 / (2 * direct_us) as f64));
            late.extend(std::iter::repeat_n(f64::INFINITY, spread.missing));
        });
        late
    }

    /// From each write to each other node, milliseconds.
    pub(crate) fn delays_ms(&self) -> Vec<f64> {
        let mut delays = Vec::new();
        self.each(|spread| {
            let delay = |delivery: &Delivery| (delivery.at_us - spread.written.at_us) as f64 / 1000.0;
            delays.extend(spread.deliveries.iter().map(delay));
            delays.extend(std::iter::repeat_n(f64::INFINITY, spread.missing));
        });
        delays
    }

    /// Deliveries that never came.
    pub(crate) fn missing(&self) -> u64 {
        let mut missing = 0;
        self.each(|spread| missing += spread.missing as u64);
        missing
    }

    /// Changes that count.
    pub(crate) fn changes(&self) -> u64 {
        let mut changes = 0;
        self.each(|_| changes += 1);
        changes
    }

    /// The copies that are needed: of each change one for every other node that is up at the end.
    fn needed(&self) -> u64 {
        let mut needed = 0;
        self.each(|spread| {
            let others = self.measured.up_at_end.iter().filter(|node| **node != spread.written.node);
            needed += others.count() as u64;
        });
        needed
    }

    /// Copies of changes that links took, beyond those that are needed, over those.
    pub(crate) fn beyond(&self) -> f64 {
        let copies = self.measured.sent(Sort::Changes, self.from_us..u64::MAX).changes;
        copies as f64 / self.needed().max(1) as f64 - 1.0
    }

    /// Of each change the nodes of a part that had it in time, and those that should have had.
    pub(crate) fn within(&self, part: &BTreeSet<usize>, limit_us: u64) -> (u64, u64) {
        let (mut in_time, mut wanted) = (0, 0);
        self.each(|spread| {
            let is_in_time = |delivery: &&Delivery| {
                part.contains(&(delivery.node as usize)) && delivery.at_us - spread.written.at_us <= limit_us
            };
            in_time += spread.deliveries.iter().filter(is_in_time).count() as u64;
            wanted += part.iter().filter(|node| **node != spread.written.node).count() as u64;
        });
        (in_time, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three nodes in a row of zones, 10 and 20 ms apart; the ends are 40 ms apart and not linked.
    fn direct() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("row.toml");
        let text = "[zones.a]\nnodes = 1\n[zones.b]\nnodes = 1\n[zones.c]\nnodes = 1\n[mesh]\nkind = \"line\"\n\
                    [[between]]\nzones = [\"a\", \"b\"]\ndelay_ms = 10\n[[between]]\nzones = [\"b\", \"c\"]\n\
                    delay_ms = 20\n[[between]]\nzones = [\"a\", \"c\"]\ndelay_ms = 40\n";
        std::fs::write(&path, text).unwrap();
        (folder, path.to_str().unwrap().to_owned())
    }

    fn judge<T>(measured: &Measured, judge: impl FnOnce(&Judged<'_>) -> T) -> T {
        let (_folder, path) = direct();
        let direct = Direct::load(&path, 1).unwrap();
        judge(&Judged { measured, direct: &direct, from_us: 1_000_000 })
    }

    /// One change before links settled, two after; the second reaches the last node late.
    fn measured() -> Measured {
        let mut measured = Measured::default();
        measured.up_at_end = vec![0, 1, 2];
        measured.write(2, 0);
        measured.send(Sort::Changes, 9, 0);
        for at_us in [1_000_000, 2_000_000] {
            measured.write(0, at_us);
        }
        measured.deliver(0, 0, 999);
        measured.deliver(2, 2, 2_120_000);
        measured.deliver(1, 1, 1_010_000);
        measured.deliver(2, 1, 2_010_000);
        measured.deliver(1, 2, 1_040_000);
        measured.send(Sort::Changes, 2, 1_000_000);
        measured.send(Sort::Changes, 3, 2_000_000);
        measured
    }

    #[test]
    fn times_are_measured_by_the_direct_way() {
        let measured = measured();
        assert_eq!(judge(&measured, |judged| judged.last_over_direct()), [1.0, 3.0]);
        assert_eq!(judge(&measured, |judged| judged.late_round_trips()), [0.0, 0.0, 0.0, 1.0]);
        assert_eq!(judge(&measured, |judged| judged.delays_ms()), [10.0, 40.0, 10.0, 120.0]);
    }

    #[test]
    fn one_copy_in_five_was_not_needed() {
        assert_eq!(judge(&measured(), |judged| judged.beyond()), 0.25);
        assert_eq!(judge(&measured(), |judged| (judged.changes(), judged.missing())), (2, 0));
    }

    #[test]
    fn what_never_came_is_late_for_ever() {
        let mut measured = measured();
        measured.deliveries.retain(|delivery| delivery.at_us != 2_120_000);
        assert_eq!(judge(&measured, |judged| judged.missing()), 1);
        assert_eq!(judge(&measured, |judged| judged.last_over_direct()), [1.0, f64::INFINITY]);
        assert_eq!(judge(&measured, |judged| judged.delays_ms()).last(), Some(&f64::INFINITY));
        measured.up_at_end.pop();
        assert_eq!(judge(&measured, |judged| judged.missing()), 0, "who is gone needs nothing");
    }

    #[test]
    fn a_part_of_the_fleet_is_judged_by_itself() {
        let part = BTreeSet::from([0, 2]);
        assert_eq!(judge(&measured(), |judged| judged.within(&part, 50_000)), (1, 2));
        assert_eq!(judge(&measured(), |judged| judged.within(&part, 120_000)), (2, 2));
    }
}
