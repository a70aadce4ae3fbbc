//! What runs came to, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use super::plan::Plan;
use super::verdict::{Oracle, Violation};
use super::world::{Ended, Stats};
use crate::bench::Format;

/// All runs of a command.
#[derive(Default)]
pub(crate) struct Tally {
    runs: Vec<Row>,
    faults: BTreeMap<&'static str, u64>,
}

struct Row {
    scenario: String,
    topology: String,
    nodes: usize,
    seed: u64,
    trace: String,
    stats: Stats,
    violations: Vec<Violation>,
}

/// The value below which a share of the sorted values lies.
fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}

fn millis(us: Option<u64>) -> String {
    us.map_or_else(|| "–".to_owned(), |us| format!("{:.1}", us as f64 / 1000.0))
}

impl Row {
    fn delays(&self) -> [Option<u64>; 3] {
        let mut sorted = self.stats.delays_us.clone();
        sorted.sort_unstable();
        [quantile(&sorted, 0.5), quantile(&sorted, 0.99), sorted.last().copied()]
    }

    fn copies_each(&self) -> f64 {
        let needed = self.stats.changes as f64 * (self.nodes as f64 - 1.0);
        if needed == 0.0 { 0.0 } else { self.stats.copies as f64 / needed }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, plan: &Plan, ended: &Ended) {
        for (_, step) in plan.steps.iter().filter(|(_, step)| step.is_fault()) {
            *self.faults.entry(super::world::name_of(step)).or_default() += 1;
        }
        let trace = ended.trace.iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // writing to a String never fails
            text
        });
        self.runs.push(Row {
            scenario: plan.scenario.clone(),
            topology: plan.topology.name.clone(),
            nodes: plan.topology.nodes.len(),
            seed: plan.seed,
            trace,
            stats: ended.stats.clone(),
            violations: ended.violations.clone(),
        });
    }

    pub(crate) fn passes(&self) -> bool {
        self.runs.iter().all(|row| row.violations.is_empty())
    }

    pub(crate) fn render(&self, format: Format) -> anyhow::Result<String> {
        match format {
            Format::Table => Ok(self.to_table()),
            Format::Json => Ok(serde_json::to_string_pretty(&self.to_json())? + "\n"),
        }
    }

    fn to_table(&self) -> String {
        let mut out = String::new();
        let head = [
            "SCENARIO",
            "TOPOLOGY",
            "NODES",
            "SEED",
            "CHANGES",
            "COPIES",
            "P50 MS",
            "P99 MS",
            "HEALED MS",
            "TRACE",
            "",
        ];
        let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
        for row in &self.runs {
            let [p50, p99, _] = row.delays();
            rows.push(vec![
                row.scenario.clone(),
                row.topology.clone(),
                row.nodes.to_string(),
                row.seed.to_string(),
                row.stats.changes.to_string(),
                format!("{:.2}", row.copies_each()),
                millis(p50),
                millis(p99),
                row.stats.healed_ms.map_or_else(|| "–".to_owned(), |healed| healed.to_string()),
                row.trace.clone(),
                if row.violations.is_empty() { "holds" } else { "BREACHED" }.to_owned(),
            ]);
        }
        columns(&mut out, &rows);
        for row in &self.runs {
            for violation in &row.violations {
                let _ = writeln!(out, "{} seed {}: {violation}", row.scenario, row.seed);
            }
        }
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{count} × {name}")).collect();
        let breaches: usize = self.runs.iter().map(|row| row.violations.len()).sum();
        let events: u64 = self.runs.iter().map(|row| row.stats.events).sum();
        let _ = writeln!(
            out,
            "{} runs, {events} events, faults: {}; {breaches} breaches",
            self.runs.len(),
            if faults.is_empty() { "none".to_owned() } else { faults.join(", ") }
        );
        out
    }

    fn to_json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .runs
            .iter()
            .map(|row| {
                let [p50, p99, max] = row.delays();
                json!({
                    "scenario": row.scenario, "topology": row.topology, "nodes": row.nodes, "seed": row.seed,
                    "trace": row.trace, "events": row.stats.events, "changes": row.stats.changes,
                    "statements": row.stats.statements, "copies": row.stats.copies,
                    "copies_each": row.copies_each(), "statement_copies": row.stats.statement_copies,
                    "bytes": row.stats.bytes, "delay_us": { "p50": p50, "p99": p99, "max": max },
                    "healed_ms": row.stats.healed_ms, "done": row.stats.done, "refusals": row.stats.refusals,
                    "violations": row.violations.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
            .collect();
        json!({ "runs": rows, "faults": self.faults, "pass": self.passes() })
    }
}

fn columns(out: &mut String, rows: &[Vec<String>]) {
    let count = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..count).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

/// A mutant's row: the oracle, what is broken, and what caught it.
pub(crate) type Caught = Option<(u64, Violation)>;

/// The table of mutants.
pub(crate) fn mutants(rows: &[(Oracle, &str, Caught)]) -> String {
    let mut out = String::new();
    let mut table = vec![["ORACLE", "MUTANT", "CAUGHT"].map(str::to_owned).to_vec()];
    for (oracle, about, caught) in rows {
        let by = match caught {
            Some((seed, violation)) => format!("seed {seed}: {}", violation.what),
            None => "NOT CAUGHT".to_owned(),
        };
        table.push(vec![format!("{oracle:?}"), (*about).to_owned(), by]);
    }
    columns(&mut out, &table);
    out
}
