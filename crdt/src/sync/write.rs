//! Writing here: this device's own changes, operators' changes in two steps, statements.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use super::replica::Settled;
use super::{After, Edit, Engine, Reply, RequestId};
use crate::admission::{EPOCH_CHANGES_MAX, EPOCH_RAW_BYTES_MAX, Outcome, Seal, values_hash};
use crate::change::{LogName, PreparedChange, Run, sign};
use crate::id::{Actor, ChainHash, Key, Time};
use crate::index::{Past, read_key, visible_of};
use crate::raw::{Action, DEPS_MAX, NewChange, OPERATIONS_MAX, OpId, Operation, TIME_MAX_S, encode, hash_of};
use crate::schema::{DocumentName, Value, check_path, paths_clash};
use crate::statement::{Role, SignatureBytes, SignedStatement, StatementParts};
use crate::store::{
    ChangeRecord, Durability, HashRecord, LogRecord, Staged, StoreError, Table, change_key, hash_key, meta_key,
    read_record,
};
use crate::view::{self, View};

/// A document of one writer starts a new epoch when its log comes this close to a limit that refuses.
const EPOCH_MARGIN_CHANGES: u64 = 96;
const EPOCH_MARGIN_BYTES: u64 = 48 * 1024;

enum Built {
    Change(Box<PreparedChange>),
    Unchanged,
    Refused(String),
}

impl Engine {
    pub(super) fn write(
        &mut self,
        staged: &mut Staged<'_>,
        request: RequestId,
        document: &DocumentName,
        edits: &[Edit],
    ) -> Result<(), StoreError> {
        if document.device() != Some(self.device) {
            self.reply(request, Reply::Refused(format!("{document} is not a document of this device")));
            return Ok(());
        }
        if let Err(reason) = check_edits(edits) {
            self.reply(request, Reply::Refused(reason));
            return Ok(());
        }
        let prepared = match self.build_own(staged, document, edits)? {
            Built::Change(prepared) => *prepared,
            Built::Unchanged => {
                self.reply(request, Reply::Unchanged);
                return Ok(());
            }
            Built::Refused(reason) => {
                self.reply(request, Reply::Refused(reason));
                return Ok(());
            }
        };
        let signature = self.signature(&self.config.key, &prepared);
        self.take_local(staged, request, prepared, signature)
    }

    fn signature(&self, key: &SigningKey, prepared: &PreparedChange) -> SignatureBytes {
        let actor = prepared.log.actor(&self.config.fleet);
        let hash = prepared.hash().expect("a change that was just encoded has a header");
        sign(key, &self.config.fleet, &actor, prepared.seq, &prepared.chain_before.next(&hash))
    }

    /// The next change of a document of this device. Where the log is another incarnation's or nearly full, it opens
    /// the next epoch with all current values.
    fn build_own(&self, staged: &Staged<'_>, document: &DocumentName, edits: &[Edit]) -> Result<Built, StoreError> {
        let current = self.current_log(staged, document)?;
        let Some(current) = current else {
            let fresh: Vec<Operation> =
                edits.iter().filter_map(|edit| put(&edit.path, edit.value.clone()?, &[])).collect();
            return Ok(self.finish_change(self.own_log(document, 1), None, None, fresh));
        };
        let has_room = current.seq + EPOCH_MARGIN_CHANGES <= EPOCH_CHANGES_MAX
            && current.raw_bytes + EPOCH_MARGIN_BYTES <= EPOCH_RAW_BYTES_MAX;
        if current.log.incarnation == self.config.incarnation && has_room {
            let operations = operations(staged, document, edits, &Past::Everything)?;
            return Ok(self.finish_change(current.log.clone(), Some(current), None, operations));
        }
        let values = values_of(staged, document)?;
        let mut edited = values.clone();
        for edit in edits {
            match &edit.value {
                Some(value) => edited.insert(edit.path.clone(), value.clone()),
                None => edited.remove(&edit.path),
            };
        }
        if edited == values && has_room {
            return Ok(Built::Unchanged);
        }
        self.build_epoch(staged, &current, edited)
    }

    /// The first change of the epoch after `current`, with all values and the seal of the epoch before.
    fn build_epoch(
        &self,
        staged: &Staged<'_>,
        current: &LogRecord,
        values: BTreeMap<String, Value>,
    ) -> Result<Built, StoreError> {
        let document = &current.log.document;
        let seal = Seal {
            actor: current.log.actor(&self.config.fleet),
            last_seq: current.seq,
            chain: current.chain,
            values: values_hash(&view::read(staged, document, "")?)?,
        };
        let all = values.into_iter().filter_map(|(path, value)| put(&path, value, &[])).collect();
        let log = self.own_log(document, current.log.epoch + 1);
        Ok(self.finish_change(log, None, Some(seal.to_string()), all))
    }

