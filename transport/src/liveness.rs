//! Which links are alive. Bytes that come are the heartbeat; where they stay away, probes decide.
//!
//! A link that is silent is probed every two seconds (the owner says how often), of its two ends by the one that leads, the
//! other one waiting half a second more; all links at the same moments, so that who sleeps wakes once for many; one on
//! which little comes every eight seconds, and one in use every second, for its round trip; and either sooner where it is in use and silent for longer than
//! its gaps are, where an answer is due, or where the owner doubts it. A probe that stays unanswered is followed by two more;
//! if none of the three is answered the link is *suspect*: the owner stops using it at once. It is probed on, and *cleared*
//! once it has answered for a while, for longer each time (a link that flaps is damped); who does not answer for seven
//! seconds is *evicted*, and after two the owner may set up a new connection in its place (*renew*): where a translator of
//! addresses forgot the link, nothing else brings it back. While bytes come, answers have 600 ms: only one direction may be lost. Where the other is, the peer
//! takes the link for dead first, and says so (`unheard`, as in BFD, RFC 5880 6.8.6): then one probe decides. A link in use that may have changed, as
//! a gap shows that is much longer than all before, or the owner says, is *examined*: sixteen probes, whatever comes of each.
//!
//! **The sick one may be this node.** Where a timer fires more than 100 ms late, no link is accused: all probes start anew
//! (as Lifeguard suspects itself first, Dadgar et al. 2018). Pure: times are handed in, since any fixed moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::event::SessionId;
use gaps::Gaps;

mod gaps;

#[cfg(test)]
mod tests;

/// The shortest silence that is noticed.
const SILENCE_MIN: Duration = Duration::from_millis(100);
/// Silence is noticed after so many of a link's longest gaps.
const GAPS: u32 = 4;
/// Probes follow each other after two round trips, and this at least.
const SPACING_MIN: Duration = Duration::from_millis(50);
/// ... and at most: a round trip that a queue made says nothing of the next one.
const SPACING_MAX: Duration = Duration::from_secs(1);
/// A round trip is taken for this long at least, and doubles at most from one to the next: a late one delays no verdict.
const RTT_MIN: Duration = Duration::from_millis(1);
/// Unanswered probes that make a link suspect.
const PROBES: u32 = 3;
/// A link on which little comes is probed less often, by this.
const PROBED_BY_PEER: u32 = 4;
/// Probes of idle links are sent at so many moments an interval, all that are due around one together.
const GRID: u32 = 2;
/// A link on which so much came since its last answer is in use, and probed more often, by this.
const IN_USE: u32 = 16;
const PROBED_IN_USE: u32 = 2;
/// Probes of a link that is examined. One is at a time: where answers of many links are late, this node may be slow, and
/// more probes would make it slower.
const EXAMINED: u32 = 16;
const EXAMINED_EVERY: Duration = Duration::from_secs(1);
/// How long answers may stay away while bytes come: this, and four round trips.
const ONE_WAY: Duration = Duration::from_millis(600);
const ONE_WAY_RTTS: u32 = 4;
/// A suspect link that answers nothing for so long is tried anew.
const RENEW: Duration = Duration::from_secs(2);
/// A suspect link that answers nothing for so long is evicted.
const EVICT: Duration = Duration::from_secs(7);
/// A suspect link is probed this often at least.
const SUSPECT_PROBE: Duration = Duration::from_millis(250);
/// A timer that fires later than this finds the fault here.
const LATE: Duration = Duration::from_millis(100);
/// What a link that was suspect before has to show, doubling with each time up to the most.
const PROOF: Duration = Duration::from_millis(500);
const PROOF_MAX: Duration = Duration::from_secs(10);
/// After so long without a suspicion, earlier ones are forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);

/// What the owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send a probe, and report its answer.
    Probe(SessionId),
    /// Use the link no more until it is cleared; send on whatever is on it.
    Suspect(SessionId),
    /// The link answers nothing for two seconds: set up another in its place, if that can be. Once a suspicion.
    Renew(SessionId),
    /// The link has shown that it is alive.
    Clear(SessionId),
    /// Close the link. It was suspect for seven seconds, and is forgotten here.
    Evict(SessionId),
}

