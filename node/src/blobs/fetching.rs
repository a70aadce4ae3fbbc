//! A fetch: drives `transport::fetch` with the ways that the agent knows, asks, verifies, writes.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crdt::id::Key;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use transport::PeerKey;
use transport::fetch::{Action, Fault, Fetch, PartId, Via};

use super::Service;
use super::store::{BLOB_BYTES_MAX, BlobId, Partial, Taken};
use super::wire::{Head, Request, What, answer_bytes_max};

/// How often the ways are looked at.
const WAYS_EVERY: Duration = Duration::from_millis(200);
/// A fetch to which nothing came for so long fails; what is here stays.
const STALLED: Duration = Duration::from_secs(30);
/// How long a device may take to say the size of a blob.
const SIZE: Duration = Duration::from_secs(10);
/// Bytes that stay free on the disk.
const RESERVE_BYTES: u64 = 64 << 20;

/// How far a fetch is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Bytes of all of it, once that is known.
    pub(crate) size: Option<u64>,
    /// Bytes that are here.
    pub(crate) here: u64,
    /// Bytes that came with this fetch.
    pub(crate) came: u64,
    /// The ways that are used.
    pub(crate) ways: Vec<Via>,
    pub(crate) state: State,
}

/// What a fetch does.
#[derive(Debug, Clone, Default)]
pub(crate) enum State {
    #[default]
    Seeking,
    Running,
    Paused,
    Done,
    Stopped(Stopped),
}

/// Why a fetch does not go on.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Stopped {
    /// Nobody is known to have it.
    #[error("no device says that it has this blob")]
    Nobody,
    /// Those who have it are not reached, or do not answer.
    #[error("{0}")]
    NoAnswer(String),
    /// This node cannot take it.
    #[error("{0}")]
    Refused(String),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Stopped {
        Stopped::Refused(format!("the disk: {error}"))
    }
}

/// Fetches until the blob is here, nobody waits any more, or it cannot go on.
pub(super) async fn run(
    service: &Service,
    blob: BlobId,
    holders: Vec<Key>,
    progress: &watch::Sender<Progress>,
    pauses: watch::Receiver<bool>,
) {
    let fetched = tokio::select! {
        fetched = fetch(service, blob, holders, progress, pauses) => fetched,
        () = progress.closed() => return,
    };
    progress.send_modify(|progress| {
        progress.state = match fetched {
            Ok(()) => State::Done,
            Err(stopped) => State::Stopped(stopped),
        }
    });
}

async fn fetch(
    service: &Service,
    blob: BlobId,
    holders: Vec<Key>,
    progress: &watch::Sender<Progress>,
    pauses: watch::Receiver<bool>,
) -> Result<(), Stopped> {
    let blobs = service.0.blobs.clone();
    if let Some(held) = blocking(move || blobs.stat(&blob)).await?.filter(|held| held.is_whole) {
        progress.send_modify(|progress| (progress.size, progress.here) = (Some(held.size), held.size));
        return Ok(());
    }
    let (holders, size) = find(service, blob, holders).await?;
    let blobs = service.0.blobs.clone();
    let (partial, missing) = blocking(move || {
        let partial = blobs.part(&blob, size)?;
        let missing = partial.missing()?;
        let needed: u64 = missing.iter().map(|range| range.end - range.start).sum();
        let free = blobs.free_bytes()?;
        if free < needed + RESERVE_BYTES {
            let (needed, free) = (needed >> 20, free >> 20);
            return Err(io::Error::other(format!("{needed} MiB are missing and {free} MiB are free")));
        }
        Ok((partial, missing))
    })
    .await?;
    let mut driver = Driver {
        service,
        blob,
        holders,
        fetch: Fetch::new(size, missing),
        partial: Arc::new(partial),
        parts: JoinSet::new(),
        handles: BTreeMap::new(),
        heard: mpsc::unbounded_channel(),
        progress,
        pauses,
        start: Instant::now(),
        came_at: Instant::now(),
    };
    driver.drive().await?;
    let partial = driver.partial;
    blocking(move || partial.finish()).await
}

/// Runs what may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Stopped> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??)
}

