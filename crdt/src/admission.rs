//! The gate: every change passes all of it before anything is stored (PROTOCOL 3), the cheapest refusal first.
//!
//! A run is admitted as a whole or not at all. Whether it counts is a function of the changes and statements that
//! are known, never of time, order or load (DESIGN 2.11): what could still change with more of either waits
//! ([`Wait`]), what nothing could mend is refused with blame.

use std::collections::BTreeMap;

use crate::change::{LogName, RAW_BYTES_MAX, RUN_BYTES_MAX, RUN_CHANGES_MAX, RawBytes, Run, is_vouched, is_vouched_by};
use crate::id::{Actor, ChainHash, ChangeHash, FleetId};
use crate::index::{self, IndexError, Past};
use crate::raw::{self, RawChange, RawError};
use crate::roster::{Roster, Standing};
use crate::schema::Kind;
use crate::statement::Role;
use crate::store::{
    Batch, ChangeRecord, HashRecord, LogRecord, LogStore, Staged, StoreError, Table, change_key, encode_record,
    hash_key, index_range, meta_key, read_record,
};

mod seal;
pub use seal::{Seal, SealError, values_hash};

/// Most changes of one epoch of a document of one writer.
pub const EPOCH_CHANGES_MAX: u64 = 4096;
/// Most bytes of raw changes of one epoch of a document of one writer.
pub const EPOCH_RAW_BYTES_MAX: u64 = 256 * 1024;
/// Most bytes of visible paths and values of a document of one writer.
pub const EPOCH_VALUES_BYTES_MAX: u64 = 48 * 1024;

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Wait {
    /// Statements that give the author its authority.
    Authority,
    /// A change that it builds on.
    Change(ChangeHash),
    /// Earlier changes of its own log.
    Log(Actor),
}

/// Why a run is refused. Nothing was stored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No change, or more than [`RUN_CHANGES_MAX`] (in documents of several writers more than one) or than
    /// [`RUN_BYTES_MAX`], or a sequence number of 0.
    #[error("a run has 1 to {RUN_CHANGES_MAX} changes (1 for several writers) of 48 KiB, with sequence numbers from 1")]
    Run,
    /// A change above [`RAW_BYTES_MAX`].
    #[error("a change has at most {RAW_BYTES_MAX} bytes, this one has {0}")]
    Size(usize),
    /// The author may not write such a document.
    #[error("the author or the carrier does not fit the document")]
    Author,
    /// The device was removed from the fleet.
    #[error("the device was removed from the fleet")]
    Removed,
    /// An epoch that such a document does not have.
    #[error("epoch {0} of such a document does not exist")]
    Epoch(u64),
    /// A greater epoch of the document counts.
    #[error("a later epoch of the document counts")]
    Stale,
    /// The signature does not vouch for the run, which begins with its log: a forgery.
    #[error("the signature does not vouch for these changes")]
    Signature,
    /// The signature does not vouch for the run on top of what is stored of its log: a forgery, or the continuation of
    /// another branch of a forked log, which an honest peer may hold.
    #[error("the signature does not vouch for these changes after those of the same log that are stored")]
    Branch,
    /// Another change of the same log and sequence number is stored.
    #[error("another change of this log has this sequence number")]
    Fork,
    /// The raw change is malformed.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// The raw change belongs to another log or sequence number.
    #[error("the raw change names another log or sequence number")]
    Misplaced,
    /// A message where none may be, or a first change of a later epoch without a seal.
    #[error("the change's message is not what its place demands")]
    Message,
    /// Dependencies that are redundant, of another document, or without the own predecessor.
    #[error("the change's dependencies are not what its place demands")]
    Deps,
    /// `start_op` is not 1 + the greatest operation counter of the dependencies.
    #[error("the change's first operation counter does not follow its dependencies")]
    StartOp,
    /// An operation does not fit.
    #[error(transparent)]
    Operation(IndexError),
    /// The epoch is full.
    #[error("the epoch's limits of changes, bytes or values are reached")]
    EpochFull,
}