    fn own_log(&self, document: &DocumentName, epoch: u64) -> LogName {
        LogName {
            document: document.clone(),
            epoch,
            author: Key(self.config.key.verifying_key().to_bytes()),
            carrier: self.device,
            incarnation: self.config.incarnation,
        }
    }

    /// Starts the next epoch of a document of this device with the values that it has.
    pub(super) fn write_epoch(&mut self, staged: &mut Staged<'_>, document: &DocumentName) -> Result<(), StoreError> {
        let Some(current) = self.current_log(staged, document)? else { return Ok(()) };
        if let Built::Change(prepared) = self.build_epoch(staged, &current, values_of(staged, document)?)? {
            let signature = self.signature(&self.config.key, &prepared);
            if let Reply::Refused(reason) = self.admit_local(staged, *prepared, signature)? {
                tracing::warn!(%document, %reason, "no new epoch was started");
            }
        }
        Ok(())
    }

    pub(super) fn current_log(
        &self,
        staged: &Staged<'_>,
        document: &DocumentName,
    ) -> Result<Option<LogRecord>, StoreError> {
        match self.replica.logs.of_document(document).first() {
            Some(actor) => read_record(staged, Table::Meta, &meta_key(actor)),
            None => Ok(None),
        }
    }

    fn finish_change(
        &self,
        log: LogName,
        current: Option<LogRecord>,
        message: Option<String>,
        operations: Vec<Operation>,
    ) -> Built {
        let deps = current.as_ref().map(|current| vec![current.head]).unwrap_or_default();
        let max_op = current.as_ref().map_or(0, |current| current.max_op);
        self.encode_change(log, current, deps, max_op, message, operations)
    }

    fn encode_change(
        &self,
        log: LogName,
        current: Option<LogRecord>,
        deps: Vec<crate::id::ChangeHash>,
        max_op: u64,
        message: Option<String>,
        operations: Vec<Operation>,
    ) -> Built {
        if operations.is_empty() {
            return Built::Unchanged;
        }
        if operations.len() as u64 > OPERATIONS_MAX {
            return Built::Refused(format!("one change sets at most {OPERATIONS_MAX} values"));
        }
        let seq = current.as_ref().map_or(0, |current| current.seq) + 1;
        let new = NewChange {
            actor: log.actor(&self.config.fleet),
            seq,
            start_op: max_op + 1,
            time_s: i64::try_from(self.wall_ms / 1000).unwrap_or(TIME_MAX_S).min(TIME_MAX_S),
            message,
            deps,
            operations,
        };
        let chain_before = current.map_or(ChainHash::START, |current| current.chain);
        match encode(&new) {
            Some(raw) => {
                Built::Change(Box::new(PreparedChange { log, seq, chain_before, raw: crate::change::RawBytes(raw) }))
            }
            None => Built::Refused("the operation counter is at its end".to_owned()),
        }
    }

    pub(super) fn prepare(
        &mut self,
        staged: &mut Staged<'_>,
        request: RequestId,
        document: &DocumentName,
        author: Key,
        edits: &[Edit],
    ) -> Result<(), StoreError> {
        let reply = match self.check_operator(document, &author, edits) {
            Err(reason) => Reply::Refused(reason),
            Ok(()) => match self.build_operators(staged, document, author, edits)? {
                Built::Change(prepared) => Reply::Prepared(prepared),
                Built::Unchanged => Reply::Unchanged,
                Built::Refused(reason) => Reply::Refused(reason),
            },
        };
        self.reply(request, reply);
        Ok(())
    }

    fn check_operator(&self, document: &DocumentName, author: &Key, edits: &[Edit]) -> Result<(), String> {
        if !document.kind().has_many_writers() {
            return Err(format!("{document} is written by its device alone"));
        }
        if !self.replica.roster().has_role(author, Role::Config) {
            return Err(format!("the operator {} has not the role config in this fleet", author.short()));
        }
        check_edits(edits)
    }

    fn build_operators(
        &self,
        staged: &Staged<'_>,
        document: &DocumentName,
        author: Key,
        edits: &[Edit],
    ) -> Result<Built, StoreError> {
        let view = view::read(staged, document, "")?;
        if let Some(clash) = find_clash(&view, edits) {
            return Ok(Built::Refused(clash));
        }
        let log = LogName {
            document: document.clone(),
            epoch: 1,
            author,
            carrier: self.device,
            incarnation: self.config.incarnation,
        };
        let actor = log.actor(&self.config.fleet);
        let current: Option<LogRecord> = read_record(staged, Table::Meta, &meta_key(&actor))?;
        let heads = view::head_records(staged, &self.replica.logs.of_document(document))?;
        let (heads, past) = build_on(staged, heads, current.as_ref())?;
        let max_op = heads.iter().map(|head| head.max_op).max().unwrap_or(0);
        let mut deps: Vec<_> = heads.iter().map(|head| head.head).collect();
        deps.sort_unstable();
        let operations = operations(staged, document, edits, &past)?;
        Ok(self.encode_change(log, current, deps, max_op, None, operations))
    }

