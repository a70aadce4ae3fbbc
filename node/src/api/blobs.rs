//! Blobs: what the fleet has, what is here, putting, getting.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;

use axum::Json;
use axum::body::Body as Stream;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures::StreamExt;
use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::devices::resolve;
use super::status::name_of;
use super::{Api, Body, Path, Problem, Query};
use crate::agent::Node;
use crate::blobs::{BlobId, Held, Progress, State as FetchState, Stopped};
use crdt::id::{DeviceId, Key};

/// What is read of a blob at once, bytes.
const READ_BYTES: usize = 256 * 1024;

/// A blob as the fleet has it.
#[derive(Default)]
struct Known {
    size: Option<u64>,
    held: Option<Held>,
    holders: Vec<(DeviceId, String)>,
}

fn disk(error: &io::Error) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "the disk failed", error.to_string()).hint("df -h")
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Problem::internal(&error))?;
    done.map_err(|error| disk(&error))
}

/// What this device has and what the fleet says it has.
async fn known(api: &Api) -> Result<BTreeMap<BlobId, Known>, Problem> {
    let blobs = api.blobs.blobs().clone();
    let held = blocking(move || blobs.list()).await?;
    let said = api.agent.look(|node: &Node| {
        let named = |(device, size): (DeviceId, u64)| (device, name_of(node, &device), size);
        let holders = node.holders().into_iter();
        holders.map(|(blob, said)| (blob, said.into_iter().map(named).collect::<Vec<_>>())).collect::<Vec<_>>()
    });
    let mut known = BTreeMap::<BlobId, Known>::new();
    for (blob, said) in said.await? {
        let entry = known.entry(blob).or_default();
        entry.size = said.first().map(|(_, _, size)| *size);
        entry.holders = said.into_iter().map(|(device, name, _)| (device, name)).collect();
    }
    for held in held {
        let entry = known.entry(held.blob).or_default();
        (entry.size, entry.held) = (Some(held.size), Some(held));
    }
    Ok(known)
}

fn to_json(api: &Api, blob: &BlobId, known: &Known) -> Value {
    let progress = api.blobs.progress(blob);
    let here = match (&known.held, &progress) {
        (Some(held), _) if held.is_whole => json!("whole"),
        (_, Some(progress)) => json!(state_text(&progress.state)),
        (Some(_), None) => json!("part"),
        (None, None) => json!("no"),
    };
    let holder = |(device, name): &(DeviceId, String)| json!({ "device": device.to_string(), "name": name });
    json!({
        "blob": blob.to_string(),
        "bytes": known.size,
        "here": here,
        "here_bytes": progress.map(|progress| progress.here).or(known.held.filter(|held| held.is_whole).map(|held| held.size)),
        "holders": known.holders.iter().map(holder).collect::<Vec<Value>>(),
    })
}

/// `GET /v1/blobs`: all that this device has, and all that others say they have.
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let known = known(&api).await?;
    Ok(Json(known.iter().map(|(blob, known)| to_json(&api, blob, known)).collect()))
}

/// `GET /v1/blobs/{blob}`: one of them, by its hash or a unique prefix.
pub(super) async fn stat(State(api): State<Api>, Path(word): Path<String>) -> Result<Json<Value>, Problem> {
    let known = known(&api).await?;
    let blob = find(&word, known.keys())?;
    let found = known.get(&blob).ok_or_else(|| nobody(&blob))?;
    Ok(Json(to_json(&api, &blob, found)))
}

/// `DELETE /v1/blobs/{blob}`: removes what this device has of it; others keep theirs.
pub(super) async fn remove(State(api): State<Api>, Path(word): Path<String>) -> Result<Json<Value>, Problem> {
    let blob = find(&word, known(&api).await?.keys())?;
    if api.blobs.progress(&blob).is_some() {
        return Err(Problem::refused(format!("{blob} is being fetched; stop that first")));
    }
    let blobs = api.blobs.blobs().clone();
    if !blocking(move || blobs.remove(&blob)).await? {
        return Err(Problem::not_found(format!("{blob} is not on this device")).hint("fleetsync blob ls"));
    }
    api.blobs.announce().await;
    Ok(Json(json!({ "blob": blob.to_string() })))
}

fn nobody(blob: &BlobId) -> Problem {
    Problem::not_found(format!("no device says that it has {blob}, and it is not here")).hint("fleetsync blob ls")
}

/// The blob that a hash or the beginning of one stands for.
fn find<'k>(word: &str, known: impl Iterator<Item = &'k BlobId>) -> Result<BlobId, Problem> {
    if let Ok(blob) = word.parse() {
        return Ok(blob);
    }
    let is_digits = !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digits {
        let detail =
            format!("{word:?} is no blob: it is named by its BLAKE3 hash in hexadecimal digits, or the first of them");
        return Err(Problem::bad_request(detail).hint("fleetsync blob ls"));
    }
    let found: BTreeSet<&BlobId> = known.filter(|blob| blob.to_string().starts_with(word)).collect();
    match (found.first(), found.len()) {
        (Some(blob), 1) => Ok(**blob),
        (None, _) => {
            let detail = format!("no blob that is known here has a hash that begins with {word}");
            Err(Problem::not_found(detail).hint("fleetsync blob ls"))
        }
        _ => {
            let all: Vec<String> = found.iter().map(ToString::to_string).collect();
            Err(Problem::bad_request(format!("{word} is ambiguous: {}", all.join(", "))).hint("fleetsync blob ls"))
        }
    }
}