impl Reason {
    /// Whether no statement and no other change could alter it, so that the peer who sent it is at fault.
    pub fn blames_the_sender(&self) -> bool {
        !matches!(self, Reason::Removed | Reason::Stale | Reason::Fork | Reason::Branch)
    }
}

/// What becomes of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Staged; `record` is the log as it stands now.
    Admitted(Box<Admitted>),
    /// All of it is stored already.
    Known,
    /// It may count later; nothing was staged.
    Waits(Wait),
    /// Nothing was staged.
    Refused {
        /// Why.
        reason: Reason,
        /// The first sequence number that is meant.
        seq: u64,
        /// For a fork: the stored change and the refused one.
        evidence: Vec<RawBytes>,
    },
}

/// A run that was staged.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// The log.
    pub actor: Actor,
    /// The first sequence number that is new.
    pub first_new: u64,
    /// The log as it stands now.
    pub record: LogRecord,
    /// Hashes of the new changes.
    pub hashes: Vec<ChangeHash>,
    /// Logs of the same document that a later epoch took the place of; they are gone.
    pub superseded: Vec<Actor>,
}

/// The gate of a node.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The fleet.
    pub fleet: &'a FleetId,
    /// What is in force.
    pub roster: &'a Roster,
}

enum Stop {
    Outcome(Outcome),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Store(error)
    }
}

fn refuse(reason: Reason, seq: u64) -> Stop {
    Stop::Outcome(Outcome::Refused { reason, seq, evidence: Vec::new() })
}

