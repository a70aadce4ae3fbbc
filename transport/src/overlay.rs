//! Whom to hold links to: all where they are few; else about twelve, most of them near, some far (decision 016).
//!
//! Links are mutual: whoever dialled it, a link counts for both ends. So a node dials only what it lacks, and what it lacks
//! first is ways out: other zones, and members that a hash picks for it. Pure: times and measurements come in, whom to dial
//! ([`Overlay::wanted`]) and whom to let go ([`Overlay::poll_drop`]) come out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::peer::{PeerKey, hash_of};
use crate::routes::Routes;

#[cfg(test)]
mod tests;

/// Up to so many others, all are linked.
const FULL: usize = 12;
/// Links that a node brings about, and the most that it keeps.
const DEGREE: usize = 12;
const DEGREE_MAX: usize = 16;
/// Other zones in which a node has a link.
const ZONES: usize = 2;
/// So many of the members with the greatest hashes are linked, of so many.
const FAR: usize = 2;
const FAR_OF: usize = 8;
/// A link is let go for one with less than this share of its round trip, in tenths.
const SWAP_TENTHS: u64 = 7;
/// No link is let go before.
const YOUNG: Duration = Duration::from_secs(10);
/// One that ends before was perhaps refused, and the peer is passed over for so long: doubling, at most. It may also have
/// been started anew, so that it must not be long at first.
const REFUSED: Duration = Duration::from_secs(30);
const PASSED_OVER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];
/// A dial of which nothing is heard is over after so long.
const DIAL: Duration = Duration::from_secs(20);
/// Others are dialled beside one that is not answered within so many round trips as are guessed, at least and at most; where
/// nothing is known of the way, within the last.
const PROMPT_RTTS: u32 = 4;
const PROMPT: [Duration; 3] = [Duration::from_millis(300), Duration::from_millis(1_500), Duration::from_millis(500)];
/// Dials at once. The swarm takes 32.
const DIALS: usize = 24;
/// So many of them may soon be links: where all seek links at once, as many come from others.
const DIALS_PROMPT: usize = DEGREE / 2;
/// From one link that is let go to the next at least, and half as much more by chance: where all have too many, the others
/// let go as well.
const DROP_EVERY: Duration = Duration::from_secs(1);
/// In whole milliseconds: owners' clocks have microseconds, and would wake too early for ever.
const DROP_JITTER_MS: usize = 500;
/// From one trial to the next at least, and a member at least: all of a fleet hear of each link that comes and goes. And how
/// long one may take.
const TRIAL_EVERY: Duration = Duration::from_secs(30);
const TRIAL_EVERY_MEMBER: Duration = Duration::from_secs(2);
const TRIAL: Duration = Duration::from_secs(15);
/// Round trips by which a trial is judged.
const TRIAL_MEASURED: u32 = 2;
/// From one member that is not reached to the next; at least, and at most.
const ISLAND_EVERY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(120)];
/// A fleet tries so many of them a second together.
const ISLANDS_A_SECOND: u32 = 10;

/// Why a node holds a link, or seeks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The fleet is small: everyone is linked with everyone.
    Few,
    /// It is in a zone that is not linked otherwise.
    Zone,
    /// A hash of both keys picked it.
    Far,
    /// It is near.
    Near,
    /// To see how near it is.
    Trial,
    /// No way leads there.
    Island,
    /// The peer sought it.
    Sought,
}

/// Why a link is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetGo {
    /// There are too many links, and of those that are not needed it has the longest round trip.
    TooMany,
    /// A trial is nearer.
    Swapped,
    /// It was a trial, and is not nearer than others.
    TriedOut,
}

#[derive(Debug, Clone)]
struct Member {
    zone: String,
    /// Of both keys, the same at both ends.
    hash: u64,
    /// What a round trip took when it was last linked, microseconds.
    rtt_micros: Option<u64>,
    /// How often in a row a link with it ended soon, and until when it is left alone for that.
    refusals: u32,
    passed_over_until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    since: Duration,
    reason: Reason,
    /// Round trips that were measured.
    measured: u32,
    /// It does not count as long as liveness doubts it, and nor is it let go.
    is_suspect: bool,
}

#[derive(Debug, Clone, Copy)]
struct Dial {
    since: Duration,
    reason: Reason,
    /// Until then it counts as the link that it may become.
    counts_until: Duration,
}

