//! Sources, and how they are read: on workers, with a deadline, each for itself.
//!
//! A collection starts one worker, which takes one source after another, and hears of it when it is through. When nothing
//! has been answered for [`TAKE_OVER_MS`] another worker takes over the rest; the first is never joined. A source without an answer at
//! [`COLLECT_MS_MAX`] is [`SourceState::Hung`] and is left out of collections until its worker returns.
//! Overflow: with [`STUCK_WORKERS_MAX`] workers stuck no more are started, and what they would have read is hung too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crdt::schema::{Kind, Value};

use crate::probe::{Origin, Outcome, Probe};

/// How long one collection may take, milliseconds: the deadline of every source in it.
pub const COLLECT_MS_MAX: u64 = 1000;
/// Silence after which another worker takes over, milliseconds; it may be noticed as much later.
pub const TAKE_OVER_MS: u64 = 50;
/// Workers that may be stuck at one time.
pub const STUCK_WORKERS_MAX: usize = 16;

/// What became of a source in the last collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SourceState {
    /// It was read.
    Found,
    /// This machine does not have it.
    Absent,
    /// It is there, and reading it was refused.
    Denied,
    /// It gave no answer within the deadline; it is left out until it does.
    Hung,
    /// It was read, and at least one reading was not believed and dropped.
    Implausible,
}

impl SourceState {
    /// The state in one word.
    pub fn name(self) -> &'static str {
        match self {
            SourceState::Found => "found",
            SourceState::Absent => "absent",
            SourceState::Denied => "denied",
            SourceState::Hung => "hung",
            SourceState::Implausible => "implausible",
        }
    }
}

/// One source, as a person sees it: where it is, what became of it and what it gave.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceReport {
    /// Its name, unique in a report.
    pub name: String,
    /// The file or folder that is read, under the root; a word without a slash for what is asked of the system.
    pub path: String,
    /// What became of it.
    pub state: SourceState,
    /// The values that it gave: document, path, value.
    pub values: Vec<(Kind, String, Value)>,
    /// Why a reading is missing, for people; at most eight.
    pub notes: Vec<String>,
}

/// A path as people write it: from the root, unless it is no file.
pub(crate) fn shown(path: &str) -> String {
    if path.contains('/') { format!("/{path}") } else { path.to_owned() }
}

/// One thing to read: a file or a folder, and how.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Unique among all sources.
    pub(crate) name: String,
    /// Relative to the root, for people and for `read`.
    pub(crate) path: String,
    pub(crate) read: fn(&mut Probe<'_>, &str),
}

/// A source and what it gave; none if it hangs.
pub(crate) type Answer = (Source, Option<Outcome>);

struct Done {
    round: u64,
    name: String,
    outcome: Outcome,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Source>,
    is_closed: bool,
}

/// What the workers of one collection share.
struct Round {
    number: u64,
    origin: Origin,
    /// Sources that hang since an earlier round.
    skip: BTreeSet<String>,
    queue: Mutex<Queue>,
}

impl Round {
    /// A worker's panic is caught before it could hold the lock, so poison means nothing here.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What workers found, of any round. Whoever waits is woken by a worker that is through, not by each answer.
#[derive(Default)]
struct Answers {
    found: Mutex<Vec<Done>>,
    bell: Condvar,
}

impl Answers {
    /// Nothing panics under the lock.
    fn found(&self) -> MutexGuard<'_, Vec<Done>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there; where there is nothing yet, what is there when a worker is through, or after so long.
    fn wait(&self, at_most: Duration) -> Vec<Done> {
        let mut found = self.found();
        if found.is_empty() {
            let waited = self.bell.wait_timeout(found, at_most);
            found = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut *found)
    }
}

/// Reads sources on workers. Keeps account of workers that did not return.
pub(crate) struct Pool {
    round: u64,
    /// Sources whose worker has not returned.
    stuck: BTreeSet<String>,
    answers: Arc<Answers>,
}

impl Pool {
    pub(crate) fn new() -> Pool {
        Pool { round: 0, stuck: BTreeSet::new(), answers: Arc::default() }
    }