impl Gate<'_> {
    /// Judges a run; where it is admitted, its writes are in `staged`. `siblings` are the logs of the run's document
    /// that are stored.
    pub fn admit(&self, staged: &mut Staged<'_>, siblings: &[Actor], run: &Run) -> Result<Outcome, StoreError> {
        let (outcome, writes) = self.judge(staged, siblings, run)?;
        staged.append(writes);
        Ok(outcome)
    }

    /// Judges a run; with the writes, where it is admitted.
    pub fn judge(&self, store: &dyn LogStore, siblings: &[Actor], run: &Run) -> Result<(Outcome, Batch), StoreError> {
        let mut staged = Staged::new(store);
        match self.admit_staged(&mut staged, siblings, run) {
            Ok(admitted) => Ok((Outcome::Admitted(Box::new(admitted)), staged.into_batch())),
            Err(Stop::Outcome(outcome)) => Ok((outcome, Batch::default())),
            Err(Stop::Store(error)) => Err(error),
        }
    }

    fn admit_staged(&self, staged: &mut Staged<'_>, siblings: &[Actor], run: &Run) -> Result<Admitted, Stop> {
        check_shape(run)?;
        let authority = self.authority(&run.log).map_err(|reason| refuse(reason, run.first_seq))?;
        let actor = run.log.actor(self.fleet);
        let known: Option<LogRecord> = read_record(staged, Table::Meta, &meta_key(&actor))?;
        let superseded = superseded(staged, siblings, &actor, run)?;
        let (new, record) = self.vouch(staged, &actor, known, run)?;
        if let Some(wait) = authority {
            return Err(Stop::Outcome(Outcome::Waits(wait)));
        }
        for old in &superseded {
            drop_log(staged, old)?;
        }
        if !superseded.is_empty() {
            let (from, to, _) = index_range(&run.log.document);
            staged.delete_range(Table::Index, &from, &to)?;
        }
        let first_new = record.seq + 1;
        let mut admitted = Admitted { actor, first_new, record, hashes: Vec::with_capacity(new.len()), superseded };
        for (position, raw) in new.iter().enumerate() {
            let signature = (position + 1 == new.len()).then_some(run.signature);
            self.admit_change(staged, siblings, &mut admitted, raw, signature)?;
        }
        staged.put(Table::Meta, meta_key(&actor), encode_record(&admitted.record));
        Ok(admitted)
    }

    /// Whether the author may write the document: now (`None`), perhaps later, or never.
    fn authority(&self, log: &LogName) -> Result<Option<Wait>, Reason> {
        if log.document.kind().has_many_writers() {
            if log.epoch != 1 {
                return Err(Reason::Epoch(log.epoch));
            }
            let is_allowed = self.roster.has_role(&log.author, Role::Config);
            return Ok((!is_allowed).then_some(Wait::Authority));
        }
        let device = log.author.device();
        if log.document.device() != Some(device) || log.carrier != device {
            return Err(Reason::Author);
        }
        if log.epoch == 0 {
            return Err(Reason::Epoch(0));
        }
        match self.roster.standing(&device) {
            Standing::Member => Ok(None),
            Standing::Removed => Err(Reason::Removed),
            Standing::Contested | Standing::Unknown => Ok(Some(Wait::Authority)),
        }
    }

    /// Finds the changes that are new and checks that the signature vouches for them.
    fn vouch<'r>(
        &self,
        staged: &Staged<'_>,
        actor: &Actor,
        known: Option<LogRecord>,
        run: &'r Run,
    ) -> Result<(&'r [RawBytes], LogRecord), Stop> {
        let record = known.unwrap_or_else(|| empty_log(&run.log));
        if run.first_seq > record.seq + 1 {
            return Err(Stop::Outcome(Outcome::Waits(Wait::Log(*actor))));
        }
        let mut chain = match run.first_seq - 1 {
            seq if seq == record.seq => record.chain,
            seq => chain_at(staged, actor, seq)?,
        };
        let mut forked_at = None;
        for (seq, raw) in (run.first_seq..).zip(&run.changes) {
            let malformed = || refuse(Reason::Raw(RawError::Guard(raw::GuardError::Header)), seq);
            let hash = raw::hash_of(&raw.0).ok_or_else(malformed)?;
            chain = chain.next(&hash);
            if seq <= record.seq && forked_at.is_none() && chain_at(staged, actor, seq)? != chain {
                forked_at = Some((seq, raw));
            }
        }
        if forked_at.is_none() && run.last_seq() <= record.seq {
            return Err(Stop::Outcome(Outcome::Known));
        }
        let (author, last) = (&run.log.author, run.last_seq());
        let is_vouched = match self.roster.verifier(author) {
            Some(known) => is_vouched_by(known, self.fleet, actor, last, &chain, &run.signature),
            None => is_vouched(author, self.fleet, actor, last, &chain, &run.signature),
        };
        if !is_vouched {
            let reason = if run.first_seq == 1 { Reason::Signature } else { Reason::Branch };
            return Err(refuse(reason, run.first_seq));
        }
        if let Some((seq, raw)) = forked_at {
            let stored: Option<ChangeRecord> = read_record(staged, Table::Change, &change_key(actor, seq))?;
            let evidence = stored.into_iter().map(|record| record.raw).chain([raw.clone()]).collect();
            return Err(Stop::Outcome(Outcome::Refused { reason: Reason::Fork, seq, evidence }));
        }
        let skipped = usize::try_from(record.seq + 1 - run.first_seq).expect("a run has at most 32 changes");
        Ok((&run.changes[skipped..], record))
    }

    fn admit_change(
        &self,
        staged: &mut Staged<'_>,
        siblings: &[Actor],
        admitted: &mut Admitted,
        bytes: &RawBytes,
        signature: Option<crate::statement::SignatureBytes>,
    ) -> Result<(), Stop> {
        let seq = admitted.record.seq + 1;
        let change = raw::decode(&bytes.0).map_err(|error| refuse(Reason::Raw(error), seq))?;
        if change.actor != admitted.actor || change.seq != seq {
            return Err(refuse(Reason::Misplaced, seq));
        }
        check_message(&admitted.record.log, &change).map_err(|reason| refuse(reason, seq))?;
        let causes = causes(staged, siblings, admitted, &change)?;
        if change.start_op != causes.max_op + 1 {
            return Err(refuse(Reason::StartOp, seq));
        }
        let growth =
            index::apply(staged, &admitted.record.log.document, &change, &causes.past).map_err(
                |error| match error {
                    IndexError::Store(error) => Stop::Store(error),
                    error => refuse(Reason::Operation(error), seq),
                },
            )?;
        let record = &mut admitted.record;
        record.seq = seq;
        record.head = change.hash;
        record.chain = record.chain.next(&change.hash);
        record.max_op = change.max_op();
        record.raw_bytes += bytes.0.len() as u64;
        if !record.log.document.kind().has_many_writers() {
            record.values_bytes = record.values_bytes.saturating_add_signed(growth);
            check_epoch_limits(record).map_err(|reason| refuse(reason, seq))?;
        }
        stage_change(staged, &admitted.actor, record, causes.past, bytes, signature);
        admitted.hashes.push(change.hash);
        Ok(())
    }
}

