//! The API: HTTP/JSON on a Unix socket. Errors are problem details (RFC 9457). Bodies have at most 1 MiB.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::agent::{Agent, Stopped};
use crate::blobs::Service;
use crate::settings::Settings;
use crate::telemetry::Explain;

mod blobs;
mod devices;
mod doctor;
mod documents;
mod events;
mod graph;
mod live;
mod log;
mod members;
mod peers;
mod read;
mod routes;
mod status;
pub(crate) mod values;
mod write;

pub(crate) use devices::source_edit;
pub(crate) use status::{name_of, settings_to_json};
pub(crate) use write::statement_to_hex;

/// Largest request body, bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    agent: Agent,
    blobs: Service,
    explain: Explain,
    settings: Arc<Settings>,
    /// Turns to read the store.
    reads: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(agent: Agent, blobs: Service, explain: Explain, settings: Settings) -> Api {
        Api { agent, blobs, explain, settings: Arc::new(settings), reads: Arc::new(Semaphore::new(read::READS_MAX)) }
    }
}

/// Why a request is not answered as hoped, as RFC 9457 puts it.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: StatusCode,
    title: &'static str,
    detail: String,
    extra: Option<Box<serde_json::Value>>,
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "the request is malformed", detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not found", detail)
    }

    pub(crate) fn refused(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", detail)
    }

    /// Another device was asked, and did not answer.
    pub(crate) fn no_answer(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::GATEWAY_TIMEOUT, "the device does not answer", detail)
    }

    /// What was asked for can never be again.
    pub(crate) fn gone(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::GONE, "gone", detail)
    }

    fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, title, detail: detail.into(), extra: None, hint: None }
    }

    /// With a command that helps.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: Some(hint.into()), ..self }
    }

    /// A conflict, with what stands in its way.
    pub(crate) fn conflict(detail: impl Into<String>, extra: serde_json::Value) -> Problem {
        Problem { extra: Some(Box::new(extra)), ..Problem::new(StatusCode::CONFLICT, "conflict", detail) }
    }

    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Problem {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the node failed", error.to_string())
    }
}

impl From<Stopped> for Problem {
    fn from(stopped: Stopped) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the node is stopping", stopped.to_string())
    }
}

impl From<crdt::store::StoreError> for Problem {
    fn from(error: crdt::store::StoreError) -> Problem {
        Problem::internal(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(extra) = self.extra {
            body["conflict"] = *extra;
        }
        if let Some(hint) = self.hint {
            body["hint"] = hint.into();
        }
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, kind, body.to_string()).into_response()
    }
}

/// A JSON body; what is malformed or too large becomes a problem.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("a request has at most {BODY_BYTES_MAX} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large", detail)
            }
            other => Problem::bad_request(other.body_text()),
        })?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| Problem::bad_request(error.to_string()))
    }
}

/// The query of a request; one that does not decode becomes a problem.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let decoded = axum::extract::Query::from_request_parts(parts, state).await;
        decoded.map(|query| Query(query.0)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// The variable part of a request's path; one that does not decode becomes a problem.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let decoded = axum::extract::Path::from_request_parts(parts, state).await;
        decoded.map(|path| Path(path.0)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/peers", get(peers::list).post(peers::add))
        .route("/v1/graph", get(graph::show))
        .route("/v1/doctor", get(doctor::examine))
        .route("/v1/routes/{device}", get(routes::show))
        .route("/v1/ping/{device}", get(live::ping))
        .route("/v1/devices", get(devices::list))
        .route("/v1/devices/{device}", get(devices::show))
        .route("/v1/documents", get(documents::list))
        .route("/v1/document", get(documents::show))
        .route("/v1/document/log", get(documents::log))
        .route("/v1/document/export", get(documents::export))
        .route("/v1/document/verify", get(documents::verify))
        .route("/v1/members", get(members::list))
        .route("/v1/wishes", get(members::wishes))
        .route("/v1/roster", get(members::roster))
        .route("/v1/subject", get(members::subject))
        .route("/v1/changes/prepare", post(write::prepare))
        .route("/v1/changes/submit", post(write::submit))
        .route("/v1/statements", post(write::statements))
        .route("/v1/node/offline", post(write::offline))
        .route("/v1/node/collect", get(status::collect))
        .route("/v1/node/config", get(status::config))
        .route("/v1/events", get(events::stream))
        .route("/v1/events/past", get(events::past))
        .fallback(|| async { Problem::not_found("there is no such resource; GET /v1/status is one") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", "this resource has other methods")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // The body of a blob is a stream, and has no limit but the disk.
        .route("/v1/blobs", get(blobs::list).put(blobs::put))
        .route("/v1/blobs/{blob}", get(blobs::stat).delete(blobs::remove))
        .route("/v1/blobs/{blob}/content", get(blobs::content))
        .route("/v1/blobs/{blob}/fetch", get(blobs::fetch))
        .route("/v1/blobs/{blob}/pause", post(blobs::pause))
        .with_state(api)
}

/// Binds the socket; a stale one of a process that was killed is replaced (the folder's lock is held).
pub(crate) fn bind(path: &std::path::Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(listener: UnixListener, api: Api, stop: impl Future<Output = ()> + Send + 'static) {
    let server = axum::serve(listener, router(api)).with_graceful_shutdown(stop);
    if let Err(error) = server.await {
        tracing::error!(%error, "the API ended");
    }
}

#[cfg(test)]
mod tests;
