//! `/fleetsync/join/1`: one request, one answer, for peers that are not admitted yet.
//!
//! ```text
//! asker      request frame                       a frame as on a session's streams, at most 8 KiB
//! answerer   answer frame, end of stream         an empty answer is a refusal
//! asker      end of stream                       says that the answer has come
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::event::Event;
use crate::peer::PeerKey;
use crate::session::frame::{FrameError, push_frame, read_frame};

/// Longest join request and longest answer, bytes.
pub const MAX_JOIN_BYTES: usize = 8 * 1024;
/// Longest join, from asking (dial included) to the answer; and, at the other end, from the stream to the owner's answer.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Most requests being read or waiting for the owner's answer. Further ones are refused.
pub(crate) const MAX_PENDING: usize = 16;
/// How long the other end has to take the answer.
const LINGER: Duration = Duration::from_secs(2);

/// Why a join brought no answer. Nothing is known of what the peer did with the request, except where said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No address led to the peer; one line each. The request was not sent.
    #[error("the peer can't be reached: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// No answer within [`JOIN_TIMEOUT`].
    #[error("no answer within {} s", JOIN_TIMEOUT.as_secs())]
    Timeout,
    /// The request or the answer is above [`MAX_JOIN_BYTES`]. In the first case it was not sent.
    #[error("a join message is at most {MAX_JOIN_BYTES} bytes")]
    TooLarge,
    /// The peer refused: its owner did, or it is over its limits (4 requests a minute a key, 16 at once).
    #[error("the peer refused")]
    Refused,
    /// The peer does not take joins. The request was not sent.
    #[error("the peer takes no joins: {0}")]
    Unsupported(String),
    /// The connection broke before an answer came.
    #[error("the connection closed: {0}")]
    Closed(String),
    /// Too many joins of our own are under way. The request was not sent.
    #[error("too many joins under way")]
    Busy,
    /// The mesh is shut down. The request was not sent.
    #[error("the mesh is shut down")]
    Stopped,
}

/// Why an answer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// No such request waits: it was answered, has timed out, or never was.
    #[error("no such join request waits")]
    Unknown,
    /// The answer is above [`MAX_JOIN_BYTES`]. The request still waits.
    #[error("a join answer is at most {MAX_JOIN_BYTES} bytes")]
    TooLong,
}

/// The requests that wait for the owner's answer.
#[derive(Debug)]
pub(crate) struct Pending {
    answers: Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>,
    next: AtomicU64,
    /// One permit for each request being served.
    pub(crate) slots: Arc<Semaphore>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { answers: Mutex::default(), next: AtomicU64::new(1), slots: Arc::new(Semaphore::new(MAX_PENDING)) }
    }
}

impl Pending {
    pub(crate) fn answer(&self, id: u64, answer: Vec<u8>) -> Result<(), AnswerError> {
        if answer.len() > MAX_JOIN_BYTES {
            return Err(AnswerError::TooLong);
        }
        let waiting = self.lock().remove(&id).ok_or(AnswerError::Unknown)?;
        waiting.send(answer).map_err(|_| AnswerError::Unknown)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, oneshot::Sender<Vec<u8>>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a request however its serving ends.
struct Forget<'a>(&'a Pending, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// The asker's side of one stream.
pub(crate) async fn ask<S>(stream: &mut S, request: &[u8]) -> Result<Vec<u8>, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closed = |error: std::io::Error| JoinError::Closed(error.to_string());
    let mut bytes = Vec::with_capacity(request.len() + 3);
    push_frame(request, &mut bytes);
    stream.write_all(&bytes).await.map_err(closed)?;
    stream.flush().await.map_err(closed)?;
    match read_frame(stream, MAX_JOIN_BYTES).await {
        Ok(Some(answer)) if answer.is_empty() => Err(JoinError::Refused),
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(JoinError::Closed("no answer came".to_owned())),
        Err(FrameError::TooLong(_)) => Err(JoinError::TooLarge),
        Err(error) => Err(JoinError::Closed(error.to_string())),
    }
}

/// The answerer's side of one stream: asks the owner, waits, answers. Whatever goes wrong ends in a refusal.
pub(crate) async fn serve<S>(stream: S, peer: PeerKey, addr: String, pending: &Pending, events: &mpsc::Sender<Event>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_within(JOIN_TIMEOUT, stream, peer, addr, pending, events).await;
}

async fn serve_within<S>(
    limit: Duration,
    mut stream: S,
    peer: PeerKey,
    addr: String,
    pending: &Pending,
    events: &mpsc::Sender<Event>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let served = async {
        let bytes = read_frame(&mut stream, MAX_JOIN_BYTES).await.ok().flatten()?;
        let id = pending.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        pending.lock().insert(id, answer);
        let _forget = Forget(pending, id);
        events.send(Event::JoinRequest { id, peer, addr, bytes }).await.ok()?;
        answered.await.ok()
    };
    let answer = timeout(limit, served).await.ok().flatten().unwrap_or_default();
    reply(stream, &answer).await;
}

/// Refuses without reading.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    reply(stream, &[]).await;
}

