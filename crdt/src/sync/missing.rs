//! What peers have and this node lacks: when it is asked for, of whom, and when that is given up.

use std::collections::{BTreeMap, BTreeSet};

use super::LinkId;
use crate::id::{Actor, StatementId, Time};

/// Most logs and statements that are kept here; what is beyond comes with the next comparison of roots.
pub(super) const MISSING_MAX: usize = 1 << 16;
/// After so many requests without an answer it is left to the next comparison of roots.
const TRIES_MAX: u8 = 8;
/// The longest wait for an answer, milliseconds.
const WAIT_MS_MAX: u64 = 5_000;
/// A peer that delivers other things may make something wait for this long, milliseconds.
const PATIENCE_MS_MAX: u64 = 30_000;

/// Something that is asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Log(Actor),
    Statement(StatementId),
}

/// A thing that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    /// Of a log: the greatest number that someone has.
    pub(super) seq: u64,
    /// Whether a digest told of it, so that its tree has a gap.
    pub(super) is_live: bool,
    /// Who was asked last.
    pub(super) asked: Option<LinkId>,
    asked_at: Time,
    tries: u8,
    due: Time,
}

/// All that is missing, with a timer each.
#[derive(Debug, Clone, Default)]
pub(super) struct Missing {
    items: BTreeMap<Item, Fetch>,
    due: BTreeSet<(Time, Item)>,
}

impl Missing {
    /// Someone has an item that is not here: it is asked for at `due`, unless it comes by itself.
    pub(super) fn note(&mut self, item: Item, seq: u64, due: Time, is_live: bool) {
        let Some(fetch) = self.items.get_mut(&item) else {
            if self.items.len() < MISSING_MAX {
                let fetch = Fetch { seq, is_live, asked: None, asked_at: Time(0), tries: 0, due };
                self.items.insert(item, fetch);
                self.due.insert((due, item));
            }
            return;
        };
        fetch.seq = fetch.seq.max(seq);
        fetch.is_live |= is_live;
        if fetch.asked.is_none() && due < fetch.due {
            self.set_due(item, due);
        }
    }

    fn set_due(&mut self, item: Item, due: Time) {
        let Some(fetch) = self.items.get_mut(&item) else { return };
        self.due.remove(&(fetch.due, item));
        fetch.due = due;
        self.due.insert((due, item));
    }

    pub(super) fn of(&self, item: &Item) -> Option<&Fetch> {
        self.items.get(item)
    }

    /// The item is here, a log up to `seq`; what was kept of it, where that is all.
    pub(super) fn got(&mut self, item: &Item, seq: u64) -> Option<Fetch> {
        self.items.get(item).filter(|fetch| fetch.seq <= seq)?;
        self.forget(item)
    }

    /// Nobody is asked for it any more.
    pub(super) fn forget(&mut self, item: &Item) -> Option<Fetch> {
        let fetch = self.items.remove(item)?;
        self.due.remove(&(fetch.due, *item));
        Some(fetch)
    }

    /// What is due, at most `most` items.
    pub(super) fn due(&self, now: Time, most: usize) -> Vec<Item> {
        self.due.iter().take_while(|(due, _)| *due <= now).take(most).map(|(_, item)| *item).collect()
    }

    /// A peer is asked; it has `wait_micros` to answer, twice that the next time, and so on. Returns whether it is to be
    /// asked at all: not after too many times.
    pub(super) fn ask(&mut self, now: Time, item: Item, link: LinkId, wait_micros: u64) -> bool {
        let Some(fetch) = self.items.get_mut(&item) else { return false };
        if fetch.tries >= TRIES_MAX {
            self.forget(&item);
            return false;
        }
        let wait = (wait_micros << fetch.tries).min(WAIT_MS_MAX * 1000);
        fetch.tries += 1;
        fetch.asked = Some(link);
        fetch.asked_at = now;
        self.set_due(item, now.plus_micros(wait));
        true
    }

    /// Who was asked is busy delivering other things: it gets until then, within reason. Returns whether it does.
    pub(super) fn wait_until(&mut self, now: Time, item: Item, until: Time) -> bool {
        let Some(fetch) = self.items.get(&item) else { return false };
        let is_patient = until > now && now < fetch.asked_at.plus_millis(PATIENCE_MS_MAX);
        if is_patient {
            self.set_due(item, until);
        }
        is_patient
    }

    /// A link is gone: what was asked of it is asked of others at once.
    pub(super) fn link_down(&mut self, link: LinkId) {
        let of_link = self.items.iter().filter(|(_, fetch)| fetch.asked == Some(link));
        let items: Vec<Item> = of_link.map(|(item, _)| *item).collect();
        for item in items {
            self.set_due(item, Time(0));
        }
    }

    /// When something is due.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Item = Item::Log(Actor([1; 16]));

    fn at(millis: u64) -> Time {
        Time(millis * 1000)
    }

    #[test]
    fn what_comes_by_itself_is_not_asked_for() {
        let mut missing = Missing::default();
        missing.note(LOG, 5, at(100), true);
        missing.note(LOG, 7, at(200), false);
        assert_eq!(missing.timeout(), Some(at(100)));
        assert_eq!(missing.got(&LOG, 6), None, "7 is still missing");
        assert!(missing.got(&LOG, 7).is_some_and(|fetch| fetch.is_live));
        assert_eq!((missing.timeout(), missing.due(at(900), 9)), (None, Vec::new()));
    }

    #[test]
    fn requests_back_off_and_end() {
        let mut missing = Missing::default();
        missing.note(LOG, 5, at(0), false);
        let mut now = at(0);
        let mut waits = Vec::new();
        while let Some(due) = missing.timeout() {
            now = now.max(due);
            assert_eq!(missing.due(now, 9), [LOG]);
            if missing.ask(now, LOG, LinkId(1), 100_000) {
                waits.push((missing.timeout().unwrap().0 - now.0) / 1000);
            }
        }
        assert_eq!(waits, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn a_lost_link_is_not_waited_for_and_a_busy_one_not_for_ever() {
        let mut missing = Missing::default();
        missing.note(LOG, 5, at(0), false);
        missing.ask(at(0), LOG, LinkId(1), 1_000_000);
        missing.link_down(LinkId(2));
        assert_eq!(missing.timeout(), Some(at(1_000)));
        assert!(missing.wait_until(at(1_000), LOG, at(1_500)) && !missing.wait_until(at(30_000), LOG, at(30_500)));
        missing.link_down(LinkId(1));
        assert_eq!(missing.timeout(), Some(at(0)));
    }
}
