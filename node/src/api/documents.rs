//! Documents: views with conflicts, logs, exports and verification.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use crdt::change::{RawBytes, is_vouched};
use crdt::id::{Actor, ChainHash, ChangeHash, DeviceId, FleetId};
use crdt::schema::{DocumentName, DocumentNameError};
use crdt::store::{ChangeRecord, LogStore, StoreError, Table, change_key, decode_record, meta_key};
use crdt::sync::LogState;
use crdt::view::{self, Shown, View};
use serde::Deserialize;
use serde_json::{Value, json};

use super::read::Names;
use super::status::name_of;
use super::values::view_to_json;
use super::{Api, Problem, Query, log};
use crate::agent::Node;

/// How often a document is looked for whose logs are replaced while it is read.
const LOOKS_MAX: u32 = 4;

#[derive(Deserialize)]
pub(super) struct DocumentQuery {
    document: String,
    #[serde(default)]
    path: String,
}

/// The document that a word stands for: its full name, or `kind/device` with a device's name or a prefix of its id.
fn resolve(node: &Node, word: &str) -> Result<DocumentName, Problem> {
    let malformed = |error: DocumentNameError| Problem::bad_request(error.to_string()).hint("fleetsync doc ls");
    match (word.parse::<DocumentName>(), word.split_once('/')) {
        (Ok(document), _) => Ok(document),
        // Of a kind of which each device has documents: what stands for the device is not its id.
        (Err(DocumentNameError::Device(_)), Some((kind, name))) => {
            let (name, part) = name.split_once('/').map_or((name, None), |(name, part)| (name, Some(part)));
            let device = super::devices::resolve(node, name)?;
            let part = part.map(|part| format!("/{part}")).unwrap_or_default();
            format!("{kind}/{device}{part}").parse().map_err(malformed)
        }
        (Err(error), _) => Err(malformed(error)),
    }
}

/// A document as the agent's memory had it at one moment.
struct Found {
    document: DocumentName,
    /// None where there is no such document.
    logs: Vec<(Actor, LogState)>,
    names: Names,
    /// The name of the node that answers.
    view: String,
    fleet: FleetId,
    now_ms: u64,
}

impl Found {
    fn of(node: &Node, word: &str) -> Result<Found, Problem> {
        let document = resolve(node, word)?;
        let replica = node.engine.replica();
        let of_document = replica.logs().of_document(&document).into_iter();
        let logs: Vec<(Actor, LogState)> =
            of_document.filter_map(|actor| Some((actor, replica.logs().get(&actor)?.state()))).collect();
        let names = Names::of(node, logs.iter().map(|(_, log)| &log.log));
        let view = name_of(node, &node.device());
        Ok(Found { document, logs, names, view, fleet: node.fleet, now_ms: node.clock.wall_ms() })
    }

    /// Whether a log is gone: its document went on to the next epoch meanwhile, or its device was removed.
    fn is_gone(&self, store: &dyn LogStore) -> Result<bool, StoreError> {
        for (actor, _) in &self.logs {
            if store.get(Table::Meta, &meta_key(actor))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn check_exists(&self) -> Result<(), Problem> {
        match self.logs.is_empty() {
            true => Err(Problem::not_found(format!("there is no document {} here", self.document))),
            false => Ok(()),
        }
    }
}

/// Reads a document whose logs are all there still, or looks for it again.
async fn read_document<T: Send + 'static>(
    api: &Api,
    word: &str,
    read: impl Fn(&Found, &dyn LogStore) -> Result<T, Problem> + Clone + Send + 'static,
) -> Result<T, Problem> {
    for _ in 0..LOOKS_MAX {
        let (word, read) = (word.to_owned(), read.clone());
        let look = move |node: &Node| Found::of(node, &word);
        let read = move |found: Found, store: &dyn LogStore| match found.is_gone(store)? {
            true => Ok(None),
            false => read(&found, store).map(Some),
        };
        if let Some(answer) = api.read(look, read).await? {
            return Ok(answer);
        }
    }
    Err(Problem::internal(&"the logs of the document were replaced faster than they can be read"))
}

/// What memory has of a document that is listed.
struct Listed {
    document: DocumentName,
    about: Option<String>,
    logs: Vec<Actor>,
    changes: u64,
    /// The last change of a log; which one does not matter where there are several.
    head: Option<ChangeHash>,
}

impl Listed {
    /// A document with one log needs no look into the store.
    fn heads(&self, store: &dyn LogStore) -> Result<Vec<ChangeHash>, StoreError> {
        match self.logs.as_slice() {
            [_] => Ok(self.head.into_iter().collect()),
            several => view::heads(store, several),
        }
    }
}

fn to_texts(heads: &[ChangeHash]) -> Vec<String> {
    heads.iter().map(ToString::to_string).collect()
}

/// Every document. Heads of documents with several logs are those of the moment when the store is read, so they may
/// be newer than the counted changes.
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let look = |node: &Node| {
        let replica = node.engine.replica();
        let mut names: BTreeMap<DeviceId, String> = BTreeMap::new();
        let mut documents = Vec::new();
        for (document, actors) in replica.logs().documents() {
            let about = document.device().map(|id| names.entry(id).or_insert_with(|| name_of(node, &id)).clone());
            let logs = || actors.iter().filter_map(|actor| replica.logs().get(actor));
            documents.push(Listed {
                about,
                changes: logs().map(|log| log.seq).sum(),
                head: logs().next().map(|log| *log.head()),
                document,
                logs: actors,
            });
        }
        Ok(documents)
    };
    let list = |documents: Vec<Listed>, store: &dyn LogStore| {
        let mut rows = Vec::with_capacity(documents.len());
        for listed in documents {
            rows.push(json!({
                "document": listed.document.as_str(),
                "about": listed.about,
                "scope": "fleet",
                "logs": listed.logs.len(),
                "changes": listed.changes,
                "heads": to_texts(&listed.heads(store)?),
            }));
        }
        Ok(Json(Value::Array(rows)))
    };
    api.read(look, list).await
}