/// Sends the answer and waits until the asker has hung up: closing a connection discards what it has not sent.
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) {
    let sent = async {
        let mut bytes = Vec::with_capacity(answer.len() + 3);
        push_frame(answer, &mut bytes);
        stream.write_all(&bytes).await?;
        stream.close().await?;
        let mut discarded = [0; 1024];
        // At most about what a legal request holds is read; an asker that sends on is cut off.
        let mut left = MAX_JOIN_BYTES + discarded.len();
        while left > 0 {
            let read = stream.read(&mut discarded).await?;
            left = if read == 0 { 0 } else { left.saturating_sub(read) };
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(LINGER, sent).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::frame::push_prefix;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    /// The answerer on one end of a pipe, the test on the other.
    fn served(limit: Duration) -> (DuplexStream, Arc<Pending>, mpsc::Receiver<Event>) {
        let (ours, theirs) = duplex(64 * 1024);
        let pending = Arc::new(Pending::default());
        let (events, owner) = mpsc::channel(4);
        let shared = pending.clone();
        tokio::spawn(async move {
            serve_within(limit, Pipe(theirs), PeerKey([1; 32]), "/memory".to_owned(), &shared, &events).await;
        });
        (ours, pending, owner)
    }

    /// A tokio pipe as a futures stream.
    struct Pipe(DuplexStream);

    impl AsyncRead for Pipe {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            let mut read = tokio::io::ReadBuf::new(buffer);
            let polled = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut self.0), cx, &mut read);
            polled.map_ok(|()| read.filled().len())
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            tokio::io::AsyncWrite::poll_write(std::pin::Pin::new(&mut self.0), cx, bytes)
        }
        fn poll_flush(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            tokio::io::AsyncWrite::poll_flush(std::pin::Pin::new(&mut self.0), cx)
        }
        fn poll_close(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.0), cx)
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_once() {
        let (ours, pending, mut owner) = served(JOIN_TIMEOUT);
        let asked = tokio::spawn(async move { ask(&mut Pipe(ours), b"please").await });
        let Some(Event::JoinRequest { id, bytes, .. }) = owner.recv().await else { panic!("a request") };
        assert_eq!(bytes, b"please");
        assert_eq!(pending.answer(id, vec![0; MAX_JOIN_BYTES + 1]), Err(AnswerError::TooLong));
        assert_eq!(pending.answer(id, b"welcome".to_vec()), Ok(()));
        assert_eq!(pending.answer(id, b"again".to_vec()), Err(AnswerError::Unknown));
        assert_eq!(asked.await.expect("no panic"), Ok(b"welcome".to_vec()));
    }

    #[tokio::test]
    async fn an_oversize_request_is_refused_unread() {
        let (mut ours, pending, mut owner) = served(JOIN_TIMEOUT);
        let mut bytes = Vec::new();
        push_prefix(MAX_JOIN_BYTES + 1, &mut bytes);
        ours.write_all(&bytes).await.expect("pipe");
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.expect("pipe");
        drop(ours);
        assert_eq!(answer, [0], "an empty answer");
        assert!(owner.try_recv().is_err());
        assert!(pending.lock().is_empty());
    }

    #[tokio::test]
    async fn an_oversize_answer_and_a_refusal_are_told_apart() {
        for (answer, told) in [
            (vec![0x81, 0x40], Err(JoinError::TooLarge)),
            (vec![0x00], Err(JoinError::Refused)),
            (vec![], Err(JoinError::Closed("no answer came".to_owned()))),
        ] {
            let (ours, mut theirs) = duplex(1024);
            theirs.write_all(&answer).await.expect("pipe");
            theirs.shutdown().await.expect("pipe");
            assert_eq!(ask(&mut Pipe(ours), b"x").await, told);
        }
    }

    #[tokio::test]
    async fn an_unanswered_request_is_refused_and_forgotten() {
        let (ours, pending, mut owner) = served(Duration::from_millis(20));
        let asked = tokio::spawn(async move { ask(&mut Pipe(ours), b"please").await });
        assert!(matches!(owner.recv().await, Some(Event::JoinRequest { .. })));
        assert_eq!(asked.await.expect("no panic"), Err(JoinError::Refused));
        assert!(pending.lock().is_empty());
    }
}