/// What a node knows of its place in the mesh.
#[derive(Debug, Clone)]
pub struct Overlay {
    me: PeerKey,
    zone: String,
    members: BTreeMap<PeerKey, Member>,
    links: BTreeMap<PeerKey, Link>,
    /// The members, those with the greatest hashes first.
    by_hash: Vec<PeerKey>,
    dialled: BTreeMap<PeerKey, Dial>,
    /// Whom to dial now, and why.
    wanted: BTreeMap<PeerKey, Reason>,
    drops: VecDeque<(PeerKey, LetGo)>,
    /// Who is on trial, and until when.
    trial: Option<(PeerKey, Duration)>,
    trial_at: Duration,
    island_at: Duration,
    drop_at: Duration,
    chosen_at: Duration,
    random: u64,
}

/// What the owner knows beside.
pub struct Surroundings<'a> {
    /// The ways through the mesh.
    pub routes: &'a Routes,
    /// Whether a member can be dialled now: it is known where it is, and it was not tried just now.
    pub can_dial: &'a dyn Fn(&PeerKey) -> bool,
    /// Whether the last dial of a member failed: others are tried first.
    pub has_failed: &'a dyn Fn(&PeerKey) -> bool,
}

impl Overlay {
    /// A node without members; `random` decides what is left to chance.
    pub fn new(me: PeerKey, random: u64) -> Overlay {
        Overlay {
            me,
            zone: String::new(),
            members: BTreeMap::new(),
            by_hash: Vec::new(),
            links: BTreeMap::new(),
            dialled: BTreeMap::new(),
            wanted: BTreeMap::new(),
            drops: VecDeque::new(),
            trial: None,
            trial_at: Duration::ZERO,
            island_at: Duration::ZERO,
            drop_at: Duration::ZERO,
            chosen_at: Duration::ZERO,
            random,
        }
    }

    /// All other members with their zones, and the own zone.
    pub fn members(&mut self, zone: String, zones: BTreeMap<PeerKey, String>) {
        self.zone = zone;
        self.members.retain(|peer, _| zones.contains_key(peer));
        for (peer, zone) in zones {
            let hash = rendezvous(&self.me, &peer);
            let new = || Member {
                zone: String::new(),
                hash,
                rtt_micros: None,
                refusals: 0,
                passed_over_until: Duration::ZERO,
            };
            self.members.entry(peer).or_insert_with(new).zone = zone;
        }
        let mut by_hash: Vec<(u64, PeerKey)> = self.members.iter().map(|(peer, member)| (member.hash, *peer)).collect();
        by_hash.sort_unstable_by(|one, other| other.cmp(one));
        self.by_hash = by_hash.into_iter().map(|(_, peer)| peer).collect();
    }

    /// A link is up.
    pub fn up(&mut self, now: Duration, peer: PeerKey) {
        let reason = self.dialled.remove(&peer).map_or(Reason::Sought, |dial| dial.reason);
        self.links.insert(peer, Link { since: now, reason, measured: 0, is_suspect: false });
    }

