//! A change's tree and its sums, as text.

use std::collections::BTreeMap;

use super::lines::Header;
use super::spread::Visit;
use super::tree::Gathered;
use super::{ChangeId, quantile_us};
use crate::sim::topology::Place;

/// Nodes further down are drawn at this depth, and name their parent: a chain of 10,000 nodes stays readable.
const DEPTH_DRAWN_MAX: usize = 40;
/// So many links or nodes are listed in a sum.
const LISTED_MAX: usize = 16;

/// The whole text, for a change of which something is known.
pub(super) fn tree(header: &Header, change: &ChangeId, gathered: &Gathered) -> String {
    let mut text = heading(header, change, gathered);
    let visits = gathered.spread.visits();
    if !visits.is_empty() {
        text.push('\n');
        text.push_str(&table(header, gathered, &visits));
    }
    text.push('\n');
    for (label, value) in sums(header, gathered) {
        text.push_str(format!("{label:<13}{value}").trim_end());
        text.push('\n');
    }
    text
}

fn heading(header: &Header, change: &ChangeId, gathered: &Gathered) -> String {
    let Header { topology, seed, nodes, .. } = header;
    let ChangeId { log, seq, hash } = change;
    let written = match gathered.spread.written() {
        Some((node, at_us)) => format!("on {}, {} ms into the run", nodes[node].name, ms(at_us)),
        None => "not in this trace: times count from the first node that had it".to_owned(),
    };
    format!(
        "change       {hash}\nlog          {log}:{seq}\nrun          {topology}, seed {seed}\nwritten      {written}\n"
    )
}

/// One line a node: its place in the tree, its zone, and the times in milliseconds.
fn table(header: &Header, gathered: &Gathered, visits: &[Visit]) -> String {
    let spread = &gathered.spread;
    let first_us = spread.first_us().unwrap_or_default();
    let mut rows = vec![["NODE", "ZONE", "MS AFTER WRITE", "AFTER PARENT", "ON THE LINK", ""].map(str::to_owned)];
    // For each level above, whether its line goes on.
    let mut open = Vec::new();
    for visit in visits {
        let Place { name, zone, .. } = &header.nodes[visit.node];
        let parent = visit.arrival.from.map(|from| (from, spread.arrivals().get(&from)));
        let (mut after_parent, mut on_link, mut remark) = (String::new(), String::new(), String::new());
        if let Some((from, arrival)) = parent {
            let from_name = &header.nodes[from].name;
            after_parent = arrival
                .and_then(|arrival| visit.arrival.at_us.checked_sub(arrival.at_us))
                .map_or_else(|| "-".to_owned(), ms);
            on_link = gathered.link_us.get(&(from, visit.node)).map_or_else(|| "-".to_owned(), |us| ms(*us));
            remark = match visit.depth {
                0 if arrival.is_none() => format!("from {from_name}, which did not keep it"),
                0 => format!("from {from_name}, further down"),
                depth if depth > DEPTH_DRAWN_MAX => format!("level {depth}, from {from_name}"),
                _ => String::new(),
            };
        }
        let after_write = ms(visit.arrival.at_us.saturating_sub(first_us));
        let place = format!("{}{name}", guides(&mut open, visit));
        rows.push([place, zone.clone(), after_write, after_parent, on_link, remark]);
    }
    aligned(&rows)
}

/// The lines before a node's name.
fn guides(open: &mut Vec<bool>, visit: &Visit) -> String {
    let depth = visit.depth.min(DEPTH_DRAWN_MAX);
    open.truncate(depth.saturating_sub(1));
    let mut text: String = open.iter().map(|open| if *open { "│  " } else { "   " }).collect();
    if depth > 0 {
        text.push_str(if visit.last { "└─ " } else { "├─ " });
        open.push(!visit.last);
    }
    text
}

/// Columns; those with numbers to the right.
fn aligned(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if (2..5).contains(&column) { (gap, String::new()) } else { (String::new(), gap) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What it took, each with its label; further lines of the same sum have none.
fn sums(header: &Header, gathered: &Gathered) -> Vec<(&'static str, String)> {
    let name = |node: &usize| header.nodes[*node].name.as_str();
    let (arrivals, nodes) = (gathered.spread.arrivals(), &header.nodes);
    let mut sums = vec![("reached", format!("{} of {} nodes", arrivals.len(), nodes.len()))];
    let missed: Vec<&str> = (0..nodes.len()).filter(|node| !arrivals.contains_key(node)).map(|n| name(&n)).collect();
    if !missed.is_empty() {
        sums.push(("not reached", listed(&missed)));
    }
    let mut delays: Vec<u64> = gathered.spread.delays_us().map(|(_, delay_us)| delay_us).collect();
    delays.sort_unstable();
    if let Some(max) = delays.last() {
        let [p50, p99] = [0.5, 0.99].map(|share| ms(quantile_us(&delays, share)));
        sums.push(("delay", format!("p50 {p50} ms, p99 {p99} ms, max {} ms", ms(*max))));
    }
    let again: u64 = gathered.again.values().sum();
    sums.push(("copies", format!("{} sent, {} came where it was not", gathered.sent, gathered.came)));
    sums.push(("duplicates", format!("{again} came where it was already")));
    let links = most(&gathered.again);
    sums.extend(links.shown.iter().map(|((from, to), times)| ("", format!("{times} × {} → {}", name(from), name(to)))));
    sums.extend(links.rest("links"));
    let refused: u64 = gathered.refused.values().sum();
    sums.push(("refused", if refused == 0 { "nowhere".to_owned() } else { format!("{refused} ×") }));
    let refusals = most(&gathered.refused);
    sums.extend(refusals.shown.iter().map(|((node, peer), times)| {
        let from = peer.as_ref().map_or_else(String::new, |peer| format!(", brought by {}", name(peer)));
        ("", format!("{times} × on {}{from}", name(node)))
    }));
    sums.extend(refusals.rest("nodes and peers"));
    if gathered.stored_again > 0 {
        sums.push(("stored anew", format!("{} ×", gathered.stored_again)));
    }
    sums
}

struct Most<K> {
    shown: Vec<(K, u64)>,
    rest: usize,
}

impl<K> Most<K> {
    fn rest(&self, what: &str) -> Option<(&'static str, String)> {
        (self.rest > 0).then(|| ("", format!("and {} {what} more", self.rest)))
    }
}

/// The most frequent ones first; among equals the lower first.
fn most<K: Copy + Ord>(counts: &BTreeMap<K, u64>) -> Most<K> {
    let mut shown: Vec<(K, u64)> = counts.iter().map(|(key, count)| (*key, *count)).collect();
    shown.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
    let rest = shown.len().saturating_sub(LISTED_MAX);
    shown.truncate(LISTED_MAX);
    Most { shown, rest }
}

fn listed(names: &[&str]) -> String {
    match names.len().checked_sub(LISTED_MAX) {
        Some(rest) if rest > 0 => format!("{} and {rest} more", names[..LISTED_MAX].join(", ")),
        _ => names.join(", "),
    }
}

/// Milliseconds, to 10 µs.
fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1000.0)
}
