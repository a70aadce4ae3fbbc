//! Requests to nodes that no link leads to: handed on hop by hop, each of which keeps the request until the answer passes it.
//!
//! A hop that loses the link over which it sent a request sends it over another way, and says which link failed; one that
//! knows no way gives it back to the neighbour it came from, which tries the next. A request carries its path, so that it
//! never comes to a node twice, and crosses [`MAX_HOPS`] links at most. The answer goes back the way the request came, and is
//! taken only from who was handed the request. Ways that cost nearly the same are shared by flow: all requests from one node
//! to another take the same of them, as long as it is there.
//! A node may state how much it passes on for others; beyond, it gives requests back, and they go another way.
//! Bodies are opaque: that they are signed end to end is the owner's affair, who must expect the same request twice.
//!
//! Pure: times, messages and [`Routes`] come in, [`Action`]s go out.
//!
//! ```
//! use std::collections::BTreeSet;
//! use std::time::Duration;
//! use transport::forward::{Action, Forwarder};
//! use transport::{PeerKey, Routes};
//!
//! let [me, friend] = [1, 2].map(|number| PeerKey([number; 32]));
//! let (now, routes) = (Duration::ZERO, Routes::new(me));
//! let mut forwarder = Forwarder::new(me);
//! forwarder.peers(BTreeSet::from([friend]), &routes);
//! forwarder.ask(now, 7, friend, b"how are you?".to_vec(), &routes);
//! assert!(matches!(forwarder.poll_action(), Some(Action::Send { peer, .. }) if peer == friend));
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::peer::{PeerKey, hash_of};
use crate::routes::Routes;

pub use message::{
    Answer, MAX_BODY_BYTES, MAX_FAILED, MAX_HOPS, MAX_MESSAGE_BYTES, Malformed, Message, NoWay, Request,
};

mod message;

#[cfg(test)]
mod tests;

/// Most requests that are under way here, and from one neighbour.
const MAX_UNDER_WAY: usize = 4_096;
const MAX_UNDER_WAY_OF_PEER: usize = 1_024;
/// Most bytes of their bodies.
const MAX_UNDER_WAY_BYTES: usize = 8 << 20;
/// Ways are shared that cost at most so many parts in one more than the best.
const NEARLY_EQUAL: u32 = 8;
/// What may be passed on at once after a rest, where that is limited.
const BURST: Duration = Duration::from_secs(1);
/// Most pairs of nodes of which it is counted what is passed on between them.
const MAX_COUNTED: usize = 1_024;
/// After so long a request is forgotten, and one of this node's own has failed.
pub const LIFETIME: Duration = Duration::from_secs(10);

/// Names a request in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks.
    pub from: PeerKey,
    /// The number that it gave the request.
    pub number: u64,
}

/// Why an own request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// No way led there, or none was left.
    #[error("no way of at most {MAX_HOPS} links leads there, or each that was tried had failed")]
    NoWay,
    /// Nothing came in time. Whether the request was delivered is not known.
    #[error("no answer came within {} s", LIFETIME.as_secs())]
    Late,
    /// Too many requests are under way here.
    #[error("too many requests are under way on this node")]
    Busy,
}

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send it to a neighbour.
    Send {
        /// The neighbour.
        peer: PeerKey,
        /// The message. After a request an answer of some kind is due from that neighbour.
        message: Message,
    },
    /// A request for this node: to be given to [`Forwarder::answer`]. It may come again, over another way.
    Deliver {
        /// The request.
        id: RequestId,
        /// The nodes it came over, the asker aside, this node last.
        hops: Vec<PeerKey>,
        /// What is asked.
        body: Vec<u8>,
    },
    /// A request of this node is answered.
    Answered {
        /// Its number.
        number: u64,
        /// The nodes it went over, the answerer last.
        hops: Vec<PeerKey>,
        /// The answer.
        body: Vec<u8>,
    },
    /// A request of this node is not answered.
    Failed {
        /// Its number.
        number: u64,
        /// Why.
        reason: Unanswered,
    },
}