    pub(super) fn submit(
        &mut self,
        _now: Time,
        staged: &mut Staged<'_>,
        request: RequestId,
        change: PreparedChange,
        signature: SignatureBytes,
    ) -> Result<(), StoreError> {
        let actor = change.log.actor(&self.config.fleet);
        let seq = self.replica.logs.get(&actor).map_or(0, |state| state.seq);
        if change.seq <= seq {
            let reply = self.submitted_before(staged, &actor, change)?;
            self.after.push(After::Reply(request, reply));
            return Ok(());
        }
        if change.log.carrier != self.device {
            let reason = "the change was prepared by another node".to_owned();
            self.reply(request, Reply::Refused(reason));
            return Ok(());
        }
        if change.log.incarnation != self.config.incarnation {
            self.reply(request, Reply::Ended);
            return Ok(());
        }
        self.take_local(staged, request, change, signature)
    }

    /// The sequence number is taken: by the same bytes, then all is well; or by others, then those are the answer.
    fn submitted_before(
        &self,
        staged: &Staged<'_>,
        actor: &Actor,
        change: PreparedChange,
    ) -> Result<Reply, StoreError> {
        let stored: Option<ChangeRecord> = read_record(staged, Table::Change, &change_key(actor, change.seq))?;
        Ok(match stored {
            Some(stored) if stored.raw == change.raw => Reply::Written { actor: *actor, seq: change.seq },
            Some(ChangeRecord { raw, signature: Some(signature), .. }) => {
                let before: Option<ChangeRecord> = match change.seq {
                    1 => None,
                    seq => read_record(staged, Table::Change, &change_key(actor, seq - 1))?,
                };
                let chain_before = before.map_or(ChainHash::START, |before| before.chain);
                Reply::Conflict(Box::new(PreparedChange { raw, chain_before, ..change }), signature)
            }
            _ => Reply::Refused("the log is damaged there".to_owned()),
        })
    }

    /// Admits a change that was made here; answered once it is synced to disk.
    fn take_local(
        &mut self,
        staged: &mut Staged<'_>,
        request: RequestId,
        change: PreparedChange,
        signature: SignatureBytes,
    ) -> Result<(), StoreError> {
        match self.admit_local(staged, change, signature)? {
            reply @ Reply::Written { .. } => self.after.push(After::Reply(request, reply)),
            reply => self.reply(request, reply),
        }
        Ok(())
    }

    /// Admits a change that was made here. The reply counts once what is staged is synced to disk.
    fn admit_local(
        &mut self,
        staged: &mut Staged<'_>,
        change: PreparedChange,
        signature: SignatureBytes,
    ) -> Result<Reply, StoreError> {
        if hash_of(&change.raw.0).is_none() {
            return Ok(Reply::Refused("not an Automerge change".to_owned()));
        }
        let run = Run { log: change.log, first_seq: change.seq, changes: vec![change.raw], signature };
        let actor = run.log.actor(&self.config.fleet);
        Ok(match self.replica.admit(staged, &run)? {
            Outcome::Admitted(admitted) => {
                self.durability = Durability::Synced;
                self.forget_logs(&admitted.superseded);
                let seq = admitted.record.seq;
                self.after.push(After::AnnounceLog(actor, seq, None));
                Reply::Written { actor, seq }
            }
            Outcome::Known => Reply::Unchanged,
            Outcome::Waits(_) => {
                let reason = "this device is not a member of the fleet, or the change skips a sequence number";
                Reply::Refused(reason.to_owned())
            }
            Outcome::Refused { reason, .. } => Reply::Refused(reason.to_string()),
        })
    }

