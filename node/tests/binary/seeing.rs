//! What a person sees of the mesh and of a node: who is linked and why, ways, the graph, moves with their causes, and checks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::fleet::{Fleet, Node, within};
use crate::routes::two_hubs;

/// The entry of a list with this name.
#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// The mesh as a node sees it: its links with their states.
fn links(node: &Node) -> Vec<(String, String)> {
    let graph = node.get("/v1/graph");
    let links = graph["links"].as_array().unwrap().iter();
    let mut links: Vec<_> = links
        .map(|link| {
            let mut ends = [&link["a_name"], &link["b_name"]].map(|name| name.as_str().unwrap());
            ends.sort_unstable();
            (ends.concat(), link["state"].as_str().unwrap().to_owned())
        })
        .collect();
    links.sort();
    links
}

fn up(ends: &[&str]) -> Vec<(String, String)> {
    ends.iter().map(|ends| ((*ends).to_owned(), "up".to_owned())).collect()
}

/// The last moves that a node made, of one kind.
fn moves(fleet: &Fleet, name: &str, kind: &str) -> Vec<Value> {
    let past = fleet.cli(name, &["events", "--last", "500", "-o", "json"]).json();
    past.as_array().unwrap().iter().filter(|event| event["event"] == kind).cloned().collect()
}

#[test]
fn the_mesh_is_seen_from_a_leaf_before_and_after_a_hub_dies() {
    let (fleet, [h, i, a, c]) = two_hubs();
    let all = up(&["ah", "ai", "ch", "ci", "hi"]);
    within("all links in the graph", || [&a, &h, &c].iter().all(|node| links(node) == all));
    within("a way to c", || !a.get("/v1/routes/c")["ways"].as_array().unwrap().is_empty());

    let peers = fleet.cli("a", &["peer", "ls", "-o", "json"]).json();
    let (hub, leaf) = (named(&peers, "h"), named(&peers, "c"));
    assert_eq!((&hub["state"], &hub["zone"]), (&json!("up"), &json!("lab")));
    // As a knew the roster already when it dialled, or not yet.
    assert!(["all are linked", "a ticket named it"].iter().any(|why| hub["why"] == *why), "{hub}");
    assert_eq!((&leaf["state"], leaf["way"]["path"].as_array().unwrap().len() >= 2), (&json!("down"), true), "{leaf}");
    let via = leaf["way"]["via"].as_str().unwrap().to_owned();
    let table = fleet.cli("a", &["peer", "ls"]);
    let row = table.ok().lines().find(|line| line.starts_with("c ")).unwrap();
    assert!(row.contains("reached") && row.contains(&via), "{row}");

    // What a way costs is said part by part, and they are the cost.
    within("links that are measured", || {
        let route = a.get("/v1/routes/c");
        let hops = route["ways"][0]["path"].as_array().unwrap().clone();
        !hops.is_empty()
            && hops.iter().all(|hop| {
                let parts = hop["parts"].as_object().into_iter().flatten().filter_map(|(_, part)| part.as_f64());
                (parts.sum::<f64>() - hop["cost_ms"].as_f64().unwrap()).abs() < 0.01 && hop["said_by"].is_string()
            })
    });
    let shown = fleet.cli("a", &["route", "show", "c"]);
    assert!(["WHY", "cheapest", "DELAY", "a → "].iter().all(|word| shown.ok().contains(word)), "{}", shown.out);

    let drawn = fleet.cli("a", &["route", "graph", "-o", "svg"]);
    assert!(drawn.ok().starts_with("<svg ") && drawn.out.ends_with("</svg>\n"), "{}", drawn.out);
    assert_eq!(drawn.out, fleet.cli("a", &["route", "graph", "--output", "svg"]).out, "the same twice");
    assert!(fleet.cli("a", &["route", "graph", "-o", "dot"]).ok().starts_with("graph \"mesh as a sees it\" {\n"));
    assert!(fleet.cli("a", &["route", "graph"]).ok().contains("WITHOUT IT"));
    assert_eq!(fleet.cli("a", &["route", "graph", "-o", "json"]).json()["nodes"].as_array().unwrap().len(), 4);
    let before = fleet.cli("a", &["-o", "json", "route", "graph"]);
    assert_eq!(before.json()["view"], "a");
    for wrong in [&["status", "-o", "svg"][..], &["peer", "ls", "-o", "dot"]] {
        assert_eq!(fleet.cli("a", wrong).code, 2, "{wrong:?}");
    }
    a_hub_dies(&fleet, [h, i], [&a, &c]);
}

