//! How good the ways are that nodes choose on links that they measured: ten minutes of noise around the true delays, then a
//! tenth of the links becomes faster or slower.
//!
//! Both ends of each link probe it every two seconds, a probe takes the link's round trip and what a queue adds; the shipped
//! `Meter` decides what is announced. Every node's `Routes` hear the announcements of a second together. Then a way is
//! followed from node to node, as a request would be, that is never sent to a node it has been at.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use transport::{LinkState, Meter, PeerKey, Routes};

use super::super::report::quantile;
use super::{Said, key, state_of};
use crate::sim::random::Random;
use crate::sim::topology::{Line, Place, Topology};
use crate::sim::world::routes::{UNREACHED, shortest_ways};

const PROBE_S: u64 = 2;
/// Until then everything is measured for the first time.
const SETTLED_S: u64 = 30;
const NOISE_S: u64 = 630;
const NOISE_MINUTES: f64 = (NOISE_S - SETTLED_S) as f64 / 60.0;
/// A tenth of the links is another one since.
const END_S: u64 = 690;
/// Of so many probes one is late by a retransmission.
const LATE_ONE_IN: u64 = 500;
/// What a hop takes beside its link, microseconds, as `transport::LinkState::cost` has it.
const HOP_US: u32 = 500;
const WAYS: usize = 3;
/// Of so many nodes one looks at its ways with every announcement.
const WATCHED_ONE_IN: usize = 20;

/// What came of it, over all graphs.
pub(super) struct Judged {
    pub(super) stretch_mean: f64,
    pub(super) stretch_p99: f64,
    pub(super) changes_a_minute: f64,
    pub(super) announcements_a_minute: f64,
}

/// A graph in which each node is linked with others at random, over 1 to 100 ms.
pub(super) fn random_graph(nodes: usize, degree: usize, seed: u64) -> Topology {
    let mut random = Random::of(seed, 0x6772_6170);
    let places =
        (0..nodes).map(|node| Place { name: format!("any-{node}"), zone: "any".to_owned(), nat: None }).collect();
    let mut lines = BTreeMap::new();
    // A circle joins all; the rest is drawn.
    let circle = (0..nodes).map(|node| (node, (node + 1) % nodes));
    let drawn: Vec<(usize, usize)> =
        (0..nodes * (degree - 2) / 2).map(|_| (random.index(nodes), random.index(nodes))).collect();
    for (a, b) in circle.chain(drawn).filter(|(a, b)| a != b) {
        let ends = (a.min(b), a.max(b));
        let delay_us = 1_000 + random.below(99_000);
        lines.insert(ends, Line { ends, delay_us, jitter_us: 500, rate: 0, loss_ppm: 0 });
    }
    Topology { name: format!("random-{nodes}"), nodes: places, lines: lines.into_values().collect() }
}

/// What one node says anew.
struct Announcement {
    second: u64,
    node: usize,
    links: Vec<(PeerKey, transport::Cost)>,
}

/// All announcements in their order.
fn announcements(topology: &mut Topology, random: &mut Random) -> Vec<Announcement> {
    let mut meters: Vec<[Meter; 2]> = topology.lines.iter().map(|_| Default::default()).collect();
    let mut said: Said = vec![Vec::new(); topology.nodes.len()];
    let mut all = Vec::new();
    for second in (0..END_S).step_by(PROBE_S as usize) {
        if second == NOISE_S {
            for line in &mut topology.lines {
                let percent = if random.below(10) == 0 { 40 + random.below(161) } else { 100 };
                line.delay_us = (line.delay_us * percent / 100).max(50);
            }
        }
        let mut news = vec![false; topology.nodes.len()];
        for (line, meters) in topology.lines.iter().zip(&mut meters) {
            let ends = [line.ends, (line.ends.1, line.ends.0)];
            for ((from, to), meter) in ends.into_iter().zip(meters) {
                let mut rtt = 2 * line.delay_us + random.below(2 * line.jitter_us + 1) + random.below(300);
                if random.below(LATE_ONE_IN) == 0 {
                    rtt += 2 * line.delay_us + 50_000;
                }
                meter.answered(Duration::from_secs(second), rtt, false);
                if !meter.settle() {
                    continue;
                }
                let Some(is) = meter.announced() else { continue };
                let state = LinkState {
                    rtt_micros: is.rtt_micros,
                    jitter_micros: is.jitter_micros,
                    loss_ppm: is.loss_ppm,
                    ..state_of(line)
                };
                let (peer, cost) = (key(to), state.cost());
                match said[from].iter_mut().find(|(known, _)| *known == peer) {
                    Some(link) => link.1 = cost,
                    None => said[from].push((peer, cost)),
                }
                news[from] = true;
            }
        }
        let new = news.iter().enumerate().filter(|(_, news)| **news);
        all.extend(new.map(|(node, _)| Announcement { second, node, links: said[node].clone() }));
    }
    all
}