/// A request, as it came or was asked here.
#[derive(Debug, Clone)]
struct UnderWay {
    /// The neighbour that it came from; none for this node's own.
    from: Option<PeerKey>,
    /// The neighbour that it was handed to; none where it is for this node.
    next: Option<PeerKey>,
    /// All neighbours that it was handed to: an answer may yet come from the first of them.
    handed: BTreeSet<PeerKey>,
    request: Request,
    ends_at: Duration,
}

/// The requests that are under way at this node.
#[derive(Debug, Clone)]
pub struct Forwarder {
    me: PeerKey,
    /// The neighbours that can be used.
    peers: BTreeSet<PeerKey>,
    under_way: BTreeMap<RequestId, UnderWay>,
    bytes: usize,
    /// When each of them ends.
    ends: BTreeSet<(Duration, RequestId)>,
    /// Bytes a second that are passed on for others; none is no limit.
    relay_rate: Option<u64>,
    /// When all that was passed on has had its time.
    relays_until: Duration,
    relayed: BTreeMap<(PeerKey, PeerKey), u64>,
    actions: VecDeque<Action>,
}

impl Forwarder {
    /// Nothing is under way, and no neighbour is known.
    pub fn new(me: PeerKey) -> Forwarder {
        Forwarder {
            me,
            peers: BTreeSet::new(),
            under_way: BTreeMap::new(),
            bytes: 0,
            ends: BTreeSet::new(),
            relay_rate: None,
            relays_until: Duration::ZERO,
            relayed: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// Limits the bodies of requests and answers that are passed on for others, bytes a second; 0 is no limit.
    pub fn limit_relayed(&mut self, bytes_per_s: u64) {
        self.relay_rate = Some(bytes_per_s).filter(|rate| *rate > 0);
    }

    /// What was passed on: by who asked and who was asked, bytes of bodies both ways.
    pub fn relayed(&self) -> &BTreeMap<(PeerKey, PeerKey), u64> {
        &self.relayed
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Forwarder::timer`] is to be called.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Requests that are under way here.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Asks a node, with a number that no other request of this node has or had of late. Ends with
    /// [`Action::Answered`] or [`Action::Failed`].
    pub fn ask(&mut self, now: Duration, number: u64, to: PeerKey, body: Vec<u8>, routes: &Routes) {
        let id = RequestId { from: self.me, number };
        let request = Request { id, to, ttl: MAX_HOPS as u8, path: Vec::new(), failed: Vec::new(), body };
        if self.take(now, None, request) {
            self.hand_on(id, routes);
        } else {
            self.actions.push_back(Action::Failed { number, reason: Unanswered::Busy });
        }
    }

    /// A message came from a neighbour. What it says of the link is the owner's affair.
    ///
    /// # Errors
    ///
    /// The neighbour breaks the protocol; nothing changed.
    pub fn message(
        &mut self,
        now: Duration,
        peer: PeerKey,
        message: Message,
        routes: &Routes,
    ) -> Result<(), Malformed> {
        match message {
            Message::Request(request) => {
                let id = request.id;
                let comes_from_peer = request.path.last() == Some(&peer) && request.path.first() == Some(&id.from);
                if !comes_from_peer || request.path.contains(&self.me) {
                    return Err(Malformed);
                }
                let (to, bytes) = (request.to, request.body.len());
                let may_pass = to == self.me || self.may_relay(now);
                if may_pass && self.take(now, Some(peer), request) {
                    self.count_relayed(now, (id.from, to), bytes);
                    self.hand_on(id, routes);
                } else {
                    self.send(peer, Message::NoWay(NoWay { id, failed: Vec::new() }));
                }
            }
            Message::Answer(answer) => {
                let was_handed = |under_way: &UnderWay| under_way.handed.contains(&peer);
                if let Some(under_way) = self.under_way.get(&answer.id).filter(|under_way| was_handed(under_way)) {
                    self.count_relayed(now, (answer.id.from, under_way.request.to), answer.body.len());
                    self.answered(answer);
                }
            }
            Message::NoWay(no_way) => self.given_back(peer, no_way, routes),
            Message::Unheard => {}
        }
        Ok(())
    }

    /// Answers a request that was delivered. One that was forgotten meanwhile is answered to nobody.
    pub fn answer(&mut self, id: RequestId, hops: Vec<PeerKey>, body: Vec<u8>) {
        self.answered(Answer { id, hops, body });
    }

    /// Which neighbours can be used from now on. What was handed to others takes other ways.
    pub fn peers(&mut self, peers: BTreeSet<PeerKey>, routes: &Routes) {
        let before = std::mem::replace(&mut self.peers, peers);
        let gone: BTreeSet<PeerKey> = before.difference(&self.peers).copied().collect();
        if gone.is_empty() {
            return;
        }
        let is_gone = |peer: &Option<PeerKey>| peer.is_some_and(|peer| gone.contains(&peer));
        let (me, mut lost, mut stranded) = (self.me, Vec::new(), Vec::new());
        for (id, under_way) in &mut self.under_way {
            if is_gone(&under_way.next) {
                let link = under_way.next.map(|next| (me, next));
                under_way.request.failed.extend(link);
                lost.push(*id);
            }
            // Whoever handed it to this node sends it over another way.
            if is_gone(&under_way.from) {
                stranded.push(*id);
            }
        }
        stranded.iter().for_each(|id| drop(self.forget(id)));
        lost.iter().for_each(|id| self.hand_on(*id, routes));
    }

    /// Time passed.
    pub fn timer(&mut self, now: Duration) {
        while let Some((_, id)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            if self.forget(&id).is_some_and(|under_way| under_way.from.is_none()) {
                self.actions.push_back(Action::Failed { number: id.number, reason: Unanswered::Late });
            }
        }
    }

    /// Keeps a request, in place of the same one that came before. Whether there was room.
    fn take(&mut self, now: Duration, from: Option<PeerKey>, request: Request) -> bool {
        let id = request.id;
        // Of what came first, what is known to have failed still holds.
        let before = self.forget(&id).map(|before| (before.request.failed, before.handed));
        let (known, handed) = before.unwrap_or_default();
        let of_peer = |peer: PeerKey| self.under_way.values().filter(|other| other.from == Some(peer)).count();
        let is_full = self.under_way.len() >= MAX_UNDER_WAY
            || self.bytes + request.body.len() > MAX_UNDER_WAY_BYTES
            || (self.under_way.len() >= MAX_UNDER_WAY_OF_PEER
                && from.is_some_and(|peer| of_peer(peer) >= MAX_UNDER_WAY_OF_PEER));
        if is_full {
            return false;
        }
        let mut under_way = UnderWay { from, next: None, handed, request, ends_at: now + LIFETIME };
        note_failed(&mut under_way.request.failed, known);
        self.bytes += under_way.request.body.len();
        self.ends.insert((under_way.ends_at, id));
        self.under_way.insert(id, under_way);
        true
    }

    fn may_relay(&self, now: Duration) -> bool {
        self.relay_rate.is_none() || self.relays_until <= now + BURST
    }

    /// Counts what goes between two others.
    fn count_relayed(&mut self, now: Duration, ends: (PeerKey, PeerKey), bytes: usize) {
        if ends.0 == self.me || ends.1 == self.me {
            return;
        }
        if let Some(rate) = self.relay_rate {
            let takes = Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate);
            self.relays_until = self.relays_until.max(now) + takes;
        }
        if self.relayed.len() < MAX_COUNTED || self.relayed.contains_key(&ends) {
            *self.relayed.entry(ends).or_default() += bytes as u64;
        }
    }

    fn forget(&mut self, id: &RequestId) -> Option<UnderWay> {
        let under_way = self.under_way.remove(id)?;
        self.bytes -= under_way.request.body.len();
        self.ends.remove(&(under_way.ends_at, *id));
        Some(under_way)
    }

    fn send(&mut self, peer: PeerKey, message: Message) {
        self.actions.push_back(Action::Send { peer, message });
    }

    /// Delivers a request, or sends it to the next node; gives it back where there is none.
    fn hand_on(&mut self, id: RequestId, routes: &Routes) {
        let Some(under_way) = self.under_way.get(&id) else { return };
        if under_way.request.to == self.me {
            let mut hops = under_way.request.path.clone();
            hops.push(self.me);
            hops.remove(0);
            let body = under_way.request.body.clone();
            return self.actions.push_back(Action::Deliver { id, hops, body });
        }
        match self.next_of(&under_way.request, routes) {
            Some(next) => self.hand_to(id, next),
            None => self.give_back(id),
        }
    }

    fn hand_to(&mut self, id: RequestId, next: PeerKey) {
        let Some(under_way) = self.under_way.get_mut(&id) else { return };
        under_way.next = Some(next);
        under_way.handed.insert(next);
        let mut request = under_way.request.clone();
        request.ttl -= 1;
        request.path.push(self.me);
        self.send(next, Message::Request(request));
    }

    fn give_back(&mut self, id: RequestId) {
        let Some(mut under_way) = self.forget(&id) else { return };
        under_way.request.failed.truncate(MAX_FAILED);
        let action = match under_way.from {
            None => Action::Failed { number: id.number, reason: Unanswered::NoWay },
            Some(peer) => {
                let message = Message::NoWay(NoWay { id, failed: under_way.request.failed });
                Action::Send { peer, message }
            }
        };
        self.actions.push_back(action);
    }

    /// The neighbour that a request goes to.
    fn next_of(&self, request: &Request, routes: &Routes) -> Option<PeerKey> {
        if request.ttl == 0 || request.failed.len() > MAX_FAILED {
            return None;
        }
        let is_open = |next: &PeerKey| {
            let is_failed = request.failed.iter().any(|(a, b)| is_link((*a, *b), (self.me, *next)));
            self.peers.contains(next) && !request.path.contains(next) && !is_failed
        };
        let usual = || {
            let ways = routes.ways(&request.to).into_iter();
            let open: Vec<_> = ways.filter(|way| way.is_loop_free && is_open(&way.next)).collect();
            let best = open.first()?.cost.micros();
            let equal = open.iter().take_while(|way| way.cost.micros() <= best.saturating_add(best / NEARLY_EQUAL));
            equal.map(|way| way.next).max_by_key(|next| hash_of([&request.id.from, &request.to, next]))
        };
        let round = || routes.way_round(&request.to, &request.path, &request.failed, is_open);
        // A link that was not measured yet is no part of any way.
        let direct = || Some(request.to).filter(is_open);
        let found = if request.failed.is_empty() { usual().or_else(round) } else { round() };
        found.or_else(direct)
    }

    fn answered(&mut self, answer: Answer) {
        let Some(under_way) = self.forget(&answer.id) else { return };
        match under_way.from {
            Some(peer) => self.send(peer, Message::Answer(answer)),
            None => {
                let Answer { id, hops, body } = answer;
                self.actions.push_back(Action::Answered { number: id.number, hops, body });
            }
        }
    }

    /// A neighbour knows no way for a request that it was handed.
    fn given_back(&mut self, peer: PeerKey, no_way: NoWay, routes: &Routes) {
        let link = (self.me, peer);
        let Some(under_way) = self.under_way.get_mut(&no_way.id).filter(|under_way| under_way.next == Some(peer))
        else {
            return;
        };
        note_failed(&mut under_way.request.failed, no_way.failed);
        note_failed(&mut under_way.request.failed, vec![link]);
        self.hand_on(no_way.id, routes);
    }
}

/// Whether both are the same link.
fn is_link(one: (PeerKey, PeerKey), other: (PeerKey, PeerKey)) -> bool {
    one == other || (one.1, one.0) == other
}

fn note_failed(failed: &mut Vec<(PeerKey, PeerKey)>, more: Vec<(PeerKey, PeerKey)>) {
    for link in more {
        if !failed.iter().any(|known| is_link(*known, link)) {
            failed.push(link);
        }
    }
}
