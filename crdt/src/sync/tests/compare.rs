//! What a comparison costs and finds: equal roots, cursors, ranges, and peers that lie.

use std::collections::BTreeSet;

use super::cluster::{Cluster, Crash};
use super::fleet::key_of;
use crate::change::sign;
use crate::schema::{DocumentName, Kind, Value};
use crate::store::{MemoryStore, Staged};
use crate::sync::frame::{CHANGES, End, Frame, Items, Parts, Place, RANGE_BUCKETS, RANGES, Ranges};
use crate::sync::{Channel, Edit, Input, LinkId, Reply};

const ROOT: u8 = 6;
const RANGES_FRAME: u8 = 14;
const WANT: u8 = 16;
const PLACE: u8 = 19;
const DIFFERENCE: u8 = 22;
const PARTS: u8 = 20;
const FRAGMENT: u8 = 23;
const FIRST: Place = Place { generation: 1, position: 0 };

/// Writes a shared document of its own number through a node.
pub(super) fn write_config(cluster: &mut Cluster, node: usize, number: usize, value: i64) {
    let author = key_of(&cluster.fleet.operators[0]);
    let edits = vec![Edit { path: "a".to_owned(), value: Some(Value::Int(value)) }];
    let document = DocumentName::config(&format!("c{number}")).unwrap();
    let request = cluster.request(node, |request| Input::Prepare { request, document, author, edits });
    let Some(Reply::Prepared(change)) = cluster.nodes[node].replies.get(&request).cloned() else {
        panic!("prepare answers at once");
    };
    let actor = change.log.actor(&cluster.fleet.id);
    let chain = change.chain_before.next(&change.hash().unwrap());
    let signature = sign(&cluster.fleet.operators[0], &cluster.fleet.id, &actor, change.seq, &chain);
    cluster.request(node, |request| Input::Submit { request, change, signature });
}

/// Two linked nodes with `documents` shared documents.
pub(super) fn pair_with(documents: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(2, seed);
    (0..documents).for_each(|number| write_config(&mut cluster, 0, number, 1));
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.assert_converged();
    cluster
}

fn bytes_sent(cluster: &Cluster) -> usize {
    cluster.nodes.iter().map(|node| node.payload_bytes).sum()
}

/// What came over the wires while something happened, by frame type; probes aside.
fn frames_while(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster)) -> BTreeSet<u8> {
    let count = |cluster: &Cluster, kind| cluster.frames(kind);
    let before: Vec<usize> = (0..=255).map(|kind| count(cluster, kind)).collect();
    act(cluster);
    (0..=255u8).filter(|kind| count(cluster, *kind) > before[usize::from(*kind)] && !matches!(kind, 9 | 10)).collect()
}

#[test]
fn equal_replicas_compare_in_64_bytes() {
    let mut cluster = pair_with(3, 1);
    // Round trips are measured at the same moment: 2 probes of 6 bytes and their answers are not the comparison's.
    let before = bytes_sent(&cluster);
    let probes = |cluster: &Cluster| cluster.frames(9) + cluster.frames(10);
    let (roots, places, probed) = (cluster.frames(ROOT), cluster.frames(PLACE), probes(&cluster));
    while cluster.frames(ROOT) == roots {
        cluster.run_for(1_000);
    }
    cluster.run_for(1_000);
    let of_probes = (probes(&cluster) - probed) * 6;
    let spent = bytes_sent(&cluster) - before - of_probes;
    assert!(spent <= 64, "{spent} bytes");
    assert_eq!(cluster.frames(PLACE) - places, 2, "an equal root is answered with a place");
}

#[test]
fn a_reconnect_tells_what_came_since_and_nothing_else() {
    let mut cluster = pair_with(300, 2);
    cluster.run_for(70_000); // an equal root in between makes cursors of all that came since the greeting
    cluster.cut_all();
    (0..20).for_each(|number| write_config(&mut cluster, 0, number, 2));
    cluster.write(1, Kind::Device, "a", Value::Int(3));
    cluster.run_until_quiescent();
    let kinds = frames_while(&mut cluster, |cluster| {
        cluster.connect_all();
        cluster.run_until_quiescent();
    });
    cluster.assert_converged();
    assert!(!kinds.contains(&RANGES_FRAME) && kinds.contains(&DIFFERENCE), "{kinds:?}");
}

#[test]
fn cursors_outlive_a_stop_in_good_order_and_no_crash() {
    for (is_stopped, crash) in [(true, Crash::Process), (true, Crash::Power), (false, Crash::Process)] {
        let mut cluster = pair_with(300, 3);
        cluster.run_for(70_000);
        if is_stopped {
            cluster.cut_all();
            cluster.input(0, Input::Stop);
            cluster.run_until_quiescent();
        }
        cluster.crash(0, crash);
        cluster.restart(0);
        write_config(&mut cluster, 0, 7, 2);
        cluster.run_until_quiescent();
        let kinds = frames_while(&mut cluster, |cluster| {
            cluster.connect_all();
            cluster.run_until_quiescent();
        });
        cluster.assert_converged();
        assert_eq!(kinds.contains(&RANGES_FRAME), !is_stopped, "stopped: {is_stopped}, {crash:?}: {kinds:?}");
    }
}

