//! Runs and statements that wait for what they build on. They stand outside the root and are lost at a restart: the
//! next comparison of clocks brings them again.

use std::collections::{BTreeMap, BTreeSet};

use super::LinkId;
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
/// Most statements that wait.
pub(super) const STATEMENTS_MAX: usize = 4096;

/// Where a waiting run is found: its log and first sequence number.
pub(crate) type RunKey = (Actor, u64);

#[derive(Debug, Clone)]
struct WaitingRun {
    run: Run,
    link: Option<LinkId>,
    wait: Wait,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    changes: usize,
    bytes: usize,
}

/// What waits, within its limits; what does not fit is not taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    runs: BTreeMap<RunKey, WaitingRun>,
    by_wait: BTreeMap<Wait, BTreeSet<RunKey>>,
    authors: BTreeMap<Key, Usage>,
    links: BTreeMap<LinkId, usize>,
    bytes: usize,
    statements: BTreeMap<StatementId, (SignedStatement, Option<LinkId>)>,
}

impl Pending {
    /// Keeps a run until what it waits for is there. `false` where a limit forbids it: it must be asked for again.
    pub(crate) fn insert(&mut self, actor: Actor, run: Run, link: Option<LinkId>, wait: Wait) -> bool {
        let key = (actor, run.first_seq);
        self.take(&key);
        let bytes = run.changes.iter().map(|raw| raw.0.len() + 128).sum();
        let author = self.authors.get(&run.log.author).copied().unwrap_or_default();
        let of_link = link.and_then(|link| self.links.get(&link)).copied().unwrap_or(0);
        let fits = author.changes + run.changes.len() <= AUTHOR_CHANGES_MAX
            && author.bytes + bytes <= AUTHOR_BYTES_MAX
            && of_link + bytes <= PEER_BYTES_MAX
            && self.bytes + bytes <= TOTAL_BYTES_MAX;
        if !fits {
            return false;
        }
        let usage = self.authors.entry(run.log.author).or_default();
        usage.changes += run.changes.len();
        usage.bytes += bytes;
        if let Some(link) = link {
            *self.links.entry(link).or_default() += bytes;
        }
        self.bytes += bytes;
        self.by_wait.entry(wait).or_default().insert(key);
        self.runs.insert(key, WaitingRun { run, link, wait, bytes });
        true
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
        if let Some(used) = link.and_then(|link| self.links.get_mut(&link)) {
            *used -= bytes;
        }
        self.bytes -= bytes;
        Some((run, link))
    }

    /// The runs that wait for something.
    pub(crate) fn waiting_for(&self, wait: &Wait) -> Vec<RunKey> {
        self.by_wait.get(wait).into_iter().flatten().copied().collect()
    }

    /// Keeps a statement until its signers or what it replaces are known; `false` where the limit forbids it.
    pub(crate) fn insert_statement(&mut self, signed: SignedStatement, link: Option<LinkId>) -> bool {
        if let Some((waiting, _)) = self.statements.get_mut(&signed.id()) {
            waiting.merge(&signed); // each of two signatures may come by itself
            return true;
        }
        let fits = self.statements.len() < STATEMENTS_MAX;
        if fits {
            self.statements.insert(signed.id(), (signed, link));
        }
        fits
    }

    /// Takes all statements out, to be judged again.
    pub(crate) fn take_statements(&mut self) -> Vec<(SignedStatement, Option<LinkId>)> {
        std::mem::take(&mut self.statements).into_values().collect()
    }

    /// Forgets the peer's share: the link is down, what it brought stays and counts for nobody.
    pub(crate) fn forget_link(&mut self, link: LinkId) {
        self.links.remove(&link);
        for waiting in self.runs.values_mut().filter(|waiting| waiting.link == Some(link)) {
            waiting.link = None;
        }
    }

    /// Changes that wait, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.runs.values().map(|waiting| waiting.run.changes.len()).sum(), self.bytes)
    }
}
