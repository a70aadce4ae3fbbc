//! Which part of a blob is asked of whom, over which way (decision 018). Pure: parts that came and ways that failed come in,
//! requests go out.
//!
//! A blob is fetched in parts of whole groups. Each way holds so many requests that it never runs dry, and takes the next
//! part when one is through: a way that is twice as fast carries twice as much, whether the ways lead to one device or to
//! several. What a way that fails had not brought goes to the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::peer::PeerKey;

#[cfg(test)]
mod tests;

/// The unit of verification, bytes: parts begin at multiples of it.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Largest part, bytes, and the smallest that a fast way is asked for.
const PART_BYTES_MAX: u64 = 2 << 20;
const PART_BYTES_MIN: u64 = 16 * GROUP_BYTES;
/// A part is about what a way carries in this time.
const PART_TIME: Duration = Duration::from_millis(200);
/// Requests that a way has at once.
const REQUESTS_A_WAY: usize = 4;
/// A request of which nothing came for so long is over: the first bytes, which may need a connection first; and further ones.
const FIRST_BYTES: Duration = Duration::from_secs(6);
const MORE_BYTES: Duration = Duration::from_secs(3);
/// How long a way rests that failed: doubling, at most.
const REST: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];

/// A way to a device that has the blob: whom to ask, and who is to answer. The same where it is asked itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Via {
    /// Who is handed the request.
    pub hop: PeerKey,
    /// Whose answer it is.
    pub holder: PeerKey,
}

/// The number of a request, of this fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u64);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask for a part.
    Request {
        /// To say what becomes of it.
        part: PartId,
        /// Whom.
        via: Via,
        /// Which bytes of the blob.
        bytes: Range<u64>,
    },
    /// Nothing more is wanted of a request; what came of it may still be told.
    Cancel(PartId),
    /// All of the blob is here.
    Done,
}

/// Why a request came to nothing, or not to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The way broke, or whoever is asked has too much to do.
    Way,
    /// The holder has no such blob, or not what its hash says: it is not asked again.
    Holder,
}

#[derive(Debug, Clone, Default)]
struct Way {
    is_offered: bool,
    failures: u32,
    rests_until: Duration,
    /// Bytes a second, as of the last parts.
    rate: Option<u64>,
}

impl Way {
    /// It did not carry what it was asked to, and rests, longer each time.
    fn failed(&mut self, now: Duration) {
        let [least, most] = REST;
        self.rests_until = now + (least * 2u32.saturating_pow(self.failures.min(16))).min(most);
        self.failures += 1;
    }
}

#[derive(Debug, Clone)]
struct Part {
    via: Via,
    bytes: Range<u64>,
    since: Duration,
    /// When bytes of it came last; until then, when it was asked for.
    heard: Duration,
    is_answered: bool,
}

/// One blob on its way.
#[derive(Debug, Clone)]
pub struct Fetch {
    size: u64,
    /// What nobody was asked for, by beginning; apart from each other.
    open: BTreeMap<u64, u64>,
    parts: BTreeMap<PartId, Part>,
    ways: BTreeMap<Via, Way>,
    /// Holders that are not asked again.
    unfit: Vec<PeerKey>,
    is_paused: bool,
    is_done: bool,
    next: u64,
    cancelled: Vec<PartId>,
}

impl Fetch {
    /// Of `size` bytes those in `missing` are to be fetched: ranges that begin at multiples of [`GROUP_BYTES`] and end there
    /// or at the end of the blob.
    pub fn new(size: u64, missing: impl IntoIterator<Item = Range<u64>>) -> Fetch {
        let mut fetch = Fetch {
            size,
            open: BTreeMap::new(),
            parts: BTreeMap::new(),
            ways: BTreeMap::new(),
            unfit: Vec::new(),
            is_paused: false,
            is_done: false,
            next: 0,
            cancelled: Vec::new(),
        };
        missing.into_iter().for_each(|range| fetch.open(range));
        fetch
    }

    /// The bytes that are not here, those on their way included.
    pub fn missing_bytes(&self) -> u64 {
        let open: u64 = self.open.iter().map(|(start, end)| end - start).sum();
        open + self.parts.values().map(|part| part.bytes.end - part.bytes.start).sum::<u64>()
    }

    /// Whether there is anyone to ask, now or later.
    pub fn has_ways(&self) -> bool {
        self.ways.values().any(|way| way.is_offered)
    }

    /// The ways there are now; requests over others are cancelled.
    pub fn ways(&mut self, ways: impl IntoIterator<Item = Via>) {
        self.ways.values_mut().for_each(|way| way.is_offered = false);
        for via in ways.into_iter().filter(|via| !self.unfit.contains(&via.holder)) {
            self.ways.entry(via).or_default().is_offered = true;
        }
        let ways = &self.ways;
        let is_offered = |via: &Via| ways.get(via).is_some_and(|way| way.is_offered);
        let lost: Vec<PartId> =
            self.parts.iter().filter(|(_, part)| !is_offered(&part.via)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.give_up(id));
    }

    /// Nothing new is asked for while it is paused.
    pub fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// Bytes of a request came.
    pub fn heard(&mut self, now: Duration, id: PartId) {
        if let Some(part) = self.parts.get_mut(&id) {
            (part.heard, part.is_answered) = (now, true);
        }
    }

