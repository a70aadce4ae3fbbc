//! What a node holds: statements, logs, documents and the roots over them.
//!
//! Memory runs ahead of the store by the batch that is being staged; the driver applies it before the next input.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::admission::{Gate, Outcome, drop_log};
use crate::change::{LogName, RUN_BYTES_MAX, RUN_CHANGES_MAX, Run};
use crate::id::{Actor, DeviceId, FleetId, Key, Root, StatementId};
use crate::root::{Digests, Item};
use crate::roster::{Entry, Judgement, Roster, Standing};
use crate::schema::DocumentName;
use crate::statement::{Body, SignedStatement, StatementParts};
use crate::store::{
    AuditRecord, Batch, ChangeRecord, LogRecord, LogStore, OrderRecord, Staged, StoreError, Table, change_key,
    decode_record, encode_record, index_range, meta_key, position_key, read_record, statement_key,
};

mod logs;
mod order;
mod tree;

use super::frame::Place;
pub(crate) use logs::LogId;
pub use logs::{Log, LogState, Logs};
use order::SETTING_CLOSED;
pub(crate) use order::Since;
pub(crate) use tree::Tree;
use tree::{All, Durable};

const SETTING_AUDIT: &[u8] = b"audit";
/// Most audit events that are kept; the oldest give way.
pub const AUDIT_MAX: u64 = 4096;

/// Why a replica cannot be opened. Nothing was changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored statement does not verify.
    #[error("the stored statement {0} is damaged")]
    Statement(StatementId),
    /// A log's last change is missing.
    #[error("the log {actor} of {document} lacks its change {seq}")]
    Log {
        /// The document.
        document: DocumentName,
        /// The log.
        actor: Actor,
        /// The change.
        seq: u64,
    },
}

/// What becomes of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settled {
    /// Staged; these devices' standing may have changed.
    Stored(StatementId, Vec<DeviceId>),
    Known,
    Pending,
    Refused(&'static str),
}

/// Statements, logs and documents of a node.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Shared by the copies of a replica, like who signed what, until they change it.
    pub(crate) roster: Arc<Roster>,
    pub(crate) logs: Logs,
    /// Who signed which statement, by bucket of the tree.
    signatures: Arc<BTreeSet<(u16, StatementId, Key)>>,
    digests: Digests,
    durable_digests: Digests,
    generation: u64,
    /// Who may know a place in the order under its name; anyone, where that was kept over a start.
    told: Option<BTreeSet<DeviceId>>,
    /// Whether the store still says that the order was closed.
    is_closed: bool,
    order_next: u64,
    /// Up to where this node has everything of its peers' orders.
    cursors: BTreeMap<DeviceId, Place>,
    audit_next: u64,
    /// Statements that are staged and not reported as written yet, with how often: they are told to nobody.
    unstored_statements: BTreeMap<StatementId, u32>,
    /// Logs whose last change was damaged when the replica was opened.
    damaged: Vec<Actor>,
}

impl Replica {
    /// Reads a replica from a store. `generation` names its order of admission from now on, unless it was stopped in good
    /// order and nobody can have been told of what is lost.
    pub fn open(fleet: FleetId, store: &dyn LogStore, generation: u64) -> Result<Replica, OpenError> {
        let closed = read_record(store, Table::Setting, SETTING_CLOSED)?;
        let mut replica = Replica {
            roster: Arc::new(Roster::new(fleet)),
            logs: Logs::default(),
            signatures: Arc::default(),
            digests: Digests::default(),
            durable_digests: Digests::default(),
            generation: closed.unwrap_or(generation),
            told: closed.is_none().then(BTreeSet::new),
            is_closed: closed.is_some(),
            order_next: 0,
            cursors: BTreeMap::new(),
            audit_next: read_record(store, Table::Setting, SETTING_AUDIT)?.unwrap_or(0),
            unstored_statements: BTreeMap::new(),
            damaged: Vec::new(),
        };
        replica.load_statements(store)?;
        replica.load_logs(store)?;
        replica.load_order(store)?;
        replica.load_cursors(store)?;
        Ok(replica)
    }

