//! The right half: a change's tree over the zones.

use std::collections::BTreeMap;
use std::f64::consts::{PI, TAU};

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{
    Area, Change, PlotError, TEXT, ZONE_COLOURS, drawing, ms, plural, text_width, write, zone_names, zone_numbers,
};
use crate::sim::topology::Topology;
use crate::sim::trace::Spread;

/// Above the zones, pixels.
const HEADING_HEIGHT: i32 = 40;
/// Below them, for what the colours mean, pixels.
const LEGEND_HEIGHT: i32 = 100;
/// Dots, pixels.
const DOT_RADII: std::ops::RangeInclusive<f64> = 2.0..=9.0;
/// Zones with fewer nodes are smaller, down to this, pixels.
const ZONE_RADIUS_MIN: f64 = 16.0;
/// With more zones their names stand outside the ring and are smaller.
const INNER_NAMES_MAX: usize = 12;
/// Names that fit around the ring; of more zones each second or third is named, and so on.
const NAMES_MAX: usize = 32;
/// Those, pixels.
const SMALL_TEXT: i32 = 19;
/// With more nodes their edges are hairlines.
const BOLD_EDGES_MAX: usize = 300;
/// The colour of what is one step from the origin, two, and so on; the last for all further ones.
const DEPTH_COLOURS: [RGBColor; 6] = [
    RGBColor(213, 62, 79),
    RGBColor(244, 140, 40),
    RGBColor(60, 160, 90),
    RGBColor(50, 136, 189),
    RGBColor(118, 80, 170),
    RGBColor(140, 86, 75),
];
const OUTLINE: RGBColor = RGBColor(150, 150, 150);
const GROUND: RGBColor = RGBColor(244, 246, 248);

/// Where things are, pixels.
struct Map<'a> {
    zones: Vec<Zone<'a>>,
    /// By node.
    dots: Vec<(i32, i32)>,
    dot_radius: i32,
}

struct Zone<'a> {
    name: &'a str,
    nodes: usize,
    /// Where on the ring, radians.
    angle: f64,
    middle: (f64, f64),
    radius: f64,
}

pub(super) fn draw(area: &Area<'_>, topology: &Topology, hash: &str, change: &Change) -> Result<(), PlotError> {
    let spread = &change.spread;
    let (width, height) = area.dim_in_pixel();
    let map = Map::new(topology, (width as i32, height as i32));
    let depths = depths(spread, map.dots.len());
    let last_us = spread.delays_us().map(|(_, delay_us)| delay_us).max().unwrap_or_default();
    let (short, log) = (start(hash), start(&change.log));
    let count = depths.iter().flatten().count();
    let heading = format!(
        "change {short} ({log}:{}): {count} of {} in {}",
        change.seq,
        plural(map.dots.len(), "node"),
        ms(last_us)
    );
    write(area, &heading, (width as i32 / 2, HEADING_HEIGHT / 2), HPos::Center, TEXT, false)?;
    for (zone, colour) in map.zones.iter().zip(ZONE_COLOURS.iter().cycle()) {
        let middle = (zone.middle.0 as i32, zone.middle.1 as i32);
        area.draw(&Circle::new(middle, zone.radius as i32, GROUND.filled())).map_err(drawing)?;
        area.draw(&Circle::new(middle, zone.radius as i32, colour.stroke_width(3))).map_err(drawing)?;
    }
    edges(area, &map, spread, &depths)?;
    dots(area, &map, &depths)?;
    names(area, &map)?;
    legend(area, &depths, width as i32, height as i32 - LEGEND_HEIGHT)
}

impl<'a> Map<'a> {
    /// Zones around a circle in the order of the topology, areas by their nodes; the nodes of each spiral outwards.
    fn new(topology: &'a Topology, (width, height): (i32, i32)) -> Map<'a> {
        let names = zone_names(topology);
        let numbers = zone_numbers(topology, &names);
        let mut sizes = vec![0_usize; names.len()];
        numbers.iter().for_each(|zone| sizes[*zone] += 1);
        let largest = sizes.iter().copied().max().unwrap_or(1) as f64;
        let (offset, margin) = if names.len() <= INNER_NAMES_MAX {
            (0.0, TEXT)
        } else {
            // None is right above the middle, so that names go to one side or the other.
            let longest = names.iter().map(|name| text_width(name, SMALL_TEXT)).max().unwrap_or(0);
            (0.5, (longest + 64).min(width / 4))
        };
        let half = f64::from((height - HEADING_HEIGHT - LEGEND_HEIGHT - 3 * TEXT).min(width - 2 * margin)) / 2.0;
        let middle = (f64::from(width) / 2.0, f64::from(HEADING_HEIGHT + height - LEGEND_HEIGHT) / 2.0);
        // Neighbours on the ring leave a gap between them, and the outermost stay within `half`.
        let share = 0.8 * (PI / names.len() as f64).sin();
        let (radius_max, ring) =
            if names.len() < 2 { (half, 0.0) } else { (half * share / (1.0 + share), half / (1.0 + share)) };
        let zone = |(number, name): (usize, &&'a str)| {
            let angle = TAU * (number as f64 + offset) / names.len() as f64 - PI / 2.0;
            let radius = radius_max * (sizes[number] as f64 / largest).sqrt();
            Zone {
                name,
                nodes: sizes[number],
                angle,
                middle: (middle.0 + ring * angle.cos(), middle.1 + ring * angle.sin()),
                radius: radius.max(ZONE_RADIUS_MIN.min(radius_max)),
            }
        };
        let zones: Vec<Zone<'a>> = names.iter().enumerate().map(zone).collect();
        let mut placed = vec![0_usize; zones.len()];
        let dots = numbers.iter().map(|number| {
            placed[*number] += 1;
            zones[*number].dot(placed[*number] - 1)
        });
        let dots = dots.collect();
        let dot_radius = (0.4 * radius_max / largest.sqrt()).clamp(*DOT_RADII.start(), *DOT_RADII.end()) as i32;
        Map { zones, dots, dot_radius }
    }
}

impl Zone<'_> {
    /// Where its node `index` is: a sunflower's seeds, which are as far from each other everywhere.
    fn dot(&self, index: usize) -> (i32, i32) {
        let golden_angle = PI * (3.0 - 5.0_f64.sqrt());
        let away = 0.88 * self.radius * ((index as f64 + 0.5) / self.nodes as f64).sqrt();
        let angle = golden_angle * index as f64;
        ((self.middle.0 + away * angle.cos()).round() as i32, (self.middle.1 + away * angle.sin()).round() as i32)
    }
}

