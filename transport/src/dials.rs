//! Whom to dial, and when: whom the overlay wants, as soon as it is known where they are, with jittered backoff.
//!
//! Pure: times come in, since any fixed moment; [`Dials::due`] says whom to dial and whose links to close. The node drives
//! it with its sessions, the simulator with its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::overlay::{LetGo, Overlay, Reason, Surroundings};
use crate::peer::PeerKey;
use crate::routes::Routes;

#[cfg(test)]
mod tests;

/// Backoff of dials, milliseconds: 200 doubling to 15 s, half as much more or less by chance.
const BACKOFF_MS: RangeInclusive<u64> = 200..=15_000;
/// It goes on doubling to this, milliseconds, where other nodes lead to the peer: then nobody waits for the link.
const BACKOFF_REACHED_MS: u64 = 240_000;
/// After a session that either side closed for a reason, milliseconds.
const CLOSED_BACKOFF_MS: u64 = 10_000;
/// A dial that says nothing is over after this.
const DIAL: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Default)]
struct Peer {
    /// Whether it is known where it is.
    is_known: bool,
    is_member: bool,
    is_up: bool,
    /// Whether a way leads there.
    is_reached: bool,
    failures: u32,
    next_try: Duration,
}

impl Peer {
    fn is_due(&self, now: Duration) -> bool {
        !self.is_up && self.is_known && self.next_try <= now
    }
}

/// Someone to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// Who.
    pub peer: PeerKey,
    /// Why; none where the peer is no member yet.
    pub why: Option<Reason>,
    /// Whether the dial before came to nothing.
    pub has_failed: bool,
}

/// What is to be done about links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Whom to dial; [`Dials::up`] or [`Dials::failed`] follows.
    pub dial: Vec<Dial>,
    /// Whose link to close, and why.
    pub close: Vec<(PeerKey, LetGo)>,
}

/// The peers of a node, and its overlay.
#[derive(Debug, Clone)]
pub struct Dials {
    peers: BTreeMap<PeerKey, Peer>,
    overlay: Overlay,
    /// Something happened that the overlay may have to answer.
    is_to_choose: bool,
    /// When it is to be asked otherwise.
    wake_at: Option<Duration>,
    random: u64,
}

impl Dials {
    /// A node that knows nobody; `random` decides what is left to chance.
    pub fn new(me: PeerKey, random: u64) -> Dials {
        Dials { peers: BTreeMap::new(), overlay: Overlay::new(me, random), is_to_choose: false, wake_at: None, random }
    }

