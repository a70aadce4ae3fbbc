//! What becomes of the engine's batches: applied, synced, lost, or refused while the disk is full.

use std::time::Duration;

use crdt::store::Durability;
use crdt::sync::{Config, Engine, Input, Reply};
use tokio::time::Instant;

use super::syncer::Ticket;
use super::{Failed, Node, NodeEvent};
use crate::store::{Applied, WriteError};

/// Below this many free bytes nothing is taken any more (PROTOCOL 10).
pub(crate) const RESERVE_BYTES: u64 = 64 << 20;
/// Foreign changes are synced to disk at the latest after this many milliseconds.
const GROUP_SYNC_MS: u64 = 100;

impl Node {
    /// Reports what was applied meanwhile.
    pub(super) fn applied(&mut self) {
        while let Some(result) = self.writer.poll() {
            self.was_applied(result);
        }
    }

    /// Waits for what is behind: who looks at the store beside the engine sees all that the engine has in memory.
    pub(super) fn settle(&mut self) {
        while let Some(result) = self.writer.wait() {
            self.was_applied(result);
        }
    }

    fn was_applied(&mut self, result: Result<Applied, WriteError>) {
        match result {
            Ok(applied) => {
                self.persisted(applied);
                self.effects();
            }
            Err(error) => self.lost_batch(&error),
        }
    }

    /// Reports a batch as stored: at once, or after the sync that it or an earlier one waits for.
    pub(super) fn persisted(&mut self, Applied { token, durability }: Applied) {
        if durability == Durability::Synced || self.syncer.is_busy() {
            self.syncer.sync(token);
            return;
        }
        self.group_sync_at.get_or_insert(Instant::now() + Duration::from_millis(GROUP_SYNC_MS));
        let now = self.now();
        self.engine.handle(now, Input::Persisted(token), &self.writer);
    }

    pub(super) fn synced(&mut self, result: Result<Ticket, WriteError>) {
        match result {
            Ok(ticket) => {
                if self.syncer.done(ticket) {
                    self.input(Input::Persisted(ticket.token));
                }
            }
            Err(error) => self.lost_batch(&error),
        }
    }

    /// A batch did not reach the store: what the engine believes is ahead of the disk, so it is opened again on what
    /// the disk holds. Sessions start anew and compare; callers learn that nothing was acknowledged.
    pub(super) fn lost_batch(&mut self, error: &WriteError) {
        tracing::error!(%error, "a write failed; the node goes on with what is on disk");
        self.full = Some(error.to_string());
        for link in self.sessions.links() {
            self.close_link(link, "this node's disk failed");
        }
        for (_, reply) in std::mem::take(&mut self.waiting) {
            // An error means that the asker is gone.
            let _ = reply.send(Reply::Refused(format!("the disk takes no writes: {error}")));
        }
        self.joins.clear();
        self.writer.forget();
        self.syncer.forget();
        let seed = u64::from_be_bytes(crate::folder::random());
        match Engine::open(Config { seed, ..self.config.clone() }, &self.store) {
            Ok(engine) => {
                self.engine = engine;
                self.note_roster();
                self.read_link_documents();
                self.hand_over_all_parents();
            }
            // An engine that believes more than the disk holds must not go on.
            Err(error) => self.failure = Some(Failed::Replica(error)),
        }
    }

    pub(super) fn check_space(&mut self) {
        let free = self.store.free_bytes();
        let is_low = free < RESERVE_BYTES;
        match (is_low, self.full.is_some()) {
            (true, false) => {
                let reason = format!("{} MiB are free on the disk, {} are kept", free >> 20, RESERVE_BYTES >> 20);
                tracing::warn!(%reason, "writes are refused until there is room again");
                self.emit(NodeEvent::full(&reason));
                self.full = Some(reason);
            }
            (false, true) => {
                tracing::info!("there is room on the disk again");
                self.full = None;
                self.emit(NodeEvent::room());
                // What was not taken meanwhile is asked for again.
                self.input(Input::Resync);
            }
            _ => {}
        }
    }
}
