//! The handle by which everything else talks to the agent's task.

use std::collections::BTreeMap;

use crdt::id::Key;
use crdt::sync::{Input, Reply, RequestId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::forwarding::{AnswerSender, Answered, AskError, Question};
use super::{Node, NodeEvent};
use crate::blobs::BlobId;
use crate::store::Store;

pub(super) type Make = Box<dyn FnOnce(RequestId) -> Input + Send>;
pub(super) type Look = Box<dyn FnOnce(&Node) + Send>;

pub(super) enum Command {
    Request(Make, oneshot::Sender<Reply>),
    Look(Look),
    Ask(Key, Question, AnswerSender),
    AnnounceBlobs(BTreeMap<BlobId, u64>),
    SetOffline(bool, oneshot::Sender<Result<(), String>>),
    AddAddresses(Key, Vec<String>, oneshot::Sender<Result<(), String>>),
}

/// The node stopped.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the node is stopping")]
pub(crate) struct Stopped;

/// A handle of the agent.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) restored: watch::Receiver<u64>,
    pub(super) store: Store,
}

impl Agent {
    /// Makes a request of the engine and waits for its answer.
    pub(crate) async fn request(
        &self,
        make: impl FnOnce(RequestId) -> Input + Send + 'static,
    ) -> Result<Reply, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Request(Box::new(make), reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Looks at the node between two inputs.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Node) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |node| {
            // An error means that the asker is gone.
            let _ = reply.send(look(node));
        });
        self.commands.send(Command::Look(look)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Asks a device, over others where no link leads there. Answered or given up within ten seconds.
    pub(crate) async fn ask(&self, to: Key, question: Question) -> Result<Result<Answered, AskError>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ask(to, question, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Says in the fleet which blobs this device has whole, with their sizes in bytes.
    pub(crate) async fn announce_blobs(&self, blobs: BTreeMap<BlobId, u64>) -> Result<(), Stopped> {
        self.commands.send(Command::AnnounceBlobs(blobs)).await.map_err(|_| Stopped)
    }

    /// Cuts the node off, or lets it back in; kept over restarts.
    pub(crate) async fn set_offline(&self, offline: bool) -> Result<Result<(), String>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::SetOffline(offline, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Remembers where a member may be reached, over restarts too, and tries it now where a link with it is wanted.
    pub(crate) async fn add_addresses(&self, peer: Key, addresses: Vec<String>) -> Result<Result<(), String>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::AddAddresses(peer, addresses, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The last moves of the mesh, the oldest first, and whatever happens from now on.
    pub(crate) async fn follow(
        &self,
        past: usize,
    ) -> Result<(Vec<NodeEvent>, broadcast::Receiver<NodeEvent>), Stopped> {
        self.look(move |node| node.follow(past)).await
    }

    /// Changes whenever this device's documents may have got values that it wrote before its folder was put back from an
    /// old copy, and of which this process knows nothing.
    pub(crate) fn restored(&self) -> watch::Receiver<u64> {
        self.restored.clone()
    }

    /// The store, for reads.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}
