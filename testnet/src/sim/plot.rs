//! A run as a picture: how long changes took to the nodes, and the tree of one of them over the zones.

use std::collections::BTreeMap;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::sim::topology::Topology;
use crate::sim::trace::{Happened, Spread, What};

mod delays;
#[cfg(test)]
mod tests;
mod zones;

/// The picture's size, pixels; it scales.
const SIZE: (u32, u32) = (2000, 1100);
/// Above both halves, pixels.
const TITLE_HEIGHT: u32 = 64;
/// Text, pixels.
const TEXT: i32 = 24;
/// Deliveries that are kept, 40 bytes each or so. Changes that begin after them are counted and not drawn.
const DELIVERIES_MAX: usize = 20_000_000;

/// Colours that are told apart, by people who see fewer as well; more zones than these begin again.
const ZONE_COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(117, 76, 36),
    RGBColor(148, 103, 189),
    RGBColor(188, 189, 34),
    RGBColor(227, 26, 28),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlotError {
    /// No change that was seen written reached another node.
    #[error("no change reached another node: there is nothing to draw")]
    Nothing,
    /// The library refused.
    #[error("drawing failed: {0}")]
    Drawing(String),
}

/// Where the changes of a run went, and when. Give it every event, or those from which on it should count: what it has
/// not seen written it leaves out.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// By hash.
    changes: BTreeMap<String, Change>,
    kept: usize,
    /// Changes past the limit.
    left_out: u64,
}

#[derive(Debug)]
struct Change {
    log: String,
    seq: u64,
    spread: Spread,
}

impl Deliveries {
    /// Takes an event.
    pub(crate) fn happened(&mut self, happened: &Happened) {
        let begins = happened.what == What::Written && !self.changes.contains_key(&happened.hash);
        if begins && self.kept >= DELIVERIES_MAX {
            self.left_out += 1;
        } else if begins {
            let change = Change { log: happened.log.clone(), seq: happened.seq, spread: Spread::default() };
            self.changes.insert(happened.hash.clone(), change);
        }
        let counts = matches!(happened.what, What::Written | What::Came | What::Stored);
        if let Some(change) = self.changes.get_mut(&happened.hash).filter(|_| counts) {
            self.kept += usize::from(change.spread.take(happened));
        }
    }

    /// Zones by name, in the order of the topology, each with the delays to its nodes, sorted, microseconds.
    fn delays_us<'a>(&self, topology: &'a Topology) -> Vec<(&'a str, Vec<u64>)> {
        let names = zone_names(topology);
        let mut zones: Vec<(&str, Vec<u64>)> = names.iter().map(|name| (*name, Vec::new())).collect();
        let zone_of = zone_numbers(topology, &names);
        for (node, delay_us) in self.changes.values().flat_map(|change| change.spread.delays_us()) {
            if let Some(zone) = zone_of.get(node) {
                zones[*zone].1.push(delay_us);
            }
        }
        zones.iter_mut().for_each(|(_, delays_us)| delays_us.sort_unstable());
        zones
    }

    /// The last change of those that most nodes have.
    fn widest(&self) -> Option<(&str, &Change)> {
        let size = |change: &Change| (change.spread.arrivals().len(), change.spread.first_us());
        self.changes.iter().max_by_key(|(_, change)| size(change)).map(|(hash, change)| (hash.as_str(), change))
    }
}

/// An SVG document: left the distribution of the delays from the write to each node that stored the change, a curve
/// for each receiving zone and one for all; right the tree of the last change that most nodes have.
///
/// `direct_us` is D, the largest direct one-way delay, where it should be marked. The x axis is logarithmic where the
/// slowest took far longer than the median.
pub(crate) fn delays_and_tree(
    topology: &Topology,
    seed: u64,
    direct_us: Option<u64>,
    deliveries: &Deliveries,
) -> Result<String, PlotError> {
    let zones = deliveries.delays_us(topology);
    let count: usize = zones.iter().map(|(_, delays_us)| delays_us.len()).sum();
    let (hash, change) = deliveries.widest().filter(|_| count > 0).ok_or(PlotError::Nothing)?;
    let mut svg = String::new();
    {
        let picture = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        picture.fill(&WHITE).map_err(drawing)?;
        let (title, halves) = picture.split_vertically(TITLE_HEIGHT);
        let left_out = match deliveries.left_out {
            0 => String::new(),
            1 => " (1 later change is left out)".to_owned(),
            count => format!(" ({count} later changes are left out)"),
        };
        let (name, changes) = (&topology.name, deliveries.changes.len());
        let heading =
            format!("{name}, seed {seed}: {} of {}{left_out}", plural(count, "delivery"), plural(changes, "change"));
        write(&title, &heading, (SIZE.0 as i32 / 2, TITLE_HEIGHT as i32 / 2), HPos::Center, TEXT * 5 / 4, true)?;
        let (left, right) = halves.split_horizontally(SIZE.0 / 2);
        delays::draw(&left, &zones, direct_us)?;
        zones::draw(&right, topology, hash, change)?;
        picture.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// Zones in the order in which the topology first names them.
fn zone_names(topology: &Topology) -> Vec<&str> {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (node, place) in topology.nodes.iter().enumerate() {
        first.entry(&place.zone).or_insert(node);
    }
    let mut names: Vec<&str> = first.keys().copied().collect();
    names.sort_by_key(|name| first[name]);
    names
}

/// For each node the place of its zone in `names`, which holds them all.
fn zone_numbers(topology: &Topology, names: &[&str]) -> Vec<usize> {
    let numbers: BTreeMap<&str, usize> = names.iter().enumerate().map(|(number, name)| (*name, number)).collect();
    topology.nodes.iter().map(|place| numbers[place.zone.as_str()]).collect()
}

/// Writes `text` with the middle of its height at `at`.
fn write(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, size: i32, bold: bool) -> Result<(), PlotError> {
    // XML holds no control characters, not even escaped.
    let text: String = text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
    let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), weight);
    area.draw(&Text::new(text, at, font.color(&BLACK).pos(Pos::new(side, VPos::Center)))).map_err(drawing)
}

/// About how wide `text` is, pixels: fonts are chosen where the picture is shown.
fn text_width(text: &str, size: i32) -> i32 {
    text.chars().count() as i32 * size * 11 / 20
}

fn plural(count: usize, word: &str) -> String {
    match (count, word.strip_suffix('y')) {
        (1, _) => format!("1 {word}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {word}s"),
    }
}

/// Milliseconds with three digits or so.
fn ms(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1000.0),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1000.0),
        _ => format!("{:.0} ms", us as f64 / 1000.0),
    }
}

fn drawing(error: impl std::fmt::Display) -> PlotError {
    PlotError::Drawing(error.to_string())
}
