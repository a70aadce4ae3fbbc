//! The steps of a plan, and the end of all faults.

use std::sync::Arc;

use crdt::schema::{DocumentName, Kind, Value};
use crdt::statement::StatementParts;
use crdt::store::MemoryStore;
use crdt::sync::{Edit, Input};

use super::{Event, World};
use crate::sim::disk::Disk;
use crate::sim::fleet::{OPERATORS, key_of};
use crate::sim::host::{Request, Waiting};
use crate::sim::mutant::Mutant;
use crate::sim::plan::{Boundary, Step};
use crate::sim::verdict::Oracle;

/// A host that was to die at a boundary that does not come dies anyway after this long.
const PATIENCE_US: u64 = 5_000_000;

impl World<'_, '_> {
    pub(super) fn step(&mut self, step: &Step) {
        if step.nodes().iter().any(|node| *node >= self.hosts.len()) {
            return;
        }
        *self.stats.done.entry(name_of(step)).or_default() += 1;
        match step {
            Step::Write { node, path, value } => self.write(*node, path, Value::Int(*value)),
            Step::Bulk { node, path, bytes } => self.write(*node, path, Value::Bytes(vec![1; *bytes])),
            Step::Edit { node, operator, document, path, value } => {
                self.edit(*node, *operator, document, path, *value);
            }
            Step::Label { node, operator, device, value } => {
                let statement = self.fleet.label(*operator, *device, value);
                self.state(*node, vec![statement], Request::Statements);
            }
            Step::Remove { node, operator, device } => {
                if self.hosts[*node].is_up() && node != device {
                    self.targets.insert(*device);
                    let statement = self.fleet.removal(*operator, *device);
                    self.state(*node, vec![statement], Request::Removal(*device));
                }
            }
            Step::Join { node, over } => self.join(*node, *over),
            Step::Leave { node } => {
                self.gone.insert(*node);
                if self.hosts[*node].is_up() {
                    self.die(*node, true);
                }
            }
            Step::Cut { line } => {
                if let Some(number) = self.meant_by(*line) {
                    self.cut(number);
                }
            }
            Step::Mend { line } => {
                if let Some(number) = self.meant_by(*line) {
                    self.mend(number);
                }
                self.is_mended(*line);
            }
            Step::Mute { line, to_first } => {
                let number = self.meant_by(*line);
                if let Some(state) = number.and_then(|number| self.lines.get_mut(number)) {
                    state.is_muted[usize::from(!to_first)] = true;
                }
            }
            Step::Part { side } => self.part(side),
            Step::MendAll => self.mend_all(),
            Step::Crash { node, power, at } => self.crash(*node, *power, *at),
            Step::Start { node } => self.start(*node),
            Step::Freeze { node, for_ms } => {
                let host = &mut self.hosts[*node];
                host.busy_until_us = host.busy_until_us.max(self.now_us + for_ms * 1000);
            }
            Step::Slow { node, input_us } => self.hosts[*node].input_us = *input_us,
            Step::Jump { node, by_ms } => {
                let skew = &mut self.hosts[*node].skew_ms;
                *skew = skew.saturating_add(*by_ms);
            }
            Step::Backup { node } => self.hosts[*node].make_backup(),
            Step::PutBack { node } => self.put_back(*node),
            Step::Misbehave { node, drop_ppm, repeat_ppm, alter_ppm } => {
                self.hosts[*node].misbehaves = (*drop_ppm, *repeat_ppm, *alter_ppm);
            }
        }
    }

    fn write(&mut self, node: usize, path: &str, value: Value) {
        let document = DocumentName::of_device(Kind::Environment, &self.fleet.device(node));
        let edits = vec![Edit { path: path.to_owned(), value: Some(value) }];
        let request = self.hosts[node].request(Request::Write);
        self.arrive(node, Waiting { input: Input::Write { request, document, edits }, from: None });
    }

    fn edit(&mut self, node: usize, operator: usize, document: &str, path: &str, value: Option<i64>) {
        let Ok(document) = DocumentName::config(document) else { return };
        let author = key_of(&self.fleet.operators[operator % OPERATORS]);
        let edits = vec![Edit { path: path.to_owned(), value: value.map(Value::Int) }];
        let request = self.hosts[node].request(Request::Prepare(operator));
        self.arrive(node, Waiting { input: Input::Prepare { request, document, author, edits }, from: None });
    }

    fn state(&mut self, node: usize, statements: Vec<StatementParts>, what: Request) {
        let request = self.hosts[node].request(what);
        self.arrive(node, Waiting { input: Input::Statements { request, statements }, from: None });
    }

