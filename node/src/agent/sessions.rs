//! Sessions of the mesh as the engine's links.

use std::collections::BTreeMap;

use crdt::id::Key;
use crdt::sync::frame::{CHANGES, is_payload};
use crdt::sync::{Channel, Input, LinkFrame, LinkId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use transport::{Event, PeerKey, SessionId, Stream};

use super::outbox::{Outbox, Taken, WINDOW_BYTES};
use super::{Node, NodeEvent};
use crate::judging::Gathered;

/// A session that is up.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) peer: Key,
    pub(crate) address: String,
    pub(crate) is_outbound: bool,
    pub(crate) since: Instant,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Frames with changes among what was given to the streams.
    pub(crate) copies_out: u64,
    outboxes: [Outbox; 2],
}

/// The sessions that are up, by link.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    up: BTreeMap<LinkId, Session>,
}

impl Sessions {
    pub(crate) fn links(&self) -> Vec<LinkId> {
        self.up.keys().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LinkId, &Session)> {
        self.up.iter()
    }

    /// The session of a link.
    pub(super) fn get(&self, link: &LinkId) -> Option<&Session> {
        self.up.get(link)
    }

    /// The link with a peer.
    pub(crate) fn link_with(&self, peer: &Key) -> Option<LinkId> {
        self.up.iter().find(|(_, session)| session.peer == *peer).map(|(link, _)| *link)
    }

    /// The session with a peer.
    pub(crate) fn with(&self, peer: &Key) -> Option<&Session> {
        self.up.values().find(|session| session.peer == *peer)
    }
}

fn slot(channel: Channel) -> usize {
    match channel {
        Channel::Control => 0,
        Channel::Data => 1,
    }
}

fn stream_of(channel: Channel) -> Stream {
    match channel {
        Channel::Control => Stream::Control,
        Channel::Data => Stream::Data,
    }
}

fn channel_of(stream: Stream) -> Channel {
    match stream {
        Stream::Control => Channel::Control,
        Stream::Data => Channel::Data,
    }
}

impl Node {
    /// Takes an event; frames together with those that wait behind them. Returns how many events that were.
    pub(super) fn mesh_events(&mut self, first: Event, inbox: &mut mpsc::Receiver<Event>) -> u32 {
        let (mut event, mut events) = (first, 1);
        let mut frames = Gathered::default();
        let other = loop {
            match event {
                Event::Frame { session, stream, bytes } => {
                    self.gather(&mut frames, LinkId(session.0), channel_of(stream), bytes);
                }
                other => break Some(other),
            }
            if frames.is_full() {
                break None;
            }
            match inbox.try_recv() {
                Ok(next) => event = next,
                Err(_) => break None, // one that has ended is seen by who waits for it
            }
            events += 1;
        };
        self.take_frames(frames);
        if let Some(other) = other {
            self.mesh_event(other);
        }
        events
    }

    fn gather(&mut self, frames: &mut Gathered, link: LinkId, channel: Channel, bytes: Vec<u8>) {
        if let Some(session) = self.sessions.up.get_mut(&link) {
            session.bytes_in += bytes.len() as u64;
        }
        let now = self.now();
        self.routing.heard(now, link);
        // A full disk takes nothing; what is dropped here is asked for again when there is room.
        if self.full.is_none() || !is_payload(&bytes) {
            frames.push(LinkFrame { link, channel, bytes });
        } else {
            self.input(Input::Dropped { link, channel, bytes });
        }
    }

    fn take_frames(&mut self, frames: Gathered) {
        if frames.is_empty() {
            return;
        }
        self.tell_time();
        let input = frames.into_input(&self.engine, &self.writer, self.threads);
        let now = self.now();
        self.engine.handle(now, input, &self.writer);
        self.effects();
    }

    fn mesh_event(&mut self, event: Event) {
        self.writer.begin();
        match event {
            Event::Listening { addr } => {
                tracing::info!(address = %addr, "listening");
                self.emit(NodeEvent::listening(&addr, true));
                self.listening.insert(addr);
                self.neighbours.addresses_changed(self.now());
            }
            Event::NotListening { addr } => {
                self.emit(NodeEvent::listening(&addr, false));
                self.listening.remove(&addr);
                self.neighbours.addresses_changed(self.now());
            }
            Event::Reachable { addr } => {
                tracing::info!(address = %addr, "reachable");
                self.emit(NodeEvent::reachable(&addr, true));
                self.reachable.insert(addr);
                self.neighbours.addresses_changed(self.now());
            }
            Event::NotReachable { addr } => {
                self.emit(NodeEvent::reachable(&addr, false));
                self.reachable.remove(&addr);
                self.neighbours.addresses_changed(self.now());
            }
            Event::SessionUp { session, peer, outbound, addr } => self.session_up(session, peer, outbound, addr),
            Event::SessionDown { session, peer, reason } => self.session_down(session, peer, &reason.to_string()),
            Event::Burst { session, peer } => self.take_over_bulk(session, peer),
            Event::Lossy { session, is_lossy } => self.input(Input::Lossy { link: LinkId(session.0), is_lossy }),
            Event::Writable { session, stream, .. } => {
                self.flush(LinkId(session.0), channel_of(stream));
            }
            Event::JoinRequest { id, peer, addr, bytes } => self.join_request(id, peer, addr, &bytes),
            Event::DialFailed { peer, errors } => {
                tracing::debug!(%peer, ?errors, "a dial failed");
                self.dial_failed(Key(peer.0), errors);
            }
            Event::Observed { peer, addr } => self.observed.note(Key(peer.0), &addr),
            Event::Discovered { peer, addrs } => {
                let now = self.now();
                self.neighbours.discovered(now, Key(peer.0), addrs);
            }
            Event::Resync => self.neighbours.addresses_changed(self.now()),
            _ => {}
        }
    }

