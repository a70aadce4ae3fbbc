//! What RocksDB says went wrong, sorted. It speaks in one line of text, mostly with the name of a file in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::LogLevel;

/// Why a store does not open. Nothing of it was lost by the attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A process has it open, perhaps this one.
    #[error("another process has the store open")]
    Locked,
    /// A newer version wrote it.
    #[error("the store has format {found}; this version knows formats up to {known}")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// This user may not read or write there.
    #[error("no permission to use {}", .0.display())]
    Permission(PathBuf),
    /// A file is missing or not as it was written.
    #[error("{file} is damaged: {cause}")]
    Damaged {
        /// The file; the folder where RocksDB does not say which.
        file: String,
        /// What is wrong with it, in RocksDB's words.
        cause: String,
    },
    /// There is no space on the disk.
    #[error("the disk is full")]
    Full,
    /// This process has closed it.
    #[error("the store is closed")]
    Closed,
    /// Anything else, in RocksDB's words.
    #[error("{0}")]
    Other(String),
}

/// Why a batch was not applied or not synced. Reads go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is no space on the disk. A batch was not applied; writes work again within seconds of there being space.
    #[error("the disk is full")]
    Full,
    /// A file is not as it was written. The store takes no more writes until it is opened again.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Anything else, in RocksDB's words. The store takes no more writes until it is opened again.
    #[error("{0}")]
    Other(String),
}

/// A file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged: {cause}")]
pub struct Damage {
    /// The file; the folder where RocksDB does not say which.
    pub file: String,
    /// What is wrong with it, in RocksDB's words.
    pub cause: String,
}

/// What kind of failure a line of RocksDB's, or of the system's within it, is about.
enum Kind {
    Locked,
    Permission,
    Full,
    Damaged,
    Other,
}

impl Kind {
    fn of(message: &str) -> Kind {
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&["No space left", "Disk quota exceeded"]) {
            Kind::Full
        } else if says(&["Permission denied", "Operation not permitted", "Read-only file system"]) {
            Kind::Permission
        } else if says(&["lock hold by current process", "While lock file"]) {
            Kind::Locked
        } else if message.starts_with("Corruption") || says(&["No such file or directory", "Input/output error"]) {
            Kind::Damaged
        } else {
            Kind::Other
        }
    }
}

impl OpenError {
    pub(super) fn from_io(error: &io::Error, folder: &Path) -> OpenError {
        match Kind::of(&error.to_string()) {
            Kind::Permission => OpenError::Permission(folder.to_owned()),
            Kind::Full => OpenError::Full,
            _ => OpenError::Other(format!("{}: {error}", folder.display())),
        }
    }

    pub(super) fn from_rocksdb(message: &str, folder: &Path, notices: &Notices) -> OpenError {
        match Kind::of(message) {
            Kind::Locked => OpenError::Locked,
            Kind::Permission => {
                OpenError::Permission(file_name(message, folder).map_or(folder.to_owned(), |name| folder.join(name)))
            }
            Kind::Full => OpenError::Full,
            Kind::Damaged => Damage::new(message, folder, notices).into(),
            Kind::Other => OpenError::Other(message.to_owned()),
        }
    }
}

impl From<Damage> for OpenError {
    fn from(Damage { file, cause }: Damage) -> OpenError {
        OpenError::Damaged { file, cause }
    }
}

impl WriteError {
    pub(super) fn from_rocksdb(message: &str, folder: &Path, notices: &Notices) -> WriteError {
        match Kind::of(message) {
            Kind::Full => WriteError::Full,
            Kind::Damaged => WriteError::Damaged(Damage::new(message, folder, notices)),
            Kind::Permission | Kind::Locked | Kind::Other => WriteError::Other(message.to_owned()),
        }
    }
}

impl From<OpenError> for WriteError {
    /// For a store that was closed and does not open.
    fn from(error: OpenError) -> WriteError {
        match error {
            OpenError::Full => WriteError::Full,
            OpenError::Damaged { file, cause } => WriteError::Damaged(Damage { file, cause }),
            other => WriteError::Other(other.to_string()),
        }
    }
}

impl Damage {
    pub(super) fn new(message: &str, folder: &Path, notices: &Notices) -> Damage {
        let (cause, manifest) = split_manifest(message);
        let name = file_name(cause, folder).or_else(|| notices.dropped(folder)).or_else(|| match manifest {
            // Said about every failed open; table properties, though, are never in a MANIFEST.
            Some(_) if cause.contains("properties") => None,
            Some(manifest) => file_name(manifest, folder),
            None => None,
        });
        let file = name.map_or_else(|| folder.display().to_string(), |name| file_in(folder, &name));
        Damage { file, cause: cause.to_owned() }
    }

    pub(super) fn of_open(error: OpenError, folder: &Path) -> Damage {
        match error {
            OpenError::Damaged { file, cause } => Damage { file, cause },
            other => Damage { file: folder.display().to_string(), cause: other.to_string() },
        }
    }
}

/// What went wrong, without the remark "The file .../MANIFEST-000005 may be corrupted." that RocksDB adds to it.
fn split_manifest(message: &str) -> (&str, Option<&str>) {
    match message.split_once("  The file ") {
        Some((cause, remark)) => (cause, Some(remark)),
        None => (message, None),
    }
}

/// What RocksDB logs at the level of a warning; kept because the error about a write-ahead log does not name it, while
/// the line that is logged before does.
#[derive(Clone, Default)]
pub(super) struct Notices {
    dropping: Arc<Mutex<Option<String>>>,
}

impl Notices {
    pub(super) fn note(&self, level: LogLevel, line: &str) {
        let line = line.trim_end();
        if line.contains(": dropping ") {
            *self.dropping.lock().unwrap_or_else(PoisonError::into_inner) = Some(line.to_owned());
        }
        match level {
            LogLevel::Error | LogLevel::Fatal => tracing::warn!("rocksdb: {line}"),
            _ => tracing::debug!("rocksdb: {line}"),
        }
    }

    /// The file of which RocksDB last dropped something.
    fn dropped(&self, folder: &Path) -> Option<String> {
        let line = self.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        line.as_ref().and_then(|line| file_name(line, folder))
    }
}

/// The path of a file in a folder, as people read it.
pub(super) fn file_in(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// The first file of RocksDB's that a line names. The folder's own path is left out: it may look like one.
fn file_name(line: &str, folder: &Path) -> Option<String> {
    let line = line.replace(&*folder.to_string_lossy(), "");
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
    words.map(|word| word.trim_end_matches('.')).find(|word| is_file_name(word)).map(str::to_owned)
}

fn is_file_name(word: &str) -> bool {
    let is_number = |text: &str| text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbered =
        word.strip_suffix(".sst").or_else(|| word.strip_suffix(".log")).or_else(|| word.strip_prefix("MANIFEST-"));
    word == "CURRENT" || word == "LOCK" || word == "IDENTITY" || numbered.is_some_and(is_number)
}
