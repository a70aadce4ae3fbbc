//! The process and its data folder: one at a time, a quick end, folders that cannot be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use crdt::store::{STORAGE_FORMAT, TABLES};

use crate::fleet::{Fleet, run, within};

/// The uid and gid of `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn a_second_run_is_refused_with_the_pid_and_the_first_goes_on() {
    let fleet = Fleet::found("a");
    fleet.cli("a", &["status"]).fails(3, &["no node answers", "fleetsync run --data-dir"]);
    let a = fleet.run("a");
    let second = fleet.start("a", &[]).end();
    second.fails(5, &[&format!("is in use by process {}", a.pid()), "hint: fleetsync status --data-dir"]);
    assert_eq!(fleet.cli("a", &["status", "-o", "json"]).json()["name"], "a");
    // A port that was asked for is not exchanged for another.
    let port = a.port().to_string();
    let other = Fleet::found("x");
    let taken = other.command("x", &["run", "--port", &port]);
    other.spawn("x", taken).end().fails(5, &[&format!("port {port} is in use"), "--port 0"]);
    // The lock of a process that was killed is none.
    a.kill();
    fleet.run("a");
}

#[test]
fn sigterm_ends_a_node_well_within_two_seconds_whoever_is_connected() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    let mut idle = b.api();
    assert_eq!(idle.get("/v1/status").unwrap().status, 200);
    let mut watcher = fleet.command("b", &["events", "--watch"]).spawn().unwrap();
    let (status, took) = b.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    watcher.wait().unwrap();
    within("the link's end on a", || a.links() == 0);
    let b = fleet.run("b");
    within("a link again", || a.links() == 1 && b.links() == 1);
    // Before it is ready, too.
    let (status, took) = fleet.start("c", &[]).terminate();
    assert!(took < Duration::from_secs(2), "{status:?} after {took:?}");
}

/// One stop in fifteen aborted, when the collector's thread still held the store as the process ended.
#[test]
fn every_stop_is_a_clean_one() {
    let fleet = Fleet::found("a");
    let mut moments = crate::random::Random::new(17);
    for round in 0..30 {
        let mut command = fleet.command("a", &["run", "--port", "0"]);
        command.env("FLEETSYNC_TELEMETRY_INTERVAL_MIN_MS", "1");
        let node = fleet.spawn("a", command).ready();
        let first = node.age();
        let pause = Duration::from_millis(moments.below(40));
        crate::fleet::wait_for(Duration::from_secs(5), || (node.age() > first + pause).then_some(()));
        let log = node.log();
        let (status, _) = node.terminate();
        assert_eq!(status.code(), Some(0), "stop {round}: {log}");
    }
}

