//! The thread that syncs the store, so that the agent never waits for the disk. Requests that come while it syncs
//! share the next sync.

use std::sync::mpsc::{Receiver, Sender, channel};

use crdt::sync::Token;
use tokio::sync::mpsc;

use crate::store::{Store, WriteError};

/// A token of one engine; an engine that is opened anew counts its tokens from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    engine: u64,
    pub(super) token: Token,
}

/// Hands tokens to the thread.
pub(super) struct Syncer {
    requests: Sender<Option<Ticket>>,
    engine: u64,
    /// The last token that was handed over and is not reported yet.
    outstanding: Option<Token>,
}

impl Syncer {
    /// Starts the thread; it ends when the syncer is dropped.
    pub(super) fn start(store: Store) -> (Syncer, mpsc::UnboundedReceiver<Result<Ticket, WriteError>>) {
        let (requests, queue) = channel();
        let (results, receiver) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("fleetsync-sync".to_owned())
            .spawn(move || work(&store, &queue, &results))
            .expect("a thread can be started when the node starts");
        (Syncer { requests, engine: 0, outstanding: None }, receiver)
    }

    /// Whether a token waits for a sync: later ones must wait behind it.
    pub(super) fn is_busy(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Syncs, then reports the token.
    pub(super) fn sync(&mut self, token: Token) {
        self.outstanding = Some(token);
        // An error means that the thread is gone, which it told in its last result.
        let _ = self.requests.send(Some(Ticket { engine: self.engine, token }));
    }

    /// Syncs what others have sent, and reports nothing.
    pub(super) fn sync_group(&self) {
        let _ = self.requests.send(None);
    }

    /// A token was reported; `false` where it is of an engine that is gone.
    pub(super) fn done(&mut self, ticket: Ticket) -> bool {
        if ticket.engine != self.engine {
            return false;
        }
        if self.outstanding == Some(ticket.token) {
            self.outstanding = None;
        }
        true
    }

    /// The engine was opened anew: what is on its way belongs to none.
    pub(super) fn forget(&mut self) {
        self.engine += 1;
        self.outstanding = None;
    }
}

fn work(store: &Store, queue: &Receiver<Option<Ticket>>, results: &mpsc::UnboundedSender<Result<Ticket, WriteError>>) {
    while let Ok(first) = queue.recv() {
        let mut tokens: Vec<Ticket> = first.into_iter().collect();
        tokens.extend(queue.try_iter().flatten());
        let result = store.sync();
        let report = match (result, tokens.last()) {
            (Ok(()), Some(ticket)) => Ok(*ticket), // it stands for all before it
            (Ok(()), None) => continue,
            (Err(error), _) => Err(error),
        };
        if results.send(report).is_err() {
            return;
        }
    }
}
