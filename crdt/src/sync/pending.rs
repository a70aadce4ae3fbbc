//! Runs and statements that wait for what they build on. They stand outside the root and are lost at a restart, and with
//! the link that brought them: then they are asked of others.

use std::collections::{BTreeMap, BTreeSet};

use super::LinkId;
use super::origins::Origin;
use crate::admission::Wait;
use crate::change::Run;
use crate::id::{Actor, Key, StatementId};
use crate::statement::SignedStatement;

/// Most changes of one author that wait.
pub(super) const AUTHOR_CHANGES_MAX: usize = 256;
/// Most bytes of one author's changes that wait.
pub(super) const AUTHOR_BYTES_MAX: usize = 1 << 20;
/// Most bytes from one peer that wait.
pub(super) const PEER_BYTES_MAX: usize = 4 << 20;
/// Most bytes that wait.
pub(super) const TOTAL_BYTES_MAX: usize = 64 << 20;
/// Most statements from one peer that wait.
pub(super) const PEER_STATEMENTS_MAX: usize = 512;
/// Most statements that wait.
pub(super) const STATEMENTS_MAX: usize = 4096;
/// What a waiting change costs beside its bytes.
const CHANGE_OVERHEAD_BYTES: usize = 128;

/// Where a waiting run is found: its log and first sequence number.
pub(crate) type RunKey = (Actor, u64);

/// A statement, with where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Sourced {
    pub(super) signed: SignedStatement,
    /// The link that brought it.
    pub(super) link: Option<LinkId>,
    /// The node where it entered the mesh, where that is known.
    pub(super) origin: Option<Origin>,
}

#[derive(Debug, Clone)]
struct WaitingRun {
    run: Run,
    link: Option<LinkId>,
    wait: Wait,
    bytes: usize,
}

/// A run that a limit kept out or drove out: to be asked for again once what it waits for is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) wait: Wait,
    pub(crate) actor: Actor,
    pub(crate) link: Option<LinkId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    changes: usize,
    bytes: usize,
    statements: usize,
}

/// What waits, within its limits: the newest of a log gives way to what comes before it, and the greatest user of the
/// whole to the lesser.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    runs: BTreeMap<RunKey, WaitingRun>,
    by_wait: BTreeMap<Wait, BTreeSet<RunKey>>,
    authors: BTreeMap<Key, Usage>,
    links: BTreeMap<LinkId, Usage>,
    bytes: usize,
    statements: BTreeMap<StatementId, Sourced>,
}

impl Pending {
    /// Keeps a run until what it waits for is there. Returns what a limit forbids to keep, the run itself perhaps.
    pub(crate) fn insert(&mut self, actor: Actor, run: Run, link: Option<LinkId>, wait: Wait) -> Vec<Evicted> {
        let key = (actor, run.first_seq);
        self.take(&key);
        let bytes = run.changes.iter().map(|raw| raw.0.len() + CHANGE_OVERHEAD_BYTES).sum();
        let mut evicted = Vec::new();
        while let Some(limit) = self.limit_reached(&run, link, bytes) {
            let victim = match limit {
                Limit::Author | Limit::Peer => self.newest_after(&key, (limit == Limit::Peer).then_some(link)),
                Limit::Total => self.newest_of_heaviest(link, bytes),
            };
            let Some(victim) = victim else {
                evicted.push(Evicted { wait, actor, link });
                return evicted;
            };
            let wait = self.runs.get(&victim).map_or(wait, |waiting| waiting.wait);
            if let Some((_, link)) = self.take(&victim) {
                evicted.push(Evicted { wait, actor: victim.0, link });
            }
        }
        let changes = run.changes.len();
        let usage = self.authors.entry(run.log.author).or_default();
        usage.changes += changes;
        usage.bytes += bytes;
        if let Some(link) = link {
            self.links.entry(link).or_default().bytes += bytes;
        }
        self.bytes += bytes;
        self.by_wait.entry(wait).or_default().insert(key);
        self.runs.insert(key, WaitingRun { run, link, wait, bytes });
        evicted
    }

    fn limit_reached(&self, run: &Run, link: Option<LinkId>, bytes: usize) -> Option<Limit> {
        let author = self.authors.get(&run.log.author).copied().unwrap_or_default();
        let of_link = self.bytes_of(link);
        if author.changes + run.changes.len() > AUTHOR_CHANGES_MAX || author.bytes + bytes > AUTHOR_BYTES_MAX {
            Some(Limit::Author)
        } else if of_link + bytes > PEER_BYTES_MAX {
            Some(Limit::Peer)
        } else {
            (self.bytes + bytes > TOTAL_BYTES_MAX).then_some(Limit::Total)
        }
    }