/// Who has the blob, and its size: as the fleet says, or as the first of those who are named answers.
async fn find(service: &Service, blob: BlobId, named: Vec<Key>) -> Result<(Vec<Key>, u64), Stopped> {
    let stopping = |_| Stopped::Refused("the node is stopping".to_owned());
    let look = move |node: &crate::agent::Node| {
        let said = node.holders().remove(&blob).unwrap_or_default();
        let roster = node.engine.replica().roster();
        let others = said.into_iter().filter(|(device, _)| *device != node.device());
        others.filter_map(|(device, size)| Some((roster.key_of(&device)?, size))).collect::<Vec<(Key, u64)>>()
    };
    let said = service.0.agent.look(look).await.map_err(stopping)?;
    // A size that someone makes up fits no hash; most devices say the same.
    let mut votes = BTreeMap::<u64, usize>::new();
    said.iter().for_each(|(_, size)| *votes.entry(*size).or_default() += 1);
    let size = votes.into_iter().max_by_key(|(size, votes)| (*votes, *size)).map(|(size, _)| size);
    let mut holders: Vec<Key> = said.iter().map(|(key, _)| *key).filter(|key| !named.contains(key)).collect();
    holders.splice(0..0, named.iter().copied());
    let size = match size {
        Some(size) => size,
        None if named.is_empty() => return Err(Stopped::Nobody),
        None => ask_size(service, blob, &named).await?,
    };
    if size > BLOB_BYTES_MAX {
        return Err(Stopped::Refused(format!("a blob has at most {BLOB_BYTES_MAX} bytes, this one {size}")));
    }
    Ok((holders, size))
}

async fn ask_size(service: &Service, blob: BlobId, named: &[Key]) -> Result<u64, Stopped> {
    let mut why = "it is not reached".to_owned();
    for holder in named {
        let holder = PeerKey(holder.0);
        let hops = service.0.agent.look(move |node| node.hops_to(&holder)).await.unwrap_or_default();
        for hop in hops {
            let request = Request::new(blob, What::Size, holder, service.0.me).encode();
            let asked = async {
                let mut head = Vec::new();
                let answer = service.ask(hop, request).await.map_err(io::Error::other)?;
                answer.take(64).read_to_end(&mut head).await?;
                io::Result::Ok(head)
            };
            match timeout(SIZE, asked).await.map(|head| head.map(|head| Head::decode(&head))) {
                Ok(Ok(Ok(Some((Head::Here { size }, _))))) => return Ok(size),
                Ok(Ok(Ok(Some((Head::Absent, _))))) => why = "it does not have this blob".to_owned(),
                Ok(Ok(_)) => why = "its answer is not understood, or it has too much to do".to_owned(),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = "it does not answer".to_owned(),
            }
        }
    }
    Err(Stopped::NoAnswer(why))
}

/// What a request came to.
struct Ended {
    part: PartId,
    stored: u64,
    fault: Option<Fault>,
}

struct Driver<'s> {
    service: &'s Service,
    blob: BlobId,
    holders: Vec<Key>,
    fetch: Fetch,
    partial: Arc<Partial>,
    parts: JoinSet<io::Result<Ended>>,
    handles: BTreeMap<PartId, AbortHandle>,
    heard: (mpsc::UnboundedSender<PartId>, mpsc::UnboundedReceiver<PartId>),
    progress: &'s watch::Sender<Progress>,
    pauses: watch::Receiver<bool>,
    start: Instant,
    /// When something came last.
    came_at: Instant,
}

