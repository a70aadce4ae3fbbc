//! A session's task: reads and writes both streams until one of them, the owner or the swarm ends it.
//!
//! Payload goes straight between the streams and the owner's channel; the swarm's task never sees it. One task polls all
//! four directions, so ending a session is dropping one future. The data stream may take a [`detour`](super::detour).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::{self, Either};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::detour::{self, Burst, Slot, Way};
use super::frame::{FrameError, MAX_FRAME_BYTES, read_frame};
use super::outbox::Outbox;
use crate::bulk::{Answer, AnswerWriter};
use crate::event::{DownReason, Event, SessionId, Stream};
use crate::peer::PeerKey;

/// Read ahead of the frame decoder, bytes a stream: small frames then don't cost a wake-up each.
const READ_AHEAD_BYTES: usize = 16 * 1024;
/// Longest good-bye: flushing the queues and hearing the peer's end of stream.
const GOODBYE: Duration = Duration::from_millis(400);

/// One direction pair of a session and its counters (frames' bytes, without prefixes).
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) outbox: Outbox,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// What the owner's handle, the swarm's task and the session's task share.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: PeerKey,
    pub(crate) outbound: bool,
    pub(crate) addr: String,
    pub(crate) since: Instant,
    pub(crate) control: Lane,
    pub(crate) data: Lane,
    /// Where the peer asked the data stream's frames to go, and where it sends its own, each with its token.
    pub(crate) detour_out: Slot<(u64, AnswerWriter)>,
    pub(crate) detour_in: Slot<(u64, Answer)>,
    end: watch::Sender<Option<DownReason>>,
}

impl Session {
    pub(crate) fn new(id: SessionId, peer: PeerKey, outbound: bool, addr: String) -> Self {
        Self {
            id,
            peer,
            outbound,
            addr,
            since: Instant::now(),
            control: Lane::default(),
            data: Lane::default(),
            detour_out: Slot::default(),
            detour_in: Slot::default(),
            end: watch::Sender::new(None),
        }
    }

    pub(crate) fn lane(&self, stream: Stream) -> &Lane {
        match stream {
            Stream::Control => &self.control,
            Stream::Data => &self.data,
        }
    }

    /// Asks the session's task to end. The first reason counts.
    pub(crate) fn end(&self, reason: DownReason) {
        self.control.outbox.close();
        self.data.outbox.close();
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(reason);
            first
        });
    }

    /// Whether its end was asked for or has come.
    pub(crate) fn is_ending(&self) -> bool {
        self.end.borrow().is_some()
    }

    async fn ended(&self) -> DownReason {
        let mut end = self.end.subscribe();
        match end.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The sender is a field of `self`, so this does not happen.
            _ => future::pending().await,
        }
    }
}

/// What a session's task needs besides its streams.
pub(crate) struct Run {
    pub(crate) session: Arc<Session>,
    pub(crate) events: mpsc::Sender<Event>,
    /// Closes when the peer's last session has told its end.
    pub(crate) after: Option<oneshot::Receiver<()>>,
}

/// Runs a session to its end. `up` is polled when the owner has been told of it.
pub(crate) async fn run<S>(run: Run, control: S, data: S, up: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Run { session, events, after } = run;
    if let Some(after) = after {
        // Ends by closing; it carries no value.
        let _ = after.await;
    }
    let (id, peer) = (session.id, session.peer);
    let told = Event::SessionUp { session: id, peer, outbound: session.outbound, addr: session.addr.clone() };
    if events.send(told).await.is_err() {
        return;
    }
    up.await;
    tracing::debug!(%peer, session = id.0, outbound = session.outbound, addr = session.addr, "session up");
    let reason = transfer(&session, &events, control, data).await;
    session.end(reason.clone());
    tracing::debug!(%peer, session = id.0, %reason, "session down");
    // Fails when the owner has dropped its receiver: nobody is left to be told.
    let _ = events.send(Event::SessionDown { session: id, peer, reason }).await;
}

async fn transfer<S>(session: &Session, events: &mpsc::Sender<Event>, control: S, data: S) -> DownReason
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (control_in, control_out) = control.split();
    let (data_in, data_out) = data.split();
    let mut control_in = BufReader::with_capacity(READ_AHEAD_BYTES, control_in);
    let mut data_in = BufReader::with_capacity(READ_AHEAD_BYTES, data_in);
    let (mut control_out, mut data_out) = (Way::new(control_out), Way::new(data_out));
    let reason = tokio::select! {
        biased;
        reason = session.ended() => reason,
        reason = write(session, Stream::Control, events, &mut control_out) => reason,
        reason = write(session, Stream::Data, events, &mut data_out) => reason,
        reason = read_both(
            read(session, Stream::Control, events, &mut control_in),
            read(session, Stream::Data, events, &mut data_in),
        ) => reason,
    };
    if matches!(reason, DownReason::Closed | DownReason::Shutdown) {
        let goodbye = future::join(
            part(&session.control.outbox, &mut control_in, &mut control_out),
            part(&session.data.outbox, &mut data_in, &mut data_out),
        );
        let _ = timeout(GOODBYE, goodbye).await;
    }
    reason
}

