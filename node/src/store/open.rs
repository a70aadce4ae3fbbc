//! One opening of the database: its folder, its format, its tables, and its end.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crdt::store::{STORAGE_FORMAT, TABLES, Table};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, FlushOptions};

use super::errors::{Damage, Notices, OpenError, WriteError, file_in};
use super::tuning::Tuning;

/// Where the number of the storage format stands in [`Table::Setting`]: four bytes, big-endian. Every version reads it
/// before anything else, so neither key nor value may ever change.
pub(super) const FORMAT_KEY: &[u8] = b"format";

/// Write-ahead logs that are left to replay. An open does not write the tables out, so each restart adds a log; above
/// this many it does.
pub(super) const LOGS_MAX: usize = 8;

/// A database that is open. It syncs and closes when it goes.
pub(super) struct Open {
    pub(super) db: DB,
    folder: PathBuf,
    notices: Notices,
}

impl Open {
    /// Opens the database in a folder, or creates both.
    pub(super) fn new(path: &Path) -> Result<Open, OpenError> {
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
        let open = Open { db, folder: path.to_owned(), notices: notices.clone() };
        open.limit_logs().map_err(fail)?;
        Ok(open)
    }

    pub(super) fn family(&self, table: Table) -> &ColumnFamily {
        let (_, name) = TABLES.iter().find(|(known, _)| *known == table).expect("TABLES names every table");
        self.db.cf_handle(name).expect("every table is created when the store is opened")
    }

    pub(super) fn write_error(&self, error: rocksdb::Error) -> WriteError {
        WriteError::from_rocksdb(&error.into_string(), &self.folder, &self.notices)
    }

    pub(super) fn damage(&self, error: rocksdb::Error) -> Damage {
        Damage::new(&error.into_string(), &self.folder, &self.notices)
    }

    /// Writes the tables out where restarts have left too many write-ahead logs. It waits: a node that restarts in a
    /// loop would never finish it in the background.
    fn limit_logs(&self) -> Result<(), rocksdb::Error> {
        let names = file_names(&self.folder).unwrap_or_default();
        if names.iter().filter(|name| name.ends_with(".log")).count() <= LOGS_MAX {
            return Ok(());
        }
        let families: Vec<_> = TABLES.iter().map(|(table, _)| self.family(*table)).collect();
        self.db.flush_cfs_opt(&families, &FlushOptions::default())
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

pub(super) fn file_names(path: &Path) -> io::Result<Vec<String>> {
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
