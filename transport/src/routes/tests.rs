//! Routes against a plain search for every neighbour, on small graphs that change.

use proptest::prelude::*;

use super::*;

fn key(number: u8) -> PeerKey {
    PeerKey([number; 32])
}

fn cost(micros: u64) -> Cost {
    Cost::from_micros(micros)
}

/// A mesh of links between numbered nodes, of which 0 is this one.
#[derive(Debug, Clone, Default)]
struct Mesh(BTreeMap<(u8, u8), u64>);

impl Mesh {
    fn of(links: &[(u8, u8, u64)]) -> Mesh {
        Mesh(links.iter().map(|(a, b, micros)| ((*a.min(b), *a.max(b)), *micros)).collect())
    }

    fn said_by(&self, node: u8) -> Vec<(PeerKey, Cost)> {
        let ends = self.0.iter().filter(|((a, b), _)| *a == node || *b == node);
        ends.map(|((a, b), micros)| (key(if *a == node { *b } else { *a }), cost(*micros))).collect()
    }

    fn routes(&self, nodes: u8) -> Routes {
        let mut routes = Routes::new(key(0));
        (0..nodes).for_each(|node| routes.report(key(node), &self.said_by(node)));
        routes.update();
        routes
    }

    /// The cheapest way between two nodes that avoids this one, by trying every link as often as there are nodes
    /// (Bellman 1958, Ford 1956).
    fn distance(&self, from: u8, to: u8) -> Option<u64> {
        let mut best: BTreeMap<u8, u64> = BTreeMap::from([(from, 0)]);
        for _ in 0..=self.0.len() {
            for ((a, b), micros) in self.0.iter().filter(|((a, _), _)| *a != 0) {
                for (a, b) in [(a, b), (b, a)] {
                    if let Some(over) = best.get(a).map(|so_far| so_far + micros) {
                        let known = best.entry(*b).or_insert(over);
                        *known = over.min(*known);
                    }
                }
            }
        }
        best.get(&to).copied()
    }

    /// What the ways to a node over each neighbour cost, the cheapest first.
    fn costs(&self, to: u8) -> Vec<u64> {
        let neighbours = self.0.iter().filter(|((a, _), _)| *a == 0);
        let mut costs: Vec<u64> =
            neighbours.filter_map(|((_, first), micros)| Some(micros + self.distance(*first, to)?)).collect();
        costs.sort_unstable();
        costs.truncate(WAYS);
        costs
    }
}

/// 0 and 4 are joined over 1 (10 ms), over 2 (12 ms) and over 3 (30 ms); 1 and 2 are linked as well.
fn diamond() -> Mesh {
    Mesh::of(&[
        (0, 1, 5_000),
        (1, 4, 5_000),
        (0, 2, 6_000),
        (2, 4, 6_000),
        (0, 3, 15_000),
        (3, 4, 15_000),
        (1, 2, 2_000),
    ])
}

fn nexts(routes: &Routes, to: u8) -> Vec<u8> {
    routes.ways(&key(to)).iter().map(|way| way.next.0[0]).collect()
}

#[test]
fn the_cheapest_way_comes_first_and_its_backups_avoid_it() {
    let routes = diamond().routes(5);
    assert_eq!(nexts(&routes, 4), [1, 2, 3]);
    let costs: Vec<u32> = routes.ways(&key(4)).iter().map(|way| way.cost.micros()).collect();
    assert_eq!(costs, [10_000, 12_000, 30_000]);
    assert!(routes.ways(&key(4)).iter().take(2).all(|way| way.is_loop_free));
    let path = routes.path(&key(2), &key(4)).expect("there is one");
    assert_eq!(path, [(key(2), cost(6_000)), (key(4), cost(6_000))]);
}

