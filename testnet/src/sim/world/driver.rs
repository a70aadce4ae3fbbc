//! What the driver of an engine does: inputs in, effects out, batches to the disk.

use crdt::change::{PreparedChange, sign};
use crdt::id::Actor;
use crdt::raw::hash_of;
use crdt::schema::Value;
use crdt::store::{
    Batch, ChangeRecord, Durability, KeyRecord, LogStore, Table, change_key, decode_record, encode_record, read_record,
};
use crdt::sync::frame::{CHANGES, FRAME_BYTES_MAX, Frame, STATEMENT};
use crdt::sync::{Changed, Channel, Effect, Input, LinkId, Reply, RequestId, Token};

use super::{Event, GROUP_SYNC_US, REPEAT_US, WINDOW_BYTES, World};
use crate::sim::fleet::OPERATORS;
use crate::sim::host::{Acknowledged, Request, Waiting};
use crate::sim::mutant::Mutant;
use crate::sim::plan::Boundary;
use crate::sim::trace::What;
use crate::sim::verdict::Oracle;

/// Every number that goes into an index is one greater than it was written.
fn store_other_values(batch: &mut Batch) {
    let rows = batch.rows_mut(Table::Index).iter_mut();
    for (key, value) in rows.filter_map(|(key, value)| Some((key, value.as_mut()?))) {
        let Ok(mut record) = decode_record::<KeyRecord>(Table::Index, key, value) else { continue };
        for leaf in &mut record.leaves {
            if let Some(Value::Int(number)) = &mut leaf.value {
                *number = number.wrapping_add(1);
            }
        }
        *value = encode_record(&record);
    }
}

impl World<'_, '_> {
    pub(super) fn is_broken(&self, node: usize, mutant: Mutant) -> bool {
        self.mutant == Some(mutant) && mutant.breaks(node)
    }

    /// Gives a host an input and does what its engine asks for.
    pub(super) fn input(&mut self, node: usize, waiting: Waiting) {
        let Waiting { input, from } = waiting;
        if let Input::Frame { link, bytes, .. } = &input {
            if self.is_deaf(node, bytes) {
                return;
            }
            if let Some((peer, _)) = from {
                self.note(node, "frame", bytes);
                self.watch_arrival(node, peer, *link, bytes);
            }
        }
        self.watch_link(node, &input);
        let altered = matches!(&input, Input::Frame { bytes, .. }
            if from.is_some_and(|(_, altered)| altered) && matches!(bytes.first(), Some(&STATEMENT | &CHANGES)));
        let original = self.original_of(node, altered, &input);
        let (now, wall) = (self.now(), self.hosts[node].wall_ms(self.now_us));
        let host = &mut self.hosts[node];
        host.drew = false;
        let Some(engine) = &mut host.engine else { return };
        let before = altered.then(|| engine.root());
        engine.handle(now, Input::WallClock(wall), &host.disk);
        engine.handle(now, input, &host.disk);
        let refusals = self.effects(node);
        if let Some(original) = original.filter(|_| refusals > 0) {
            let host = &mut self.hosts[node];
            if let Some(engine) = &mut host.engine {
                engine.handle(now, original, &host.disk);
            }
            self.effects(node);
        }
        let host = &self.hosts[node];
        if let (Some(before), Some(engine)) = (before, &host.engine)
            && refusals > 0
            && !host.drew
            && engine.root() != before
        {
            self.breach(Oracle::RefusalsChangeNothing, format!("node {node} refused a frame and has another root"));
        }
        self.check_limits(node);
        self.set_timer(node);
    }

    /// What a broken host does not hear.
    fn is_deaf(&self, node: usize, bytes: &[u8]) -> bool {
        match Frame::decode(bytes) {
            Ok(Some(Frame::Root(_) | Frame::Ranges(_) | Frame::Items(_) | Frame::Difference(_))) => {
                self.is_broken(node, Mutant::ComparesNothing)
            }
            Ok(Some(Frame::Statement(statement))) if self.is_broken(node, Mutant::IgnoresRemovals) => {
                statement.parts.bytes.windows(7).any(|window| window == b"removal")
            }
            _ => false,
        }
    }

