//! `testnet trace FILE --change HASH`: finds a change in a trace, and gathers what happened to it.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::error::Candidates;
use super::lines::TraceReader;
use super::{Happened, Spread, TraceError, What, drawn};

/// Draws how the change reached each node, and sums up what it took.
///
/// `wanted` is the beginning of its hash, or `LOG:SEQ` with the beginning of its log; it must fit one change. The file
/// is read once, from start to end; only what happened to this change is held.
pub(crate) fn tree(reader: impl BufRead, wanted: &str) -> Result<String, TraceError> {
    let name = Name::parse(wanted).ok_or_else(|| TraceError::Wanted(wanted.to_owned()))?;
    let mut lines = TraceReader::new(reader)?;
    let (mut fitting, mut others) = (Candidates::default(), Candidates::default());
    let mut gathered = Gathered::default();
    while let Some(event) = lines.next()? {
        // Bytes that are no change belong to none.
        let Some(change) = event.change else { continue };
        if !name.fits(&event.happened) {
            others.add(change);
            continue;
        }
        fitting.add(change);
        if fitting.full() {
            break;
        }
        // From the second on it is an error, and what was gathered is not shown.
        if fitting.list().len() == 1 {
            gathered.take(&event.happened);
        }
    }
    match fitting.list() {
        [change] => Ok(drawn::tree(lines.header(), change, &gathered)),
        [] if others.list().is_empty() => Err(TraceError::Empty),
        [] => Err(TraceError::Unknown { wanted: wanted.to_owned(), found: others }),
        _ => Err(TraceError::Ambiguous { wanted: wanted.to_owned(), found: fitting }),
    }
}

/// What happened to one change.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) spread: Spread,
    /// Copies that were given to links.
    pub(super) sent: u64,
    /// Copies that came where it was not.
    pub(super) came: u64,
    /// Copies that came where it was: by (from, to).
    pub(super) again: BTreeMap<(usize, usize), u64>,
    /// Refusals: by node and who brought it.
    pub(super) refused: BTreeMap<(usize, Option<usize>), u64>,
    /// Times that a node stored it anew.
    pub(super) stored_again: u64,
    /// Microseconds on the link (from, to), of the last copy before it was stored.
    pub(super) link_us: BTreeMap<(usize, usize), u64>,
    /// When the last copy was given to the link (from, to).
    sent_us: BTreeMap<(usize, usize), u64>,
}

impl Gathered {
    fn take(&mut self, happened: &Happened) {
        let Happened { at_us, node, peer, what, .. } = *happened;
        let had = self.spread.arrivals().get(&node).copied();
        self.spread.take(happened);
        match (what, peer) {
            (What::Sent, Some(peer)) => {
                self.sent += 1;
                self.sent_us.insert((node, peer), at_us);
            }
            (What::Came, Some(peer)) => {
                self.came += 1;
                if let Some(sent_us) = self.sent_us.get(&(peer, node)).filter(|_| had.is_none()) {
                    self.link_us.insert((peer, node), at_us.saturating_sub(*sent_us));
                }
            }
            (What::CameAgain, Some(peer)) => *self.again.entry((peer, node)).or_default() += 1,
            (What::Refused, peer) => *self.refused.entry((node, peer)).or_default() += 1,
            // Where it was written it is stored once as well, by nobody.
            (What::Stored, peer) if had.is_some_and(|had| had.from.or(peer).is_some()) => self.stored_again += 1,
            (What::Written | What::Stored, _) | (What::Sent | What::Came | What::CameAgain, None) => {}
        }
    }
}

/// How a person names a change.
enum Name {
    /// Its hash begins so.
    Hash(String),
    /// Its log begins so, and this is its number there.
    Log(String, u64),
}

impl Name {
    fn parse(wanted: &str) -> Option<Name> {
        let (digits, digits_max) = match wanted.rsplit_once(':') {
            Some((log, _)) => (log, 2 * size_of::<crdt::id::Actor>()),
            None => (wanted, 2 * size_of::<crdt::id::ChangeHash>()),
        };
        if digits.len() > digits_max || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        match wanted.rsplit_once(':') {
            Some((log, seq)) => Some(Name::Log(log.to_owned(), seq.parse().ok()?)),
            None => Some(Name::Hash(wanted.to_owned())),
        }
    }

    fn fits(&self, happened: &Happened) -> bool {
        match self {
            Name::Hash(start) => begins(&happened.hash, start),
            Name::Log(start, seq) => happened.seq == *seq && begins(&happened.log, start),
        }
    }
}

fn begins(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|text| text.eq_ignore_ascii_case(start))
}