    fn session_up(&mut self, session: SessionId, peer: PeerKey, is_outbound: bool, address: String) {
        let link = LinkId(session.0);
        let peer = Key(peer.0);
        tracing::info!(peer = %peer.device().short(), %address, "link up");
        let up = Session {
            peer,
            address: address.clone(),
            is_outbound,
            since: Instant::now(),
            bytes_in: 0,
            bytes_out: 0,
            copies_out: 0,
            outboxes: Default::default(),
        };
        self.sessions.up.insert(link, up);
        // The peer may have been started anew: what is asked on a connection of before would reach nobody.
        self.bulk.close(&PeerKey(peer.0));
        self.neighbours.link_up(self.now(), peer);
        let (named, why) = (self.named(peer.device()), self.neighbours.reason(&peer));
        self.emit(NodeEvent::link_up(&named, &address, is_outbound, why));
        self.link_changed(peer.device());
        self.input(Input::LinkUp { link, peer, dialled: is_outbound });
        for channel in [Channel::Control, Channel::Data] {
            self.input(Input::Writable { link, channel, bytes: WINDOW_BYTES });
        }
    }

    fn session_down(&mut self, session: SessionId, peer: PeerKey, reason: &str) {
        let link = LinkId(session.0);
        let peer = Key(peer.0);
        if self.sessions.up.remove(&link).is_none() {
            return;
        }
        tracing::info!(peer = %peer.device().short(), %reason, "link down");
        self.neighbours.link_down(self.now(), self.clock.wall_ms(), peer);
        self.observed.forget(&peer);
        self.emit(NodeEvent::link_down(&self.named(peer.device()), reason));
        self.link_changed(peer.device());
        self.input(Input::LinkDown(link));
    }

    pub(super) fn send(&mut self, link: LinkId, channel: Channel, bytes: Vec<u8>) {
        let Some(session) = self.sessions.up.get_mut(&link) else { return };
        session.bytes_out += bytes.len() as u64;
        session.copies_out += u64::from(bytes.first() == Some(&CHANGES));
        let mesh = &self.mesh;
        session.outboxes[slot(channel)].push(bytes, |frame| hand_over(mesh, link, channel, frame));
        self.credit(link, channel);
    }

    fn flush(&mut self, link: LinkId, channel: Channel) {
        let Some(session) = self.sessions.up.get_mut(&link) else { return };
        let mesh = &self.mesh;
        session.outboxes[slot(channel)].flush(|frame| hand_over(mesh, link, channel, frame));
        self.credit(link, channel);
        self.effects();
    }

    /// Credits the engine; what it sends then is done by the caller's loop over effects.
    fn credit(&mut self, link: LinkId, channel: Channel) {
        let Some(session) = self.sessions.up.get_mut(&link) else { return };
        if let Some(bytes) = session.outboxes[slot(channel)].take_credit() {
            let now = self.now();
            self.engine.handle(now, Input::Writable { link, channel, bytes }, &self.writer);
        }
    }

    /// A link that this node dialled answers no more: another is dialled beside it, and takes its place if it comes up.
    pub(super) fn renew_link(&mut self, link: LinkId) {
        let Some(session) = self.sessions.get(&link).filter(|session| session.is_outbound) else { return };
        let mut addresses = vec![session.address.clone()];
        addresses.extend(self.neighbours.addresses(&session.peer));
        if let Err(error) = self.mesh.renew(PeerKey(session.peer.0), addresses) {
            tracing::debug!(%error, "a dial was not taken");
        }
    }

    pub(super) fn close_link(&mut self, link: LinkId, reason: &str) {
        let Some(session) = self.sessions.up.remove(&link) else { return };
        tracing::info!(peer = %session.peer.device().short(), %reason, "link closed");
        self.neighbours.link_closed(self.now(), self.clock.wall_ms(), session.peer, reason);
        self.observed.forget(&session.peer);
        self.emit(NodeEvent::link_down(&self.named(session.peer.device()), reason));
        if let Err(error) = self.mesh.close(PeerKey(session.peer.0)) {
            tracing::warn!(%error, "a session could not be closed");
        }
        self.link_changed(session.peer.device());
        let now = self.now();
        self.engine.handle(now, Input::LinkDown(link), &self.writer);
    }
}

fn hand_over(mesh: &transport::Handle, link: LinkId, channel: Channel, frame: Vec<u8>) -> Taken {
    // The mesh drops what it refuses, so that a frame which must wait is kept here.
    match mesh.send(SessionId(link.0), stream_of(channel), frame.clone()) {
        Ok(()) => Taken::Yes,
        Err(transport::SendError::Full) => Taken::Full(frame),
        Err(_) => Taken::Closed,
    }
}