    /// The frame as it was before it was altered, for a host that takes it although it refused what came.
    fn original_of(&self, node: usize, altered: bool, input: &Input) -> Option<Input> {
        let Input::Frame { link, channel, bytes } = input else { return None };
        if !altered || !self.is_broken(node, Mutant::TakesWhatItRefused) {
            return None;
        }
        let mut bytes = bytes.clone();
        super::links::alter(&mut bytes);
        Some(Input::Frame { link: *link, channel: *channel, bytes })
    }

    /// Does what the engine asks for; how much it refused.
    pub(super) fn effects(&mut self, node: usize) -> u64 {
        let mut refusals = 0;
        while let Some(effect) = self.hosts[node].engine.as_mut().and_then(|engine| engine.poll_effect()) {
            match effect {
                Effect::Persist { batch, token, durability } => self.persist(node, batch, token, durability),
                Effect::Send { link, channel, bytes } => self.send(node, link, channel, bytes),
                Effect::Close { link, reason } => {
                    self.note(node, "close", reason.as_bytes());
                    self.mesh_closed(node, link);
                    self.closed_by(node, link);
                }
                Effect::Reply { request, reply } => self.replied(node, request, reply),
                Effect::Changed(Changed::Log { actor, seq, .. }) => self.stored(node, actor, seq),
                Effect::Changed(Changed::Statement(_)) => self.roster_changed(node),
                Effect::Audit(record) => {
                    refusals += 1;
                    *self.stats.refusals.entry(record.reason.clone()).or_default() += 1;
                    self.note(node, "audit", record.reason.as_bytes());
                    if let Some(log) = record.actor {
                        let brought = self.brought.remove(&(node, log, record.seq));
                        self.happened(node, brought, What::Refused, log, record.seq, String::new());
                    }
                }
                Effect::Incarnation(incarnation) => {
                    let host = &mut self.hosts[node];
                    (host.incarnation, host.drew) = (incarnation, true);
                }
                Effect::RoundTrip { link, micros } => self.round_trip(node, link, micros),
                Effect::Behind(link) => self.is_behind(node, link),
                Effect::Fault(error) => self.breach(Oracle::OpensAgain, format!("node {node}: {error}")),
                _ => {}
            }
        }
        refusals
    }

    fn persist(&mut self, node: usize, mut batch: Batch, token: Token, durability: Durability) {
        if self.dies(node, Boundary::BeforeApply) {
            return;
        }
        if self.is_broken(node, Mutant::StoresOtherValues) || self.is_broken(node, Mutant::AllStoreOtherValues) {
            store_other_values(&mut batch);
        }
        let (now, now_us, sync_us) = (self.now(), self.now_us, self.plan.sync_us);
        let too_early = self.is_broken(node, Mutant::SyncsTooEarly);
        let host = &mut self.hosts[node];
        let number = host.disk.apply(&batch);
        let start = host.start;
        if self.dies(node, Boundary::AfterApply) {
            return;
        }
        let host = &mut self.hosts[node];
        if durability == Durability::Synced && !too_early || host.syncs_until_us > now_us {
            // What follows a sync is reported after it.
            let at_us = (now_us + sync_us).max(host.syncs_until_us);
            host.syncs_until_us = at_us;
            return self.schedule(at_us, Event::Stored { node, start, token, synced: Some(number) });
        }
        if !std::mem::replace(&mut host.group_sync, true) && !too_early {
            self.schedule(now_us + GROUP_SYNC_US, Event::GroupSync { node, start });
        }
        let host = &mut self.hosts[node];
        if let Some(engine) = &mut host.engine {
            engine.handle(now, Input::Persisted(token), &host.disk);
        }
    }

