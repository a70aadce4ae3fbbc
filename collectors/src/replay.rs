//! A replay: a folder of files that stand for a machine, and change over time.
//!
//! ```text
//! replay.json   {"about": "…", "after_last": "loop" | "hold",
//!                "frames": [{"folder": "frames/000", "duration_ms": 5000, "remove": ["sys/class/net/wlan0"]}, …]}
//! system.json   what crate::System answers; a frame may have its own
//! base/         files that do not change: base/etc/os-release, base/sys/class/…
//! frames/000/   files of the first frame, laid over base/; remove takes files or folders of base/ away
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crdt::id::{FleetId, Time};
use serde::Deserialize;

use crate::probe::Origin;
use crate::system::{self, ReplaySystem, SYSTEM_FILE, SystemError};
use crate::tree::{FILE_BYTES_MAX, Tree};

/// Name of the file that says how a replay goes.
pub const REPLAY_FILE: &str = "replay.json";
/// Frames of one replay.
pub const FRAMES_MAX: usize = 1000;
/// Longest duration of a frame: one day.
pub const FRAME_MS_MAX: u64 = 86_400_000;
/// Paths that one frame removes.
const REMOVED_MAX: usize = 256;
/// Bytes of a replay file.
const REPLAY_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a folder is no replay; nothing of it is used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A folder that is named, or that every replay has, is not there.
    #[error("{}:{line}: there is no folder {}", file.display(), folder.display())]
    MissingFolder {
        /// The file that names it.
        file: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// The folder.
        folder: PathBuf,
    },
}

