//! What a peer lacks and is to get, the most urgent class first; every class has a share (PROTOCOL 4).

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Actor, StatementId};
use crate::schema::Class;

/// Every so many frames another class than the most urgent one is served, all that wait in turn: so none starves.
pub(super) const SHARE_TURN: u64 = 8;

/// What can be lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    Statement(StatementId),
    Log(Actor),
}

/// What a peer lacks: each log from a number on.
#[derive(Debug, Clone, Default)]
pub(super) struct Lacking {
    needs: BTreeMap<Need, (Class, u64)>,
    queue: BTreeSet<(Class, Need)>,
    turn: u64,
    /// The class that was served last out of its order.
    shared: Option<Class>,
}

impl Lacking {
    pub(super) fn len(&self) -> usize {
        self.needs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.needs.clear();
        self.queue.clear();
    }

    /// The peer lacks something, a log from `first` on; it goes with the more urgent class, where it was lacking before.
    pub(super) fn add(&mut self, need: Need, class: Class, first: u64) {
        let (class, first) = match self.needs.get(&need) {
            Some((known, from)) => (class.min(*known), first.min(*from)),
            None => (class, first),
        };
        self.set(need, class, first);
    }

    /// The peer lacks a log from `first` on, and nothing before.
    pub(super) fn set(&mut self, need: Need, class: Class, first: u64) {
        if let Some((before, _)) = self.needs.insert(need, (class, first)) {
            self.queue.remove(&(before, need));
        }
        self.queue.insert((class, need));
    }

    pub(super) fn contains(&self, need: &Need) -> bool {
        self.needs.contains_key(need)
    }

    pub(super) fn remove(&mut self, need: &Need) -> Option<u64> {
        let (class, first) = self.needs.remove(need)?;
        self.queue.remove(&(class, *need));
        Some(first)
    }

    /// The peer has a log up to `seq`, this node up to `stored`.
    pub(super) fn has(&mut self, actor: Actor, seq: u64, stored: u64) {
        let need = Need::Log(actor);
        let Some((_, first)) = self.needs.get_mut(&need) else { return };
        *first = seq.saturating_add(1).max(*first);
        if *first > stored {
            self.remove(&need);
        }
    }

    /// The logs among it.
    pub(super) fn logs(&self) -> impl Iterator<Item = Actor> + '_ {
        self.needs.keys().filter_map(|need| match need {
            Need::Log(actor) => Some(*actor),
            Need::Statement(_) => None,
        })
    }

    /// The class that is to be served in this turn.
    fn class(&self) -> Option<Class> {
        let (most_urgent, _) = self.queue.first()?;
        if !self.turn.is_multiple_of(SHARE_TURN) {
            return Some(*most_urgent);
        }
        let after = |class: Class| self.queue.range((class.next()?, Need::Statement(StatementId([0; 32])))..).next();
        let shared = self.shared.and_then(after).or_else(|| after(*most_urgent)).or_else(|| self.queue.first());
        shared.map(|(class, _)| *class)
    }

    /// What is to be sent next: its class, and of a log the first number.
    pub(super) fn next(&self) -> Option<(Class, Need, u64)> {
        let class = self.class()?;
        let (_, need) = self.queue.range((class, Need::Statement(StatementId([0; 32])))..).next()?;
        self.needs.get(need).map(|(class, first)| (*class, *need, *first))
    }

    /// A frame was sent of what was next.
    pub(super) fn served(&mut self, class: Class) {
        if self.turn.is_multiple_of(SHARE_TURN) {
            self.shared = Some(class);
        }
        self.turn += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(number: u8) -> Need {
        Need::Log(Actor([number; 16]))
    }

    #[test]
    fn the_most_urgent_goes_first_and_every_class_gets_a_share() {
        let mut lacking = Lacking::default();
        for (number, class) in [(1, Class::Backfill), (2, Class::Device), (3, Class::Stop), (4, Class::Link)] {
            lacking.add(log(number), class, 1);
        }
        let mut counts = BTreeMap::new();
        for _ in 0..240 {
            let (class, ..) = lacking.next().unwrap();
            lacking.served(class);
            *counts.entry(class).or_insert(0) += 1;
        }
        assert_eq!(counts[&Class::Stop], 210);
        assert_eq!([Class::Device, Class::Link, Class::Backfill].map(|class| counts[&class]), [10; 3]);
    }

    #[test]
    fn a_need_has_one_place() {
        let mut lacking = Lacking::default();
        lacking.add(log(1), Class::Backfill, 5);
        lacking.add(log(1), Class::Device, 9);
        assert_eq!(lacking.next(), Some((Class::Device, log(1), 5)));
        lacking.add(log(1), Class::Backfill, 7);
        assert_eq!((lacking.next(), lacking.len()), (Some((Class::Device, log(1), 5)), 1));
        lacking.has(Actor([1; 16]), 6, 9);
        assert_eq!(lacking.next(), Some((Class::Device, log(1), 7)));
        lacking.has(Actor([1; 16]), u64::MAX, 9);
        assert_eq!((lacking.next(), lacking.queue.len()), (None, 0));
        lacking.set(log(2), Class::Link, 1);
        assert_eq!((lacking.remove(&log(2)), lacking.remove(&log(2)), lacking.queue.len()), (Some(1), None, 0));
    }
}
