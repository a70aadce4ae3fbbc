use super::*;
use crate::sim::plan::{Boundary, LinkOracle};
use crate::sim::topology::Topology;

const WRITES: u64 = 40;

/// A write each 100 ms from the tenth second on, each by another node.
fn plan(topology: &str, steps: Vec<(u64, Step)>) -> Plan {
    let topology = Topology::load(topology, 1).unwrap();
    let nodes = topology.nodes.len();
    let write = |number: u64| {
        let node = (number as usize * 7 + 1) % nodes;
        (10_000 + number * 100, Step::Write { node, path: "a".to_owned(), value: number as i64 })
    };
    let mut steps: Vec<(u64, Step)> = (0..WRITES).map(write).chain(steps).collect();
    steps.sort_by_key(|(at_ms, _)| *at_ms);
    Plan {
        scenario: "test".to_owned(),
        seed: 5,
        topology,
        ground: None,
        oracle: LinkOracle { up_ms: 500, down_ms: 200, error_ppm: 0, routes_ms: 300, routes_error_ppm: 0 },
        sync_us: 1_000,
        joiners: Vec::new(),
        steps,
        heal_ms: 30_000,
        bound_ms: 10_000,
    }
}

fn run_until(model: &mut Model<'_>, until_us: u64) {
    while model.queue.first_key_value().is_some_and(|((at_us, _), _)| *at_us < until_us) {
        let Some(((at_us, _), event)) = model.queue.pop_first() else { return };
        model.now_us = at_us;
        model.happen(event);
    }
    model.now_us = until_us;
}

fn copies(measured: &Measured) -> f64 {
    measured.sent(Sort::Changes, 0..u64::MAX).changes as f64
}

#[test]
fn every_change_reaches_every_node_in_about_d_copies() {
    let plan = plan("fleet-100-4z", Vec::new());
    let measured = run(&plan);
    let needed = WRITES as usize * 99;
    assert_eq!((measured.written.len(), measured.deliveries.len()), (WRITES as usize, needed));
    let each = copies(&measured) / needed as f64;
    // A node sends to its mesh but for the peer that brought it, and the author to all its peers; to all 12 it were 11.
    assert!((D_LO as f64 - 1.0..D as f64 + 2.0).contains(&each), "{each} copies each");
    let digests = measured.sent(Sort::Digest, 10_000_000..20_000_000);
    assert!(digests.frames > 0 && digests.changes == 0, "{digests:?}");
}

#[test]
fn one_seed_gives_one_run() {
    let plan = plan("fleet-100-4z", Vec::new());
    assert_eq!(run(&plan), run(&plan));
    assert_ne!(run(&Plan { seed: 6, ..plan.clone() }), run(&plan));
}

#[test]
fn meshes_stay_between_their_bounds() {
    let plan = plan("fleet-100-4z", Vec::new());
    let mut model = Model::new(&plan);
    (0..100).for_each(|node| model.start(node));
    run_until(&mut model, 5_000_000);
    let degrees: Vec<usize> = (0..100).map(|node| model.mesh_degree(node)).collect();
    assert!(degrees.iter().all(|degree| (D_LO..=D_HI).contains(degree)), "{degrees:?}");
}

#[test]
fn a_joiner_and_a_node_that_was_away_catch_up() {
    let crash = Step::Crash { node: 33, power: true, at: Boundary::Now };
    let steps = vec![(10_500, crash), (13_000, Step::Start { node: 33 }), (12_000, Step::Join { node: 3, over: 4 })];
    let mut plan = plan("fleet-100-4z", steps);
    plan.joiners = vec![3];
    let measured = run(&plan);
    assert_eq!(measured.up_at_end.len(), 100);
    let count = |node: u32| measured.deliveries.iter().filter(|delivery| delivery.node == node).count();
    let own = |node: usize| measured.written.iter().filter(|written| written.node == node).count();
    assert_eq!((count(3) + own(3), count(33) + own(33)), (measured.written.len(), measured.written.len()));
}

#[test]
fn who_left_gets_nothing_and_the_others_everything() {
    let measured = run(&plan("fleet-100-4z", vec![(9_000, Step::Leave { node: 99 })]));
    assert_eq!(measured.up_at_end.len(), 99);
    assert!(measured.deliveries.iter().all(|delivery| delivery.node != 99));
    assert_eq!(measured.deliveries.len(), measured.written.len() * 98);
}

#[test]
fn losses_delay_and_lose_nothing() {
    let sum = |measured: &Measured| measured.deliveries.iter().map(|delivery| delivery.at_us).sum::<u64>();
    let plan = plan("fleet-100-4z", Vec::new());
    let mut lossy = plan.clone();
    lossy.topology.lines.iter_mut().for_each(|line| line.loss_ppm = 50_000);
    let (without, with) = (run(&plan), run(&lossy));
    assert_eq!(without.deliveries.len(), with.deliveries.len());
    assert!(sum(&with) > sum(&without));
}

#[test]
fn who_is_outside_of_the_mesh_hears_of_a_change_and_asks() {
    let plan = Plan { steps: Vec::new(), ..plan("lan-12", Vec::new()) };
    let mut model = Model::new(&plan);
    (0..12).for_each(|node| model.start(node));
    run_until(&mut model, 4_000_000);
    // A change that its author has sent to nobody.
    let change = model.measured.write(0, model.now_us);
    model.had.push(vec![false; 12]);
    model.had[change][0] = true;
    model.remember(0, change);
    let lazy = model.lazy_lines(0).len();
    assert!((1..11).contains(&lazy), "{lazy} outside of the mesh");
    run_until(&mut model, 7_000_000);
    assert_eq!(model.measured.deliveries.len(), 11);
    let asked = model.measured.sent(Sort::Digest, 4_000_000..7_000_000).frames;
    assert!(asked >= 2, "{asked}");
}
