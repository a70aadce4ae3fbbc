//! What grew of late: a difference there may be on its way, and gets a second look before it is asked for.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Actor, Time};

/// What grew less than this ago is looked at a second time, milliseconds.
pub(in crate::sync) const SECOND_LOOK_MS: u64 = 5_000;
/// Most logs that are remembered.
const TOUCHED_MAX: usize = 4096;

/// Logs that grew within the last [`SECOND_LOOK_MS`].
#[derive(Debug, Clone, Default)]
pub(in crate::sync) struct Touched {
    at: BTreeMap<Actor, Time>,
    order: VecDeque<(Time, Actor)>,
}

impl Touched {
    /// A log grew.
    pub(in crate::sync) fn note(&mut self, now: Time, actor: Actor) {
        if self.at.insert(actor, now) == Some(now) {
            return;
        }
        self.order.push_back((now, actor));
        while let Some((at, oldest)) =
            self.order.pop_front_if(|(at, _)| at.plus_millis(SECOND_LOOK_MS) <= now).or_else(|| self.overflow())
        {
            if self.at.get(&oldest) == Some(&at) {
                self.at.remove(&oldest);
            }
        }
    }

    fn overflow(&mut self) -> Option<(Time, Actor)> {
        if self.order.len() > TOUCHED_MAX { self.order.pop_front() } else { None }
    }

    /// Whether a log grew of late.
    pub(in crate::sync) fn is_touched(&self, now: Time, actor: &Actor) -> bool {
        self.at.get(actor).is_some_and(|at| at.plus_millis(SECOND_LOOK_MS) > now)
    }

    /// Whether nothing grew of late.
    pub(in crate::sync) fn is_quiet(&self, now: Time) -> bool {
        self.order.back().is_none_or(|(at, _)| at.plus_millis(SECOND_LOOK_MS) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_touched_for_five_seconds() {
        let (one, other) = (Actor([1; 16]), Actor([2; 16]));
        let at = |millis: u64| Time(millis * 1000);
        let mut touched = Touched::default();
        assert!(touched.is_quiet(at(0)));
        touched.note(at(0), one);
        touched.note(at(3_000), other);
        assert!(touched.is_touched(at(4_999), &one) && !touched.is_touched(at(5_000), &one));
        touched.note(at(6_000), other);
        assert_eq!((touched.at.len(), touched.order.len()), (1, 2));
        assert!(!touched.is_quiet(at(10_999)) && touched.is_quiet(at(11_000)));
        (0..2 * TOUCHED_MAX as u64).for_each(|micros| touched.note(Time(11_000_000 + micros), one));
        assert_eq!((touched.at.len(), touched.order.len()), (1, TOUCHED_MAX));
        assert!(touched.is_touched(at(11_000), &one));
    }
}