impl Driver<'_> {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn drive(&mut self) -> Result<(), Stopped> {
        let mut ways_at = Instant::now();
        loop {
            if ways_at <= Instant::now() {
                self.look_for_ways().await?;
                ways_at = Instant::now() + WAYS_EVERY;
            }
            if self.act() {
                return Ok(());
            }
            let wake = self.fetch.poll_timeout().map_or(ways_at, |at| ways_at.min(self.start + at));
            tokio::select! {
                Some(ended) = self.parts.join_next(), if !self.parts.is_empty() => self.part_ended(ended)?,
                Some(part) = self.heard.1.recv() => {
                    self.came_at = Instant::now();
                    self.fetch.heard(self.now(), part);
                }
                Ok(()) = self.pauses.changed() => {}
                () = sleep_until(wake) => self.fetch.timer(self.now()),
            }
        }
    }

    async fn look_for_ways(&mut self) -> Result<(), Stopped> {
        let is_paused = *self.pauses.borrow();
        self.fetch.set_paused(is_paused);
        let (holders, used) = (self.holders.clone(), self.progress.borrow().ways.clone());
        let offers = self.service.0.agent.look(move |node| node.ways_to_holders(&holders, &used)).await;
        let offers = offers.map_err(|_| Stopped::Refused("the node is stopping".to_owned()))?;
        let ways: Vec<Via> = offers.into_iter().map(|offer| offer.via).collect();
        self.fetch.ways(ways.iter().copied());
        if is_paused {
            self.came_at = Instant::now();
        } else if self.came_at.elapsed() > STALLED {
            let why = if self.fetch.has_ways() {
                "those who have it do not answer"
            } else {
                "none of those who have it is reached"
            };
            return Err(Stopped::NoAnswer(format!("{why}; what is here stays, and the same command goes on with it")));
        }
        let (size, missing) = (self.fetch.size(), self.fetch.missing_bytes());
        self.progress.send_modify(|progress| {
            progress.size = Some(size);
            progress.here = size - missing;
            progress.ways = ways;
            progress.state = if is_paused { State::Paused } else { State::Running };
        });
        Ok(())
    }

    /// Does what is to be done; whether all is here.
    fn act(&mut self) -> bool {
        while let Some(action) = self.fetch.poll_action(self.now()) {
            match action {
                Action::Request { part, via, bytes } => {
                    let asking = Asking {
                        service: self.service.clone(),
                        via,
                        blob: self.blob,
                        size: self.fetch.size(),
                        bytes,
                        partial: Arc::clone(&self.partial),
                        part,
                        heard: self.heard.0.clone(),
                    };
                    self.handles.insert(part, self.parts.spawn(asking.run()));
                }
                Action::Cancel(part) => {
                    if let Some(handle) = self.handles.remove(&part) {
                        handle.abort();
                    }
                }
                Action::Done => return true,
            }
        }
        false
    }

    fn part_ended(&mut self, ended: Result<io::Result<Ended>, tokio::task::JoinError>) -> Result<(), Stopped> {
        let Ended { part, stored, fault } = match ended {
            Ok(ended) => ended?,
            // It was cancelled.
            Err(_) => return Ok(()),
        };
        self.handles.remove(&part);
        self.fetch.ended(self.now(), part, stored, fault);
        self.progress.send_modify(|progress| {
            progress.came += stored;
            progress.here = self.fetch.size() - self.fetch.missing_bytes();
        });
        Ok(())
    }
}

/// One request on its way.
struct Asking {
    service: Service,
    via: Via,
    blob: BlobId,
    size: u64,
    bytes: Range<u64>,
    partial: Arc<Partial>,
    part: PartId,
    heard: mpsc::UnboundedSender<PartId>,
}

impl Asking {
    /// An error is one of this node's disk.
    async fn run(self) -> io::Result<Ended> {
        let ended = |stored, fault| Ended { part: self.part, stored, fault };
        let what = What::Part(self.bytes.start, self.bytes.end);
        let request = Request::new(self.blob, what, self.via.holder, self.service.0.me).encode();
        let Ok(mut answer) = self.service.ask(self.via.hop, request).await else {
            return Ok(ended(0, Some(Fault::Way)));
        };
        let most = answer_bytes_max(&self.bytes);
        let mut came = Vec::with_capacity((self.bytes.end - self.bytes.start) as usize + 16 * 1024);
        // What came before it broke off is as good as any.
        while let Ok(count) = answer.read_buf(&mut came).await {
            if count == 0 || came.len() as u64 > most {
                break;
            }
            // An error means that the fetch is over.
            let _ = self.heard.send(self.part);
        }
        let head = match Head::decode(&came) {
            Ok(Some((Head::Here { size }, length))) if size == self.size => length,
            Ok(Some((Head::Here { .. } | Head::Absent | Head::Malformed, _))) => {
                return Ok(ended(0, Some(Fault::Holder)));
            }
            Ok(Some((Head::Unable, _)) | None) | Err(()) => return Ok(ended(0, Some(Fault::Way))),
        };
        let (partial, bytes) = (Arc::clone(&self.partial), self.bytes.clone());
        let taken = tokio::task::spawn_blocking(move || partial.take(&bytes, &came[head..])).await;
        let Taken { stored, is_false } = taken.map_err(io::Error::other)??;
        let is_whole = stored >= self.bytes.end - self.bytes.start;
        let fault = match is_false {
            // Over others it is not known who has altered it.
            true if self.via.hop == self.via.holder => Some(Fault::Holder),
            _ => (!is_whole).then_some(Fault::Way),
        };
        Ok(ended(stored, fault))
    }
}