/// What was told of an order before the power went must not be had for what is told under the same name later.
#[test]
fn an_order_that_lost_its_end_has_another_name() {
    let mut cluster = pair_with(300, 4);
    cluster.run_for(70_000);
    cluster.cut_all();
    cluster.input(0, Input::Stop);
    cluster.run_until_quiescent();
    cluster.crash(0, Crash::Power);
    cluster.restart(0);
    let before = cluster.nodes[0].engine.replica().order();
    write_config(&mut cluster, 0, 7, 2); // synced, as it is acknowledged: the name is gone from the disk
    cluster.run_until_quiescent();
    assert_eq!(cluster.nodes[0].engine.replica().order().generation, before.generation);
    cluster.crash(0, Crash::Power);
    cluster.restart(0);
    assert_ne!(cluster.nodes[0].engine.replica().order().generation, before.generation);
}

#[test]
fn ranges_find_what_differs_on_both_sides() {
    for (documents, seed) in [(3, 5), (100, 6), (600, 7)] {
        let mut cluster = pair_with(documents, seed);
        cluster.cut_all();
        cluster.crash(0, Crash::Process);
        cluster.restart(0);
        cluster.crash(1, Crash::Process);
        cluster.restart(1);
        for number in 0..documents.min(40) {
            write_config(&mut cluster, number % 2, number * documents / documents.min(40), 2);
            write_config(&mut cluster, number % 2, documents + number, 1);
        }
        cluster.write(0, Kind::Device, "a", Value::Int(3));
        cluster.write(1, Kind::Environment, "a", Value::Int(3));
        cluster.run_until_quiescent();
        let (copies, wants) = (cluster.frames(CHANGES), cluster.frames(WANT));
        let kinds = frames_while(&mut cluster, |cluster| {
            cluster.connect_all();
            cluster.run_until_quiescent();
        });
        cluster.assert_converged();
        assert!(kinds.contains(&RANGES_FRAME), "{kinds:?}");
        let missing = 2 * documents.min(40) + 2;
        assert_eq!(cluster.frames(CHANGES) - copies, missing, "each change that was missing came once");
        // Each side asks for what it knows, and one of them for what it had to ask the names of.
        let asked = cluster.frames(WANT) - wants;
        assert!(asked <= 3, "{documents}: a request that overtakes what it answers is heard: {asked}");
    }
}

fn inject(cluster: &mut Cluster, to: usize, frame: &Frame) {
    let link = cluster.link_to(to, 1 - to).unwrap_or(LinkId(0));
    cluster.input(to, Input::Frame { link, channel: Channel::Data, bytes: frame.encode() });
}

/// All ranges differ, says the peer, and then has nothing that differs.
fn lies_that_it_differs(cluster: &mut Cluster, number: u64) {
    inject(cluster, 0, &Frame::Ranges(Ranges { number, place: FIRST, prints: vec![[9; 6]; RANGES] }));
    inject(cluster, 0, &Frame::Items(Items { number, buckets: vec![], is_last: true }));
}

#[test]
fn who_says_for_ever_that_it_differs_is_cut() {
    let mut cluster = pair_with(300, 8);
    cluster.run_for(5_000);
    for number in 0..8 {
        assert!(cluster.is_connected(0, 1), "comparison {number}");
        lies_that_it_differs(&mut cluster, number);
        cluster.run_for(if number < 3 { 10 } else { 5_000 });
    }
    assert!(!cluster.is_connected(0, 1));
    let reasons = &cluster.nodes[0].closed;
    assert!(reasons.iter().any(|reason| reason.contains("says for ever that it differs")), "{reasons:?}");
    assert!(cluster.nodes[0].audit.iter().any(|record| record.reason.contains("differs")));
}

#[test]
fn who_compares_without_end_is_cut() {
    let mut cluster = pair_with(300, 9);
    cluster.run_for(60_000);
    for number in 0..4 {
        inject(&mut cluster, 0, &Frame::Ranges(Ranges { number, place: FIRST, prints: vec![[9; 6]; RANGES] }));
    }
    assert!(cluster.is_connected(0, 1));
    inject(&mut cluster, 0, &Frame::Ranges(Ranges { number: 5, place: FIRST, prints: vec![] }));
    assert!(!cluster.is_connected(0, 1));
    assert_eq!(cluster.nodes[0].audit.last().unwrap().reason, "the peer compares without end");
}

#[test]
fn items_that_run_backwards_end_the_session() {
    let mut cluster = pair_with(3, 10);
    inject(&mut cluster, 0, &Frame::Ranges(Ranges { number: 1, place: FIRST, prints: vec![] }));
    let items = |bucket| Frame::Items(Items { number: 1, buckets: vec![(bucket, vec![])], is_last: false });
    inject(&mut cluster, 0, &items(7));
    inject(&mut cluster, 0, &items(7)); // a bucket may go on in the next part
    assert!(cluster.is_connected(0, 1));
    inject(&mut cluster, 0, &items(6));
    assert_eq!(cluster.nodes[0].closed, ["buckets of a comparison run backwards"]);
}

