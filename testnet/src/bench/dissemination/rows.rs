//! What each run is to show: its rows with their targets, the model's numbers beside them.

use std::collections::BTreeSet;

use super::judged::Judged;
use crate::bench::report::{Row, median, quantile};
use crate::sim::measure::Sort;
use crate::sim::plan::Plan;

/// Statements by which one device joins: its invitation and its admission.
const STATEMENTS_A_JOIN: u64 = 2;
/// So soon a survivor is to have each change, microseconds.
const SURVIVOR_US: u64 = 5_000_000;

/// A run beside the model's of the same plan.
pub(crate) struct Pair<'a> {
    /// Stands before the rows' names.
    pub(crate) name: String,
    pub(crate) plan: &'a Plan,
    pub(crate) engine: Judged<'a>,
    pub(crate) model: Judged<'a>,
}

impl Pair<'_> {
    fn row(&self, what: &str, unit: &'static str, value: impl Fn(&Judged<'_>) -> f64) -> Row {
        let row = Row::new(format!("{}: {what}", self.name), unit, value(&self.engine));
        match value(&self.model) {
            model if model.is_finite() => row.beside(model),
            _ => row,
        }
    }

    /// From the write's acknowledgement to the last node, over D, the longest direct way from its origin.
    pub(crate) fn last_node(&self, p50: f64, p99: f64) -> Vec<Row> {
        let at = |share: f64| move |judged: &Judged<'_>| quantile(&judged.last_over_direct(), share);
        vec![
            self.row("write → last node, p50 of the changes", "× D", at(0.5)).at_most(p50),
            self.row("write → last node, p99 of the changes", "× D", at(0.99)).at_most(p99),
            self.missing(),
        ]
    }

    /// A change that some node lacks at the end.
    pub(crate) fn missing(&self) -> Row {
        self.row("deliveries that never came", "", |judged| judged.missing() as f64).at_most(0.0)
    }

    pub(crate) fn losses(&self, round_trips: f64) -> Vec<Row> {
        let late = |judged: &Judged<'_>| quantile(&judged.late_round_trips(), 0.999);
        vec![
            self.row("write → each node beyond D, p99.9 of the deliveries", "RTT", late).at_most(round_trips),
            self.missing(),
        ]
    }

    pub(crate) fn copies(&self, target: f64) -> Row {
        self.row("copies beyond the one each node needs", "a needed copy", |judged| judged.beyond()).at_most(target)
    }

    /// The same of statements, where devices join: a little below zero, as a `Hello` shows its sender's own ones. The model
    /// knows none.
    pub(crate) fn statements(&self) -> Row {
        let (joined, nodes) = (self.plan.joiners.len() as u64, self.plan.topology.nodes.len() as u64);
        // Members but for the one that was handed them need those of each joiner; a joiner those of every other device.
        let members = (nodes - joined) * joined * STATEMENTS_A_JOIN - joined * STATEMENTS_A_JOIN;
        let needed = members + joined * (nodes - 1) * STATEMENTS_A_JOIN;
        let copies = self.engine.measured.sent(Sort::Statement, self.engine.from_us..u64::MAX).frames;
        let beyond = copies as f64 / needed.max(1) as f64 - 1.0;
        Row::new(format!("{}: copies of statements beyond the needed ones", self.name), "a needed copy", beyond)
    }

    pub(crate) fn survivors(&self, part: &BTreeSet<usize>, target: f64) -> Row {
        let late = |judged: &Judged<'_>| {
            let (in_time, wanted) = judged.within(part, SURVIVOR_US);
            100.0 * (1.0 - in_time as f64 / wanted.max(1) as f64)
        };
        let what = format!("deliveries to the {} survivors that are connected, not within 5 s", part.len());
        self.row(&what, "%", late).at_most(target)
    }

    /// Gossip Glomers counts messages over all operations; half of them are reads, which cost none. What leaves a link at
    /// the same moment is one message.
    pub(crate) fn glomers(&self) -> Vec<Row> {
        let sent = |judged: &Judged<'_>, sort: Sort| judged.measured.sent(sort, judged.from_us..self.until_us()).frames;
        let writes = self.engine.changes().max(1) as f64;
        let a_write = move |sort: Sort| move |judged: &Judged<'_>| sent(judged, sort) as f64 / writes;
        let all = |judged: &Judged<'_>| (sent(judged, Sort::Changes) + sent(judged, Sort::Digest)) as f64;
        vec![
            self.row("messages an operation, half of which are reads", "", move |judged| all(judged) / (2.0 * writes))
                .at_most(14.0),
            self.row("… of these frames with changes, a write (floor: 24)", "", a_write(Sort::Changes)),
            self.row("… of these digests of any kind, a write", "", a_write(Sort::Digest)),
            self.row("… digests that leave with another frame, a write", "", a_write(Sort::RidingDigest)),
            self.row("… greetings and names of logs beside them, a write", "", a_write(Sort::Greeting)),
        ]
    }

    pub(crate) fn delays(&self, median_ms: f64, max_ms: f64) -> Vec<Row> {
        let each = |judged: &Judged<'_>| median(&judged.delays_ms());
        let most = |judged: &Judged<'_>| quantile(&judged.delays_ms(), 1.0);
        vec![
            self.row("write → each node, median", "ms", each).at_most(median_ms),
            self.row("write → each node, max", "ms", most).at_most(max_ms),
        ]
    }

    /// Where a cut is part of the run. The model knows none.
    pub(crate) fn lost(&self) -> Row {
        let lost = self.engine.missing() as f64;
        Row::new(format!("{}: lost", self.name), "", lost).at_most(0.0)
    }

    /// When the plan's work and faults are over.
    fn until_us(&self) -> u64 {
        self.plan.heal_ms * 1000
    }
}
