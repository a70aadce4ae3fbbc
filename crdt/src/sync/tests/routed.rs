//! Messages of the mesh's own, which the engine carries.

use super::cluster::Cluster;
use crate::roster::Standing;
use crate::sync::frame::ROUTED_BYTES_MAX;
use crate::sync::{Input, ROUTED_WAITING_MAX};

/// The type of a `Routed` frame.
const ROUTED: u8 = 24;

fn route(cluster: &mut Cluster, from: usize, to: usize, message: Vec<u8>) {
    let link = cluster.link_to(from, to).unwrap();
    cluster.input(from, Input::Route { link, message });
}

#[test]
fn members_exchange_them_once_both_have_greeted() {
    let mut cluster = Cluster::new(2, 61);
    cluster.connect(0, 1);
    route(&mut cluster, 0, 1, vec![1]);
    assert_eq!(cluster.frames(ROUTED), 0);
    cluster.run_until_quiescent();
    route(&mut cluster, 0, 1, vec![2; ROUTED_BYTES_MAX]);
    route(&mut cluster, 0, 1, vec![3; ROUTED_BYTES_MAX + 1]);
    cluster.run_until_quiescent();
    let link = cluster.link_to(1, 0).unwrap();
    assert_eq!(cluster.nodes[1].routed, [(link, vec![2; ROUTED_BYTES_MAX])]);
    assert!(cluster.nodes.iter().all(|node| node.closed.is_empty() && node.audit.is_empty()));
}

#[test]
fn of_a_contested_device_none_is_taken() {
    let mut cluster = Cluster::new(2, 62);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    let one_time = cluster.fleet.one_time(1);
    let thief = ed25519_dalek::SigningKey::from_bytes(&[45; 32]);
    let statements = cluster.fleet.entry(&one_time, &thief, "node-1").iter().map(|signed| signed.parts()).collect();
    cluster.request(0, |request| Input::Statements { request, statements });
    cluster.run_until_quiescent();
    assert_eq!(cluster.nodes[0].engine.replica().standing(&cluster.device(1)), Standing::Contested);
    route(&mut cluster, 1, 0, vec![1]);
    route(&mut cluster, 0, 1, vec![1]);
    cluster.run_until_quiescent();
    assert_eq!(cluster.frames(ROUTED), 1, "nor is one sent to it");
    assert!(cluster.nodes[0].routed.is_empty() && cluster.nodes[0].closed.is_empty());
}

#[test]
fn a_peer_that_does_not_read_gets_no_more_of_them_and_keeps_its_session() {
    let mut cluster = Cluster::new(2, 63);
    cluster.connect(0, 1);
    cluster.run_until_quiescent();
    cluster.freeze(1);
    let fit = ROUTED_WAITING_MAX / ROUTED_BYTES_MAX;
    (0..20 * fit).for_each(|_| route(&mut cluster, 0, 1, vec![0; ROUTED_BYTES_MAX]));
    assert!(cluster.nodes[0].closed.is_empty());
    assert!(cluster.frames(ROUTED) > 0 && cluster.is_connected(0, 1));
}
