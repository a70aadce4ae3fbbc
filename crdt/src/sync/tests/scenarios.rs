//! Single stories, each with the behaviour that it pins down.

use super::cluster::{Cluster, Crash, config_document};
use super::fleet::key_of;
use crate::roster::Standing;
use crate::schema::{Kind, Value};
use crate::statement::{Assigned, Body, Pin, Removal};
use crate::store::Table;
use crate::sync::{Input, LinkId, Reply};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn two_nodes_converge() {
    let mut cluster = Cluster::new(2, 1);
    cluster.write(0, Kind::Device, "hardware.model", text("pi"));
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.assert_converged();
    cluster.write(1, Kind::Device, "hardware.model", text("gpu"));
    cluster.set(0, 0, "exposure.mode", Some(text("auto")));
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let view = cluster.view(1, &config_document());
    assert_eq!(view["exposure.mode"].read.value, text("auto"));
    assert_eq!(view["exposure.mode"].read.author, key_of(&cluster.fleet.operators[0]));
    assert_eq!(view["exposure.mode"].read.carrier, cluster.device(0));
}

#[test]
fn equal_replicas_exchange_only_hello() {
    let mut cluster = Cluster::new(2, 2);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.cut(0, 1);
    let before = cluster.nodes[0].payload_bytes;
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    let hello = cluster.nodes[0].payload_bytes - before;
    assert!(hello < 2_000, "{hello} bytes on an equal reconnect");
    cluster.assert_converged();
}

#[test]
fn edits_on_both_sides_of_a_cut_merge_and_show() {
    let mut cluster = Cluster::new(3, 3);
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.cut(0, 2);
    cluster.cut(1, 2);
    cluster.set(0, 0, "gain", Some(Value::Int(1)));
    cluster.set(2, 1, "gain", Some(Value::Int(2)));
    cluster.set(0, 0, "left", Some(Value::Bool(true)));
    cluster.set(2, 1, "right", Some(Value::Bool(true)));
    cluster.run_until_quiescent();
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let view = cluster.view(1, &config_document());
    assert_eq!(view["gain"].others.len(), 1, "both values are shown");
    assert_eq!(view.len(), 3);
    cluster.set(1, 0, "gain", Some(Value::Int(3)));
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let view = cluster.view(2, &config_document());
    assert_eq!((view["gain"].read.value.clone(), view["gain"].others.len()), (Value::Int(3), 0));
}

#[test]
fn a_chain_relays() {
    let mut cluster = Cluster::new(5, 4);
    for number in 0..4 {
        cluster.connect(number, number + 1);
    }
    for number in 0..5 {
        cluster.write(number, Kind::Resource, "cpu.cores", Value::Uint(number as u64));
    }
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert_eq!(cluster.nodes[4].engine.replica().logs().documents().len(), 5);
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    for crash in [Crash::Process, Crash::Power] {
        let mut cluster = Cluster::new(3, 7);
        cluster.connect_all();
        cluster.run_until_quiescent();
        for value in 0..10 {
            cluster.write(0, Kind::Resource, "load", Value::Int(value));
            cluster.set(0, 0, "x", Some(Value::Int(value)));
            cluster.run_for(2);
        }
        cluster.crash(0, crash);
        cluster.set(1, 1, "y", Some(Value::Int(1)));
        cluster.run_until_quiescent();
        cluster.restart(0);
        cluster.connect_all();
        cluster.run_until_quiescent();
        cluster.write(0, Kind::Resource, "load", Value::Int(99));
        cluster.run_until_quiescent();
        cluster.assert_converged();
    }
}

#[test]
fn prepared_changes_that_lose_the_race_conflict_and_resubmission_is_idempotent() {
    let mut cluster = Cluster::new(1, 8);
    let author = key_of(&cluster.fleet.operators[0]);
    let prepare = |cluster: &mut Cluster, value| {
        let edits = vec![crate::sync::Edit { path: "a".to_owned(), value: Some(Value::Int(value)) }];
        let document = config_document();
        let request = cluster.request(0, |request| Input::Prepare { request, document, author, edits });
        match cluster.nodes[0].replies[&request].clone() {
            Reply::Prepared(change) => *change,
            other => panic!("{other:?}"),
        }
    };
    let submit = |cluster: &mut Cluster, change: crate::change::PreparedChange| {
        let chain = change.chain_before.next(&change.hash().unwrap());
        let actor = change.log.actor(&cluster.fleet.id);
        let signature = crate::change::sign(&cluster.fleet.operators[0], &cluster.fleet.id, &actor, change.seq, &chain);
        let request = cluster.request(0, |request| Input::Submit { request, change: Box::new(change), signature });
        cluster.run_until_quiescent();
        cluster.nodes[0].replies[&request].clone()
    };
    let (first, second) = (prepare(&mut cluster, 1), prepare(&mut cluster, 2));
    assert!(matches!(submit(&mut cluster, first.clone()), Reply::Written { seq: 1, .. }));
    assert!(matches!(submit(&mut cluster, first), Reply::Written { seq: 1, .. }));
    assert!(matches!(submit(&mut cluster, second), Reply::Conflict(..)));
    assert_eq!(cluster.view(0, &config_document())["a"].read.value, Value::Int(1));
}