#[test]
fn whose_own_way_leads_back_is_no_parent() {
    // 3 has its way to 1 over 0.
    let routes = Mesh::of(&[(0, 1, 1_000), (0, 3, 1_000), (1, 2, 9_000), (2, 3, 9_000)]).routes(4);
    let ways = routes.ways(&key(1));
    assert_eq!((ways[0].next, ways[0].is_loop_free), (key(1), true));
    assert_eq!((ways[1].next, ways[1].is_loop_free), (key(3), false));
}

/// The way over 3 costs what it did, but more of it is the own link: 3 does not go back over 0 any more.
#[test]
fn costs_that_shift_along_a_way_change_whose_way_leads_back() {
    let mut routes = Mesh::of(&[(0, 1, 1_000), (0, 3, 1_000), (1, 3, 5_000)]).routes(4);
    assert_eq!(routes.ways(&key(1)).last().map(|way| (way.next, way.is_loop_free)), Some((key(3), false)));
    let shifted = Mesh::of(&[(0, 1, 1_000), (0, 3, 4_000), (1, 3, 2_000)]);
    (0..4).for_each(|node| routes.report(key(node), &shifted.said_by(node)));
    assert!(routes.update().contains(&key(1)));
    assert_eq!(routes.ways(&key(1)).last().map(|way| (way.next, way.is_loop_free)), Some((key(3), true)));
}

#[test]
fn a_link_counts_where_both_ends_say_so_at_the_dearer_cost() {
    let mut routes = Routes::new(key(0));
    routes.report(key(0), &[(key(1), cost(1_000))]);
    routes.report(key(1), &[(key(0), cost(1_000)), (key(2), cost(1))]);
    routes.update();
    assert!(nexts(&routes, 2).is_empty(), "2 says nothing of it");
    routes.report(key(2), &[(key(1), cost(7_000)), (key(3), cost(1))]);
    routes.report(key(3), &[]);
    assert_eq!(routes.update(), [key(2)]);
    assert_eq!(routes.ways(&key(2))[0].cost, cost(8_000));
    assert_eq!(routes.links(), [(key(0), key(1), cost(1_000)), (key(1), key(2), cost(7_000))]);
    routes.report(key(1), &[]);
    routes.update();
    assert!(nexts(&routes, 2).is_empty());
    assert_eq!(nexts(&routes, 1), [1], "a session has two ends, whatever a document says");
}

#[test]
fn noise_moves_nothing_and_a_better_way_does() {
    let mut mesh = diamond();
    mesh.0.remove(&(1, 2));
    let mut routes = mesh.routes(5);
    let mut tell = |routes: &mut Routes, micros| {
        mesh.0.insert((2, 4), micros);
        routes.report(key(2), &mesh.said_by(2));
        routes.report(key(4), &mesh.said_by(4));
        let has_changed = routes.update().contains(&key(4));
        (nexts(routes, 4)[0], has_changed)
    };
    assert_eq!(tell(&mut routes, 3_500), (1, false), "9.5 ms instead of 10 ms");
    assert_eq!(tell(&mut routes, 1_000), (2, true), "7 ms instead of 10 ms");
    assert_eq!(tell(&mut routes, 4_500), (2, false), "10.5 ms instead of 10 ms");
    assert_eq!(tell(&mut routes, 9_000), (1, true), "15 ms instead of 10 ms");
}

#[test]
fn what_cannot_matter_costs_no_search() {
    let mut mesh = diamond();
    let mut routes = mesh.routes(5);
    mesh.0.insert((3, 4), 16_000);
    routes.report(key(3), &mesh.said_by(3));
    assert!(routes.is_stale(), "the third way to 4 uses it");
    routes.update();
    let far = Mesh::of(&[(5, 6, 1_000)]);
    routes.report(key(5), &far.said_by(5));
    routes.report(key(6), &far.said_by(6));
    assert!(!routes.is_stale(), "no way leads there");
}

