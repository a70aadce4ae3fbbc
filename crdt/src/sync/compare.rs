//! Comparing what two nodes have, at the cost of the difference (PROTOCOL 4).
//!
//! Equal roots end it. Where a node had everything of its peer's order of admission up to a place, the peer tells what was
//! admitted since. Else whoever has fewer items begins: fingerprints of 256 ranges (`Ranges`), of the buckets of those that
//! differ (`Parts`), short ids of the items of those (`Items`), and the answer, by name, what the peer lacks (`Difference`)
//! and what is not known here (`Request`). What is missing is then asked for as always (`fetch`).

use std::collections::{BTreeSet, VecDeque};

use super::frame::{Difference, End, Frame, Parts, Place, PlaceOf, RANGE_BUCKETS, RANGES, Ranges, Request};
use super::link::Phase;
use super::missing::Word;
use super::{After, Engine, LinkId};
use crate::id::{Actor, Root, StatementId, Time};
use crate::root::{Item, RangeKey};
use crate::store::Staged;

mod answers;
mod buckets;
mod greeting;
mod outgoing;
mod touched;

use answers::Answers;
use buckets::short_items;
pub(super) use outgoing::Outgoing;
use outgoing::{OutgoingDifference, OutgoingItems};
pub(super) use touched::{SECOND_LOOK_MS, Touched};

/// Comparisons with one peer begin no sooner than this after the last, milliseconds.
const COMPARE_MS: u64 = 10_000;
/// A peer may begin so many comparisons at once, and one more each half of [`COMPARE_MS`].
const ALLOWANCE_MAX: u64 = 4;
/// A comparison of which nothing was heard for this long is over, milliseconds.
const COMPARE_TIMEOUT_MS: u64 = 30_000;
/// So many comparisons that find nothing, while nothing changes here, and the peer is taken for a liar.
const VAIN_MAX: u8 = 8;
/// A cursor is no help where more was admitted since than one in so many items...
const CURSOR_SHARE: usize = 3;
/// ... and more than so many.
const CURSOR_ROWS_MIN: usize = 256;

/// A comparison of ranges that runs.
#[derive(Debug, Clone)]
pub(super) struct Comparison {
    number: u64,
    /// Where this node's order stood when it began.
    own: Place,
    side: Side,
}

#[derive(Debug, Clone)]
enum Side {
    /// This node began; whether its items are said or on their way, and whether something was found to differ.
    Begins {
        has_items: bool,
        has_found: bool,
    },
    Answers(Box<Answers>),
}

/// What is known of a peer's order and of the comparisons with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// What stood beside our root, and the peer's.
    own: Option<PlaceOf>,
    pub(super) peer: Option<PlaceOf>,
    /// Where the peer's order stood in the greeting: a later place may overtake what a cursor brings.
    greeted: Option<Place>,
    /// The name of the peer's order, and how far it has ours, as its `Hello` says.
    pub(super) generation: u64,
    pub(super) cursor: Option<Place>,
    /// Whether the root that the peer said last is ours.
    is_equal: bool,
    /// Once all is here that the peer is known to have, that is everything up to this place.
    settles: Option<Place>,
    comparison: Option<Comparison>,
    /// The comparison that the peer began beside its `Hello`.
    opening: Option<Ranges>,
    /// The last comparison that this node began: requests may follow it.
    begun: Option<u64>,
    /// A comparison that was answered with a request, and what its answer settles.
    requested: Option<(u64, Place)>,
    pub(super) outgoing: VecDeque<Outgoing>,
    begun_at: Option<Time>,
    /// When the next comparison is to begin.
    due: Option<Time>,
    /// When what runs is over unless something is heard.
    over_by: Option<Time>,
    /// Comparisons that the peer began, less what time allowed.
    allowance: (Time, u64),
    vain: u8,
}

impl Standing {
    pub(super) fn timeout(&self) -> Option<Time> {
        self.due.into_iter().chain(self.over_by).min()
    }

    /// Something that the peer claimed did not come: what it has is not all here.
    pub(super) fn void(&mut self) {
        self.settles = None;
        self.requested = None;
    }

    /// The peer begins a comparison. Whether it may.
    fn allows(&mut self, now: Time) -> bool {
        let (since, used) = self.allowance;
        let earned = now.0.saturating_sub(since.0) / (COMPARE_MS * 500);
        let used = used.saturating_sub(earned);
        let since = if earned > 0 { now } else { since };
        self.allowance = (since, used + 1);
        used < ALLOWANCE_MAX
    }

