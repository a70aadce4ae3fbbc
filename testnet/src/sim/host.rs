//! One node of a run: the shipped engine on a disk of its own, and what its driver keeps.

use std::collections::{BTreeMap, VecDeque};

use crdt::change::LogName;
use crdt::id::{Actor, ChangeHash, Time};
use crdt::sync::{Config, Effect, Engine, Input, RequestId};

use transport::Liveness;

use super::disk::Disk;
use super::fleet::Fleet;
use super::mesh::Mesh;
use super::plan::Boundary;

/// An input that waits for its node, with where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) input: Input,
    /// The node that sent the frame, and whether it was altered on the way.
    pub(crate) from: Option<(usize, bool)>,
}

/// A write that was acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    pub(crate) log: LogName,
    pub(crate) hash: ChangeHash,
}

/// What a request was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Write,
    Prepare(usize),
    Submit,
    Statements,
    Removal(usize),
}

/// A node.
pub(crate) struct Host {
    pub(crate) engine: Option<Engine>,
    pub(crate) disk: Disk,
    pub(crate) backup: Option<Disk>,
    /// Whether it has ever run on a copy of its disk.
    pub(crate) was_put_back: bool,
    /// Kept over restarts, as the driver must; on the disk that is copied.
    pub(crate) incarnation: u64,
    backup_incarnation: u64,
    /// Counts the engines it had: what belongs to an earlier one is void.
    pub(crate) start: u64,
    pub(crate) inbox: VecDeque<Waiting>,
    /// It takes no input before this, microseconds.
    pub(crate) busy_until_us: u64,
    /// What an input costs it, microseconds.
    pub(crate) input_us: u64,
    /// Its wall clock beside the true one, milliseconds.
    pub(crate) skew_ms: i64,
    pub(crate) dies_at: Option<(Boundary, bool)>,
    pub(crate) requests: BTreeMap<RequestId, Request>,
    pub(crate) acknowledged: BTreeMap<(Actor, u64), Acknowledged>,
    pub(crate) misbehaves: (u32, u32, u32),
    /// Whether its last handled input made it draw a new incarnation.
    pub(crate) drew: bool,
    /// Which of its links it takes for dead.
    pub(crate) liveness: Liveness,
    /// Whom it dials and which ways it takes, where hosts choose that.
    pub(crate) mesh: Option<Mesh>,
    /// The node that its ticket names, where it joined.
    pub(crate) ticket: Option<usize>,
    /// Its next timer as the world has it, microseconds.
    pub(crate) timer_us: Option<u64>,
    /// A sync of what others sent is due.
    pub(crate) group_sync: bool,
    /// When the last sync that is under way ends, microseconds.
    pub(crate) syncs_until_us: u64,
    next_request: u64,
}

impl Host {
    pub(crate) fn new(fleet: &Fleet, number: usize) -> Host {
        let incarnation = 1 + number as u64;
        Host {
            engine: None,
            disk: Disk::new(fleet.base.clone()),
            backup: None,
            was_put_back: false,
            incarnation,
            backup_incarnation: incarnation,
            start: 0,
            inbox: VecDeque::new(),
            busy_until_us: 0,
            input_us: 0,
            skew_ms: 0,
            dies_at: None,
            requests: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            misbehaves: (0, 0, 0),
            drew: false,
            liveness: Liveness::default(),
            mesh: None,
            ticket: None,
            timer_us: None,
            group_sync: false,
            syncs_until_us: 0,
            next_request: 0,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    fn config(&self, fleet: &Fleet, number: usize, seed: u64) -> Config {
        let seed = seed ^ ((number as u64) << 32) ^ self.start;
        Config { fleet: fleet.id, key: fleet.devices[number].clone(), incarnation: self.incarnation, seed }
    }

    /// The first start: on what every member has.
    pub(crate) fn start_fresh(&mut self, fleet: &Fleet, number: usize, seed: u64) {
        self.start += 1;
        self.engine = Some(fleet.engine.copy_for(self.config(fleet, number, seed)));
    }

    /// A start on what the disk holds. Says why it does not start.
    pub(crate) fn start_again(&mut self, fleet: &Fleet, number: usize, seed: u64) -> Result<(), String> {
        self.start += 1;
        let engine = Engine::open(self.config(fleet, number, seed), &self.disk).map_err(|error| error.to_string())?;
        self.engine = Some(engine);
        Ok(())
    }

    /// It stops in good order; what is left to do is to end it.
    pub(crate) fn stop(&mut self, now_us: u64) {
        let Some(engine) = &mut self.engine else { return };
        engine.handle(Time(now_us), Input::Stop, &self.disk);
        while let Some(effect) = engine.poll_effect() {
            if let Effect::Persist { batch, .. } = effect {
                self.disk.apply(&batch);
            }
        }
    }

    /// It dies; with the power what is not synced goes, but for the first `kept` batches.
    pub(crate) fn die(&mut self, power: bool, kept: usize) {
        self.engine = None;
        self.inbox.clear();
        self.requests.clear();
        self.dies_at = None;
        self.liveness = Liveness::default();
        self.mesh = None;
        self.timer_us = None;
        self.group_sync = false;
        self.syncs_until_us = 0;
        if power {
            self.disk.lose_power(kept);
        } else {
            // A process that ends leaves what it applied to the system, which writes it some day.
            self.disk.sync(self.disk.last());
        }
    }

    pub(crate) fn make_backup(&mut self) {
        let mut copy = self.disk.clone();
        copy.sync(copy.last());
        (self.backup, self.backup_incarnation) = (Some(copy), self.incarnation);
    }

    /// Runs on the copy from now on; the disk becomes the next copy. Says whether there was one.
    pub(crate) fn put_back(&mut self) -> bool {
        let Some(copy) = self.backup.take() else { return false };
        let incarnation = std::mem::replace(&mut self.incarnation, self.backup_incarnation);
        let disk = std::mem::replace(&mut self.disk, copy);
        (self.backup, self.backup_incarnation) = (Some(disk), incarnation);
        self.was_put_back = true;
        true
    }

    pub(crate) fn request(&mut self, what: Request) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.start << 32 | self.next_request);
        self.requests.insert(request, what);
        request
    }

    /// The wall clock, milliseconds since 1970.
    pub(crate) fn wall_ms(&self, now_us: u64) -> u64 {
        const STARTED_MS: i64 = 1_800_000_000_000;
        let now_ms = i64::try_from(now_us / 1000).unwrap_or(i64::MAX);
        u64::try_from(STARTED_MS.saturating_add(now_ms).saturating_add(self.skew_ms)).unwrap_or(0)
    }

    /// Its next timer, microseconds.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let engine = self.engine.as_ref().and_then(Engine::poll_timeout).map(|Time(at)| at);
        let mesh = self.mesh.as_ref().and_then(Mesh::poll_timeout);
        let others = self.liveness.poll_timeout().into_iter().chain(mesh).min();
        engine.into_iter().chain(others.and_then(|at| u64::try_from(at.as_micros()).ok())).min()
    }
}