    /// Reads `sources` and what they lead to. Returns after [`COLLECT_MS_MAX`] at the latest.
    pub(crate) fn read(&mut self, origin: &Origin, sources: Vec<Source>) -> Vec<Answer> {
        let deadline = Instant::now() + Duration::from_millis(COLLECT_MS_MAX);
        for late in std::mem::take(&mut *self.answers.found()) {
            self.stuck.remove(&late.name);
        }
        self.round += 1;
        let mut answers = Vec::new();
        let mut open: BTreeMap<String, Source> = BTreeMap::new();
        let round = Arc::new(Round {
            number: self.round,
            origin: origin.clone(),
            skip: self.stuck.clone(),
            queue: Mutex::default(),
        });
        enlist(&round.skip, sources.clone(), &mut open, &mut answers);
        round.queue().waiting.extend(sources.into_iter().filter(|source| open.contains_key(&source.name)));
        let mut workers = usize::from(self.start_worker(&round, 0));
        while !open.is_empty() && workers > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = self.answers.wait(left.min(Duration::from_millis(TAKE_OVER_MS)));
            let is_over = Instant::now() >= deadline;
            if found.is_empty() && !is_over {
                let has_work = !round.queue().waiting.is_empty();
                if has_work && self.start_worker(&round, workers) {
                    workers += 1;
                }
            }
            for done in found {
                if done.round != self.round {
                    self.stuck.remove(&done.name);
                } else if let Some(source) = open.remove(&done.name) {
                    enlist(&round.skip, done.outcome.children.clone(), &mut open, &mut answers);
                    answers.push((source, Some(done.outcome)));
                }
            }
            if is_over {
                break;
            }
        }
        self.close(&round, open, &mut answers);
        answers
    }

    /// Ends a round: what is still waiting was not reached, what was taken is stuck.
    fn close(&mut self, round: &Round, open: BTreeMap<String, Source>, answers: &mut Vec<Answer>) {
        let unreached: BTreeSet<String> = {
            let mut queue = round.queue();
            queue.is_closed = true;
            queue.waiting.drain(..).map(|source| source.name).collect()
        };
        for (name, source) in open {
            if !unreached.contains(&name) {
                tracing::warn!(source = %name, "hangs: left out until it answers");
                self.stuck.insert(name);
            }
            answers.push((source, None));
        }
    }

    /// One more worker, unless too many are busy or stuck.
    fn start_worker(&self, round: &Arc<Round>, workers: usize) -> bool {
        if self.stuck.len() + workers >= STUCK_WORKERS_MAX {
            return false;
        }
        let (round, answers) = (round.clone(), self.answers.clone());
        let started = thread::Builder::new().name("collector".to_owned()).spawn(move || {
            work(&round, &answers);
            answers.bell.notify_one();
        });
        if let Err(error) = &started {
            tracing::warn!(%error, "no worker for collections");
        }
        started.is_ok()
    }
}

/// Remembers that sources are to answer; those that are skipped are answered here. A late answer within a round
/// changes nothing in it, so that workers and collection agree on who is asked.
fn enlist(
    skip: &BTreeSet<String>,
    sources: Vec<Source>,
    open: &mut BTreeMap<String, Source>,
    answers: &mut Vec<Answer>,
) {
    for source in sources {
        if skip.contains(&source.name) {
            answers.push((source, None));
        } else {
            open.insert(source.name.clone(), source);
        }
    }
}

/// A worker: takes sources until there are none.
fn work(round: &Round, answers: &Answers) {
    loop {
        let Some(source) = round.queue().waiting.pop_front() else { return };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut probe = Probe::new(&round.origin);
            (source.read)(&mut probe, &source.path);
            probe.outcome
        }));
        let outcome = outcome.unwrap_or_else(|_| {
            let mut outcome = Outcome { is_implausible: true, ..Outcome::default() };
            outcome.note("the reader failed on what it read".to_owned());
            outcome
        });
        let children = outcome.children.clone();
        // First the answer, then the children: so the collection knows of a child before the child answers.
        answers.found().push(Done { round: round.number, name: source.name, outcome });
        let mut queue = round.queue();
        if !queue.is_closed {
            queue.waiting.extend(children.into_iter().filter(|child| !round.skip.contains(&child.name)));
        }
    }
}
