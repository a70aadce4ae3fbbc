//! Trees: one copy a node, first changes and joins included; what parents' views break, digests mend.

use super::cluster::{Cluster, Crash};
use crate::schema::{Kind, Value};
use crate::statement::{Assigned, Body};
use crate::sync::frame::{Ask, CHANGES, Frame, STATEMENT};
use crate::sync::{Channel, Input, Parents};

/// The types of frames that are counted here.
const ASK: u8 = 11;
const WANT: u8 = 16;

/// Every pair is linked, and nobody has said anything yet.
fn linked(nodes: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(nodes, seed);
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster
}

fn write(cluster: &mut Cluster, number: usize, value: i64) {
    cluster.write(number, Kind::Device, "a", Value::Int(value));
}

/// 0 – 1, and 1 linked to 2 and 3, which are linked: the origin, a node with its changes, and two that know of each other.
fn behind_one(seed: u64, delay_ms: u64) -> Cluster {
    let mut cluster = Cluster::new(4, seed);
    cluster.delay_ms = (delay_ms, delay_ms);
    for (a, b) in [(0, 1), (1, 2), (1, 3), (2, 3)] {
        cluster.connect(a, b);
    }
    cluster.run_until_quiescent();
    cluster
}

#[test]
fn a_change_costs_one_copy_a_node_also_the_first() {
    let mut cluster = linked(8, 21);
    let before = cluster.frames(CHANGES);
    for number in 0..8 {
        write(&mut cluster, number, 1);
        cluster.run_until_quiescent();
    }
    assert_eq!(cluster.frames(CHANGES) - before, 8 * 7);
    cluster.assert_converged();
    for value in 2..12 {
        write(&mut cluster, 3, value);
        cluster.run_for(3);
    }
    cluster.run_until_quiescent();
    assert_eq!(cluster.frames(CHANGES) - before, 8 * 7 + 10 * 7);
    assert_eq!(cluster.frames(WANT), 0, "nothing had to be asked for");
    cluster.assert_converged();
}

