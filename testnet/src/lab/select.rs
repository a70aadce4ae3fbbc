//! Which nodes a person means: `NAME`, `zone:NAME`, `*`, `#NUMBER`, `part:1/3`.

use super::failure::Failure;
use crate::sim::topology::Topology;

/// Most parts that a fleet is divided into.
const PARTS_MAX: usize = 64;

/// The nodes that a word means, in order of number.
///
/// `*` is all. `part:2/3` is the second of three parts of about equal size, which keep zones together as far as they can.
pub(crate) fn nodes(topology: &Topology, word: &str) -> Result<Vec<usize>, Failure> {
    let all = 0..topology.nodes.len();
    if word == "*" {
        return Ok(all.collect());
    }
    let chosen: Vec<usize> = if let Some(zone) = word.strip_prefix("zone:") {
        all.filter(|node| topology.nodes[*node].zone == zone).collect()
    } else if let Some(number) = word.strip_prefix('#') {
        all.filter(|node| number.parse() == Ok(*node)).collect()
    } else if let Some(part) = word.strip_prefix("part:") {
        part_of(topology, part).unwrap_or_default()
    } else {
        all.filter(|node| topology.nodes[*node].name == word).collect()
    };
    match chosen.is_empty() {
        true => Err(unknown(topology, word)),
        false => Ok(chosen),
    }
}

fn part_of(topology: &Topology, part: &str) -> Option<Vec<usize>> {
    let (number, of) = part.split_once('/')?;
    let (number, of): (usize, usize) = (number.parse().ok()?, of.parse().ok()?);
    if number == 0 || number > of || of > PARTS_MAX {
        return None;
    }
    let mut order: Vec<usize> = (0..topology.nodes.len()).collect();
    order.sort_by_key(|node| (&topology.nodes[*node].zone, *node));
    let edge = |number: usize| order.len() * number / of;
    let mut chosen = order[edge(number - 1)..edge(number)].to_vec();
    chosen.sort_unstable();
    Some(chosen)
}

fn unknown(topology: &Topology, word: &str) -> Failure {
    let first = &topology.nodes[0];
    let names: Vec<&str> = topology.nodes.iter().map(|place| place.name.as_str()).collect();
    Failure::new(format!("{word:?} means no node"))
        .cause(format!(
            "a node is one of {}; others are \"zone:{}\", \"#0\", \"part:1/2\" and \"*\"",
            names.join(" "),
            first.zone
        ))
        .hint("testnet lab ps")
}

/// The pairs between which something is done: all of one side with all of the other. `*` beside something else is
/// everyone else.
pub(crate) fn pairs(topology: &Topology, one: &str, other: &str) -> Result<Vec<(usize, usize)>, Failure> {
    let (mut from, mut to) = (nodes(topology, one)?, nodes(topology, other)?);
    match (one, other) {
        ("*", "*") => {}
        ("*", _) => from.retain(|node| !to.contains(node)),
        (_, "*") => to.retain(|node| !from.contains(node)),
        _ => {}
    }
    let pairs = from.iter().flat_map(|a| to.iter().map(|b| (*a, *b)));
    let is_linked = |a: usize, b: usize| topology.lines.iter().any(|line| line.ends == (a.min(b), a.max(b)));
    let pairs: Vec<(usize, usize)> = pairs.filter(|(a, b)| is_linked(*a, *b)).collect();
    match pairs.is_empty() {
        true => Err(Failure::new(format!("there is no line between {one:?} and {other:?}"))
            .cause(format!("the topology {} links them with others only", topology.name))
            .hint(format!("testnet lab cut {} '*'", topology.nodes[from.first().copied().unwrap_or(0)].name))),
        false => Ok(pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Topology {
        Topology::load("fleet-100-4z", 1).expect("a preset")
    }

    #[test]
    fn words_mean_nodes() {
        let topology = fleet();
        let name = topology.nodes[5].name.clone();
        assert_eq!(nodes(&topology, &name), Ok(vec![5]));
        assert_eq!(nodes(&topology, "#7"), Ok(vec![7]));
        assert_eq!(nodes(&topology, "*").map(|all| all.len()), Ok(100));
        let tokyo = nodes(&topology, "zone:tokyo").expect("a zone");
        assert_eq!(tokyo.len(), 25);
        assert!(tokyo.iter().all(|node| topology.nodes[*node].zone == "tokyo"));
        for word in ["nobody", "zone:mars", "#100", "part:0/2", "part:3/2", "part:1/0", "part:x", ""] {
            assert!(nodes(&topology, word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn parts_cover_all_and_keep_zones_together() {
        let topology = fleet();
        let part = |word: &str| nodes(&topology, word).expect("a part");
        let mut all: Vec<usize> = [part("part:1/3"), part("part:2/3"), part("part:3/3")].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        let zones = |word| {
            part(word).iter().map(|node| topology.nodes[*node].zone.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        assert!(zones("part:1/2").is_disjoint(&zones("part:2/2")));
    }

    #[test]
    fn pairs_are_lines_and_everyone_else_is_not_oneself() {
        let topology = fleet();
        let tokyo = nodes(&topology, "zone:tokyo").expect("a zone");
        for (a, b) in pairs(&topology, "zone:tokyo", "*").expect("it has links") {
            assert!(tokyo.contains(&a) && !tokyo.contains(&b));
        }
        for (a, b) in pairs(&topology, "*", "zone:tokyo").expect("it has links") {
            assert!(!tokyo.contains(&a) && tokyo.contains(&b));
        }
        assert_eq!(pairs(&topology, "*", "*").expect("all").len(), topology.lines.len() * 2);
        assert!(pairs(&topology, "#0", "#0").is_err());
    }
}
