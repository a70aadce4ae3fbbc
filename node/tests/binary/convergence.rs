//! Nodes that agree: after a join, after a cut, after all of them were restarted.

use serde_json::json;

use crate::fleet::{Fleet, config, converge, within};
use crate::random::Random;

#[test]
fn two_nodes_converge() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    fleet.cli("a", &["config", "set", "camera", "exposure.mode", "auto"]).ok();
    within("the value on b", || config(&b, "camera", "exposure.mode") == Some(json!("auto")));
    let values = fleet.cli("b", &["config", "get", "camera", "--values", "-o", "json"]).json();
    assert_eq!(values, json!({ "exposure": { "mode": "auto" } }));
    let listed = fleet.cli("b", &["config", "ls"]);
    assert!(listed.ok().lines().any(|line| line.split_whitespace().eq(["camera", "1", "1"])), "{listed:?}");

    converge(&[&a, &b]);
    let status = |name| fleet.cli(name, &["status", "-o", "json"]).json();
    let (at_a, at_b) = (status("a"), status("b"));
    for field in ["fleet", "root_durable", "statements"] {
        assert_eq!(at_a[field], at_b[field], "{field}: {at_a} {at_b}");
    }
    for field in [
        "node",
        "name",
        "fleet",
        "version",
        "uptime_s",
        "root",
        "root_durable",
        "documents",
        "changes",
        "statements",
        "peers",
        "behind",
        "offline",
    ] {
        assert!(!at_a[field].is_null(), "status has no {field}: {at_a}");
    }
    let peers = at_a["peers"].clone();
    assert_eq!(
        (&peers["known"], &peers["up"], &peers["direct"], &peers["relayed"]),
        (&json!(1), &json!(1), &json!(1), &json!(0))
    );

    let devices = fleet.cli("a", &["device", "ls", "-o", "json"]).json();
    let seen: Vec<_> = devices.as_array().unwrap().iter().map(|row| (&row["name"], &row["presence"])).collect();
    assert_eq!(seen, [(&json!("a"), &json!("here")), (&json!("b"), &json!("linked"))]);
    assert!(devices.as_array().unwrap().iter().all(|row| row["zone"] == "lab" && row["device"].is_string()));

    let name = fleet.cli("a", &["device", "get", "b", "name", "-o", "json"]).json();
    assert_eq!((&name["value"], &name["view"], &name["origin"]), (&json!("b"), &json!("a"), &json!("assigned")));
    assert!(name["author"].as_str().unwrap().starts_with("operator ("), "{name}");
    assert!(name["age_s"].as_u64().unwrap() < 60, "{name}");
    within("a fact of b on a", || {
        let cores = fleet.cli("a", &["device", "get", "b", "cpu.cores", "-o", "json"]);
        cores.code == 0 && cores.json()["origin"] == "fact" && cores.json()["author"] == "b"
    });
    fleet.cli("a", &["device", "get", "nobody"]).fails(4, &["nobody"]);
}

#[test]
fn a_cut_node_stays_cut_over_a_crash_and_both_sides_are_kept() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    fleet.cli("a", &["config", "set", "camera", "gain", "1"]).ok();
    within("the value on b", || config(&b, "camera", "gain") == Some(json!(1)));

    fleet.cli("b", &["node", "offline"]).ok();
    within("no link", || a.links() == 0 && b.links() == 0);
    b.kill();
    let b = fleet.run("b");
    let status = fleet.cli("b", &["status"]);
    assert!(status.ok().contains("offline       yes, until fleetsync node online"), "{status:?}");
    assert_eq!(fleet.cli("b", &["status", "-o", "json"]).json()["offline"], json!(true));
    let devices = fleet.cli("a", &["device", "ls", "-o", "json"]).json();
    assert!(devices[1]["presence"].as_str().unwrap().starts_with("away since "), "{devices}");

    fleet.cli("b", &["config", "set", "camera", "gain", "2"]).ok();
    fleet.cli("b", &["config", "set", "camera", "flash", "off"]).ok();
    fleet.cli("a", &["config", "set", "camera", "gain", "5"]).ok();
    fleet.cli("a", &["config", "set", "camera", "fps", "30"]).ok();
    assert_eq!((config(&a, "camera", "flash"), config(&b, "camera", "fps")), (None, None));
    assert_eq!((a.links(), b.links()), (0, 0));

    fleet.cli("b", &["node", "online"]).ok();
    within("what the other side wrote", || {
        config(&a, "camera", "flash") == Some(json!("off")) && config(&b, "camera", "fps") == Some(json!(30))
    });
    converge(&[&a, &b]);
    let views = ["a", "b"].map(|name| fleet.cli(name, &["config", "get", "camera", "gain", "-o", "json"]).json());
    let gain = &views[0]["gain"];
    let other = &gain["conflicts"][0];
    assert_eq!(views[0]["gain"]["value"], views[1]["gain"]["value"]);
    let mut both = [gain["value"].as_i64().unwrap(), other["value"].as_i64().unwrap()];
    both.sort_unstable();
    assert_eq!(both, [2, 5]);
    let mut carriers = [gain["carrier"].as_str().unwrap(), other["carrier"].as_str().unwrap()];
    carriers.sort_unstable();
    assert_eq!(carriers, ["a", "b"]);
    let shown = fleet.cli("a", &["config", "get", "camera"]);
    let said = format!("read meanwhile: {} (rule: greatest operation id, not time)", gain["value"]);
    assert!(shown.ok().contains(&said) && shown.out.contains("  also"), "{shown:?}");

    fleet.cli("b", &["config", "set", "camera", "gain", "3"]).ok();
    within("the settled value on a", || config(&a, "camera", "gain") == Some(json!(3)));
    converge(&[&a, &b]);
    for name in ["a", "b"] {
        let view = fleet.cli(name, &["config", "get", "camera", "-o", "json"]).json();
        assert!(view["gain"]["conflicts"].is_null(), "{view}");
        let values = fleet.cli(name, &["config", "get", "camera", "--values", "-o", "json"]).json();
        assert_eq!(values, json!({ "flash": "off", "fps": 30, "gain": 3 }));
    }
}