    /// Whether the host dies here, as was planned for it.
    pub(super) fn dies(&mut self, node: usize, at: Boundary) -> bool {
        match self.hosts[node].dies_at {
            Some((boundary, power)) if boundary == at => {
                self.die(node, power);
                true
            }
            _ => false,
        }
    }

    fn send(&mut self, node: usize, link: LinkId, channel: Channel, bytes: Vec<u8>) {
        if bytes.first() == Some(&CHANGES) && self.is_broken(node, Mutant::SendsManifold) {
            (1..16).for_each(|_| self.send_once(node, link, channel, bytes.clone()));
        }
        self.send_once(node, link, channel, bytes);
    }

    fn send_once(&mut self, node: usize, link: LinkId, channel: Channel, bytes: Vec<u8>) {
        self.note(node, "send", &bytes);
        if bytes.len() > FRAME_BYTES_MAX {
            self.breach(Oracle::Limits, format!("node {node} sends a frame of {} bytes", bytes.len()));
        }
        let owed = self.owed.entry((node, link, channel)).or_default();
        *owed += bytes.len();
        if *owed > WINDOW_BYTES {
            let owed = *owed;
            self.breach(Oracle::Limits, format!("node {node} has {owed} bytes on their way on a stream"));
        }
        if bytes.first() == Some(&CHANGES) && self.is_broken(node, Mutant::RepeatsForEver) {
            let start = self.hosts[node].start;
            let event = Event::Repeat { node, start, link, bytes: bytes.clone() };
            self.schedule(self.now_us + REPEAT_US, event);
        }
        self.misbehave(node, link, channel, bytes);
    }

    /// Counts a frame that a link takes.
    pub(super) fn count(&mut self, node: usize, link: LinkId, peer: usize, bytes: &[u8]) {
        self.stats.measured.passed((node, link), bytes, self.now_us);
        self.stats.bytes += bytes.len() as u64;
        self.stats.copies += u64::from(bytes.first() == Some(&CHANGES));
        self.stats.statement_copies += u64::from(bytes.first() == Some(&STATEMENT));
        if self.watcher.is_some()
            && let Ok(Some(Frame::Name(name))) = Frame::decode(bytes)
        {
            let log = name.log.actor(&self.fleet.id);
            self.names.entry((node, link)).or_default().push(log);
        }
        for (log, seq, hash) in self.changes_in(node, link, bytes) {
            self.happened(node, Some(peer), What::Sent, log, seq, hash);
        }
    }

    /// The changes of a frame that a host sent, where someone watches.
    fn changes_in(&self, sender: usize, link: LinkId, bytes: &[u8]) -> Vec<(Actor, u64, String)> {
        if self.watcher.is_none() || bytes.first() != Some(&CHANGES) {
            return Vec::new();
        }
        let Ok(Some(Frame::Changes(changes))) = Frame::decode(bytes) else { return Vec::new() };
        let names = self.names.get(&(sender, link));
        let Some(log) = names.and_then(|names| names.get(changes.number as usize)) else { return Vec::new() };
        let hash = |raw: &[u8]| hash_of(raw).map(|hash| hash.to_string()).unwrap_or_default();
        (changes.first_seq..).zip(&changes.changes).map(|(seq, raw)| (*log, seq, hash(&raw.0))).collect()
    }

    fn watch_arrival(&mut self, node: usize, peer: usize, link: LinkId, bytes: &[u8]) {
        if self.watcher.is_none() {
            return;
        }
        let Some(other) = self.other_link(node, link) else { return };
        for (log, seq, hash) in self.changes_in(peer, other, bytes) {
            let is_known = self.seen.get(&(node, log)).is_some_and(|seen| *seen >= seq);
            let what = if is_known { What::CameAgain } else { What::Came };
            if !is_known {
                self.brought.entry((node, log, seq)).or_insert(peer);
            }
            self.happened(node, Some(peer), what, log, seq, hash);
        }
    }