    /// The comparison that this node began finds something.
    fn differs(&mut self) {
        if let Some(Comparison { side: Side::Begins { has_found, .. }, .. }) = &mut self.comparison {
            *has_found = true;
        }
    }

    /// Whether a comparison runs that this node began.
    fn begins(&self) -> bool {
        matches!(&self.comparison, Some(Comparison { side: Side::Begins { .. }, .. }))
    }

    /// Ends the comparison that runs, if it is this one.
    fn take(&mut self, number: u64) -> Option<Comparison> {
        self.comparison.take_if(|comparison| comparison.number == number)
    }
}

impl Engine {
    /// Says something of a comparison, as the link takes it.
    fn say(&mut self, id: LinkId, outgoing: Outgoing) {
        if let Some(link) = self.links.get_mut(&id) {
            link.standing.outgoing.push_back(outgoing);
            self.pump_again = true;
        }
    }

    /// To who is contested or no member, logs are none of its business: it hears of all statements.
    fn tell_statements(&mut self, id: LinkId, wants_answer: bool) {
        let statements = self.replica.stored_statements().map(|(id, _)| *id).collect();
        let end = End::Statements(wants_answer);
        self.say(id, Outgoing::Difference(OutgoingDifference { logs: VecDeque::new(), statements, end }));
    }

