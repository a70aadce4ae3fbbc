//! Blobs on disk: files by their BLAKE3 hash, whole or on their way (decision 018).
//!
//! ```text
//! DIR/blobs/HASH           the data
//! DIR/blobs/HASH.bao       the hashes above its groups of 16 KiB, before the two that they are made of (bao-tree)
//! DIR/blobs/HASH.part      what is here of a blob on its way, each byte at its place
//! DIR/blobs/HASH.part.bao  its hashes, as far as they are known
//! DIR/blobs/*.new          a file that is being put
//! ```
//!
//! Everything here may wait for the disk, and is called on threads that may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bao_tree::blake3;
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{DecodeResponseIter, OutboardMut, encode_ranges, outboard, valid_ranges};
use bao_tree::io::{BaoContentItem, DecodeError};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use crdt::id::{hex, unhex};

#[cfg(test)]
mod tests;

/// Groups of 16 chunks of 1 KiB are verified together.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);
/// What a blob can have at most, bytes.
pub(crate) const BLOB_BYTES_MAX: u64 = 1 << 44;
/// A part of an answer of which so much is verified at most is read at once.
const COPY_BYTES: usize = 1 << 20;

const _: () = assert!(transport::fetch::GROUP_BYTES == 16 * 1024);

/// The BLAKE3 hash of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobId(pub(crate) [u8; 32]);

impl std::fmt::Display for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl std::str::FromStr for BlobId {
    type Err = NoBlobId;

    fn from_str(text: &str) -> Result<BlobId, NoBlobId> {
        unhex(text).map(BlobId).map_err(|_| NoBlobId)
    }
}

/// A text is no blob's hash.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a blob is named by its BLAKE3 hash, 64 hexadecimal digits")]
pub(crate) struct NoBlobId;

/// A blob as this node has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
    pub(crate) is_whole: bool,
    pub(crate) since: SystemTime,
}