    /// A link may be dead, or has shown that it is not.
    pub fn suspected(&mut self, peer: PeerKey, is_suspect: bool) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_suspect = is_suspect;
        }
    }

    /// A round trip of a link was measured. Whether that may change what [`Overlay::choose`] says.
    pub fn measured(&mut self, peer: PeerKey, rtt_micros: u64) -> bool {
        if let Some(member) = self.members.get_mut(&peer) {
            member.rtt_micros = Some(rtt_micros);
        }
        let Some(link) = self.links.get_mut(&peer) else { return false };
        link.measured = link.measured.saturating_add(1);
        let is_judged = self.trial.is_some_and(|(trial, _)| trial == peer) && link.measured >= TRIAL_MEASURED;
        is_judged || self.links.len() > DEGREE_MAX
    }

    /// A link is gone.
    pub fn down(&mut self, now: Duration, peer: PeerKey) {
        let Some(link) = self.links.remove(&peer) else { return };
        // Where there are few, nobody refuses.
        let is_refused = now < link.since + REFUSED && !matches!(link.reason, Reason::Sought | Reason::Few);
        let Some(member) = self.members.get_mut(&peer) else { return };
        if is_refused {
            let [least, most] = PASSED_OVER;
            member.passed_over_until = now + (least * 2u32.saturating_pow(member.refusals.min(16))).min(most);
        }
        member.refusals = if is_refused { member.refusals + 1 } else { 0 };
    }

    /// A wanted member is being dialled; [`Overlay::up`] or [`Overlay::failed`] follows.
    pub fn dialled(&mut self, now: Duration, peer: PeerKey) {
        let reason = self.wanted.remove(&peer).unwrap_or(Reason::Sought);
        let [least, most, unknown] = PROMPT;
        let guess = self.members.get(&peer).map(|member| self.guess(member, &self.guesses()));
        let known = guess.filter(|guess| *guess != u64::MAX).map(Duration::from_micros);
        let prompt = known.map_or(unknown, |rtt| (rtt * PROMPT_RTTS).clamp(least, most));
        self.dialled.insert(peer, Dial { since: now, reason, counts_until: now + prompt });
    }

    /// It could not be dialled.
    pub fn failed(&mut self, peer: PeerKey) {
        self.dialled.remove(&peer);
    }

    /// Whom to dial now, and why, as of the last [`Overlay::choose`].
    pub fn wanted(&self) -> &BTreeMap<PeerKey, Reason> {
        &self.wanted
    }

    /// Whose link to close, and why.
    pub fn poll_drop(&mut self) -> Option<(PeerKey, LetGo)> {
        self.drops.pop_front()
    }

    /// Whether there are fewer links than there should be: those that cannot be dialled now are to be tried again.
    pub fn is_short(&self) -> bool {
        self.held().count() < DEGREE.min(self.members.len())
    }

    /// The links that nobody doubts.
    fn settled(&self) -> impl Iterator<Item = (&PeerKey, &Link)> {
        self.links.iter().filter(|(_, link)| !link.is_suspect)
    }

    /// Dials that may soon be links, as of the last [`Overlay::choose`].
    fn prompt(&self) -> impl Iterator<Item = &PeerKey> {
        self.dialled.iter().filter(|(_, dial)| dial.counts_until > self.chosen_at).map(|(peer, _)| peer)
    }

    fn held(&self) -> impl Iterator<Item = &PeerKey> {
        self.settled().map(|(peer, _)| peer).chain(self.prompt())
    }

    /// When to choose again even if nothing happens.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let next_trial = (!self.is_short()).then_some(self.trial_at);
        let trial = self.trial.map(|(_, until)| until).or(next_trial);
        let prompt = self.dialled.values().map(|dial| dial.counts_until).filter(|at| *at > self.chosen_at);
        let drop = (self.settled().count() > DEGREE_MAX).then_some(self.drop_at).filter(|at| *at > self.chosen_at);
        let is_large = self.members.len() > FULL;
        trial.into_iter().chain(prompt).chain(drop).chain([self.island_at]).min().filter(|_| is_large)
    }

    /// Why a link is held.
    pub fn reason(&self, peer: &PeerKey) -> Option<Reason> {
        self.links.get(peer).map(|link| link.reason)
    }

    fn chance(&mut self, of: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % of.max(1)
    }

    /// Decides anew whom to dial and whom to let go.
    pub fn choose(&mut self, now: Duration, around: &Surroundings<'_>) {
        self.chosen_at = now;
        self.wanted.clear();
        self.dialled.retain(|_, dial| dial.since + DIAL > now);
        let held: BTreeSet<PeerKey> = self.held().copied().collect();
        let is_short = held.len() < DEGREE.min(self.members.len());
        let is_time = self.island_at <= now || self.trial_at <= now;
        // To look at all members is worth while only where somebody is sought.
        let open = match is_short || is_time || self.lacks_ways_out(&held) {
            true => self.open(now, around),
            false => Vec::new(),
        };
        if self.members.len() <= FULL {
            self.wanted = open.into_iter().map(|peer| (peer, Reason::Few)).collect();
            return;
        }
        self.seek(&held, &open, around);
        self.seek_islands(now, &open, around);
        self.try_one(now, is_short, &open, around);
        if self.settled().count() > DEGREE_MAX && self.drop_at <= now {
            self.drop_at = now + DROP_EVERY + Duration::from_millis(self.chance(DROP_JITTER_MS) as u64);
            let worst = self.worst(now, around);
            self.drops.extend(worst.map(|worst| (worst, LetGo::TooMany)));
        }
    }

    /// The members that can be dialled, those with the greatest hashes first.
    fn open(&self, now: Duration, around: &Surroundings<'_>) -> Vec<PeerKey> {
        let is_open = |peer: &&PeerKey| {
            let is_known = self.links.contains_key(*peer) || self.dialled.contains_key(*peer);
            let is_passed_over = self.members.get(*peer).is_none_or(|member| member.passed_over_until > now);
            !is_known && !is_passed_over && (around.can_dial)(peer)
        };
        self.by_hash.iter().filter(is_open).copied().collect()
    }

    /// Fills up what is missing: ways out also where others have filled the links, what is near only where links are missing.
    fn seek(&mut self, held: &BTreeSet<PeerKey>, open: &[PeerKey], around: &Surroundings<'_>) {
        let room = DIALS.saturating_sub(self.dialled.len()).min(DIALS_PROMPT.saturating_sub(self.prompt().count()));
        let needed = self.needed(held, open);
        self.wanted.extend(needed.into_iter().take(DEGREE_MAX.saturating_sub(held.len()).min(room)));
        let lack = DEGREE.saturating_sub(held.len() + self.wanted.len()).min(room - self.wanted.len());
        if lack > 0 {
            let near: Vec<PeerKey> = open.iter().filter(|peer| !self.wanted.contains_key(peer)).copied().collect();
            let nearest = self.nearest(near, lack, around);
            self.wanted.extend(nearest.into_iter().map(|peer| (peer, Reason::Near)));
        }
    }

    fn zone_of(&self, peer: &PeerKey) -> Option<&str> {
        self.members.get(peer).map(|member| member.zone.as_str())
    }

    /// The zones of some members, and the own one.
    fn zones<'a>(&'a self, held: impl IntoIterator<Item = &'a PeerKey>) -> BTreeSet<&'a str> {
        let zones = held.into_iter().filter_map(|peer| self.zone_of(peer));
        zones.chain([self.zone.as_str()]).collect()
    }

    /// The members with the greatest hashes.
    fn far(&self) -> &[PeerKey] {
        &self.by_hash[..FAR_OF.min(self.by_hash.len())]
    }

    fn lacks_ways_out(&self, held: &BTreeSet<PeerKey>) -> bool {
        self.zones(held).len() <= ZONES || self.far().iter().filter(|peer| held.contains(peer)).count() < FAR
    }

    /// Whom to link so that the mesh stays in one piece: other zones first.
    fn needed(&self, held: &BTreeSet<PeerKey>, open: &[PeerKey]) -> Vec<(PeerKey, Reason)> {
        let mut zones = self.zones(held);
        let mut needed = Vec::new();
        for peer in open {
            // The own zone is one of them.
            if zones.len() <= ZONES && self.zone_of(peer).is_some_and(|zone| zones.insert(zone)) {
                needed.push((*peer, Reason::Zone));
            }
        }
        let far = self.far();
        let lacking = FAR.saturating_sub(far.iter().filter(|peer| held.contains(peer)).count());
        needed.extend(open.iter().filter(|peer| far.contains(peer)).take(lacking).map(|peer| (*peer, Reason::Far)));
        needed
    }

    /// So many members that are, or seem, the nearest, those that failed last; of those that seem equally near, the hash
    /// decides.
    fn nearest(&self, mut open: Vec<PeerKey>, count: usize, around: &Surroundings<'_>) -> Vec<PeerKey> {
        let guesses = self.guesses();
        let guess = |peer: &PeerKey| self.members.get(peer).map(|member| self.guess(member, &guesses));
        // Stable: they come by hash.
        open.sort_by_cached_key(|peer| ((around.has_failed)(peer), guess(peer)));
        open.truncate(count);
        open
    }

    /// The least round trip that was measured in each zone, microseconds.
    fn guesses(&self) -> BTreeMap<&str, u64> {
        let mut guesses = BTreeMap::new();
        for (zone, rtt) in self.members.values().filter_map(|member| Some((member.zone.as_str(), member.rtt_micros?))) {
            let least = guesses.entry(zone).or_insert(rtt);
            *least = rtt.min(*least);
        }
        guesses
    }

    /// What a round trip to a member takes, or may take: in the own zone next to nothing, elsewhere as to others there.
    fn guess(&self, member: &Member, guesses: &BTreeMap<&str, u64>) -> u64 {
        let otherwise = if member.zone == self.zone { 0 } else { u64::MAX };
        member.rtt_micros.or_else(|| guesses.get(member.zone.as_str()).copied()).unwrap_or(otherwise)
    }

    /// Of the members to whom no way leads, one at a time.
    fn seek_islands(&mut self, now: Duration, open: &[PeerKey], around: &Surroundings<'_>) {
        if self.island_at > now {
            return;
        }
        let [least, most] = ISLAND_EVERY;
        let together = Duration::from_secs(1) * self.members.len() as u32 / ISLANDS_A_SECOND;
        self.island_at = now + together.clamp(least, most);
        let unreached: Vec<PeerKey> = open.iter().filter(|peer| around.routes.ways(peer).is_empty()).copied().collect();
        if !unreached.is_empty() {
            let at = self.chance(unreached.len());
            self.wanted.entry(unreached[at]).or_insert(Reason::Island);
        }
    }

    /// Begins a trial where it is time for one, and ends one.
    fn try_one(&mut self, now: Duration, is_short: bool, open: &[PeerKey], around: &Surroundings<'_>) {
        if let Some((peer, until)) = self.trial {
            let is_measured = self.links.get(&peer).is_some_and(|link| link.measured >= TRIAL_MEASURED);
            if is_measured {
                self.judge(now, peer, around);
            }
            if is_measured || until <= now {
                self.trial = None;
            }
            return;
        }
        let next_trial = now + TRIAL_EVERY.max(TRIAL_EVERY_MEMBER * self.members.len() as u32);
        if is_short {
            self.trial_at = next_trial;
        }
        if self.trial_at > now {
            return;
        }
        self.trial_at = next_trial;
        let is_new = |peer: &&PeerKey| self.members.get(peer).is_some_and(|member| member.rtt_micros.is_none());
        let new: Vec<PeerKey> = open.iter().filter(is_new).copied().collect();
        let is_near = |peer: &&PeerKey| self.members.get(peer).is_some_and(|member| member.zone == self.zone);
        let near: Vec<PeerKey> = new.iter().filter(is_near).copied().collect();
        let from = if near.is_empty() || self.chance(2) == 0 { new } else { near };
        if !from.is_empty() {
            let peer = from[self.chance(from.len())];
            self.trial = Some((peer, now + TRIAL));
            self.wanted.insert(peer, Reason::Trial);
        }
    }

    /// Of a trial and the worst link one goes.
    fn judge(&mut self, now: Duration, trial: PeerKey, around: &Surroundings<'_>) {
        let rtt = |peer: &PeerKey| self.members.get(peer).and_then(|member| member.rtt_micros).unwrap_or(u64::MAX);
        let worst = self.worst(now, around).filter(|worst| *worst != trial);
        match worst {
            Some(worst) if rtt(&trial).saturating_mul(10) < rtt(&worst).saturating_mul(SWAP_TENTHS) => {
                self.drops.push_back((worst, LetGo::Swapped));
                if let Some(link) = self.links.get_mut(&trial) {
                    link.reason = Reason::Near;
                }
            }
            _ if self.links.len() > DEGREE && !around.routes.is_bridge(&trial) => {
                self.drops.push_back((trial, LetGo::TriedOut));
            }
            _ => {}
        }
    }

    /// The link with the longest round trip of those that are not needed.
    fn worst(&self, now: Duration, around: &Surroundings<'_>) -> Option<PeerKey> {
        let far = self.far();
        let in_zone = |zone: Option<&str>| self.settled().filter(|(peer, _)| self.zone_of(peer) == zone).count();
        let is_needed = |peer: &PeerKey| {
            let is_far = far.contains(peer) && self.settled().filter(|(peer, _)| far.contains(peer)).count() <= FAR;
            is_far || in_zone(self.zone_of(peer)) == 1
        };
        let old = self.settled().filter(|(_, link)| link.since + YOUNG <= now);
        let goes_already = |peer: &PeerKey| self.drops.iter().any(|(dropped, _)| dropped == peer);
        let free = old.filter(|(peer, _)| !is_needed(peer) && !goes_already(peer));
        let rtt = |peer: &PeerKey| self.members.get(peer).and_then(|member| member.rtt_micros);
        let mut by_rtt: Vec<(u64, PeerKey)> = free.filter_map(|(peer, _)| Some((rtt(peer)?, *peer))).collect();
        by_rtt.sort_unstable();
        by_rtt.into_iter().rev().map(|(_, peer)| peer).find(|peer| !around.routes.is_bridge(peer))
    }
}

/// A hash of two keys, whichever comes first.
fn rendezvous(one: &PeerKey, other: &PeerKey) -> u64 {
    hash_of([one.min(other), one.max(other)])
}
