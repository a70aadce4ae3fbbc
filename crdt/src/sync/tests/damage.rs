//! Records that do not read any more: they cost themselves, and keep nothing else back.

use super::cluster::{Cluster, Crash, config_document};
use crate::id::Actor;
use crate::schema::{DocumentName, Kind, Value};
use crate::store::{Table, change_key, index_range};
use crate::sync::{Edit, Input, Reply};

/// The log of a node's own document.
fn own_log(cluster: &Cluster, number: usize) -> Actor {
    let document = DocumentName::of_device(Kind::Device, &cluster.device(number));
    cluster.nodes[number].engine.replica().logs().documents()[&document][0]
}

/// Three nodes; node 0 alone has three changes of its own.
fn with_changes(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(3, seed);
    for value in 1..4 {
        cluster.write(0, Kind::Device, "a", Value::Int(value));
        cluster.run_until_quiescent();
    }
    cluster
}

#[test]
fn a_damaged_change_keeps_nothing_else_back() {
    let mut cluster = with_changes(41);
    let log = own_log(&cluster, 0);
    cluster.damage(0, Table::Change, change_key(&log, 2).to_vec());
    cluster.connect(0, 1);
    cluster.connect(0, 2);
    cluster.run_until_quiescent();
    cluster.set(0, 0, "x", Some(Value::Int(1)));
    cluster.run_until_quiescent();
    for number in [1, 2] {
        assert_eq!(cluster.view(number, &config_document())["x"].read.value, Value::Int(1));
    }
    assert_eq!(cluster.nodes[0].faults.len(), 1, "said once: {:?}", cluster.nodes[0].faults);
    assert!(cluster.nodes[0].engine.poll_timeout().is_none_or(|at| at > cluster.now), "nothing spins");
}

#[test]
fn a_request_that_meets_damage_is_answered() {
    let mut cluster = with_changes(42);
    cluster.set(0, 0, "x", Some(Value::Int(1)));
    let (mut key, _, _) = index_range(&config_document());
    key.push(b'x');
    cluster.damage(0, Table::Index, key);
    assert!(
        matches!(cluster.set(0, 0, "x", Some(Value::Int(2))), Reply::Refused(reason) if reason.contains("damaged"))
    );
    let document = DocumentName::of_device(Kind::Device, &cluster.device(0));
    let edits = vec![Edit { path: "b".to_owned(), value: Some(Value::Int(1)) }];
    let request = cluster.request(0, |request| Input::Write { request, document, edits });
    cluster.run_until_quiescent();
    assert!(matches!(cluster.nodes[0].replies[&request], Reply::Written { .. }), "other documents go on");
}

/// The last change of an own log is damaged: the node starts, says which, and goes on in another log.
#[test]
fn an_own_damaged_log_is_never_continued() {
    let mut cluster = with_changes(43);
    let log = own_log(&cluster, 0);
    cluster.damage(0, Table::Change, change_key(&log, 3).to_vec());
    cluster.crash(0, Crash::Process);
    let before = cluster.nodes[0].incarnation;
    cluster.restart(0);
    assert_eq!(cluster.nodes[0].engine.replica().damaged().count(), 1);
    cluster.write(0, Kind::Device, "a", Value::Int(9));
    cluster.run_until_quiescent();
    assert_ne!(cluster.nodes[0].incarnation, before);
    assert_ne!(own_log(&cluster, 0), log);
    cluster.nodes[0].acknowledged.clear(); // the log that ended goes with its epoch
    cluster.connect_all();
    cluster.run_until_quiescent();
    cluster.assert_equal();
    let document = DocumentName::of_device(Kind::Device, &cluster.device(0));
    assert_eq!(cluster.view(2, &document)["a"].read.value, Value::Int(9));
}
