//! The folder of a lab: one lab lives in it at a time, and whether one does is told by a lock that ends with its process.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::failure::Failure;

/// The lab's socket in its folder.
pub(crate) const SOCKET: &str = "lab.sock";
/// The log of the lab itself.
pub(crate) const LOG: &str = "lab.log";
/// The file that makes a folder a lab's, and is locked while the lab is up.
const LOCK: &str = "lab.lock";
/// How long a lab that was told to end may take.
const END: Duration = Duration::from_secs(30);
/// Between two looks at whether it has.
const POLL: Duration = Duration::from_millis(20);

/// Where a lab lies if nobody says otherwise: one for each user.
pub(crate) fn default_path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => Path::new(&folder).join("fleetsync-lab"),
        None => PathBuf::from(format!("/tmp/fleetsync-lab-{}", rustix::process::geteuid().as_raw())),
    }
}

/// What is in a lab's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A lab that is up.
    Lab,
    /// What a lab that was killed left behind.
    Remains,
    /// Something else.
    Other,
}

fn find(path: &Path) -> io::Result<Found> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    // In /tmp anyone may have put it there.
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Found::Other);
    }
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Other),
        Err(error) => return Err(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Found::Remains),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Found::Lab),
        Err(error) => Err(error.into()),
    }
}

fn unusable(path: &Path) -> impl Fn(io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new("the lab's folder cannot be used").cause(error).hint(format!("ls -ld {path}"))
}

/// Makes the folder anew, for a lab to come.
pub(crate) fn make(path: &Path) -> Result<(), Failure> {
    match find(path).map_err(unusable(path))? {
        Found::Nothing => {}
        Found::Remains => fs::remove_dir_all(path).map_err(unusable(path))?,
        Found::Lab => {
            return Err(Failure::new(format!("a lab is up in {}", path.display()))
                .hint(format!("testnet lab down --dir {}", path.display())));
        }
        Found::Other => return Err(not_a_lab(path)),
    }
    DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(unusable(path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(unusable(path))?;
    File::create(path.join(LOCK)).map_err(unusable(path))?;
    Ok(())
}

fn not_a_lab(path: &Path) -> Failure {
    Failure::new(format!("{} is there already, and no lab's", path.display()))
        .hint("testnet lab up lan-12 --dir /tmp/lab")
}

/// Whether a lab is up there.
pub(crate) fn is_up(path: &Path) -> bool {
    matches!(find(path), Ok(Found::Lab))
}

/// The lock of a lab that is up; it ends with it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Takes a folder that was [made](make), and writes into the lock who has.
pub(crate) fn lock(path: &Path) -> Result<Lock, Failure> {
    let mut file = File::options().write(true).open(path.join(LOCK)).map_err(unusable(path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| unusable(path)(error.into()))?;
    write!(file, "{}", std::process::id()).map_err(unusable(path))?;
    Ok(Lock { _file: file })
}

/// Tells the process that holds a lab to end, where it does not answer.
pub(crate) fn terminate(path: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(path.join(LOCK)).map_err(unusable(path))?;
    let Some(pid) = text.parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    kill_process(pid, Signal::TERM).map_err(|error| unusable(path)(error.into()))
}

/// Removes the folder once the lab in it has ended.
///
/// # Errors
///
/// There is none; it is no lab's; the lab does not end.
pub(crate) fn remove(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    while find(path).map_err(unusable(path))? == Found::Lab {
        if start.elapsed() > END {
            return Err(Failure::new("the lab does not end").hint(format!("tail {}", path.join(LOG).display())));
        }
        std::thread::sleep(POLL);
    }
    match find(path).map_err(unusable(path))? {
        Found::Remains => fs::remove_dir_all(path).map_err(unusable(path)),
        Found::Other => Err(not_a_lab(path)),
        Found::Nothing | Found::Lab => {
            Err(Failure::new(format!("no lab is up in {}", path.display())).hint("testnet lab up lan-12"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_one_lab_and_what_a_killed_one_left_is_cleared() {
        let temporary = tempfile::tempdir().expect("a folder");
        let path = temporary.path().join("lab");
        assert!(remove(&path).is_err(), "there is none");
        make(&path).expect("a new one");
        let held = lock(&path).expect("it is free");
        assert!(is_up(&path) && make(&path).is_err() && lock(&path).is_err());
        drop(held);
        fs::write(path.join("rest"), "x").expect("a file");
        assert!(!is_up(&path));
        make(&path).expect("what is left is cleared");
        assert!(!path.join("rest").exists());
        remove(&path).expect("it is a lab's");
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_labs_is_left_alone() {
        let temporary = tempfile::tempdir().expect("a folder");
        fs::write(temporary.path().join("mine"), "x").expect("a file");
        assert!(make(temporary.path()).is_err() && remove(temporary.path()).is_err());
        assert!(temporary.path().join("mine").exists());
        // Someone else's way to a lab is none either.
        make(&temporary.path().join("lab")).expect("a new one");
        let detour = temporary.path().join("detour");
        std::os::unix::fs::symlink(temporary.path().join("lab"), &detour).expect("a link");
        assert!(make(&detour).is_err() && remove(&detour).is_err());
    }
}
