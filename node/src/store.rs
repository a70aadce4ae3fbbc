//! RocksDB behind [`crdt::store::LogStore`]: one column family a table, one write-ahead log (PROTOCOL 10).
//!
//! What a power cut, a full disk or a flipped bit does to it:
//!
//! * A batch is whole or absent. After [`Store::sync`] it survives a power cut; before, the end of the process.
//! * A write-ahead log that breaks off is read up to there; one that is wrong in the middle refuses to open, because
//!   what follows would be lost in silence. Every read verifies checksums.
//! * A full disk fails the write and stops those after it, while reads go on. RocksDB looks every five seconds whether
//!   there is space again and resumes by itself (its `SstFileManager`); nothing is opened anew. A quota that is used up
//!   and every other failed write to the log stop writes until the store is opened again.

use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdt::store::{Batch, LogStore, STORAGE_FORMAT, StoreError, TABLES, Table, Visit};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, FlushOptions, ReadOptions, WriteBatch};

mod errors;
mod tuning;

pub(crate) use errors::{Damage, OpenError, WriteError};
use errors::{Notices, file_in};
use tuning::Tuning;

/// Where the number of the storage format stands in [`Table::Setting`]: four bytes, big-endian. Every version reads it
/// before anything else, so neither key nor value may ever change.
const FORMAT_KEY: &[u8] = b"format";

/// Write-ahead logs that are left to replay. An open neither flushes nor merges them, so each restart adds one; above
/// this many the tables are written out in the background.
const LOGS_MAX: usize = 8;

/// Bytes that a full check reads ahead.
const CHECK_READAHEAD_BYTES: usize = 256 * 1024;

/// An open store. Clones share it; the last one to go closes it.
#[derive(Clone)]
pub(crate) struct Store {
    open: Arc<Open>,
}

struct Open {
    db: DB,
    folder: PathBuf,
    notices: Notices,
}

impl Store {
    /// Opens the store in a folder, or creates both.
    pub(crate) fn open(path: &Path) -> Result<Store, OpenError> {
        create_folder(path).map_err(|error| OpenError::from_io(&error, path))?;
        let notices = Notices::default();
        let fail = |error: rocksdb::Error| OpenError::from_rocksdb(&error.into_string(), path, &notices);

        let tuning = Tuning::new(&notices).map_err(fail)?;
        let is_new = is_new(path)?;
        // A newer version may have tables that are unknown here, and RocksDB opens all of a folder's or none.
        let names = if is_new { table_names() } else { DB::list_cf(&tuning.database(false), path).map_err(fail)? };
        let tables = names.iter().map(|name| ColumnFamilyDescriptor::new(name, tuning.table()));
        let mut db = DB::open_cf_descriptors(&tuning.database(is_new), path, tables).map_err(fail)?;

        check_format(&db, path, fail)?;
        for name in table_names() {
            if !names.contains(&name) {
                db.create_cf(&name, &tuning.table()).map_err(fail)?;
            }
        }
        let store = Store { open: Arc::new(Open { db, folder: path.to_owned(), notices: notices.clone() }) };
        store.open.limit_logs().map_err(fail)?;
        Ok(store)
    }

    /// Applies a batch, whole or not at all. Reads see it at once; it survives the end of the process.
    pub(crate) fn apply(&self, batch: &Batch) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut writes = WriteBatch::default();
        for ((table, key), value) in &batch.writes {
            let family = self.open.family(*table);
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        self.open.db.write(writes).map_err(|error| self.open.write_error(error))
    }