#[test]
fn a_folder_that_is_none_or_of_a_newer_format_is_refused_and_left_alone() {
    let fleet = Fleet::found("a");
    fleet.start("nobody", &[]).end().fails(5, &["is not the folder of a member", "fleetsync init"]);
    assert!(!fleet.data_dir("nobody").exists(), "a refused run created it");
    fs::create_dir(fleet.data_dir("other")).unwrap();
    fs::write(fleet.data_dir("other").join("letter"), "").unwrap();
    fs::set_permissions(fleet.data_dir("other"), fs::Permissions::from_mode(0o755)).unwrap();
    fleet.start("other", &[]).end().fails(5, &["is not the folder of a member"]);
    fleet.start("other", &["--join", "garbage"]).end().fails(2, &["a ticket starts with fs1_"]);
    assert_eq!(fs::read_dir(fleet.data_dir("other")).unwrap().count(), 1, "a refused run wrote to it");
    assert_eq!(fs::metadata(fleet.data_dir("other")).unwrap().permissions().mode() & 0o777, 0o755);

    let format = fleet.data_dir("a").join("format");
    let before = fs::read(&format).unwrap();
    fs::write(&format, "fleetsync 2\n").unwrap();
    fleet
        .start("a", &[])
        .end()
        .fails(5, &["has format 2, this version knows up to 1", "a newer version", "hint: fleetsync --version"]);
    fs::write(&format, "nonsense").unwrap();
    fleet.start("a", &[]).end().fails(5, &["is malformed"]);
    fs::write(&format, before).unwrap();

    let set_format = |number: u32| {
        let names = TABLES.map(|(_, name)| name);
        let store =
            rocksdb::DB::open_cf(&rocksdb::Options::default(), fleet.data_dir("a").join("store"), names).unwrap();
        store.put(b"format", number.to_be_bytes()).unwrap();
    };
    set_format(STORAGE_FORMAT + 1);
    fleet.start("a", &[]).end().fails(5, &["the store has format 2", "a newer version", "hint: fleetsync --version"]);
    set_format(STORAGE_FORMAT);

    let node = fleet.data_dir("a").join("node.json");
    let before = fs::read(&node).unwrap();
    fs::write(&node, "{").unwrap();
    fleet.start("a", &[]).end().fails(5, &["node.json is malformed"]);
    fs::write(&node, before).unwrap();
    fs::write(fleet.data_dir("a").join("config.toml"), "prot = 1\n").unwrap();
    let hint = format!("hint: cat {}", fleet.data_dir("a").join("config.toml").display());
    fleet.start("a", &[]).end().fails(2, &["there is no setting prot", &hint]);
    fleet.cli("a", &["node", "config"]).fails(2, &["there is no setting prot", &hint]);
    fs::remove_file(fleet.data_dir("a").join("config.toml")).unwrap();
    fleet.run("a");
}

#[test]
fn an_address_that_is_not_this_machines_is_named() {
    let fleet = Fleet::found("a");
    // An address for documentation (RFC 5737).
    for port in ["0", "4410"] {
        let run = fleet.command("a", &["run", "--listen", "203.0.113.1", "--port", port]);
        let ran = fleet.spawn("a", run).end();
        ran.fails(5, &["cannot listen on 203.0.113.1", "cause: Cannot assign requested address", "hint: ip address"]);
        assert!(!ran.err.contains("in use"), "{ran:?}");
    }
}

#[test]
fn an_unknown_variable_is_an_error_and_an_empty_ticket_is_none() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    let mut mistyped = fleet.command("a", &["status"]);
    mistyped.env("FLEETSYNC_DATADIR", "x");
    run(&mut mistyped).fails(2, &["there is no variable FLEETSYNC_DATADIR", "hint: unset FLEETSYNC_DATADIR"]);
    let file = fleet.path().join("ticket");
    fs::write(&file, fleet.ticket(&a, "b")).unwrap();
    let mut command = fleet.command("b", &["run", "--port", "0"]);
    command.env("FLEETSYNC_TICKET", "").env("FLEETSYNC_TICKET_FILE", &file);
    fleet.spawn("b", command).ready();
}

#[test]
fn a_folder_without_write_permission_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can run a node as another user");
    }
    let fleet = Fleet::found("a");
    // The binary and the folder must be reachable for nobody.
    fs::set_permissions(fleet.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = fleet.path().join("fleetsync");
    fs::copy(env!("CARGO_BIN_EXE_fleetsync"), &binary).unwrap();
    let as_nobody = || {
        let known = fleet.command("a", &[]);
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&binary).args(["run", "--port", "0"]);
        command.envs(known.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    let folder = fleet.data_dir("a");
    run(&mut as_nobody()).fails(5, &["Permission denied", folder.to_str().unwrap(), "hint: ls -l"]);
    // Its own folder, but not what is in it.
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    run(&mut as_nobody()).fails(5, &["Permission denied", "hint: ls -ld"]);
    for name in fs::read_dir(&folder).unwrap() {
        chown(name.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    run(&mut as_nobody()).fails(5, &["no permission to use", "store", "run as the user that owns"]);
    // Nothing was harmed.
    fleet.run("a");
}