/// Both readers. When one stream has ended in good order, the other is read to its end too, for a short time: a peer that
/// closes in good order has flushed both.
async fn read_both(control: impl Future<Output = DownReason>, data: impl Future<Output = DownReason>) -> DownReason {
    let (control, data) = (std::pin::pin!(control), std::pin::pin!(data));
    let (first, other) = match future::select(control, data).await {
        Either::Left((first, other)) => (first, Either::Left(other)),
        Either::Right((first, other)) => (first, Either::Right(other)),
    };
    if first == DownReason::ClosedByPeer {
        let _ = timeout(GOODBYE, other).await;
    }
    first
}

/// Reads frames into the owner's channel, and waits where the owner lets it wait.
async fn read<R>(session: &Session, stream: Stream, events: &mpsc::Sender<Event>, from: &mut R) -> DownReason
where
    R: AsyncRead + Unpin,
{
    let mut burst = Burst::default();
    loop {
        let read = match next_frame(from).await {
            Ok(Some(bytes)) if bytes.is_empty() && stream == Stream::Data => read_detour(session, events, from).await,
            Ok(Some(bytes)) => {
                let is_long = stream == Stream::Data && burst.grows(tokio::time::Instant::now(), bytes.len());
                deliver(session, stream, events, bytes, is_long).await
            }
            Ok(None) => return DownReason::ClosedByPeer,
            Err(reason) => return reason,
        };
        if let Err(reason) = read {
            return reason;
        }
    }
}

/// Reads what the peer sends over the bulk plane, to its end; the mark's first frame has been read.
async fn read_detour<R>(session: &Session, events: &mpsc::Sender<Event>, from: &mut R) -> Result<(), DownReason>
where
    R: AsyncRead + Unpin,
{
    let token = next_frame(from).await?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    let token = u64::from_be_bytes(token.ok_or(DownReason::Malformed)?);
    let asked_for = async {
        loop {
            match session.detour_in.take().await {
                (known, answer) if known == token => return answer,
                _ => {} // of an earlier request
            }
        }
    };
    let lost = || DownReason::Lost("what the peer sends over the bulk plane was not asked for".to_owned());
    let answer = timeout(detour::WAIT, asked_for).await.map_err(|_| lost())?;
    tracing::debug!(peer = %session.peer, "the data stream comes over the bulk plane");
    let mut from = BufReader::with_capacity(READ_AHEAD_BYTES, answer.compat());
    while let Some(bytes) = next_frame(&mut from).await? {
        deliver(session, Stream::Data, events, bytes, false).await?;
    }
    tracing::debug!(peer = %session.peer, "the data stream is back from the bulk plane");
    Ok(())
}

async fn next_frame<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<Vec<u8>>, DownReason> {
    read_frame(from, MAX_FRAME_BYTES).await.map_err(|error| match error {
        FrameError::TooLong(announced_bytes) => DownReason::FrameTooLong { announced_bytes },
        FrameError::Malformed => DownReason::Malformed,
        FrameError::Io(error) => DownReason::Lost(error.to_string()),
    })
}

async fn deliver(
    session: &Session,
    stream: Stream,
    events: &mpsc::Sender<Event>,
    bytes: Vec<u8>,
    is_long_burst: bool,
) -> Result<(), DownReason> {
    session.lane(stream).bytes_in.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    let id = session.id;
    let burst = is_long_burst.then_some(Event::Burst { session: id, peer: session.peer });
    for event in [Event::Frame { session: id, stream, bytes }].into_iter().chain(burst) {
        events.send(event).await.map_err(|_| DownReason::Shutdown)?;
    }
    Ok(())
}

/// Writes what the owner queues, many frames a write, flushed at once.
async fn write<W>(session: &Session, stream: Stream, events: &mpsc::Sender<Event>, way: &mut Way<W>) -> DownReason
where
    W: AsyncWrite + Unpin,
{
    let lane = session.lane(stream);
    let mut writable = Some(MAX_FRAME_BYTES);
    loop {
        if let Some(bytes) = writable.take()
            && events.send(Event::Writable { session: session.id, stream, bytes }).await.is_err()
        {
            return DownReason::Shutdown;
        }
        let is_on_detour = way.is_on_detour();
        let written = tokio::select! {
            biased;
            (token, to) = session.detour_out.take(), if stream == Stream::Data && !is_on_detour => {
                way.turn(token, to);
                way.drain().await
            }
            cost = lane.outbox.fill(way.buffer()) => {
                let bytes = way.buffer().len() as u64;
                let drained = way.drain().await;
                lane.bytes_out.fetch_add(bytes, Ordering::Relaxed);
                writable = lane.outbox.written(cost);
                drained
            }
            () = tokio::time::sleep(detour::IDLE), if is_on_detour => way.turn_back().await,
        };
        if let Err(error) = written {
            return DownReason::Lost(error.to_string());
        }
        if let Some(is_lossy) = way.lossy_changed()
            && events.send(Event::Lossy { session: session.id, is_lossy }).await.is_err()
        {
            return DownReason::Shutdown;
        }
    }
}

/// The good-bye on one stream: what is queued, our end of stream, then the peer's.
async fn part<R, W>(outbox: &Outbox, from: &mut R, way: &mut Way<W>) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    way.drain().await?;
    while outbox.fill_now(way.buffer()) > 0 {
        way.drain().await?;
    }
    way.close().await?;
    let mut discarded = [0; 1024];
    while from.read(&mut discarded).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
