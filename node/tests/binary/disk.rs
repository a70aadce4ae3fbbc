//! A disk that fills up: a small tmpfs.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::fleet::{Fleet, config, converge, run, within};

/// A file system of its own, unmounted when this goes.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(folder: PathBuf, size: &str) -> Option<Tmpfs> {
        fs::create_dir_all(&folder).unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        let mounted = run(mount.args(["-t", "tmpfs", "-o", &options, "fleetsync-test"]).arg(&folder));
        if mounted.code != 0 {
            eprintln!("skipped: a tmpfs cannot be mounted here: {}", mounted.err);
            return None;
        }
        Some(Tmpfs(folder))
    }

    /// Takes up space: what is left, or so many MiB.
    fn fill(&self, mebibytes: usize) -> PathBuf {
        let path = self.0.join(format!("ballast-{mebibytes}"));
        let mut file = fs::File::create(&path).unwrap();
        let chunk = vec![0; 64 * 1024];
        // Then to the last page.
        let is_full = (0..mebibytes * 16).any(|_| file.write_all(&chunk).is_err());
        while is_full && file.write_all(&chunk[..4096]).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn below_the_reserve_writes_are_refused_and_work_again_without_a_restart() {
    let fleet = Fleet::empty();
    let Some(disk) = Tmpfs::mount(fleet.data_dir("b"), "80m") else { return };
    fleet.cli("a", &["init", "--name", "a", "--no-passphrase"]).ok();
    let a = fleet.run("a");
    fleet.join(&a, "b");
    let b = fleet.run("b");
    fleet.cli("b", &["config", "set", "camera", "gain", "1"]).ok();
    converge(&[&a, &b]);

    let ballast = disk.fill(24);
    within("the reserve is noticed", || !b.status()["refusing_writes"].is_null());
    let set = ["config", "set", "camera", "gain", "2"];
    fleet
        .cli("b", &set)
        .fails(5, &["takes no writes now", "MiB are free on the disk, 64 are kept", "hint: fleetsync status"]);
    fleet.cli("b", &["device", "label", "b", "rack=1"]).fails(5, &["takes no writes now"]);
    let status = fleet.cli("b", &["status"]);
    assert!(status.ok().contains("refusing      writes: "), "{status:?}");
    // Reads go on, and so do the others.
    assert_eq!(config(&b, "camera", "gain"), Some(json!(1)));
    fleet.cli("b", &["device", "ls"]).ok();
    fleet.cli("a", &["config", "set", "camera", "fps", "30"]).ok();
    assert!(a.links() == 1 && b.links() == 1, "a full disk cuts no link");
    let before = b.root_durable();

    // To the last byte, and over a crash.
    let rest = disk.fill(200);
    assert_eq!(config(&b, "camera", "gain"), Some(json!(1)));
    assert_eq!((config(&b, "camera", "fps"), b.root_durable()), (None, before));

    fs::remove_file(rest).unwrap();
    fs::remove_file(ballast).unwrap();
    within("what was missed meanwhile", || config(&b, "camera", "fps") == Some(json!(30)));
    within("writes again", || fleet.cli("b", &set).code == 0);
    assert!(b.status()["refusing_writes"].is_null());
    converge(&[&a, &b]);
}

#[test]
fn a_crash_on_a_disk_without_a_free_byte_loses_nothing() {
    let fleet = Fleet::empty();
    let Some(disk) = Tmpfs::mount(fleet.data_dir("a"), "80m") else { return };
    fleet.cli("a", &["init", "--name", "a", "--no-passphrase"]).ok();
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "camera", "gain", "1"]).ok();
    let root = a.root_durable();
    let ballast = disk.fill(200);
    within("the reserve is noticed", || !a.status()["refusing_writes"].is_null());
    a.kill();
    // Whether it starts there or not, it says why it takes no writes.
    let mut on_full = fleet.start("a", &[]);
    if on_full.is_ready() {
        let set = ["config", "set", "camera", "gain", "2"];
        fleet.cli("a", &set).fails(5, &["takes no writes now"]);
        assert_eq!(config(&on_full, "camera", "gain"), Some(json!(1)));
        on_full.kill();
    } else {
        on_full.end().fails(5, &["the disk is full"]);
    }
    fs::remove_file(ballast).unwrap();
    let a = fleet.run("a");
    assert_eq!((config(&a, "camera", "gain"), a.root_durable()), (Some(json!(1)), root));
    fleet.cli("a", &["config", "set", "camera", "gain", "2"]).ok();
}
