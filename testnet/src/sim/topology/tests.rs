use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Line, PRESETS, Topology};

mod bytes;
mod faults;
mod mesh;
mod shrink;
mod spread;

fn load(name: &str, seed: u64) -> Topology {
    Topology::load(name, seed).unwrap()
}

fn parse(text: &str) -> Topology {
    Topology::parse("test", text, 1).unwrap()
}

/// The other end and the link, for each node.
fn links_of(topology: &Topology) -> Vec<Vec<(usize, &Line)>> {
    let mut links = vec![Vec::new(); topology.nodes.len()];
    for line in &topology.lines {
        links[line.ends.0].push((line.ends.1, line));
        links[line.ends.1].push((line.ends.0, line));
    }
    links
}

fn is_one_part(topology: &Topology) -> bool {
    let links = links_of(topology);
    let (mut seen, mut queue) = (BTreeSet::from([0]), VecDeque::from([0]));
    while let Some(node) = queue.pop_front() {
        queue.extend(links[node].iter().map(|(peer, _)| *peer).filter(|peer| seen.insert(*peer)));
    }
    seen.len() == topology.nodes.len()
}

/// What the rest of the simulator may rely on.
fn check(topology: &Topology) {
    let name = &topology.name;
    assert!(is_one_part(topology), "{name} falls apart");
    let names: BTreeSet<&str> = topology.nodes.iter().map(|place| place.name.as_str()).collect();
    assert_eq!(names.len(), topology.nodes.len(), "{name}: names");
    assert!(topology.lines.is_sorted_by(|one, other| one.ends < other.ends), "{name}: sorted, no link twice");
    assert!(topology.lines.iter().all(|line| line.ends.0 < line.ends.1), "{name}: the lower end first");
    assert!(topology.lines.iter().all(|line| line.ends.1 < topology.nodes.len()), "{name}: ends are nodes");
}

#[test]
fn every_preset_is_one_part_from_every_seed() {
    for (name, _) in PRESETS {
        let seeds = if name == "fleet-10000-8z" { 1..=2 } else { 1..=20 };
        seeds.for_each(|seed| check(&load(name, seed)));
    }
}

#[test]
fn the_same_seed_gives_the_same_fleet_and_another_one_other_far_links() {
    let far = |topology: &Topology| -> BTreeSet<(usize, usize)> {
        let is_far = |line: &&Line| topology.nodes[line.ends.0].zone != topology.nodes[line.ends.1].zone;
        topology.lines.iter().filter(is_far).map(|line| line.ends).collect()
    };
    let (one, again, other) = (load("fleet-200-8z", 1), load("fleet-200-8z", 1), load("fleet-200-8z", 2));
    assert_eq!(one, again);
    assert_eq!(one.nodes, other.nodes);
    let (far_one, far_other) = (far(&one), far(&other));
    assert!(far_one.intersection(&far_other).count() * 10 < far_one.len(), "another seed, about the same far links");
}

/// A seed names a run, also in a year: what it makes is not to change by accident.
#[test]
fn fleets_of_a_seed_are_pinned() {
    let sum = |topology: &Topology| {
        topology.lines.iter().fold(0u64, |sum, line| {
            let Line { ends, delay_us, jitter_us, rate, loss_ppm } = line;
            let words = [ends.0 as u64, ends.1 as u64, *delay_us, *jitter_us, *rate, u64::from(*loss_ppm)];
            words.iter().fold(sum, |sum, word| sum.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word)
        })
    };
    let sums: Vec<(&str, u64)> = PRESETS
        .iter()
        .filter(|(name, _)| *name != "fleet-10000-8z")
        .map(|(name, _)| (*name, sum(&load(name, 7))))
        .collect();
    let pinned = [
        ("lan-12", 7402370326282571127),
        ("balance", 15159425787952320436),
        ("bulk-long", 9338661873773010964),
        ("bulk-paths", 17410045974046082674),
        ("failover", 1105979641384810001),
        ("fleet-12-4z", 7973131348824261243),
        ("lab-25", 5731831744769643890),
        ("fleet-100-4z", 14725297973201858107),
        ("fleet-200-8z", 10058836540669128601),
        ("fleet-1000-8z", 7009189899598318418),
        ("glomers-25", 9395290901103167056),
        ("islands", 12514853234845717872),
        ("behind-nat", 2318038719944618777),
        ("line", 8577374456260519227),
        ("star-behind-nat", 6956104293040954951),
    ];
    assert_eq!(sums, pinned);
}