    fn jittered(&mut self, millis: u64) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (self.random >> 33) % 1001;
        Duration::from_millis(millis / 2 + millis * share / 1000)
    }

    /// Takes over who belongs to the fleet, in which zones, and who does no longer. Whether a session that is up counts as
    /// a link only since then: `sessions` are those with anyone.
    pub fn members(
        &mut self,
        now: Duration,
        own_zone: String,
        members: BTreeMap<PeerKey, String>,
        removed: &BTreeSet<PeerKey>,
        sessions: &BTreeSet<PeerKey>,
    ) -> bool {
        self.peers.retain(|key, _| !removed.contains(key));
        let mut new = Vec::new();
        for member in members.keys() {
            let known = self.peers.entry(*member).or_default();
            if !std::mem::replace(&mut known.is_member, true) && sessions.contains(member) {
                new.push(*member);
            }
        }
        self.overlay.members(own_zone, members);
        self.is_to_choose = true;
        new.iter().for_each(|member| {
            self.up(now, *member);
        });
        !new.is_empty()
    }

    /// It is known where a peer is; where that is new, it is tried soon.
    pub fn located(&mut self, now: Duration, peer: PeerKey, is_new: bool) {
        let wait = self.jittered(*BACKOFF_MS.start());
        let known = self.peers.entry(peer).or_default();
        known.is_known = true;
        if known.failures > 0 && is_new {
            known.failures = 0;
            known.next_try = known.next_try.min(now + wait);
        }
        self.is_to_choose = true;
    }

    /// A peer was seen nearby: where it is a member it can be dialled at once. Whether it is one.
    pub fn seen(&mut self, now: Duration, peer: PeerKey) -> bool {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| known.is_member) else { return false };
        known.is_known = true;
        known.next_try = known.next_try.min(now);
        self.is_to_choose = true;
        true
    }

    /// A session is up. One with a stranger is no link yet. Whether it is one.
    pub fn up(&mut self, now: Duration, peer: PeerKey) -> bool {
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.is_up = true;
        known.failures = 0;
        self.overlay.up(now, peer);
        self.is_to_choose = true;
        true
    }

    /// A session is gone. Whether it was a link.
    pub fn down(&mut self, now: Duration, peer: PeerKey) -> bool {
        let wait = self.jittered(*BACKOFF_MS.start());
        let Some(known) = self.peers.get_mut(&peer) else { return false };
        known.is_up = false;
        known.next_try = now + wait;
        self.overlay.down(now, peer);
        self.is_to_choose = true;
        true
    }

    /// This node ended the session: the peer is tried again, later. Whether it was a link.
    pub fn closed(&mut self, now: Duration, peer: PeerKey) -> bool {
        let was_link = self.down(now, peer);
        let wait = self.jittered(CLOSED_BACKOFF_MS);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.next_try = now + wait;
        }
        was_link
    }

    /// A dial failed.
    pub fn failed(&mut self, now: Duration, peer: PeerKey) {
        let Some(Peer { failures, is_reached, .. }) = self.peers.get(&peer).cloned() else { return };
        let most = if is_reached { BACKOFF_REACHED_MS } else { *BACKOFF_MS.end() };
        let wait = self.jittered((BACKOFF_MS.start() << failures.min(20)).min(most));
        if let Some(known) = self.peers.get_mut(&peer) {
            known.failures = failures.saturating_add(1);
            known.next_try = now + wait;
        }
        self.overlay.failed(peer);
        self.is_to_choose = true;
    }

    /// Whether the last dial of a peer came to nothing.
    pub fn has_failed(&self, peer: &PeerKey) -> bool {
        self.peers.get(peer).is_some_and(|known| known.failures > 0)
    }

    /// A round trip to a peer was measured.
    pub fn measured(&mut self, peer: PeerKey, rtt_micros: u64) {
        self.is_to_choose |= self.overlay.measured(peer, rtt_micros);
    }

    /// A link may be dead, or has shown that it is not: as long as that is open, others are sought in its place.
    pub fn suspected(&mut self, peer: PeerKey, is_suspect: bool) {
        self.overlay.suspected(peer, is_suspect);
        self.is_to_choose = true;
    }

    /// Other nodes lead to a peer, or no longer. Where that changes it has begun to run, or the mesh has come apart: it is
    /// dialled as if for the first time.
    pub fn reach_changed(&mut self, now: Duration, peer: PeerKey, is_reached: bool) {
        let wait = self.jittered(*BACKOFF_MS.start());
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if std::mem::replace(&mut known.is_reached, is_reached) != is_reached && known.failures > 0 {
            known.failures = 0;
            known.next_try = known.next_try.min(now + wait);
            self.is_to_choose = true;
        }
    }

    /// Whatever was before, all can be dialled now.
    pub fn try_all_now(&mut self, now: Duration) {
        for peer in self.peers.values_mut() {
            peer.failures = 0;
            peer.next_try = now;
        }
        self.is_to_choose = true;
    }

    /// Why a link with a peer is held.
    pub fn reason(&self, peer: &PeerKey) -> Option<Reason> {
        self.overlay.reason(peer)
    }

    /// When [`Dials::due`] has something to say.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.is_to_choose { Some(Duration::ZERO) } else { self.wake_at }
    }

    /// Asks the overlay where something happened, or it is time.
    pub fn due(&mut self, now: Duration, routes: &Routes) -> Due {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return Due::default();
        }
        self.is_to_choose = false;
        let peers = &self.peers;
        let can_dial = |peer: &PeerKey| peers.get(peer).is_some_and(|known| known.is_due(now));
        let has_failed = |peer: &PeerKey| peers.get(peer).is_some_and(|known| known.failures > 0);
        self.overlay.choose(now, &Surroundings { routes, can_dial: &can_dial, has_failed: &has_failed });
        let wanted = self.overlay.wanted().clone();
        wanted.keys().for_each(|peer| self.overlay.dialled(now, *peer));
        // Who is no member, as far as is known, is known from a ticket: it leads to the others.
        let strangers = peers.iter().filter(|(_, known)| !known.is_member && known.is_due(now));
        let all =
            wanted.into_iter().map(|(peer, why)| (peer, Some(why))).chain(strangers.map(|(peer, _)| (*peer, None)));
        let dial: Vec<Dial> = all.map(|(peer, why)| Dial { peer, why, has_failed: has_failed(&peer) }).collect();
        for Dial { peer, .. } in &dial {
            if let Some(known) = self.peers.get_mut(peer) {
                known.next_try = now + DIAL;
            }
        }
        self.wake_at = self.next_wake(now);
        Due { dial, close: std::iter::from_fn(|| self.overlay.poll_drop()).collect() }
    }

    fn next_wake(&self, now: Duration) -> Option<Duration> {
        let is_short = self.overlay.is_short();
        // Members that could be dialled already are not wanted.
        let is_sought = |peer: &&Peer| !peer.is_member || (is_short && peer.next_try > now);
        let waiting = self.peers.values().filter(|peer| !peer.is_up && peer.is_known);
        let dial = waiting.filter(is_sought).map(|peer| peer.next_try).min();
        dial.into_iter().chain(self.overlay.poll_timeout()).min()
    }
}
