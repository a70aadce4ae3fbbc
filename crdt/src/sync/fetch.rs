//! Fetching: what peers say that they have and this node lacks is asked for, at once after a greeting, and after a
//! digest only when it does not come by itself within one and a half round trips and 20 ms.

use std::collections::BTreeMap;

use super::compare::SECOND_LOOK_MS;
use super::frame::{ENTRIES_MAX, Frame};
use super::link::{Link, Phase, signers_digest};
use super::missing::{Fetch, Item, Word};
use super::origins::Origin;
use super::{After, Engine, LinkId};
use crate::admission::Wait;
use crate::id::{Actor, ChangeHash, DeviceId, StatementId, Time};
use crate::store::{HashRecord, Staged, StoreError, Table, hash_key, read_record};

/// Most things that are asked for in one call; the rest follows by the timer.
const FETCHES_MAX: usize = 4 * ENTRIES_MAX;
/// A link that takes no more requests is looked at again after this long, milliseconds.
const BUSY_MS: u64 = 50;

/// What is asked of one link.
#[derive(Default)]
struct Requests {
    hashes: Vec<[u8; 32]>,
    logs: Vec<(Actor, u64)>,
}

impl Engine {
    /// The peer tells of logs that it has.
    pub(super) fn receive_have(&mut self, now: Time, id: LinkId, entries: Vec<(Actor, u64)>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let patience = link.patience_micros();
        for (actor, seq) in &entries {
            let own = self.replica.logs.get(actor);
            let stored = own.map_or(0, |state| state.stored);
            link.claims(*actor, *seq, stored);
            if *seq < stored {
                link.says_less(*actor, *seq);
            }
        }
        for (actor, seq) in entries {
            if !self.lacks(&actor, seq) {
                continue;
            }
            let origin = self.replica.logs.get(&actor).and_then(|state| self.origins.find(state.carrier()));
            // Where nobody is asked for them, changes do not come by themselves.
            let is_coming = origin.is_none_or(|origin| self.has_parent(origin));
            let due = if is_coming { now.plus_micros(patience) } else { now };
            self.missing.note(Item::Log(actor), Word { link: id, seq, is_live: true }, due);
        }
        self.fetch(now);
    }

    /// The peer tells of statements that it has.
    pub(super) fn receive_have_statements(&mut self, now: Time, id: LinkId, entries: Vec<(StatementId, u32)>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let due = now.plus_micros(link.patience_micros());
        for (statement, digest) in entries {
            self.claims_statement(id, statement, digest);
            if self.lacks_statement(&statement, digest) {
                self.missing.note(Item::Statement(statement), Word { link: id, seq: 0, is_live: true }, due);
            }
        }
    }

    /// The greeting, or a later comparison, shows all that the peer has. What is missing after a greeting is asked for at
    /// once; what a later comparison shows may be on its way, and what grew of late most likely is.
    pub(super) fn note_missing(&mut self, now: Time, id: LinkId, is_greeting: bool) {
        let Some(link) = self.links.get(&id) else { return };
        let logs: Vec<(Actor, u64)> = link.ahead.iter().map(|(actor, seq)| (*actor, *seq)).collect();
        let statements: Vec<(StatementId, u32)> = link.ahead_statements.iter().map(|(id, sum)| (*id, *sum)).collect();
        self.note_claims(now, id, &logs, &statements, is_greeting);
    }

    /// As [`Engine::note_missing`], of a part of what the peer has.
    pub(super) fn note_found(
        &mut self,
        now: Time,
        id: LinkId,
        logs: &[(Actor, u64)],
        statements: &[(StatementId, u32)],
    ) {
        let is_greeting = self.links.get(&id).is_some_and(|link| link.is_new);
        self.note_claims(now, id, logs, statements, is_greeting);
    }

