//! A data folder that was put back from a copy behind the node's back.

use std::process::Command;

use crate::fleet::{Fleet, config, converge, within};

/// The node's later changes come back from its peers; it goes on in new logs, so that none of them forks.
#[test]
fn an_old_copy_of_the_folder_catches_up_with_itself_and_forks_nothing() {
    let (fleet, a, b) = Fleet::pair();
    fleet.cli("a", &["config", "set", "x", "before", "1"]).ok();
    within("the first write on b", || config(&b, "x", "before").is_some());
    a.terminate();
    let (folder, copy) = (fleet.data_dir("a"), fleet.path().join("copy"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copied(&folder, &copy);
    let a = fleet.run("a");
    fleet.cli("a", &["config", "set", "x", "after", "2"]).ok();
    within("the later write on b", || config(&b, "x", "after").is_some());
    a.terminate();
    std::fs::remove_dir_all(&folder).unwrap();
    copied(&copy, &folder);

    let kept = || std::fs::read_to_string(folder.join("node.json")).unwrap();
    let before = kept();
    let a = fleet.run("a");
    within("the later write on a", || config(&a, "x", "after").is_some());
    within("a new incarnation", || kept() != before);
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
