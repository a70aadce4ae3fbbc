//! Links come and go: greeting, and noting what a peer lacks.

use std::collections::VecDeque;

use super::frame::{FRAME_BYTES_MAX, Frame, Hello, PROTOCOL_RANGE, Place, Scope};
use super::lacking::Need;
use super::link::{EARLY_BYTES_MAX, Link, Phase, signers_digest};
use super::missing::{Item, Word};
use super::modes::{Mode, Modes};
use super::origins::Origin;
use super::{After, Effect, Engine, HAVE_MS, LINKS_MAX, LinkId};
use crate::admission::Wait;
use crate::change::RUN_CHANGES_MAX;
use crate::id::{Actor, DeviceId, Key, StatementId, Time};
use crate::roster::Standing;
use crate::schema::Class;
use crate::store::{Staged, StoreError};

impl Engine {
    pub(super) fn link_up(&mut self, now: Time, id: LinkId, peer: Key, dialled: bool) {
        if self.links.len() >= LINKS_MAX {
            return self.close(id, "this node has as many links as it may have");
        }
        let standing = self.replica.standing(&peer.device());
        let greets = match standing {
            Standing::Removed => return self.close(id, "the device was removed from the fleet"),
            Standing::Member | Standing::Contested => true,
            Standing::Unknown => dialled,
        };
        if self.links.is_empty() {
            self.reconcile_at = self.next_reconcile(now);
        }
        let own = self.origins.intern(&self.device);
        let mut link = Link::new(peer, own, now, greets);
        (link.is_member, link.dialled) = (standing == Standing::Member, dialled);
        self.links.insert(id, link);
        if greets {
            self.after.push(After::Hello(id));
        }
    }

    pub(super) fn link_down(&mut self, id: LinkId) {
        if self.links.remove(&id).is_some_and(|link| link.phase == Phase::Ready) {
            self.retune_all();
        }
        self.missing.link_down(id);
        let (runs, statements) = self.pending.forget_link(id);
        let runs = runs.into_iter().map(|evicted| (evicted.wait, evicted.actor));
        let of_link = self.evicted.iter().filter(|(_, _, link)| *link == id).map(|(wait, actor, _)| (*wait, *actor));
        let waiting: Vec<(Wait, Actor)> = of_link.chain(runs).collect();
        self.evicted.retain(|(_, _, link)| *link != id);
        for (wait, actor) in waiting {
            let seq = self.replica.logs.get(&actor).map_or(0, |state| state.seq);
            let others = self.links.iter().filter(|(_, link)| link.ahead_of(&actor) > seq);
            let others: Vec<LinkId> = others.map(|(id, _)| *id).collect();
            others.into_iter().for_each(|link| self.note_evicted(wait, actor, link));
        }
        for statement in statements {
            self.missing.note(Item::Statement(statement), Word { link: id, seq: 0, is_live: false }, Time(0));
        }
    }

    pub(super) fn close(&mut self, id: LinkId, reason: &str) {
        self.link_down(id);
        self.effects.push_back(Effect::Close { link: id, reason: reason.to_owned() });
    }

    pub(super) fn send_hello(&mut self, now: Time, staged: &Staged<'_>, id: LinkId) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let root = self.replica.root();
        link.sent_root = Some(root);
        let cursor = self.replica.cursor_of(&link.device).map(|place| (place.generation, place.position));
        let generation = self.replica.order().generation;
        let chain = self.replica.roster().chain_of(&self.device).iter().map(|signed| signed.parts()).collect();
        let scope = Scope { name: "fleet".to_owned(), root, generation, cursor };
        let hello = Hello {
            protocol: PROTOCOL_RANGE,
            fleet: self.config.fleet,
            chain,
            scopes: vec![scope],
            frame_bytes_max: FRAME_BYTES_MAX as u32,
        };
        self.send_control(id, &Frame::Hello(hello));
        self.open_comparison(now, id);
        self.send_place(id, false);
        self.compare_greeting(now, staged, id)
    }

    /// Keeps a frame that overtook the peer's greeting on the other stream. Who has not seen ours has nothing to send yet.
    pub(super) fn keep_early(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.early_bytes += bytes.len();
        link.early.push_back(bytes.to_vec());
        if link.early_bytes > EARLY_BYTES_MAX || !link.greets {
            self.close(id, "the peer sends before it says Hello");
        }
    }

    /// The frames that overtook the peer's `Hello`.
    pub(super) fn take_early(&mut self, id: LinkId) -> VecDeque<Vec<u8>> {
        self.links.get_mut(&id).map(|link| std::mem::take(&mut link.early)).unwrap_or_default()
    }

    /// A device's standing changed. A contested one gets no more logs; once a pin names it, all is compared.
    pub(super) fn note_standing(&mut self, device: &DeviceId, standing: Standing) {
        let is_member = standing == Standing::Member;
        let mut has_changed = false;
        for (id, link) in &mut self.links {
            if link.device != *device || link.is_member == is_member {
                continue;
            }
            has_changed = true;
            link.is_member = is_member;
            link.lacking.clear();
            link.have_out.clear();
            if is_member && link.phase == Phase::Comparing {
                self.after.push(After::Compare(*id)); // so far only statements were compared
            }
        }
        if has_changed {
            self.retune_all();
        }
    }

    /// Notes how a peer's replica stands; a peer that was not known before gets our `Hello` now.
    pub(super) fn greeted(&mut self, id: LinkId, scope: &Scope) {
        if let Some(link) = self.links.get_mut(&id) {
            link.peer_root = Some(scope.root);
            link.standing.generation = scope.generation;
            link.standing.cursor = scope.cursor.map(|(generation, position)| Place { generation, position });
            // Only now it is known to the roster: strangers take no room.
            link.origin = self.origins.intern(&link.device);
            link.asked.modes = Modes::new(link.origin);
            if !std::mem::replace(&mut link.greets, true) {
                self.after.push(After::Hello(id));
            }
        }
    }

