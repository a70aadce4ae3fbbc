//! The answering side of a comparison: what differs is told as the items come, part by part.

use super::super::frame::{ENTRIES_MAX, End, Frame, Items, Place, Request, ShortItem};
use super::super::receive::CLAIMS_MAX;
use super::super::{Engine, LinkId, Replica};
use super::buckets::{self, Found};
use super::outgoing::{Outgoing, OutgoingDifference};
use super::{COMPARE_TIMEOUT_MS, Comparison, Side};
use crate::id::{Actor, Time};
use crate::root::{BUCKETS, RangeKey};
use crate::store::Staged;

/// What the answering side keeps between the parts of the items.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// Where the peer's order stood when it began.
    place: Place,
    /// Whether buckets that the peer does not list are empty there.
    takes_all: bool,
    /// The first bucket that is not compared yet.
    next: u16,
    /// The items of that bucket so far; none where it was not listed yet.
    current: Option<Vec<ShortItem>>,
    /// What was found and not told yet.
    found: Found,
    /// Whether anything was found before.
    has_found: bool,
    /// How many items the peer was asked for by their short ids.
    asked: usize,
}

impl Answers {
    /// To a peer whose order stands at `place`; `takes_all` where it says all of its items.
    pub(super) fn new(place: Place, takes_all: bool) -> Answers {
        let found = Found::default();
        Answers { place, takes_all, next: 0, current: None, found, has_found: false, asked: 0 }
    }

    /// Takes items in the order of their buckets. `Err` says how the peer broke the protocol.
    fn take(&mut self, replica: &Replica, items: Items) -> Result<(), &'static str> {
        let key = RangeKey::new(items.number);
        for (bucket, theirs) in items.buckets {
            if bucket < self.next {
                return Err("buckets of a comparison run backwards");
            }
            if bucket > self.next || self.current.is_none() {
                self.pass(replica, &key, bucket);
            }
            let current = self.current.get_or_insert_default();
            current.extend(theirs);
            if current.len() + self.found.unknown.len() + self.asked > CLAIMS_MAX {
                return Err("the peer claims too many items");
            }
        }
        if items.is_last {
            self.pass(replica, &key, BUCKETS as u16);
        }
        Ok(())
    }

    /// Compares what was listed of the bucket that is due, and goes on to `bucket`.
    fn pass(&mut self, replica: &Replica, key: &RangeKey, bucket: u16) {
        if let Some(theirs) = self.current.take() {
            buckets::compare(replica, key, self.next, &theirs, &mut self.found);
            self.next += 1;
        }
        if self.takes_all {
            while let Some(own) = replica.tree().next_bucket(self.next).filter(|own| *own < bucket) {
                buckets::compare(replica, key, own, &[], &mut self.found);
                self.next = own + 1;
            }
        }
        self.next = bucket;
    }

    /// What was found since this was asked last.
    fn take_found(&mut self) -> Found {
        let found = std::mem::take(&mut self.found);
        self.has_found |= !found.is_empty();
        self.asked += found.unknown.len();
        found
    }
}

/// What an answer adds to the last one of its comparison.
struct Last {
    /// Where this node's order stood when the comparison began, and the peer's.
    own: Place,
    peer: Place,
    /// Whether the comparison found anything, and whether it asks the peer for something.
    has_found: bool,
    has_asked: bool,
}

impl Engine {
    /// Items of buckets that differ: the peer hears what it lacks, and is asked what is not known here. `Err` says how the
    /// peer broke the protocol.
    pub(in crate::sync) fn receive_items(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        items: Items,
    ) -> Result<(), &'static str> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let (number, is_last) = (items.number, items.is_last);
        let running = link.standing.comparison.as_mut().filter(|own| own.number == number);
        let Some(Comparison { side: Side::Answers(answers), own, .. }) = running else { return Ok(()) };
        answers.take(&self.replica, items)?;
        let found = answers.take_found();
        let (peer, has_found, has_asked) = (answers.place, answers.has_found, answers.asked > 0);
        let last = is_last.then_some(Last { own: *own, peer, has_found, has_asked });
        link.standing.over_by = Some(now.plus_millis(COMPARE_TIMEOUT_MS));
        if is_last {
            link.standing.comparison = None;
        }
        let (ahead, forked) = (found.ahead.clone(), found.forked.clone());
        for (actor, seq) in &ahead {
            let own = self.replica.logs.get(actor);
            link.claims(*actor, *seq, own.map_or(0, |state| state.stored));
        }
        self.push_own(id, &found.behind);
        self.answer(id, number, found, last.as_ref());
        forked.into_iter().for_each(|actor| self.branch_came(Some(id), actor));
        self.check_claims(id);
        match last {
            Some(last) => self.answered(now, staged, id, number, &last),
            None => self.note_found(now, id, &ahead, &[]),
        }
        Ok(())
    }

    /// Tells what was found in a part of the items.
    fn answer(&mut self, id: LinkId, number: u64, found: Found, last: Option<&Last>) {
        let Found { logs, statements, unknown, .. } = found;
        let asks_last = last.is_some_and(|last| last.has_asked);
        let mut parts: Vec<&[_]> = unknown.chunks(ENTRIES_MAX).collect();
        if asks_last && parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        for (at, ids) in parts.into_iter().enumerate() {
            let request = Request { number, ids: ids.to_vec(), is_last: last.is_some() && at + 1 == count };
            self.say(id, Outgoing::Frame(Frame::Request(request).encode()));
        }
        if last.is_some() || !logs.is_empty() || !statements.is_empty() {
            let end = last.map_or(End::Part, |last| End::Comparison(number, last.own));
            self.say(id, Outgoing::Difference(OutgoingDifference { logs: logs.into(), statements, end }));
        }
    }

    /// Of the logs that this node carries the peer gets at once what it lacks: nobody else sends it unasked. Not so later,
    /// when it may be on its way.
    fn push_own(&mut self, id: LinkId, behind: &[(Actor, u64)]) {
        if self.links.get(&id).is_none_or(|link| !link.is_new) {
            return;
        }
        for (actor, seq) in behind {
            if self.replica.logs.get(actor).is_some_and(|log| *log.carrier() == self.device) {
                self.wanted(id, *actor, *seq);
            }
        }
    }

    /// All items are there and answered.
    fn answered(&mut self, now: Time, staged: &mut Staged<'_>, id: LinkId, number: u64, last: &Last) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if last.has_asked {
            link.standing.requested = Some((number, last.peer));
        } else {
            link.standing.settles = Some(last.peer);
        }
        self.judge_vain(now, staged, id, !last.has_found);
        self.end_comparison(now, id);
    }
}