/// The blobs of a node.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Makes the folder where it is missing; what was being put when the node ended is gone.
    pub(crate) fn open(folder: &Path) -> io::Result<Blobs> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Blobs { folder: folder.to_owned() })
    }

    fn path(&self, blob: &BlobId, extension: &str) -> PathBuf {
        self.folder.join(format!("{blob}{extension}"))
    }

    /// All blobs that are here, or of which a part is.
    pub(crate) fn list(&self) -> io::Result<Vec<Held>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let id = name.strip_suffix(".part").unwrap_or(&name);
            if let Ok(blob) = id.parse()
                && let Some(found) = self.stat(&blob)?
            {
                held.push(found);
            }
        }
        held.sort_by_key(|held: &Held| held.blob);
        held.dedup_by_key(|held| held.blob);
        Ok(held)
    }

    /// What is here of a blob.
    pub(crate) fn stat(&self, blob: &BlobId) -> io::Result<Option<Held>> {
        for (extension, is_whole) in [("", true), (".part", false)] {
            match fs::metadata(self.path(blob, extension)) {
                Ok(found) => {
                    let since = found.modified()?;
                    return Ok(Some(Held { blob: *blob, size: found.len(), is_whole, since }));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A file to write a new blob to.
    pub(crate) fn begin(&self) -> io::Result<NewBlob> {
        let path = self.folder.join(format!("{}.new", hex(&crate::folder::random::<8>())));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(NewBlob { blobs: self.clone(), path, file, size: 0 })
    }

    /// A blob that is here whole.
    pub(crate) fn whole(&self, blob: &BlobId) -> io::Result<Option<Whole>> {
        let data = match File::open(self.path(blob, "")) {
            Ok(data) => data,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = data.metadata()?.len();
        Ok(Some(Whole { size, data, hashes: hashes(blob, size, File::open(self.path(blob, ".bao"))?) }))
    }

    /// A blob that is to come, or to come further.
    pub(crate) fn part(&self, blob: &BlobId, size: u64) -> io::Result<Partial> {
        let open = |extension: &str, bytes: u64| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(self.path(blob, extension))?;
            if file.metadata()?.len() != bytes {
                file.set_len(0)?;
                file.set_len(bytes)?;
            }
            io::Result::Ok(file)
        };
        let known = open(".part.bao", BaoTree::new(size, BLOCK).outboard_size())?;
        let data = open(".part", size)?;
        Ok(Partial { blobs: self.clone(), blob: *blob, size, data, hashes: hashes(blob, size, known) })
    }

    /// Removes a blob, or what is here of it. Whether there was any. Who reads it meanwhile reads on.
    pub(crate) fn remove(&self, blob: &BlobId) -> io::Result<bool> {
        let is_here = self.stat(blob)?.is_some();
        // The data first: a blob is there as long as its data is.
        for extension in ["", ".bao"] {
            match fs::remove_file(self.path(blob, extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.forget_part(blob)?;
        self.sync()?;
        Ok(is_here)
    }

    /// Forgets what is here of a blob that never became whole.
    pub(crate) fn forget_part(&self, blob: &BlobId) -> io::Result<()> {
        for extension in [".part", ".part.bao"] {
            match fs::remove_file(self.path(blob, extension)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The bytes that are free on the disk.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let free = rustix::fs::statvfs(&self.folder)?;
        Ok(free.f_bavail.saturating_mul(free.f_frsize))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn hashes(blob: &BlobId, size: u64, data: File) -> PreOrderOutboard<File> {
    PreOrderOutboard { root: blake3::Hash::from_bytes(blob.0), tree: BaoTree::new(size, BLOCK), data }
}

/// The chunks of a range of bytes that begins and ends where groups do, or at the end of the blob.
fn chunks(bytes: &Range<u64>) -> ChunkRanges {
    ChunkRanges::from(ChunkNum::full_chunks(bytes.start)..ChunkNum::chunks(bytes.end.max(1)))
}

/// A blob that is being put. Dropped, it is gone.
pub(crate) struct NewBlob {
    blobs: Blobs,
    path: PathBuf,
    file: File,
    size: u64,
}

impl NewBlob {
    /// Appends.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.size > BLOB_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a blob has at most 16 TiB"));
        }
        self.file.write_all(bytes)
    }

    /// Hashes it and keeps it, on the disk, by its hash.
    pub(crate) fn finish(mut self) -> io::Result<Held> {
        self.file.rewind()?;
        let hashes_path = self.path.with_extension("bao.new");
        let mut options = OpenOptions::new();
        let data = options.read(true).write(true).create_new(true).open(&hashes_path)?;
        let tree = BaoTree::new(self.size, BLOCK);
        let mut hashes = PreOrderOutboard { root: blake3::Hash::from_bytes([0; 32]), tree, data };
        let read = io::BufReader::with_capacity(COPY_BYTES, &self.file);
        let root = outboard(read, tree, &mut hashes)?;
        self.file.sync_all()?;
        hashes.data.sync_all()?;
        let blob = BlobId(*root.as_bytes());
        // The hashes first: a blob is there when its data is.
        fs::rename(&hashes_path, self.blobs.path(&blob, ".bao"))?;
        fs::rename(&self.path, self.blobs.path(&blob, ""))?;
        self.blobs.sync()?;
        self.blobs.forget_part(&blob)?;
        self.blobs.stat(&blob)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        // Once it is kept there is nothing to remove.
        let _ = fs::remove_file(&self.path);
    }
}

/// A blob that is here.
pub(crate) struct Whole {
    pub(crate) size: u64,
    data: File,
    hashes: PreOrderOutboard<File>,
}

impl Whole {
    /// A part of it, encoded so that whoever knows the hash can verify it. The reader finds what the disk has spoilt.
    pub(crate) fn encode(&self, bytes: &Range<u64>) -> io::Result<Vec<u8>> {
        let length = (bytes.end - bytes.start) as usize;
        let mut encoded = Vec::with_capacity(length + length / 200 + 4096);
        encode_ranges(&self.data, &self.hashes, &chunks(bytes), &mut encoded)?;
        Ok(encoded)
    }

    /// Reads at a place; 0 at the end.
    pub(crate) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.data.read_at(buffer, at)
    }
}

/// What became of an answer.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The first so many bytes of the part are verified and written.
    pub(crate) stored: u64,
    /// What follows is not what the hash says.
    pub(crate) is_false: bool,
}

/// A blob on its way.
pub(crate) struct Partial {
    blobs: Blobs,
    blob: BlobId,
    size: u64,
    data: File,
    hashes: PreOrderOutboard<File>,
}

impl Partial {
    /// What is not here, found by reading what is.
    pub(crate) fn missing(&self) -> io::Result<Vec<Range<u64>>> {
        let mut missing = Vec::new();
        let mut at = 0;
        for range in valid_ranges(&self.hashes, &self.data, &ChunkRanges::all()) {
            let range = range?;
            let (start, end) = (range.start.to_bytes().min(self.size), range.end.to_bytes().min(self.size));
            if start > at {
                missing.push(at..start);
            }
            at = at.max(end);
        }
        if at < self.size {
            missing.push(at..self.size);
        }
        Ok(missing)
    }

    /// Verifies what came for a part and writes what holds.
    pub(crate) fn take(&self, bytes: &Range<u64>, encoded: &[u8]) -> io::Result<Taken> {
        let mut hashes = hashes(&self.blob, self.size, self.hashes.data.try_clone()?);
        let mut stored = 0;
        for item in DecodeResponseIter::new(self.hashes.root, self.hashes.tree, encoded, &chunks(bytes)) {
            match item {
                Ok(BaoContentItem::Parent(parent)) => hashes.save(parent.node, &parent.pair)?,
                Ok(BaoContentItem::Leaf(leaf)) => {
                    self.data.write_all_at(&leaf.data, leaf.offset)?;
                    stored = leaf.offset + leaf.data.len() as u64 - bytes.start;
                }
                Err(DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_)) => {
                    return Ok(Taken { stored, is_false: true });
                }
                // It broke off.
                Err(_) => break,
            }
        }
        Ok(Taken { stored, is_false: false })
    }

    /// Keeps it: all of it is here.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.data.sync_all()?;
        self.hashes.data.sync_all()?;
        let rename =
            |from: &str, to: &str| fs::rename(self.blobs.path(&self.blob, from), self.blobs.path(&self.blob, to));
        rename(".part.bao", ".bao")?;
        rename(".part", "")?;
        self.blobs.sync()
    }
}

/// The hash of all that can be read.
pub(crate) fn hash_of(mut from: impl Read) -> io::Result<BlobId> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut from, &mut hasher)?;
    Ok(BlobId(*hasher.finalize().as_bytes()))
}