    /// The greeting is over. What stood in it the peer fetches by itself; what came since goes as the peer wants it, and
    /// it hears what is wanted of it.
    pub(super) fn ready(&mut self, now: Time, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase = Phase::Ready;
        self.replica.order_is_told(link.device);
        self.probe(now, id);
        self.retune_all();
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_new = false;
        let touched = std::mem::take(&mut link.touched);
        let statements = std::mem::take(&mut link.touched_statements);
        for (actor, before) in touched {
            self.tell_log(now, id, &actor, before);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let stored = statements.into_iter().filter(|id| self.replica.stored_statement(id).is_some());
        link.have_statements_out.extend(stored);
        if !link.have_statements_out.is_empty() {
            link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
        }
    }

    /// The peer has a statement, with signers of this digest.
    pub(super) fn claims_statement(&mut self, id: LinkId, statement: StatementId, digest: u32) {
        let is_other = self.is_other_statement(&statement, digest);
        let Some(link) = self.links.get_mut(&id) else { return };
        if is_other {
            link.ahead_statements.insert(statement, digest);
        } else {
            link.ahead_statements.remove(&statement);
            link.have_statements_out.remove(&statement);
            link.lacking.remove(&Need::Statement(statement));
        }
    }

    /// Tells the links of what the store has of a log now, each as its peer asked; but for the one that brought it.
    pub(super) fn announce_log(&mut self, now: Time, actor: Actor, seq: u64, source: Option<LinkId>) {
        self.touched.note(now, actor);
        let Some(before) = self.replica.logs.set_stored(&actor, seq) else { return };
        let Some(log) = self.replica.logs.get(&actor) else { return };
        let (stored, carrier) = (log.stored, *log.carrier());
        self.origins.intern(&carrier);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for id in links {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let has_it = link.ahead_of(&actor) >= stored || link.device == carrier || source == Some(id);
            link.caught_up(&actor, stored);
            if has_it {
                continue;
            }
            if link.phase != Phase::Ready {
                link.touched.entry(actor).or_insert(before);
            } else {
                self.tell_log(now, id, &actor, before);
            }
        }
    }

    /// A peer may lack what is stored of a log after `before`: it gets it, or hears of it, as it asked.
    pub(super) fn tell_log(&mut self, now: Time, id: LinkId, actor: &Actor, before: u64) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_member) else { return };
        let Some(state) = self.replica.logs.get(actor).filter(|state| state.stored > before) else { return };
        let Some(origin) = self.origins.find(state.carrier()) else { return };
        match link.served.modes.of(origin) {
            Mode::Full => link.lacking.add(Need::Log(*actor), state.class(), before + 1),
            Mode::Digest => {
                link.have_out.entry(*actor).or_insert(before);
                link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
            }
            Mode::Mute => link.untold.push(*actor),
        }
    }

    /// Tells the links of a statement. Where it is not known where it entered the mesh, there is no tree for it, and all
    /// hear of it that may not have it.
    pub(super) fn announce_statement(
        &mut self,
        now: Time,
        id: StatementId,
        origin: Option<Origin>,
        source: Option<LinkId>,
    ) {
        let Some(entry) = self.replica.roster.entries().get(&id) else { return };
        let digest = signers_digest(&entry.signed);
        let class = Class::of_statement(&entry.signed.statement().kind);
        if let Some(origin) = origin {
            self.statement_origins.insert(id, origin);
        }
        for (link_id, link) in &mut self.links {
            let has_it = link.ahead_statements.get(&id) == Some(&digest);
            if has_it {
                link.ahead_statements.remove(&id);
            }
            if link.phase != Phase::Ready {
                link.touched_statements.insert(id);
                continue;
            }
            if has_it || source == Some(*link_id) {
                continue;
            }
            match origin.map_or(Mode::Digest, |origin| link.served.modes.of(origin)) {
                Mode::Full => link.lacking.add(Need::Statement(id), class, 0),
                Mode::Digest => {
                    link.have_statements_out.insert(id);
                    link.have_by.get_or_insert(now.plus_millis(HAVE_MS));
                }
                Mode::Mute => link.untold_statements.push(id),
            }
        }
    }

    /// The peer lacks a log from `seq` + 1 on. It may know so before this side has heard what the peer has, as that travels on
    /// the other stream: then the changes follow once it has.
    pub(super) fn wanted(&mut self, id: LinkId, actor: Actor, seq: u64) {
        let is_entitled = |link: &&mut Link| link.phase != Phase::Greeting && link.is_member;
        let Some(link) = self.links.get_mut(&id).filter(is_entitled) else { return };
        let Some(state) = self.replica.logs.get(&actor).filter(|state| state.stored > seq) else { return };
        let is_history = state.stored - seq > RUN_CHANGES_MAX as u64 && !state.kind().has_many_writers();
        let class = if is_history { Class::Backfill } else { state.class() };
        link.lacking.set(Need::Log(actor), class, seq + 1);
    }

    /// The peer lacks a statement.
    pub(super) fn lacks_that_statement(&mut self, id: LinkId, statement: StatementId) {
        let Some(entry) = self.replica.stored_statement(&statement) else { return };
        let class = Class::of_statement(&entry.signed.statement().kind);
        if let Some(link) = self.links.get_mut(&id) {
            link.lacking.add(Need::Statement(statement), class, 0);
        }
    }
}
