//! One link: how far both sides are, and what is known of the peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::compare::Standing;
use super::flow::{Inflow, Outflow};
use super::frame::{FRAGMENT, FRAME_BYTES_MAX, Fragment};
use super::lacking::Lacking;
use super::modes::{Modes, Newest, Terms};
use super::names::Names;
use super::origins::Origin;
use super::{Channel, GREETING_TIMEOUT_MS, LinkId, RTT_MICROS_UNKNOWN};
use crate::id::{Actor, DeviceId, Key, Root, StatementId, Time};
use crate::schema::Class;
use crate::statement::SignedStatement;

/// Most bytes of control frames that wait for a peer to read; beyond, the session is closed.
pub(super) const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Most bytes of frames that overtake the peer's `Hello` on the other stream; beyond, the session is closed.
pub(super) const EARLY_BYTES_MAX: usize = 512 << 10;
/// How many blameable refusals a peer may cause before its session is closed.
pub(super) const REFUSALS_MAX: u8 = 8;
/// Most logs of which a peer may hold another branch; of more, nothing is asked or answered.
pub(super) const FORKS_MAX: usize = 1024;
/// Of most logs it is kept that the peer has less than this node; of more it hears when it compares.
const SAID_LESS_MAX: usize = 4096;
/// Most logs, and statements, that are kept for a peer that changes its mind about their origins: what a failure may have
/// cost it.
const UNTOLD_MAX: usize = 512;
/// The longest round trip that is believed, microseconds: a peer that answers late is not waited for the longer.
const RTT_MICROS_MAX: u64 = 2_000_000;
/// Most probes that are waited for.
const PROBES_MAX: usize = 8;
/// How often a log is fetched from a peer whose changes of it were refused, in a session.
pub(super) const REFETCHES_MAX: u8 = 3;
/// How many runs may fit nothing that is stored, of logs of which no fork is proven, before the session is closed: more
/// than a session's window holds of an honest peer's.
pub(super) const BRANCHES_MAX: u32 = 4096;

/// How far the two sides are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A `Hello` is missing, on either side.
    Greeting,
    /// The roots differ; what the peer has is not known yet.
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
    /// The rate that the link was last seen to take while there was more to send, bytes a second.
    pub delivery_rate: Option<u64>,
}

/// Logs of which the peer holds another branch.
#[derive(Debug, Clone, Default)]
pub(super) struct Forks {
    /// Asked for from their beginning, as something came that fits nothing that is stored.
    asked: BTreeSet<Actor>,
    /// Proven, and answered with our branch.
    proven: BTreeSet<Actor>,
    /// Runs that fitted nothing, of logs that are not proven to be forked.
    unproven: u32,
}

impl Forks {
    /// A run fits nothing that is stored of its log. Whether to ask for the log from its beginning.
    pub(super) fn note_branch(&mut self, actor: Actor) -> bool {
        if !self.proven.contains(&actor) {
            self.unproven = self.unproven.saturating_add(1);
        }
        self.asked.len() < FORKS_MAX && self.asked.insert(actor)
    }

    /// A fork is proven by the author's own signature. Whether to answer with our branch.
    pub(super) fn note_proof(&mut self, actor: Actor) -> bool {
        self.unproven = 0;
        self.proven.len() < FORKS_MAX && self.proven.insert(actor)
    }

    pub(super) fn is_proven(&self, actor: &Actor) -> bool {
        self.proven.contains(actor)
    }

    pub(super) fn is_over(&self) -> bool {
        self.unproven > BRANCHES_MAX
    }
}

/// A long frame, as far as its parts came.
#[derive(Debug, Clone, Default)]
pub(super) struct Fragments {
    bytes: Vec<u8>,
    /// Whether a part is missing, so that the others are worth nothing.
    is_broken: bool,
}

impl Fragments {
    /// Takes a part; the frame, where that was the last one. `Err` where it is too long.
    pub(super) fn add(&mut self, fragment: &Fragment) -> Result<Option<Vec<u8>>, &'static str> {
        if !self.is_broken {
            self.bytes.extend_from_slice(&fragment.bytes);
        }
        if self.bytes.len() > FRAME_BYTES_MAX {
            return Err("a frame in parts is too long");
        }
        if !fragment.is_last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.bytes);
        Ok((!std::mem::take(&mut self.is_broken)).then_some(whole))
    }

    /// A frame was dropped. A part of a long one breaks it; after its last one, the next frame in parts is lost as well.
    pub(super) fn dropped(&mut self, frame: &[u8]) {
        if frame.first() == Some(&FRAGMENT) {
            self.bytes = Vec::new();
            self.is_broken = true;
        }
    }
}