/// Next hops by destination, the one to be taken first.
type Hops = Vec<[u16; WAYS]>;

fn hops_of(routes: &Routes, nodes: usize) -> Hops {
    let number = |key: &PeerKey| u16::from_be_bytes([key.0[6], key.0[7]]);
    let hops = |to: usize| {
        let mut hops = [u16::MAX; WAYS];
        hops.iter_mut().zip(routes.ways(&key(to))).for_each(|(hop, way)| *hop = number(&way.next));
        hops
    };
    (0..nodes).map(hops).collect()
}

/// How often a node's next hops changed while there was only noise.
type Changes = u64;

/// A node hears all announcements: its ways at the end, and its changes. One that is not watched looks at its ways only at
/// the ends of the phases, which saves most of the time.
fn heard_by(node: usize, nodes: usize, announcements: &[Announcement], is_watched: bool) -> (Hops, Changes) {
    let mut routes = Routes::new(key(node));
    let mut firsts: BTreeMap<PeerKey, Option<PeerKey>> = BTreeMap::new();
    let mut changes = 0;
    let mut batches = announcements.chunk_by(|one, next| one.second == next.second).peekable();
    while let Some(batch) = batches.next() {
        batch.iter().for_each(|news| routes.report(key(news.node), &news.links));
        let phase = |news: &Announcement| (news.second >= SETTLED_S, news.second >= NOISE_S);
        let ends_phase = batches.peek().is_none_or(|next| phase(&next[0]) != phase(&batch[0]));
        if !is_watched && !ends_phase {
            continue;
        }
        let is_noise = phase(&batch[0]) == (true, false);
        for to in routes.update() {
            let first = routes.ways(&to).first().map(|way| way.next);
            let before = firsts.insert(to, first).flatten();
            changes += u64::from(is_noise && before != first);
        }
    }
    (hops_of(&routes, nodes), changes)
}

/// What the ways that are followed take, by destination, beside the best there are. A node that knows no way to whom the
/// request has not been at hands it back, which takes time too.
fn stretches(from: usize, hops: &[Hops], links: &[Vec<(u16, u32)>]) -> anyhow::Result<Vec<f64>> {
    let best = shortest_ways(links, from);
    let mut stretches = Vec::with_capacity(best.len());
    for (to, (shortest, _)) in best.iter().enumerate().filter(|(to, (best, _))| *to != from && *best != UNREACHED) {
        let mut visited = vec![from as u16];
        let mut way: Vec<(usize, u32)> = vec![(from, 0)];
        let mut took = 0;
        while let Some((at, over)) = way.last().copied().filter(|(at, _)| *at != to) {
            let Some(next) = hops[at][to].iter().find(|next| **next != u16::MAX && !visited.contains(next)) else {
                took += over;
                way.pop();
                continue;
            };
            let link = links[at].iter().find(|(peer, _)| peer == next).context("a next hop is a neighbour")?;
            took += link.1;
            visited.push(*next);
            way.push((usize::from(*next), link.1));
        }
        anyhow::ensure!(!way.is_empty(), "no way from {from} to {to}");
        stretches.push(f64::from(took) / f64::from(*shortest));
    }
    Ok(stretches)
}

/// Lets all nodes of these fleets measure, announce and choose.
pub(super) fn judge(topologies: &[Topology], seed: u64) -> anyhow::Result<Judged> {
    let (mut stretch, mut changes, mut announced) = (Vec::new(), Vec::new(), Vec::new());
    for (number, topology) in (0..).zip(topologies) {
        let mut topology = topology.clone();
        let nodes = topology.nodes.len();
        let said = announcements(&mut topology, &mut Random::of(seed + number, 0x6e6f_6973));
        let during_noise = said.iter().filter(|news| (SETTLED_S..NOISE_S).contains(&news.second)).count();
        announced.push(during_noise as f64 / nodes as f64 / NOISE_MINUTES);
        let mut hops = Vec::with_capacity(nodes);
        for node in 0..nodes {
            let is_watched = node % WATCHED_ONE_IN == 0;
            let (ways, changed) = heard_by(node, nodes, &said, is_watched);
            hops.push(ways);
            changes.extend(is_watched.then_some(changed as f64 / NOISE_MINUTES));
        }
        let mut links = vec![Vec::new(); nodes];
        for line in &topology.lines {
            let cost = u32::try_from(line.delay_us)? + HOP_US;
            links[line.ends.0].push((u16::try_from(line.ends.1)?, cost));
            links[line.ends.1].push((u16::try_from(line.ends.0)?, cost));
        }
        for from in 0..nodes {
            stretch.extend(stretches(from, &hops, &links)?);
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    Ok(Judged {
        stretch_mean: mean(&stretch),
        stretch_p99: quantile(&stretch, 0.99),
        changes_a_minute: mean(&changes),
        announcements_a_minute: mean(&announced),
    })
}
