//! Properties: any order of delivery, any cuts and crashes, equal roots and views at the end, nothing acknowledged
//! lost. No forks here: a power cut loses only what was never acknowledged nor told to anyone.

use proptest::prelude::*;

use super::cluster::{Cluster, Crash};
use crate::schema::{Kind, Value};

#[derive(Debug, Clone)]
enum Step {
    Write { node: usize, kind: u8, path: u8, value: i64 },
    Set { node: usize, operator: usize, path: u8, value: Option<i64> },
    Connect(usize, usize),
    Cut(usize, usize),
    Crash(usize, bool),
    Restart(usize),
    Pass(u64),
}

fn steps(nodes: usize) -> impl Strategy<Value = Vec<Step>> {
    let node = 0..nodes;
    let step = prop_oneof![
        4 => (node.clone(), 0u8..3, 0u8..4, -9i64..9).prop_map(|(node, kind, path, value)| Step::Write { node, kind, path, value }),
        4 => (node.clone(), 0usize..2, 0u8..4, prop::option::weighted(0.8, -9i64..9))
            .prop_map(|(node, operator, path, value)| Step::Set { node, operator, path, value }),
        3 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::Connect(a, b)),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, power)| Step::Crash(node, power)),
        1 => node.prop_map(Step::Restart),
        4 => (0u64..60).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

fn play(cluster: &mut Cluster, step: &Step) {
    match *step {
        Step::Write { node, kind, path, value } => {
            let kind = [Kind::Device, Kind::Environment, Kind::Resource][usize::from(kind)];
            cluster.write(node, kind, &format!("p{path}.v"), Value::Int(value));
        }
        Step::Set { node, operator, path, value } if cluster.nodes[node].is_up => {
            cluster.set(node, operator, &format!("p{path}.v"), value.map(Value::Int));
        }
        Step::Set { .. } => {}
        Step::Connect(a, b) => cluster.connect(a, b),
        Step::Cut(a, b) => cluster.cut(a, b),
        Step::Crash(node, power) => cluster.crash(node, if power { Crash::Power } else { Crash::Process }),
        Step::Restart(node) => cluster.restart(node),
        Step::Pass(millis) => cluster.run_for(millis),
    }
}

fn heal(cluster: &mut Cluster) {
    for node in 0..cluster.nodes.len() {
        cluster.restart(node);
    }
    cluster.connect_all();
    cluster.run_until_quiescent();
    // What a peer could not keep while it waited is found by the comparison of roots.
    for _ in 0..8 {
        let first = cluster.root(0);
        if (1..cluster.nodes.len()).all(|node| cluster.root(node) == first) {
            break;
        }
        cluster.run_for(60_000);
        cluster.run_until_quiescent();
    }
    cluster.assert_converged();
    for node in &cluster.nodes {
        assert_eq!(node.audit, [], "honest nodes refuse nothing of each other");
        assert_eq!(node.closed, Vec::<String>::new());
        assert_eq!(node.incarnation, 7, "nobody saw himself ahead: own changes are synced before they are told");
    }
}

proptest! {
    #![proptest_config(crate::fixture::cases(200))]

    #[test]
    fn whatever_happens_all_converge(steps in steps(4), seed in any::<u64>()) {
        let mut cluster = Cluster::new(4, seed);
        cluster.delay_ms = (1, 1 + seed % 60);
        for step in &steps {
            play(&mut cluster, step);
        }
        heal(&mut cluster);
    }

    /// The same changes, delivered along different meshes and in different orders, give the same root.
    #[test]
    fn the_root_is_a_function_of_the_set(steps in steps(3), seeds in prop::array::uniform2(any::<u64>())) {
        let roots = seeds.map(|seed| {
            let mut cluster = Cluster::new(3, seed);
            for step in &steps {
                if let Step::Write { node, kind, path, value } = step {
                    play(&mut cluster, &Step::Write { node: *node, kind: *kind, path: *path, value: *value });
                } else if matches!(step, Step::Connect(..) | Step::Cut(..) | Step::Pass(_)) {
                    play(&mut cluster, step);
                }
            }
            heal(&mut cluster);
            cluster.root(0)
        });
        prop_assert_eq!(roots[0], roots[1]);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut cluster = Cluster::new(4, 99);
        cluster.connect_all();
        for value in 0..30 {
            cluster.set(value % 4, value % 2, "a", Some(Value::Int(value as i64)));
            cluster.run_for(7);
        }
        cluster.run_until_quiescent();
        let bytes: Vec<usize> = cluster.nodes.iter().map(|node| node.payload_bytes).collect();
        (cluster.root(0), bytes, cluster.now)
    };
    assert_eq!(run(), run());
}