/// A link and what is known of its peer.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) peer: Key,
    pub(super) device: DeviceId,
    /// The peer's device, as an origin, once it has greeted.
    pub(super) origin: Origin,
    /// Whether the peer's device is a member, so that logs are its business.
    pub(super) is_member: bool,
    pub(super) phase: Phase,
    /// Whether it was not ready before: what the greeting said is all that the peer knows.
    pub(super) is_new: bool,
    /// What this node wants of the peer, and the peer of this node.
    pub(super) asked: Terms,
    pub(super) served: Terms,
    /// When the peer was last told that it sends what nobody asked for.
    pub(super) reminded_at: Option<Time>,
    /// Whether this side dialled.
    pub(super) dialled: bool,
    /// When the peer must have greeted, and after that when it must have answered a first probe.
    greeted_by: Time,
    /// Whether our `Hello` is said or on its way; who is not known here says it first.
    pub(super) greets: bool,
    pub(super) sent_root: Option<Root>,
    pub(super) peer_root: Option<Root>,
    /// How far the two replicas are known to be the same, and how that is found out.
    pub(super) standing: Standing,
    pub(super) budget: [usize; 2],
    /// What the peer has of logs beyond what is stored here. Of everything else it is taken to have what is stored here, but
    /// for `lacking`.
    pub(super) ahead: BTreeMap<Actor, u64>,
    /// Statements that the peer has otherwise than this node, with digests of their signers.
    pub(super) ahead_statements: BTreeMap<StatementId, u32>,
    /// Logs of which the peer has told that it has less than is stored here, until it asks for them.
    pub(super) said_less: BTreeMap<Actor, u64>,
    /// Logs that grew since our `Hello`, with what was stored before.
    pub(super) touched: BTreeMap<Actor, u64>,
    pub(super) touched_statements: BTreeSet<StatementId>,
    /// Logs that grew of late, and statements that came, while the peer wanted to hear nothing of them.
    pub(super) untold: Newest<Actor>,
    pub(super) untold_statements: Newest<StatementId>,
    /// What is to be sent.
    pub(super) lacking: Lacking,
    /// Frames of the data stream that are next, in parts, with their class.
    pub(super) pieces: VecDeque<(Class, Vec<u8>)>,
    /// How many more urgent frames have gone before what is next of them.
    pub(super) overtaken: u64,
    /// Whether a comparison's frame went before a change.
    pub(super) has_compared: bool,
    pub(super) outflow: Outflow,
    /// When more may be sent, where nothing else is waited for.
    pub(super) paced_by: Option<Time>,
    pub(super) inflow: Inflow,
    pub(super) fragments: Fragments,
    /// Logs of which the peer is to hear with the next frame, or by then, each with what was stored before.
    pub(super) have_out: BTreeMap<Actor, u64>,
    pub(super) have_statements_out: BTreeSet<StatementId>,
    pub(super) have_by: Option<Time>,
    pub(super) names: Names,
    pub(super) control: VecDeque<Vec<u8>>,
    pub(super) control_bytes: usize,
    pub(super) refusals: u8,
    pub(super) forks: Forks,
    /// Logs of which something was refused, with how often.
    refused: BTreeMap<Actor, u8>,
    pub(super) early: VecDeque<Vec<u8>>,
    pub(super) early_bytes: usize,
    /// When changes or a statement came last.
    pub(super) payload_at: Time,
    /// When the probes were sent that are not answered yet, at most [`PROBES_MAX`].
    probes: VecDeque<Time>,
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
    /// A link to `peer`; `own` is this node's number as an origin.
    pub(super) fn new(peer: Key, own: Origin, now: Time, greets: bool) -> Link {
        Link {
            peer,
            device: peer.device(),
            origin: Origin::NOBODY,
            is_member: false,
            phase: Phase::Greeting,
            is_new: true,
            asked: Terms { modes: Modes::unknown(), named: Vec::new() },
            served: Terms { modes: Modes::new(own), named: Vec::new() },
            reminded_at: None,
            dialled: false,
            greeted_by: now.plus_millis(GREETING_TIMEOUT_MS),
            greets,
            sent_root: None,
            peer_root: None,
            standing: Standing::default(),
            budget: [0; 2],
            ahead: BTreeMap::new(),
            ahead_statements: BTreeMap::new(),
            said_less: BTreeMap::new(),
            untold: Newest::new(UNTOLD_MAX),
            untold_statements: Newest::new(UNTOLD_MAX),
            touched: BTreeMap::new(),
            touched_statements: BTreeSet::new(),
            lacking: Lacking::default(),
            pieces: VecDeque::new(),
            overtaken: 0,
            has_compared: false,
            outflow: Outflow::new(now),
            paced_by: None,
            inflow: Inflow::default(),
            fragments: Fragments::default(),
            have_out: BTreeMap::new(),
            have_statements_out: BTreeSet::new(),
            have_by: None,
            names: Names::default(),
            control: VecDeque::new(),
            control_bytes: 0,
            refusals: 0,
            forks: Forks::default(),
            refused: BTreeMap::new(),
            early: VecDeque::new(),
            early_bytes: 0,
            payload_at: Time(0),
            probes: VecDeque::new(),
            rtt_micros: None,
        }
    }

    pub(super) fn add_budget(&mut self, channel: Channel, bytes: usize) {
        let budget = &mut self.budget[channel_slot(channel)];
        *budget = budget.saturating_add(bytes);
    }

    pub(super) fn timeout(&self) -> Option<Time> {
        let greeting = self.rtt_micros.is_none().then_some(self.greeted_by);
        // While the peer does not read, nothing can be said.
        let have = self.have_by.filter(|_| self.control.is_empty());
        let others = self.standing.timeout().into_iter().chain(self.outflow.stalls_at()).chain(self.paced_by);
        greeting.into_iter().chain(have).chain(others).min()
    }

    /// The peer has greeted: it has as long again to answer a first probe.
    pub(super) fn has_greeted(&mut self, now: Time) {
        self.greeted_by = now.plus_millis(GREETING_TIMEOUT_MS);
    }

    /// Why it is to be closed: the peer has not greeted, or answered a first probe, in time.
    pub(super) fn is_late(&self, now: Time) -> Option<&'static str> {
        let is_late = self.rtt_micros.is_none() && self.greeted_by <= now;
        is_late.then_some(match self.phase {
            Phase::Greeting => "the peer did not say Hello in time",
            _ => "the peer is silent",
        })
    }

    /// A probe is sent.
    pub(super) fn probed(&mut self, now: Time) {
        if self.probes.len() >= PROBES_MAX {
            self.probes.pop_front();
        }
        self.probes.push_back(now);
    }

    /// An answer came to the probe of this number, which is when it was sent. How long it took, microseconds, where there
    /// was such a probe; earlier ones are not waited for any more.
    pub(super) fn probe_answered(&mut self, now: Time, number: u64) -> Option<u64> {
        let at = self.probes.iter().position(|sent_at| sent_at.0 == number)?;
        self.probes.drain(..=at);
        let micros = now.0.saturating_sub(number);
        self.rtt_micros = Some(micros);
        Some(micros)
    }

    pub(super) fn summary(&self, link: LinkId) -> LinkSummary {
        LinkSummary {
            link,
            peer: self.peer,
            device: self.device,
            is_ready: self.phase == Phase::Ready,
            backlog: self.lacking.len(),
            rtt_micros: self.rtt_micros,
            delivery_rate: self.outflow.delivery_rate(),
        }
    }

    /// The peer has a log up to `seq`, while this node has stored it up to `stored`.
    pub(super) fn claims(&mut self, actor: Actor, seq: u64, stored: u64) {
        if seq > stored {
            let known = self.ahead.entry(actor).or_default();
            *known = seq.max(*known);
        }
        if self.said_less.get(&actor).is_some_and(|said| *said <= seq) {
            self.said_less.remove(&actor);
        }
        if seq >= stored {
            self.have_out.remove(&actor);
            self.touched.remove(&actor);
        }
        self.lacking.has(actor, seq, stored);
    }

    /// The peer has a log up to `seq`, which is less than is stored here.
    pub(super) fn says_less(&mut self, actor: Actor, seq: u64) {
        self.said_less.insert(actor, seq);
        if self.said_less.len() > SAID_LESS_MAX {
            self.said_less.pop_first();
        }
    }

    /// A log is stored up to `stored` now.
    pub(super) fn caught_up(&mut self, actor: &Actor, stored: u64) {
        if self.ahead.get(actor).is_some_and(|seq| *seq <= stored) {
            self.ahead.remove(actor);
        }
    }

    /// A log counts no more: what the peer has of it is no difference.
    pub(super) fn forget_log(&mut self, actor: &Actor) {
        self.ahead.remove(actor);
        self.said_less.remove(actor);
        self.have_out.remove(actor);
    }

    /// Something of a log was refused that came from here.
    pub(super) fn note_refused(&mut self, actor: Actor) {
        if self.refused.len() < FORKS_MAX || self.refused.contains_key(&actor) {
            let times = self.refused.entry(actor).or_default();
            *times = times.saturating_add(1);
        }
    }

    /// Whether it makes sense to fetch a log from here.
    pub(super) fn is_fit_for(&self, actor: &Actor) -> bool {
        self.refused.get(actor).is_none_or(|times| *times < REFETCHES_MAX)
    }

    /// How long something may take that was sent or is to come because of what was just sent: one and a half round trips
    /// and 20 ms, microseconds.
    pub(super) fn patience_micros(&self) -> u64 {
        let rtt = self.rtt_micros.unwrap_or(RTT_MICROS_UNKNOWN).min(RTT_MICROS_MAX);
        rtt.saturating_add(rtt / 2).saturating_add(20_000)
    }

    /// What the peer has of a log beyond what is stored here; 0 where it has no more.
    pub(super) fn ahead_of(&self, actor: &Actor) -> u64 {
        self.ahead.get(actor).copied().unwrap_or(0)
    }
}