#[test]
fn absurd_reports_are_cut() {
    let mut routes = Routes::new(key(0));
    routes.report(key(1), &[(key(1), cost(1)), (key(0), cost(1))]);
    let many: Vec<(PeerKey, Cost)> = (0..1_000_u16)
        .map(|number| {
            let mut peer = [9; 32];
            peer[..2].copy_from_slice(&number.to_be_bytes());
            (PeerKey(peer), Cost::MAX)
        })
        .collect();
    routes.report(key(2), &many);
    assert!(routes.keys.len() <= 3 + MAX_LINKS, "{} nodes", routes.keys.len());
    routes.report(key(0), &[(key(1), Cost::MAX), (key(2), Cost::MAX)]);
    routes.report(many[0].0, &[(key(2), Cost::MAX)]);
    routes.update();
    assert_eq!(routes.ways(&key(1))[0].cost, Cost::MAX);
    assert!(routes.ways(&PeerKey([77; 32])).is_empty() && routes.path(&key(1), &key(2)).is_none());
}

const NODES: u8 = 9;

fn link() -> impl Strategy<Value = (u8, u8, u64)> {
    // Few different costs, so that ways of equal cost are common.
    (0..NODES, 0..NODES, 1_u64..6).prop_map(|(a, b, steps)| (a, b, steps * 1_000))
}

fn links() -> impl Strategy<Value = Vec<(u8, u8, u64)>> {
    proptest::collection::vec(link().prop_filter("a link has two ends", |(a, b, _)| a != b), 0..28)
}

/// A change of one link: gone where the last is none.
fn change() -> impl Strategy<Value = (u8, u8, Option<u64>)> {
    (link().prop_filter("a link has two ends", |(a, b, _)| a != b), any::<bool>())
        .prop_map(|((a, b, micros), stays)| (a, b, stays.then_some(micros)))
}

fn costs_of(routes: &Routes, to: u8) -> Vec<u64> {
    let mut costs: Vec<u64> = routes.ways(&key(to)).iter().map(|way| u64::from(way.cost.micros())).collect();
    costs.sort_unstable();
    costs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// After any history of changes, the ways cost what a plain search for each neighbour finds; and the one taken is within
    /// its bound of the best.
    #[test]
    fn three_ways_are_the_cheapest_there_are(
        first in links(),
        changes in proptest::collection::vec((change(), any::<bool>()), 0..12),
    ) {
        let mut mesh = Mesh::of(&first);
        let mut routes = mesh.routes(NODES);
        for ((a, b, micros), updates) in changes {
            let ends = (a.min(b), a.max(b));
            match micros {
                Some(micros) => mesh.0.insert(ends, micros),
                None => mesh.0.remove(&ends),
            };
            routes.report(key(a), &mesh.said_by(a));
            routes.report(key(b), &mesh.said_by(b));
            if updates {
                routes.update();
            }
        }
        routes.update();
        for to in 1..NODES {
            let expected = mesh.costs(to);
            prop_assert_eq!(costs_of(&routes, to), expected.clone(), "to {}", to);
            if let (Some(taken), Some(best)) = (routes.ways(&key(to)).first(), expected.first()) {
                let micros = u64::from(taken.cost.micros());
                prop_assert!(micros <= best + best / 8 + 1_000);
                let path = routes.path(&taken.next, &key(to)).expect("there is a way");
                prop_assert_eq!(path.iter().map(|(_, cost)| u64::from(cost.micros())).sum::<u64>(), micros);
                prop_assert_eq!(path.last().map(|(end, _)| *end), Some(key(to)));
            }
        }
    }

    /// Where a neighbour is called loop-free, its own best way does not lead over this node.
    #[test]
    fn loop_free_neighbours_go_elsewhere(first in links()) {
        let mesh = Mesh::of(&first);
        let routes = mesh.routes(NODES);
        for to in 1..NODES {
            let Some(best) = mesh.costs(to).first().copied() else { continue };
            for way in routes.ways(&key(to)) {
                let next = way.next.0[0];
                let link = mesh.0[&(0, next)];
                let without = mesh.distance(next, to).expect("the way leads there");
                prop_assert_eq!(way.is_loop_free, without < link + best, "to {} over {}", to, next);
            }
        }
    }
}