    fn bytes_of(&self, link: Option<LinkId>) -> usize {
        link.and_then(|link| self.links.get(&link)).map_or(0, |usage| usage.bytes)
    }

    /// The newest run of the same log that comes after `key`; of that link alone, where one is given.
    fn newest_after(&self, key: &RunKey, of_link: Option<Option<LinkId>>) -> Option<RunKey> {
        let later = self.runs.range((key.0, key.1 + 1)..=(key.0, u64::MAX));
        let mut eligible = later.filter(|(_, waiting)| of_link.is_none_or(|link| waiting.link == link));
        eligible.next_back().map(|(key, _)| *key)
    }

    /// The newest run of the link that holds most, where that is more than `link` would hold with `bytes` more.
    fn newest_of_heaviest(&self, link: Option<LinkId>, bytes: usize) -> Option<RunKey> {
        let (heaviest, usage) = self.links.iter().max_by_key(|(_, usage)| usage.bytes)?;
        if usage.bytes <= self.bytes_of(link) + bytes {
            return None;
        }
        let of_heaviest = self.runs.iter().filter(|(_, waiting)| waiting.link == Some(*heaviest));
        of_heaviest.map(|(key, _)| *key).max_by_key(|(_, first_seq)| *first_seq)
    }

    /// Whether a log waits here up to a sequence number, and for something else than its own earlier changes.
    pub(crate) fn holds(&self, actor: &Actor, seq: u64) -> bool {
        let mut of_log = self.runs.range((*actor, 0)..=(*actor, u64::MAX)).map(|(_, waiting)| waiting);
        let Some(first) = of_log.next() else { return false };
        let last = of_log.next_back().unwrap_or(first);
        first.wait != Wait::Log(*actor) && last.run.last_seq() >= seq
    }

    /// Takes a run out.
    pub(crate) fn take(&mut self, key: &RunKey) -> Option<(Run, Option<LinkId>)> {
        let WaitingRun { run, link, wait, bytes } = self.runs.remove(key)?;
        if let Some(waiting) = self.by_wait.get_mut(&wait) {
            waiting.remove(key);
            if waiting.is_empty() {
                self.by_wait.remove(&wait);
            }
        }
        if let Some(usage) = self.authors.get_mut(&run.log.author) {
            usage.changes -= run.changes.len();
            usage.bytes -= bytes;
            if usage.changes == 0 {
                self.authors.remove(&run.log.author);
            }
        }
        if let Some(usage) = link.and_then(|link| self.links.get_mut(&link)) {
            usage.bytes -= bytes;
        }
        self.bytes -= bytes;
        Some((run, link))
    }

    /// The runs that wait for something.
    pub(crate) fn waiting_for(&self, wait: &Wait) -> Vec<RunKey> {
        self.by_wait.get(wait).into_iter().flatten().copied().collect()
    }

    /// Keeps a statement until its signers or what it replaces are known; `false` where a limit forbids it.
    pub(super) fn insert_statement(&mut self, sourced: Sourced) -> bool {
        if let Some(waiting) = self.statements.get_mut(&sourced.signed.id()) {
            waiting.signed.merge(&sourced.signed); // each of two signatures may come by itself
            return true;
        }
        let link = sourced.link;
        let of_link = link.and_then(|link| self.links.get(&link)).map_or(0, |usage| usage.statements);
        let fits = self.statements.len() < STATEMENTS_MAX && of_link < PEER_STATEMENTS_MAX;
        if fits {
            if let Some(link) = link {
                self.links.entry(link).or_default().statements += 1;
            }
            self.statements.insert(sourced.signed.id(), sourced);
        }
        fits
    }

    /// Whether a statement waits.
    pub(crate) fn holds_statement(&self, id: &StatementId) -> bool {
        self.statements.contains_key(id)
    }

    /// Takes all statements out, to be judged again.
    pub(super) fn take_statements(&mut self) -> Vec<Sourced> {
        self.links.values_mut().for_each(|usage| usage.statements = 0);
        std::mem::take(&mut self.statements).into_values().collect()
    }

    /// Drops what a link brought, now that it is down: who comes back starts with nothing held. Returns it.
    pub(crate) fn forget_link(&mut self, link: LinkId) -> (Vec<Evicted>, Vec<StatementId>) {
        let of_link = self.runs.iter().filter(|(_, waiting)| waiting.link == Some(link));
        let keys: Vec<(RunKey, Wait)> = of_link.map(|(key, waiting)| (*key, waiting.wait)).collect();
        let evicted =
            |(key, wait): &(RunKey, Wait)| self.take(key).map(|(_, link)| Evicted { wait: *wait, actor: key.0, link });
        let dropped = keys.iter().filter_map(evicted).collect();
        let of_link = self.statements.iter().filter(|(_, waiting)| waiting.link == Some(link));
        let statements: Vec<StatementId> = of_link.map(|(id, _)| *id).collect();
        for id in &statements {
            self.statements.remove(id);
        }
        self.links.remove(&link);
        (dropped, statements)
    }

