//! Documents: views with conflicts, logs, exports and verification.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use crdt::change::is_vouched;
use crdt::id::{Actor, ChainHash, FleetId};
use crdt::schema::DocumentName;
use crdt::store::{ChangeRecord, LogStore, Table, change_key, decode_record};
use crdt::sync::LogState;
use crdt::view::{self, Shown, View};
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::operator_name;
use super::status::name_of;
use super::values::{age_s, view_to_json};
use super::{Api, Problem, Query};
use crate::agent::Node;
use crate::store::Store;

/// Most changes that `log` lists.
const LOG_ENTRIES_MAX: usize = 1000;

#[derive(Deserialize)]
pub(super) struct DocumentQuery {
    document: String,
    #[serde(default)]
    path: String,
}

/// The document that a word stands for: its full name, or `kind/device` with a device's name or a prefix of its id.
fn resolve(node: &Node, word: &str) -> Result<DocumentName, Problem> {
    if let Ok(document) = word.parse::<DocumentName>() {
        return Ok(document);
    }
    let by_device = word.split_once('/').and_then(|(kind, name)| {
        let (name, part) = name.split_once('/').map_or((name, None), |(name, part)| (name, Some(part)));
        let device = super::devices::resolve(node, name).ok()?;
        let part = part.map(|part| format!("/{part}")).unwrap_or_default();
        format!("{kind}/{device}{part}").parse().ok()
    });
    by_device.ok_or_else(|| match word.parse::<DocumentName>() {
        Err(error) => Problem::bad_request(error.to_string()),
        Ok(_) => Problem::not_found(word.to_owned()),
    })
}

fn logs_of(node: &Node, document: &DocumentName) -> Result<Vec<(Actor, LogState)>, Problem> {
    let replica = node.engine.replica();
    let actors = replica
        .documents()
        .get(document)
        .ok_or_else(|| Problem::not_found(format!("there is no document {document} here")))?;
    Ok(actors.iter().filter_map(|actor| Some((*actor, replica.logs().get(actor)?.clone()))).collect())
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let list = |node: &Node| -> Result<Value, Problem> {
        let replica = node.engine.replica();
        let mut documents = Vec::new();
        for (document, actors) in replica.documents() {
            let changes: u64 = actors.iter().filter_map(|actor| replica.logs().get(actor)).map(|log| log.seq).sum();
            let heads: Vec<String> = view::heads(&node.store, actors)?.iter().map(ToString::to_string).collect();
            documents.push(json!({
                "document": document.as_str(),
                "about": document.device().map(|device| name_of(node, &device)),
                "scope": "fleet",
                "logs": actors.len(),
                "changes": changes,
                "heads": heads,
            }));
        }
        Ok(Value::Array(documents))
    };
    Ok(Json(api.agent.look(list).await??))
}

/// The view of a document, flat by path; each value with author, carrier, age and conflicts.
pub(super) async fn show(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let show = move |node: &Node| -> Result<Value, Problem> {
        let document = resolve(node, &query.document)?;
        let view: View = view::read(&node.store, &document, &query.path)?;
        if view.is_empty() {
            let what = if query.path.is_empty() { document.to_string() } else { format!("{document} {}", query.path) };
            return Err(Problem::not_found(format!("{what} has no value here")));
        }
        let names = |shown: &Shown| {
            let carrier = name_of(node, &shown.carrier);
            let is_own = shown.author.device() == shown.carrier;
            (if is_own { carrier.clone() } else { operator_name(node, &shown.author) }, carrier)
        };
        let values = view_to_json(&view, node.clock.wall_ms(), &names);
        let heads = match node.engine.replica().documents().get(&document) {
            Some(actors) => view::heads(&node.store, actors)?.iter().map(ToString::to_string).collect(),
            None => Vec::new(),
        };
        Ok(json!({
            "document": document.as_str(),
            "view": name_of(node, &node.device()),
            "heads": heads,
            "values": values,
        }))
    };
    Ok(Json(api.agent.look(show).await??))
}

