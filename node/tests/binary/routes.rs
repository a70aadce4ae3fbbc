//! Ways over other devices: two leaves that only dial, and two hubs between them.

use std::process::Command;

use serde_json::{Value, json};

use crate::fleet::{Fleet, Node, config, within};

/// The names along a way.
fn path(way: &Value) -> Vec<String> {
    let hops = way["path"].as_array().unwrap().iter();
    hops.map(|hop| hop["name"].as_str().unwrap().to_owned()).collect()
}

fn ways(node: &Node, to: &str) -> Vec<Vec<String>> {
    node.get(&format!("/v1/routes/{to}"))["ways"].as_array().unwrap().iter().map(path).collect()
}

/// Sends a signal. One that was told to stop stands still afterwards: on a busy machine its threads go on for a moment.
fn signal(node: &Node, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), node.pid().to_string()]).status().unwrap();
    assert!(sent.success());
    within("all threads stand still", || name != "STOP" || threads(node).iter().all(|state| state == "T"));
}

/// The states of all threads, as in proc(5).
fn threads(node: &Node) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    // The name, in parentheses, may have spaces.
    let state = |stat: String| Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned());
    stats.filter_map(state).collect()
}

/// A fleet of the hubs h and i and the leaves a and c, which are linked with both hubs and cannot reach one another.
pub(crate) fn two_hubs() -> (Fleet, [Node; 4]) {
    let fleet = Fleet::found("h");
    let h = fleet.run("h");
    ["i", "a", "c"].into_iter().for_each(|name| fleet.join(&h, name));
    let i = fleet.run("i");
    let dials = |name| fleet.spawn(name, fleet.command(name, &["run", "--listen", "none"])).ready();
    let [a, c] = ["a", "c"].map(dials);
    // The ends of a link know it one after the other.
    within("all links that there can be", || {
        [&h, &i].iter().all(|hub| hub.links() == 3) && [&a, &c].iter().all(|leaf| leaf.links() == 2)
    });
    (fleet, [h, i, a, c])
}

#[test]
fn a_leaf_knows_two_ways_to_another_and_changes_take_what_is_left() {
    let (fleet, [h, i, a, c]) = two_hubs();
    // On one machine a way over both hubs may seem as short as one over one of them.
    let both = |node: &Node, to: &str| {
        let ways = ways(node, to);
        let begins = |with: &str| ways.iter().filter(|way| way[0] == with).count() == 1;
        begins("h") && begins("i") && ways.iter().all(|way| way.last().is_some_and(|end| end == to))
    };
    within("two ways", || both(&a, "c") && both(&c, "a"));
    // What a link costs is known better after some probes.
    let has = |shown: &Value| {
        let way = &shown["ways"][0];
        let sum: f64 = way["path"].as_array().unwrap().iter().map(|hop| hop["cost_ms"].as_f64().unwrap()).sum();
        (sum - way["cost_ms"].as_f64().unwrap()).abs() < 0.01 && shown["ways"][1]["parent"] == true
    };
    within("a way of which the links add up, and a backup", || has(&a.get("/v1/routes/c")));
    let shown = fleet.cli("a", &["route", "show", "c", "-o", "json"]).json();
    let next = &shown["ways"][0];
    assert_eq!((&shown["name"], &next["role"], &next["parent"]), (&json!("c"), &json!("next hop"), &json!(true)));
    let table = fleet.cli("a", &["route", "show", "c"]);
    assert!(table.ok().contains("next hop") && table.ok().contains("backup"), "{}", table.ok());

    // The hub that is used stands still: it is left at once, for changes too, and used again when it goes on.
    let (used, left) = if ways(&a, "c")[0][0] == "h" { (&h, &i) } else { (&i, &h) };
    let state = |name: &str| {
        let peers = a.get("/v1/peers");
        peers.as_array().unwrap().iter().find(|peer| peer["name"] == name).unwrap()["state"].clone()
    };
    signal(used, "STOP");
    within("the link is left while it stands", || {
        let is_left = ways(&a, &used.name).iter().all(|way| way[0] != used.name);
        is_left && state(&used.name) == "suspect"
    });
    within("the frozen hub is left", || ways(&a, "c") == [[left.name.as_str(), "c"]]);
    fleet.cli("c", &["config", "set", "camera", "gain", "2"]).ok();
    within("a change past it", || config(&a, "camera", "gain") == Some(json!(2)));
    signal(used, "CONT");
    within("both hubs again", || both(&a, "c") && both(&c, "a") && state(&used.name) == "up");

    // The hub that is used dies: the other one takes its place, for changes too.
    let (used, left) = if ways(&a, "c")[0][0] == "h" { (h, i) } else { (i, h) };
    let left_over = [left.name.clone(), "c".to_owned()];
    used.kill();
    within("the way that is left", || ways(&a, "c") == [left_over.clone()]);
    fleet.cli("c", &["config", "set", "camera", "gain", "3"]).ok();
    within("a change over it", || config(&a, "camera", "gain") == Some(json!(3)));

    left.kill();
    within("no way", || ways(&a, "c").is_empty());
    fleet.cli("a", &["route", "show", "c"]).fails(1, &["no way to c is known", "hint: fleetsync peer ls"]);
    fleet.cli("a", &["route", "show", "nobody"]).fails(4, &["nobody"]);
    fleet.cli("a", &["route", "show", "a"]).ok();
}

