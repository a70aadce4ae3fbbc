//! A data folder that was put back from a copy behind the node's back.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::fleet::{Fleet, Node, config, converge, within};
use crate::signing::{Fate, Proxy};

/// The data folder of `a` as it was.
struct Copy<'f> {
    fleet: &'f Fleet,
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

impl Copy<'_> {
    /// Of a node that is stopped for it.
    fn take(fleet: &Fleet, a: Node) -> Copy<'_> {
        a.terminate();
        copy(&fleet.data_dir("a"), &fleet.path().join("copy"));
        Copy { fleet }
    }

    fn put_back(&self, a: Node) {
        a.terminate();
        std::fs::remove_dir_all(self.fleet.data_dir("a")).unwrap();
        copy(&self.fleet.path().join("copy"), &self.fleet.data_dir("a"));
    }

    /// What `node.json` says of the incarnation, among others.
    fn identity(&self) -> String {
        std::fs::read_to_string(self.fleet.data_dir("a").join("node.json")).unwrap()
    }
}

/// The node's later changes come back from its peers; it goes on in new logs, so that none of them forks.
#[test]
fn an_old_copy_of_the_folder_catches_up_with_itself_and_forks_nothing() {
    let (fleet, a, b) = Fleet::pair();
    fleet.cli("a", &["config", "set", "x", "before", "1"]).ok();
    within("the first write on b", || config(&b, "x", "before").is_some());
    let copy = Copy::take(&fleet, a);
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "x", "after", "2"]).ok();
    within("the later write on b", || config(&b, "x", "after").is_some());
    copy.put_back(a);

    let before = copy.identity();
    let a = fleet.run("a");
    within("the later write on a", || config(&a, "x", "after").is_some());
    within("a new incarnation", || copy.identity() != before);
    // From another keys folder's journal this would be a fork; from this one it is refused nowhere.
    fleet.cli("a", &["config", "set", "x", "again", "3"]).ok();
    converge(&[&a, &b]);
    within("the newest write on b", || config(&b, "x", "again").is_some());
    assert!(!b.log().contains("has this sequence number"), "{}", b.log());
    a.terminate();
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "x", "last", "4"]).ok();
    converge(&[&a, &b]);
}

/// What the node that was put back said later comes back from its peers, and is no longer so: it says again what is.
#[test]
fn an_old_copy_of_the_folder_says_anew_what_its_device_is() {
    let fleet = Fleet::found("a");
    let replay = |version: &str| {
        let folder = fleet.path().join(format!("replay-{version}"));
        copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/replay/pi")), &folder);
        std::fs::write(folder.join("base/etc/os-release"), format!("ID=debian\nVERSION_ID={version}\n")).unwrap();
        folder
    };
    let (old, new) = (replay("12"), replay("13"));
    let run = |replay: &Path| {
        let mut command = fleet.command("a", &["run", "--port", "0", "--replay", replay.to_str().unwrap()]);
        command.env("FLEETSYNC_TELEMETRY_INTERVAL_MIN_MS", "50");
        fleet.spawn("a", command).ready()
    };
    let a = run(&old);
    fleet.join(&a, "b");
    let b = fleet.run("b");
    let says = |node: &Node, version: &str| {
        let answer = node.api().get("/v1/devices/a?path=os.version").unwrap();
        answer.status == 200 && answer.json()["facts"]["os.version"]["value"] == version
    };
    within("the old version on b", || says(&b, "12"));
    let copy = Copy::take(&fleet, a);
    let a = run(&new);
    within("the new version on b", || says(&b, "13"));
    copy.put_back(a);

    let before = copy.identity();
    let a = run(&old);
    within("a new incarnation", || copy.identity() != before);
    for node in [&a, &b] {
        within("the old version again", || says(node, "12"));
    }
}

/// Put back, it writes before it has a link, as its own `link` document does at every start: that log forks. Peers that
/// hold the other branch are not to blame, and the forked log is ended.
#[test]
fn an_old_copy_that_writes_before_it_is_linked_ends_its_forked_logs() {
    let (fleet, a, b) = Fleet::pair();
    let up = format!("neighbour.{}.up", b.status()["node"].as_str().unwrap());
    let says =
        |node: &Node, is_up: bool| node.get("/v1/document?document=link/a")["values"][&up]["value"] == json!(is_up);
    within("a word of the link", || says(&a, true));
    let copy = Copy::take(&fleet, a);
    let a = fleet.run("a");
    b.kill();
    within("a word of the lost link", || says(&a, false));
    let b = fleet.run("b");
    within("a word of the new link on b", || says(&a, true));
    converge(&[&a, &b]);
    b.kill();
    within("no link", || a.links() == 0);
    copy.put_back(a);

    let before = copy.identity();
    let a = fleet.run("a");
    within("a write of its own", || says(&a, false));
    let b = fleet.run("b");
    within("a new incarnation", || copy.identity() != before);
    converge(&[&a, &b]);
    for node in [&a, &b] {
        assert!(!node.log().contains("can never count"), "{}: {}", node.name, node.log());
    }
    within("a link that stands", || a.links() == 1 && b.links() == 1);
}

/// A change that was signed and never reached the node, which was put back since: it can never be taken, which is said,
/// and the next change is.
#[test]
fn what_was_signed_for_a_log_that_ended_blocks_nothing() {
    let (fleet, a, b) = Fleet::pair();
    fleet.cli("a", &["config", "set", "x", "before", "1"]).ok();
    within("the first write on b", || config(&b, "x", "before").is_some());
    let copy = Copy::take(&fleet, a);
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "x", "after", "2"]).ok();
    within("the later write on b", || config(&b, "x", "after").is_some());
    let proxy = Proxy::before(&a, &fleet, "lost.sock", Fate::Lost);
    let api = format!("unix:{}", proxy.socket.display());
    let lost = fleet.cli("a", &["--api", &api, "config", "set", "x", "lost", "3"]);
    assert_ne!(lost.code, 0);
    assert!(lost.err.contains("signed and kept"), "{lost:?}");
    copy.put_back(a);

    let before = copy.identity();
    let a = fleet.run("a");
    within("a new incarnation", || copy.identity() != before);
    let again = fleet.cli("a", &["config", "set", "x", "again", "4"]);
    again.ok();
    assert!(again.err.contains("never taken, and cannot be any more: config/x lost"), "{again:?}");
    let last = fleet.cli("a", &["config", "set", "x", "last", "5"]);
    last.ok();
    assert!(!last.err.contains("never taken"), "said once: {last:?}");
    converge(&[&a, &b]);
    assert!(config(&b, "x", "last").is_some() && config(&b, "x", "lost").is_none());
}
