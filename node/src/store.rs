//! RocksDB behind [`crdt::store::LogStore`]: one column family a table, one write-ahead log (PROTOCOL 10).
//!
//! What a power cut, a full disk or a flipped bit does to it:
//!
//! * A batch is whole or absent. After [`Store::sync`] it survives a power cut; before, the end of the process.
//! * A write-ahead log that breaks off is read up to there; one that is wrong in the middle refuses to open, because
//!   what follows would be lost in silence. Every read verifies checksums.
//! * A full disk fails the write and stops those after it, while reads go on. RocksDB looks every five seconds whether
//!   there is space again, and resumes. It gives up where the log is synced meanwhile, so [`Store::sync`] keeps away
//!   from a log that could not be written, and where a sync was faster than that, the store is closed and opened anew.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crdt::store::{Batch, LogStore, StoreError, TABLES, Table, Visit};
use rocksdb::{DBRawIterator, ReadOptions, Snapshot, WriteBatch};

mod errors;
mod open;
mod recent;
mod tuning;
mod writer;

pub use errors::{Damage, OpenError, WriteError};
use open::Open;
pub use writer::{Applied, Writer};

/// Free space from which a store that ran out of it is opened anew (PROTOCOL 10).
const RESERVE_BYTES: u64 = 64 << 20;

/// How long after an attempt to open the store anew the next one is made: a quota is not seen in the free space.
const REOPEN_PAUSE: Duration = Duration::from_secs(5);

/// How long closing waits for reads that are under way.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Bytes that a full check reads ahead.
const CHECK_READAHEAD_BYTES: usize = 256 * 1024;

/// An open store. Clones share it; the last one to go syncs and closes it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    /// Held for the time of a copy, and by [`Store::reopen`]. Who uses the store does so through a copy, so that a
    /// visitor may read on.
    state: RwLock<State>,
    /// A write found no space, and none has succeeded since.
    is_full: AtomicBool,
}

struct State {
    open: Result<Arc<Open>, OpenError>,
    reopened: Option<Instant>,
}

