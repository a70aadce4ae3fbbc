//! What every bench prints: one shape as JSON, or a table.

use anyhow::Context;
use serde_json::{Value, json};

/// What a number is promised to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    value: f64,
    target: Option<Target>,
    /// What the machine itself needs, or another system does, measured in the same run.
    baseline: Option<f64>,
}

impl Row {
    /// A number without a target.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Row {
        Row { name: name.into(), unit, value, target: None, baseline: None }
    }

    /// It may be this much at most.
    pub(crate) fn at_most(self, target: f64) -> Row {
        Row { target: Some(Target::AtMost(target)), ..self }
    }

    /// It has to be this much at least.
    pub(crate) fn at_least(self, target: f64) -> Row {
        Row { target: Some(Target::AtLeast(target)), ..self }
    }

    /// The floor beside it.
    pub(crate) fn beside(self, baseline: f64) -> Row {
        Row { baseline: Some(baseline), ..self }
    }

    fn pass(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtMost(most) => self.value <= most,
            Target::AtLeast(least) => self.value >= least,
        })
    }

    fn ratio(&self) -> Option<f64> {
        self.baseline.filter(|baseline| *baseline > 0.0).map(|baseline| self.value / baseline)
    }
}

/// All numbers of a bench.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    rows: Vec<Row>,
    /// What the baselines are, as a column's title.
    beside: &'static str,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Report {
        Report { bench, rows: Vec::new(), beside: "TIMES THE FLOOR" }
    }

    /// The baselines are no floor but this.
    pub(crate) fn beside(self, beside: &'static str) -> Report {
        Report { beside, ..self }
    }

    pub(crate) fn add(&mut self, row: Row) {
        super::note(&line(&row));
        self.rows.push(row);
    }

    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        rows.into_iter().for_each(|row| self.add(row));
    }

    /// Whether no row misses its target.
    pub(crate) fn passes(&self) -> bool {
        self.rows.iter().all(|row| row.pass() != Some(false))
    }

    /// DESIGN 6: `{bench, commit, cores, rows: [{name, unit, value, target, pass, baseline, ratio}]}`.
    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        let row = |row: &Row| {
            json!({
                "name": row.name,
                "unit": row.unit,
                "value": round(row.value),
                "target": row.target.map(|target| match target {
                    Target::AtMost(limit) | Target::AtLeast(limit) => limit,
                }),
                "pass": row.pass(),
                "baseline": row.baseline.map(round),
                "ratio": row.ratio().map(round),
            })
        };
        let report = json!({
            "bench": self.bench,
            "commit": commit(),
            "cores": cores(),
            "rows": self.rows.iter().map(row).collect::<Vec<Value>>(),
        });
        Ok(format!("{}\n", serde_json::to_string_pretty(&report).context("the report as JSON")?))
    }

    pub(crate) fn to_table(&self) -> String {
        let mut cells: Vec<[String; 6]> = vec![["WHAT", "VALUE", "UNIT", "TARGET", "", self.beside].map(str::to_owned)];
        for row in &self.rows {
            let verdict = row.pass().map_or("", |pass| if pass { "ok" } else { "MISSED" });
            let floor = row.baseline.zip(row.ratio());
            cells.push([
                row.name.clone(),
                number(row.value),
                row.unit.to_owned(),
                row.target.map_or_else(String::new, |target| match target {
                    Target::AtMost(most) => format!("≤ {}", number(most)),
                    Target::AtLeast(least) => format!("≥ {}", number(least)),
                }),
                verdict.to_owned(),
                floor.map_or_else(String::new, |(floor, ratio)| format!("{ratio:.1} × {}", number(floor))),
            ]);
        }
        let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        let mut text = format!("{}  commit {}  {} cores\n", self.bench, commit(), cores());
        for line in &cells {
            let padded: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
            text.push_str(padded.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn pad(cell: &str, width: usize) -> String {
    format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
}

fn line(row: &Row) -> String {
    format!("    {}: {} {}", row.name, number(row.value), row.unit)
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// The commit that was measured, with `-dirty` where the tree differs from it.
fn commit() -> String {
    let described = std::process::Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude", "*"])
        .output();
    match described {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The value below which a share of the samples lies (nearest rank); 0 without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// The middle one.
pub(crate) fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&samples, 0.5), quantile(&samples, 0.99), quantile(&samples, 1.0)), (50.0, 99.0, 100.0));
        assert_eq!((median(&[3.0]), median(&[])), (3.0, 0.0));
    }

    #[test]
    fn a_row_over_its_target_fails_the_report() {
        let mut report = Report { rows: vec![Row::new("a", "ms", 5.0).at_most(5.0)], ..Report::new("x") };
        assert!(report.passes());
        report.rows.push(Row::new("b", "ms", 9.0).beside(3.0));
        report.rows.push(Row::new("d", "/s", 5.0).at_least(5.0));
        assert!(report.passes());
        report.rows.push(Row::new("e", "/s", 4.9).at_least(5.0));
        assert!(!report.passes());
        report.rows.pop();
        report.rows.push(Row::new("c", "ms", 5.1).at_most(5.0));
        assert!(!report.passes());
        let json: Value = serde_json::from_str(&report.to_json().expect("plain data")).expect("it is JSON");
        let rows = json["rows"].as_array().expect("rows");
        assert_eq!((&rows[1]["pass"], &rows[1]["ratio"]), (&Value::Null, &json!(3.0)));
        assert_eq!((&rows[3]["pass"], &rows[3]["target"]), (&json!(false), &json!(5.0)));
        assert!(report.to_table().contains("MISSED"));
    }
}