    /// Makes everything that was applied survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), WriteError> {
        self.open.db.flush_wal(true).map_err(|error| self.open.write_error(error))
    }

    /// Bytes that this user may still write to the file system of the store; 0 where that cannot be found out.
    pub(crate) fn free_bytes(&self) -> u64 {
        rustix::fs::statvfs(&self.open.folder)
            .map_or(0, |file_system| file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    /// Reads all tables and so verifies the checksum of every block that can be read, up to the first that is wrong.
    /// Blocks in the cache (16 MiB at most) and what is not yet in a table file are taken from memory.
    pub(crate) fn check_all(&self) -> Result<(), Damage> {
        for (table, _) in TABLES {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            options.set_readahead_size(CHECK_READAHEAD_BYTES);
            let mut rows = self.open.db.raw_iterator_cf_opt(self.open.family(table), options);
            rows.seek_to_first();
            while rows.valid() {
                rows.next();
            }
            rows.status().map_err(|error| Damage::new(&error.into_string(), &self.open.folder, &self.open.notices))?;
        }
        Ok(())
    }
}

impl LogStore for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.open.db.get_pinned_cf(self.open.family(table), key).map_err(read_error)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut rows = self.open.db.raw_iterator_cf_opt(self.open.family(table), options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(read_error)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.open.folder).finish_non_exhaustive()
    }
}

impl Open {
    fn family(&self, table: Table) -> &ColumnFamily {
        let (_, name) = TABLES.iter().find(|(known, _)| *known == table).expect("TABLES names every table");
        self.db.cf_handle(name).expect("every table is created when the store is opened")
    }

    fn write_error(&self, error: rocksdb::Error) -> WriteError {
        WriteError::from_rocksdb(&error.into_string(), &self.folder, &self.notices)
    }

    /// Starts to write the tables out where restarts have left too many write-ahead logs.
    fn limit_logs(&self) -> Result<(), rocksdb::Error> {
        let logs =
            file_names(&self.folder).map_or(0, |names| names.iter().filter(|name| name.ends_with(".log")).count());
        if logs <= LOGS_MAX {
            return Ok(());
        }
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let families: Vec<_> = TABLES.iter().map(|(table, _)| self.family(*table)).collect();
        self.db.flush_cfs_opt(&families, &options)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Err(error) = self.db.flush_wal(true) {
            tracing::warn!(%error, "the store was not synced when it was closed");
        }
        self.db.cancel_all_background_work(true);
    }
}

/// Creates a folder that only this user can read; one that exists stays as it is.
fn create_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether a folder has no store yet. RocksDB would create one beside the files of a store without a CURRENT file, and
/// delete them.
fn is_new(path: &Path) -> Result<bool, OpenError> {
    let names = file_names(path).map_err(|error| OpenError::from_io(&error, path))?;
    if names.iter().any(|name| name == "CURRENT") {
        return Ok(false);
    }
    match names.iter().any(|name| name.ends_with(".sst") || name.ends_with(".log")) {
        false => Ok(true),
        true => Err(OpenError::Damaged { file: file_in(path, "CURRENT"), cause: "the file is missing".to_owned() }),
    }
}

fn file_names(path: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn table_names() -> Vec<String> {
    TABLES.iter().map(|(_, name)| (*name).to_owned()).collect()
}

/// Refuses a newer format, and writes the number to a store in which nothing was ever written.
fn check_format(db: &DB, path: &Path, fail: impl Fn(rocksdb::Error) -> OpenError) -> Result<(), OpenError> {
    let damaged = |cause: &str| OpenError::Damaged { file: path.display().to_string(), cause: cause.to_owned() };
    let Some(value) = db.get(FORMAT_KEY).map_err(&fail)? else {
        if db.latest_sequence_number() > 0 {
            return Err(damaged("the number of the storage format is missing"));
        }
        db.put(FORMAT_KEY, STORAGE_FORMAT.to_be_bytes()).map_err(&fail)?;
        return db.flush_wal(true).map_err(fail);
    };
    let bytes = value.try_into().map_err(|_| damaged("the number of the storage format is not a number"))?;
    let found = u32::from_be_bytes(bytes);
    if found > STORAGE_FORMAT {
        return Err(OpenError::NewerFormat { found, known: STORAGE_FORMAT });
    }
    Ok(())
}

fn read_error(error: rocksdb::Error) -> StoreError {
    StoreError::Read(error.into_string())
}

#[cfg(test)]
mod tests;
