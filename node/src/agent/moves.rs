//! Where ways lead otherwise than before, and why: what the search found against what was told last. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crdt::id::DeviceId;
use transport::{Cost, MAX_WAYS, PeerKey, Routes};

/// Most devices that are remembered as heard since the last search.
const HEARD_MAX: usize = 8;

/// What became of the link to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Used,
    /// It is up, and no round trip of it is known yet.
    Unmeasured,
    Suspect,
    Gone,
}

/// Why a way begins with another neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// There was none, and a link leads there now.
    Linked,
    /// There was none, and another device leads there now.
    Leads,
    LinkGone,
    LinkSuspect,
    LinkUnmeasured,
    /// The neighbour is there, and leads there no more.
    Ended,
    /// It is there, and so many others lead there that it is not known whether it still does: if so, at a higher cost.
    Outdone,
    Cheaper {
        before: Cost,
        now: Cost,
    },
}

/// Destinations whose way begins with another neighbour for the same reason, in order of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) to: Vec<PeerKey>,
    pub(super) before: Option<PeerKey>,
    pub(super) now: Option<PeerKey>,
    pub(super) why: Why,
}

/// The neighbours with which ways begin, as they were told last.
#[derive(Debug, Default)]
pub(super) struct NextHops {
    hops: BTreeMap<PeerKey, PeerKey>,
    /// Of whom others were heard since.
    heard: BTreeSet<DeviceId>,
}

impl NextHops {
    /// What a device says of its links is not what it was.
    pub(super) fn heard(&mut self, device: DeviceId) {
        if self.heard.len() < HEARD_MAX {
            self.heard.insert(device);
        }
    }

    /// Of whom others were heard since the last search.
    pub(super) fn take_heard(&mut self) -> BTreeSet<DeviceId> {
        std::mem::take(&mut self.heard)
    }