/// Why a link is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspected {
    /// Nothing comes over it, and three probes were not answered.
    Silent,
    /// Something comes, but no probe is answered: what is sent does not arrive.
    Unanswered,
    /// The peer says that it hears nothing of this node, and another probe was not answered.
    Unheard,
}

/// Probes that are out since the last answer.
#[derive(Debug, Clone, Copy)]
struct Burst {
    since: Duration,
    sent: u32,
    next: Duration,
    /// The peer says that it hears nothing: one probe decides, whatever comes of it.
    is_unheard: bool,
}

impl Burst {
    fn at(next: Duration) -> Burst {
        Burst { since: next, sent: 0, next, is_unheard: false }
    }
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    cause: Suspected,
    /// Since when it has answered nothing.
    silent_since: Duration,
    /// Since when it answers again.
    answers_since: Option<Duration>,
    is_renewed: bool,
}

impl Suspicion {
    /// When a new connection is to be tried, and when this one is given up; neither while it answers.
    fn renew_at(&self) -> Option<Duration> {
        (self.answers_since.is_none() && !self.is_renewed).then_some(self.silent_since + RENEW)
    }

    fn evict_at(&self) -> Option<Duration> {
        self.answers_since.is_none().then_some(self.silent_since + EVICT)
    }
}

#[derive(Debug, Clone)]
struct Link {
    probe_every: Duration,
    /// Whether this end probes first while nothing else comes.
    leads: bool,
    heard_at: Duration,
    answered_at: Duration,
    /// What a probe took last.
    rtt: Duration,
    /// Since when probes are sent to a peer that does not stand still.
    cleared_at: Duration,
    gaps: Gaps,
    /// How often something came since the last answer, and until when that makes it a link in use.
    heard_since: u32,
    in_use_until: Duration,
    /// Probes that are to be sent to examine it, and when the next one is due.
    to_examine: u32,
    examine_at: Duration,
    /// Since when an answer is due that is not a probe's.
    awaited_since: Option<Duration>,
    burst: Option<Burst>,
    suspicion: Option<Suspicion>,
    /// How often it was suspect of late, and when last.
    strikes: u32,
    struck_at: Duration,
}

impl Link {
    fn spacing(&self) -> Duration {
        let spacing = (self.rtt * 2).clamp(SPACING_MIN, SPACING_MAX);
        if self.suspicion.is_some() { spacing.max(SUSPECT_PROBE) } else { spacing }
    }

    /// What it has to show after a suspicion.
    fn proof(&self) -> Duration {
        match self.strikes {
            0 | 1 => Duration::ZERO,
            strikes => (PROOF * 2_u32.saturating_pow(strikes - 2)).min(PROOF_MAX),
        }
    }

    /// When its probes begin.
    fn probe_at(&self) -> Duration {
        // Where the peer probes, this end need not: what it sends shows that it is there. Only round trips are to be known
        // as well.
        let regular = (self.heard_at + self.probe_every).min(self.answered_at + self.probe_every * PROBED_BY_PEER);
        let pitch = self.probe_every / GRID;
        let regular = on_grid(regular, pitch) + if self.leads { Duration::ZERO } else { pitch / 2 };
        let silent = self.gaps.longest().map(|gap| self.heard_at + (gap * GAPS).max(SILENCE_MIN));
        let in_use = (self.heard_since >= IN_USE).then(|| self.answered_at + self.probe_every / PROBED_IN_USE);
        let awaited = self.awaited_since.map(|since| since + (self.rtt * 3).max(SILENCE_MIN));
        [Some(regular), in_use, silent, awaited].into_iter().flatten().min().unwrap_or(regular)
    }

    fn timeout(&self) -> Duration {
        let suspicion = self.suspicion.as_ref();
        let (renew, evict) = (suspicion.and_then(Suspicion::renew_at), suspicion.and_then(Suspicion::evict_at));
        let probes = self.burst.map_or_else(|| self.probe_at(), |burst| burst.next);
        let examine = (self.to_examine > 0).then_some(self.examine_at);
        [Some(probes), examine, renew, evict].into_iter().flatten().min().unwrap_or(probes)
    }
}

