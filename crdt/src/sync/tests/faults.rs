//! Peers that are slow, greedy or merely unlucky: what they may cost, and who must never be cut off.

use super::cluster::{Cluster, Crash};
use crate::change::Run;
use crate::schema::{DocumentName, Kind, Value};
use crate::store::{MemoryStore, Table};
use crate::sync::frame::{Changes, FRAME_BYTES_MAX, Fragment, Frame, Items, Name, Parts, Place, RANGE_BUCKETS, Ranges};
use crate::sync::{Input, LinkId, read_run};

const FIRST: Place = Place { generation: 1, position: 0 };

fn linked(nodes: usize, seed: u64) -> Cluster {
    let mut cluster = Cluster::new(nodes, seed);
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster
}

fn inject(cluster: &mut Cluster, (to, link): (usize, LinkId), frame: &Frame) {
    cluster.input(to, Input::Frame { link, channel: frame.channel(), bytes: frame.encode() });
}

/// A frame of which a byte comes a second, and a comparison of which an item does: neither holds up what others bring, the
/// memory that they take is bounded, and the link goes on once the peer does.
#[test]
fn a_byte_a_second_holds_nothing_up() {
    let mut cluster = linked(3, 1);
    let slow = (0, cluster.link_to(0, 1).unwrap());
    inject(&mut cluster, slow, &Frame::Ranges(Ranges { number: 1, place: FIRST, prints: vec![] }));
    for second in 0..300u16 {
        let item = Items { number: 1, buckets: vec![(second, vec![([1; 3], 1, 1)])], is_last: false };
        inject(&mut cluster, slow, &Frame::Items(item));
        inject(&mut cluster, slow, &Frame::Fragment(Fragment { is_last: false, bytes: vec![1] }));
        cluster.write(2, Kind::Device, "a", Value::Int(i64::from(second)));
        cluster.run_for(1_000);
        let document = DocumentName::of_device(Kind::Device, &cluster.device(2));
        assert_eq!(cluster.view(0, &document)["a"].read.value, Value::Int(i64::from(second)));
    }
    let link = &cluster.nodes[0].engine.links[&slow.1];
    assert!(link.ahead.len() + link.lacking.len() < 16, "what it lists is no claim");
    cluster.run_for(60_000); // the comparison is over, as nothing of it is heard
    cluster.cut_all();
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.assert_converged();
}

/// A frame in parts that never ends is cut where a frame has to end.
#[test]
fn a_frame_without_end_ends_the_session() {
    let mut cluster = linked(2, 2);
    let link = (0, cluster.link_to(0, 1).unwrap());
    let part = Frame::Fragment(Fragment { is_last: false, bytes: vec![7; 64 << 10] });
    for _ in 0..FRAME_BYTES_MAX / (64 << 10) {
        inject(&mut cluster, link, &part);
    }
    assert!(cluster.is_connected(0, 1));
    inject(&mut cluster, link, &part);
    assert_eq!(cluster.nodes[0].closed, ["a frame in parts is too long"]);
}

/// Ranges that overlap, run backwards or lie beyond the last one end the session before anything is looked up.
#[test]
fn ranges_overlap_or_run_backwards() {
    let print = [[1; 6]; RANGE_BUCKETS];
    let items = |buckets: &[u16]| {
        let buckets = buckets.iter().map(|bucket| (*bucket, vec![])).collect();
        Frame::Items(Items { number: 1, buckets, is_last: true })
    };
    for frame in [
        Frame::Parts(Parts { number: 1, ranges: vec![(7, print), (7, print)] }),
        Frame::Parts(Parts { number: 1, ranges: vec![(8, print), (7, print)] }),
        items(&[9, 9]),
        items(&[9, 8]),
        items(&[4096]),
        Frame::Ranges(Ranges { number: 1, place: FIRST, prints: vec![[0; 6]; 255] }),
    ] {
        let mut cluster = linked(2, 3);
        let link = (0, cluster.link_to(0, 1).unwrap());
        let root = cluster.root(0);
        inject(&mut cluster, link, &frame);
        assert_eq!((cluster.nodes[0].closed.len(), cluster.root(0)), (1, root), "{frame:?}");
    }
}

/// The frames of a run that a peer relays, under a number of its own.
fn relayed(number: u32, run: &Run) -> [Frame; 2] {
    let Run { log, first_seq, changes, signature } = run.clone();
    [Frame::Name(Name { number, log }), Frame::Changes(Changes { number, first_seq, changes, signature })]
}