/// Every move that follows has its cause.
fn a_hub_dies(fleet: &Fleet, hubs: [Node; 2], [a, c]: [&Node; 2]) {
    let used = a.get("/v1/peers");
    let used = named(&used, "c")["way"]["via"].as_str().unwrap().to_owned();
    let (dying, left): (Vec<Node>, Vec<Node>) = hubs.into_iter().partition(|hub| hub.name == used);
    dying.into_iter().for_each(Node::kill);
    let left = &left[0];
    within("a route over the hub that is left", || {
        let moved = |event: &Value| {
            let is_c = event["detail"]["destinations"].as_array().unwrap().iter().any(|to| to["name"] == "c");
            is_c && event["detail"]["from"]["name"] == used && event["detail"]["to"]["name"] == left.name.as_str()
        };
        moves(fleet, "a", "route").iter().any(moved)
    });
    within("the end of the link", || moves(fleet, "a", "link down").iter().any(|event| event["name"] == used));
    for kind in ["route", "link up", "link down", "suspect", "reached", "unreached", "seeks", "dial failed"] {
        let all = moves(fleet, "a", kind);
        let has_cause = |event: &Value| event["detail"]["reason"].as_str().is_some_and(|reason| !reason.is_empty());
        assert!(all.iter().all(has_cause), "{all:?}");
    }
    let told = fleet.cli("a", &["events", "--last", "100"]);
    let line = told.ok().lines().find(|line| line.contains("link down") && line.contains(&used));
    assert!(line.is_some(), "{}", told.out);

    // The dead hub's own words are all that speaks for its links.
    within("the dead hub's links do not count", || {
        let counted: Vec<_> = links(left).into_iter().filter(|(_, state)| state == "up").collect();
        let mut ends = [a, c].map(|leaf| {
            if leaf.name < left.name { [&*leaf.name, &left.name] } else { [&*left.name, &leaf.name] }.concat()
        });
        ends.sort();
        counted == up(&ends.each_ref().map(String::as_str))
    });
    let graph = left.get("/v1/graph");
    assert_eq!(named(&graph["nodes"], &used)["state"], "away");
    let one_sided = graph["links"].as_array().unwrap().iter().filter(|link| link["state"] == "one-sided");
    assert!(one_sided.clone().all(|link| link["said_by"] == json!([used])), "{graph}");
    assert!(graph["links"].as_array().unwrap().iter().all(|link| link["state"] != "up" || link["cut_off"] == 1));

    // All hangs on the hub that is left.
    within("a warning", || {
        let checks = fleet.cli("a", &["doctor", "-o", "json"]).json();
        ["reach", "second path", "bridge"].iter().all(|name| check(&checks, name)["verdict"] == "warn")
    });
    let table = fleet.cli("a", &["doctor"]);
    assert!(table.ok().contains(&format!("{} (1)", left.name)), "{}", table.out);
}

#[track_caller]
fn check<'a>(checks: &'a Value, name: &str) -> &'a Value {
    let found = checks.as_array().unwrap().iter().find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("no check of the {name} in {checks}"))
}