    /// The runs that wait for the authority of authors like this.
    pub(crate) fn waiting_for_authority(&self, is_due: impl Fn(&Key) -> bool) -> Vec<RunKey> {
        let waiting = self.by_wait.get(&Wait::Authority).into_iter().flatten();
        waiting.filter(|key| self.runs.get(key).is_some_and(|run| is_due(&run.run.log.author))).copied().collect()
    }

    /// Changes that wait, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.runs.values().map(|waiting| waiting.run.changes.len()).sum(), self.bytes)
    }

    /// Statements that wait.
    #[cfg(test)]
    pub(crate) fn statements(&self) -> usize {
        self.statements.len()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Author,
    Peer,
    Total,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{LogName, RawBytes};
    use crate::id::{ChangeHash, DeviceId};
    use crate::schema::DocumentName;
    use crate::statement::SignatureBytes;

    const WAIT: Wait = Wait::Change(ChangeHash([7; 32]));

    fn run(author: u8, first_seq: u64, bytes: usize) -> Run {
        let document = DocumentName::config("a").unwrap();
        let log =
            LogName { document, epoch: 1, author: Key([author; 32]), carrier: DeviceId([author; 32]), incarnation: 1 };
        let changes = vec![RawBytes(vec![0; bytes])];
        Run { log, first_seq, changes, signature: SignatureBytes([0; 64]) }
    }

    fn actor(number: u8) -> Actor {
        Actor([number; 16])
    }

    #[test]
    fn the_newest_of_a_log_gives_way_to_what_comes_before_it() {
        let mut pending = Pending::default();
        for seq in 100..100 + AUTHOR_CHANGES_MAX as u64 {
            assert!(pending.insert(actor(1), run(1, seq, 10), Some(LinkId(1)), WAIT).is_empty());
        }
        let newest = 99 + AUTHOR_CHANGES_MAX as u64;
        assert_eq!(pending.insert(actor(1), run(1, newest + 1, 10), Some(LinkId(1)), WAIT).len(), 1, "kept out");
        let evicted = pending.insert(actor(1), run(1, 50, 10), Some(LinkId(2)), WAIT);
        assert_eq!(evicted, [Evicted { wait: WAIT, actor: actor(1), link: Some(LinkId(1)) }]);
        assert!(pending.take(&(actor(1), newest)).is_none() && pending.take(&(actor(1), 50)).is_some());
    }

    #[test]
    fn of_the_whole_the_greatest_user_gives_way() {
        let mut pending = Pending::default();
        let size = 60 * 1024;
        let mut author = 0;
        for link in 0..17 {
            let mut held = 0;
            while held + size + CHANGE_OVERHEAD_BYTES <= PEER_BYTES_MAX && pending.bytes + size < TOTAL_BYTES_MAX {
                author += 1;
                pending.insert(actor(author), run(author, 1, size), Some(LinkId(link / 2 + 1)), WAIT);
                held += size + CHANGE_OVERHEAD_BYTES;
                if author == u8::MAX {
                    author = 0;
                }
            }
        }
        let full = pending.bytes;
        let evicted = pending.insert(actor(254), run(254, 9, size), Some(LinkId(99)), WAIT);
        assert!(evicted.len() <= 1 && evicted.iter().all(|evicted| evicted.link != Some(LinkId(99))), "{evicted:?}");
        assert!(pending.bytes <= TOTAL_BYTES_MAX && pending.bytes >= full - size);
    }

    #[test]
    fn a_link_takes_what_it_brought_with_it() {
        let mut pending = Pending::default();
        pending.insert(actor(1), run(1, 1, 10), Some(LinkId(1)), WAIT);
        pending.insert(actor(2), run(2, 1, 10), Some(LinkId(2)), WAIT);
        let dropped = vec![Evicted { wait: WAIT, actor: actor(1), link: Some(LinkId(1)) }];
        assert_eq!(pending.forget_link(LinkId(1)), (dropped, Vec::new()));
        assert_eq!(pending.size(), (1, 10 + CHANGE_OVERHEAD_BYTES));
        assert_eq!(pending.waiting_for(&WAIT), [(actor(2), 1)]);
    }
}
