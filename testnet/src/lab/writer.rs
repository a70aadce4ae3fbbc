//! Operators who write all the time, and the proof that nothing they were told is written was lost.
//!
//! Each writing node has paths of its own in one configuration, which it sets in turn to a number that grows. So a path
//! has one writer, and may in the end read as what was acknowledged last or as a later attempt that nobody heard of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node::client::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::watch::Watch;
use crate::bench::operator::Operator;

/// The configuration that is written.
pub(crate) const DOCUMENT: &str = "config/lab";
/// Paths of a node.
const PATHS: u64 = 16;
/// How long a write may take; it may have arrived all the same.
const ANSWER: Duration = Duration::from_secs(3);
/// Most differences that are told.
const TOLD_MAX: usize = 20;

/// What is known of a path.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Path {
    acknowledged: Option<u64>,
    tried: u64,
}

/// What was written on one node.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    paths: BTreeMap<String, Path>,
    pub(crate) acknowledged: u64,
    /// Without an answer, or refused.
    pub(crate) failed: u64,
}

impl Journal {
    fn tries(&mut self, path: &str, value: u64) {
        self.paths.entry(path.to_owned()).or_default().tried = value;
    }

    fn is_answered(&mut self, path: &str, value: u64) {
        self.paths.entry(path.to_owned()).or_default().acknowledged = Some(value);
        self.acknowledged += 1;
    }
}

/// What writers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Write,
    Pause,
    Stop,
}

/// Writers at work.
pub(crate) struct Writer {
    mode: watch::Sender<Mode>,
    tasks: Vec<JoinHandle<Journal>>,
}

impl Writer {
    /// Begins to write on these nodes, told by name and data folder, so often on each.
    pub(crate) fn start(operator: Operator, nodes: Vec<(String, PathBuf)>, pause: Duration) -> Writer {
        let (mode, told) = watch::channel(Mode::Write);
        let operator = Arc::new(operator);
        let count = u32::try_from(nodes.len()).unwrap_or(1);
        let begin = |((name, folder), number)| {
            let (operator, told) = (operator.clone(), told.clone());
            tokio::spawn(async move {
                // Not all at once.
                tokio::time::sleep(pause / count * number).await;
                write(operator, name, folder, pause, told).await
            })
        };
        Writer { mode, tasks: nodes.into_iter().zip(0..).map(begin).collect() }
    }

    /// Begins no more writes, so that nodes can come to agree.
    pub(crate) fn pause(&self) {
        self.mode.send_replace(Mode::Pause);
    }

    /// Goes on after a pause.
    pub(crate) fn resume(&self) {
        self.mode.send_replace(Mode::Write);
    }

    /// Stops, and says what was written.
    pub(crate) async fn stop(self) -> anyhow::Result<Vec<Journal>> {
        self.mode.send_replace(Mode::Stop);
        let mut journals = Vec::new();
        for task in self.tasks {
            journals.push(task.await?);
        }
        Ok(journals)
    }
}

async fn write(
    operator: Arc<Operator>,
    name: String,
    folder: PathBuf,
    pause: Duration,
    mut told: watch::Receiver<Mode>,
) -> Journal {
    let mut journal = Journal::default();
    let mut client = None;
    for value in 1_u64.. {
        // An error means that nobody waits for what is written.
        match told.wait_for(|mode| *mode != Mode::Pause).await {
            Ok(mode) if *mode == Mode::Write => {}
            _ => break,
        }
        let path = format!("{name}.p{}", value % PATHS);
        journal.tries(&path, value);
        let begun = Instant::now();
        let asked = async {
            let mut connected = match client.take() {
                Some(client) => client,
                None => Client::connect(&folder.join("api.sock")).await?,
            };
            operator.set(&mut connected, DOCUMENT, &path, value).await?;
            anyhow::Ok(connected)
        };
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(connected)) => {
                client = Some(connected);
                journal.is_answered(&path, value);
            }
            // The connection is not kept: it may be in the middle of an answer.
            _ => journal.failed += 1,
        }
        tokio::select! {
            () = tokio::time::sleep(pause.saturating_sub(begun.elapsed())) => {}
            _ = told.changed() => {}
        }
    }
    journal
}

/// What of the acknowledged writes cannot be read on some node, a line for each; nothing where all can.
pub(crate) async fn lost(journals: &[Journal], names: &[String], nodes: &mut Watch) -> Vec<String> {
    let answers = nodes.ask(&format!("/v1/document?document={DOCUMENT}")).await;
    let mut lines = Vec::new();
    for (name, answer) in names.iter().zip(&answers) {
        let values = answer.as_ref().map_or(&Value::Null, |answer| &answer["values"]);
        for (path, known) in journals.iter().flat_map(|journal| &journal.paths) {
            lines.extend(loss(known, &values[path]["value"]).map(|what| format!("{name}: {path} {what}")));
        }
    }
    let more = lines.len().saturating_sub(TOLD_MAX);
    lines.truncate(TOLD_MAX);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// What is wrong with what is read at a path.
fn loss(known: &Path, read: &Value) -> Option<String> {
    let acknowledged = known.acknowledged?;
    match read.as_u64() {
        Some(value) if (acknowledged..=known.tried).contains(&value) => None,
        Some(value) => Some(format!("is {value}, and {acknowledged} was acknowledged")),
        None => Some(format!("is not there, and {acknowledged} was acknowledged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_acknowledged_or_tried_later_is_no_loss() {
        let mut journal = Journal::default();
        journal.tries("a.p1", 17);
        journal.is_answered("a.p1", 17);
        journal.tries("a.p1", 33);
        let known = journal.paths["a.p1"];
        assert_eq!(known, Path { acknowledged: Some(17), tried: 33 });
        assert_eq!((loss(&known, &json!(17)), loss(&known, &json!(33))), (None, None));
        for read in [json!(1), json!(34), json!(null), json!("17")] {
            assert!(loss(&known, &read).is_some(), "{read}");
        }
        assert_eq!(loss(&Path { acknowledged: None, tried: 5 }, &Value::Null), None);
    }
}
