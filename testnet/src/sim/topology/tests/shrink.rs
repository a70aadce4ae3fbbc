//! Fewer nodes.

use super::super::{Line, PRESETS};
use super::{check, links_of, load, parse};

#[test]
fn every_preset_shrinks_to_one_part_of_the_first_nodes() {
    for (name, _) in PRESETS.iter().filter(|(name, _)| *name != "fleet-10000-8z") {
        for seed in 1..=5 {
            let topology = load(name, seed);
            for nodes in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
                let small = topology.shrink_to(nodes);
                check(&small);
                let nodes = nodes.min(topology.nodes.len());
                assert_eq!(small.nodes, topology.nodes[..nodes]);
                let kept = topology.lines.iter().filter(|line| line.ends.1 < nodes);
                assert!(kept.clone().all(|line| small.lines.contains(line)), "{name}: links that were there stay");
            }
        }
    }
}

#[test]
fn none_is_one_and_all_is_the_same() {
    let topology = load("islands", 1);
    assert_eq!(topology.shrink_to(0).nodes.len(), 1);
    assert_eq!(topology.shrink_to(40), topology);
    assert_eq!(topology.shrink_to(usize::MAX), topology);
}

#[test]
fn a_way_through_nodes_that_are_gone_becomes_a_link() {
    let link = |one, other, rest: &str| format!("[[link]]\nbetween = [\"a-{one}\", \"a-{other}\"]\n{rest}\n");
    // 0 and 1 are linked through 2 and 3, and, slower, through 4.
    let topology = parse(
        &[
            "[zones.a]\nnodes = 5\n[mesh]\nkind = \"listed\"\n",
            &link(0, 2, "delay_ms = 1\njitter_ms = 2\nloss_percent = 50\nrate_mbit_s = 8"),
            &link(2, 3, "delay_ms = 2\nloss_percent = 50"),
            &link(3, 1, "delay_ms = 3\njitter_ms = 5\nrate_mbit_s = 4"),
            &link(0, 4, "delay_ms = 4"),
            &link(4, 1, "delay_ms = 4"),
        ]
        .concat(),
    );
    let line = Line { ends: (0, 1), delay_us: 6_000, jitter_us: 7_000, rate: 500_000, loss_ppm: 750_000 };
    assert_eq!(topology.shrink_to(2).lines, [line]);
}

#[test]
fn a_row_stays_a_row_and_a_mesh_no_tree() {
    let row = load("line", 1).shrink_to(6);
    assert_eq!(row.lines.len(), 5);
    let mesh = load("fleet-1000-8z", 1).shrink_to(24);
    assert!(mesh.lines.len() >= 36, "{} links", mesh.lines.len());
    assert!(links_of(&mesh).iter().all(|links| links.len() <= 12));
}

#[test]
fn the_cheapest_way_counts_not_the_first() {
    let link = |one, other, delay| format!("[[link]]\nbetween = [\"a-{one}\", \"a-{other}\"]\ndelay_ms = {delay}\n");
    let links = [link(0, 2, 10), link(0, 3, 1), link(3, 2, 1), link(2, 1, 1)];
    let topology = parse(&format!("[zones.a]\nnodes = 4\n[mesh]\nkind = \"listed\"\n{}", links.concat()));
    let delays: Vec<u64> = topology.shrink_to(2).lines.iter().map(|line| line.delay_us).collect();
    assert_eq!(delays, [3_000]);
}

#[test]
fn nodes_that_had_one_link_get_no_more_than_they_need() {
    let link = |one, other| format!("[[link]]\nbetween = [\"{one}\", \"{other}\"]\n");
    // Three leaves, each behind a node of a triangle that is gone.
    let leaves = [link("a-0", "a-3"), link("a-1", "a-4"), link("a-2", "a-5")];
    let triangle = [link("a-3", "a-4"), link("a-4", "a-5"), link("a-5", "a-3")];
    let listed = "[zones.a]\nnodes = 6\n[mesh]\nkind = \"listed\"\n";
    let topology = parse(&format!("{listed}{}{}", leaves.concat(), triangle.concat()));
    assert_eq!(topology.shrink_to(3).lines.len(), 2);
}