    fn stored(&mut self, node: usize, log: Actor, seq: u64) {
        let seen = self.seen.entry((node, log)).or_default();
        let first = *seen + 1;
        *seen = seq.max(*seen);
        for seq in first..=seq {
            let Some((at_us, origin)) = self.written_us.get(&(log, seq)).copied() else { continue };
            if origin != node {
                self.stats.delays_us.push(self.now_us - at_us);
                self.stats.measured.stored(log, seq, node, self.now_us);
            }
            if self.watcher.is_some() {
                let hash = self.hash_of_change(node, &log, seq).unwrap_or_default();
                let peer = self.brought.remove(&(node, log, seq));
                self.happened(node, peer, What::Stored, log, seq, hash);
            }
        }
    }

    fn hash_of_change(&self, node: usize, log: &Actor, seq: u64) -> Option<String> {
        let record: ChangeRecord = read_record(&self.hosts[node].disk, Table::Change, &change_key(log, seq)).ok()??;
        Some(hash_of(&record.raw.0)?.to_string())
    }

    fn replied(&mut self, node: usize, request: RequestId, reply: Reply) {
        let what = self.hosts[node].requests.remove(&request);
        match (what, reply) {
            (Some(Request::Prepare(operator)), Reply::Prepared(change)) => self.sign(node, operator, *change),
            (Some(Request::Write | Request::Submit), Reply::Written { actor, seq }) => {
                self.acknowledged(node, actor, seq);
            }
            (Some(Request::Statements), Reply::Stored(_)) => self.stats.statements += 1,
            (Some(Request::Removal(device)), Reply::Stored(_)) => {
                self.stats.statements += 1;
                self.removals.push((device, node));
            }
            _ => {}
        }
    }

    /// An operator signs what was prepared, or hands in what he signed for that number before.
    fn sign(&mut self, node: usize, operator: usize, change: PreparedChange) {
        let log = change.log.actor(&self.fleet.id);
        let key = &self.fleet.operators[operator % OPERATORS];
        let Some(hash) = change.hash() else { return };
        let chain = change.chain_before.next(&hash);
        let signature = sign(key, &self.fleet.id, &log, change.seq, &chain);
        let (change, signature) = self.journal.entry((log, change.seq)).or_insert((change, signature)).clone();
        let request = self.hosts[node].request(Request::Submit);
        let input = Input::Submit { request, change: Box::new(change), signature };
        self.hosts[node].inbox.push_front(Waiting { input, from: None });
        let now_us = self.now_us;
        self.schedule(now_us, Event::Wake(node));
    }

    fn acknowledged(&mut self, node: usize, actor: Actor, seq: u64) {
        let now_us = self.now_us;
        let host = &mut self.hosts[node];
        let log = host.engine.as_ref().and_then(|engine| engine.replica().logs().get(&actor)).map(|log| log.name());
        let record: Option<ChangeRecord> =
            read_record(&host.disk, Table::Change, &change_key(&actor, seq)).ok().flatten();
        let Some((log, hash)) = log.zip(record.and_then(|record| hash_of(&record.raw.0))) else { return };
        if host.acknowledged.insert((actor, seq), Acknowledged { log, hash }).is_none() {
            self.stats.changes += 1;
            self.stats.measured.wrote(actor, seq, node, now_us);
            self.written_us.entry((actor, seq)).or_insert((now_us, node));
            self.happened(node, None, What::Written, actor, seq, hash.to_string());
        }
    }

    fn check_limits(&mut self, node: usize) {
        let Some(engine) = &self.hosts[node].engine else { return };
        let (_, bytes) = engine.pending();
        if bytes > 64 << 20 {
            self.breach(Oracle::Limits, format!("{bytes} bytes wait on node {node}"));
        }
    }

    /// What a host's disk has, for the oracles.
    pub(crate) fn disk(&self, node: usize) -> &dyn LogStore {
        &self.hosts[node].disk
    }
}
