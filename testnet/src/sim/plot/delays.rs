//! The left half: the share of the deliveries that took at most so long.

use plotters::coord::combinators::LogCoord;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{Area, PlotError, TEXT, ZONE_COLOURS, drawing, ms, text_width, write};
use crate::sim::trace::quantile_us;

/// Points of a curve; more are thinned out evenly.
const POINTS_MAX: usize = 400;
/// Zones of which the numbers are written below.
const LISTED_MAX: usize = 13;
/// Where the slowest took so many times the median, the axis is logarithmic.
const TIMES_LINEAR_MAX: u64 = 8;
/// A logarithmic axis begins here at the earliest, milliseconds.
const LOGARITHMIC_FROM_MS: f64 = 0.01;
/// For the numbers, pixels.
const LIST_HEIGHT: u32 = 300;
const ROW_HEIGHT: i32 = 36;
/// A mark's name takes so much at most, pixels.
const LABEL_WIDTH: i32 = 200;
const MARK: RGBColor = RGBColor(90, 90, 90);

/// A vertical line with a name.
struct Mark {
    name: &'static str,
    us: u64,
}

pub(super) fn draw(area: &Area<'_>, zones: &[(&str, Vec<u64>)], direct_us: Option<u64>) -> Result<(), PlotError> {
    let mut all: Vec<u64> = zones.iter().flat_map(|(_, delays_us)| delays_us).copied().collect();
    all.sort_unstable();
    let (p50, max) = (quantile_us(&all, 0.5), quantile_us(&all, 1.0));
    let mut marks = vec![Mark { name: "p50", us: p50 }, Mark { name: "p99", us: quantile_us(&all, 0.99) }];
    marks.extend(direct_us.map(|us| Mark { name: "D", us }));
    let last_ms = marks.iter().map(|mark| mark.us).fold(max, u64::max) as f64 / 1000.0 * 1.03 + 0.001;
    let (_, height) = area.dim_in_pixel();
    let (above, below) = area.split_vertically(height - LIST_HEIGHT);
    if max > p50.saturating_mul(TIMES_LINEAR_MAX) {
        let first_ms = (all[0] as f64 / 1000.0).max(LOGARITHMIC_FROM_MS);
        let axis: LogCoord<f64> = (first_ms..last_ms.max(10.0 * first_ms)).log_scale().into();
        curves(&above, axis, first_ms, zones, &all, &marks)?;
    } else {
        let axis: RangedCoordf64 = (0.0..last_ms).into();
        curves(&above, axis, 0.0, zones, &all, &marks)?;
    }
    list(&below, zones, &all)
}

/// The chart; `first_ms` is where the axis begins.
fn curves<X>(
    area: &Area<'_>,
    axis: X,
    first_ms: f64,
    zones: &[(&str, Vec<u64>)],
    all: &[u64],
    marks: &[Mark],
) -> Result<(), PlotError>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let range = axis.range();
    // The chart tells places in the picture, and what is drawn on the area starts at its own corner.
    let (columns, rows) = area.get_pixel_range();
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .x_label_area_size(84)
        .y_label_area_size(104)
        .build_cartesian_2d(axis, 0.0..1.0)
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .x_desc("from write to stored, ms (D: the largest direct delay, one way)")
        .y_desc("share of deliveries")
        .x_label_style(("sans-serif", TEXT))
        .y_label_style(("sans-serif", TEXT))
        .axis_desc_style(("sans-serif", TEXT))
        .x_labels(8)
        .y_labels(10)
        .x_label_formatter(&|ms| format!("{}", (ms * 1e6).round() / 1e6))
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.15))
        .draw()
        .map_err(drawing)?;
    for ((_, delays_us), colour) in zones.iter().zip(ZONE_COLOURS.iter().cycle()) {
        chart.draw_series(LineSeries::new(steps(delays_us, first_ms), colour.stroke_width(2))).map_err(drawing)?;
    }
    chart.draw_series(LineSeries::new(steps(all, first_ms), BLACK.stroke_width(5))).map_err(drawing)?;
    for (row, mark) in marks.iter().enumerate() {
        let at_ms = (mark.us as f64 / 1000.0).max(first_ms);
        let line = [(at_ms, 0.0), (at_ms, 1.0)];
        chart.draw_series(DashedLineSeries::new(line, 8, 6, MARK.stroke_width(2))).map_err(drawing)?;
        let (x, y) = chart.backend_coord(&(at_ms, 0.04 + 0.06 * row as f64));
        let (last_x, _) = chart.backend_coord(&(range.end, 0.0));
        let near_end = last_x - x < LABEL_WIDTH;
        label(area, &format!("{} {}", mark.name, ms(mark.us)), (x - columns.start, y - rows.start), near_end)?;
    }
    Ok(())
}

/// A mark's name beside it, readable over the curves.
fn label(area: &Area<'_>, text: &str, at: (i32, i32), to_the_left: bool) -> Result<(), PlotError> {
    let width = text_width(text, TEXT);
    let (side, x, left) =
        if to_the_left { (HPos::Right, at.0 - 8, at.0 - 8 - width) } else { (HPos::Left, at.0 + 8, at.0 + 8) };
    let back = [(left, at.1 - TEXT / 2), (left + width, at.1 + TEXT / 2)];
    area.draw(&Rectangle::new(back, WHITE.mix(0.8).filled())).map_err(drawing)?;
    write(area, text, (x, at.1), side, TEXT, false)
}

/// A curve that rises at each sample by its share, up to 1; what lies before the axis' beginning rises there.
fn steps(sorted_us: &[u64], first_ms: f64) -> Vec<(f64, f64)> {
    let count = sorted_us.len();
    let mut points = Vec::new();
    let mut share = 0.0;
    for point in 1..=count.min(POINTS_MAX) {
        let rank = point * count / count.min(POINTS_MAX);
        let at_ms = (sorted_us[rank - 1] as f64 / 1000.0).max(first_ms);
        points.push((at_ms, share));
        share = rank as f64 / count as f64;
        points.push((at_ms, share));
    }
    points
}

/// The numbers of each curve, in two columns.
fn list(area: &Area<'_>, zones: &[(&str, Vec<u64>)], all: &[u64]) -> Result<(), PlotError> {
    let (width, _) = area.dim_in_pixel();
    let rows = LISTED_MAX.div_ceil(2) as i32;
    let place =
        |entry: usize| (24 + entry as i32 / rows * (width as i32 / 2 - 12), 18 + entry as i32 % rows * ROW_HEIGHT);
    let entries = std::iter::once(("all", all, BLACK)).chain(
        zones.iter().zip(ZONE_COLOURS.iter().cycle()).map(|((name, us), colour)| (*name, us.as_slice(), *colour)),
    );
    for (entry, (name, sorted_us, colour)) in entries.take(LISTED_MAX).enumerate() {
        let (x, y) = place(entry);
        area.draw(&Rectangle::new([(x, y - 8), (x + 28, y + 8)], colour.filled())).map_err(drawing)?;
        let [p50, p99] = [0.5, 0.99].map(|share| ms(quantile_us(sorted_us, share)));
        let numbers = if sorted_us.is_empty() { "nothing".to_owned() } else { format!("p50 {p50}, p99 {p99}") };
        write(area, &format!("{name}: {numbers}"), (x + 40, y), HPos::Left, TEXT, entry == 0)?;
    }
    if zones.len() >= LISTED_MAX {
        let more = format!("and {} zones more", zones.len() + 1 - LISTED_MAX);
        let (x, y) = place(LISTED_MAX);
        write(area, &more, (x + 40, y), HPos::Left, TEXT, false)?;
    }
    Ok(())
}