/// What comes after the last frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AfterLast {
    Loop,
    Hold,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayFile {
    /// For people.
    #[serde(default, rename = "about")]
    _about: String,
    after_last: AfterLast,
    frames: Frames,
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<FrameLine>")]
struct Frames(Vec<FrameLine>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameLine {
    folder: InnerPath,
    duration_ms: Duration,
    #[serde(default)]
    remove: Removed,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct InnerPath(String);

#[derive(Deserialize)]
#[serde(try_from = "u64")]
struct Duration(u64);

#[derive(Deserialize, Default)]
#[serde(try_from = "Vec<InnerPath>")]
struct Removed(BTreeSet<String>);

impl TryFrom<Vec<FrameLine>> for Frames {
    type Error = String;
    fn try_from(frames: Vec<FrameLine>) -> Result<Frames, String> {
        match frames.len() {
            1..=FRAMES_MAX => Ok(Frames(frames)),
            count => Err(format!("a replay has 1 to {FRAMES_MAX} frames, this one has {count}")),
        }
    }
}

impl TryFrom<String> for InnerPath {
    type Error = String;
    fn try_from(text: String) -> Result<InnerPath, String> {
        let is_inner = Path::new(&text).components().all(|part| matches!(part, Component::Normal(_)));
        // Removal compares texts, so there is one way to write a path.
        if is_inner && !text.is_empty() && !text.ends_with('/') && !text.contains("//") {
            Ok(InnerPath(text))
        } else {
            Err(format!("{text:?} is not a path inside the replay"))
        }
    }
}

impl TryFrom<u64> for Duration {
    type Error = String;
    fn try_from(ms: u64) -> Result<Duration, String> {
        if (1..=FRAME_MS_MAX).contains(&ms) {
            Ok(Duration(ms))
        } else {
            Err(format!("a frame lasts 1 to {FRAME_MS_MAX} ms, this one {ms}"))
        }
    }
}

impl TryFrom<Vec<InnerPath>> for Removed {
    type Error = String;
    fn try_from(paths: Vec<InnerPath>) -> Result<Removed, String> {
        if paths.len() > REMOVED_MAX {
            return Err(format!("a frame removes at most {REMOVED_MAX} paths, this one {}", paths.len()));
        }
        Ok(Removed(paths.into_iter().map(|path| path.0).collect()))
    }
}

/// A stretch of a replay in which nothing changes.
#[derive(Debug, Clone)]
struct Frame {
    /// Milliseconds since the start at which it ends.
    end_ms: u64,
    tree: Arc<Tree>,
    system: Tree,
}

/// A folder of files that stand for a machine, opened and checked.
#[derive(Debug, Clone)]
pub struct Replay {
    frames: Vec<Frame>,
    after_last: AfterLast,
}

impl Replay {
    /// Opens the replay in a folder and checks all of it that can be wrong.
    pub fn open(folder: &Path) -> Result<Replay, ReplayError> {
        let file = folder.join(REPLAY_FILE);
        let text = read(&file)?;
        let lines: ReplayFile = serde_json::from_str(&text).map_err(|error| ReplayError::Syntax {
            file: file.clone(),
            line: error.line(),
            message: error.to_string(),
        })?;
        let base = folder.join("base");
        check_folder(&file, 1, &base)?;
        check_system(&folder.join(SYSTEM_FILE))?;
        let mut end_ms = 0;
        let mut frames = Vec::with_capacity(lines.frames.0.len());
        for frame in lines.frames.0 {
            let over = folder.join(&frame.folder.0);
            check_folder(&file, line_of(&text, &frame.folder.0), &over)?;
            check_system(&over.join(SYSTEM_FILE))?;
            end_ms += frame.duration_ms.0;
            frames.push(Frame {
                end_ms,
                system: Tree::overlay(over.clone(), folder.to_owned(), BTreeSet::new()),
                tree: Arc::new(Tree::overlay(over, base.clone(), frame.remove.0)),
            });
        }
        Ok(Replay { frames, after_last: lines.after_last })
    }

    /// Number of frames, at least one.
    pub fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// The frame, from 0, that stands at a time since the start. After the last comes the first again, or the last stays.
    pub fn frame_at(&self, elapsed: Time) -> usize {
        let last = self.frames.len() - 1;
        let mut ms = elapsed.0 / 1000;
        if self.after_last == AfterLast::Loop {
            ms %= self.frames[last].end_ms;
        }
        self.frames.partition_point(|frame| frame.end_ms <= ms).min(last)
    }

    /// Where sources are read at a time since the start.
    pub(crate) fn origin_at(&self, elapsed: Time, fleet: FleetId) -> Origin {
        let frame = &self.frames[self.frame_at(elapsed)];
        Origin { tree: frame.tree.clone(), system: Arc::new(ReplaySystem::new(frame.system.clone())), fleet }
    }
}

/// The text of a file of the replay itself, bounded.
fn read(file: &Path) -> Result<String, ReplayError> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|open| open.take(REPLAY_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|source| ReplayError::Read { file: file.to_owned(), source })?;
    Ok(text)
}

fn check_folder(file: &Path, line: usize, folder: &Path) -> Result<(), ReplayError> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(ReplayError::MissingFolder { file: file.to_owned(), line, folder: folder.to_owned() })
}

/// A system file need not be there, but if it is it must be right.
fn check_system(file: &Path) -> Result<(), ReplayError> {
    if !file.exists() {
        return Ok(());
    }
    let text = read(file)?;
    let syntax = |line, message| ReplayError::Syntax { file: file.to_owned(), line, message };
    if text.len() > FILE_BYTES_MAX {
        return Err(syntax(1, format!("longer than the {FILE_BYTES_MAX} bytes that are read")));
    }
    match system::parse(text.as_bytes()) {
        Ok(_) => Ok(()),
        Err(SystemError::Syntax { line, message }) => Err(syntax(line, message)),
        Err(error) => Err(syntax(1, error.to_string())),
    }
}

/// The line, from 1, that first holds `word` in quotes.
fn line_of(text: &str, word: &str) -> usize {
    let quoted = format!("\"{word}\"");
    text.lines().position(|line| line.contains(&quoted)).map_or(1, |line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(text: &str) -> (tempfile::TempDir, Result<Replay, ReplayError>) {
        let root = tempfile::tempdir().unwrap();
        for folder in ["base/etc", "frames/a", "frames/b"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("base/etc/name"), "base").unwrap();
        fs::create_dir(root.path().join("frames/b/etc")).unwrap();
        fs::write(root.path().join("frames/b/etc/name"), "b").unwrap();
        fs::write(root.path().join(REPLAY_FILE), text).unwrap();
        let opened = Replay::open(root.path());
        (root, opened)
    }

    fn frames(after_last: &str) -> String {
        format!(
            r#"{{"after_last": "{after_last}", "frames": [
                {{"folder": "frames/a", "duration_ms": 1000}}, {{"folder": "frames/b", "duration_ms": 500}}]}}"#
        )
    }

    #[test]
    fn frames_follow_each_other() {
        let at = |replay: &Replay, ms| replay.frame_at(Time(0).plus_millis(ms));
        let (_folder, hold) = replay(&frames("hold"));
        let hold = hold.unwrap();
        assert_eq!(hold.frame_count(), 2);
        assert_eq!([0, 999, 1000, 1499, 1500, u64::MAX].map(|ms| at(&hold, ms)), [0, 0, 1, 1, 1, 1]);
        let (_folder, looped) = replay(&frames("loop"));
        let looped = looped.unwrap();
        assert_eq!([0, 999, 1000, 1499, 1500, 2500].map(|ms| at(&looped, ms)), [0, 0, 1, 1, 0, 1]);
        let read = |ms| looped.origin_at(Time(0).plus_millis(ms), FleetId([0; 32])).tree.read("etc/name").unwrap();
        assert_eq!((read(0), read(1200), read(1600)), (b"base".to_vec(), b"b".to_vec(), b"base".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let table = [
            ("{", 1, "EOF"),
            ("{\n \"after_last\": \"stop\",\n \"frames\": []}", 2, "unknown variant"),
            ("{\n \"after_last\": \"hold\",\n \"frames\": []}", 3, "1 to 1000 frames"),
            ("{\n \"after_last\": \"hold\",\n \"speed\": 2}", 3, "unknown field"),
            (
                "{\"after_last\": \"hold\", \"frames\": [\n{\"folder\": \"../x\", \"duration_ms\": 5}]}",
                2,
                "inside the replay",
            ),
            (
                "{\"after_last\": \"hold\", \"frames\": [\n{\"folder\": \"frames/a\",\n \"duration_ms\": 0}]}",
                3,
                "lasts 1 to",
            ),
            ("{\"after_last\": \"hold\", \"frames\": [\n{\"folder\": \"frames/a\",\n \"duration_ms\": -1}]}", 3, "-1"),
            (
                "{\"after_last\": \"hold\", \"frames\": [\n\n{\"folder\": \"frames/z\", \"duration_ms\": 5}]}",
                3,
                "no folder",
            ),
        ];
        for (text, line, what) in table {
            let (_folder, opened) = replay(text);
            let message = opened.expect_err(text).to_string();
            assert!(message.contains(&format!("{REPLAY_FILE}:{line}: ")) && message.contains(what), "{message}");
        }
    }

    #[test]
    fn a_folder_that_is_no_replay() {
        let folder = tempfile::tempdir().unwrap();
        let error = Replay::open(folder.path()).unwrap_err();
        assert!(matches!(error, ReplayError::Read { .. }), "{error}");
        let (folder, _) = replay(&frames("hold"));
        fs::write(folder.path().join("frames/b").join(SYSTEM_FILE), "{\n\"architecture\": 5}").unwrap();
        let message = Replay::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("frames/b/system.json:2: "), "{message}");
    }
}