#[test]
fn a_doctor_of_nodes_that_are_well_cut_off_and_down() {
    let (fleet, a, b) = Fleet::pair();
    let doctor = |name: &str| -> Value {
        // Its answer may be negative.
        serde_json::from_str(&fleet.cli(name, &["doctor", "-o", "json"]).out).unwrap()
    };
    let is = |name: &str, of: &str, verdict: &str| check(&doctor(name), of)["verdict"] == verdict;
    within("clocks that agree, seen ports and addresses", || {
        let checks = ["clock", "nat", "reach", "second path"];
        let on_b = checks.iter().all(|of| is("b", of, "ok")) || checks.iter().all(|of| is("a", of, "ok"));
        on_b && (is("a", "ports", "ok") || is("b", "ports", "ok"))
    });
    let names: Vec<String> =
        doctor("a").as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap().to_owned()).collect();
    let expected = [
        "node",
        "data folder",
        "free space",
        "root key",
        "membership",
        "offline switch",
        "ports",
        "clock",
        "mtu",
        "nat",
        "reach",
        "second path",
        "bridge",
    ];
    assert_eq!(names, expected);
    let root_key = doctor("a");
    assert!(check(&root_key, "root key")["hint"].as_str().unwrap().starts_with("mv "), "{root_key}");

    fleet.cli("b", &["node", "offline"]).ok();
    within("a node that is cut off", || is("b", "offline switch", "warn"));
    // Who reaches nobody is not well.
    let cut_off = fleet.cli("b", &["doctor"]);
    assert_eq!(cut_off.code, 1, "{cut_off:?}");
    assert!(cut_off.err.contains("error: what fails: reach") && cut_off.err.contains("hint: "), "{cut_off:?}");
    assert!(cut_off.out.contains("hint: fleetsync node online"), "{cut_off:?}");

    let key = b.folder.join("device.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let folder = b.folder.clone();
    drop(b);
    let down = fleet.cli("b", &["doctor", "-o", "json"]);
    assert_eq!(down.code, 1, "{down:?}");
    let checks: Value = serde_json::from_str(&down.out).unwrap();
    assert_eq!(check(&checks, "node")["verdict"], "fail");
    assert_eq!(check(&checks, "data folder")["hint"], format!("chmod 600 {}/device.key", folder.display()));
    assert_eq!(check(&checks, "offline switch")["verdict"], "warn");
    assert_eq!(check(&checks, "ports")["verdict"], "ok");
    let mut taken = fleet.command("b", &["doctor", "-o", "json"]);
    taken.env("FLEETSYNC_PORT", a.port().to_string());
    let taken: Value = serde_json::from_str(&crate::fleet::run(&mut taken).out).unwrap();
    assert_eq!(check(&taken, "ports")["verdict"], "fail", "{taken}");
    let nowhere = fleet.cli("nobody", &["doctor"]);
    assert_eq!(nowhere.code, 1, "{nowhere:?}");
    assert!(nowhere.out.contains("is not the folder of a member"), "{nowhere:?}");
}

/// Reads lines of a command that goes on, then interrupts it: it ends well.
fn watched(mut command: Command, lines: usize) -> Vec<String> {
    let mut child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let read: Vec<String> = out.lines().take(lines).map(Result::unwrap).collect();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = crate::fleet::wait_for(crate::fleet::DEADLINE, || child.try_wait().unwrap());
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    read
}

#[test]
fn watches_print_again_and_end_when_interrupted() {
    let fleet = Fleet::found("a");
    let _a = fleet.run("a");
    let lines = watched(fleet.command("a", &["status", "--watch", "-o", "json"]), 2);
    let looks: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(looks.iter().all(|look| look["name"] == "a"), "{looks:?}");
    let lines = watched(fleet.command("a", &["peer", "ls", "--watch", "-o", "json"]), 2);
    assert_eq!(lines, ["[]", "[]"]);
    // Blocks, each with the time, without a word for the terminal.
    let lines = watched(fleet.command("a", &["peer", "ls", "--watch"]), 6);
    let heads = lines.iter().filter(|line| line.starts_with("PEER")).count();
    assert!(heads == 2 && lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
}
