//! Questions from one node to a device, fifty a second, each by itself: when each answer came.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use node::client::Client;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::ground::ASKER;

/// From one question to the next.
pub(super) const EVERY: Duration = Duration::from_millis(20);

/// An answer: when it came, and the nodes that its question went over, the asker first, the answerer last.
type Answer = (Instant, Vec<String>);

/// What came of the questions so far.
#[derive(Default)]
struct Told {
    /// In the order in which they came.
    answers: Vec<Answer>,
    failed: u64,
    /// Connections to the API that no question uses now.
    idle: Vec<Client>,
}

/// Questions that go on until this goes.
pub(super) struct Asking {
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl Asking {
    /// Asks the node with this socket for a resource.
    pub(super) fn start(socket: PathBuf, resource: String) -> Asking {
        let told = Arc::new(Mutex::new(Told::default()));
        let for_task = told.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                tokio::spawn(ask(for_task.clone(), socket.clone(), resource.clone()));
            }
        });
        Asking { told, task }
    }

    /// The longest time without an answer from the last one before a moment until now.
    pub(super) fn longest_silence(&self, since: Instant) -> Duration {
        let told = self.told();
        let first = told.answers.partition_point(|(at, _)| *at < since).saturating_sub(1);
        let times: Vec<Instant> = told.answers[first..].iter().map(|(at, _)| *at).chain([Instant::now()]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The last answer.
    pub(super) fn last(&self) -> Option<Answer> {
        self.told().answers.last().cloned()
    }

    /// When the last answer came that went over a link, whose far end is named with the near one: never, where none did since.
    pub(super) fn last_over(&self, link: &[String; 2], since: Instant) -> Option<Instant> {
        let told = self.told();
        let over = told.answers.iter().rev().take_while(|(at, _)| *at >= since);
        let mut over = over.filter(|(_, hops)| hops.windows(2).any(|pair| pair == link));
        over.next().map(|(at, _)| *at)
    }

    /// Answers, and questions that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        let told = self.told();
        (told.answers.len() as u64, told.failed)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The asker, and the nodes after it.
fn path(answer: &Value) -> Vec<String> {
    let hops = answer["hops"].as_array().into_iter().flatten().filter_map(|hop| hop["name"].as_str());
    [ASKER].into_iter().chain(hops).map(str::to_owned).collect()
}

async fn ask(told: Arc<Mutex<Told>>, socket: PathBuf, resource: String) {
    let idle = told.lock().unwrap_or_else(PoisonError::into_inner).idle.pop();
    let client = match idle {
        Some(client) => Ok(client),
        None => Client::connect(&socket).await,
    };
    let Ok(mut client) = client else { return };
    let answer = client.get(&resource).await;
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(answer) => told.answers.push((Instant::now(), path(&answer))),
        Err(_) => told.failed += 1,
    }
    told.idle.push(client);
}
