//! The oracles: what must hold of every run, whatever is done to the fleet (DESIGN 6).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use automerge::{Automerge, Change, ROOT, ReadDoc, ScalarValue, Value as Held};
use crdt::id::{Actor, Root};
use crdt::raw::hash_of;
use crdt::roster::Standing;
use crdt::schema::{DocumentName, Value};
use crdt::store::{ChangeRecord, LogStore, Table, change_key, decode_record, read_record};
use crdt::sync::{AUDIT_MAX, Engine};
use crdt::view::{self, View};

use super::world::World;

/// Documents whose views are compared at most, spread over all.
const VIEWS_MAX: usize = 64;

/// A property that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Oracle {
    /// Equal sets of changes and statements have equal roots, heads and views.
    EqualSets,
    /// Nothing that was acknowledged is lost.
    NothingLost,
    /// After the faults the roots are equal within the bound.
    HealsInTime,
    /// Once all are equal, no payload is sent.
    SilenceAfterwards,
    /// What is refused changes nothing.
    RefusalsChangeNothing,
    /// Queues, frames and tables stay within their limits.
    Limits,
    /// Nothing of a removed device counts.
    RemovedCountNoMore,
    /// The index's view is Automerge's.
    ViewsAsAutomerge,
    /// The same seed gives the same run.
    SameSeedSameRun,
    /// A store that a crash left opens again.
    OpensAgain,
}

/// A breach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) oracle: Oracle,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}: {}", self.oracle, self.what)
    }
}

impl World<'_, '_> {
    fn engine(&self, node: usize) -> Option<&Engine> {
        self.hosts[node].engine.as_ref()
    }

    /// Judges the fleet as it stands at the end; what was acknowledged must be everywhere only where it healed.
    pub(super) fn judge(&mut self, healed: bool) {
        let mut breaches = self.judge_sets();
        if healed {
            breaches.extend(self.judge_losses());
            breaches.extend(self.judge_views_of_automerge());
        }
        breaches.extend(self.judge_removed());
        breaches.extend(self.judge_audits());
        for (oracle, what) in breaches {
            self.breach(oracle, what);
        }
    }

    /// Members by the set that they hold: the first of each set is the measure of the others.
    fn judge_sets(&self) -> Vec<(Oracle, String)> {
        let mut breaches = Vec::new();
        let mut sets: BTreeMap<[u8; 32], (usize, Root)> = BTreeMap::new();
        let mut roots: BTreeMap<Root, [u8; 32]> = BTreeMap::new();
        for node in self.members() {
            let Some(engine) = self.engine(node) else { continue };
            let (set, root) = (set_of(engine), engine.root());
            let (first, measure) = *sets.entry(set).or_insert((node, root));
            if root != measure {
                breaches.push((Oracle::EqualSets, format!("nodes {first} and {node}: equal sets, other roots")));
            }
            if *roots.entry(root).or_insert(set) != set {
                breaches.push((Oracle::EqualSets, format!("node {node}: an equal root, another set")));
            }
            if first != node {
                breaches.extend(self.compare_views(first, node).map(|what| (Oracle::EqualSets, what)));
            }
        }
        breaches
    }

    /// The first difference in what two nodes with equal sets read.
    fn compare_views(&self, first: usize, node: usize) -> Option<String> {
        let documents = self.engine(first)?.replica().logs().documents();
        let stride = documents.len().div_ceil(VIEWS_MAX).max(1);
        documents.keys().step_by(stride).find_map(|document| {
            let read = |node: usize| view::read(self.disk(node), document, "");
            (read(first) != read(node))
                .then(|| format!("nodes {first} and {node}: equal sets, {document} reads otherwise"))
        })
    }

    /// Whatever was acknowledged is on every member: the change itself, or a later epoch of its document. What a node
    /// wrote that ran on a copy of its disk may have lost its log to a fork, and what a removed device wrote counts no more.
    fn judge_losses(&self) -> Vec<(Oracle, String)> {
        let mut breaches = Vec::new();
        let parts = self.parts();
        for (carrier, host) in self.hosts.iter().enumerate() {
            let Some(part) = parts.get(&carrier).filter(|_| !host.was_put_back) else { continue };
            let members: Vec<usize> = parts.iter().filter(|(_, of)| *of == part).map(|(node, _)| *node).collect();
            for ((actor, seq), acknowledged) in &host.acknowledged {
                let lost = members.iter().find(|node| !self.has_change(**node, actor, *seq, acknowledged));
                if let Some(node) = lost {
                    let document = &acknowledged.log.document;
                    let what = format!("node {node} lacks {document} {actor}:{seq}, acknowledged by node {carrier}");
                    breaches.push((Oracle::NothingLost, what));
                }
            }
        }
        breaches
    }

    fn has_change(&self, node: usize, actor: &Actor, seq: u64, acknowledged: &super::host::Acknowledged) -> bool {
        let Some(engine) = self.engine(node) else { return true };
        let record: Option<ChangeRecord> =
            read_record(self.disk(node), Table::Change, &change_key(actor, seq)).ok().flatten();
        if record.and_then(|record| hash_of(&record.raw.0)) == Some(acknowledged.hash) {
            return true;
        }
        let replica = engine.replica();
        let current = replica.logs().of_document(&acknowledged.log.document);
        let mut epochs = current.iter().filter_map(|log| replica.logs().get(log)).map(|log| log.name().epoch);
        epochs.any(|epoch| epoch > acknowledged.log.epoch)
    }