/// The view of a document, flat by path; each value with author, carrier, age and conflicts.
///
/// View and heads are of one moment. A log that came since the document was looked up is in the view, and its heads
/// are not named yet.
pub(super) async fn show(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let path = query.path;
    let show = move |found: &Found, store: &dyn LogStore| {
        let view: View = view::read(store, &found.document, &path)?;
        if view.is_empty() {
            let what = if path.is_empty() { found.document.to_string() } else { format!("{} {path}", found.document) };
            return Err(Problem::not_found(format!("{what} has no value here")));
        }
        let names = |shown: &Shown| found.names.of_value(shown);
        let logs: Vec<Actor> = found.logs.iter().map(|(actor, _)| *actor).collect();
        Ok(Json(json!({
            "document": found.document.as_str(),
            "view": found.view,
            "heads": to_texts(&view::heads(store, &logs)?),
            "values": view_to_json(&view, found.now_ms, &names),
        })))
    };
    read_document(&api, &query.document, show).await
}

/// The newest changes of a document, [`log::ENTRIES_MAX`] at most.
pub(super) async fn log(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let list = |found: &Found, store: &dyn LogStore| {
        found.check_exists()?;
        Ok(Json(log::newest(&found.logs, &found.names, found.now_ms, store)?))
    };
    read_document(&api, &query.document, list).await
}

/// The document as Automerge bytes, which any Automerge loads: one flat map from dotted path to value.
pub(super) async fn export(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Response, Problem> {
    let changes = |found: &Found, store: &dyn LogStore| {
        found.check_exists()?;
        let mut changes = Vec::new();
        for (actor, _) in &found.logs {
            changes.extend(changes_of(store, actor)?);
        }
        Ok(changes)
    };
    let changes = read_document(&api, &query.document, changes).await?;
    let saved = tokio::task::spawn_blocking(move || save(changes));
    let bytes = saved.await.map_err(|error| Problem::internal(&error))??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

fn changes_of(store: &dyn LogStore, actor: &Actor) -> Result<Vec<RawBytes>, StoreError> {
    let mut changes = Vec::new();
    let mut failure = None;
    store.scan(Table::Change, &change_key(actor, 0), &change_key(actor, u64::MAX), &mut |key, bytes| {
        match decode_record::<ChangeRecord>(Table::Change, key, bytes) {
            Ok(record) => changes.push(record.raw),
            Err(error) => failure = Some(error),
        }
        if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(changes), Err)
}

fn save(raw: Vec<RawBytes>) -> Result<Vec<u8>, Problem> {
    let mut changes = Vec::with_capacity(raw.len());
    for raw in raw {
        changes.push(automerge::Change::from_bytes(raw.0).map_err(|error| Problem::internal(&error))?);
    }
    let mut document = automerge::Automerge::new();
    document.apply_changes(changes).map_err(|error| Problem::internal(&error))?;
    Ok(document.save())
}

/// Checks every stored change of a document: bytes, hash, chain and signatures.
pub(super) async fn verify(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let verify = |found: &Found, store: &dyn LogStore| {
        found.check_exists()?;
        let logs = found.logs.iter().map(|(actor, log)| verify_log(store, &found.fleet, actor, log));
        let logs: Vec<Value> = logs.collect();
        let is_whole = logs.iter().all(|log| log["damage"].is_null());
        Ok(Json(json!({ "document": found.document.as_str(), "whole": is_whole, "logs": logs })))
    };
    read_document(&api, &query.document, verify).await
}

fn verify_log(store: &dyn LogStore, fleet: &FleetId, actor: &Actor, log: &LogState) -> Value {
    let mut chain = ChainHash::START;
    let mut signatures = 0;
    let mut damage = Value::Null;
    for seq in 1..=log.seq {
        match verify_change(store, fleet, actor, log, seq, &mut chain) {
            Ok(is_signed) => signatures += u64::from(is_signed),
            Err(reason) => {
                damage = json!({ "log": actor.to_string(), "seq": seq, "reason": reason });
                break;
            }
        }
    }
    json!({ "log": actor.to_string(), "changes": log.seq, "signatures_checked": signatures, "damage": damage })
}

fn verify_change(
    store: &dyn LogStore,
    fleet: &FleetId,
    actor: &Actor,
    log: &LogState,
    seq: u64,
    chain: &mut ChainHash,
) -> Result<bool, String> {
    let record: Option<ChangeRecord> =
        crdt::store::read_record(store, Table::Change, &change_key(actor, seq)).map_err(|error| error.to_string())?;
    let record = record.ok_or("the change is missing")?;
    let change = crdt::raw::decode(&record.raw.0).map_err(|error| error.to_string())?;
    *chain = chain.next(&change.hash);
    if change.actor != *actor || change.seq != seq {
        return Err("the change belongs to another place".to_owned());
    }
    if *chain != record.chain || (seq == log.seq && change.hash != log.head) {
        return Err("the change is not the one that was admitted: its hash does not fit the chain".to_owned());
    }
    match &record.signature {
        Some(signature) if is_vouched(&log.log.author, fleet, actor, seq, chain, signature) => Ok(true),
        Some(_) => Err("the signature does not vouch for the change".to_owned()),
        None if seq == log.seq => Err("the last change has no signature".to_owned()),
        None => Ok(false),
    }
}