/// By node, the steps to it; none where the change is not.
fn depths(spread: &Spread, nodes: usize) -> Vec<Option<usize>> {
    let mut depths = vec![None; nodes];
    for visit in spread.visits().into_iter().filter(|visit| visit.node < nodes) {
        depths[visit.node] = Some(visit.depth);
    }
    depths
}

fn colour(depth: usize) -> RGBColor {
    match depth.checked_sub(1) {
        Some(step) => DEPTH_COLOURS[step.min(DEPTH_COLOURS.len() - 1)],
        None => BLACK,
    }
}

/// Who brought it to whom; those near the origin above the others.
fn edges(area: &Area<'_>, map: &Map<'_>, spread: &Spread, depths: &[Option<usize>]) -> Result<(), PlotError> {
    let (width, alpha) = if map.dots.len() > BOLD_EDGES_MAX { (1, 0.5) } else { (3, 0.8) };
    let mut visits = spread.visits();
    visits.retain(|visit| visit.node < depths.len());
    visits.sort_by_key(|visit| std::cmp::Reverse(visit.depth));
    for visit in visits {
        let Some(from) = visit.arrival.from.and_then(|from| map.dots.get(from)) else { continue };
        let style = colour(visit.depth).mix(alpha).stroke_width(width);
        area.draw(&PathElement::new(vec![*from, map.dots[visit.node]], style)).map_err(drawing)?;
    }
    Ok(())
}

fn dots(area: &Area<'_>, map: &Map<'_>, depths: &[Option<usize>]) -> Result<(), PlotError> {
    for (at, depth) in map.dots.iter().zip(depths) {
        let style = match depth {
            Some(depth) => colour(*depth).filled(),
            None => OUTLINE.stroke_width(1),
        };
        let radius = if *depth == Some(0) { map.dot_radius + 5 } else { map.dot_radius };
        area.draw(&Circle::new(*at, radius, style)).map_err(drawing)?;
    }
    Ok(())
}

/// Each zone's name with its number of nodes, readable over the edges: above it, or beside it outside the ring.
fn names(area: &Area<'_>, map: &Map<'_>) -> Result<(), PlotError> {
    let inner = map.zones.len() <= INNER_NAMES_MAX;
    let size = if inner { TEXT } else { SMALL_TEXT };
    for zone in map.zones.iter().step_by(map.zones.len().div_ceil(NAMES_MAX)) {
        let text = format!("{} ({})", zone.name, zone.nodes);
        let away = zone.radius + 12.0;
        let outside = (zone.middle.0 + away * zone.angle.cos(), zone.middle.1 + away * zone.angle.sin());
        let (side, at) = match (inner, zone.angle.cos() < 0.0) {
            (true, _) => (HPos::Center, (zone.middle.0, zone.middle.1 - zone.radius - 18.0)),
            (false, true) => (HPos::Right, outside),
            (false, false) => (HPos::Left, outside),
        };
        let at = (at.0 as i32, at.1 as i32);
        if inner {
            let half = text_width(&text, size) / 2;
            let back = [(at.0 - half, at.1 - size / 2), (at.0 + half, at.1 + size / 2)];
            area.draw(&Rectangle::new(back, WHITE.mix(0.75).filled())).map_err(drawing)?;
        }
        write(area, &text, at, side, size, inner)?;
    }
    Ok(())
}

/// What the colours mean, and how many nodes have each.
fn legend(area: &Area<'_>, depths: &[Option<usize>], width: i32, top: i32) -> Result<(), PlotError> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for depth in depths.iter().flatten() {
        *counts.entry((*depth).min(DEPTH_COLOURS.len())).or_default() += 1;
    }
    let missed = depths.iter().filter(|depth| depth.is_none()).count();
    let entry = |(depth, count): (&usize, &usize)| {
        let steps = match *depth {
            0 => "the origin".to_owned(),
            1 => "1 step".to_owned(),
            depth if depth == DEPTH_COLOURS.len() => format!("{depth} or more"),
            depth => format!("{depth} steps"),
        };
        (format!("{steps}: {count}"), colour(*depth).filled())
    };
    let mut entries: Vec<(String, ShapeStyle)> = counts.iter().map(entry).collect();
    if missed > 0 {
        entries.push((format!("not reached: {missed}"), OUTLINE.stroke_width(1)));
    }
    const COLUMNS: usize = 4;
    for (index, (text, style)) in entries.into_iter().enumerate() {
        let x = 40 + (index % COLUMNS) as i32 * (width - 40) / COLUMNS as i32;
        let y = top + 28 + (index / COLUMNS) as i32 * 40;
        area.draw(&Rectangle::new([(x, y - 8), (x + 28, y + 8)], style)).map_err(drawing)?;
        write(area, &text, (x + 40, y), HPos::Left, TEXT, false)?;
    }
    Ok(())
}

/// A few digits, for people.
fn start(hexadecimal: &str) -> String {
    hexadecimal.chars().take(8).collect()
}