    /// What a request brought is verified and stored: its first `stored` bytes, all of them unless there is a fault.
    pub fn ended(&mut self, now: Duration, id: PartId, stored: u64, fault: Option<Fault>) {
        let Some(part) = self.parts.remove(&id) else { return };
        let whole = part.bytes.end - part.bytes.start;
        let stored = if stored >= whole { whole } else { stored - stored % GROUP_BYTES };
        self.open(part.bytes.start + stored..part.bytes.end);
        let shared = self.parts.values().filter(|other| other.via == part.via).count() as u64 + 1;
        let Some(way) = self.ways.get_mut(&part.via) else { return };
        match fault {
            None if stored > 0 => {
                // What shared the way with it had as much of it.
                let micros = (now.saturating_sub(part.since).as_micros() as u64).max(1);
                let rate = stored.saturating_mul(1_000_000) / micros * shared;
                way.rate = Some(way.rate.map_or(rate, |before| (3 * before + rate) / 4));
                (way.failures, way.rests_until) = (0, Duration::ZERO);
            }
            Some(Fault::Holder) => self.exclude(part.via.holder),
            _ => way.failed(now),
        }
    }

    fn exclude(&mut self, holder: PeerKey) {
        self.unfit.push(holder);
        self.ways.retain(|via, _| via.holder != holder);
    }

    fn open(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((before, until)) = self.open.range(..start).next_back().map(|(start, end)| (*start, *end))
            && until == start
        {
            self.open.remove(&before);
            start = before;
        }
        if let Some(until) = self.open.remove(&end) {
            end = until;
        }
        self.open.insert(start, end);
    }

    /// A request is over without an answer; what it brings meanwhile counts no more.
    fn give_up(&mut self, id: PartId) {
        if let Some(part) = self.parts.remove(&id) {
            self.open(part.bytes);
            self.cancelled.push(id);
        }
    }

    /// Requests of which nothing came for too long; to be called at [`Fetch::poll_timeout`].
    pub fn timer(&mut self, now: Duration) {
        let silent: Vec<PartId> =
            self.parts.iter().filter(|(_, part)| part.ends_at() <= now).map(|(id, _)| *id).collect();
        for id in silent {
            let via = self.parts.get(&id).map(|part| part.via);
            self.give_up(id);
            // All that is silent on a way at once is one failure.
            if let Some(way) = via.and_then(|via| self.ways.get_mut(&via)).filter(|way| way.rests_until <= now) {
                way.failed(now);
            }
        }
    }

    /// When to call [`Fetch::timer`], and to ask for actions.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let silent = self.parts.values().map(Part::ends_at);
        let is_idle = |via: &Via| !self.parts.values().any(|part| part.via == *via);
        let resting = self.ways.iter().filter(|(via, way)| way.is_offered && way.failures > 0 && is_idle(via));
        let rested = resting.map(|(_, way)| way.rests_until).filter(|_| !self.is_paused && !self.open.is_empty());
        silent.chain(rested).min()
    }

    /// The next thing to do; ends with `None`.
    pub fn poll_action(&mut self, now: Duration) -> Option<Action> {
        if let Some(id) = self.cancelled.pop() {
            return Some(Action::Cancel(id));
        }
        if self.open.is_empty() && self.parts.is_empty() {
            return (!std::mem::replace(&mut self.is_done, true)).then_some(Action::Done);
        }
        if self.is_paused {
            return None;
        }
        let (start, end) = self.open.first_key_value().map(|(start, end)| (*start, *end))?;
        let via = self.freest(now)?;
        let end = end.min(start + self.part_bytes(&via));
        let rest = self.open.remove(&start).unwrap_or(end);
        self.open(end..rest);
        let part = PartId(self.next);
        self.next += 1;
        let bytes = start..end;
        self.parts.insert(part, Part { via, bytes: bytes.clone(), since: now, heard: now, is_answered: false });
        Some(Action::Request { part, via, bytes })
    }

    /// Of the ways that take another request the one with the fewest.
    fn freest(&self, now: Duration) -> Option<Via> {
        let busy = |via: &Via| self.parts.values().filter(|part| part.via == *via).count();
        let usable = self.ways.iter().filter(|(_, way)| way.is_offered && way.rests_until <= now);
        // A way that failed shows with one request that it carries again.
        let free = usable.map(|(via, way)| (busy(via), if way.failures > 0 { 1 } else { REQUESTS_A_WAY }, *via));
        free.filter(|(busy, most, _)| busy < most).min().map(|(_, _, via)| via)
    }

    /// How much to ask of a way at once; towards the end less, so that all ways are through at the same time.
    fn part_bytes(&self, via: &Via) -> u64 {
        let rate = self.ways.get(via).and_then(|way| way.rate).unwrap_or(0);
        let carried = rate.saturating_mul(PART_TIME.as_millis() as u64) / 1000;
        let open: u64 = self.open.iter().map(|(start, end)| end - start).sum();
        let offered = self.ways.values().filter(|way| way.is_offered).count() as u64;
        let share = open / (2 * offered.max(1));
        let bytes = carried.min(share).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
        bytes.div_ceil(GROUP_BYTES) * GROUP_BYTES
    }

    /// The size of the blob, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Part {
    fn ends_at(&self) -> Duration {
        self.heard + if self.is_answered { MORE_BYTES } else { FIRST_BYTES }
    }
}
