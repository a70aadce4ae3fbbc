//! A heal without a cursor: how many round trips it takes, and that what both sides lack comes once.

use super::cluster::{Cluster, Crash};
use super::compare::{pair_with, write_config};
use crate::schema::{Kind, Value};
use crate::sync::Input;
use crate::sync::frame::{CHANGES, Frame, Items, Place, Ranges};

const HELLO: u8 = 1;
const RANGES_FRAME: u8 = 14;
const REQUEST: u8 = 15;
const WANT: u8 = 16;
const PLACE: u8 = 19;
const PARTS: u8 = 20;
const ITEMS: u8 = 21;
const DIFFERENCE: u8 = 22;
/// One way.
const DELAY_MS: u64 = 50;

/// Two nodes with many documents, ten of which both have written to; both start anew after a crash.
fn crashed(documents: usize, seed: u64) -> Cluster {
    let mut cluster = pair_with(documents, seed);
    write_some(&mut cluster, 2);
    cluster.cut_all();
    for number in 0..2 {
        cluster.crash(number, Crash::Process);
        cluster.restart(number);
    }
    cluster.delay_ms = (DELAY_MS, DELAY_MS);
    cluster
}

/// Each node writes to five documents, in logs of its own.
fn write_some(cluster: &mut Cluster, value: i64) {
    (0..10).for_each(|number| write_config(cluster, number % 2, number, value));
    cluster.run_until_quiescent();
}

/// How long after the link came up both have the same, milliseconds.
fn heals_after(cluster: &mut Cluster) -> u64 {
    let before = cluster.now;
    cluster.connect_all();
    while cluster.root(0) != cluster.root(1) {
        cluster.run_for(1);
        assert!(cluster.now.0 - before.0 < 20_000_000, "they never heal");
    }
    (cluster.now.0 - before.0) / 1000
}

/// The comparison begins beside the `Hello`, and who answers it sends what it carries itself: two round trips until who
/// began has everything, and two and a half until the other one has, which asks for it.
#[test]
fn two_crashed_nodes_heal_within_two_and_a_half_round_trips() {
    let mut cluster = crashed(300, 31);
    write_some(&mut cluster, 3);
    let (copies, wants) = (cluster.frames(CHANGES), cluster.frames(WANT));
    let after = heals_after(&mut cluster);
    assert!(after <= 5 * DELAY_MS + 10, "{after} ms");
    cluster.run_until_quiescent();
    assert_eq!((cluster.frames(CHANGES) - copies, cluster.frames(WANT) - wants), (10, 1), "each change came once");
    cluster.assert_converged();
}

/// A comparison that turns out not to be needed costs its first frame.
#[test]
fn equal_roots_end_what_was_opened() {
    let mut cluster = crashed(300, 32);
    let kinds = [RANGES_FRAME, ITEMS, DIFFERENCE, REQUEST];
    let before = kinds.map(|kind| cluster.frames(kind));
    cluster.connect_all();
    cluster.run_until_quiescent();
    let sent: Vec<usize> = kinds.iter().zip(before).map(|(kind, before)| cluster.frames(*kind) - before).collect();
    assert_eq!(sent, [1, 0, 0, 0]);
    assert!(cluster.nodes.iter().all(|node| node.engine.links().all(|link| link.is_ready)));
}

/// Whoever has few items says them all, whatever the other one has opened.
#[test]
fn who_has_little_says_all_of_it() {
    let mut cluster = pair_with(3, 36);
    cluster.cut_all();
    cluster.crash(0, Crash::Process);
    cluster.restart(0);
    (0..300).for_each(|number| write_config(&mut cluster, 0, number, 2));
    cluster.write(1, Kind::Device, "a", Value::Int(1));
    cluster.run_until_quiescent();
    cluster.nodes.iter_mut().for_each(|node| node.frames.clear());
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    let sent = |number: usize, kind| cluster.nodes[number].frames.get(&kind).copied().unwrap_or(0);
    assert_eq!([sent(0, RANGES_FRAME), sent(1, RANGES_FRAME)], [1, 1]);
    assert_eq!([sent(0, ITEMS), sent(1, ITEMS), sent(0, PARTS) + sent(1, PARTS)], [0, 1, 0]);
    cluster.assert_converged();
}

/// A long list of items is answered part by part.
#[test]
fn items_are_answered_as_they_come() {
    let mut cluster = pair_with(300, 33);
    let link = cluster.link_to(0, 1).unwrap();
    let place = Place { generation: 1, position: 0 };
    let ranges = Frame::Ranges(Ranges { number: 1, place, prints: vec![] });
    let items = |buckets, is_last| Frame::Items(Items { number: 1, buckets, is_last });
    let mut differences = vec![cluster.nodes[0].frames.get(&DIFFERENCE).copied().unwrap_or(0)];
    for frame in [ranges, items(vec![(2000, vec![])], false), items(vec![(2000, vec![])], true)] {
        cluster.input(0, Input::Frame { link, channel: frame.channel(), bytes: frame.encode() });
        differences.push(cluster.nodes[0].frames.get(&DIFFERENCE).copied().unwrap_or(0));
    }
    let told: Vec<usize> = differences.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(told, [0, 1, 1], "of the buckets below the first part's last one, and of the others");
}

/// What the answering side does not carry itself is asked for: on many links a push would cost as many copies.
#[test]
fn only_what_it_carries_itself_is_pushed() {
    let mut cluster = Cluster::new(3, 34);
    (0..300).for_each(|number| write_config(&mut cluster, 0, number, 1));
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.cut_all();
    cluster.write(2, Kind::Device, "a", Value::Int(1));
    cluster.connect(1, 2);
    cluster.run_until_quiescent();
    cluster.write(2, Kind::Device, "a", Value::Int(2));
    cluster.run_until_quiescent();
    cluster.cut_all();
    cluster.crash(0, Crash::Process);
    cluster.restart(0);
    let (wants, copies) = (cluster.frames(WANT), cluster.frames(CHANGES));
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    assert_eq!((cluster.frames(WANT) - wants, cluster.frames(CHANGES) - copies), (1, 1), "asked of who relays it");
    cluster.connect(0, 2);
    cluster.run_until_quiescent();
    cluster.assert_converged();
}

/// `Ranges` stands between `Hello` and `Place` on the control stream, so that the other side knows of it before it chooses.
#[test]
fn an_opening_stands_before_the_place() {
    let mut cluster = crashed(300, 35);
    write_config(&mut cluster, 0, 1, 7);
    cluster.run_until_quiescent();
    cluster.connect(0, 1);
    let kinds: Vec<u8> = std::iter::from_fn(|| cluster.take_frame_to(1)).map(|frame| frame[0]).take(3).collect();
    assert_eq!(kinds, [HELLO, RANGES_FRAME, PLACE]);
}
