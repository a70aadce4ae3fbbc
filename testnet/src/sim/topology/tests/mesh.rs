//! How links are chosen.

use std::collections::BTreeSet;

use super::super::{Line, Topology};
use super::{check, links_of, load, parse};

fn degrees(topology: &Topology) -> Vec<usize> {
    links_of(topology).iter().map(Vec::len).collect()
}

/// A near-far mesh of one zone.
fn near_far(nodes: usize, near: usize, far: usize) -> Topology {
    parse(&format!("[zones.a]\nnodes = {nodes}\n[within]\naccess_ms = 2\n[mesh]\nnear = {near}\nfar = {far}"))
}

#[test]
fn degrees_of_fleets_lie_within_8_and_16() {
    for name in ["fleet-100-4z", "fleet-200-8z", "fleet-1000-8z"] {
        for seed in 1..=10 {
            let topology = load(name, seed);
            let degrees = degrees(&topology);
            assert!(degrees.iter().all(|degree| (8..=16).contains(degree)), "{name}, seed {seed}");
            let mean = degrees.iter().sum::<usize>() as f64 / degrees.len() as f64;
            assert!((11.5..=12.5).contains(&mean), "{name}, seed {seed}: {mean}");
        }
    }
}

#[test]
fn degrees_keep_their_bounds_at_every_size() {
    for nodes in 13..60 {
        let topology = near_far(nodes, 8, 4);
        check(&topology);
        assert!(degrees(&topology).iter().all(|degree| (8..=16).contains(degree)), "{nodes} nodes");
    }
    for (near, far) in [(2, 2), (3, 2), (32, 16), (2, 16), (32, 2)] {
        let topology = near_far(300, near, far);
        check(&topology);
        let bounds = near + far..=(near + far) * 4 / 3;
        assert!(degrees(&topology).iter().all(|degree| bounds.contains(degree)), "near {near}, far {far}");
    }
}

#[test]
fn up_to_12_nodes_all_are_linked() {
    assert_eq!(near_far(12, 2, 2).lines.len(), 66);
    assert_eq!(near_far(13, 2, 2).lines.len(), 26);
    assert_eq!(near_far(1, 8, 4).lines.len(), 0);
}

#[test]
fn every_zone_is_linked_with_every_other_and_every_node_with_another_zone() {
    for seed in 1..=5 {
        let topology = load("fleet-200-8z", seed);
        let zone = |node: usize| topology.nodes[node].zone.as_str();
        let pairs: BTreeSet<(&str, &str)> = topology
            .lines
            .iter()
            .flat_map(|Line { ends: (a, b), .. }| [(zone(*a), zone(*b)), (zone(*b), zone(*a))])
            .collect();
        assert_eq!(pairs.iter().filter(|(one, other)| one != other).count(), 8 * 7, "seed {seed}");
        for (node, links) in links_of(&topology).iter().enumerate() {
            let away = links.iter().filter(|(peer, _)| zone(*peer) != zone(node)).count();
            assert!(away >= 1, "seed {seed}: {} is linked with its zone only", topology.nodes[node].name);
        }
    }
}

/// How many links lead from one zone to another, or stay in one.
fn links_between(topology: &Topology, one: &str, other: &str) -> usize {
    let is_between = |line: &&Line| {
        let zones = [&topology.nodes[line.ends.0].zone, &topology.nodes[line.ends.1].zone];
        zones == [one, other] || zones == [other, one]
    };
    topology.lines.iter().filter(is_between).count()
}

#[test]
fn near_links_lead_to_the_own_zone_and_then_to_the_next() {
    let roomy = load("fleet-1000-8z", 1);
    // 125 nodes with 8 near links each, counted at one end, and some far ones.
    assert!((500..600).contains(&links_between(&roomy, "tokyo", "tokyo")));
    let zones = "[zones.a]\nnodes = 5\n[zones.b]\nnodes = 20\n[zones.c]\nnodes = 20\n";
    let tight = parse(&format!("{zones}[[between]]\nzones = [\"a\", \"b\"]\ndelay_ms = 2"));
    assert_eq!(links_between(&tight, "a", "a"), 10, "all of the own zone");
    // Each of the five wants four more near ones, and two of its far links lead out by turns.
    assert!(links_between(&tight, "a", "b") >= 5 * 4 + 5, "{}", links_between(&tight, "a", "b"));
    assert!(links_between(&tight, "a", "c") <= 5 * 4, "{}", links_between(&tight, "a", "c"));
}