    /// Compares with a peer now, or as soon as that is decent.
    pub(super) fn compare_soon(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase != Phase::Greeting) else { return };
        let decent = link.standing.begun_at.map_or(now, |at| at.plus_millis(COMPARE_MS));
        if decent > now {
            link.standing.due = Some(decent);
        } else if link.is_member {
            self.begin(now, id);
        } else {
            link.standing.begun_at = Some(now);
            self.tell_statements(id, true);
        }
    }

    /// Comparisons that are due begin, and those that nothing is heard of are over.
    pub(super) fn compare_timer(&mut self, now: Time) {
        let is_due = |due: Option<Time>| due.is_some_and(|due| due <= now);
        let due: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| is_due(link.standing.timeout())).map(|(id, _)| *id).collect();
        for id in due {
            let Some(link) = self.links.get_mut(&id) else { continue };
            if link.standing.over_by.take_if(|by| *by <= now).is_some() {
                link.standing.comparison = None;
                link.standing.requested = None;
                if link.phase == Phase::Comparing {
                    self.ready(now, id);
                    self.note_missing(now, id, true);
                }
            }
            let Some(link) = self.links.get_mut(&id) else { continue };
            if link.standing.due.take_if(|due| *due <= now).is_some() {
                self.compare_soon(now, id);
            }
        }
    }

    /// Begins to compare ranges; of few items, all are said at once.
    fn begin(&mut self, now: Time, id: LinkId) {
        let ranges = self.make_comparison(now, id);
        let buckets = ranges.prints.is_empty().then(|| all_buckets(self));
        let number = ranges.number;
        self.say(id, Outgoing::Frame(Frame::Ranges(ranges).encode()));
        if let Some(buckets) = buckets {
            self.say(id, Outgoing::Items(OutgoingItems { number, buckets, said: 0 }));
        }
    }

    /// A comparison that this node begins: the fingerprints of its ranges, or none where all items are to follow.
    fn make_comparison(&mut self, now: Time, id: LinkId) -> Ranges {
        let seed = self.random().to_be_bytes();
        // Nobody foresees it: it is the key of the fingerprints.
        let hash = blake3::keyed_hash(&self.config.key.to_bytes(), &seed);
        let number = u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("a BLAKE3 hash has 32 bytes"));
        let own = self.place();
        let says_all = self.replica.tree().len() <= RANGES;
        let prints = if says_all { Vec::new() } else { range_prints(self, number) };
        if let Some(link) = self.links.get_mut(&id) {
            let side = Side::Begins { has_items: says_all, has_found: false };
            let standing = &mut link.standing;
            standing.comparison = Some(Comparison { number, own, side });
            standing.begun = Some(number);
            (standing.begun_at, standing.due) = (Some(now), None);
            standing.over_by = Some(now.plus_millis(COMPARE_TIMEOUT_MS));
        }
        Ranges { number, place: own, prints }
    }

    /// The peer begins. `Err` says how it broke the protocol.
    pub(super) fn receive_ranges(&mut self, now: Time, id: LinkId, ranges: Ranges) -> Result<(), &'static str> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if !link.standing.allows(now) {
            return Err("the peer compares without end");
        }
        self.answer_ranges(now, id, ranges);
        Ok(())
    }

    /// The peer begins: it hears the fingerprints of buckets in ranges that differ.
    fn answer_ranges(&mut self, now: Time, id: LinkId, ranges: Ranges) {
        let own = self.place();
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.is_member {
            return self.tell_statements(id, true);
        }
        let standing = &mut link.standing;
        if standing.begins() {
            // Both began: one of them goes on.
            let items = |place: &Option<PlaceOf>| place.map_or(0, |place| place.items_bits);
            if (items(&standing.own), self.device) < (items(&standing.peer), link.device) {
                return;
            }
            standing.outgoing.retain(|outgoing| !matches!(outgoing, Outgoing::Items(_)));
        }
        let Ranges { number, place, prints } = ranges;
        let side = Side::Answers(Box::new(Answers::new(place, prints.is_empty())));
        standing.comparison = Some(Comparison { number, own, side });
        standing.over_by = Some(now.plus_millis(COMPARE_TIMEOUT_MS));
        if prints.is_empty() {
            return;
        }
        let (key, tree) = (RangeKey::new(number), self.replica.tree());
        let parts_of = |range: usize| {
            std::array::from_fn(|at| {
                let bucket = range * RANGE_BUCKETS + at;
                tree.print(&key, bucket..bucket + 1)
            })
        };
        let own = range_prints(self, number);
        let differ = (0..RANGES).filter(|range| own[*range] != prints[*range]);
        let ranges = differ.map(|range| (u8::try_from(range).unwrap_or(u8::MAX), parts_of(range))).collect();
        let frame = Frame::Parts(Parts { number, ranges });
        self.say(id, Outgoing::Frame(frame.encode()));
    }

    /// The fingerprints of buckets in ranges that differ: the items of those that do are said.
    pub(super) fn receive_parts(&mut self, now: Time, id: LinkId, parts: &Parts) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(comparison) = link.standing.comparison.as_mut().filter(|own| own.number == parts.number) else {
            return;
        };
        let Side::Begins { has_items, .. } = &mut comparison.side else { return };
        if std::mem::replace(has_items, true) {
            return;
        }
        link.standing.over_by = Some(now.plus_millis(COMPARE_TIMEOUT_MS));
        let (key, tree) = (RangeKey::new(parts.number), self.replica.tree());
        let mut buckets = VecDeque::new();
        for (range, prints) in &parts.ranges {
            for (at, print) in prints.iter().enumerate() {
                let bucket = usize::from(*range) * RANGE_BUCKETS + at;
                if tree.print(&key, bucket..bucket + 1) != *print {
                    buckets.push_back(u16::try_from(bucket).unwrap_or(u16::MAX));
                }
            }
        }
        self.say(id, Outgoing::Items(OutgoingItems { number: parts.number, buckets, said: 0 }));
    }

    /// Items that the peer does not know by their short ids.
    pub(super) fn receive_request(&mut self, id: LinkId, request: &Request) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_member) else { return };
        if link.standing.begun != Some(request.number) {
            return;
        }
        link.standing.differs();
        let key = RangeKey::new(request.number);
        let (mut logs, mut statements) = (VecDeque::new(), BTreeSet::new());
        for ids in request.ids.chunk_by(|(one, _), (next, _)| one == next) {
            let Some((bucket, _)) = ids.first() else { continue };
            let asked: BTreeSet<[u8; 3]> = ids.iter().map(|(_, id)| *id).collect();
            for ((short, ..), item) in short_items(&self.replica, &key, *bucket) {
                match item {
                    _ if !asked.contains(&short) => {}
                    Item::Log(actor) => logs.push_back(actor),
                    Item::Statement(statement, _) => {
                        statements.insert(statement);
                    }
                }
            }
        }
        if request.is_last {
            link.standing.begun = None;
        }
        let end = if request.is_last { End::Request(request.number) } else { End::Part };
        self.say(id, Outgoing::Difference(OutgoingDifference { logs, statements, end }));
    }

    /// What the peer has and this node may lack.
    pub(super) fn receive_difference(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        id: LinkId,
        difference: Difference,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(by) = &mut link.standing.over_by {
            *by = now.plus_millis(COMPARE_TIMEOUT_MS);
        }
        if !difference.logs.is_empty() || !difference.statements.is_empty() {
            link.standing.differs();
        }
        self.take_difference(id, &difference.logs, &difference.statements);
        self.expect_pushed(now, id, &difference.logs);
        self.check_claims(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        let standing = &mut link.standing;
        match difference.end {
            None | Some(End::Part) => {
                let logs: Vec<(Actor, u64)> = difference.logs.iter().map(|(actor, seq, _)| (*actor, *seq)).collect();
                return self.note_found(now, id, &logs, &difference.statements);
            }
            Some(End::Cursor) => standing.settles = standing.greeted,
            Some(End::Comparison(number, place)) => {
                let Some(comparison) = standing.take(number) else { return };
                standing.settles = Some(place);
                let is_vain = matches!(comparison.side, Side::Begins { has_found: false, .. });
                self.judge_vain(now, staged, id, is_vain);
            }
            Some(End::Request(number)) => {
                let Some((_, place)) = standing.requested.take_if(|(asked, _)| *asked == number) else { return };
                standing.settles = Some(place);
            }
            Some(End::Statements(wants_answer)) => {
                standing.comparison = None;
                if wants_answer {
                    self.tell_statements(id, false);
                }
            }
        }
        self.end_comparison(now, id);
    }

    fn take_difference(&mut self, id: LinkId, logs: &[(Actor, u64, u32)], statements: &[(StatementId, u32)]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut forked = Vec::new();
        for (actor, seq, digest) in logs {
            let own = self.replica.logs.get(actor);
            link.claims(*actor, *seq, own.map_or(0, |state| state.stored));
            forked.extend(own.filter(|state| state.stored == *seq && state.differs(*digest)).map(|_| *actor));
        }
        for (statement, digest) in statements {
            self.claims_statement(id, *statement, *digest);
        }
        for actor in forked {
            self.branch_came(Some(id), actor);
        }
    }

    /// In a greeting the answering side sends at once what it carries itself and knows to be missing here.
    fn expect_pushed(&mut self, now: Time, id: LinkId, logs: &[(Actor, u64, u32)]) {
        let Some(link) = self.links.get(&id).filter(|link| link.is_new && link.standing.begins()) else { return };
        let patience = link.patience_micros();
        for (actor, seq, _) in logs {
            let own = self.replica.logs.get(actor);
            if own.is_some_and(|own| *own.carrier() == link.device && own.seq < *seq) {
                self.missing.expect(now, *actor, Word { link: id, seq: *seq, is_live: false }, patience);
            }
        }
    }

    /// What the peer has is known: a greeting is over, and what is missing is asked for.
    fn end_comparison(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let standing = &mut link.standing;
        if standing.comparison.is_none() && standing.requested.is_none() {
            standing.over_by = None;
        }
        let is_greeting = link.is_new;
        if is_greeting {
            self.ready(now, id);
        }
        self.note_missing(now, id, is_greeting);
    }

    /// A comparison has ended. A peer that says again and again that it differs, and does not, while nothing changes here,
    /// is cut.
    fn judge_vain(&mut self, now: Time, staged: &mut Staged<'_>, id: LinkId, is_vain: bool) {
        let is_quiet = self.touched.is_quiet(now);
        let Some(link) = self.links.get_mut(&id) else { return };
        match is_vain {
            false => link.standing.vain = 0,
            true if is_quiet => link.standing.vain += 1,
            true => {}
        }
        if link.standing.vain >= VAIN_MAX {
            self.fault(staged, id, "the peer says for ever that it differs, and does not");
        }
    }

    /// The peer compares roots, now and then.
    pub(super) fn receive_root(&mut self, id: LinkId, root: Root) {
        let is_equal = root == self.replica.root();
        let Some(link) = self.links.get_mut(&id).filter(|link| link.phase == Phase::Ready) else { return };
        link.standing.is_equal = is_equal;
        if is_equal {
            link.standing.vain = 0;
            link.standing.settles = link.standing.peer.map(|peer| peer.place);
            self.send_place(id, true);
        } else if self.unstored.is_empty() {
            self.after.push(After::Compare(id));
        }
    }

    /// Keeps how far this node has its peers' orders, where all that they were known to have is here.
    pub(super) fn settle_cursors(&mut self, staged: &mut Staged<'_>) {
        for link in self.links.values_mut().filter(|link| link.is_member) {
            if !link.ahead.is_empty() || !link.ahead_statements.is_empty() {
                continue;
            }
            if let Some(place) = link.standing.settles.take() {
                self.replica.set_cursor(staged, link.device, place);
            }
        }
    }
}

/// The fingerprints of all ranges under a comparison's number.
fn range_prints(engine: &Engine, number: u64) -> Vec<[u8; 6]> {
    let key = RangeKey::new(number);
    let print = |range: usize| engine.replica.tree().print(&key, range * RANGE_BUCKETS..(range + 1) * RANGE_BUCKETS);
    (0..RANGES).map(print).collect()
}

/// All buckets that have items.
fn all_buckets(engine: &Engine) -> VecDeque<u16> {
    let tree = engine.replica.tree();
    std::iter::successors(tree.next_bucket(0), |bucket| tree.next_bucket(bucket + 1)).collect()
}
