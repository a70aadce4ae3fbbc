//! What happens, as server-sent events.

use std::convert::Infallible;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::Api;

/// Each event is one JSON object; a watcher that is too slow is told how many it missed.
pub(super) async fn stream(State(api): State<Api>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let watch = api.agent.watch();
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let event = match watch.recv().await {
            Ok(event) => Event::default().json_data(event).unwrap_or_default(),
            Err(RecvError::Lagged(missed)) => {
                let text = serde_json::json!({ "event": "missed", "subject": "", "detail": { "events": missed } });
                Event::default().data(text.to_string())
            }
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), watch))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}