    fn load_statements(&mut self, store: &dyn LogStore) -> Result<(), OpenError> {
        let mut waiting: Vec<SignedStatement> = Vec::new();
        for (key, parts) in all_records::<StatementParts>(store, Table::Statement)? {
            let id = StatementId(key.try_into().unwrap_or([0; 32]));
            waiting.push(SignedStatement::from_parts(parts).map_err(|_| OpenError::Statement(id))?);
        }
        // What a statement rests on may have a greater id: judge until nothing more is stored.
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|signed| match self.roster.judge(signed) {
                Judgement::Store(signed) => {
                    self.note_signatures(&signed);
                    Arc::make_mut(&mut self.roster).insert(*signed);
                    false
                }
                _ => true,
            });
            if let Some(stuck) = waiting.first().filter(|_| waiting.len() == before) {
                return Err(OpenError::Statement(stuck.id()));
            }
        }
        Ok(())
    }

    fn load_logs(&mut self, store: &dyn LogStore) -> Result<(), OpenError> {
        let mut failure = None;
        store.scan(Table::Meta, &[], &[0xff; 33], &mut |key, value| {
            let noted = decode_record(Table::Meta, key, value).map_err(OpenError::from);
            match noted.and_then(|record| self.load_log(store, &record)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn load_log(&mut self, store: &dyn LogStore, record: &LogRecord) -> Result<(), OpenError> {
        let actor = record.log.actor(&self.roster.fleet());
        if !self.has_whole_tail(store, record)? {
            self.damaged.push(actor);
        }
        self.note_log(actor, record);
        self.logs.set_stored(&actor, record.seq);
        Ok(())
    }

    /// Whether a log's last change is what was admitted. One that is missing means a store that tore a batch, on which
    /// nothing can be built; one that is there and damaged costs no more than itself: the log's head and chain stand
    /// beside it, and others have the change.
    fn has_whole_tail(&self, store: &dyn LogStore, record: &LogRecord) -> Result<bool, OpenError> {
        let actor = record.log.actor(&self.roster.fleet());
        let missing = || OpenError::Log { document: record.log.document.clone(), actor, seq: record.seq };
        match read_record::<ChangeRecord>(store, Table::Change, &change_key(&actor, record.seq)) {
            Ok(tail) => {
                let tail = tail.ok_or_else(missing)?;
                Ok(crate::raw::hash_of(&tail.raw.0) == Some(record.head) && tail.chain == record.chain)
            }
            Err(StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn note_log(&mut self, actor: Actor, record: &LogRecord) {
        self.logs.set(actor, record);
        self.touch(&Item::Log(actor), record.log.document.kind().has_many_writers());
    }

    fn forget_log(&mut self, staged: &mut Staged<'_>, actor: &Actor) {
        let Some(log) = self.logs.get(actor) else { return };
        staged.delete(Table::Order, position_key(log.position()));
        let is_durable = log.kind().has_many_writers();
        self.logs.remove(actor);
        self.touch(&Item::Log(*actor), is_durable);
    }

    fn note_signatures(&mut self, signed: &SignedStatement) {
        for signer in signed.signatures().keys() {
            let item = Item::Statement(signed.id(), *signer);
            Arc::make_mut(&mut self.signatures).insert((item.bucket(), signed.id(), *signer));
            self.touch(&item, true);
        }
    }

    /// An item of the tree has changed.
    fn touch(&mut self, item: &Item, is_durable: bool) {
        self.digests.touch(item.bucket());
        if is_durable {
            self.durable_digests.touch(item.bucket());
        }
    }

    /// Judges a run and, where it is admitted, stages it and takes it into memory.
    pub(crate) fn admit(&mut self, staged: &mut Staged<'_>, run: &Run) -> Result<Outcome, StoreError> {
        let fleet = self.roster.fleet();
        let gate = Gate { fleet: &fleet, roster: &self.roster };
        let siblings = self.logs.of_document(&run.log.document);
        let (outcome, writes) = gate.judge(staged, &siblings, run)?;
        self.take(staged, &outcome, writes);
        Ok(outcome)
    }

    /// Stages what was judged of a run and, where it is admitted, takes it into memory.
    pub(crate) fn take(&mut self, staged: &mut Staged<'_>, outcome: &Outcome, writes: Batch) {
        staged.append(writes);
        if let Outcome::Admitted(admitted) = outcome {
            for old in &admitted.superseded {
                self.forget_log(staged, old);
            }
            let is_new = self.logs.get(&admitted.actor).is_none();
            self.note_log(admitted.actor, &admitted.record);
            self.append_log(staged, admitted.actor, is_new);
        }
    }

    /// Judges a statement and, where it counts, stages it and takes it into memory.
    pub(crate) fn settle(&mut self, staged: &mut Staged<'_>, signed: &SignedStatement) -> Settled {
        match self.roster.judge(signed) {
            Judgement::Known => Settled::Known,
            Judgement::Pending(_) => Settled::Pending,
            Judgement::Refused(reason) => Settled::Refused(reason),
            Judgement::Store(merged) => {
                let id = merged.id();
                staged.put(Table::Statement, statement_key(&id), encode_record(&merged.parts()));
                self.note_signatures(&merged);
                self.append_order(staged, &OrderRecord::Statement(id));
                *self.unstored_statements.entry(id).or_default() += 1;
                Settled::Stored(id, Arc::make_mut(&mut self.roster).insert(*merged))
            }
        }
    }

    /// The store has reported a statement as written.
    pub(crate) fn statement_is_stored(&mut self, id: &StatementId) {
        let Some(staged) = self.unstored_statements.get_mut(id) else { return };
        *staged -= 1;
        if *staged == 0 {
            self.unstored_statements.remove(id);
        }
    }

    /// The statements that may be told to others: those that the store has reported as written.
    pub(crate) fn stored_statements(&self) -> impl Iterator<Item = (&StatementId, &Entry)> {
        let entries = self.roster.entries().iter().map(|(id, entry)| (id, entry.as_ref()));
        entries.filter(|(id, _)| !self.unstored_statements.contains_key(id))
    }

    /// A statement, where it may be told to others.
    pub(crate) fn stored_statement(&self, id: &StatementId) -> Option<&Entry> {
        self.roster.entries().get(id).map(AsRef::as_ref).filter(|_| !self.unstored_statements.contains_key(id))
    }

    /// Takes a device's documents out of views and roots, where it is no member any more; they are kept as stranded.
    /// Returns the logs.
    pub(crate) fn strand(&mut self, staged: &mut Staged<'_>, device: &DeviceId) -> Result<Vec<Actor>, StoreError> {
        let of_device = |log: &LogName| log.author.device() == *device && !log.document.kind().has_many_writers();
        let logs = self.logs.iter().map(|log| (log.actor(), log.name())).filter(|(_, name)| of_device(name));
        let logs: Vec<(Actor, DocumentName)> = logs.map(|(actor, name)| (actor, name.document)).collect();
        for (actor, document) in &logs {
            if let Some(record) = staged.get(Table::Meta, &meta_key(actor))? {
                staged.put(Table::Stranded, meta_key(actor), record);
            }
            let mut changes = Vec::new();
            staged.scan(Table::Change, &change_key(actor, 0), &change_key(actor, u64::MAX), &mut |key, value| {
                changes.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
            for (key, value) in changes {
                staged.put(Table::Stranded, key, value);
            }
            drop_log(staged, actor)?;
            let (from, to, _) = index_range(document);
            staged.delete_range(Table::Index, &from, &to)?;
            self.forget_log(staged, actor);
        }
        Ok(logs.into_iter().map(|(actor, _)| actor).collect())
    }

    /// The stranded runs of a device that is a member (again); they leave the table.
    pub(crate) fn unstrand(&self, staged: &mut Staged<'_>, device: &DeviceId) -> Result<Vec<Run>, StoreError> {
        let mut logs: Vec<LogRecord> = Vec::new();
        staged.scan(Table::Stranded, &[], &[0xff; 25], &mut |key, value| {
            if key.len() == 16
                && let Ok(record) = decode_record::<LogRecord>(Table::Stranded, key, value)
                && record.log.author.device() == *device
            {
                logs.push(record);
            }
            ControlFlow::Continue(())
        })?;
        let mut runs = Vec::new();
        for record in logs {
            let actor = record.log.actor(&self.roster.fleet());
            let mut first = 1;
            while let Some(run) = read_run(staged, Table::Stranded, &record.log, &actor, first, record.seq)? {
                first = run.last_seq() + 1;
                runs.push(run);
            }
            staged.delete_range(Table::Stranded, &actor.0, &change_key(&actor, u64::MAX))?;
        }
        Ok(runs)
    }

    /// Stages an audit event; whoever makes this node refuse things fills no disk.
    pub(crate) fn audit(&mut self, staged: &mut Staged<'_>, record: &AuditRecord) {
        staged.put(Table::Audit, position_key(self.audit_next), encode_record(record));
        if let Some(oldest) = self.audit_next.checked_sub(AUDIT_MAX) {
            staged.delete(Table::Audit, position_key(oldest));
        }
        self.audit_next += 1;
        staged.put(Table::Setting, SETTING_AUDIT, encode_record(&self.audit_next));
    }

    /// The root over everything.
    pub fn root(&self) -> Root {
        self.digests.root(&All(self))
    }

    /// The root over statements and operators' documents.
    pub fn root_durable(&self) -> Root {
        self.durable_digests.root(&Durable(self))
    }

    /// What is in force.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// All logs, and so all documents.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Logs whose last change was damaged when the replica was opened.
    pub fn damaged(&self) -> impl Iterator<Item = Log<'_>> {
        self.damaged.iter().filter_map(|actor| self.logs.get(actor))
    }

    /// Where this order of admission stands, what is not stored yet included.
    pub fn order(&self) -> Place {
        Place { generation: self.generation, position: self.order_next }
    }

    /// The items that are compared with others'.
    pub(crate) fn tree(&self) -> Tree<'_> {
        Tree(self)
    }

    /// Where a device stands.
    pub fn standing(&self, device: &DeviceId) -> Standing {
        self.roster.standing(device)
    }

    /// Whether a statement gives roles.
    pub(crate) fn is_role(&self, id: &StatementId) -> bool {
        let body = self.roster.entries().get(id).map(|entry| &entry.body);
        matches!(body, Some(Body::Root(_) | Body::Operator(_)))
    }

    /// Whether a statement is a pin.
    pub(crate) fn is_pin(&self, id: &StatementId) -> bool {
        self.roster.entries().get(id).is_some_and(|entry| matches!(entry.body, Body::Pin(_)))
    }
}

/// The longest run of a log from `first` on, up to `last`, that ends at a signed change. `None` where there is none.
pub fn read_run(
    store: &dyn LogStore,
    table: Table,
    log: &LogName,
    actor: &Actor,
    first: u64,
    last: u64,
) -> Result<Option<Run>, StoreError> {
    read_run_within(store, (table, RUN_BYTES_MAX), log, actor, first, last)
}

/// The same, of at most so many bytes of changes where a shorter one ends at a signed change.
pub(crate) fn read_run_within(
    store: &dyn LogStore,
    (table, bytes_max): (Table, usize),
    log: &LogName,
    actor: &Actor,
    first: u64,
    last: u64,
) -> Result<Option<Run>, StoreError> {
    let changes_max = if log.document.kind().has_many_writers() { 1 } else { RUN_CHANGES_MAX };
    let mut records: Vec<ChangeRecord> = Vec::new();
    let mut bytes = 0;
    let mut failure = None;
    if first > last {
        return Ok(None);
    }
    store.scan(table, &change_key(actor, first), &change_key(actor, last + 1), &mut |key, value| {
        match decode_record::<ChangeRecord>(table, key, value) {
            Ok(record) => {
                bytes += record.raw.0.len();
                let is_over =
                    bytes > bytes_max.min(RUN_BYTES_MAX) && records.iter().any(|record| record.signature.is_some());
                if is_over {
                    return ControlFlow::Break(());
                }
                records.push(record);
            }
            Err(error) => failure = Some(error),
        }
        if failure.is_some() || records.len() >= changes_max {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let Some(end) = records.iter().rposition(|record| record.signature.is_some()) else { return Ok(None) };
    records.truncate(end + 1);
    let Some(signature) = records.last().and_then(|record| record.signature) else { return Ok(None) };
    let changes = records.into_iter().map(|record| record.raw).collect();
    Ok(Some(Run { log: log.clone(), first_seq: first, changes, signature }))
}

fn all_records<T: serde::de::DeserializeOwned>(
    store: &dyn LogStore,
    table: Table,
) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
    let mut records = Vec::new();
    let mut failure = None;
    store.scan(table, &[], &[0xff; 33], &mut |key, value| match decode_record(table, key, value) {
        Ok(record) => {
            records.push((key.to_vec(), record));
            ControlFlow::Continue(())
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(records), Err)
}
