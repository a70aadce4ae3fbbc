//! Requests to other devices, over others where no link leads there (`transport::forward`), and this device's answers.
//!
//! What is asked is signed by who asks, what is answered by who answers; whoever hands it on can neither alter nor invent
//! it. Only members ask, and only members' requests are handed on.

use std::collections::{BTreeMap, BTreeSet};

use crdt::id::{DeviceId, Key, Time};
use crdt::roster::Standing;
use crdt::schema::{DocumentName, Kind};
use crdt::store::{LogStore, StoreError};
use crdt::sync::frame::ROUTED_BYTES_MAX;
use crdt::sync::{Input, LinkId};
use crdt::view;
use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, oneshot};
use transport::PeerKey;
use transport::forward::{Action, Forwarder, MAX_MESSAGE_BYTES, Message, RequestId, Unanswered};

use super::Node;
use super::routing::moment;

mod words;

use words::Exchange;
pub(crate) use words::{Fact, Place, Question, Reply};

const _: () = assert!(MAX_MESSAGE_BYTES <= ROUTED_BYTES_MAX);

/// Most answers that are being read from the store; who asks meanwhile is told so.
const READING_MAX: usize = 16;
/// A page of facts ends when it has so many bytes, so that the last one always fits, however long its value is.
const PAGE_BYTES: usize = 2 << 10;
/// The documents of which facts are answered, in order of name.
pub(crate) const FACTS: [Kind; 3] = [Kind::Device, Kind::Environment, Kind::Resource];

/// An answer, as it reached this node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// The devices that the question went over, the answerer last; none where this device asked itself.
    pub(crate) hops: Vec<DeviceId>,
    /// From the question to the answer, microseconds.
    pub(crate) micros: u64,
}

/// Why a device did not answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AskError {
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("the answer is not signed by that device; one of those that handed it on has altered it")]
    Forged,
    #[error("it refused: {0}")]
    Refused(String),
}

/// Where an answer is waited for.
pub(crate) type AnswerSender = oneshot::Sender<Result<Answered, AskError>>;

/// A question of this node that is not answered yet.
struct Waiting {
    to: Key,
    asked_at: Time,
    answer: AnswerSender,
}

/// An answer that was read from the store.
pub(super) struct Read {
    id: RequestId,
    hops: Vec<PeerKey>,
    reply: Reply,
}

/// What the node knows of requests.
pub(crate) struct Forwarding {
    forwarder: Forwarder,
    waiting: BTreeMap<u64, Waiting>,
    /// The number of the next question; begins anywhere, so that none comes again after a restart.
    number: u64,
    key: SigningKey,
    reading: usize,
    read: mpsc::UnboundedSender<Read>,
}

impl Forwarding {
    /// And where answers come from the store; at most [`READING_MAX`] are there. `relay_rate`: bytes a second that are passed
    /// on for others; 0 is no limit.
    pub(super) fn new(key: SigningKey, number: u64, relay_rate: u64) -> (Forwarding, mpsc::UnboundedReceiver<Read>) {
        let (read, was_read) = mpsc::unbounded_channel();
        let mut forwarder = Forwarder::new(PeerKey(key.verifying_key().to_bytes()));
        forwarder.limit_relayed(relay_rate);
        (Forwarding { forwarder, waiting: BTreeMap::new(), number, key, reading: 0, read }, was_read)
    }

    /// What was passed on, by who asked and who was asked, bytes both ways.
    pub(crate) fn relayed(&self) -> &BTreeMap<(PeerKey, PeerKey), u64> {
        self.forwarder.relayed()
    }