fn check_shape(run: &Run) -> Result<(), Stop> {
    let is_countable = run.first_seq.checked_add(RUN_CHANGES_MAX as u64).is_some();
    // Logs of several writers build on each other: were a run of theirs to wait as a whole, two could wait for each
    // other for ever. So each of their changes travels with its own signature.
    let changes_max = if run.log.document.kind().has_many_writers() { 1 } else { RUN_CHANGES_MAX };
    let before_last: usize = run.changes.iter().rev().skip(1).map(|raw| raw.0.len()).sum();
    let is_long = run.changes.len() > changes_max || before_last > RUN_BYTES_MAX;
    if run.changes.is_empty() || is_long || run.first_seq == 0 || !is_countable {
        return Err(refuse(Reason::Run, run.first_seq));
    }
    match run.changes.iter().find(|raw| raw.0.len() > RAW_BYTES_MAX) {
        Some(raw) => Err(refuse(Reason::Size(raw.0.len()), run.first_seq)),
        None => Ok(()),
    }
}

fn empty_log(log: &LogName) -> LogRecord {
    LogRecord {
        log: log.clone(),
        seq: 0,
        head: ChangeHash([0; 32]),
        chain: ChainHash::START,
        max_op: 0,
        raw_bytes: 0,
        values_bytes: 0,
    }
}

fn chain_at(store: &dyn LogStore, actor: &Actor, seq: u64) -> Result<ChainHash, StoreError> {
    if seq == 0 {
        return Ok(ChainHash::START);
    }
    let key = change_key(actor, seq);
    let record: ChangeRecord = read_record(store, Table::Change, &key)?
        .ok_or_else(|| StoreError::Damaged { table: Table::Change, key: crate::id::hex(&key) })?;
    Ok(record.chain)
}

/// The logs that a run of a greater epoch takes the place of. The current log of a document of one writer is that of
/// the greatest (epoch, actor); a run below it is stale.
fn superseded(store: &dyn LogStore, siblings: &[Actor], actor: &Actor, run: &Run) -> Result<Vec<Actor>, Stop> {
    if run.log.document.kind().has_many_writers() {
        return Ok(Vec::new());
    }
    let mut superseded = Vec::new();
    for sibling in siblings.iter().filter(|sibling| *sibling != actor) {
        let Some(current) = read_record::<LogRecord>(store, Table::Meta, &meta_key(sibling))? else { continue };
        if (current.log.epoch, *sibling) > (run.log.epoch, *actor) {
            return Err(refuse(Reason::Stale, run.first_seq));
        }
        superseded.push(*sibling);
    }
    Ok(superseded)
}