    /// What is new, of the destinations that a search found other ways to.
    pub(super) fn moved(
        &mut self,
        changed: &[PeerKey],
        routes: &Routes,
        fate: impl Fn(&PeerKey) -> Fate,
    ) -> Vec<Moved> {
        let mut moved: BTreeMap<(Option<PeerKey>, Option<PeerKey>, Why), Vec<PeerKey>> = BTreeMap::new();
        for to in changed {
            let ways = routes.ways(to);
            let (before, now) = (self.hops.get(to).copied(), ways.first().map(|way| way.next));
            if before == now {
                continue;
            }
            match now {
                Some(next) => self.hops.insert(*to, next),
                None => self.hops.remove(to),
            };
            let cost = |next: Option<PeerKey>| ways.iter().find(|way| Some(way.next) == next).map(|way| way.cost);
            let why = match before.map(|before| (fate(&before), cost(Some(before)).zip(cost(now)))) {
                None if now == Some(*to) => Why::Linked,
                None => Why::Leads,
                Some((Fate::Gone, _)) => Why::LinkGone,
                Some((Fate::Suspect, _)) => Why::LinkSuspect,
                Some((Fate::Unmeasured, _)) => Why::LinkUnmeasured,
                Some((Fate::Used, Some((before, now)))) => Why::Cheaper { before, now },
                Some((Fate::Used, None)) if ways.len() < MAX_WAYS => Why::Ended,
                Some((Fate::Used, None)) => Why::Outdone,
            };
            moved.entry((before, now, why)).or_default().push(*to);
        }
        moved.into_iter().map(|((before, now, why), to)| Moved { to, before, now, why }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u8 = 0;

    fn key(number: u8) -> PeerKey {
        PeerKey([number; 32])
    }

    /// The routes of a mesh of links with their costs, milliseconds.
    fn routes_of(links: &[(u8, u8, u64)]) -> Routes {
        let mut routes = Routes::new(key(ME));
        (0..8).for_each(|node| say(&mut routes, node, links));
        routes.update();
        routes
    }

    fn say(routes: &mut Routes, node: u8, links: &[(u8, u8, u64)]) {
        let of = links.iter().filter_map(|(a, b, millis)| match (*a == node, *b == node) {
            (true, _) => Some((key(*b), Cost::from_micros(millis * 1_000))),
            (_, true) => Some((key(*a), Cost::from_micros(millis * 1_000))),
            _ => None,
        });
        routes.report(key(node), &of.collect::<Vec<_>>());
    }

    /// Destinations, from whom, to whom, and why.
    type Told = (Vec<u8>, Option<u8>, Option<u8>, Why);

    fn told(hops: &mut NextHops, routes: &Routes, fate: Fate) -> Vec<Told> {
        let all: Vec<PeerKey> = (1..8).map(key).collect();
        let number = |key: &PeerKey| key.0[0];
        let moved = hops.moved(&all, routes, |_| fate).into_iter();
        let told = moved.map(|moved| {
            let to = moved.to.iter().map(number).collect();
            (to, moved.before.as_ref().map(number), moved.now.as_ref().map(number), moved.why)
        });
        told.collect()
    }

    #[test]
    fn what_is_found_first_is_told_once() {
        let routes = routes_of(&[(ME, 1, 5), (1, 2, 5), (1, 3, 5)]);
        let mut hops = NextHops::default();
        let expected = [(vec![2, 3], None, Some(1), Why::Leads), (vec![1], None, Some(1), Why::Linked)];
        let first = told(&mut hops, &routes, Fate::Used);
        assert!(expected.iter().all(|told| first.contains(told)) && first.len() == 2, "{first:?}");
        assert_eq!(told(&mut hops, &routes, Fate::Used), []);
    }

    #[test]
    fn what_moves_says_why() {
        let two_hubs = [(ME, 1, 5), (ME, 2, 20), (1, 3, 5), (2, 3, 20)];
        let past_1 = (Some(1), Some(2));
        let cases = [
            (vec![(ME, 2, 20), (2, 3, 20)], Fate::Gone, past_1, Why::LinkGone),
            (vec![(ME, 2, 20), (2, 3, 20)], Fate::Suspect, past_1, Why::LinkSuspect),
            (vec![(ME, 1, 5), (ME, 2, 20), (2, 3, 20)], Fate::Used, past_1, Why::Ended),
            (vec![(ME, 1, 5)], Fate::Used, (Some(1), None), Why::Ended),
        ];
        for (left, fate, (before, now), why) in cases {
            let mut hops = NextHops::default();
            told(&mut hops, &routes_of(&two_hubs), Fate::Used);
            let moved = told(&mut hops, &routes_of(&left), fate);
            assert!(moved.contains(&(vec![3], before, now, why)), "{moved:?}");
        }
        let mut hops = NextHops::default();
        let mut routes = routes_of(&two_hubs);
        told(&mut hops, &routes, Fate::Used);
        let slower = [(ME, 1, 90), (ME, 2, 20), (1, 3, 5), (2, 3, 20)];
        (0..8).for_each(|node| say(&mut routes, node, &slower));
        routes.update();
        let moved = told(&mut hops, &routes, Fate::Used);
        let cost = |millis: u64| Cost::from_micros(millis * 1_000);
        let cheaper = Why::Cheaper { before: cost(95), now: cost(40) };
        assert!(moved.contains(&(vec![3], Some(1), Some(2), cheaper)), "{moved:?}");
        let three = [(ME, 4, 1), (ME, 5, 2), (ME, 6, 3), (4, 3, 1), (5, 3, 1), (6, 3, 1), (ME, 2, 20), (2, 3, 20)];
        let moved = told(&mut hops, &routes_of(&three), Fate::Used);
        assert!(moved.contains(&(vec![3], Some(2), Some(4), Why::Outdone)), "{moved:?}");
    }

    #[test]
    fn few_of_those_that_were_heard_are_remembered() {
        let mut hops = NextHops::default();
        (0..20).for_each(|number| hops.heard(DeviceId([number; 32])));
        assert_eq!(hops.take_heard().len(), HEARD_MAX);
        assert!(hops.take_heard().is_empty());
    }
}