    /// A device starts on the root, the operators and its own admission; a member publishes that.
    fn join(&mut self, node: usize, over: usize) {
        if self.hosts[node].start > 0 || !self.hosts[over].is_up() {
            return;
        }
        let entry = self.fleet.entry(node);
        self.state(over, entry.to_vec(), Request::Statements);
        self.hosts[node].disk = Disk::new(Arc::new(MemoryStore::default()));
        self.hosts[node].ticket = Some(over);
        self.boot(node);
        let statements = self.fleet.genesis.iter().cloned().chain(entry).collect();
        self.state(node, statements, Request::Statements);
    }

    fn cut(&mut self, line: usize) {
        if line < self.lines.len() {
            self.lines[line].is_whole = false;
            self.drop_session(line);
        }
    }

    fn mend(&mut self, line: usize) {
        if let Some(state) = self.lines.get_mut(line) {
            state.is_whole = true;
            state.is_muted = [false; 2];
            self.try_line(line);
        }
    }

    fn part(&mut self, side: &[usize]) {
        self.is_parted(side);
        for line in 0..self.lines.len() {
            let (a, b) = self.lines[line].line.ends;
            if side.contains(&a) != side.contains(&b) {
                self.cut(line);
            }
        }
    }

    fn mend_all(&mut self) {
        self.is_whole_again();
        (0..self.lines.len()).for_each(|line| self.mend(line));
    }

    fn crash(&mut self, node: usize, power: bool, at: Boundary) {
        if !self.hosts[node].is_up() {
            return;
        }
        if at == Boundary::Now {
            if !power && self.chance.index(2) == 0 {
                self.hosts[node].stop(self.now_us);
            }
            return self.die(node, power);
        }
        self.hosts[node].dies_at = Some((at, power));
        let start = self.hosts[node].start;
        self.schedule(self.now_us + PATIENCE_US, Event::Die { node, start, power });
    }

    pub(super) fn die(&mut self, node: usize, power: bool) {
        self.forget_routes(node);
        for line in self.lines_of[node].clone() {
            self.drop_session(line);
            let slot = usize::from(self.lines[line].line.ends.0 != node);
            self.lines[line].believed[slot] = None;
        }
        let kept = self.chance.index(self.hosts[node].disk.unsynced() + 1);
        if let Some(at_us) = self.hosts[node].timer_us.take() {
            self.timers.remove(&(at_us, node));
        }
        if power && self.is_broken(node, Mutant::TearsBatches) {
            self.hosts[node].disk.tear();
        }
        self.hosts[node].die(power, kept);
    }

    fn start(&mut self, node: usize) {
        // Who has not joined has nothing to start on.
        if self.hosts[node].is_up() || self.hosts[node].start == 0 || self.gone.contains(&node) {
            return;
        }
        self.boot(node);
    }

    fn boot(&mut self, node: usize) {
        match self.hosts[node].start_again(&self.fleet, node, self.plan.seed) {
            Ok(()) => self.came_up(node),
            Err(reason) => self.breach(Oracle::OpensAgain, format!("node {node} does not start: {reason}")),
        }
    }

    fn put_back(&mut self, node: usize) {
        if self.hosts[node].backup.is_none() || self.gone.contains(&node) {
            return;
        }
        if self.hosts[node].is_up() {
            self.die(node, false);
        }
        self.hosts[node].put_back();
        self.start(node);
    }

    /// Every fault ends.
    pub(super) fn heal(&mut self) {
        for node in 0..self.hosts.len() {
            let host = &mut self.hosts[node];
            host.dies_at = None;
            host.input_us = 0;
            host.misbehaves = (0, 0, 0);
            host.busy_until_us = host.busy_until_us.min(self.now_us);
            self.start(node);
            self.drain(node);
        }
        self.mend_all();
    }
}

/// The step's name, for the counts.
pub(crate) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::Write { .. } => "write",
        Step::Bulk { .. } => "bulk",
        Step::Edit { .. } => "edit",
        Step::Label { .. } => "label",
        Step::Remove { .. } => "remove",
        Step::Join { .. } => "join",
        Step::Leave { .. } => "leave",
        Step::Cut { .. } => "cut",
        Step::Mend { .. } => "mend",
        Step::Mute { .. } => "mute",
        Step::Part { .. } => "part",
        Step::MendAll => "mend all",
        Step::Crash { .. } => "crash",
        Step::Start { .. } => "start",
        Step::Freeze { .. } => "freeze",
        Step::Slow { .. } => "slow",
        Step::Jump { .. } => "jump",
        Step::Backup { .. } => "backup",
        Step::PutBack { .. } => "put back",
        Step::Misbehave { .. } => "misbehave",
    }
}
