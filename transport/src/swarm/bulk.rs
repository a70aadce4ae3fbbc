//! Bulk requests over streams of the connection that carries the session, where UDP does not pass (decision 018).
//!
//! ```text
//! asker      request frame            a frame as on a session's streams, at most 4 KiB
//! answerer   the answer, end of stream
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::swarm::{ConnectionId, Stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::Task;
use crate::bulk::{Answer, AnswerWriter, AskError, Asked, MAX_REQUEST_BYTES};
use crate::peer::PeerKey;
use crate::session::frame::{push_frame, read_frame};
use crate::session::handler::{Open, Protocol};

/// Most requests whose streams are being opened, of peers' requests that are being read, and how long one may take to come.
const MAX_OPENING: usize = 64;
const MAX_READING: usize = 32;
const REQUEST: Duration = Duration::from_secs(10);

/// Where the answer of a request is waited for.
pub(crate) type Reply = oneshot::Sender<Result<Answer, AskError>>;

struct Opening {
    connection: ConnectionId,
    request: Vec<u8>,
    reply: Reply,
}

/// Requests on their way out, and where those of peers go.
pub(super) struct BulkStreams {
    opening: BTreeMap<u64, Opening>,
    next_token: u64,
    inlet: Option<mpsc::Sender<Asked>>,
    reading: Arc<Semaphore>,
}

impl BulkStreams {
    pub(super) fn new(inlet: Option<mpsc::Sender<Asked>>) -> Self {
        Self { opening: BTreeMap::new(), next_token: 0, inlet, reading: Arc::new(Semaphore::new(MAX_READING)) }
    }
}

impl Task {
    pub(super) fn ask_bulk(&mut self, peer: PeerKey, request: Vec<u8>, reply: Reply) {
        let failed = |reply: Reply, why: &str| {
            // An error means that the asker is gone.
            let _ = reply.send(Err(AskError::NoStream(why.to_owned())));
        };
        if self.bulk.opening.len() >= MAX_OPENING {
            return failed(reply, "too many streams are being opened");
        }
        let Some(connection) = self.links.carrying(peer) else { return failed(reply, "there is no session") };
        self.bulk.next_token += 1;
        let token = self.bulk.next_token;
        self.bulk.opening.insert(token, Opening { connection, request, reply });
        let open = Open { protocol: Protocol::Bulk, token };
        self.swarm.behaviour_mut().session.open(peer.to_peer_id(), connection, open);
    }

    pub(super) fn bulk_opened(&mut self, token: u64, mut stream: Stream) {
        let Some(Opening { request, reply, .. }) = self.bulk.opening.remove(&token) else { return };
        self.tasks.spawn(async move {
            let sent = async {
                let mut bytes = Vec::with_capacity(request.len() + 3);
                push_frame(&request, &mut bytes);
                stream.write_all(&bytes).await?;
                stream.flush().await
            };
            let answer = match sent.await {
                Ok(()) => Ok(Answer(Box::pin(stream.compat()))),
                Err(error) => Err(AskError::Closed(error.to_string())),
            };
            // An error means that the asker is gone.
            let _ = reply.send(answer);
        });
    }

    pub(super) fn bulk_failed(&mut self, token: u64, why: String) {
        if let Some(opening) = self.bulk.opening.remove(&token) {
            // An error means that the asker is gone.
            let _ = opening.reply.send(Err(AskError::NoStream(why)));
        }
    }

    /// A connection closed: the requests whose streams were being opened on it fail.
    pub(super) fn bulk_closed(&mut self, connection: ConnectionId, why: &str) {
        let lost = self.bulk.opening.extract_if(.., |_, opening| opening.connection == connection);
        for (_, opening) in lost.collect::<Vec<_>>() {
            // An error means that the asker is gone.
            let _ = opening.reply.send(Err(AskError::Closed(why.to_owned())));
        }
    }

    /// A peer asks; over the limits, or where nobody takes requests, the stream is reset.
    pub(super) fn bulk_came(&mut self, connection: ConnectionId, mut stream: Stream) {
        let Some(peer) = self.links.carried(connection).filter(|peer| (self.admit)(peer)) else { return };
        let Some(inlet) = self.bulk.inlet.clone() else { return };
        let Ok(turn) = Arc::clone(&self.bulk.reading).try_acquire_owned() else { return };
        self.tasks.spawn(async move {
            if let Ok(Ok(Some(request))) = timeout(REQUEST, read_frame(&mut stream, MAX_REQUEST_BYTES)).await {
                // An error means that the owner is gone.
                let _ = inlet.send(Asked { peer, request, answer: AnswerWriter::new(stream.compat()) }).await;
            }
            drop(turn);
        });
    }
}
