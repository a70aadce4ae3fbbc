//! `bench mesh`: the route search that every node runs, and how good what it chooses is on measured links.
//!
//! A fleet of the topology is laid out as `link` documents would tell it; the shipped `transport::Routes` of its nodes are
//! fed with that. Searches are timed on one of them, each after a change of one link, beside a plain Dijkstra over the
//! same graph. What is chosen is judged hop by hop against the best way there is (`noise`). Virtual time except for searches.

use std::time::Instant;

use clap::Args;
use transport::{Cost, LinkKind, LinkState, PeerKey, Routes};

use self::noise::Judged;
use super::report::{Report, Row, median, quantile};
use super::{Format, note};
use crate::sim::random::Random;
use crate::sim::topology::{Line, Topology};
use crate::sim::world::routes::shortest_ways;

mod noise;

const SEARCH_MS_1000: f64 = 2.0;
const SEARCH_MS_10000: f64 = 30.0;
const STRETCH_MEAN: f64 = 1.05;
const STRETCH_P99: f64 = 1.3;
const CHANGES_A_MINUTE: f64 = 1.0;

/// `bench mesh`
#[derive(Args)]
pub(crate) struct MeshArgs {
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
    /// Links that change, one after the other, in each fleet
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    changes: u64,
    /// Random graphs on which what is chosen is judged
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    graphs: u64,
    /// Decides everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// What each node says of its links.
type Said = Vec<Vec<(PeerKey, Cost)>>;

fn key(node: usize) -> PeerKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(node as u64).to_be_bytes());
    PeerKey(bytes)
}

/// What both ends would say of a line that was measured without error.
fn state_of(line: &Line) -> LinkState {
    LinkState {
        rtt_micros: 2 * line.delay_us,
        jitter_micros: line.jitter_us,
        loss_ppm: u64::from(line.loss_ppm),
        kind: LinkKind::Wan,
        is_metered: false,
        is_on_battery: false,
        is_busy: false,
    }
}

fn said(topology: &Topology) -> Said {
    let mut said: Said = vec![Vec::new(); topology.nodes.len()];
    for line in &topology.lines {
        let ((a, b), cost) = (line.ends, state_of(line).cost());
        said[a].push((key(b), cost));
        said[b].push((key(a), cost));
    }
    said
}

/// What a node knows that was told everything.
fn routes_of(node: usize, said: &Said) -> Routes {
    let mut routes = Routes::new(key(node));
    said.iter().enumerate().for_each(|(other, links)| routes.report(key(other), links));
    routes.update();
    routes
}

fn set_cost(said: &mut Said, (a, b): (usize, usize), cost: Cost) {
    for (from, to) in [(a, b), (b, a)] {
        if let Some(link) = said[from].iter_mut().find(|(peer, _)| *peer == key(to)) {
            link.1 = cost;
        }
    }
}

/// Milliseconds of the searches after changes of one link each, and of a plain search of the same graph.
fn search_times(args: &MeshArgs, name: &str) -> anyhow::Result<(Vec<f64>, f64)> {
    let topology = Topology::load(name, args.seed)?;
    let mut random = Random::of(args.seed, 0x6d65_7368);
    let mut said = said(&topology);
    let mut routes = routes_of(0, &said);
    let mut times = Vec::new();
    for _ in 0..args.changes {
        let line = &topology.lines[random.index(topology.lines.len())];
        let (a, b) = line.ends;
        // From half to twice what it was.
        let cost = u64::from(state_of(line).cost().micros()) * (50 + random.below(151)) / 100;
        set_cost(&mut said, line.ends, Cost::from_micros(cost));
        let began = Instant::now();
        routes.report(key(a), &said[a]);
        routes.report(key(b), &said[b]);
        routes.update();
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let mut graph = vec![Vec::new(); topology.nodes.len()];
    for line in &topology.lines {
        let ((a, b), cost) = (line.ends, state_of(line).cost().micros());
        graph[a].push((u16::try_from(b)?, cost));
        graph[b].push((u16::try_from(a)?, cost));
    }
    let plain = (0..20).map(|_| {
        let began = Instant::now();
        std::hint::black_box(shortest_ways(std::hint::black_box(&graph), 0));
        began.elapsed().as_secs_f64() * 1000.0
    });
    let plain = median(&plain.collect::<Vec<f64>>());
    Ok((times, plain))
}

fn search_rows(args: &MeshArgs, nodes: &str, topology: &str, target_ms: f64) -> anyhow::Result<Vec<Row>> {
    let (times, plain) = search_times(args, topology)?;
    let name = |what: &str| format!("{nodes} nodes: routes after a change of a link, {what}");
    Ok(vec![
        Row::new(name("p50"), "ms", median(&times)).at_most(target_ms).beside(plain),
        Row::new(name("p99"), "ms", quantile(&times, 0.99)).at_most(target_ms).beside(plain),
    ])
}

fn judged_rows(what: &str, judged: &Judged) -> Vec<Row> {
    let name = |of: &str| format!("{what}: {of}");
    vec![
        Row::new(name("stretch, mean"), "×", judged.stretch_mean).at_most(STRETCH_MEAN),
        Row::new(name("stretch, p99"), "×", judged.stretch_p99).at_most(STRETCH_P99),
        Row::new(name("next hops that change with noise only"), "/min a node", judged.changes_a_minute)
            .at_most(CHANGES_A_MINUTE),
        Row::new(name("announcements with noise only"), "/min a node", judged.announcements_a_minute),
    ]
}

/// Runs the bench.
pub(super) fn bench(args: &MeshArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("mesh").beside("TIMES A PLAIN DIJKSTRA");
    note("==> searches after a change of one link");
    report.extend(search_rows(args, "1,000", "fleet-1000-8z", SEARCH_MS_1000)?);
    report.extend(search_rows(args, "10,000", "fleet-10000-8z", SEARCH_MS_10000)?);
    note("==> what is chosen on measured links, from every node to every other");
    let zones = (0..args.graphs).map(|graph| Topology::load("fleet-1000-8z", args.seed + graph));
    let zones = noise::judge(&zones.collect::<Result<Vec<_>, _>>()?, args.seed)?;
    report.extend(judged_rows("1,000 nodes in 8 zones", &zones));
    let random: Vec<Topology> =
        (0..args.graphs).map(|graph| noise::random_graph(1_000, 12, args.seed + graph)).collect();
    report.extend(judged_rows("1,000 nodes linked at random", &noise::judge(&random, args.seed)?));
    Ok(report)
}
