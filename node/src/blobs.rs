//! Blobs: files by their BLAKE3 hash, fetched from any device that has them (decision 018).
//!
//! [`Blobs`] is the disk, [`Service`] the rest: it answers what members ask on the bulk plane (`serve`), fetches what someone
//! here waits for (`fetching`), and says in `link/<id>` what this device has.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crdt::id::Key;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use transport::PeerKey;
use transport::bulk::{Answer, AskError, Bulk};

mod fetching;
mod pace;
mod serve;
mod store;
pub(crate) mod wire;

use crate::agent::bulk::ANNOUNCED_MAX;
use crate::agent::{Agent, Node, Plane};
pub(crate) use fetching::{Progress, State, Stopped};
use pace::Pace;
pub(crate) use store::{BlobId, Blobs, Held, hash_of};

/// Answers that are being read and written at once; each holds a part of a blob in memory.
const SERVED_MAX: usize = 16;
/// Fetches at once.
const FETCHES_MAX: usize = 16;
/// How long UDP is not tried again where it did not pass, unless there is a new session.
const UDP_AGAIN: Duration = Duration::from_secs(60);

/// What this node may send, bytes a second; 0 is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Of its own blobs.
    pub(crate) own: u64,
    /// For others.
    pub(crate) relayed: u64,
}

/// What was passed on: for whom, from whom.
type Relayed = BTreeMap<(PeerKey, PeerKey), u64>;

/// The blobs of a node, and others' access to them; cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(Arc<Shared>);

struct Shared {
    me: PeerKey,
    blobs: Blobs,
    bulk: Bulk,
    mesh: transport::Handle,
    agent: Agent,
    own_pace: Pace,
    relay_pace: Pace,
    serving: Arc<Semaphore>,
    /// What is being fetched.
    fetches: Mutex<BTreeMap<BlobId, Fetching>>,
    /// When UDP did not pass, by peer.
    no_udp_at: Mutex<BTreeMap<PeerKey, Instant>>,
    relayed: Mutex<Relayed>,
}

struct Fetching {
    /// Its receivers are those who wait; without any it ends.
    progress: watch::Sender<Progress>,
    is_paused: watch::Sender<bool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service {
    /// Answers and says what is here, until the bulk plane ends.
    pub(crate) fn start(agent: Agent, plane: Plane, blobs: Blobs, limits: Limits) -> Service {
        let Plane { bulk, mesh, asked } = plane;
        let service = Service(Arc::new(Shared {
            me: mesh.key(),
            blobs,
            bulk,
            mesh,
            agent,
            own_pace: Pace::new(limits.own),
            relay_pace: Pace::new(limits.relayed),
            serving: Arc::new(Semaphore::new(SERVED_MAX)),
            fetches: Mutex::default(),
            no_udp_at: Mutex::default(),
            relayed: Mutex::default(),
        }));
        tokio::spawn(service.clone().serve_all(asked));
        let announcing = service.clone();
        tokio::spawn(async move { announcing.announce().await });
        service
    }

    /// The disk.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Says in the fleet what is here whole.
    pub(crate) async fn announce(&self) {
        let blobs = self.0.blobs.clone();
        let listed = tokio::task::spawn_blocking(move || blobs.list()).await;
        match listed.map_err(io::Error::other).flatten() {
            Ok(mut held) => {
                held.retain(|held| held.is_whole);
                held.sort_by_key(|held| std::cmp::Reverse((held.since, held.blob)));
                let newest = held.iter().take(ANNOUNCED_MAX).map(|held| (held.blob, held.size)).collect();
                // An error means that the node stops.
                let _ = self.0.agent.announce_blobs(newest).await;
            }
            Err(error) => tracing::error!(%error, "the blobs of this device cannot be listed"),
        }
    }

    /// Waits for a blob: fetches it from those that say they have it and from `holders`, as long as someone holds what is
    /// given back.
    ///
    /// # Errors
    /// Too many blobs are being fetched.
    pub(crate) fn fetch(&self, blob: BlobId, holders: Vec<Key>) -> Result<watch::Receiver<Progress>, Stopped> {
        let mut fetches = locked(&self.0.fetches);
        fetches.retain(|_, fetching| !fetching.progress.is_closed());
        if let Some(fetching) = fetches.get(&blob) {
            return Ok(fetching.progress.subscribe());
        }
        if fetches.len() >= FETCHES_MAX {
            return Err(Stopped::Refused(format!("{FETCHES_MAX} blobs are being fetched already")));
        }
        let (progress, seen) = watch::channel(Progress::default());
        let (is_paused, pauses) = watch::channel(false);
        fetches.insert(blob, Fetching { progress: progress.clone(), is_paused });
        let service = self.clone();
        tokio::spawn(async move {
            fetching::run(&service, blob, holders, &progress, pauses).await;
            locked(&service.0.fetches).remove(&blob);
            service.announce().await;
        });
        Ok(seen)
    }

    /// Pauses a fetch, or lets it go on. Whether there is one.
    pub(crate) fn pause(&self, blob: &BlobId, is_paused: bool) -> bool {
        locked(&self.0.fetches).get(blob).is_some_and(|fetching| fetching.is_paused.send(is_paused).is_ok())
    }

    /// How far a fetch is, where there is one.
    pub(crate) fn progress(&self, blob: &BlobId) -> Option<Progress> {
        locked(&self.0.fetches).get(blob).map(|fetching| fetching.progress.borrow().clone())
    }

    /// The bytes that were passed on since the start: for whom, from whom.
    pub(crate) fn relayed(&self) -> Relayed {
        locked(&self.0.relayed).clone()
    }

    /// Asks a peer over UDP, or where that does not pass over a stream of its session's connection.
    async fn ask(&self, peer: PeerKey, request: Vec<u8>) -> Result<Answer, AskError> {
        let look = move |node: &Node| {
            let since = node.sessions.with(&Key(peer.0)).map(|session| session.since);
            (since, node.bulk_addresses(&Key(peer.0)))
        };
        let (since, addresses) = self.0.agent.look(look).await.unwrap_or_default();
        let failed_at = locked(&self.0.no_udp_at).get(&peer).copied();
        if failed_at.is_none_or(|at| at.elapsed() >= UDP_AGAIN || since.is_some_and(|since| since > at)) {
            match self.0.bulk.ask(peer, &addresses, &request).await {
                Err(AskError::Unreachable(why)) => {
                    tracing::debug!(%peer, why, "UDP does not pass to the bulk plane of a peer");
                    locked(&self.0.no_udp_at).insert(peer, Instant::now());
                }
                answered => return answered,
            }
        }
        self.0.mesh.ask_bulk(peer, request).await
    }
}
