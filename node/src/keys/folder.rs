//! Files that are whole or not there, on disk when the call returns, and one lock a folder.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use age::secrecy::SecretSlice;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::keys::KeyError;

/// How long another command may hold the lock before this one gives up.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often the lock is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The lock of a folder; dropping it, or the end of the process, frees it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock of `folder`, which must be there, within `wait`.
pub(super) fn lock(folder: &Path, wait: Duration) -> Result<Lock, KeyError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(KeyError::io(&path))?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) if start.elapsed() >= wait => return Err(KeyError::Busy { path }),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(source)) => return Err(KeyError::Io { path, source }),
        }
    }
}

/// Makes a folder (0700) and those above it, durably.
pub(super) fn create(folder: &Path) -> Result<(), KeyError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent_of(folder);
    create(&parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => sync(&parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(source) => Err(KeyError::Io { path: folder.to_owned(), source }),
    }
}

/// Writes a file (0600) that must not be there, durably. The caller holds the folder's lock.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    write(path, bytes, |from| match renameat_with(CWD, from, CWD, path, RenameFlags::NOREPLACE) {
        // A file system without this: the lock keeps every other command of ours away between the two calls.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if path.symlink_metadata().is_ok() {
                return Err(KeyError::Exists { path: path.to_owned() });
            }
            std::fs::rename(from, path).map_err(KeyError::io(path))
        }
        Err(Errno::EXIST) => Err(KeyError::Exists { path: path.to_owned() }),
        done => done.map_err(|error| KeyError::Io { path: path.to_owned(), source: error.into() }),
    })
}

/// Writes a file (0600) in the place of the one that is there, durably. The caller holds the folder's lock.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    write(path, bytes, |from| std::fs::rename(from, path).map_err(KeyError::io(path)))
}

fn write(path: &Path, bytes: &[u8], rename: impl FnOnce(&Path) -> Result<(), KeyError>) -> Result<(), KeyError> {
    let parent = parent_of(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = parent.join(name);
    // One that a crash left behind: whoever holds the lock is its only owner.
    let _gone = std::fs::remove_file(&temporary);
    let done = write_temporary(&temporary, bytes).map_err(KeyError::io(&temporary)).and_then(|()| rename(&temporary));
    if done.is_err() {
        let _gone = std::fs::remove_file(&temporary);
    }
    done?;
    sync(&parent)
}

fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Takes a file away, durably after the next [`sync`] of its folder.
pub(super) fn remove(path: &Path) -> Result<(), KeyError> {
    std::fs::remove_file(path).map_err(KeyError::io(path))
}

/// Makes the names in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), KeyError> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(KeyError::io(folder))
}

/// The names in a folder that are text, in no order; none where it is not there.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, KeyError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(KeyError::io(folder))?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    Ok(names.collect::<io::Result<Vec<_>>>().map_err(KeyError::io(folder))?.into_iter().flatten().collect())
}

/// The bytes of a regular file of at most `limit` bytes; `None` where it is not there.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, KeyError> {
    let Some((file, _)) = open(path)? else { return Ok(None) };
    read_limited(path, file, limit).map(Some)
}

/// Like [`read`], and refuses a file that others may open.
pub(super) fn read_secret(path: &Path, limit: u64) -> Result<Option<SecretSlice<u8>>, KeyError> {
    let Some((file, mode)) = open(path)? else { return Ok(None) };
    if mode & 0o077 != 0 {
        return Err(KeyError::Permissions { path: path.to_owned(), mode });
    }
    read_limited(path, file, limit).map(|bytes| Some(bytes.into()))
}

/// A regular file and its permissions.
fn open(path: &Path) -> Result<Option<(File, u32)>, KeyError> {
    // Without blocking, so that a named pipe is an error and does not hang; regular files do not care.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(KeyError::io(path))?,
    };
    let metadata = file.metadata().map_err(KeyError::io(path))?;
    if !metadata.is_file() {
        return Err(KeyError::Malformed { path: path.to_owned(), reason: "it is not a regular file" });
    }
    Ok(Some((file, metadata.mode() & 0o7777)))
}

fn read_limited(path: &Path, file: File, limit: u64) -> Result<Vec<u8>, KeyError> {
    let size = file.metadata().map_err(KeyError::io(path))?.len();
    if size > limit {
        return Err(KeyError::Malformed { path: path.to_owned(), reason: "it is too large" });
    }
    // Room for all of it at once: a buffer that grows would leave copies of a key in memory.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(size).read_to_end(&mut bytes).map_err(KeyError::io(path))?;
    Ok(bytes)
}

fn parent_of(path: &Path) -> PathBuf {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