#[test]
fn a_statement_goes_along_the_tree_of_the_node_where_it_entered() {
    let mut cluster = linked(8, 22);
    let before = cluster.frames(STATEMENT);
    let assigned =
        Assigned { device: cluster.device(0), attribute: "label/rack".to_owned(), value: Some("b".to_owned()) };
    let statements = vec![cluster.fleet.sign(Body::Assigned(assigned))];
    cluster.request(5, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    assert_eq!(cluster.frames(STATEMENT) - before, 7);
    cluster.assert_converged();
}

/// A device comes with many links at once: it gets one copy of everything.
#[test]
fn a_device_that_joins_gets_everything_once() {
    let mut cluster = Cluster::new(7, 23);
    for a in 0..6 {
        for b in a + 1..6 {
            cluster.connect(a, b);
        }
    }
    for number in 0..6 {
        write(&mut cluster, number, 1);
        cluster.set(number, 0, &format!("p{number}"), Some(Value::Int(1)));
    }
    cluster.run_until_quiescent();
    let (changes, statements) = (cluster.frames(CHANGES), cluster.frames(STATEMENT));
    let known = cluster.nodes[6].engine.replica().roster().entries().len();
    let all = cluster.nodes[0].engine.replica().roster().entries().len();
    (0..6).for_each(|number| cluster.connect(number, 6));
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let fetched = all + 2 - known; // what it lacks; its own admission was not known there
    assert_eq!(cluster.frames(CHANGES) - changes, 12);
    assert!(cluster.frames(STATEMENT) - statements <= fetched + 2 * 6, "{}", cluster.frames(STATEMENT) - statements);
}

/// Two nodes name each other as the way to an origin: neither gets its changes, until a digest of a third mends it,
/// within three round trips and 300 ms.
#[test]
fn parents_that_name_each_other_are_mended_by_digests() {
    for delay_ms in [2, 40, 150] {
        let mut cluster = behind_one(24, delay_ms);
        cluster.set_sources(2, 0, &[3]);
        cluster.set_sources(3, 0, &[2]);
        cluster.run_until_quiescent();
        write(&mut cluster, 0, 1);
        cluster.run_for(1 + delay_ms); // 1 has it now
        assert_eq!(cluster.root(0), cluster.root(1));
        cluster.run_for(3 * 2 * delay_ms + 300);
        assert_eq!([cluster.root(2), cluster.root(3)], [cluster.root(0); 2], "{delay_ms} ms a hop");
        assert!(
            [2, 3].iter().any(|node| cluster.nodes[*node].behind.len() == 1),
            "the mesh hears which link was behind"
        );
        cluster.run_until_quiescent();
        // The loop is gone: the next change comes by itself, once to each.
        let copies = cluster.frames(CHANGES);
        write(&mut cluster, 0, 2);
        cluster.run_for(1 + 3 * delay_ms);
        assert_eq!([cluster.root(2), cluster.root(3)], [cluster.root(0); 2], "{delay_ms} ms a hop");
        cluster.run_until_quiescent();
        assert_eq!(cluster.frames(CHANGES) - copies, 3);
    }
}

/// A change of a known log that a digest told of comes once, from its new parent.
#[test]
fn a_repair_costs_one_copy() {
    let mut cluster = behind_one(31, 10);
    write(&mut cluster, 0, 1);
    cluster.run_until_quiescent();
    // 2 believes in 3, which hears nothing: it asks nobody but 2.
    cluster.set_sources(2, 0, &[3]);
    cluster.set_sources(3, 0, &[2]);
    cluster.run_until_quiescent();
    let copies = cluster.frames(CHANGES);
    write(&mut cluster, 0, 2);
    cluster.run_until_quiescent();
    cluster.assert_converged();
    // One to 1, and one to each of 2 and 3; these two ask each other until 1 has delivered, so one more of each at most.
    let copies = cluster.frames(CHANGES) - copies;
    assert!((3..=5).contains(&copies), "{copies}");
}

/// The parent is alive and has lost its own way to the origin.
#[test]
fn a_parent_that_gets_nothing_itself_is_left() {
    let mut cluster = behind_one(25, 10);
    cluster.set_sources(2, 0, &[3, 1]);
    cluster.set_sources(3, 0, &[1, 2]);
    cluster.run_until_quiescent();
    write(&mut cluster, 0, 1);
    cluster.run_until_quiescent();
    cluster.assert_converged();
    cluster.freeze(3);
    write(&mut cluster, 0, 2);
    cluster.run_for(10 + 3 * 20 + 300);
    assert_eq!(cluster.root(2), cluster.root(0));
}

/// All origins of a lost parent move to their backup with one message, which sends nothing that is here already.
#[test]
fn a_lost_parent_costs_one_message_and_no_copies() {
    const ORIGINS: usize = 12;
    let mut cluster = Cluster::new(ORIGINS + 3, 26);
    let (node, parent, backup) = (ORIGINS, ORIGINS + 1, ORIGINS + 2);
    for origin in 0..ORIGINS {
        cluster.connect(origin, parent);
        cluster.connect(origin, backup);
    }
    cluster.connect(node, parent);
    cluster.connect(node, backup);
    cluster.run_until_quiescent();
    for origin in 0..ORIGINS {
        cluster.set_sources(node, origin, &[parent, backup]);
        write(&mut cluster, origin, 1);
    }
    cluster.run_until_quiescent();
    for origin in 0..ORIGINS {
        write(&mut cluster, origin, 2);
    }
    cluster.run_until_quiescent();
    cluster.assert_converged();
    let (asks, changes) = (cluster.nodes[node].frames[&ASK], cluster.frames(CHANGES));
    cluster.cut(node, parent);
    cluster.run_until_quiescent();
    assert_eq!(cluster.nodes[node].frames[&ASK] - asks, 1);
    assert_eq!(cluster.frames(CHANGES), changes, "it had everything");
    write(&mut cluster, 0, 3);
    cluster.run_for(45);
    assert_eq!(cluster.root(node), cluster.root(0));
}

/// What was on its way when the parent died comes from the backup, at once.
#[test]
fn a_change_that_died_with_the_parent_comes_from_the_backup() {
    let mut cluster = Cluster::new(4, 27);
    for (a, b) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
        cluster.connect(a, b);
    }
    cluster.run_until_quiescent();
    cluster.set_sources(3, 0, &[1, 2]);
    cluster.run_until_quiescent();
    write(&mut cluster, 0, 1);
    cluster.run_for(22); // 1 and 2 have it
    cluster.crash(1, Crash::Power);
    cluster.run_for(45);
    assert_eq!(cluster.root(3), cluster.root(0));
}