#[test]
fn the_fleets_of_eight_zones_stand_on_the_same_ground() {
    let ground = |name: &str| {
        let (_, text) = PRESETS.iter().find(|(preset, _)| *preset == name).unwrap();
        text[text.find("[within]").unwrap()..].to_owned()
    };
    assert_eq!(ground("fleet-1000-8z"), ground("fleet-200-8z"));
    assert_eq!(ground("fleet-1000-8z"), ground("fleet-10000-8z"));
}

#[test]
fn nodes_are_numbered_across_the_zones() {
    let topology = parse("[zones.b]\nnodes = 1\n[zones.a]\nnodes = 3\n[zones.c]\nnodes = 2");
    let names: Vec<&str> = topology.nodes.iter().map(|place| place.name.as_str()).collect();
    assert_eq!(names, ["a-0", "b-0", "c-0", "a-1", "c-1", "a-2"]);
    assert_eq!(topology.nodes[2].zone, "c");
}

#[test]
fn what_a_table_leaves_out_comes_from_the_wider_one() {
    let topology = parse(
        r#"
        [zones.a]
        nodes = 2
        [zones.b]
        nodes = 1
        [zones.c]
        nodes = 1
        [within]
        rate_mbit_s = 8
        [across]
        delay_ms = 30
        jitter_ms = 1.5
        loss_percent = 0.25
        [[between]]
        zones = ["c", "a"]
        delay_ms = 7
        rate_mbit_s = 0.5
        [[link]]
        between = ["c-0", "b-0"]
        jitter_ms = 0
        [[link]]
        between = ["a-1", "c-0"]
        delay_ms = 0.001
        "#,
    );
    let line = |ends, delay_us, jitter_us, rate, loss_ppm| Line { ends, delay_us, jitter_us, rate, loss_ppm };
    let expected = [
        line((0, 1), 30_000, 1_500, 0, 2_500),
        line((0, 2), 7_000, 1_500, 62_500, 2_500),
        line((0, 3), 200, 0, 1_000_000, 0),
        line((1, 2), 30_000, 0, 0, 2_500),
        line((1, 3), 30_000, 1_500, 0, 2_500),
        line((2, 3), 1, 1_500, 62_500, 2_500),
    ];
    assert_eq!(topology.lines, expected);
}

#[test]
fn nodes_add_their_own_parts_to_delays_but_not_to_said_ones() {
    let topology = parse(
        r#"
        [zones.a]
        nodes = 12
        [zones.b]
        nodes = 1
        access_ms = 0
        [within]
        delay_ms = 1
        access_ms = 5
        [mesh]
        kind = "full"
        [[link]]
        between = ["a-0", "a-1"]
        delay_ms = 3
        "#,
    );
    let (a_0, a_1, b_0) = (0, 2, 1);
    let delay: BTreeMap<(usize, usize), u64> = topology.lines.iter().map(|line| (line.ends, line.delay_us)).collect();
    assert_eq!(delay[&(a_0, a_1)], 3_000);
    let own = |node: usize| delay[&(node.min(b_0), node.max(b_0))] - 40_000;
    for ((one, other), delay_us) in delay.iter().filter(|(ends, _)| ends.0 != b_0 && ends.1 != b_0) {
        assert!((*one, *other) == (a_0, a_1) || *delay_us == 1_000 + own(*one) + own(*other));
    }
    let parts: BTreeSet<u64> = (2..13).map(own).collect();
    assert!(parts.len() == 11 && *parts.last().unwrap() <= 5_000, "{parts:?}");
}

#[test]
fn a_file_is_read_from_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two.toml");
    std::fs::write(&path, "[zones.a]\nnodes = 2").unwrap();
    let topology = Topology::load(path.to_str().unwrap(), 1).unwrap();
    assert_eq!((topology.nodes.len(), topology.lines.len()), (2, 1));
}
