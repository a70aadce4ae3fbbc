//! Files under a root that can be set: `/` live, layers of folders in a replay.
//!
//! Every read is bounded. A file may still block (a FIFO, a dead NFS server, a slow sensor), so a [`Tree`] is
//! read on a worker of [`crate::source`] and never by the caller of a collection.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of a file that are read; what stands behind them is not looked at.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
/// Entries of a directory that are looked at, in each layer.
pub const ENTRIES_MAX: usize = 4096;

/// Why a file or a directory was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// There is no such file.
    #[error("not there")]
    Absent,
    /// It is there, and the kernel refuses the read: permission, or the driver's error (`EIO`, `ENODATA` …).
    #[error("{0}")]
    Denied(String),
}

impl From<io::Error> for TreeError {
    fn from(error: io::Error) -> TreeError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => TreeError::Absent,
            _ => TreeError::Denied(error.to_string()),
        }
    }
}

/// Layers of folders that together look like one root; the first layer that has a file answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    layers: Vec<PathBuf>,
    /// Paths that only the first layer may have.
    removed: BTreeSet<String>,
}

impl Tree {
    /// The tree under one folder.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Tree {
        Tree { layers: vec![root.into()], removed: BTreeSet::new() }
    }

    /// `over` laid on `base`, where `removed` (files or folders, relative) are taken away from `base`.
    pub(crate) fn overlay(over: PathBuf, base: PathBuf, removed: BTreeSet<String>) -> Tree {
        Tree { layers: vec![over, base], removed }
    }

    /// The files that may answer for `path`, best first.
    fn candidates<'a>(&'a self, path: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
        let is_removed = self.removed.iter().any(|gone| Path::new(path).starts_with(gone));
        let visible = if is_removed { 1 } else { self.layers.len() };
        self.layers.iter().take(visible).map(move |layer| layer.join(path))
    }

    /// The first [`FILE_BYTES_MAX`] bytes of a file. May block for as long as the file does.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, TreeError> {
        for candidate in self.candidates(path) {
            match read_bounded(&candidate).map_err(TreeError::from) {
                Err(TreeError::Absent) => {}
                answer => return answer,
            }
        }
        Err(TreeError::Absent)
    }

    /// Sorted names in a directory, of all layers. May block.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let mut names = BTreeSet::new();
        let mut found = false;
        for candidate in self.candidates(path) {
            let entries = match fs::read_dir(&candidate).map_err(TreeError::from) {
                Ok(entries) => entries,
                Err(TreeError::Absent) => continue,
                Err(error) => return Err(error),
            };
            found = true;
            for entry in entries.take(ENTRIES_MAX) {
                // A name that is not UTF-8 cannot become a path of a value.
                if let Ok(name) = entry.map_err(TreeError::from)?.file_name().into_string() {
                    names.insert(name);
                }
            }
        }
        // What a frame removes is gone from the listing too, unless the frame itself brings it.
        names.retain(|name| {
            let inner = format!("{path}/{name}");
            !self.removed.contains(&inner) || self.exists(&inner)
        });
        if found { Ok(names.into_iter().collect()) } else { Err(TreeError::Absent) }
    }

    /// Whether a file or a directory is there. May block.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.candidates(path).any(|candidate| candidate.exists())
    }
}

/// Sysfs answers one `read` with one value, so the loop ends at its first empty answer.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_first_layer_answers_and_listings_are_joined() {
        let (over, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(base.path(), "sys/a/x", "old");
        write(base.path(), "sys/b/x", "kept");
        write(base.path(), "sys/c/x", "gone");
        write(over.path(), "sys/a/x", "new");
        write(over.path(), "sys/d/x", "added");
        let removed = BTreeSet::from(["sys/c".to_owned()]);
        let tree = Tree::overlay(over.path().into(), base.path().into(), removed);
        assert_eq!(tree.read("sys/a/x"), Ok(b"new".to_vec()));
        assert_eq!(tree.read("sys/b/x"), Ok(b"kept".to_vec()));
        assert_eq!(tree.read("sys/c/x"), Err(TreeError::Absent));
        assert_eq!(tree.list("sys").unwrap(), ["a", "b", "d"]);
        assert!(tree.exists("sys/d") && !tree.exists("sys/c"));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_a_directory_is_denied() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "long", &"x".repeat(FILE_BYTES_MAX + 1));
        fs::create_dir(root.path().join("folder")).unwrap();
        let tree = Tree::at(root.path());
        assert_eq!(tree.read("long").unwrap().len(), FILE_BYTES_MAX);
        assert!(matches!(tree.read("folder"), Err(TreeError::Denied(_))));
        assert_eq!(tree.read("long/deeper"), Err(TreeError::Absent));
        assert_eq!(tree.list("nowhere"), Err(TreeError::Absent));
    }
}
