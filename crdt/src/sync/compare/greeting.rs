//! The greeting: where two orders of admission stand, and whether a cursor helps or ranges are compared.
//!
//! Who dials and can have no help of a cursor opens a comparison beside its `Hello`, half a round trip before it hears that
//! one is needed.

use super::super::frame::{End, Frame, Place, PlaceOf, RANGES, Ranges};
use super::super::link::Phase;
use super::super::{Engine, LinkId};
use super::outgoing::{Outgoing, OutgoingDifference};
use super::{COMPARE_TIMEOUT_MS, CURSOR_ROWS_MIN, CURSOR_SHARE};
use crate::id::Time;
use crate::store::{Staged, StoreError};

impl Engine {
    /// Where this node's order stands, as far as it is stored.
    pub(super) fn place(&self) -> Place {
        Place { generation: self.replica.order().generation, position: self.order_stored }
    }

    /// Says where this node's order stands, beside a root; what was said before needs no saying.
    pub(in crate::sync) fn send_place(&mut self, id: LinkId, is_equal: bool) {
        let items_bits = usize::BITS - self.replica.tree().len().leading_zeros();
        let place = PlaceOf { place: self.place(), items_bits: u8::try_from(items_bits).unwrap_or(u8::MAX), is_equal };
        let Some(link) = self.links.get_mut(&id) else { return };
        if is_equal || link.standing.own != Some(place) {
            link.standing.own = Some(PlaceOf { is_equal: false, ..place });
            self.send_control(id, &Frame::Place(place));
        }
    }

    /// Where the peer's order stands; the first time that ends its greeting.
    pub(in crate::sync) fn receive_place(&mut self, id: LinkId, place: PlaceOf) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.standing.peer = Some(place);
        if place.is_equal || link.standing.is_equal {
            link.standing.settles = Some(place.place);
            link.standing.vain = 0;
        }
    }

    /// Once both sides have said `Hello` and where they stand: equal roots end it, a cursor tells what came since, and else
    /// ranges are compared.
    pub(in crate::sync) fn compare_greeting(
        &mut self,
        now: Time,
        staged: &Staged<'_>,
        id: LinkId,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Greeting) else { return Ok(()) };
        let standing = &mut link.standing;
        let (Some(own_root), Some(own)) = (link.sent_root, standing.own) else { return Ok(()) };
        let (Some(peer_root), Some(peer)) = (link.peer_root, standing.peer) else { return Ok(()) };
        standing.greeted = Some(peer.place);
        let opening = standing.opening.take();
        link.has_greeted(now);
        self.probe(now, id);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let standing = &mut link.standing;
        if own_root == peer_root {
            (standing.comparison, standing.over_by) = (None, None);
            standing.is_equal = true;
            standing.settles = Some(peer.place);
            self.ready(now, id);
            self.note_missing(now, id, true);
            return Ok(());
        }
        link.phase = Phase::Comparing;
        standing.over_by = Some(now.plus_millis(COMPARE_TIMEOUT_MS));
        if !link.is_member {
            self.tell_statements(id, true);
            return Ok(());
        }
        if let Some(ranges) = opening {
            // Who has few items says them all: that is less than the fingerprints of the other's.
            if own.items_bits < peer.items_bits && self.replica.tree().len() <= RANGES {
                self.begin(now, id);
            } else {
                self.answer_ranges(now, id, ranges);
            }
            return Ok(());
        }
        if standing.comparison.is_some() {
            return Ok(()); // this side has opened it
        }
        let (cursor, generation, device) = (standing.cursor, standing.generation, link.device);
        if let Some((logs, statements)) = self.since(staged, cursor)? {
            let end = End::Cursor;
            self.say(id, Outgoing::Difference(OutgoingDifference { logs: logs.into(), statements, end }));
            return Ok(());
        }
        // Where the peer's cursor helps no more and ours does, the peer waits for this side.
        let holds = self.replica.cursor_of(&device).is_some_and(|cursor| cursor.generation == generation);
        if holds || (own.items_bits, self.device) < (peer.items_bits, device) {
            self.begin(now, id);
        }
        Ok(())
    }

    /// What a peer with this cursor lacks, where that is less than comparing would cost.
    fn since(
        &self,
        staged: &Staged<'_>,
        cursor: Option<Place>,
    ) -> Result<Option<super::super::replica::Since>, StoreError> {
        let own = self.replica.order();
        let valid = cursor.filter(|cursor| cursor.generation == own.generation && cursor.position <= own.position);
        let Some(cursor) = valid else { return Ok(None) };
        let most = (self.replica.tree().len() / CURSOR_SHARE).max(CURSOR_ROWS_MIN);
        self.replica.admitted_since(staged, cursor.position, most)
    }

    /// Begins a comparison beside the `Hello`, where the two sides have to compare unless they are equal: no cursor into the
    /// peer's order is here, or the peer can have none into this one.
    pub(in crate::sync) fn open_comparison(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let device = link.device;
        let is_needed = self.replica.cursor_of(&device).is_none() || !self.replica.may_know_order(&device);
        if link.dialled && link.is_member && is_needed && self.replica.tree().len() > RANGES {
            let ranges = self.make_comparison(now, id);
            self.send_control(id, &Frame::Ranges(ranges));
        }
    }

    /// The peer opens a comparison before it has said where its order stands.
    pub(in crate::sync) fn keep_opening(&mut self, id: LinkId, ranges: Ranges) {
        if let Some(link) = self.links.get_mut(&id) {
            link.standing.opening = Some(ranges);
        }
    }
}