#[test]
fn three_nodes_that_are_all_restarted_keep_their_ports_and_find_each_other() {
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    fleet.join(&a, "b");
    fleet.join(&a, "c");
    let nodes = [a, fleet.run("b"), fleet.run("c")];
    let is_meshed = |nodes: &[_; 3]| nodes.iter().all(|node: &crate::fleet::Node| node.links() == 2);
    within("a full mesh", || is_meshed(&nodes));
    // A node finds another again by its `link` document.
    within("addresses of all on all", || {
        nodes.iter().all(|node| {
            let peers = node.get("/v1/peers");
            peers.as_array().unwrap().iter().all(|peer| !peer["known_addresses"].as_array().unwrap().is_empty())
        })
    });
    let ports = nodes.each_ref().map(|node| node.port());
    for node in nodes {
        node.kill();
    }
    let nodes = ["a", "b", "c"].map(|name| fleet.start(name, &[])).map(|node| node.ready());
    assert_eq!(nodes.each_ref().map(|node| node.port()), ports);
    within("a full mesh again", || is_meshed(&nodes));
    fleet.cli("c", &["config", "set", "camera", "gain", "1"]).ok();
    within("the value on b", || config(&nodes[1], "camera", "gain") == Some(json!(1)));
    converge(&nodes.each_ref());
}

/// Text that hardly gets shorter when it is compressed, different for each seed.
fn noise(seed: u64, characters: usize) -> String {
    let mut random = Random::new(seed);
    (0..characters).map(|_| char::from(b'0' + u8::try_from(random.below(75)).unwrap())).collect()
}

#[test]
fn much_that_was_missed_comes_over_the_bulk_plane_unless_that_is_off() {
    const VALUES: u64 = 110;
    let fleet = Fleet::found("a");
    let a = fleet.run("a");
    ["b", "c"].iter().for_each(|name| fleet.join(&a, name));
    for number in 0..VALUES {
        let value = noise(number, 15_000);
        fleet.cli("a", &["config", "set", "camera", "noise", "--text", &value]).ok();
    }
    let last = noise(VALUES - 1, 15_000);
    let words = "comes over the bulk plane";
    for (name, is_on) in [("b", true), ("c", false)] {
        let mut command = fleet.command(name, &["run", "--listen", "127.0.0.1", "--port", "0"]);
        command.env("FLEETSYNC_BULK_BACKFILL", is_on.to_string()).env("FLEETSYNC_LOG", "info,transport=debug");
        let node = fleet.spawn(name, command).ready();
        within("the last value", || config(&node, "camera", "noise") == Some(json!(last)));
        if is_on {
            assert!(node.log().contains(words), "{}", node.log());
        } else {
            assert!(!node.log().contains(words), "{}", node.log());
        }
        converge(&[&a, &node]);
        let verified = fleet.cli(name, &["doc", "verify", "config/camera"]);
        assert!(verified.ok().contains(&VALUES.to_string()), "{verified:?}");
        node.terminate();
    }
}
