//! At which addresses others reach this node, and whom it asks to relay for it where they do not.
//!
//! Pure: what identify, AutoNAT and the relays say comes in with the time; [`Reach::poll_effect`] says what to do.
//!
//! An address is *reachable* when that was proven: a peer dialled it, or AutoNAT v2 dialled back to it. Where it is not this
//! machine's, two peers have to say that they dialled it: one alone may have others dial whom it likes. What a peer that this
//! node dialled sees is proof of nothing: a translator lets the answers in and nobody else. Where such an address is not one
//! that is listened on, or AutoNAT could not dial it, something stands between the two, and the peer, which is on the other
//! side of it, is asked to relay: whoever wants a link comes over its circuit, and both punch a hole (DCUtR).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::peer::PeerKey;

#[cfg(test)]
mod tests;

/// Relays asked at a time: one may go away.
const RELAYS: usize = 2;
/// Peers that have to say that they dialled an address which is not this machine's.
const WITNESSES: usize = 2;
/// Most peers of which it is kept what they see, and most addresses of which it is kept whether they were reached.
const PEERS_MAX: usize = 256;
const ADDRESSES_MAX: usize = 64;
/// A relay that refused or went away is asked again after this, doubling.
const BACKOFF: Duration = Duration::from_secs(3);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Others reach this node at this address.
    Confirm(String),
    /// They do no longer.
    Withdraw(String),
    /// A relay is to be asked for a reservation; [`Reach::reserved`] or [`Reach::unreserved`] follows.
    Reserve(PeerKey),
    /// A reservation is not needed any more.
    Release(PeerKey),
}

/// What a linked peer knows.
#[derive(Debug, Clone, Default)]
struct Seen {
    /// Where it sees this node, and whether it dialled that.
    at: Option<(String, bool)>,
    /// It relays for others.
    relays: bool,
}

/// A peer that was asked to relay.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    is_open: bool,
    /// It holds a reservation.
    is_held: bool,
    failures: u32,
    /// When it may be asked again.
    again: Duration,
}

/// What a node knows of how it is reached.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    listening: BTreeSet<String>,
    peers: BTreeMap<PeerKey, Seen>,
    /// Addresses and whether they were reached from outside.
    tried: BTreeMap<String, bool>,
    confirmed: BTreeSet<String>,
    asked: BTreeMap<PeerKey, Asked>,
    effects: VecDeque<Effect>,
}

impl Reach {
    /// An address is listened on, on an interface of this machine.
    pub(crate) fn listening(&mut self, now: Duration, address: &str) {
        self.listening.insert(address.to_owned());
        self.decide(now);
    }

    /// It is no longer.
    pub(crate) fn not_listening(&mut self, now: Duration, address: &str) {
        self.listening.remove(address);
        self.tried.remove(address);
        self.decide(now);
    }

