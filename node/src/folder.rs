//! A node's data folder: its lock, its keys, what it belongs to, its store and its socket.
//!
//! ```text
//! DIR/format          "fleetsync 1": a greater number is refused
//! DIR/lock            flock, with the pid of the process that holds it
//! DIR/device.key      the device's ed25519 seed, 0600, not encrypted
//! DIR/sealing.key     the X25519 secret for sealed secrets, 0600
//! DIR/node.json       fleet, incarnation, ports
//! DIR/seeds.json      addresses of members that a ticket or a person named
//! DIR/offline         exists while the node was told to stay offline
//! DIR/store/          RocksDB
//! DIR/blobs/          blobs by their hash
//! DIR/api.sock        the API
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crdt::id::{FleetId, hex, unhex};
use crdt::ticket::Address;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::keys::quoted;

/// The format of a data folder that this version writes.
const FORMAT: u32 = 1;

/// Why a data folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FolderError {
    #[error("{0} is not the folder of a member")]
    NotMember(PathBuf),
    #[error("{0} is already the folder of a member of fleet {1}")]
    AlreadyMember(PathBuf, FleetId),
    #[error("{path} is in use by process {pid}")]
    InUse { path: PathBuf, pid: String },
    #[error("{path} has format {found}, this version knows up to {FORMAT}: a newer version of fleetsync wrote it")]
    NewerFormat { path: PathBuf, found: u32 },
    #[error("{0} is malformed: it can be put back from a backup")]
    Malformed(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl FolderError {
    /// A command that helps.
    pub(crate) fn hint(&self) -> String {
        match self {
            FolderError::NotMember(path) => {
                format!("fleetsync init --name NAME --data-dir {}  # or join TICKET", quoted(path))
            }
            FolderError::AlreadyMember(path, _) => format!("fleetsync run --data-dir {}", quoted(path)),
            FolderError::InUse { path, .. } => format!("fleetsync status --data-dir {}", quoted(path)),
            FolderError::NewerFormat { .. } => "fleetsync --version".to_owned(),
            FolderError::Malformed(path) | FolderError::Io { path, .. } => format!("ls -ld {}", quoted(path)),
        }
    }
}

/// What a member's folder says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeFile {
    /// The fleet, hexadecimal.
    pub(crate) fleet: String,
    /// 64 random bits, hexadecimal; see `crdt::change::LogName`.
    pub(crate) incarnation: String,
    /// The port that was picked, so that peers find the node again.
    pub(crate) port: Option<u16>,
    /// The UDP port of the bulk plane that was picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bulk_port: Option<u16>,
}

/// A member that a ticket or a person named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seed {
    /// Its key, hexadecimal.
    pub(crate) peer: String,
    /// A multiaddress.
    pub(crate) address: String,
}

impl From<&Address> for Seed {
    fn from(address: &Address) -> Seed {
        Seed { peer: address.peer.to_string(), address: address.address.clone() }
    }
}

