//! What peers have and this node lacks: when it is asked for, of whom, and when that is given up.

use std::collections::{BTreeMap, BTreeSet};

use super::LinkId;
use crate::id::{Actor, ChangeHash, StatementId, Time};

/// Most things that are kept here. Beyond, whoever told of most loses its last; the comparison of roots brings that again.
pub(super) const MISSING_MAX: usize = 1 << 17;
/// After so many requests without an answer it is left to the next comparison of roots.
const TRIES_MAX: u8 = 8;
/// Of the requests that were in vain, so many count when another peer tells of it.
const TRIES_KEPT: u8 = 4;
/// The longest wait for an answer, milliseconds.
const WAIT_MS_MAX: u64 = 5_000;
/// A peer that delivers other things may make something wait for this long, milliseconds.
const PATIENCE_MS_MAX: u64 = 30_000;

/// Something that is asked for by name; what is first here is asked for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Statement(StatementId),
    /// A change on which another one builds that is here.
    Change(ChangeHash),
    Log(Actor),
}

/// Who told of something that is missing, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) link: LinkId,
    /// Of a log: up to which number the peer has it.
    pub(super) seq: u64,
    /// Whether a digest told of it, so that its tree has a gap.
    pub(super) is_live: bool,
}

/// A thing that is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    /// The first word of it, with the greatest number that someone has told.
    pub(super) word: Word,
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
    /// By who told of it first.
    told: BTreeMap<LinkId, BTreeSet<Item>>,
}

impl Missing {
    /// Someone has an item that is not here: it is asked for at `due`, unless it comes by itself.
    pub(super) fn note(&mut self, item: Item, word: Word, due: Time) {
        let Some(fetch) = self.items.get_mut(&item) else {
            if self.make_room(word.link) {
                self.items.insert(item, Fetch { word, asked: None, asked_at: Time(0), tries: 0, due });
                self.due.insert((due, item));
                self.told.entry(word.link).or_default().insert(item);
            }
            return;
        };
        fetch.word.seq = fetch.word.seq.max(word.seq);
        // Another one has it as well: whoever was asked in vain, more than once, keeps nobody waiting.
        if fetch.tries != 1 && fetch.asked != Some(word.link) {
            fetch.tries = fetch.tries.min(TRIES_KEPT);
            if due < fetch.due {
                self.set_due(item, due);
            }
        }
    }

    /// A log is on its way from who told of it, unasked. Where someone else was asked for it, that goes on.
    pub(super) fn expect(&mut self, now: Time, log: Actor, word: Word, wait_micros: u64) {
        let item = Item::Log(log);
        self.note(item, word, now);
        if self.of(&item).is_some_and(|fetch| fetch.asked.is_none()) {
            self.ask(now, item, word.link, wait_micros);
        }
    }

    /// Makes room for one more item that a link tells of; `false` where that link itself has told of most.
    fn make_room(&mut self, link: LinkId) -> bool {
        if self.items.len() < MISSING_MAX {
            return true;
        }
        let of_link = self.told.get(&link).map_or(0, BTreeSet::len);
        let most = self.told.iter().max_by_key(|(_, items)| items.len());
        let victim = most.filter(|(_, items)| items.len() > of_link + 1).and_then(|(_, items)| items.last().copied());
        victim.is_some_and(|item| self.forget(&item).is_some())
    }

    fn set_due(&mut self, item: Item, due: Time) {
        let Some(fetch) = self.items.get_mut(&item) else { return };
        self.due.remove(&(fetch.due, item));
        fetch.due = due;
        self.due.insert((due, item));
    }

