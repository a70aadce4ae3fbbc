//! The first bytes on a session's streams: who we are, and whether this connection carries the session (see `duel`).
//!
//! ```text
//! control, both ways   01 boot[8] lost[8 LE]        hello; or 02: you are not admitted
//! control, judge only  01 epoch[8 LE]               go;    or 02: duplicate
//! data, dialler only   01                           so that the stream exists for the other end
//! ```

use std::io;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::Stream as Substream;
use libp2p::swarm::ConnectionId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::duel::Boot;
use super::io::{Run, run};
use crate::swarm::Internal;

/// Longest time from both streams being open to the session.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a refused peer has to read why.
const LINGER: Duration = Duration::from_secs(1);

const HELLO: u8 = 1;
const NOT_ADMITTED: u8 = 2;
const GO: u8 = 1;
const DUPLICATE: u8 = 2;
const DATA: u8 = 1;

/// What an end says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) boot: Boot,
    /// The epoch of the last session with this peer that we saw end, 0 if none.
    pub(crate) lost: u64,
}

/// Why a connection came to no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the peer does not admit us")]
    NotAdmitted,
    #[error("another connection carries the session")]
    Duplicate,
    #[error("no session within {} s", HANDSHAKE.as_secs())]
    TimedOut,
    #[error("the peer speaks another version of the session protocol (byte {0})")]
    Version(u8),
    #[error("session handshake: {0}")]
    Io(#[from] io::Error),
    #[error("shutting down")]
    Stopped,
}

/// The question put to the swarm's task: what becomes of this connection?
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) connection: ConnectionId,
    pub(crate) theirs: Hello,
    /// The judge's `go`, when the judge is the peer.
    pub(crate) go: Option<u64>,
    /// `None`: a duplicate.
    pub(crate) reply: oneshot::Sender<Option<Grant>>,
}