    fn note_claims(
        &mut self,
        now: Time,
        id: LinkId,
        logs: &[(Actor, u64)],
        statements: &[(StatementId, u32)],
        is_greeting: bool,
    ) {
        let Some(link) = self.links.get(&id) else { return };
        let due = if is_greeting { now } else { now.plus_micros(link.patience_micros()) };
        for (statement, digest) in statements {
            if self.lacks_statement(statement, *digest) {
                self.missing.note(Item::Statement(*statement), Word { link: id, seq: 0, is_live: false }, due);
            }
        }
        for (actor, seq) in logs {
            if !self.lacks(actor, *seq) {
                continue;
            }
            let is_coming = !is_greeting && self.touched.is_touched(now, actor);
            let due = if is_coming { due.plus_millis(SECOND_LOOK_MS) } else { due };
            self.missing.note(Item::Log(*actor), Word { link: id, seq: *seq, is_live: false }, due);
        }
        self.fetch(now);
    }

    fn lacks(&self, actor: &Actor, seq: u64) -> bool {
        self.replica.logs.get(actor).map_or(0, |state| state.seq) < seq && !self.pending.holds(actor, seq)
    }

    /// Whether a statement with signers of this digest is another than what is here.
    pub(super) fn is_other_statement(&self, id: &StatementId, digest: u32) -> bool {
        let own = self.replica.roster().entries().get(id).map(|entry| signers_digest(&entry.signed));
        own != Some(digest)
    }

    fn lacks_statement(&self, id: &StatementId, digest: u32) -> bool {
        self.is_other_statement(id, digest) && !self.pending.holds_statement(id)
    }

    /// Asks for everything that is due.
    pub(super) fn fetch(&mut self, now: Time) {
        let mut requests: BTreeMap<LinkId, Requests> = BTreeMap::new();
        for item in self.missing.due(now, FETCHES_MAX) {
            let Some(fetch) = self.missing.of(&item).copied() else { continue };
            if self.is_delivering(now, item, &fetch) {
                continue;
            }
            let Some(source) = self.source_of(&item, &fetch) else {
                self.missing.forget(&item);
                continue;
            };
            let Some(link) = self.links.get(&source) else { continue };
            // What it does not take now would wait here, and be asked for again before it was heard.
            if !link.control.is_empty() && self.missing.wait_until(now, item, now.plus_millis(BUSY_MS)) {
                continue;
            }
            if !self.missing.ask(now, item, source, link.patience_micros()) {
                self.give_up(&item);
                continue;
            }
            let of_link = requests.entry(source).or_default();
            match item {
                Item::Statement(id) => of_link.hashes.push(id.0),
                Item::Change(hash) => of_link.hashes.push(hash.0),
                Item::Log(actor) => {
                    of_link.logs.push((actor, self.replica.logs.get(&actor).map_or(0, |state| state.seq)));
                }
            }
        }
        for (id, Requests { hashes, logs }) in requests {
            for part in hashes.chunks(ENTRIES_MAX) {
                self.send_control(id, &Frame::WantHash(part.to_vec()));
            }
            for part in logs.chunks(ENTRIES_MAX) {
                self.send_control(id, &Frame::Want(part.to_vec()));
            }
        }
    }

    /// Nobody delivers it: what was claimed counts no more, until it is claimed again.
    fn give_up(&mut self, item: &Item) {
        for link in self.links.values_mut() {
            let has_claimed = match item {
                Item::Statement(id) => link.ahead_statements.remove(id).is_some(),
                Item::Log(actor) => link.ahead.remove(actor).is_some(),
                Item::Change(_) => false,
            };
            if has_claimed {
                link.standing.void();
            }
        }
    }

    /// Whether the link that was asked for an item has just delivered something else: then it gets more time.
    fn is_delivering(&mut self, now: Time, item: Item, fetch: &Fetch) -> bool {
        let Some(link) = fetch.asked.and_then(|asked| self.links.get(&asked)) else { return false };
        let until = link.payload_at.plus_micros(link.patience_micros());
        self.missing.wait_until(now, item, until)
    }