#[test]
fn nodes_with_good_access_are_not_everyones_neighbours() {
    for seed in 1..=5 {
        let text = "[zones.a]\nnodes = 400\n[within]\ndelay_ms = 0\naccess_ms = 50";
        let topology = Topology::parse("test", text, seed).unwrap();
        check(&topology);
        assert!(degrees(&topology).iter().all(|degree| (8..=16).contains(degree)), "seed {seed}");
    }
}

#[test]
fn the_other_kinds_are_as_they_are_called() {
    assert_eq!(load("lan-12", 1).lines.len(), 66);
    let line = load("line", 1);
    assert!(line.lines.iter().all(|line| line.ends.1 == line.ends.0 + 1) && line.lines.len() == 11);
    let star = load("star-behind-nat", 1);
    let hubs: Vec<&str> =
        star.nodes.iter().filter(|place| place.zone == "hub").map(|place| place.name.as_str()).collect();
    assert_eq!(hubs, ["hub-0", "hub-1"]);
    for (node, links) in links_of(&star).iter().enumerate() {
        assert_eq!(links.len(), if star.nodes[node].zone == "hub" { 25 } else { 2 }, "{}", star.nodes[node].name);
    }
    let listed = parse(
        "[zones.a]\nnodes = 3\n[mesh]\nkind = \"listed\"\n\
        [[link]]\nbetween = [\"a-0\", \"a-2\"]\n[[link]]\nbetween = [\"a-1\", \"a-2\"]",
    );
    assert_eq!(listed.lines.iter().map(|line| line.ends).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
    let hub_unsaid = parse("[zones.a]\nnodes = 4\n[mesh]\nkind = \"star\"");
    assert_eq!(hub_unsaid.lines.iter().map(|line| line.ends).collect::<Vec<_>>(), [(0, 1), (0, 2), (0, 3)]);
}

#[test]
fn islands_have_one_link_to_the_next() {
    let islands = load("islands", 1);
    let zone = |node: usize| islands.nodes[node].zone.as_str();
    let (away, inside): (Vec<&Line>, Vec<&Line>) =
        islands.lines.iter().partition(|line| zone(line.ends.0) != zone(line.ends.1));
    assert_eq!((away.len(), inside.len()), (4, 4 * 45));
    let slow: BTreeSet<u64> = away.iter().map(|line| line.rate).collect();
    assert_eq!(slow, BTreeSet::from([125_000]));
    let ends: BTreeSet<usize> = away.iter().flat_map(|line| [line.ends.0, line.ends.1]).collect();
    assert_eq!(ends.len(), 8, "a change that crosses an island goes through it");
}

#[test]
fn a_row_runs_through_one_zone_after_the_other() {
    let row = parse("[zones.a]\nnodes = 2\n[zones.b]\nnodes = 2\n[mesh]\nkind = \"line\"");
    let name = |node: usize| row.nodes[node].name.as_str();
    let links: Vec<(&str, &str)> = row.lines.iter().map(|line| (name(line.ends.0), name(line.ends.1))).collect();
    assert_eq!(links, [("a-0", "a-1"), ("b-0", "a-1"), ("b-0", "b-1")]);
}

#[test]
fn the_challenges_fleet_has_no_hub_and_two_hops_at_most() {
    let topology = load("glomers-25", 1);
    let links = links_of(&topology);
    for (node, own) in links.iter().enumerate() {
        assert!(own.len() == 6 && own.iter().all(|(_, line)| line.delay_us == 100_000), "{own:?}");
        let two = own.iter().flat_map(|(peer, _)| links[*peer].iter().map(|(far, _)| *far));
        let near: BTreeSet<usize> = own.iter().map(|(peer, _)| *peer).chain(two).chain([node]).collect();
        assert_eq!(near.len(), 25);
    }
}