/// A question to a device that no link leads to goes over others, past one that stands still, and says over whom it went.
#[test]
fn devices_answer_over_others() {
    let (fleet, [h, i, a, c]) = two_hubs();
    let over = |answer: &Value| -> Vec<String> {
        let hops = answer["hops"].as_array().unwrap().iter();
        hops.map(|hop| hop["name"].as_str().unwrap().to_owned()).collect()
    };
    let is_over = |hops: &[String]| hops.len() >= 2 && hops.last().is_some_and(|last| last == "c");
    within("an answer", || fleet.cli("a", &["peer", "ping", "c", "--count", "1"]).code == 0);
    let pinged = fleet.cli("a", &["peer", "ping", "c", "--interval", "1", "-o", "json"]).json();
    assert_eq!((&pinged["name"], &pinged["asked"], &pinged["answered"]), (&json!("c"), &json!(3), &json!(3)));
    assert!(pinged["answers"].as_array().unwrap().iter().all(|answer| is_over(&over(answer))), "{pinged}");
    let table = fleet.cli("a", &["peer", "ping", "c", "--count", "1"]);
    assert!(table.ok().contains("c answers: ") && table.ok().contains("1 of 1 answered"), "{}", table.ok());

    // What the device itself says, page by page, is what it has.
    let own = c.get("/v1/devices/c");
    let live = a.get("/v1/devices/c?live=true");
    assert!(is_over(&over(&live["live"])), "{live}");
    let paths = |of: &Value| of["facts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&own), paths(&live));
    assert!(live["facts"].as_object().unwrap().values().all(|fact| fact["view"] == "c" && fact["author"] == "c"));
    let mark = fleet.cli("a", &["device", "get", "c", "collector.source", "--live", "-o", "json"]).json();
    assert_eq!((&mark["value"], &mark["view"]), (&own["facts"]["collector.source"]["value"], &json!("c")));
    fleet.cli("a", &["device", "get", "c", "no.such", "--live"]).fails(4, &["no.such"]);

    assert!(fleet.cli("a", &["peer", "ping", "a", "--count", "1"]).ok().contains("this device"));

    // The hub that is used stands still while a question is on its way over it.
    within("both hubs are used", || ways(&a, "c").len() == 2 && ways(&c, "a").len() == 2);
    let (used, left) = if ways(&a, "c")[0][0] == "h" { (&h, &i) } else { (&i, &h) };
    signal(used, "STOP");
    let past = a.get("/v1/ping/c");
    assert_eq!(over(&past), [left.name.as_str(), "c"], "{past}");
    signal(left, "STOP");
    fleet
        .cli("a", &["peer", "ping", "c", "--count", "1"])
        .fails(1, &["the device does not answer", "no way of at most 8 links", "hint: fleetsync route show c"]);
    signal(used, "CONT");
    signal(left, "CONT");
    within("an answer again", || fleet.cli("a", &["peer", "ping", "c", "--count", "1"]).code == 0);
    fleet.cli("a", &["peer", "ping", "nobody"]).fails(4, &["nobody"]);
}

/// What is announced of a link is measured, and an idle link is announced once.
#[test]
fn links_are_measured_and_announced() {
    let (fleet, a, b) = Fleet::pair();
    let said = |node: &Node, peer: &str, field: &str| {
        let view = node.get(&format!("/v1/document?document=link/{}", node.name));
        let id =
            node.get("/v1/devices").as_array().unwrap().iter().find(|device| device["name"] == peer).unwrap()["device"]
                .clone();
        view["values"][format!("neighbour.{}.{field}", id.as_str().unwrap())]["value"].clone()
    };
    within("both ends say it", || {
        [(&a, "b"), (&b, "a")].iter().all(|(node, peer)| said(node, peer, "rtt_microsecond").is_u64())
    });
    assert_eq!(said(&a, "b", "kind"), json!("lan"));
    within("a way", || ways(&a, "b") == [["b"]]);
    let peers = fleet.cli("a", &["peer", "ls", "-o", "json"]).json();
    let measured = &peers[0]["measured"];
    assert!(measured["rtt_ms"].as_f64().unwrap() < 1_000.0 && measured["metered"] == false, "{peers}");
    assert!(measured["cost_ms"].as_f64().unwrap() >= 0.5, "{peers}");
    // Where there are others, a way over one of them may seem as short on one machine.
    assert!(fleet.cli("a", &["peer", "ping", "b", "--count", "1"]).ok().contains("directly"));
    drop(b);
}
