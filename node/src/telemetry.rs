//! The collector's thread: readings of this machine become changes of its own documents.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use collectors::{Collector, Significance};
use crdt::id::{DeviceId, Time};
use crdt::schema::{DocumentName, Kind};
use crdt::sync::{Edit, Input, Reply};
use crdt::view;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::agent::{Agent, Stopped};

const KINDS: [Kind; 3] = [Kind::Device, Kind::Environment, Kind::Resource];
/// Readings are taken at least this often, so that crossings of thresholds are seen.
const SAMPLE_MS_MAX: u64 = 1_000;

/// What the last collection found, for `node collect --explain`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Explain(Arc<Mutex<Value>>);

impl Explain {
    pub(crate) fn report(&self) -> Value {
        self.0.lock().map_or(Value::Null, |report| report.clone())
    }

    fn set(&self, report: Value) {
        if let Ok(mut known) = self.0.lock() {
            *known = report;
        }
    }
}

/// How readings are taken.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The shortest time between two changes of a document, milliseconds.
    pub(crate) interval_min_ms: u64,
    /// Bytes a second that the whole scope's telemetry may cost.
    pub(crate) budget_bytes_per_s: u64,
}

/// The running thread.
pub(crate) struct Telemetry {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Telemetry {
    /// Starts the thread.
    pub(crate) fn start(
        collector: Collector,
        plan: Plan,
        agent: Agent,
        device: DeviceId,
        explain: Explain,
    ) -> Telemetry {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            collector,
            plan,
            agent,
            device,
            explain,
            runtime: Handle::current(),
            stop: Arc::clone(&stop),
            start: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("fleetsync-collect".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| tracing::error!(%error, "readings are not taken"))
            .ok();
        Telemetry { stop, thread }
    }

    /// Ends the thread after the collection that is under way, without waiting for it.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

struct Worker {
    collector: Collector,
    plan: Plan,
    agent: Agent,
    device: DeviceId,
    explain: Explain,
    runtime: Handle,
    stop: Arc<AtomicBool>,
    start: Instant,
}

impl Worker {
    fn run(mut self) {
        let mut restored = self.agent.restored();
        let mut states = KINDS.map(|kind| self.resume(kind));
        let pause = Duration::from_millis(self.plan.interval_min_ms.clamp(1, SAMPLE_MS_MAX));
        while !self.stop.load(Ordering::Relaxed) {
            // An error means that the agent is gone, which the round finds.
            if restored.has_changed().unwrap_or(false) {
                // Marked as seen before the store is read, so that what comes meanwhile is read in the next round.
                restored.mark_unchanged();
                states = KINDS.map(|kind| self.resume(kind));
            }
            if self.round(&mut states).is_err() {
                return;
            }
            std::thread::park_timeout(pause);
        }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn document(&self, kind: Kind) -> DocumentName {
        DocumentName::of_device(kind, &self.device)
    }

    /// After a restart, and after the folder was put back from an old copy, only what differs from what was written before is significant.
    fn resume(&self, kind: Kind) -> Significance {
        let view = view::read(self.agent.store(), &self.document(kind), "").unwrap_or_default();
        let written = view.into_iter().map(|(path, entry)| (path, entry.read.value)).collect();
        Significance::resume(kind, self.plan.interval_min_ms, written)
    }

    fn round(&mut self, states: &mut [Significance; 3]) -> Result<(), Stopped> {
        let devices =
            self.runtime.block_on(self.agent.look(|node| node.engine.replica().roster().devices().count()))?;
        let interval = collectors::interval_ms(devices as u64, self.plan.budget_bytes_per_s, self.plan.interval_min_ms);
        let mut collection = self.collector.collect(self.now());
        let (path, source) = crate::api::source_edit(self.collector.source_name());
        collection.device.insert(path, source);
        self.explain.set(explain(&self.collector));
        for state in states {
            state.set_interval_ms(interval);
            let Some(readings) = collection.of(state.kind()) else { continue };
            if let Some(edits) = state.handle(self.now(), readings.clone()) {
                self.write(state, edits)?;
            }
        }
        Ok(())
    }

    fn write(
        &self,
        state: &mut Significance,
        edits: Vec<(String, Option<crdt::schema::Value>)>,
    ) -> Result<(), Stopped> {
        let document = self.document(state.kind());
        let edits = edits.into_iter().map(|(path, value)| Edit { path, value }).collect();
        let reply =
            self.runtime.block_on(self.agent.request(move |request| Input::Write { request, document, edits }))?;
        if let Reply::Refused(reason) = reply {
            tracing::warn!(%reason, "readings were not written");
            state.not_written();
        }
        Ok(())
    }
}

fn explain(collector: &Collector) -> Value {
    let sources = collector.explain().into_iter().map(|source| {
        let values: serde_json::Map<String, Value> = source
            .values
            .iter()
            .map(|(kind, path, value)| (format!("{}/{path}", kind.name()), crate::api::values::to_json(value)))
            .collect();
        json!({
            "source": source.name,
            "path": source.path,
            "state": source.state.name(),
            "values": values,
            "notes": source.notes,
        })
    });
    Value::Array(sources.collect())
}
