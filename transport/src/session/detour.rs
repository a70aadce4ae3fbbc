//! A session's data stream over the bulk plane, for as long as much is to come (decision 022).
//!
//! Whoever receives asks for it, after a [`Burst`]. The peer says on the data stream from where on its frames
//! come over the bulk plane, and goes on there until it has had nothing to send for [`IDLE`]; then the data stream has the rest.
//! So frames keep their order, and whoever does not ask never sees one.
//!
//! ```text
//! data stream   ... frames, an empty frame, a frame with the token of 8 bytes (big endian), later frames ...
//! bulk stream                               frames, end of stream
//! ```

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use super::frame::push_frame;
use crate::bulk::AnswerWriter;

/// What comes without a pause before the rest is asked for over the bulk plane, bytes, ...
const BURST_BYTES: u64 = 1 << 20;
/// ... or less than that, where it has taken so long already.
const SLOW_BYTES: u64 = 256 << 10;
const SLOW: Duration = Duration::from_secs(1);
/// Frames that are further apart belong to different bursts.
const PAUSE: Duration = Duration::from_millis(250);
/// A detour ends when there was nothing to send for so long.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
/// How long a receiver waits for a detour that it asked for and that the peer has begun.
pub(crate) const WAIT: Duration = Duration::from_secs(2);

/// What comes on a data stream in one go.
#[derive(Debug, Default)]
pub(crate) struct Burst {
    bytes: u64,
    /// When it began, and when its last frame came.
    span: Option<(Instant, Instant)>,
    is_told: bool,
}

impl Burst {
    /// Whether a frame of so many bytes is the one with which the burst becomes a long one.
    pub(crate) fn grows(&mut self, now: Instant, bytes: usize) -> bool {
        let begun = match self.span {
            Some((begun, last)) if now.duration_since(last) <= PAUSE => begun,
            _ => {
                *self = Burst::default();
                now
            }
        };
        self.span = Some((begun, now));
        self.bytes += bytes as u64;
        let is_slow = self.bytes >= SLOW_BYTES && now.duration_since(begun) >= SLOW;
        let is_long = self.bytes >= BURST_BYTES || is_slow;
        is_long && !std::mem::replace(&mut self.is_told, is_long)
    }
}

/// So many packets are judged together, and of them one in so many is lost where a way is lossy.
const JUDGED_PACKETS: u64 = 500;
const LOSSY_ONE_IN: u64 = 500;

/// Whether a way loses packets of late.
#[derive(Debug, Default)]
struct Losses {
    sent: u64,
    lost: u64,
    is_lossy: bool,
}

impl Losses {
    /// So many were sent and lost, since the connection began.
    fn note(&mut self, sent: u64, lost: u64) {
        let newly = sent.saturating_sub(self.sent);
        if newly >= JUDGED_PACKETS {
            self.is_lossy = lost.saturating_sub(self.lost) * LOSSY_ONE_IN > newly;
            (self.sent, self.lost) = (sent, lost);
        }
    }
}

/// One thing handed from the owner to a session's task; a newer one takes its place.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    held: Mutex<Option<T>>,
    filled: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { held: Mutex::default(), filled: Notify::new() }
    }
}

impl<T> Slot<T> {
    pub(crate) fn put(&self, thing: T) {
        *self.lock() = Some(thing);
        self.filled.notify_one();
    }