/// Two links send the same: the one that was not asked is told so, and falls silent.
#[test]
fn who_sends_what_was_not_asked_is_told_so() {
    let mut cluster = linked(3, 28);
    cluster.set_sources(2, 0, &[1]);
    cluster.run_until_quiescent();
    write(&mut cluster, 0, 1);
    cluster.run_until_quiescent();
    // As if 2 had asked 0 for changes of the origin that it named first.
    let link = cluster.link_to(0, 2).unwrap();
    let ask = Ask { mode: 1, others: false, first: 1, named: Vec::new(), origins: vec![1] };
    cluster.input(0, Input::Frame { link, channel: Channel::Control, bytes: Frame::Ask(ask).encode() });
    cluster.run_until_quiescent();
    for (value, copies) in [(2, 3), (3, 2), (4, 2)] {
        let before = cluster.frames(CHANGES);
        write(&mut cluster, 0, value);
        cluster.run_until_quiescent();
        assert_eq!(cluster.frames(CHANGES) - before, copies, "0 to 1, 1 to 2; and 0 to 2 once");
    }
    cluster.assert_converged();
}

/// An ask that breaks a rule ends the session and changes nothing; one for origins that nobody knows is kept in bounds.
#[test]
fn asks_that_lie() {
    let named = |number: u8| (crate::id::DeviceId([number; 32]), 0);
    let good = Ask { mode: 1, others: false, first: 0, named: vec![named(7), named(8)], origins: vec![3] };
    let breaks = [
        Ask { mode: 0, ..good.clone() },
        Ask { mode: 4, ..good.clone() },
        Ask { first: 1, ..good.clone() },
        Ask { origins: vec![7], ..good.clone() },
        Ask { origins: vec![0, 0, 0x80], ..good.clone() },
    ];
    for ask in breaks {
        let mut cluster = linked(2, 29);
        let link = cluster.link_to(0, 1).unwrap();
        cluster.input(0, Input::Frame { link, channel: Channel::Control, bytes: Frame::Ask(ask).encode() });
        assert_eq!(cluster.nodes[0].closed.len(), 1);
    }
    let mut cluster = linked(2, 30);
    let link = cluster.link_to(0, 1).unwrap();
    for turn in 0..20 {
        let stranger = |number: u32| {
            let mut id = [turn; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            (crate::id::DeviceId(id), 0)
        };
        let first = u32::from(turn) * 1024;
        let ask = Ask { mode: 1, others: false, first, named: (0..1024).map(stranger).collect(), origins: vec![0xff] };
        cluster.input(0, Input::Frame { link, channel: Channel::Control, bytes: Frame::Ask(ask).encode() });
    }
    assert!(cluster.nodes[0].closed.is_empty());
    assert!(cluster.nodes[0].engine.origins.len() < 5_000, "{}", cluster.nodes[0].engine.origins.len());
    write(&mut cluster, 0, 1);
    cluster.run_until_quiescent();
    cluster.assert_converged();
}

/// Twenty origins behind two neighbours: all that is not wanted of a link is muted at once, and only what is wanted is named.
#[test]
fn of_many_origins_only_the_wanted_are_named() {
    const ORIGINS: usize = 20;
    // All but one node know of no parents, and find some twice with other seeds.
    let mut cluster = Cluster::new(ORIGINS + 5, 30);
    let node = ORIGINS + 4;
    for neighbour in ORIGINS..node {
        (0..ORIGINS).for_each(|origin| cluster.connect(origin, neighbour));
        cluster.connect(neighbour, node);
    }
    cluster.run_until_quiescent();
    let sources: Vec<usize> = (ORIGINS..node).collect();
    let parents = (0..ORIGINS).map(|origin| Parents {
        origin: cluster.device(origin),
        sources: sources.iter().map(|source| cluster.device(*source)).collect(),
    });
    let parents = parents.collect();
    cluster.input(node, Input::Parents(parents));
    cluster.run_until_quiescent();
    let muted = cluster.link_to(node, ORIGINS + 3).unwrap();
    let named = |cluster: &Cluster, link| cluster.nodes[node].engine.links[&link].asked.named.len();
    // Of the neighbours themselves some digests are wanted everywhere.
    assert!(named(&cluster, muted) <= 4, "the fourth neighbour is silent about all others");
    assert!(named(&cluster, cluster.link_to(node, ORIGINS).unwrap()) >= ORIGINS);
    let copies = cluster.frames(CHANGES);
    for origin in 0..ORIGINS {
        write(&mut cluster, origin, 1);
    }
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert_eq!(cluster.frames(CHANGES) - copies, ORIGINS * (ORIGINS + 4), "one copy each");
}

/// The whole way of a statement dies while it is under way: the neighbour that was to be silent tells of it when asked.
#[test]
fn what_was_muted_is_told_when_it_is_asked_for() {
    let mut cluster = Cluster::new(6, 33);
    let node = 5;
    for neighbour in 1..5 {
        cluster.connect(0, neighbour);
        cluster.connect(neighbour, node);
    }
    cluster.run_until_quiescent();
    cluster.set_sources(node, 0, &[1, 2, 3]);
    cluster.run_until_quiescent();
    (1..4).for_each(|neighbour| cluster.cut(neighbour, node));
    cluster.run_until_quiescent();
    // As if the cuts were not noticed yet: 4 still believes that it is to be silent about 0.
    let link = cluster.link_to(4, node).unwrap();
    let origin = cluster.device(0);
    let as_if_asked = |cluster: &mut Cluster, mode| {
        let engine = &cluster.nodes[4].engine;
        let named = &engine.links[&link].served.named;
        let number = named.iter().position(|named| engine.origins.device(*named) == origin).expect("it was asked for");
        let mut origins = vec![0; number / 8 + 1];
        origins[number / 8] = 1 << (number % 8);
        let ask = Ask { mode, others: false, first: named.len() as u32, named: Vec::new(), origins };
        cluster.input(4, Input::Frame { link, channel: Channel::Control, bytes: Frame::Ask(ask).encode() });
    };
    as_if_asked(&mut cluster, 3);
    let assigned =
        Assigned { device: cluster.device(0), attribute: "label/rack".to_owned(), value: Some("b".to_owned()) };
    let statements = vec![cluster.fleet.sign(Body::Assigned(assigned))];
    cluster.request(0, |request| Input::Statements { request, statements });
    write(&mut cluster, 0, 1);
    cluster.run_for(100);
    assert_ne!(cluster.root(node), cluster.root(0));
    as_if_asked(&mut cluster, 1);
    cluster.run_for(400);
    let (a, b) = (cluster.nodes[0].engine.replica(), cluster.nodes[node].engine.replica());
    assert_eq!(a.logs().documents(), b.logs().documents());
    assert_eq!(a.roster().entries().len(), b.roster().entries().len());
}

/// A member that claims to have everything and delivers nothing keeps nobody from getting it of others.
#[test]
fn who_claims_everything_and_delivers_nothing_holds_nothing_up() {
    let mut cluster = behind_one(34, 10);
    write(&mut cluster, 0, 1);
    cluster.run_until_quiescent();
    let liar = cluster.link_to(2, 3).unwrap();
    cluster.freeze(3);
    let logs: Vec<_> = cluster.nodes[2].engine.replica().logs().iter().map(|log| (log.actor(), u64::MAX)).collect();
    cluster.input(2, Input::Frame { link: liar, channel: Channel::Control, bytes: Frame::Have(logs).encode() });
    cluster.run_for(1_000);
    for value in 2..5 {
        write(&mut cluster, 0, value);
        cluster.run_for(1_000);
        assert_eq!(cluster.root(2), cluster.root(0));
    }
}