/// The nearest moment at which idle links are probed together: one that sleeps otherwise wakes once for all.
fn on_grid(at: Duration, pitch: Duration) -> Duration {
    let (micros, pitch) = (at.as_micros(), pitch.as_micros().max(1));
    let nearest = (micros + pitch / 2) / pitch * pitch;
    Duration::from_micros(u64::try_from(nearest).unwrap_or(u64::MAX))
}

/// The state of all links.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    links: BTreeMap<SessionId, Link>,
    verdicts: VecDeque<Verdict>,
    /// No link is examined before.
    examine_at: Duration,
    /// No link has anything to do before.
    wake_at: Option<Duration>,
}

impl Liveness {
    /// A link is there, and a first probe of it has come back. It is to be probed so often while nothing is amiss, by the
    /// end that leads: one of the two, which the other one follows.
    pub fn up(&mut self, now: Duration, session: SessionId, rtt: Duration, probe_every: Duration, leads: bool) {
        let link = Link {
            probe_every,
            leads,
            heard_at: now,
            answered_at: now,
            rtt: rtt.max(RTT_MIN),
            cleared_at: Duration::ZERO,
            gaps: Gaps::default(),
            heard_since: 0,
            in_use_until: now,
            to_examine: 0,
            examine_at: now,
            awaited_since: None,
            burst: None,
            suspicion: None,
            strikes: 0,
            struck_at: now,
        };
        self.wake_by(link.timeout());
        self.links.insert(session, link);
    }

    /// A link is gone.
    pub fn down(&mut self, session: SessionId) {
        self.links.remove(&session);
    }

    /// Whether a link is known here.
    pub fn is_watched(&self, session: SessionId) -> bool {
        self.links.contains_key(&session)
    }

    /// Whether so much comes over a link that it matters what it is like.
    pub fn is_in_use(&self, now: Duration, session: SessionId) -> bool {
        self.links.get(&session).is_some_and(|link| now < link.in_use_until)
    }

    /// Whether a link is not to be used.
    pub fn is_suspect(&self, session: SessionId) -> bool {
        self.links.get(&session).is_some_and(|link| link.suspicion.is_some())
    }

    /// Why a link is not to be used.
    pub fn suspected(&self, session: SessionId) -> Option<Suspected> {
        Some(self.links.get(&session)?.suspicion.as_ref()?.cause)
    }

    /// Bytes came.
    pub fn heard(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else { return };
        let is_surprise = link.gaps.note(now.saturating_sub(link.heard_at));
        link.heard_at = now;
        link.awaited_since = None;
        link.heard_since = link.heard_since.saturating_add(1);
        if link.heard_since == IN_USE {
            let at = link.timeout();
            self.wake_by(at);
        }
        if is_surprise {
            self.examine(now, session);
        }
    }