    /// A peer says where it sees this node; `was_dialled`: on a connection that the peer dialled.
    pub(crate) fn seen(&mut self, now: Duration, peer: PeerKey, at: &str, was_dialled: bool) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return;
        }
        self.peers.entry(peer).or_default().at = Some((at.to_owned(), was_dialled));
        if was_dialled && self.listening.contains(at) {
            self.note(at, true);
        }
        self.decide(now);
    }

    /// A peer that is linked relays for others, or does not.
    pub(crate) fn relays(&mut self, now: Duration, peer: PeerKey, relays: bool) {
        if self.peers.len() < PEERS_MAX || self.peers.contains_key(&peer) {
            self.peers.entry(peer).or_default().relays = relays;
            self.decide(now);
        }
    }

    /// Nothing is linked with the peer any more.
    pub(crate) fn gone(&mut self, now: Duration, peer: PeerKey) {
        self.peers.remove(&peer);
        self.decide(now);
    }

    /// AutoNAT dialled back to an address, or could not.
    pub(crate) fn tested(&mut self, now: Duration, address: &str, is_reached: bool) {
        self.note(address, is_reached);
        self.decide(now);
    }

    /// A relay holds a reservation.
    pub(crate) fn reserved(&mut self, peer: PeerKey) {
        if let Some(asked) = self.asked.get_mut(&peer) {
            asked.failures = 0;
            asked.is_held = true;
        }
    }

    /// A relay did not give a reservation, or it ended.
    pub(crate) fn unreserved(&mut self, now: Duration, peer: PeerKey) {
        if let Some(asked) = self.asked.get_mut(&peer) {
            asked.is_open = false;
            asked.is_held = false;
            asked.again = now + BACKOFF.saturating_mul(1 << asked.failures.min(10)).min(BACKOFF_MAX);
            asked.failures = asked.failures.saturating_add(1);
        }
        self.decide(now);
    }

    /// The addresses at which others have reached this node.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = &String> {
        self.confirmed.iter()
    }

    /// The peers that hold a reservation for this node.
    pub(crate) fn held(&self) -> impl Iterator<Item = PeerKey> {
        self.asked.iter().filter(|(_, asked)| asked.is_held).map(|(peer, _)| *peer)
    }

    /// Asks again whom it is time to ask.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.decide(now);
    }

    /// The next thing to do.
    pub(crate) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn note(&mut self, address: &str, is_reached: bool) {
        if self.tried.len() < ADDRESSES_MAX || self.tried.contains_key(address) {
            self.tried.insert(address.to_owned(), is_reached);
        }
    }

    /// Whether something stands between this node and a peer that dialled cannot pass.
    fn is_behind(&self, seen: &Seen) -> bool {
        // Who has dialled it gets through.
        let Some((at, false)) = &seen.at else { return false };
        // Before AutoNAT has tried it, only an address that is not this machine's own says something.
        let may_be_behind = self.tried.contains_key(at) || !self.listening.contains(at);
        may_be_behind && !self.confirmed.contains(at)
    }

    fn decide(&mut self, now: Duration) {
        // An address counts as long as it is this machine's, or somebody sees this node there.
        let mut seen_at: BTreeMap<&String, usize> = BTreeMap::new();
        for (address, was_dialled) in self.peers.values().filter_map(|seen| seen.at.as_ref()) {
            *seen_at.entry(address).or_default() += usize::from(*was_dialled);
        }
        let (listening, tried) = (&self.listening, &mut self.tried);
        tried.retain(|address, _| listening.contains(address) || seen_at.contains_key(address));
        let proven = tried.iter().filter(|(_, is_reached)| **is_reached).map(|(address, _)| address.clone());
        let mut dialled_at =
            self.peers.values().filter_map(|seen| seen.at.as_ref().filter(|(_, was_dialled)| !was_dialled));
        let is_translated = dialled_at.any(|(at, _)| !listening.contains(at));
        let counts = |witnesses: usize| witnesses >= WITNESSES && !is_translated;
        let witnessed = seen_at.into_iter().filter(|(_, count)| counts(*count)).map(|(address, _)| address.clone());
        let reached: BTreeSet<String> = proven.chain(witnessed).collect();
        let confirm = reached.difference(&self.confirmed).cloned().map(Effect::Confirm);
        let withdraw = self.confirmed.difference(&reached).cloned().map(Effect::Withdraw);
        self.effects.extend(confirm.chain(withdraw));
        self.confirmed = reached;
        self.decide_relays(now);
    }

    fn decide_relays(&mut self, now: Duration) {
        let can_relay = |peer: &PeerKey| self.peers.get(peer).is_some_and(|seen| seen.relays && self.is_behind(seen));
        let (kept, released): (Vec<PeerKey>, Vec<PeerKey>) =
            self.asked.iter().filter(|(_, asked)| asked.is_open).map(|(peer, _)| *peer).partition(can_relay);
        let is_due = |peer: &PeerKey| self.asked.get(peer).is_none_or(|asked| !asked.is_open && asked.again <= now);
        let new: Vec<PeerKey> = self.peers.keys().copied().filter(|peer| can_relay(peer) && is_due(peer)).collect();
        // Who has failed least comes first.
        let failures = |peer: &PeerKey| self.asked.get(peer).map_or(0, |asked| asked.failures);
        let mut new: Vec<(u32, PeerKey)> = new.into_iter().map(|peer| (failures(&peer), peer)).collect();
        new.sort_unstable();
        new.truncate(RELAYS.saturating_sub(kept.len()));
        for peer in released {
            self.asked.remove(&peer);
            self.effects.push_back(Effect::Release(peer));
        }
        for (_, peer) in new {
            self.asked.entry(peer).or_default().is_open = true;
            self.effects.push_back(Effect::Reserve(peer));
        }
        let peers = &self.peers;
        self.asked.retain(|peer, asked| asked.is_open || peers.contains_key(peer));
    }
}