impl Store {
    /// Opens the store in a folder, or creates both.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let state = State { open: Ok(Arc::new(Open::new(path)?)), reopened: None };
        let shared = Shared { folder: path.to_owned(), state: RwLock::new(state), is_full: AtomicBool::new(false) };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Applies a batch, whole or not at all. Reads see it at once; it survives the end of the process.
    pub fn apply(&self, batch: &Batch) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = self.current().map_err(WriteError::from).and_then(|open| write(&open, batch));
        let written = match written {
            Err(error) if self.is_full_with(&error) => match self.reopen() {
                Some(open) => write(&open, batch),
                None => Err(WriteError::Full),
            },
            written => written,
        };
        if written.is_ok() {
            self.shared.is_full.store(false, Ordering::Release);
        }
        written
    }

    /// Makes everything that was applied survive a power cut.
    pub fn sync(&self) -> Result<(), WriteError> {
        let open = match self.shared.is_full.load(Ordering::Acquire) {
            false => self.current()?,
            true => self.reopen().ok_or(WriteError::Full)?,
        };
        open.db.flush_wal(true).map_err(|error| {
            let error = open.write_error(error);
            if self.is_full_with(&error) { WriteError::Full } else { error }
        })
    }

    /// Syncs and closes the store for all who share it, once nobody is reading. The process must not end before: RocksDB's
    /// threads would go on while what they use is torn down.
    pub fn close(&self) {
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let Ok(open) = std::mem::replace(&mut state.open, Err(OpenError::Closed)) else { return };
        drop(state);
        let deadline = Instant::now() + CLOSE_WAIT;
        while Arc::strong_count(&open) > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    /// Bytes that this user may still write to the file system of the store; 0 where that cannot be found out.
    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.shared.folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Reads all tables and so verifies the checksum of every block that can be read, up to the first that is wrong.
    /// Blocks in the cache (16 MiB at most) and what is not yet in a table file are taken from memory.
    pub(crate) fn check_all(&self) -> Result<(), Damage> {
        let open = self.current().map_err(|error| Damage::of_open(error, &self.shared.folder))?;
        for (table, _) in TABLES {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_readahead_size(CHECK_READAHEAD_BYTES);
            let mut rows = open.db.raw_iterator_cf_opt(open.family(table), options);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status().map_err(|error| open.damage(error))?;
        }
        Ok(())
    }

    /// Reads the store as it is now, whatever is written meanwhile: no log goes away between two reads of it. Where the
    /// store is closed meanwhile, the next read fails, so that closing waits for one read at most.
    pub(crate) fn frozen<T>(&self, read: impl FnOnce(&Frozen<'_>) -> T) -> Result<T, StoreError> {
        let open = self.current().map_err(closed)?;
        let frozen = Frozen { store: self, open: &open, snapshot: open.db.snapshot() };
        Ok(read(&frozen))
    }

    fn current(&self) -> Result<Arc<Open>, OpenError> {
        self.shared.state.read().unwrap_or_else(PoisonError::into_inner).open.clone()
    }

    /// Whether a write failed for want of space, itself or because an earlier one did.
    fn is_full_with(&self, error: &WriteError) -> bool {
        if *error == WriteError::Full {
            self.shared.is_full.store(true, Ordering::Release);
        }
        self.shared.is_full.load(Ordering::Acquire) && !matches!(error, WriteError::Damaged(_))
    }

    /// Closes the store and opens it anew, where there is space again, nobody is reading and the last attempt was a
    /// while ago.
    fn reopen(&self) -> Option<Arc<Open>> {
        if self.free_bytes() < RESERVE_BYTES {
            return None;
        }
        let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been here while this one waited for the lock.
        if !self.shared.is_full.load(Ordering::Acquire) {
            return state.open.as_ref().ok().cloned();
        }
        if state.reopened.is_some_and(|last| last.elapsed() < REOPEN_PAUSE) {
            return None;
        }
        if state.open.as_ref().is_ok_and(|open| Arc::strong_count(open) > 1) {
            return None;
        }
        tracing::info!(folder = %self.shared.folder.display(), "opening the store anew, because there is space again");
        state.reopened = Some(Instant::now());
        // Closes it, which gives its lock on the folder back.
        state.open = Err(OpenError::Locked);
        state.open = Open::new(&self.shared.folder).map(Arc::new);
        match &state.open {
            Ok(open) => {
                self.shared.is_full.store(false, Ordering::Release);
                Some(Arc::clone(open))
            }
            Err(error) => {
                tracing::warn!(%error, "the store does not open; the next write tries again");
                None
            }
        }
    }
}

impl LogStore for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let open = self.current().map_err(closed)?;
        let value = open.db.get_pinned_cf(open.family(table), key).map_err(read_error)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let open = self.current().map_err(closed)?;
        walk(open.db.raw_iterator_cf_opt(open.family(table), up_to(to)), from, visit)
    }
}

/// The store as it was at one moment; see [`Store::frozen`].
pub(crate) struct Frozen<'a> {
    store: &'a Store,
    open: &'a Open,
    snapshot: Snapshot<'a>,
}

impl LogStore for Frozen<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.current().map_err(closed)?;
        let value = self.snapshot.get_pinned_cf(self.open.family(table), key).map_err(read_error)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        self.store.current().map_err(closed)?;
        walk(self.snapshot.raw_iterator_cf_opt(self.open.family(table), up_to(to)), from, visit)
    }
}

fn up_to(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options
}

fn walk(mut rows: DBRawIterator<'_>, from: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value) == ControlFlow::Break(()) {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(read_error)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

fn write(open: &Open, batch: &Batch) -> Result<(), WriteError> {
    // What it holds beside keys and values is less than this a row.
    const ROW_BYTES: usize = 12;
    let rows: usize = TABLES.iter().map(|(table, _)| batch.rows(*table).len()).sum();
    let mut writes = WriteBatch::with_capacity_bytes(batch.size() + rows * ROW_BYTES);
    for (table, _) in TABLES {
        let rows = batch.rows(table);
        if rows.is_empty() {
            continue;
        }
        let family = open.family(table);
        for (key, value) in rows {
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
    }
    open.db.write(writes).map_err(|error| open.write_error(error))
}

fn closed(error: OpenError) -> StoreError {
    StoreError::Read(error.to_string())
}

fn read_error(error: rocksdb::Error) -> StoreError {
    StoreError::Read(error.into_string())
}

#[cfg(test)]
mod tests;