fn changes_of(store: &Store, actor: &Actor) -> Result<Vec<(u64, ChangeRecord)>, Problem> {
    let mut records = Vec::new();
    let mut failure = None;
    store.scan(Table::Change, &change_key(actor, 0), &change_key(actor, u64::MAX), &mut |key, bytes| {
        match (crdt::store::change_of_key(key), decode_record(Table::Change, key, bytes)) {
            (Some((_, seq)), Ok(record)) => records.push((seq, record)),
            (_, Err(error)) => failure = Some(error),
            _ => {}
        }
        if failure.is_some() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    })?;
    failure.map_or(Ok(records), |error| Err(error.into()))
}

/// The newest changes of a document, each log's last first.
pub(super) async fn log(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let list = move |node: &Node| -> Result<Value, Problem> {
        let document = resolve(node, &query.document)?;
        let now_ms = node.clock.wall_ms();
        let mut changes = Vec::new();
        for (actor, log) in logs_of(node, &document)? {
            for (seq, record) in changes_of(&node.store, &actor)? {
                let Ok(change) = crdt::raw::decode(&record.raw.0) else { continue };
                let paths: Vec<&str> = change.operations.iter().map(|operation| operation.path.as_str()).collect();
                changes.push((
                    change.time_s,
                    json!({
                        "hash": change.hash.to_string(),
                        "log": actor.to_string(),
                        "seq": seq,
                        "author": operator_name(node, &log.log.author),
                        "carrier": name_of(node, &log.log.carrier),
                        "age_s": age_s(now_ms, change.time_s),
                        "deps": change.deps.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "paths": paths,
                        "bytes": record.raw.0.len(),
                    }),
                ));
            }
        }
        changes.sort_by_key(|(time_s, _)| std::cmp::Reverse(*time_s));
        changes.truncate(LOG_ENTRIES_MAX);
        Ok(Value::Array(changes.into_iter().map(|(_, change)| change).collect()))
    };
    Ok(Json(api.agent.look(list).await??))
}

/// The document as Automerge bytes, which any Automerge loads: one flat map from dotted path to value.
pub(super) async fn export(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Response, Problem> {
    let word = query.document;
    let logs =
        api.agent.look(move |node: &Node| resolve(node, &word).and_then(|document| logs_of(node, &document))).await??;
    let store = api.agent.store().clone();
    let bytes =
        tokio::task::spawn_blocking(move || save(&store, &logs)).await.map_err(|error| Problem::internal(&error))??;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

fn save(store: &Store, logs: &[(Actor, LogState)]) -> Result<Vec<u8>, Problem> {
    let mut changes = Vec::new();
    for (actor, _) in logs {
        for (_, record) in changes_of(store, actor)? {
            let change = automerge::Change::from_bytes(record.raw.0).map_err(|error| Problem::internal(&error))?;
            changes.push(change);
        }
    }
    let mut document = automerge::Automerge::new();
    document.apply_changes(changes).map_err(|error| Problem::internal(&error))?;
    Ok(document.save())
}

/// Checks every stored change of a document: bytes, hash, chain and signatures.
pub(super) async fn verify(State(api): State<Api>, Query(query): Query<DocumentQuery>) -> Result<Json<Value>, Problem> {
    let word = query.document;
    let (document, logs, fleet) = api
        .agent
        .look(move |node: &Node| -> Result<_, Problem> {
            let document = resolve(node, &word)?;
            let logs = logs_of(node, &document)?;
            Ok((document, logs, node.fleet))
        })
        .await??;
    let store = api.agent.store().clone();
    let report = tokio::task::spawn_blocking(move || {
        let logs: Vec<Value> = logs.iter().map(|(actor, log)| verify_log(&store, &fleet, actor, log)).collect();
        let is_whole = logs.iter().all(|log| log["damage"].is_null());
        json!({ "document": document.as_str(), "whole": is_whole, "logs": logs })
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    Ok(Json(report))
}

fn verify_log(store: &Store, fleet: &FleetId, actor: &Actor, log: &LogState) -> Value {
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
    store: &Store,
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