    /// When something is to be done.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let at = self.forwarder.poll_timeout()?;
        Some(Time(u64::try_from(at.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Node {
    /// Asks a device.
    pub(super) fn ask(&mut self, to: Key, question: &Question, answer: AnswerSender) {
        let now = self.now();
        let number = self.forwarding.number;
        self.forwarding.number = number.wrapping_add(1);
        let exchange = self.exchange(RequestId { from: PeerKey(self.key.0), number }, to);
        let body = exchange.sign_question(&self.forwarding.key, question);
        self.forwarding.waiting.insert(number, Waiting { to, asked_at: now, answer });
        self.forwarding.forwarder.ask(moment(now), number, PeerKey(to.0), body, &self.routing.routes);
        self.forward_actions();
        self.effects();
    }

    fn exchange(&self, id: RequestId, to: Key) -> Exchange {
        Exchange { fleet: self.fleet, id, to }
    }

    /// A message of a request came over a link.
    pub(super) fn routed(&mut self, link: LinkId, message: &[u8]) {
        let Some(peer) = self.sessions.get(&link).map(|session| PeerKey(session.peer.0)) else { return };
        let now = self.now();
        let taken = match Message::decode(message) {
            Ok(Message::Unheard) => {
                self.routing.unheard(now, link);
                Ok(())
            }
            Ok(message) => self.forwarding.forwarder.message(moment(now), peer, message, &self.routing.routes),
            Err(malformed) => Err(malformed),
        };
        match taken {
            Ok(()) => self.forward_actions(),
            Err(malformed) => self.close_link(link, &malformed.to_string()),
        }
    }

    /// Which links can be used changed: what was handed to others goes other ways.
    pub(super) fn forward_over(&mut self, peers: BTreeSet<PeerKey>) {
        self.forwarding.forwarder.peers(peers, &self.routing.routes);
        self.forward_actions();
    }

    /// Requests whose time is over.
    pub(super) fn forwarding_timers(&mut self) {
        let now = moment(self.now());
        if self.forwarding.forwarder.poll_timeout().is_some_and(|at| at <= now) {
            self.forwarding.forwarder.timer(now);
            self.forward_actions();
            self.effects();
        }
    }

    /// What it gives the engine leaves with the caller's loop over effects.
    fn forward_actions(&mut self) {
        while let Some(action) = self.forwarding.forwarder.poll_action() {
            match action {
                Action::Send { peer, message } => self.send_routed(peer, &message),
                Action::Deliver { id, hops, body } => self.asked_here(id, hops, &body),
                Action::Answered { number, hops, body } => self.answered(number, &hops, &body),
                Action::Failed { number, reason } => self.finish(number, |_| Err(reason.into())),
            }
        }
    }

    fn send_routed(&mut self, peer: PeerKey, message: &Message) {
        let Some(link) = self.sessions.link_with(&Key(peer.0)) else { return };
        let now = self.now();
        if matches!(message, Message::Request(_)) {
            self.routing.awaits(now, link);
        }
        self.engine.handle(now, Input::Route { link, message: message.encode() }, &self.writer);
    }

    /// Tells a peer that it did not answer: if it is there, nothing of it arrives here.
    pub(super) fn say_unheard(&mut self, link: LinkId) {
        let now = self.now();
        self.engine.handle(now, Input::Route { link, message: Message::Unheard.encode() }, &self.writer);
        self.effects();
    }

    /// A question for this device; what is not signed by who asks is not answered.
    fn asked_here(&mut self, id: RequestId, hops: Vec<PeerKey>, body: &[u8]) {
        let exchange = self.exchange(id, self.key);
        let Some(question) = exchange.verify_question(body) else {
            return tracing::warn!(from = %id.from, "a question is not signed by who asks");
        };
        let asker = Key(id.from.0).device();
        let reply = match question {
            _ if self.engine.replica().standing(&asker) != Standing::Member => {
                Reply::Refused("who asks is no member, as far as is known here".to_owned())
            }
            Question::Ping => Reply::Pong,
            Question::Clock => Reply::Clock { wall_ms: self.clock.wall_ms() },
            Question::Facts { .. } if self.forwarding.reading >= READING_MAX => {
                Reply::Refused("it answers too many others".to_owned())
            }
            Question::Facts { path, after } => return self.read_facts(id, hops, path, after),
        };
        self.reply(id, hops, &reply);
    }

    /// Facts are read on a thread that may wait for the disk.
    fn read_facts(&mut self, id: RequestId, hops: Vec<PeerKey>, path: String, after: Option<Place>) {
        self.forwarding.reading += 1;
        let (store, read) = (self.store.clone(), self.forwarding.read.clone());
        let (device, now_ms) = (self.device(), self.clock.wall_ms());
        tokio::task::spawn_blocking(move || {
            let facts = store.frozen(|frozen| facts_of(frozen, &device, &path, after.as_ref(), now_ms));
            let reply = facts.flatten().unwrap_or_else(|error| Reply::Refused(error.to_string()));
            // An error means that the node stops.
            let _ = read.send(Read { id, hops, reply });
        });
    }

    /// An answer was read from the store.
    pub(super) fn was_read(&mut self, read: Read) {
        self.forwarding.reading -= 1;
        self.reply(read.id, read.hops, &read.reply);
        self.effects();
    }

    fn reply(&mut self, id: RequestId, hops: Vec<PeerKey>, reply: &Reply) {
        let body = self.exchange(id, self.key).sign_reply(&self.forwarding.key, &hops, reply);
        self.forwarding.forwarder.answer(id, hops, body);
        self.forward_actions();
    }

    fn answered(&mut self, number: u64, hops: &[PeerKey], body: &[u8]) {
        let (now, fleet, from) = (self.now(), self.fleet, PeerKey(self.key.0));
        self.finish(number, |waiting| {
            let exchange = Exchange { fleet, id: RequestId { from, number }, to: waiting.to };
            match exchange.verify_reply(hops, body).ok_or(AskError::Forged)? {
                Reply::Refused(reason) => Err(AskError::Refused(reason)),
                reply => {
                    let hops = hops.iter().map(|hop| Key(hop.0).device()).collect();
                    Ok(Answered { reply, hops, micros: now.0 - waiting.asked_at.0 })
                }
            }
        });
    }

    fn finish(&mut self, number: u64, end: impl FnOnce(&Waiting) -> Result<Answered, AskError>) {
        if let Some(waiting) = self.forwarding.waiting.remove(&number) {
            let result = end(&waiting);
            // An error means that the asker is gone.
            let _ = waiting.answer.send(result);
        }
    }
}

/// A page of what a device says of itself.
fn facts_of(
    store: &dyn LogStore,
    device: &DeviceId,
    path: &str,
    after: Option<&Place>,
    now_ms: u64,
) -> Result<Reply, StoreError> {
    let mut facts = Vec::new();
    let mut bytes = 0;
    for kind in FACTS {
        for (path, entry) in view::read(store, &DocumentName::of_device(kind, device), path)? {
            let place = Place { document: kind.name().to_owned(), path };
            if after.is_some_and(|after| place <= *after) {
                continue;
            }
            if bytes >= PAGE_BYTES {
                return Ok(Reply::Facts { facts, has_more: true });
            }
            let age_s = crate::api::values::age_s(now_ms, entry.read.time_s);
            let fact = Fact { place, value: entry.read.value, age_s };
            bytes += postcard::experimental::serialized_size(&fact).unwrap_or(PAGE_BYTES);
            facts.push(fact);
        }
    }
    Ok(Reply::Facts { facts, has_more: false })
}
