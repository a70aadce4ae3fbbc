//! One link: how far both sides are, and what is known of the peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Channel, HELLO_TIMEOUT_MS, LinkId, PROBE_MS, SILENCE_MS};
use crate::id::{Actor, DeviceId, Key, Root, StatementId, Time};
use crate::schema::Class;
use crate::statement::SignedStatement;

/// Most bytes of control frames that wait for a peer to read; beyond, the session is closed.
pub(super) const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Most bytes of frames that overtake the peer's `Hello` on the other stream; beyond, the session is closed.
pub(super) const EARLY_BYTES_MAX: usize = 1 << 20;
/// How many blameable refusals a peer may cause before its session is closed.
pub(super) const REFUSALS_MAX: u8 = 8;
/// Every so many frames the least urgent class is served first, so that none starves.
pub(super) const SHARE_TURN: u64 = 8;

/// How far the two sides are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A `Hello` is missing, on either side.
    Greeting,
    /// The roots differ; the peer's clock is not complete yet.
    Comparing,
    /// What the peer has is known.
    Ready,
}

/// A link as people and the API see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSummary {
    /// The session.
    pub link: LinkId,
    /// The peer's key.
    pub peer: Key,
    /// The peer's device.
    pub device: DeviceId,
    /// Whether what the peer has is known.
    pub is_ready: bool,
    /// Logs of which the peer lacks something that waits to be sent.
    pub backlog: usize,
    /// The round trip of the last probe, microseconds; links are probed only while they are idle.
    pub rtt_micros: Option<u64>,
}

/// A link and what is known of its peer.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) peer: Key,
    pub(super) device: DeviceId,
    pub(super) phase: Phase,
    pub(super) hello_by: Time,
    pub(super) sent_root: Option<Root>,
    pub(super) peer_root: Option<Root>,
    pub(super) budget: [usize; 2],
    /// What the peer has of each log.
    pub(super) has: BTreeMap<Actor, u64>,
    /// Logs that grew since our `Hello`, with what was stored before.
    pub(super) touched: BTreeMap<Actor, u64>,
    pub(super) touched_statements: BTreeSet<StatementId>,
    pub(super) statements: BTreeMap<StatementId, u32>,
    pub(super) lacking: BTreeSet<(Class, Actor)>,
    pub(super) lacking_statements: BTreeSet<StatementId>,
    /// Logs that the peer should get from their origin, and until when that is believed.
    pub(super) deferred: BTreeMap<Actor, (Time, u64)>,
    pub(super) have_out: BTreeMap<Actor, u64>,
    pub(super) have_by: Option<Time>,
    pub(super) names_out: BTreeMap<Actor, u32>,
    pub(super) names_in: Vec<crate::change::LogName>,
    pub(super) control: VecDeque<Vec<u8>>,
    pub(super) control_bytes: usize,
    pub(super) refusals: u8,
    pub(super) turn: u64,
    pub(super) early: VecDeque<Vec<u8>>,
    pub(super) early_bytes: usize,
    pub(super) heard_at: Time,
    /// When a probe was sent that is not answered yet.
    pub(super) probed_at: Option<Time>,
    pub(super) rtt_micros: Option<u64>,
}

pub(super) fn channel_slot(channel: Channel) -> usize {
    match channel {
        Channel::Control => 0,
        Channel::Data => 1,
    }
}

/// A digest of a statement's signers, so that two sides see whether one has more of them.
pub(super) fn signers_digest(signed: &SignedStatement) -> u32 {
    let mut hasher = blake3::Hasher::new();
    for (signer, signature) in signed.signatures() {
        hasher.update(&signer.0).update(signature);
    }
    u32::from_be_bytes(hasher.finalize().as_bytes()[..4].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

impl Link {
    pub(super) fn new(peer: Key, now: Time) -> Link {
        Link {
            peer,
            device: peer.device(),
            phase: Phase::Greeting,
            hello_by: now.plus_millis(HELLO_TIMEOUT_MS),
            sent_root: None,
            peer_root: None,
            budget: [0; 2],
            has: BTreeMap::new(),
            touched: BTreeMap::new(),
            touched_statements: BTreeSet::new(),
            statements: BTreeMap::new(),
            lacking: BTreeSet::new(),
            lacking_statements: BTreeSet::new(),
            deferred: BTreeMap::new(),
            have_out: BTreeMap::new(),
            have_by: None,
            names_out: BTreeMap::new(),
            names_in: Vec::new(),
            control: VecDeque::new(),
            control_bytes: 0,
            refusals: 0,
            turn: 0,
            early: VecDeque::new(),
            early_bytes: 0,
            heard_at: now,
            probed_at: None,
            rtt_micros: None,
        }
    }

    pub(super) fn add_budget(&mut self, channel: Channel, bytes: usize) {
        let budget = &mut self.budget[channel_slot(channel)];
        *budget = budget.saturating_add(bytes);
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let greeting = (self.phase == Phase::Greeting).then_some(self.hello_by);
        let deferred = self.deferred.values().map(|(until, _)| *until).min();
        let silence = if self.probed_at.is_some() { SILENCE_MS } else { PROBE_MS };
        let probe = self.heard_at.plus_millis(silence);
        greeting.into_iter().chain(deferred).chain(self.have_by).chain([probe]).min()
    }

    pub(super) fn summary(&self, link: LinkId) -> LinkSummary {
        LinkSummary {
            link,
            peer: self.peer,
            device: self.device,
            is_ready: self.phase == Phase::Ready,
            backlog: self.lacking.len(),
            rtt_micros: self.rtt_micros,
        }
    }

    /// Something came from the peer.
    pub(super) fn heard(&mut self, now: Time) {
        self.heard_at = now;
    }

    pub(super) fn has(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
        self.has.iter().map(|(actor, seq)| (*actor, *seq))
    }

    /// Notes that the peer has a log up to `seq`.
    pub(super) fn note_has(&mut self, actor: Actor, seq: u64) {
        let known = self.has.entry(actor).or_default();
        *known = (*known).max(seq);
    }

    /// A log counts no more: what the peer has of it is no difference.
    pub(super) fn forget_log(&mut self, actor: &Actor) {
        self.has.remove(actor);
        self.deferred.remove(actor);
        self.have_out.remove(actor);
    }

    pub(super) fn has_of(&self, actor: &Actor) -> u64 {
        self.has.get(actor).copied().unwrap_or(0)
    }
}