    /// How many things are missing.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn of(&self, item: &Item) -> Option<&Fetch> {
        self.items.get(item)
    }

    /// The item is here, a log up to `seq`; what was kept of it, where that is all.
    pub(super) fn got(&mut self, item: &Item, seq: u64) -> Option<Fetch> {
        self.items.get(item).filter(|fetch| fetch.word.seq <= seq)?;
        self.forget(item)
    }

    /// Nobody is asked for it any more.
    pub(super) fn forget(&mut self, item: &Item) -> Option<Fetch> {
        let fetch = self.items.remove(item)?;
        self.due.remove(&(fetch.due, *item));
        if let Some(told) = self.told.get_mut(&fetch.word.link) {
            told.remove(item);
            if told.is_empty() {
                self.told.remove(&fetch.word.link);
            }
        }
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

    /// Who was asked, or is to be asked, is busy: it gets until then, within reason. Returns whether it does.
    pub(super) fn wait_until(&mut self, now: Time, item: Item, until: Time) -> bool {
        let Some(fetch) = self.items.get(&item) else { return false };
        let is_patient = fetch.asked.is_none() || now < fetch.asked_at.plus_millis(PATIENCE_MS_MAX);
        let waits = until > now && is_patient;
        if waits {
            self.set_due(item, until);
        }
        waits
    }

    /// What a link sent was refused: if it was asked for, another one is asked at once.
    pub(super) fn refused(&mut self, item: Item, link: LinkId) {
        if self.items.get(&item).is_some_and(|fetch| fetch.asked == Some(link)) {
            self.set_due(item, Time(0));
        }
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

    fn word(link: u64, seq: u64) -> Word {
        Word { link: LinkId(link), seq, is_live: true }
    }

    #[test]
    fn what_comes_by_itself_is_not_asked_for() {
        let mut missing = Missing::default();
        missing.note(LOG, word(1, 5), at(100));
        missing.note(LOG, word(2, 7), at(200));
        assert_eq!(missing.timeout(), Some(at(100)));
        assert_eq!(missing.got(&LOG, 6), None, "7 is still missing");
        assert!(missing.got(&LOG, 7).is_some());
        assert_eq!((missing.timeout(), missing.due(at(900), 9)), (None, Vec::new()));
        assert!(missing.told.is_empty());
    }

    #[test]
    fn requests_back_off_and_end() {
        let mut missing = Missing::default();
        missing.note(LOG, word(1, 5), at(0));
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

    /// A peer that claims and does not deliver holds nothing up once another one tells of it.
    #[test]
    fn another_word_ends_the_wait() {
        let mut missing = Missing::default();
        missing.note(LOG, word(1, u64::MAX), at(0));
        for _ in 0..TRIES_MAX {
            let now = missing.timeout().unwrap();
            assert!(missing.ask(now, LOG, LinkId(1), 1_000_000));
        }
        let now = at(20_000);
        missing.note(LOG, word(1, 9), now);
        assert!(missing.timeout().unwrap() > now, "its own word again changes nothing");
        missing.note(LOG, word(2, 9), now);
        assert_eq!(missing.timeout(), Some(now));
        assert!(missing.ask(now, LOG, LinkId(2), 1_000_000));
    }

    #[test]
    fn who_tells_of_too_much_makes_room_for_the_others() {
        let mut missing = Missing::default();
        let log = |number: usize| {
            let mut actor = [7; 16];
            actor[..8].copy_from_slice(&number.to_be_bytes());
            Item::Log(Actor(actor))
        };
        (0..MISSING_MAX + 10).for_each(|number| missing.note(log(number), word(1, 1), at(0)));
        assert_eq!(missing.items.len(), MISSING_MAX);
        (0..100).for_each(|number| missing.note(log(usize::MAX - number), word(2, 1), at(0)));
        assert_eq!((missing.items.len(), missing.told[&LinkId(2)].len()), (MISSING_MAX, 100));
    }

    #[test]
    fn a_lost_link_is_not_waited_for_and_a_busy_one_not_for_ever() {
        let mut missing = Missing::default();
        missing.note(LOG, word(1, 5), at(0));
        missing.ask(at(0), LOG, LinkId(1), 1_000_000);
        missing.link_down(LinkId(2));
        missing.refused(LOG, LinkId(2));
        assert_eq!(missing.timeout(), Some(at(1_000)));
        assert!(missing.wait_until(at(1_000), LOG, at(1_500)) && !missing.wait_until(at(30_000), LOG, at(30_500)));
        missing.link_down(LinkId(1));
        assert_eq!(missing.timeout(), Some(at(0)));
    }
}