/// Who says that it is equal and is not keeps what it has for itself: others are heard.
#[test]
fn who_says_that_it_is_equal_and_is_not_hides_only_its_own() {
    let mut cluster = Cluster::new(3, 11);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    let far = crate::sync::frame::PlaceOf {
        place: Place { generation: 1, position: u64::MAX },
        items_bits: u8::MAX,
        is_equal: true,
    };
    inject(&mut cluster, 0, &Frame::Place(far));
    cluster.write(2, Kind::Device, "a", Value::Int(1));
    cluster.connect(1, 2);
    cluster.cut(0, 1);
    cluster.run_until_quiescent();
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.assert_converged();
}

/// Answers to nothing, requests for nothing, and all numbers at their limits: no panic, and the pair still converges.
#[test]
fn frames_of_no_comparison_change_nothing() {
    let mut cluster = pair_with(3, 12);
    let end = |end| Frame::Difference(crate::sync::frame::Difference { logs: vec![], statements: vec![], end });
    let last = Place { generation: u64::MAX, position: u64::MAX };
    for frame in [
        Frame::Parts(Parts { number: 3, ranges: vec![(255, [[1; 6]; RANGE_BUCKETS])] }),
        Frame::Items(Items { number: 3, buckets: vec![(4095, vec![([1; 3], 1, u64::MAX)])], is_last: true }),
        Frame::Request(crate::sync::frame::Request { number: 3, ids: vec![(u16::MAX, [1; 3])], is_last: true }),
        end(Some(End::Comparison(u64::MAX, last))),
        end(Some(End::Request(u64::MAX))),
        end(Some(End::Part)),
        end(Some(End::Cursor)),
    ] {
        inject(&mut cluster, 0, &frame);
    }
    cluster.run_until_quiescent();
    cluster.cut_all();
    cluster.write(1, Kind::Device, "a", Value::Int(1));
    cluster.connect_all();
    cluster.run_until_quiescent();
    assert!(cluster.is_connected(0, 1));
    cluster.assert_converged();
}

/// A cursor beyond the end of the order, or of another one, helps nothing: ranges are compared.
#[test]
fn cursors_from_the_future_are_none() {
    for far in [Place { generation: 7, position: 1 }, Place { generation: u64::MAX, position: u64::MAX }] {
        let mut cluster = pair_with(300, 13);
        cluster.cut_all();
        let order = cluster.nodes[1].engine.replica().order();
        let device = cluster.device(1);
        write_config(&mut cluster, 1, 5, 2);
        cluster.write(0, Kind::Device, "a", Value::Int(1));
        cluster.run_until_quiescent();
        let place = if far.generation == 7 { Place { position: order.position + 900, ..order } } else { far };
        let nowhere = MemoryStore::default();
        let mut unstored = Staged::new(&nowhere);
        cluster.nodes[0].engine.replica.set_cursor(&mut unstored, device, place);
        let kinds = frames_while(&mut cluster, |cluster| {
            cluster.connect_all();
            cluster.run_until_quiescent();
        });
        cluster.assert_converged();
        assert!(kinds.contains(&RANGES_FRAME), "{kinds:?}");
    }
}

/// A peer that takes and never acknowledges holds nothing up for ever: others bring what it should have passed on.
#[test]
fn who_takes_and_never_acknowledges_is_closed() {
    let mut cluster = pair_with(600, 14);
    let logs: Vec<_> = cluster.nodes[0].engine.replica().logs().iter().map(|log| (log.actor(), 0)).collect();
    cluster.freeze(1);
    let sent = cluster.nodes[0].payload_bytes;
    for part in logs.chunks(512) {
        inject(&mut cluster, 0, &Frame::Want(part.to_vec()));
    }
    for second in 0..40u64 {
        inject(&mut cluster, 0, &Frame::Probe(second)); // it lives
        cluster.run_for(1_000);
        if !cluster.is_connected(0, 1) {
            break;
        }
    }
    assert_eq!(cluster.nodes[0].closed, ["the peer takes and acknowledges nothing"]);
    let sent = cluster.nodes[0].payload_bytes - sent;
    assert!(sent < 200_000, "{sent} bytes were sent to a peer that acknowledged none");
}

/// While a long history is on its way, what differs is found all the same.
#[test]
fn a_comparison_is_not_kept_back_by_a_backlog() {
    let mut cluster = Cluster::new(2, 15);
    (0..600).for_each(|number| write_config(&mut cluster, 0, number, 1));
    cluster.delay_ms = (400, 400);
    cluster.connect_all();
    while cluster.frames(CHANGES) == 0 {
        cluster.run_for(10);
    }
    let changes = cluster.frames(CHANGES);
    inject(&mut cluster, 0, &Frame::Ranges(Ranges { number: 1, place: FIRST, prints: vec![[9; 6]; RANGES] }));
    // The answer is long: it may go in parts.
    while cluster.frames(PARTS) + cluster.frames(FRAGMENT) == 0 {
        cluster.run_for(10);
    }
    let sent = cluster.frames(CHANGES) - changes;
    assert!(changes + sent < 590, "it was answered after {changes} and {sent} changes");
}
