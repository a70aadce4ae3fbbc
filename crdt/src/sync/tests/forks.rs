//! Folders that were restored from a backup behind their node's back: what was signed after it exists elsewhere, and
//! the node must not go on in the same logs. Peers that hold the other branch are honest and are never cut off.

use super::cluster::{Cluster, Crash, config_document};
use crate::schema::{DocumentName, Kind, Value};
use crate::sync::Reply;

/// Three connected nodes; node 0 wrote `before` values, was backed up, wrote up to `after`, and runs on the backup.
fn restored(seed: u64, before: i64, after: i64) -> Cluster {
    let mut cluster = Cluster::new(3, seed);
    cluster.connect_all();
    for value in 0..before {
        cluster.write(0, Kind::Device, "a", Value::Int(value));
        cluster.set(0, 0, "x", Some(Value::Int(value)));
    }
    cluster.run_until_quiescent();
    let backup = cluster.backup(0);
    for value in before..after {
        cluster.write(0, Kind::Device, "a", Value::Int(value));
        cluster.set(0, 0, "x", Some(Value::Int(value)));
        cluster.run_until_quiescent();
    }
    cluster.crash(0, Crash::Process);
    cluster.restore(0, backup);
    cluster.restart(0);
    cluster
}

fn assert_nobody_was_cut_off(cluster: &Cluster) {
    for node in &cluster.nodes {
        assert!(node.closed.is_empty(), "{:?}", node.closed);
    }
}

/// It takes what peers have of its own, and goes on in logs of a new incarnation instead of forking the old ones.
#[test]
fn a_node_that_sees_itself_ahead_goes_on_in_new_logs() {
    let mut cluster = restored(17, 2, 5);
    let before = cluster.nodes[0].incarnation;
    cluster.connect_all();
    cluster.run_until_quiescent();
    assert_ne!(cluster.nodes[0].incarnation, before);
    cluster.write(0, Kind::Device, "b", Value::Int(9));
    cluster.set(0, 0, "x", Some(Value::Int(9)));
    cluster.run_until_quiescent();
    cluster.assert_converged();
    assert!(cluster.nodes.iter().all(|node| node.audit.is_empty()), "nothing was refused as a fork");
    let document = DocumentName::of_device(Kind::Device, &cluster.device(0));
    let view = cluster.view(1, &document);
    assert_eq!((&view["a"].read.value, &view["b"].read.value), (&Value::Int(4), &Value::Int(9)));
}

/// It writes before a link is up: its log forks, shorter or longer than what peers have, in one run with the fork or far
/// beyond it. It finds out and ends the forked log; everyone converges on what it says now.
#[test]
fn a_forked_log_is_ended_by_its_owner() {
    for (before, after, written) in
        [(2, 5, 1), (2, 5, 3), (2, 5, 9), (1, 90, 89), (2, 60, 3), (40, 100, 90), (1, 3, 120)]
    {
        let mut cluster = restored(100 + written, before, after);
        let incarnation = cluster.nodes[0].incarnation;
        for value in 0..written {
            cluster.write(0, Kind::Device, "a", Value::Int(1_000 + value as i64));
            cluster.run_until_quiescent();
        }
        cluster.nodes[0].acknowledged.clear(); // a forked log's own end is given up by design
        cluster.nodes.iter_mut().for_each(|node| node.acknowledged.clear());
        cluster.connect_all();
        cluster.run_for(130_000);
        cluster.run_until_quiescent();
        assert_ne!(cluster.nodes[0].incarnation, incarnation, "{before} {after} {written}");
        assert_nobody_was_cut_off(&cluster);
        cluster.assert_equal();
        let document = DocumentName::of_device(Kind::Device, &cluster.device(0));
        let last = Value::Int(999 + written as i64);
        assert_eq!(cluster.view(2, &document)["a"].read.value, last, "{before} {after} {written}");
        let events: usize = cluster.nodes.iter().map(|node| node.audit.len()).sum();
        assert!((1..30).contains(&events), "a fork is said, and not for ever: {events}");
    }
}

/// A log of a shared document stays forked where it is; the node goes on in a new one, and nobody is cut off.
#[test]
fn a_forked_log_of_a_shared_document_blames_nobody() {
    let mut cluster = restored(23, 2, 20);
    let incarnation = cluster.nodes[0].incarnation;
    for value in 0..12 {
        cluster.set(0, 0, "x", Some(Value::Int(1_000 + value)));
        cluster.run_until_quiescent();
    }
    cluster.connect_all();
    cluster.run_for(200_000);
    assert_ne!(cluster.nodes[0].incarnation, incarnation);
    assert_nobody_was_cut_off(&cluster);
    let evidence = cluster.nodes[1..].iter().flat_map(|node| &node.audit);
    assert!(evidence.map(|event| &event.reason).any(|reason| reason.contains("another change of this log")));
    let events: usize = cluster.nodes.iter().map(|node| node.audit.len()).sum();
    assert!(events < 20, "{events}");
    // What the others do there goes on.
    assert!(matches!(cluster.set(1, 1, "y", Some(Value::Int(5))), Reply::Unchanged | Reply::Written { .. }));
    cluster.run_until_quiescent();
    assert_eq!(cluster.view(2, &config_document())["y"].read.value, Value::Int(5));
}