    /// Takes what is there, or waits for it. Nothing is lost when it is dropped.
    pub(crate) async fn take(&self) -> T {
        loop {
            if let Some(thing) = self.lock().take() {
                return thing;
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to write to, and what is still to be written: whoever is dropped midway leaves no half frame.
struct Outlet<W> {
    to: W,
    buffer: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> Outlet<W> {
    fn new(to: W) -> Self {
        Self { to, buffer: Vec::new(), written: 0 }
    }

    async fn drain(&mut self) -> io::Result<()> {
        while self.written < self.buffer.len() {
            match self.to.write(&self.buffer[self.written..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.written += count,
            }
        }
        // Not kept: most sessions are idle most of the time, and would hold a burst's memory.
        self.buffer = Vec::new();
        self.written = 0;
        self.to.flush().await
    }
}

/// Where a stream's frames go: onto the stream, or on a detour.
pub(crate) struct Way<W> {
    stream: Outlet<W>,
    detour: Option<Outlet<Compat<AnswerWriter>>>,
    losses: Losses,
    told_lossy: bool,
}

impl<W: AsyncWrite + Unpin> Way<W> {
    pub(crate) fn new(stream: W) -> Self {
        Self { stream: Outlet::new(stream), detour: None, losses: Losses::default(), told_lossy: false }
    }

    /// Where the next frames go, encoded; empty after [`drain`](Self::drain).
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        self.detour.as_mut().map_or(&mut self.stream.buffer, |detour| &mut detour.buffer)
    }

    /// Writes what is to be written. It can be dropped and called again.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        self.stream.drain().await?;
        match &mut self.detour {
            Some(detour) => detour.drain().await,
            None => Ok(()),
        }
    }

    pub(crate) fn is_on_detour(&self) -> bool {
        self.detour.is_some()
    }

    /// Whether packets are lost on a detour, where that is not what was told before.
    pub(crate) fn lossy_changed(&mut self) -> Option<bool> {
        match &self.detour {
            Some(detour) => {
                let (sent, lost) = detour.to.get_ref().losses()?;
                self.losses.note(sent, lost);
            }
            None => self.losses = Losses::default(),
        }
        let is_lossy = self.losses.is_lossy;
        (std::mem::replace(&mut self.told_lossy, is_lossy) != is_lossy).then_some(is_lossy)
    }

    /// What comes after goes there.
    pub(crate) fn turn(&mut self, token: u64, to: AnswerWriter) {
        push_frame(&[], &mut self.stream.buffer);
        push_frame(&token.to_be_bytes(), &mut self.stream.buffer);
        self.detour = Some(Outlet::new(to.compat_write()));
    }

    /// Ends the detour, where there is one.
    pub(crate) async fn turn_back(&mut self) -> io::Result<()> {
        self.drain().await?;
        if let Some(mut detour) = self.detour.take() {
            detour.to.close().await?;
        }
        Ok(())
    }

    /// Writes what is to be written and ends the stream.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.turn_back().await?;
        self.stream.to.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_long_once_and_a_pause_ends_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let half = 1 << 19;
        let mut burst = Burst::default();
        assert!(!burst.grows(at(0), half));
        assert!(burst.grows(at(250), half));
        assert!(!burst.grows(at(300), 4 * half), "it is told once");
        assert!(!burst.grows(at(551), half), "a new one");
        assert!(!burst.grows(at(802), half), "and another");
        assert!(burst.grows(at(803), half));
    }

    #[test]
    fn a_way_is_lossy_by_its_last_packets() {
        let mut losses = Losses::default();
        let mut is_lossy_after = |sent, lost| {
            losses.note(sent, lost);
            losses.is_lossy
        };
        assert!(!is_lossy_after(499, 400), "too few to say");
        assert!(is_lossy_after(500, 400));
        assert!(is_lossy_after(900, 400), "too few are new");
        assert!(!is_lossy_after(1000, 401), "one in 500 is none");
        assert!(is_lossy_after(1500, 403));
    }

    #[test]
    fn what_comes_slowly_is_long_sooner() {
        let start = Instant::now();
        let mut burst = Burst::default();
        let frame = 32 << 10;
        let told: Vec<u64> = (0..40).filter(|n| burst.grows(start + Duration::from_millis(n * 200), frame)).collect();
        assert_eq!(told, [7], "the eighth frame makes 256 KiB, after 1.4 s");
        let told = (0..40).any(|n| burst.grows(start + Duration::from_secs(20 + n), frame));
        assert!(!told, "each is a burst of its own");
    }
}
