//! What happens, as server-sent events, and the last moves of the mesh.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{Api, Problem, Query};
use crate::agent::NodeEvent;

#[derive(Deserialize)]
pub(super) struct StreamQuery {
    /// Begins with so many of the last moves of the mesh.
    #[serde(default)]
    past: usize,
    /// Only moves of the mesh.
    #[serde(default)]
    moves: bool,
}

#[derive(Deserialize)]
pub(super) struct PastQuery {
    last: usize,
}

/// The last moves of the mesh, the oldest first.
pub(super) async fn past(State(api): State<Api>, Query(query): Query<PastQuery>) -> Result<Json<Value>, Problem> {
    let (past, _) = api.agent.follow(query.last).await?;
    Ok(Json(json!(past)))
}

/// Each event is one JSON object; a watcher that is too slow is told how many it missed.
pub(super) async fn stream(
    State(api): State<Api>,
    Query(query): Query<StreamQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let (past, watch) = api.agent.follow(query.past).await?;
    let is_wanted = move |event: &NodeEvent| event.is_move || !query.moves;
    let stream = futures::stream::unfold((VecDeque::from(past), watch), move |(mut past, mut watch)| async move {
        if let Some(event) = past.pop_front() {
            return Some((Ok(to_sse(&event)), (past, watch)));
        }
        let event = loop {
            match watch.recv().await {
                Ok(event) if is_wanted(&event) => break to_sse(&event),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let text = json!({ "event": "missed", "subject": "", "detail": { "events": missed } });
                    break Event::default().data(text.to_string());
                }
                Err(RecvError::Closed) => return None,
            }
        };
        Some((Ok(event), (past, watch)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

fn to_sse(event: &NodeEvent) -> Event {
    Event::default().json_data(event).unwrap_or_default()
}