/// A locked data folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the folder where it is missing, for this user alone, and locks it. One that is there keeps its mode.
    pub(crate) fn lock(path: &Path) -> Result<Folder, FolderError> {
        let io = |source| FolderError::Io { path: path.to_owned(), source };
        check_format(path)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock_path = path.join("lock");
        let mut options = OpenOptions::new();
        let mut lock = options.read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io)?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(io)?;
            return Err(FolderError::InUse { path: path.to_owned(), pid: pid.trim().to_owned() });
        }
        lock.set_len(0).map_err(io)?;
        write!(lock, "{}", std::process::id()).map_err(io)?;
        if !path.join("format").exists() {
            write_atomically(&path.join("format"), format!("fleetsync {FORMAT}\n").as_bytes(), 0o644)?;
        }
        Ok(Folder { path: path.to_owned(), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// What the folder says of itself; an error where it is no member's.
    pub(crate) fn node(&self) -> Result<NodeFile, FolderError> {
        read_node(&self.path)
    }

    /// Makes the folder a member's: the last step of `init` and `join`.
    pub(crate) fn write_node(&self, node: &NodeFile) -> Result<(), FolderError> {
        write_json(&self.path.join("node.json"), node)
    }

    /// Fails where the folder is a member's already.
    pub(crate) fn refuse_member(&self) -> Result<(), FolderError> {
        match self.node() {
            Ok(node) => {
                let fleet = node.fleet.parse().map_err(|_| FolderError::Malformed(self.path.join("node.json")))?;
                Err(FolderError::AlreadyMember(self.path.clone(), fleet))
            }
            Err(FolderError::NotMember(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The device's key, made at the first call.
    pub(crate) fn device_key(&self) -> Result<SigningKey, FolderError> {
        Ok(SigningKey::from_bytes(&self.secret("device.key", "fleetsync-device-key-v1")?))
    }

    /// The X25519 secret for sealed secrets, made at the first call.
    pub(crate) fn sealing_key(&self) -> Result<x25519_dalek::StaticSecret, FolderError> {
        Ok(x25519_dalek::StaticSecret::from(self.secret("sealing.key", "fleetsync-sealing-key-v1")?))
    }

    fn secret(&self, name: &str, tag: &str) -> Result<[u8; 32], FolderError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let digits = text.trim().strip_prefix(tag).map(str::trim);
                digits.and_then(|digits| unhex(digits).ok()).ok_or(FolderError::Malformed(path))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let seed: [u8; 32] = random();
                write_atomically(&path, format!("{tag} {}\n", hex(&seed)).as_bytes(), 0o600)?;
                Ok(seed)
            }
            Err(source) => Err(FolderError::Io { path, source }),
        }
    }

    pub(crate) fn seeds(&self) -> Vec<Seed> {
        let text = fs::read_to_string(self.path.join("seeds.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn write_seeds(&self, seeds: &[Seed]) -> Result<(), FolderError> {
        write_json(&self.path.join("seeds.json"), &seeds)
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.path.join("offline").exists()
    }

    pub(crate) fn set_offline(&self, offline: bool) -> Result<(), FolderError> {
        let path = self.path.join("offline");
        match (offline, path.exists()) {
            (true, false) => write_atomically(&path, b"", 0o644),
            (false, true) => fs::remove_file(&path).map_err(|source| FolderError::Io { path, source }),
            _ => Ok(()),
        }
    }
}

/// What a folder says of itself, without locking or changing it.
pub(crate) fn read_node(folder: &Path) -> Result<NodeFile, FolderError> {
    check_format(folder)?;
    let path = folder.join("node.json");
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|_| FolderError::Malformed(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FolderError::NotMember(folder.to_owned())),
        Err(source) => Err(FolderError::Io { path, source }),
    }
}

fn check_format(folder: &Path) -> Result<(), FolderError> {
    let path = folder.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(FolderError::Io { path, source }),
    };
    let found = text.trim().strip_prefix("fleetsync ").and_then(|number| number.parse().ok());
    match found {
        Some(found) if found <= FORMAT => Ok(()),
        Some(found) => Err(FolderError::NewerFormat { path: folder.to_owned(), found }),
        None => Err(FolderError::Malformed(path)),
    }
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FolderError> {
    let text = serde_json::to_string_pretty(value).map_err(|_| FolderError::Malformed(path.to_owned()))?;
    write_atomically(path, text.as_bytes(), 0o644)
}

/// Writes a file so that after a crash there is the old one or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&temporary, path).map_err(io)?;
    match path.parent() {
        Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(io),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_folder_is_private_and_one_that_is_there_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        let _new = Folder::lock(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        let known = folder.path().join("known");
        fs::create_dir(&known).unwrap();
        fs::set_permissions(&known, fs::Permissions::from_mode(0o755)).unwrap();
        let _known = Folder::lock(&known).unwrap();
        assert_eq!(mode(&known), 0o755);
    }

    #[test]
    fn a_second_lock_names_the_pid() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Folder::lock(folder.path()).unwrap();
        match Folder::lock(folder.path()) {
            Err(FolderError::InUse { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_stay_and_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let locked = Folder::lock(folder.path()).unwrap();
        let key = locked.device_key().unwrap();
        assert_eq!(locked.device_key().unwrap().to_bytes(), key.to_bytes());
        assert_eq!(mode(&folder.path().join("device.key")), 0o600);
        fs::write(folder.path().join("device.key"), "nonsense").unwrap();
        assert!(matches!(locked.device_key(), Err(FolderError::Malformed(_))));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("format"), "fleetsync 2\n").unwrap();
        assert!(matches!(Folder::lock(folder.path()), Err(FolderError::NewerFormat { found: 2, .. })));
        assert!(matches!(read_node(folder.path()), Err(FolderError::NewerFormat { found: 2, .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was written");
    }
}