#[test]
fn a_path_that_cannot_nest_is_refused() {
    let mut cluster = Cluster::new(1, 9);
    cluster.set(0, 0, "exposure.mode", Some(text("auto")));
    cluster.run_until_quiescent();
    for path in ["exposure", "exposure.mode.fast", "", "a..b"] {
        assert!(matches!(cluster.set(0, 0, path, Some(text("x"))), Reply::Refused(_)), "{path:?}");
    }
    assert_eq!(cluster.set(0, 0, "exposure.mode", Some(text("auto"))), Reply::Unchanged);
}

#[test]
fn a_removed_device_leaves_roots_and_views_everywhere() {
    let mut cluster = Cluster::new(3, 10);
    cluster.connect_all();
    cluster.write(2, Kind::Device, "a", Value::Int(1));
    cluster.run_until_quiescent();
    assert_eq!(cluster.nodes[0].engine.replica().logs().documents().len(), 1);
    cluster.cut(1, 2);
    cluster.cut(0, 2);
    cluster.write(2, Kind::Device, "a", Value::Int(2));
    let removal = Removal { device: cluster.device(2), reason: "stolen".to_owned() };
    let statements = vec![cluster.fleet.sign(Body::Removal(removal))];
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    cluster.connect_all();
    cluster.run_until_quiescent();
    assert!(!cluster.is_connected(0, 2) && !cluster.is_connected(1, 2));
    cluster.crash(2, Crash::Process);
    cluster.assert_converged();
    assert!(cluster.nodes[1].engine.replica().logs().documents().is_empty());
    assert!(cluster.nodes[1].store.rows(Table::Stranded).count() > 0, "what it wrote is kept");
}

/// What a removed device's logs were called on a link stands for no other log afterwards.
#[test]
fn other_logs_take_the_place_of_those_that_are_gone() {
    let mut cluster = Cluster::new(4, 14);
    (0..3).for_each(|node| cluster.connect(node, node + 1));
    for kind in [Kind::Device, Kind::Link] {
        cluster.write(3, kind, "a", Value::Int(1));
    }
    cluster.run_until_quiescent();
    let removal = Removal { device: cluster.device(3), reason: "stolen".to_owned() };
    let statements = vec![cluster.fleet.sign(Body::Removal(removal))];
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    cluster.crash(3, Crash::Process);
    for kind in [Kind::Environment, Kind::Resource, Kind::Device] {
        cluster.write(0, kind, "a", Value::Int(2));
        cluster.write(2, kind, "a", Value::Int(3));
        cluster.run_until_quiescent();
    }
    cluster.assert_converged();
    assert_eq!(cluster.nodes[1].engine.replica().logs().len(), 6);
    assert!(cluster.nodes[1].audit.is_empty() && cluster.nodes[1].closed.is_empty(), "{:?}", cluster.nodes[1].audit);
}

