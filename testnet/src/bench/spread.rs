//! How soon a write is readable on every node.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use node::client::{Client, ClientError};
use serde_json::Value;

use super::report::{Row, median, quantile};

/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What every node is asked for, and where in the answer the value stands (a JSON pointer).
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) resource: String,
    pub(crate) pointer: String,
}

/// When each node first answered with the value, since `start`.
pub(crate) struct Seen {
    pub(crate) at: Vec<Duration>,
    polls: u64,
    polled: Duration,
}

impl Seen {
    /// When the last node had it.
    pub(crate) fn all(&self) -> Duration {
        self.at.iter().copied().max().unwrap_or_default()
    }
}

/// Asks all nodes at once, each again and again on its kept connection, until each has answered with the value.
pub(crate) async fn watch<'a>(
    nodes: impl IntoIterator<Item = &'a mut Client>,
    question: &Question,
    value: &Value,
    start: Instant,
) -> anyhow::Result<Seen> {
    let asked = nodes.into_iter().map(|client| watch_one(client, question, value, start));
    let answers = try_join_all(asked).await?;
    Ok(Seen {
        at: answers.iter().map(|(at, ..)| *at).collect(),
        polls: answers.iter().map(|(_, polls, _)| polls).sum(),
        polled: answers.iter().map(|(.., polled)| *polled).sum(),
    })
}

async fn watch_one(
    client: &mut Client,
    question: &Question,
    value: &Value,
    start: Instant,
) -> anyhow::Result<(Duration, u64, Duration)> {
    let began = Instant::now();
    let mut polls = 0;
    loop {
        polls += 1;
        let answer = match client.get(&question.resource).await {
            Err(ClientError::Problem { status: 404, .. }) => Value::Null,
            answer => answer.with_context(|| question.resource.clone())?,
        };
        if answer.pointer(&question.pointer) == Some(value) {
            return Ok((start.elapsed(), polls, began.elapsed()));
        }
        ensure!(start.elapsed() < DEADLINE, "a write is not readable everywhere after {DEADLINE:?}");
    }
}

/// Times of one run, milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Times {
    all: Vec<f64>,
    polls: u64,
    polled: Duration,
}

impl Times {
    /// Notes when a write was readable everywhere, counted from `from`.
    pub(crate) fn note(&mut self, seen: &Seen, from: Duration) {
        self.all.push(seen.all().saturating_sub(from).as_secs_f64() * 1e3);
        self.polls += seen.polls;
        self.polled += seen.polled;
    }
}

/// What a sort of write is called and measured against.
pub(crate) struct Sort<'a> {
    pub(crate) name: &'a str,
    pub(crate) targets_ms: Option<(f64, f64)>,
    pub(crate) floor_ms: f64,
}

impl Sort<'_> {
    /// Medians over the runs of their 50th and 99th percentiles, and how finely they were told.
    pub(crate) fn rows(&self, runs: &[Times]) -> Vec<Row> {
        let over_runs = |share| median(&runs.iter().map(|run| quantile(&run.all, share)).collect::<Vec<_>>());
        let mut rows = vec![
            Row::new(format!("{}, p50", self.name), "ms", over_runs(0.50)).beside(self.floor_ms),
            Row::new(format!("{}, p99", self.name), "ms", over_runs(0.99)).beside(self.floor_ms),
        ];
        if let Some((p50, p99)) = self.targets_ms {
            let mut targets = [p50, p99].into_iter();
            rows = rows.into_iter().map(|row| row.at_most(targets.next().unwrap_or(p99))).collect();
            let polls: u64 = runs.iter().map(|run| run.polls).sum();
            let polled: Duration = runs.iter().map(|run| run.polled).sum();
            let resolution = polled.as_secs_f64() * 1e3 / polls.max(1) as f64;
            if let [first, .., last] = runs {
                let growth = median(&last.all) / median(&first.all).max(f64::MIN_POSITIVE);
                rows.push(Row::new(format!("{}: p50 of the last run over that of the first", self.name), "×", growth));
            }
            rows.push(Row::new(format!("{}: between two polls of a node, mean", self.name), "ms", resolution));
        }
        rows
    }
}