    pub(super) fn submit_statements(
        &mut self,
        now: Time,
        staged: &mut Staged<'_>,
        request: RequestId,
        statements: Vec<StatementParts>,
    ) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        for parts in statements {
            let signed = match SignedStatement::from_parts(parts) {
                Ok(signed) => signed,
                Err(error) => return self.refuse_statement(request, error.to_string()),
            };
            ids.push(signed.id());
            match self.replica.settle(staged, &signed) {
                Settled::Stored(id, devices) => {
                    self.durability = Durability::Synced;
                    let own = self.origins.intern(&self.device);
                    self.after.push(After::AnnounceStatement(id, Some(own), None));
                    self.statement_stored(now, staged, id, &devices)?;
                }
                Settled::Known => {}
                Settled::Pending => {
                    let kind = signed.statement().kind.clone();
                    let reason = format!("no signer may sign a {kind} statement here, or what it replaces is unknown");
                    return self.refuse_statement(request, reason);
                }
                Settled::Refused(reason) => return self.refuse_statement(request, reason.to_owned()),
            }
        }
        self.after.push(After::Reply(request, Reply::Stored(ids)));
        Ok(())
    }

    fn refuse_statement(&mut self, request: RequestId, reason: String) -> Result<(), StoreError> {
        self.reply(request, Reply::Refused(reason));
        Ok(())
    }
}

fn values_of(staged: &Staged<'_>, document: &DocumentName) -> Result<BTreeMap<String, Value>, StoreError> {
    Ok(view::read(staged, document, "")?.into_iter().map(|(path, entry)| (path, entry.read.value)).collect())
}

fn check_edits(edits: &[Edit]) -> Result<(), String> {
    for (at, edit) in edits.iter().enumerate() {
        check_path(&edit.path).map_err(|error| error.to_string())?;
        if let Some(value) = &edit.value {
            value.check().map_err(|error| format!("{}: {error}", edit.path))?;
        }
        if edits[..at].iter().any(|other| other.path == edit.path) {
            return Err(format!("{} is given twice", edit.path));
        }
    }
    Ok(())
}

/// A path that is set cannot be a part of the way to another, or the document would not nest.
fn find_clash(view: &View, edits: &[Edit]) -> Option<String> {
    let removed: Vec<&str> = edits.iter().filter(|edit| edit.value.is_none()).map(|edit| edit.path.as_str()).collect();
    let set: Vec<&str> = edits.iter().filter(|edit| edit.value.is_some()).map(|edit| edit.path.as_str()).collect();
    let kept = view.keys().map(String::as_str).filter(|path| !removed.contains(path));
    let others: Vec<&str> = kept.chain(set.iter().copied()).collect();
    for path in set {
        if let Some(other) = others.iter().find(|other| paths_clash(path, other)) {
            return Some(format!("{path} and {other} cannot both have a value: one is a part of the way to the other"));
        }
    }
    None
}

fn put(path: &str, value: Value, pred: &[OpId]) -> Option<Operation> {
    Some(Operation { path: path.to_owned(), action: Action::Put(value), pred: pred.to_vec() })
}

/// The heads that a change builds on, its own predecessor always among them as Automerge has it, and what is in their
/// past. A change has at most [`DEPS_MAX`] dependencies: of more heads the latest are taken, and the change is
/// concurrent with the others.
fn build_on(
    staged: &Staged<'_>,
    mut heads: Vec<LogRecord>,
    current: Option<&LogRecord>,
) -> Result<(Vec<LogRecord>, Past), StoreError> {
    let is_bounded = heads.len() >= DEPS_MAX;
    if is_bounded {
        heads.sort_by_key(|head| std::cmp::Reverse((head.max_op, head.head)));
        heads.truncate(DEPS_MAX - 1);
    }
    if let Some(current) = current.filter(|current| heads.iter().all(|head| head.head != current.head)) {
        heads.push(current.clone());
    }
    if !is_bounded {
        return Ok((heads, Past::Everything));
    }
    let mut clock: BTreeMap<Actor, u64> = BTreeMap::new();
    for head in &heads {
        let record: Option<HashRecord> = read_record(staged, Table::Hash, &hash_key(&head.head))?;
        for (actor, seq) in record.into_iter().flat_map(|record| record.clock) {
            let known = clock.entry(actor).or_default();
            *known = seq.max(*known);
        }
    }
    Ok((heads, Past::Clock(clock)))
}

/// The operations that edits ask for, against what is visible in a past; an equal value that nothing contests writes none.
fn operations(
    staged: &Staged<'_>,
    document: &DocumentName,
    edits: &[Edit],
    past: &Past,
) -> Result<Vec<Operation>, StoreError> {
    let mut operations = Vec::new();
    for edit in edits {
        let leaves = read_key(staged, document, &edit.path)?.leaves;
        let visible: Vec<_> = leaves.iter().filter(|leaf| leaf.value.is_some()).collect();
        let pred = visible_of(staged, document, &edit.path, &leaves, past)?;
        match &edit.value {
            Some(value) if visible.len() == 1 && visible[0].value.as_ref() == Some(value) => {}
            Some(value) => operations.extend(put(&edit.path, value.clone(), &pred)),
            None if pred.is_empty() => {}
            None => operations.push(Operation { path: edit.path.clone(), action: Action::Delete, pred }),
        }
    }
    Ok(operations)
}