/// The run of a device's own document, as a store has it.
fn own_run(cluster: &Cluster, number: usize, store: &MemoryStore) -> Run {
    let document = DocumentName::of_device(Kind::Device, &cluster.device(number));
    let replica = cluster.nodes[number].engine.replica();
    let actor = replica.logs().of_document(&document)[0];
    let log = replica.logs().get(&actor).unwrap();
    read_run(store, Table::Change, &log.name(), &actor, 1, log.seq).unwrap().unwrap()
}

/// Changes that count no more, as their log was ended, come from peers that have not heard: refused, and nobody is to blame.
#[test]
fn who_relays_what_counts_no_more_is_not_cut() {
    let mut cluster = linked(3, 4);
    for value in 0..4 {
        cluster.write(2, Kind::Device, "a", Value::Int(value));
        cluster.run_until_quiescent();
    }
    let backup = cluster.backup(2);
    let old = own_run(&cluster, 2, &backup);
    // On a copy of its disk it sees itself ahead, and ends the log.
    cluster.write(2, Kind::Device, "a", Value::Int(7));
    cluster.run_until_quiescent();
    cluster.crash(2, Crash::Process);
    cluster.restore(2, backup);
    cluster.restart(2);
    cluster.write(2, Kind::Device, "a", Value::Int(8));
    cluster.connect_all();
    cluster.run_for(130_000);
    cluster.run_until_quiescent();
    assert!(cluster.nodes[0].engine.replica().logs().get(&old.log.actor(&cluster.fleet.id)).is_none());
    let link = (0, cluster.link_to(0, 1).unwrap());
    let first = cluster.nodes[0].engine.links[&link.1].names.heard() as u32;
    let root = cluster.root(0);
    let [name, changes] = relayed(first, &old);
    inject(&mut cluster, link, &name);
    (0..20).for_each(|_| inject(&mut cluster, link, &changes));
    assert_eq!((cluster.nodes[0].closed.len(), cluster.root(0)), (0, root));
    assert!(
        cluster.nodes[0].audit.iter().any(|record| record.reason.contains("epoch")),
        "{:?}",
        cluster.nodes[0].audit
    );
}

/// Changes of a device that the receiver has not heard of come from an honest relay that has: they wait, within limits, and
/// count once the statements are there.
#[test]
fn who_relays_what_is_not_authorised_yet_is_not_cut() {
    let mut cluster = linked(2, 5);
    let mut other = Cluster::new(3, 5);
    for value in 0..30 {
        other.write(2, Kind::Device, "a", Value::Int(value));
    }
    other.run_until_quiescent();
    let run = own_run(&other, 2, &other.nodes[2].store);
    let link = (0, cluster.link_to(0, 1).unwrap());
    let first = cluster.nodes[0].engine.links[&link.1].names.heard() as u32;
    let [name, changes] = relayed(first, &run);
    inject(&mut cluster, link, &name);
    (0..20).for_each(|_| inject(&mut cluster, link, &changes));
    assert!(cluster.nodes[0].closed.is_empty(), "{:?}", cluster.nodes[0].closed);
    assert!(cluster.nodes[0].engine.pending().0 > 0, "they wait");
    let statements = other.fleet.statements_of(2);
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    let document = DocumentName::of_device(Kind::Device, &other.device(2));
    assert_eq!(cluster.view(0, &document)["a"].read.value, Value::Int(29));
}

/// Altered changes are the fault of who sends them: it is cut after a few, and its work is bounded.
#[test]
fn who_alters_changes_is_cut() {
    let mut cluster = linked(2, 6);
    cluster.write(1, Kind::Device, "a", Value::Int(1));
    let mut run = own_run(&cluster, 1, &cluster.nodes[1].store); // it is on its way
    run.signature.0[40] ^= 1;
    let link = (0, cluster.link_to(0, 1).unwrap());
    let [name, changes] = relayed(0, &run);
    inject(&mut cluster, link, &name);
    (0..20).for_each(|_| inject(&mut cluster, link, &changes));
    let reasons = &cluster.nodes[0].closed;
    assert!(reasons.len() == 1 && reasons[0].contains("can never count"), "{reasons:?}");
    assert!(cluster.nodes[0].audit.len() < 20);
}
