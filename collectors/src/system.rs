//! What no file tells: filesystem usage and the machine's architecture.
//!
//! Behind one trait, so that a replay answers from a file and everything else uses the same code.

use std::io;

use serde::Deserialize;

use crate::tree::{Tree, TreeError};

/// Name of the file that answers in a replay.
pub const SYSTEM_FILE: &str = "system.json";

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filesystem {
    /// Where it is mounted, `/` for the root.
    pub mount: String,
    /// What is mounted: `/dev/nvme0n1p2`.
    pub device: String,
    /// Its type: `ext4`.
    pub kind: String,
    /// Bytes it can hold.
    pub total_bytes: u64,
    /// Bytes that an unprivileged process may still write.
    pub available_bytes: u64,
}

/// Why the system did not answer; nothing is written from it then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// The operating system refused.
    #[error("the system does not list its filesystems: {0}")]
    Refused(String),
    /// A replay's file cannot be read.
    #[error("{SYSTEM_FILE}: {0}")]
    File(#[from] TreeError),
    /// A replay's file is not what it should be.
    #[error("{SYSTEM_FILE} line {line}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

/// What no file tells. Calls may block: they are made on a worker with a deadline.
pub trait System: Send + Sync + 'static {
    /// The processor architecture, as `uname -m` says it.
    fn architecture(&self) -> Option<String>;

    /// The mounted filesystems; pseudo filesystems may be among them.
    fn filesystems(&self) -> Result<Vec<Filesystem>, SystemError>;
}

/// This machine, by sysinfo: `uname` and `statvfs`. Network filesystems are left out, because a dead server
/// blocks `statvfs` (sysinfo's feature `linux-netdevs` is off).
#[derive(Debug, Clone, Copy, Default)]
pub struct LiveSystem;

impl System for LiveSystem {
    fn architecture(&self) -> Option<String> {
        Some(sysinfo::System::cpu_arch())
    }

    fn filesystems(&self) -> Result<Vec<Filesystem>, SystemError> {
        let only_storage = sysinfo::DiskRefreshKind::nothing().with_storage();
        let disks = sysinfo::Disks::new_with_refreshed_list_specifics(only_storage)
            .map_err(|error| SystemError::Refused(error.to_string()))?;
        let filesystem = |disk: &sysinfo::Disk| Filesystem {
            mount: disk.mount_point().to_string_lossy().into_owned(),
            device: disk.name().to_string_lossy().into_owned(),
            kind: disk.file_system().to_string_lossy().into_owned(),
            total_bytes: disk.total_space(),
            available_bytes: disk.available_space(),
        };
        Ok(disks.iter().map(filesystem).collect())
    }
}

/// A replay's answer: the file [`SYSTEM_FILE`] in its frame or, failing that, in its folder.
#[derive(Debug, Clone)]
pub(crate) struct ReplaySystem {
    tree: Tree,
}

/// What [`SYSTEM_FILE`] holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemFile {
    architecture: Option<String>,
    #[serde(default)]
    filesystems: Vec<Filesystem>,
}

impl ReplaySystem {
    /// Answers from [`SYSTEM_FILE`] in `tree`.
    pub(crate) fn new(tree: Tree) -> ReplaySystem {
        ReplaySystem { tree }
    }

    fn file(&self) -> Result<SystemFile, SystemError> {
        match self.tree.read(SYSTEM_FILE) {
            Ok(bytes) => parse(&bytes),
            Err(TreeError::Absent) => Ok(SystemFile::default()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads the text of a [`SYSTEM_FILE`].
pub(crate) fn parse(bytes: &[u8]) -> Result<SystemFile, SystemError> {
    serde_json::from_slice(bytes)
        .map_err(|error| SystemError::Syntax { line: error.line(), message: io::Error::from(error).to_string() })
}

impl System for ReplaySystem {
    fn architecture(&self) -> Option<String> {
        self.file().ok()?.architecture
    }

    fn filesystems(&self) -> Result<Vec<Filesystem>, SystemError> {
        Ok(self.file()?.filesystems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_answers_from_its_file() {
        let root = tempfile::tempdir().unwrap();
        let system = ReplaySystem::new(Tree::at(root.path()));
        assert_eq!(system.filesystems().unwrap(), []);
        let text = r#"{"architecture": "aarch64", "filesystems": [
            {"mount": "/", "device": "/dev/mmcblk0p2", "kind": "ext4", "total_bytes": 10, "available_bytes": 4}]}"#;
        std::fs::write(root.path().join(SYSTEM_FILE), text).unwrap();
        assert_eq!(system.architecture().as_deref(), Some("aarch64"));
        assert_eq!(system.filesystems().unwrap()[0].available_bytes, 4);
    }

    #[test]
    fn a_broken_file_is_an_error_with_its_line() {
        let error = parse(b"{\n \"architecture\": \"x\",\n \"filesystem\": []\n}").unwrap_err();
        assert!(matches!(error, SystemError::Syntax { line: 3, .. }), "{error}");
        assert!(parse(b"{\"filesystems\": [{\"mount\": \"/\", \"total_bytes\": -5}]}").is_err());
    }

    #[test]
    fn this_machine_has_an_architecture_and_a_root() {
        assert!(LiveSystem.architecture().is_some_and(|name| !name.is_empty()));
        LiveSystem.filesystems().unwrap();
    }
}