/// Two devices used one ticket on two sides of a cut: neither counts until a pin says which, in any order.
#[test]
fn a_ticket_that_was_used_twice_needs_a_pin() {
    let mut cluster = Cluster::new(3, 11);
    let one_time = ed25519_dalek::SigningKey::from_bytes(&[44; 32]);
    let first = cluster.fleet.entry(&one_time, &cluster.fleet.devices[2], "twice");
    let thief = ed25519_dalek::SigningKey::from_bytes(&[45; 32]);
    let second = cluster.fleet.entry(&one_time, &thief, "twice");
    let stolen = key_of(&thief).device();
    for (number, entry) in [(0, &second), (1, &first)] {
        let statements = entry.iter().map(|signed| signed.parts()).collect();
        cluster.request(number, |request| Input::Statements { request, statements });
    }
    assert_eq!(cluster.nodes[0].engine.replica().standing(&stolen), Standing::Member);
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert_eq!(cluster.nodes[0].engine.replica().standing(&stolen), Standing::Contested);
    let pin = Pin { invitation: key_of(&one_time), admission: second[1].id() };
    let statements = vec![cluster.fleet.sign(Body::Pin(pin))];
    cluster.request(1, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert_eq!(cluster.nodes[2].engine.replica().standing(&stolen), Standing::Member);
}

/// What a contested device writes waits outside the root, and counts once it is pinned.
#[test]
fn a_pin_brings_back_what_was_stranded() {
    let mut cluster = Cluster::new(2, 12);
    cluster.connect(0, 1);
    cluster.write(1, Kind::Device, "a", Value::Int(1));
    cluster.run_until_quiescent();
    let one_time = cluster.fleet.one_time(1);
    let thief = ed25519_dalek::SigningKey::from_bytes(&[45; 32]);
    let statements = cluster.fleet.entry(&one_time, &thief, "node-1").iter().map(|signed| signed.parts()).collect();
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    assert!(cluster.nodes[0].engine.replica().logs().documents().is_empty());
    cluster.assert_converged();
    cluster.write(1, Kind::Device, "a", Value::Int(2));
    cluster.run_until_quiescent();
    let device = cluster.device(1);
    let admission = cluster.nodes[0].engine.replica().roster().admission_of(&device).unwrap().0.signed.id();
    let pin = Pin { invitation: key_of(&one_time), admission };
    let statements = vec![cluster.fleet.sign(Body::Pin(pin))];
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    cluster.write(1, Kind::Device, "a", Value::Int(3));
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let document = crate::schema::DocumentName::of_device(Kind::Device, &device);
    assert_eq!(cluster.view(0, &document)["a"].read.value, Value::Int(3));
}

#[test]
fn a_lost_tail_is_found_by_comparing_roots() {
    let mut cluster = Cluster::new(2, 13);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.write(0, Kind::Device, "a", Value::Int(1));
    cluster.run_until_quiescent();
    cluster.write(0, Kind::Device, "a", Value::Int(2));
    cluster.lose_everything_on_its_way();
    cluster.run_until_quiescent();
    assert_ne!(cluster.root(0), cluster.root(1));
    cluster.run_for(130_000);
    cluster.assert_converged();
}

/// Who greets and then answers no probe is let go; who has answered one is the driver's to watch.
#[test]
fn a_silent_peer_is_let_go() {
    let mut cluster = Cluster::new(2, 14);
    cluster.connect(0, 1);
    const PROBE: u8 = 9;
    while !cluster.nodes[0].frames.contains_key(&PROBE) {
        cluster.run_for(1);
    }
    cluster.freeze(1);
    cluster.run_for(11_000);
    assert!(!cluster.is_connected(0, 1));
    assert_eq!(cluster.nodes[0].closed, ["the peer is silent"]);
}

#[test]
fn links_are_measured_by_who_asks_for_it() {
    let mut cluster = Cluster::new(2, 14);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    assert!(cluster.nodes[0].engine.links().all(|link| link.rtt_micros.is_some_and(|rtt| rtt >= 2_000)));
    cluster.nodes[0].round_trips.clear();
    let link = cluster.nodes[0].engine.links().next().expect("one link").link;
    cluster.input(0, Input::Probe(link));
    cluster.input(0, Input::Probe(LinkId(999)));
    cluster.run_for(100);
    assert!(matches!(cluster.nodes[0].round_trips[..], [rtt] if rtt >= 2_000), "who asks is told what a probe took");
    cluster.freeze(1);
    cluster.run_for(60_000);
    assert!(cluster.nodes[0].closed.is_empty() && cluster.is_connected(0, 1));
}

/// Wall clocks are claims: a clock that jumps by years either way changes no order and blocks nothing.
#[test]
fn a_wall_clock_that_jumps_decides_nothing() {
    let mut cluster = Cluster::new(2, 15);
    cluster.connect(0, 1);
    for (value, millis) in [(1, 4_102_444_800_000), (2, 0), (3, u64::MAX), (4, 1_700_000_000_000)] {
        cluster.input(0, Input::WallClock(millis));
        cluster.write(0, Kind::Device, "a", Value::Int(value));
        cluster.set(0, 0, "x", Some(Value::Int(value)));
        cluster.run_until_quiescent();
        assert_eq!(cluster.view(1, &config_document())["x"].read.value, Value::Int(value));
    }
    cluster.assert_converged();
}

/// Equal roots in two `Hello`s say what the peers had when they said it, not what was written while they were under way.
#[test]
fn what_is_written_between_two_hellos_arrives() {
    let mut cluster = Cluster::new(2, 16);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.cut(0, 1);
    cluster.connect(0, 1);
    cluster.write(0, Kind::Device, "a", Value::Int(1));
    cluster.set(1, 1, "x", Some(Value::Int(1)));
    let assigned =
        Assigned { device: cluster.device(0), attribute: "label/rack".to_owned(), value: Some("b".to_owned()) };
    let statements = vec![cluster.fleet.sign(Body::Assigned(assigned))];
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert_eq!(cluster.nodes[1].engine.replica().logs().documents().len(), 2);
}

/// More nodes edit one document in a cut than a change may build on: it can be written all the same, and settles.
#[test]
fn a_document_of_many_heads_can_be_written() {
    let mut cluster = Cluster::new(70, 51);
    for number in 0..70 {
        cluster.set(number, 0, "x", Some(Value::Int(number as i64)));
    }
    (1..70).for_each(|number| cluster.connect(0, number));
    cluster.run_until_quiescent();
    assert_eq!(cluster.view(0, &config_document())["x"].others.len(), 69);
    for (left, value) in [(6, 1_000), (0, 2_000)] {
        let number = usize::from(left == 0);
        cluster.set(number, 0, "x", Some(Value::Int(value)));
        cluster.run_until_quiescent();
        let view = cluster.view(2, &config_document());
        assert!(view["x"].others.len() <= left + 1, "{} others", view["x"].others.len());
    }
    cluster.assert_converged();
}
