//! Writes: operators' changes in two steps, statements, and the node's own switches.

use axum::Json;
use axum::extract::State;
use crdt::change::PreparedChange;
use crdt::id::{Key, hex};
use crdt::schema::DocumentName;
use crdt::statement::{SignatureBytes, StatementParts};
use crdt::sync::{Edit, Input, Reply};
use serde::Deserialize;
use serde_json::{Value, json};

use super::values::{bytes_of, from_json};
use super::{Api, Body, Problem};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EditBody {
    path: String,
    #[serde(default)]
    value: Value,
    /// Takes the value away.
    #[serde(default)]
    delete: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrepareBody {
    document: String,
    author: String,
    edits: Vec<EditBody>,
}

fn edit_of(body: EditBody) -> Result<Edit, Problem> {
    if body.delete {
        return Ok(Edit { path: body.path, value: None });
    }
    match from_json(&body.value) {
        Some(value) => Ok(Edit { path: body.path, value: Some(value) }),
        None => Err(Problem::bad_request(format!("the value of {} is no scalar", body.path))),
    }
}

/// Makes the change that an operator is asked to sign.
pub(super) async fn prepare(State(api): State<Api>, Body(body): Body<PrepareBody>) -> Result<Json<Value>, Problem> {
    let document: DocumentName = body.document.parse().map_err(|error| Problem::bad_request(format!("{error}")))?;
    let author: Key = body.author.parse().map_err(|error| Problem::bad_request(format!("author: {error}")))?;
    let edits = body.edits.into_iter().map(edit_of).collect::<Result<Vec<_>, _>>()?;
    let reply = api.agent.request(move |request| Input::Prepare { request, document, author, edits }).await?;
    match reply {
        Reply::Prepared(change) => Ok(Json(json!({ "change": hex(&change.encode()) }))),
        Reply::Unchanged => Ok(Json(json!({ "unchanged": true }))),
        Reply::Refused(reason) => {
            let problem = Problem::refused(reason);
            // Nothing is refused for its path or its value while nothing is taken at all.
            let is_full = api.agent.look(|node| node.full.is_some()).await?;
            Err(if is_full { problem } else { problem.hint("fleetsync config set --help") })
        }
        other => Err(Problem::internal(&format!("an unexpected answer: {other:?}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubmitBody {
    change: String,
    signature: String,
}

/// Takes a change with its operator's signature; the same bytes twice are the same as once.
pub(super) async fn submit(State(api): State<Api>, Body(body): Body<SubmitBody>) -> Result<Json<Value>, Problem> {
    let change = bytes_of(&body.change)
        .and_then(|bytes| PreparedChange::decode(&bytes))
        .ok_or_else(|| Problem::bad_request("change is no prepared change"))?;
    let signature = bytes_of(&body.signature)
        .and_then(|bytes| bytes.try_into().ok())
        .map(SignatureBytes)
        .ok_or_else(|| Problem::bad_request("signature has not 64 bytes"))?;
    let change = Box::new(change);
    match api.agent.request(move |request| Input::Submit { request, change, signature }).await? {
        Reply::Written { actor, seq } => Ok(Json(json!({ "log": actor.to_string(), "seq": seq }))),
        Reply::Unchanged => Ok(Json(json!({ "unchanged": true }))),
        Reply::Conflict(stands, signature) => Err(Problem::conflict(
            "another change took this sequence number; prepare again",
            json!({ "change": hex(&stands.encode()), "signature": hex(&signature.0) }),
        )),
        Reply::Ended => Err(Problem::gone("this node was restored since it prepared the change; prepare it again")),
        Reply::Refused(reason) => Err(Problem::refused(reason)),
        other => Err(Problem::internal(&format!("an unexpected answer: {other:?}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatementsBody {
    statements: Vec<String>,
}

/// How a statement travels in API bodies: hexadecimal postcard of its parts.
pub(crate) fn statement_to_hex(parts: &StatementParts) -> String {
    hex(&crdt::store::encode_record(parts))
}

fn statement_of(digits: &str) -> Option<StatementParts> {
    let bytes = bytes_of(digits)?;
    crdt::store::decode_record(crdt::store::Table::Statement, &[], &bytes).ok()
}

/// Takes signed statements, in an order in which each can be judged.
pub(super) async fn statements(
    State(api): State<Api>,
    Body(body): Body<StatementsBody>,
) -> Result<Json<Value>, Problem> {
    let statements = body
        .statements
        .iter()
        .map(|digits| statement_of(digits))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Problem::bad_request("a statement does not decode"))?;
    match api.agent.request(move |request| Input::Statements { request, statements }).await? {
        Reply::Stored(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            Ok(Json(json!({ "statements": ids })))
        }
        Reply::Refused(reason) => Err(Problem::refused(reason)),
        other => Err(Problem::internal(&format!("an unexpected answer: {other:?}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfflineBody {
    offline: bool,
}

/// Cuts the node off from its peers, or lets it back in.
pub(super) async fn offline(State(api): State<Api>, Body(body): Body<OfflineBody>) -> Result<Json<Value>, Problem> {
    match api.agent.set_offline(body.offline).await? {
        Ok(()) => Ok(Json(json!({ "offline": body.offline }))),
        Err(reason) => Err(Problem::internal(&reason)),
    }
}