/// `PUT /v1/blobs`: takes the body as it comes, and keeps it by its hash.
pub(super) async fn put(State(api): State<Api>, request: Request) -> Result<Json<Value>, Problem> {
    let mut body = request.into_body().into_data_stream();
    let blobs = api.blobs.blobs().clone();
    let mut new = blocking(move || blobs.begin()).await?;
    while let Some(bytes) = body.next().await {
        let bytes: Bytes = bytes.map_err(|error| Problem::bad_request(format!("the body broke off: {error}")))?;
        new = blocking(move || new.write(&bytes).map(|()| new)).await?;
    }
    let held = blocking(move || new.finish()).await?;
    api.blobs.announce().await;
    Ok(Json(json!({ "blob": held.blob.to_string(), "bytes": held.size })))
}

/// `GET /v1/blobs/{blob}/content`: all of a blob that is here whole.
pub(super) async fn content(State(api): State<Api>, Path(word): Path<String>) -> Result<Response, Problem> {
    let blob: BlobId = word.parse().map_err(|error| Problem::bad_request(format!("{word:?}: {error}")))?;
    let blobs = api.blobs.blobs().clone();
    let whole = blocking(move || blobs.whole(&blob)).await?;
    let whole = whole
        .ok_or_else(|| Problem::not_found(format!("{blob} is not here")).hint(format!("fleetsync blob get {blob}")))?;
    let size = whole.size;
    let parts = futures::stream::try_unfold((whole, 0), |(whole, at)| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; READ_BYTES];
            let count = whole.read_at(&mut bytes, at)?;
            bytes.truncate(count);
            io::Result::Ok((bytes, whole))
        });
        let (bytes, whole) = read.await.map_err(io::Error::other)??;
        let at = at + bytes.len() as u64;
        io::Result::Ok((!bytes.is_empty()).then_some((bytes, (whole, at))))
    });
    let kind =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    Ok((kind, Stream::from_stream(parts)).into_response())
}

#[derive(Deserialize)]
pub(super) struct From {
    /// A device that may have it.
    from: Option<String>,
}

/// `GET /v1/blobs/{blob}/fetch`: fetches as long as the caller listens, and says how far it is.
pub(super) async fn fetch(
    State(api): State<Api>,
    Path(word): Path<String>,
    Query(From { from }): Query<From>,
) -> Result<Sse<impl futures::Stream<Item = Result<Event, Infallible>>>, Problem> {
    let blob = match word.parse() {
        Ok(blob) => blob,
        Err(_) => find(&word, known(&api).await?.keys())?,
    };
    let look = move |node: &Node| -> Result<Vec<Key>, Problem> {
        let Some(word) = from else { return Ok(Vec::new()) };
        let device = resolve(node, &word)?;
        let key = node.engine.replica().roster().key_of(&device);
        let unknown = || Problem::not_found(format!("the key of {} is not known here", name_of(node, &device)));
        Ok(vec![key.ok_or_else(unknown)?])
    };
    let holders = api.agent.look(look).await??;
    let progress = api.blobs.fetch(blob, holders).map_err(|stopped| Problem::refused(stopped.to_string()))?;
    let told = futures::stream::unfold((api, Some(progress), true), move |(api, progress, is_first)| async move {
        let mut progress = progress?;
        if !is_first && progress.changed().await.is_err() {
            return None;
        }
        let (event, is_over) = tell(&api, blob, &mut progress).await;
        Some((Ok(Event::default().data(event.to_string())), (api, (!is_over).then_some(progress), false)))
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()))
}

async fn tell(api: &Api, blob: BlobId, progress: &mut watch::Receiver<Progress>) -> (Value, bool) {
    let now = progress.borrow_and_update().clone();
    let ways = now.ways.clone();
    let named = move |node: &Node| {
        let name = |key: &transport::PeerKey| name_of(node, &Key(key.0).device());
        ways.iter().map(|via| json!({ "hop": name(&via.hop), "holder": name(&via.holder) })).collect::<Vec<Value>>()
    };
    let ways = api.agent.look(named).await.unwrap_or_default();
    let mut event = json!({
        "blob": blob.to_string(),
        "bytes": now.size,
        "here_bytes": now.here,
        "came_bytes": now.came,
        "state": state_text(&now.state),
        "ways": ways,
    });
    if let FetchState::Stopped(stopped) = &now.state {
        event["why"] = json!(stopped.to_string());
        event["status"] = json!(match stopped {
            Stopped::Nobody => 404,
            Stopped::NoAnswer(_) => 504,
            Stopped::Refused(_) => 422,
        });
    }
    (event, matches!(now.state, FetchState::Done | FetchState::Stopped(_)))
}

/// The word for what a fetch does.
fn state_text(state: &FetchState) -> &'static str {
    match state {
        FetchState::Seeking => "seeking",
        FetchState::Running => "fetching",
        FetchState::Paused => "paused",
        FetchState::Done => "done",
        FetchState::Stopped(_) => "stopped",
    }
}

#[derive(Deserialize)]
pub(super) struct Pause {
    paused: bool,
}

/// `POST /v1/blobs/{blob}/pause`: pauses what is being fetched, or lets it go on.
pub(super) async fn pause(
    State(api): State<Api>,
    Path(word): Path<String>,
    Body(Pause { paused }): Body<Pause>,
) -> Result<Json<Value>, Problem> {
    let blob = find(&word, known(&api).await?.keys())?;
    if !api.blobs.pause(&blob, paused) {
        return Err(Problem::not_found(format!("{blob} is not being fetched")).hint("fleetsync blob ls"));
    }
    Ok(Json(json!({ "blob": blob.to_string(), "paused": paused })))
}