    /// The link may be another than before: it is probed sixteen times, if it is in use, and no link was examined of late.
    pub fn examine(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session).filter(|link| now < link.in_use_until && self.examine_at <= now)
        else {
            return;
        };
        (link.to_examine, link.examine_at) = (EXAMINED, now);
        self.examine_at = now + EXAMINED_EVERY;
        self.wake_by(now);
    }

    /// Something was sent to which an answer is due.
    pub fn awaits(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else { return };
        link.awaited_since.get_or_insert(now);
        let at = link.timeout();
        self.wake_by(at);
    }

    /// The owner has a reason to believe that the link is behind: it is probed at once.
    pub fn doubt(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session) else { return };
        if link.burst.is_none() {
            link.burst = Some(Burst::at(now));
            self.wake_by(now);
        }
    }

    /// The peer says that it got no answer to its probes.
    pub fn unheard(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session).filter(|link| link.suspicion.is_none()) else { return };
        if link.burst.is_none_or(|burst| !burst.is_unheard) {
            link.burst = Some(Burst { is_unheard: true, ..Burst::at(now) });
            self.wake_by(now);
        }
    }

    /// A probe came back. Whether what it took says something of the link: not where it may have waited at a peer that
    /// stood still.
    pub fn answered(&mut self, now: Duration, session: SessionId, rtt: Duration) -> bool {
        let Some(link) = self.links.get_mut(&session) else { return false };
        if link.heard_since >= IN_USE {
            link.in_use_until = now + link.probe_every;
        }
        (link.heard_at, link.answered_at, link.heard_since, link.burst) = (now, now, 0, None);
        let counts = link.suspicion.is_none() && now.saturating_sub(rtt) >= link.cleared_at;
        if counts {
            link.rtt = rtt.min(link.rtt * 2).max(RTT_MIN);
        }
        let proof = link.proof();
        if let Some(suspicion) = &mut link.suspicion {
            let answers_since = *suspicion.answers_since.get_or_insert(now);
            if answers_since + proof <= now {
                (link.suspicion, link.cleared_at) = (None, now);
                self.verdicts.push_back(Verdict::Clear(session));
            } else {
                link.burst = Some(Burst::at(now + link.spacing()));
            }
        }
        let at = link.timeout();
        self.wake_by(at);
        counts
    }

    /// When [`Liveness::timer`] is to be called. How late it is then tells whether this node is well.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.wake_at
    }

    /// What is to be done next.
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    fn wake_by(&mut self, at: Duration) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Time passed.
    pub fn timer(&mut self, now: Duration) {
        let Some(due) = self.wake_at.filter(|at| *at <= now) else { return };
        if now - due > LATE {
            self.start_anew(now);
        }
        let sessions: Vec<SessionId> = self.links.keys().copied().collect();
        for session in sessions {
            self.judge(now, session);
        }
        self.wake_at = self.links.values().map(Link::timeout).min();
    }

    /// Whatever stayed away may have waited here: what was sent is sent again before anyone is judged by it.
    fn start_anew(&mut self, now: Duration) {
        for link in self.links.values_mut() {
            link.heard_at = now;
            link.awaited_since = link.awaited_since.map(|_| now);
            link.burst = link.burst.map(|_| Burst::at(now));
            if let Some(suspicion) = &mut link.suspicion {
                suspicion.silent_since = now;
            }
        }
    }

    fn judge(&mut self, now: Duration, session: SessionId) {
        let Some(link) = self.links.get_mut(&session).filter(|link| link.timeout() <= now) else { return };
        if link.suspicion.as_ref().and_then(Suspicion::evict_at).is_some_and(|at| at <= now) {
            self.links.remove(&session);
            return self.verdicts.push_back(Verdict::Evict(session));
        }
        let is_to_renew = |suspicion: &&mut Suspicion| suspicion.renew_at().is_some_and(|at| at <= now);
        if let Some(suspicion) = link.suspicion.as_mut().filter(is_to_renew) {
            suspicion.is_renewed = true;
            self.verdicts.push_back(Verdict::Renew(session));
        }
        if link.to_examine > 0 && link.examine_at <= now {
            link.to_examine -= 1;
            link.examine_at = now + SPACING_MIN;
            self.verdicts.push_back(Verdict::Probe(session));
        }
        if link.burst.map_or_else(|| link.probe_at(), |burst| burst.next) > now {
            return;
        }
        let spacing = link.spacing();
        let one_way = ONE_WAY.max(link.rtt * ONE_WAY_RTTS);
        let burst = link.burst.get_or_insert(Burst::at(now));
        let is_heard = link.heard_at > burst.since && now < burst.since + one_way;
        let is_over = if burst.is_unheard { burst.sent > 0 } else { burst.sent >= PROBES && !is_heard };
        if is_over {
            let has_answered = link.suspicion.as_mut().and_then(|suspicion| suspicion.answers_since.take());
            match &mut link.suspicion {
                // It answered and fell silent again.
                Some(suspicion) if has_answered.is_some() => suspicion.silent_since = burst.since,
                Some(_) => {}
                None => {
                    if link.struck_at + FORGIVEN < now {
                        link.strikes = 0;
                    }
                    link.strikes = link.strikes.saturating_add(1);
                    link.struck_at = now;
                    let cause = match (burst.is_unheard, link.heard_at > burst.since) {
                        (true, _) => Suspected::Unheard,
                        (false, true) => Suspected::Unanswered,
                        (false, false) => Suspected::Silent,
                    };
                    let suspicion =
                        Suspicion { cause, silent_since: burst.since, answers_since: None, is_renewed: false };
                    link.suspicion = Some(suspicion);
                    self.verdicts.push_back(Verdict::Suspect(session));
                }
            }
        }
        burst.sent = burst.sent.saturating_add(1);
        burst.next = now + spacing;
        self.verdicts.push_back(Verdict::Probe(session));
    }
}