    /// The nearest link whose peer has an item, another than the one that was asked last where there is one.
    fn source_of(&self, item: &Item, fetch: &Fetch) -> Option<LinkId> {
        let has = |id: &LinkId, link: &Link| match item {
            Item::Log(actor) => {
                let own = self.replica.logs.get(actor).map_or(0, |state| state.seq);
                link.ahead_of(actor) > own && link.is_fit_for(actor)
            }
            Item::Statement(id) => link.ahead_statements.contains_key(id),
            Item::Change(_) => fetch.word.link == *id,
        };
        let fit = self.links.iter().filter(|(id, link)| link.phase != Phase::Greeting && has(id, link));
        fit.map(|(id, link)| (fetch.asked == Some(*id), link.patience_micros(), *id)).min().map(|(_, _, id)| id)
    }

    /// Changes came. Who told of them by a digest and had to be asked becomes the parent of their origin; who was not
    /// asked at all is told so.
    pub(super) fn log_came(&mut self, now: Time, source: Option<LinkId>, actor: Actor, seq: u64, carrier: &DeviceId) {
        let fetch = self.missing.of(&Item::Log(actor)).copied().filter(|fetch| fetch.asked == source);
        self.missing.got(&Item::Log(actor), seq);
        let Some(id) = source else { return };
        if let Some(link) = self.links.get_mut(&id) {
            link.payload_at = now;
        }
        let origin = self.origins.intern(carrier);
        match fetch {
            _ if self.asks_full(id, origin) => {}
            // Once they are stored: a new parent hears first what is here.
            Some(fetch) if fetch.word.is_live => self.after.push(After::Graft(id, origin)),
            Some(_) => {}
            None => self.unasked_came(now, id, origin),
        }
    }

    /// Changes came that wait. What they wait for is missing: earlier ones of their own log, or others' on which they
    /// build.
    pub(super) fn log_waits(&mut self, now: Time, source: Option<LinkId>, actor: Actor, seq: u64, wait: Wait) {
        if wait != Wait::Log(actor) {
            self.missing.got(&Item::Log(actor), seq);
        }
        let Some((id, link)) = source.and_then(|id| self.links.get(&id).map(|link| (id, link))) else { return };
        let due = now.plus_micros(link.patience_micros());
        let word = Word { link: id, seq, is_live: false };
        match wait {
            Wait::Log(_) => self.missing.note(Item::Log(actor), word, due),
            Wait::Change(hash) => self.missing.note(Item::Change(hash), Word { seq: 0, ..word }, due),
            Wait::Authority => {}
        }
    }

    /// A statement came: where a digest had to tell of it, the tree on which it should have come has a gap.
    pub(super) fn statement_came(&mut self, now: Time, id: LinkId, statement: StatementId, origin: Option<Origin>) {
        let fetched = self.missing.forget(&Item::Statement(statement));
        let is_gap = fetched.is_some_and(|fetch| fetch.word.is_live && fetch.asked == Some(id));
        if let Some(link) = self.links.get_mut(&id) {
            link.payload_at = now;
        }
        if let Some(origin) = origin.filter(|_| is_gap) {
            self.graft(id, origin);
        }
    }

    /// A statement could not be kept until what it waits for is here: others may have it later.
    pub(super) fn statement_dropped(&mut self, now: Time, id: LinkId, statement: StatementId) {
        let word = Word { link: id, seq: 0, is_live: false };
        self.missing.note(Item::Statement(statement), word, now.plus_millis(super::HAVE_MS));
    }

    /// The peer lacks changes or statements that it knows by their hashes.
    pub(super) fn wanted_hashes(
        &mut self,
        now: Time,
        staged: &Staged<'_>,
        id: LinkId,
        hashes: &[[u8; 32]],
    ) -> Result<(), StoreError> {
        for hash in hashes {
            if self.replica.stored_statement(&StatementId(*hash)).is_some() {
                self.lacks_that_statement(id, StatementId(*hash));
            } else if let Some(record) = read_record::<HashRecord>(staged, Table::Hash, &hash_key(&ChangeHash(*hash)))?
            {
                self.wanted(id, record.actor, record.seq.saturating_sub(1));
            }
        }
        self.pump(now, staged, Some(id));
        Ok(())
    }
}
