//! Blobs between real nodes: put, listed, fetched, over others, broken off and gone on with.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::fleet::{Fleet, Node, within};

const MEBIBYTE: usize = 1 << 20;

/// A file with bytes that do not repeat.
fn file(fleet: &Fleet, name: &str, size: usize) -> PathBuf {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 8).to_le_bytes());
    }
    bytes.truncate(size);
    let path = fleet.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn put(fleet: &Fleet, on: &str, path: &std::path::Path) -> String {
    fleet.cli(on, &["blob", "put", path.to_str().unwrap()]).ok().trim().to_owned()
}

/// Starts a node that gives others at most so much of its blobs, bytes a second.
fn run_slowly(fleet: &Fleet, name: &str, rate: usize) -> Node {
    let mut command = fleet.command(name, &["run", "--listen", "127.0.0.1", "--port", "0"]);
    command.env("FLEETSYNC_BULK_MAX_RATE", rate.to_string());
    fleet.spawn(name, command).ready()
}

/// A `blob get` that goes on beside the test.
fn get(fleet: &Fleet, on: &str, blob: &str) -> Child {
    let mut command: Command = fleet.command(on, &["blob", "get", blob, "-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn ended(child: Child) -> (bool, Value) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// How much of a blob is on a node while it is fetched.
fn here(node: &Node, blob: &str) -> u64 {
    let answer = node.api().get(&format!("/v1/blobs/{blob}")).unwrap();
    if answer.status == 200 { answer.json()["here_bytes"].as_u64().unwrap_or(0) } else { 0 }
}

#[test]
fn what_is_put_on_one_is_listed_on_all_and_fetched_by_its_hash() {
    let (fleet, a, b) = Fleet::pair();
    let path = file(&fleet, "model.bin", 5 * MEBIBYTE + 13);
    let blob = put(&fleet, "a", &path);
    assert_eq!(blob.len(), 64);
    within("the blob in the fleet's list", || {
        let blobs = b.get("/v1/blobs");
        blobs[0]["blob"] == blob.as_str() && blobs[0]["holders"][0]["name"] == "a" && blobs[0]["here"] == "no"
    });
    let table = fleet.cli("b", &["blob", "ls"]);
    assert!(table.ok().contains("5.2 MB") && table.ok().contains(&blob[..16]), "{table:?}");
    let copy = fleet.path().join("copy.bin");
    let got = fleet.cli("b", &["blob", "get", &blob[..12], "--to", copy.to_str().unwrap()]);
    assert_eq!(got.ok().trim(), blob);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    within("both have it", || a.get(&format!("/v1/blobs/{blob}"))["holders"].as_array().unwrap().len() == 2);
    assert_eq!(fleet.cli("b", &["blob", "stat", &blob, "-o", "json"]).json()["here"], "whole");
    // An empty one, from standard input, and one that is there already.
    let empty = put(&fleet, "b", std::path::Path::new("-"));
    assert_eq!(empty, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    within("the empty one in the list", || a.get("/v1/blobs").as_array().unwrap().len() == 2);
    assert_eq!(fleet.cli("a", &["blob", "get", &empty]).ok().trim(), empty);
    assert_eq!(put(&fleet, "a", &path), blob);

    fleet.cli("b", &["blob", "rm", &blob]).fails(2, &["--yes"]);
    fleet.cli("b", &["blob", "rm", &blob, "--yes"]).ok();
    within("a alone has it", || a.get(&format!("/v1/blobs/{blob}"))["holders"].as_array().unwrap().len() == 1);
    fleet.cli("b", &["blob", "rm", &blob, "--yes"]).fails(4, &["not on this device"]);
    let nobody = "ab".repeat(32);
    fleet.cli("a", &["blob", "get", &nobody]).fails(4, &["no device says that it has this blob"]);
    fleet.cli("a", &["blob", "get", &nobody, "--from", "b"]).fails(1, &["it does not have this blob"]);
    fleet.cli("a", &["blob", "get", &nobody, "--from", "nobody"]).fails(4, &["no device is called"]);
    fleet.cli("a", &["blob", "stat", &nobody]).fails(4, &["no device says"]);
    fleet.cli("a", &["blob", "stat", "model"]).fails(2, &["BLAKE3", "fleetsync blob ls"]);
    fleet.cli("a", &["blob", "put", "missing.bin"]).fails(5, &["cannot be read"]);
    fleet.cli("a", &["blob", "put", "."]).fails(5, &["folder"]);
    fleet.cli("a", &["blob", "pause", &blob]).fails(4, &["not being fetched"]);
    fleet.cli("a", &["blob", "get", &blob, "--to", "no/such/file"]).fails(5, &["not written"]);
}

/// The holder only dials, so that neither the asker nor the hub reaches its bulk plane: the last hop is a stream of the
/// session's connection.
#[test]
fn a_blob_comes_over_another_device_where_no_link_leads_to_its_holder() {
    let fleet = Fleet::found("h");
    let hub = fleet.run("h");
    ["a", "c"].into_iter().for_each(|name| fleet.join(&hub, name));
    let dials = |name| fleet.spawn(name, fleet.command(name, &["run", "--listen", "none"])).ready();
    let [_a, c] = ["a", "c"].map(dials);
    let path = file(&fleet, "map.bin", 9 * MEBIBYTE + 1);
    let blob = put(&fleet, "a", &path);
    within("a way to the holder", || {
        let is_known = !c.get("/v1/blobs").as_array().unwrap().is_empty();
        is_known && !c.get("/v1/routes/a")["ways"].as_array().unwrap().is_empty()
    });
    let copy = fleet.path().join("copy.bin");
    fleet.cli("c", &["blob", "get", &blob, "--to", copy.to_str().unwrap()]).ok();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    assert_eq!(hub.get(&format!("/v1/blobs/{blob}"))["here"], "no", "who passes on keeps nothing");
    let relayed = &hub.status()["relayed"][0];
    assert_eq!((&relayed["for"], &relayed["from"]), (&"c".into(), &"a".into()), "{relayed}");
    assert!(relayed["bytes"].as_u64().unwrap() > 9 * MEBIBYTE as u64);
}

#[test]
fn a_fetch_goes_on_after_either_end_was_killed_and_asks_for_little_again() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    fleet.join(&a, "b");
    let path = file(&fleet, "big.bin", 48 * MEBIBYTE);
    let blob = put(&fleet, "a", &path);
    a.terminate();
    let a = run_slowly(&fleet, "a", 12 * MEBIBYTE);
    let b = fleet.run("b");
    within("the blob in the fleet's list", || !b.get("/v1/blobs").as_array().unwrap().is_empty());

    let getting = get(&fleet, "b", &blob);
    within("a part of it", || here(&b, &blob) > 12 * MEBIBYTE as u64);
    let before = here(&b, &blob);
    b.kill();
    assert!(!ended(getting).0, "its node is gone");
    let b = fleet.run("b");
    within("who has it", || !b.get("/v1/blobs").as_array().unwrap()[0]["holders"].as_array().unwrap().is_empty());
    let getting = get(&fleet, "b", &blob);
    within("more of it", || here(&b, &blob) > before + 12 * MEBIBYTE as u64);
    // Now the other end; the fetch waits for it.
    a.kill();
    let a = fleet.run("a");
    let (is_here, last) = ended(getting);
    assert!(is_here, "{last}");
    let came = last["came_bytes"].as_u64().unwrap();
    assert!(came <= 48 * MEBIBYTE as u64 - before, "{came} bytes came where {before} were here");
    let copy = fleet.path().join("copy.bin");
    fleet.cli("b", &["blob", "get", &blob, "--to", copy.to_str().unwrap()]).ok();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    drop(a);
}

#[test]
fn a_fetch_pauses_and_goes_on_and_stops_with_its_caller() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    fleet.join(&a, "b");
    let path = file(&fleet, "big.bin", 32 * MEBIBYTE);
    let blob = put(&fleet, "a", &path);
    a.terminate();
    let _a = run_slowly(&fleet, "a", 10 * MEBIBYTE);
    let b = fleet.run("b");
    within("the blob in the fleet's list", || !b.get("/v1/blobs").as_array().unwrap().is_empty());
    let mut getting = get(&fleet, "b", &blob);
    within("a part of it", || here(&b, &blob) > 0);
    fleet.cli("b", &["blob", "pause", &blob]).ok();
    within("a pause", || b.get(&format!("/v1/blobs/{blob}"))["here"] == "paused");
    fleet.cli("b", &["blob", "resume", &blob]).ok();
    within("more", || here(&b, &blob) > 12 * MEBIBYTE as u64);
    getting.kill().unwrap();
    getting.wait().unwrap();
    within("the end of the fetch", || b.get(&format!("/v1/blobs/{blob}"))["here"] == "part");
    assert_eq!(fleet.cli("b", &["blob", "get", &blob]).ok().trim(), blob);
}