    fn judge_removed(&self) -> Vec<(Oracle, String)> {
        let mut breaches = Vec::new();
        let parts = self.parts();
        for (device, acknowledged) in &self.removals {
            // What a removed node acknowledged may have reached nobody: nobody links with it.
            let Some(part) = parts.get(acknowledged) else { continue };
            let id = self.fleet.device(*device);
            for node in parts.iter().filter(|(_, of)| *of == part).map(|(node, _)| *node) {
                let Some(engine) = self.engine(node) else { continue };
                let replica = engine.replica();
                let counts = replica.logs().documents().keys().any(|document| document.device() == Some(id));
                if counts || replica.standing(&id) != Standing::Removed {
                    breaches.push((Oracle::RemovedCountNoMore, format!("device {device} still counts on node {node}")));
                }
            }
        }
        breaches
    }

    fn judge_audits(&self) -> Vec<(Oracle, String)> {
        let most = usize::try_from(AUDIT_MAX).unwrap_or(usize::MAX);
        let rows = (0..self.hosts.len()).map(|node| (node, self.hosts[node].disk.written_rows(Table::Audit)));
        let over = rows.filter(|(_, rows)| *rows > most);
        over.map(|(node, rows)| (Oracle::Limits, format!("node {node} keeps {rows} audit events"))).collect()
    }

    /// Shared documents, as Automerge reads their changes.
    fn judge_views_of_automerge(&self) -> Vec<(Oracle, String)> {
        let Some(node) = self.members().first().copied() else { return Vec::new() };
        let Some(engine) = self.engine(node) else { return Vec::new() };
        let mut breaches = Vec::new();
        for (document, logs) in engine.replica().logs().documents() {
            if document.device().is_some() {
                continue;
            }
            if let Err(what) = self.compare_with_automerge(node, &document, &logs) {
                breaches.push((Oracle::ViewsAsAutomerge, format!("node {node}, {document}: {what}")));
            }
        }
        breaches
    }

    fn compare_with_automerge(&self, node: usize, document: &DocumentName, logs: &[Actor]) -> Result<(), String> {
        let mut changes = Vec::new();
        for log in logs {
            changes.extend(changes_of(self.disk(node), log)?);
        }
        let mut loaded = Automerge::new();
        loaded.apply_changes(changes).map_err(|error| error.to_string())?;
        let view = view::read(self.disk(node), document, "").map_err(|error| error.to_string())?;
        let own = values_of(&view);
        let theirs = values_of_automerge(&loaded)?;
        if own == theirs { Ok(()) } else { Err(format!("{own:?} is read, Automerge reads {theirs:?}")) }
    }
}

/// A hash of the changes and statements that an engine holds, apart from its root.
fn set_of(engine: &Engine) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for log in engine.replica().logs().iter() {
        hasher.update(&log.actor().0).update(&log.seq.to_be_bytes()).update(&log.head().0);
    }
    for (id, entry) in engine.replica().roster().entries() {
        hasher.update(&id.0);
        for (signer, signature) in entry.signed.signatures() {
            hasher.update(&signer.0).update(signature);
        }
    }
    *hasher.finalize().as_bytes()
}

fn changes_of(disk: &dyn LogStore, log: &Actor) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    let mut failure = None;
    let (from, to) = (change_key(log, 0), change_key(log, u64::MAX));
    let scanned = disk.scan(Table::Change, &from, &to, &mut |key, bytes| {
        let record = decode_record::<ChangeRecord>(Table::Change, key, bytes).map_err(|error| error.to_string());
        match record.and_then(|record| Change::from_bytes(record.raw.0).map_err(|error| error.to_string())) {
            Ok(change) => changes.push(change),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    scanned.map_err(|error| error.to_string())?;
    failure.map_or(Ok(changes), Err)
}

/// For each path the value that is read, and the others in no order.
type Read = BTreeMap<String, (i64, Vec<i64>)>;

fn values_of(view: &View) -> Read {
    let number = |value: &Value| if let Value::Int(number) = value { *number } else { 0 };
    let entry = |entry: &view::Entry| {
        let mut others: Vec<i64> = entry.others.iter().map(|shown| number(&shown.value)).collect();
        others.sort_unstable();
        (number(&entry.read.value), others)
    };
    view.iter().map(|(path, values)| (path.clone(), entry(values))).collect()
}

fn values_of_automerge(document: &Automerge) -> Result<Read, String> {
    let number = |held: &Held<'_>| match held {
        Held::Scalar(scalar) => {
            if let ScalarValue::Int(number) = scalar.as_ref() {
                *number
            } else {
                0
            }
        }
        Held::Object(_) => 0,
    };
    let mut read = Read::new();
    for path in document.keys(ROOT) {
        let all = document.get_all(ROOT, path.as_str()).map_err(|error| error.to_string())?;
        let winner = document.get(ROOT, path.as_str()).map_err(|error| error.to_string())?;
        let Some((_, winner_id)) = &winner else { continue };
        let mut others: Vec<i64> = all.iter().filter(|(_, id)| id != winner_id).map(|(held, _)| number(held)).collect();
        others.sort_unstable();
        let value = winner.as_ref().map_or(0, |(held, _)| number(held));
        read.insert(path, (value, others));
    }
    Ok(read)
}
