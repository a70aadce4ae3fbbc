//! Applies batches on a thread of its own, while what comes next is judged on the others.
//!
//! A batch that only has to survive the end of the process may be *kept behind*: it is seen by every read through the
//! [`Writer`] at once, and reported once it is applied. Batches are applied and reported in the order in which they came.
//! After one that could not be applied none is, until [`Writer::forget`].

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crdt::store::{Batch, Durability, LogStore, StoreError, Table, Visit, scan_over};
use crdt::sync::Token;
use tokio::sync::Notify;

use super::recent::Recent;
use super::{Store, WriteError};

/// Most batches that are kept behind.
const BEHIND_MAX: usize = 2;

/// A batch that was applied, by its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// What the engine is told of it with.
    pub token: Token,
    /// How durable it has to be before that.
    pub durability: Durability,
}

/// A store, and the batches that are on their way into it.
pub struct Writer {
    store: Store,
    behind: VecDeque<Behind>,
    /// Of all that was written, behind or not.
    recent: Recent,
    /// Those that were not handed to the thread yet.
    held: Mutex<VecDeque<Arc<Batch>>>,
    /// None where one thread has to do everything.
    applier: Option<Applier>,
    wake: Arc<Notify>,
}

struct Behind {
    batch: Arc<Batch>,
    applied: Applied,
}

/// The thread.
struct Applier {
    tasks: Sender<Task>,
    results: Mutex<Receiver<Result<(), WriteError>>>,
    thread: JoinHandle<()>,
}

enum Task {
    Apply(Arc<Batch>),
    /// Batches are applied again after one that was not.
    Resume,
}

impl Writer {
    /// Writes into a store, with a thread of its own where there are several to use.
    pub fn start(store: Store, threads: usize) -> Writer {
        let wake = Arc::new(Notify::new());
        let applier = (threads > 1).then(|| {
            let store = store.clone();
            Applier::start(move |batch| store.apply(batch), Arc::clone(&wake))
        });
        Writer { store, behind: VecDeque::new(), recent: Recent::default(), held: Mutex::default(), applier, wake }
    }

    /// Fires when [`Writer::poll`] may have something new.
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Applies a batch, or keeps it behind where it need not be synced. Returns what is applied now, in order. On an error
    /// nothing that is behind is reported any more.
    pub fn persist(&mut self, batch: Batch, applied: Applied) -> Result<Vec<Applied>, WriteError> {
        let is_behind = self.applier.is_some() && applied.durability == Durability::Written;
        let mut done = Vec::new();
        while self.behind.len() > if is_behind { BEHIND_MAX - 1 } else { 0 } {
            done.extend(self.wait().transpose()?);
        }
        self.recent.note(&batch);
        if is_behind {
            let batch = Arc::new(batch);
            self.behind.push_back(Behind { batch: Arc::clone(&batch), applied });
            self.held.get_mut().unwrap_or_else(PoisonError::into_inner).push_back(batch);
        } else {
            self.store.apply(&batch)?;
            done.push(applied);
        }
        Ok(done)
    }

    /// Hands what is held over to the thread. Until then it waits for a moment in which a core has nothing else to do: who
    /// has no more frames at hand must call this.
    pub fn begin(&self) {
        let Some(applier) = &self.applier else { return };
        // The lock is kept over the sending: the order is that of the batches.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in held.drain(..) {
            // An error means that the thread is gone, which is told where its results are read.
            let _ = applier.tasks.send(Task::Apply(batch));
        }
    }

    /// The oldest batch behind, where it is applied.
    pub fn poll(&mut self) -> Option<Result<Applied, WriteError>> {
        let results = self.applier.as_mut()?.results.get_mut().unwrap_or_else(PoisonError::into_inner);
        let result = results.try_recv().ok()?;
        self.take(result)
    }

    /// The oldest batch behind, once it is applied; none where there is none.
    pub fn wait(&mut self) -> Option<Result<Applied, WriteError>> {
        if self.behind.is_empty() {
            return None;
        }
        self.begin();
        let results = self.applier.as_mut()?.results.get_mut().unwrap_or_else(PoisonError::into_inner);
        let result =
            results.recv().unwrap_or_else(|_| Err(WriteError::Other("the thread that writes ended".to_owned())));
        self.take(result)
    }

    fn take(&mut self, result: Result<(), WriteError>) -> Option<Result<Applied, WriteError>> {
        let Behind { applied, .. } = self.behind.pop_front()?;
        Some(result.map(|()| applied))
    }

    /// Drops what is behind: one of it was not applied, and none after that. Batches are applied again from now on.
    pub fn forget(&mut self) {
        self.recent = Recent::default();
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).len();
        self.held.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // These have no result.
        self.behind.truncate(self.behind.len() - held);
        while self.wait().is_some() {}
        if let Some(applier) = &self.applier {
            // An error means that the thread is gone, which is told where its results are read.
            let _ = applier.tasks.send(Task::Resume);
        }
    }
}

impl Applier {
    fn start(apply: impl Fn(&Batch) -> Result<(), WriteError> + Send + 'static, wake: Arc<Notify>) -> Applier {
        let (tasks, queue) = channel();
        let (sender, results) = channel();
        let thread = std::thread::Builder::new()
            .name("fleetsync-write".to_owned())
            .spawn(move || work(apply, &queue, &sender, &wake))
            .expect("a thread can be started when the node starts");
        Applier { tasks, results: Mutex::new(results), thread }
    }
}

fn work(
    apply: impl Fn(&Batch) -> Result<(), WriteError>,
    queue: &Receiver<Task>,
    results: &Sender<Result<(), WriteError>>,
    wake: &Notify,
) {
    let mut failed = None;
    while let Ok(task) = queue.recv() {
        let batch = match task {
            Task::Apply(batch) => batch,
            Task::Resume => {
                failed = None;
                continue;
            }
        };
        // What comes after a batch that is not there builds on it.
        let result = failed.clone().map_or_else(|| apply(&batch), Err);
        failed = result.as_ref().err().cloned();
        if results.send(result).is_err() {
            return;
        }
        wake.notify_one();
    }
}

impl Drop for Writer {
    /// What was handed over is applied before this returns, so that nothing uses the store afterwards.
    fn drop(&mut self) {
        if let Some(Applier { tasks, thread, .. }) = self.applier.take() {
            drop(tasks);
            // It has nothing to say that was not asked for.
            let _ = thread.join();
        }
    }
}

impl LogStore for Writer {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let behind = || self.behind.iter().rev().find_map(|newer| newer.batch.get(table, key));
        match self.recent.get(table, key).or_else(behind) {
            Some(written) => Ok(written.map(<[u8]>::to_vec)),
            None => self.store.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut newer = Batch::default();
        for Behind { batch, .. } in &self.behind {
            newer.rows_mut(table).extend(batch.range(table, from, to).map(owned));
        }
        scan_over(&self.store, newer.range(table, from, to), table, from, to, visit)
    }
}

fn owned((key, value): (&[u8], Option<&[u8]>)) -> (Vec<u8>, Option<Vec<u8>>) {
    (key.to_vec(), value.map(<[u8]>::to_vec))
}

#[cfg(test)]
mod tests;