/// Takes a log out of the store; its document's index is the caller's to mend.
pub(crate) fn drop_log(staged: &mut Staged<'_>, actor: &Actor) -> Result<(), StoreError> {
    let mut hashes = Vec::new();
    let (from, to) = (change_key(actor, 0), change_key(actor, u64::MAX));
    staged.scan(Table::Change, &from, &to, &mut |_, bytes| {
        if let Ok(record) = crate::store::decode_record::<ChangeRecord>(Table::Change, &from, bytes) {
            hashes.extend(raw::hash_of(&record.raw.0));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    staged.delete_range(Table::Change, &from, &to)?;
    for hash in hashes {
        staged.delete(Table::Hash, hash_key(&hash));
    }
    staged.delete(Table::Meta, meta_key(actor));
    Ok(())
}

/// Only the first change of a later epoch has a message: the seal of the epoch before.
fn check_message(log: &LogName, change: &RawChange) -> Result<(), Reason> {
    let needs_seal = change.seq == 1 && log.epoch > 1;
    match &change.message {
        None if needs_seal => Err(Reason::Message),
        Some(message) if needs_seal => message.parse::<Seal>().map(|_| ()).map_err(|_| Reason::Message),
        Some(_) => Err(Reason::Message),
        None => Ok(()),
    }
}

struct Causes {
    past: Past,
    max_op: u64,
}

/// Checks the dependencies; what lies in their past, and its greatest operation counter.
fn causes(staged: &Staged<'_>, siblings: &[Actor], admitted: &Admitted, change: &RawChange) -> Result<Causes, Stop> {
    let record = &admitted.record;
    if !record.log.document.kind().has_many_writers() {
        let is_chained = if record.seq == 0 { change.deps.is_empty() } else { change.deps == [record.head] };
        if !is_chained {
            return Err(refuse(Reason::Deps, change.seq));
        }
        return Ok(Causes { past: Past::Everything, max_op: record.max_op });
    }
    let mut deps: Vec<HashRecord> = Vec::with_capacity(change.deps.len());
    for hash in &change.deps {
        match read_record::<HashRecord>(staged, Table::Hash, &hash_key(hash))? {
            None => return Err(Stop::Outcome(Outcome::Waits(Wait::Change(*hash)))),
            Some(dep) if dep.actor != admitted.actor && !siblings.contains(&dep.actor) => {
                return Err(refuse(Reason::Deps, change.seq));
            }
            Some(dep) => deps.push(dep),
        }
    }
    let mut clock: BTreeMap<Actor, u64> = BTreeMap::new();
    for (actor, seq) in deps.iter().flat_map(|dep| &dep.clock) {
        let known = clock.entry(*actor).or_default();
        *known = (*known).max(*seq);
    }
    let is_redundant = |dep: &HashRecord| {
        let is_predecessor = dep.actor == admitted.actor && dep.seq == record.seq;
        let is_below = |other: &HashRecord| {
            (other.actor, other.seq) != (dep.actor, dep.seq)
                && other.clock.iter().any(|(actor, seq)| *actor == dep.actor && *seq >= dep.seq)
        };
        !is_predecessor && deps.iter().any(is_below)
    };
    let own = clock.get(&admitted.actor).copied().unwrap_or(0);
    if own != record.seq || deps.iter().any(is_redundant) {
        return Err(refuse(Reason::Deps, change.seq));
    }
    let max_op = deps.iter().map(|dep| dep.max_op).max().unwrap_or(0);
    Ok(Causes { past: Past::Clock(clock), max_op })
}

fn check_epoch_limits(record: &LogRecord) -> Result<(), Reason> {
    let is_full = record.seq > EPOCH_CHANGES_MAX
        || record.raw_bytes > EPOCH_RAW_BYTES_MAX
        || record.values_bytes > EPOCH_VALUES_BYTES_MAX;
    if is_full { Err(Reason::EpochFull) } else { Ok(()) }
}

fn stage_change(
    staged: &mut Staged<'_>,
    actor: &Actor,
    record: &LogRecord,
    past: Past,
    bytes: &RawBytes,
    signature: Option<crate::statement::SignatureBytes>,
) {
    let clock = match past {
        Past::Everything => Vec::new(),
        Past::Clock(mut clock) => {
            clock.insert(*actor, record.seq);
            clock.into_iter().collect()
        }
    };
    let hash = HashRecord { actor: *actor, seq: record.seq, max_op: record.max_op, clock };
    let change = ChangeRecord { raw: bytes.clone(), chain: record.chain, signature };
    staged.put(Table::Hash, hash_key(&record.head), encode_record(&hash));
    staged.put(Table::Change, change_key(actor, record.seq), encode_record(&change));
}

/// Whether documents of this kind start new epochs by themselves.
pub fn has_epochs(kind: Kind) -> bool {
    !kind.has_many_writers()
}

#[cfg(test)]
mod tests;