/// The connection carries the session.
pub(crate) struct Grant {
    pub(crate) epoch: u64,
    pub(crate) run: Run,
    /// Dropped when the session has told its end.
    pub(crate) done: oneshot::Sender<()>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("session", &self.run.session.id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Both streams of a connection, before they are a session.
pub(crate) struct Opened {
    pub(crate) connection: ConnectionId,
    pub(crate) control: Substream,
    pub(crate) data: Substream,
    pub(crate) dialler: bool,
    pub(crate) judge: bool,
    pub(crate) ours: Hello,
}

/// Brings a connection's streams to a session and runs it to its end; tells the swarm's task how it went.
pub(crate) async fn establish(mut opened: Opened, internal: mpsc::Sender<Internal>) {
    let connection = opened.connection;
    let met = timeout(HANDSHAKE, meet(&mut opened, &internal)).await.unwrap_or(Err(HandshakeError::TimedOut));
    let failure = match met {
        Ok(Grant { run: session, done, .. }) => {
            // A `go` that does not reach the peer shows as a broken stream in `run`, so that up and down stay paired.
            let up = async {
                let _ = internal.send(Internal::Up { connection }).await;
            };
            run(session, opened.control, opened.data, up).await;
            drop(done);
            None
        }
        Err(error) => {
            if matches!(error, HandshakeError::Duplicate) && opened.judge {
                linger(&mut opened.control).await;
            }
            Some(error)
        }
    };
    // Fails when the swarm's task is gone, and the connection with it.
    let _ = internal.send(Internal::Ended { connection, failure }).await;
}

/// Tells a peer that it is not admitted.
pub(crate) async fn refuse(mut control: Substream) {
    let told = async {
        control.write_all(&[NOT_ADMITTED]).await?;
        control.flush().await
    };
    if let Ok(Ok(())) = timeout(LINGER, told).await {
        linger(&mut control).await;
    }
}

async fn meet(opened: &mut Opened, internal: &mpsc::Sender<Internal>) -> Result<Grant, HandshakeError> {
    let Opened { connection, control, data, dialler, judge, ours } = opened;
    say_hello(control, *ours).await?;
    if *dialler {
        data.write_all(&[DATA]).await?;
        data.flush().await?;
    } else {
        expect(data, DATA).await?;
    }
    let theirs = hear_hello(control).await?;
    let go = if *judge { None } else { Some(hear_verdict(control).await?) };
    let (reply, answer) = oneshot::channel();
    let ask = Ask { connection: *connection, theirs, go, reply };
    internal.send(Internal::Ask(ask)).await.map_err(|_| HandshakeError::Stopped)?;
    let grant = answer.await.map_err(|_| HandshakeError::Stopped)?;
    if *judge {
        say_verdict(control, grant.as_ref().map(|grant| grant.epoch)).await;
    }
    grant.ok_or(HandshakeError::Duplicate)
}

async fn say_hello<W: AsyncWrite + Unpin>(to: &mut W, hello: Hello) -> io::Result<()> {
    let mut bytes = [HELLO; 17];
    bytes[1..9].copy_from_slice(&hello.boot);
    bytes[9..].copy_from_slice(&hello.lost.to_le_bytes());
    to.write_all(&bytes).await?;
    to.flush().await
}

async fn hear_hello<R: AsyncRead + Unpin>(from: &mut R) -> Result<Hello, HandshakeError> {
    let mut first = [0];
    from.read_exact(&mut first).await?;
    match first[0] {
        HELLO => {}
        NOT_ADMITTED => return Err(HandshakeError::NotAdmitted),
        other => return Err(HandshakeError::Version(other)),
    }
    let mut boot = [0; 8];
    let mut lost = [0; 8];
    from.read_exact(&mut boot).await?;
    from.read_exact(&mut lost).await?;
    Ok(Hello { boot, lost: u64::from_le_bytes(lost) })
}

/// Errors don't matter here: a broken stream shows to whoever uses it next.
async fn say_verdict<W: AsyncWrite + Unpin>(to: &mut W, epoch: Option<u64>) {
    let mut bytes = [if epoch.is_some() { GO } else { DUPLICATE }; 9];
    bytes[1..].copy_from_slice(&epoch.unwrap_or(0).to_le_bytes());
    if to.write_all(&bytes).await.is_ok() {
        let _ = to.flush().await;
    }
}

async fn hear_verdict<R: AsyncRead + Unpin>(from: &mut R) -> Result<u64, HandshakeError> {
    let mut bytes = [0; 9];
    from.read_exact(&mut bytes).await?;
    let [verdict, epoch @ ..] = bytes;
    match verdict {
        GO => Ok(u64::from_le_bytes(epoch)),
        DUPLICATE => Err(HandshakeError::Duplicate),
        other => Err(HandshakeError::Version(other)),
    }
}

async fn expect<R: AsyncRead + Unpin>(from: &mut R, byte: u8) -> Result<(), HandshakeError> {
    let mut got = [0];
    from.read_exact(&mut got).await?;
    if got[0] == byte { Ok(()) } else { Err(HandshakeError::Version(got[0])) }
}

/// Closing a connection discards what it has not sent: wait until the peer has hung up.
async fn linger(stream: &mut Substream) {
    let hung_up = async {
        stream.close().await?;
        let mut discarded = [0; 64];
        while stream.read(&mut discarded).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, hung_up).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    const GOLDEN: [u8; 17] = [1, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 5, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn golden_hello() {
        let hello = Hello { boot: [0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7], lost: 5 };
        let mut out = Vec::new();
        block_on(say_hello(&mut out, hello)).expect("a Vec takes all");
        assert_eq!(out, GOLDEN);
        assert_eq!(block_on(hear_hello(&mut Cursor::new(&out))).expect("legal"), hello);
    }

    #[test]
    fn golden_verdicts() {
        for (epoch, golden) in [(Some(258), [1, 2, 1, 0, 0, 0, 0, 0, 0]), (None, [2, 0, 0, 0, 0, 0, 0, 0, 0])] {
            let mut out = Vec::new();
            block_on(say_verdict(&mut out, epoch));
            assert_eq!(out, golden);
            assert_eq!(block_on(hear_verdict(&mut Cursor::new(&out))).ok(), epoch);
        }
    }

    #[test]
    fn refusals_and_other_versions_are_told_apart() {
        assert!(matches!(block_on(hear_hello(&mut Cursor::new([2]))), Err(HandshakeError::NotAdmitted)));
        assert!(matches!(block_on(hear_hello(&mut Cursor::new([9]))), Err(HandshakeError::Version(9))));
        assert!(matches!(block_on(hear_hello(&mut Cursor::new([]))), Err(HandshakeError::Io(_))));
    }
}
