//! The engine of a node that is not running, on a node's store, driven as the node's agent drives it.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use crdt::id::{Root, Time};
use crdt::statement::SignedStatement;
use crdt::store::Batch;
use crdt::sync::frame::{FRAME_BYTES_MAX, Frame, Hello, PROTOCOL_RANGE, Place, PlaceOf, Scope};
use crdt::sync::{Channel, Config, Effect, Engine, Input, LinkFrame, LinkId, Reply, RequestId};
use ed25519_dalek::SigningKey;
use node::judging::Gathered;
use node::store::{Applied, Store, Writer};
use serde_json::Value;

use super::author::public;
use super::operator::{Operator, read_key};

/// What a session may have on its way, bytes.
const WINDOW_BYTES: usize = 64 << 20;

/// An engine on a node's store.
pub(crate) struct Offline {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    writer: Writer,
    start: Instant,
}

impl Offline {
    /// The node of a folder that `fleetsync init` has made.
    pub(crate) fn open(folder: &Path, operator: &Operator) -> anyhow::Result<Offline> {
        let about: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("node.json"))?)?;
        let incarnation = about["incarnation"].as_str().context("node.json has no incarnation")?;
        let config = Config {
            fleet: operator.fleet,
            key: read_key(&folder.join("device.key"), "fleetsync-device-key-v1")?,
            incarnation: u64::from_str_radix(incarnation, 16)?,
            seed: 1,
        };
        Offline::on(config, &folder.join("store"))
    }

    /// A node with its store in this folder.
    pub(crate) fn on(config: Config, folder: &Path) -> anyhow::Result<Offline> {
        let store = Store::open(folder)?;
        let writer = Writer::start(store.clone(), 1);
        Ok(Offline { engine: Engine::open(config, &store)?, store, writer, start: Instant::now() })
    }

    /// Does what a node does with an input, for peers that only send.
    pub(crate) fn input(&mut self, input: Input) -> anyhow::Result<()> {
        self.input_and(input, |_| {})
    }

    /// As [`Offline::input`]; `stored` sees each batch.
    pub(crate) fn input_and(&mut self, input: Input, mut stored: impl FnMut(&Batch)) -> anyhow::Result<()> {
        self.engine.handle(self.now(), input, &self.writer);
        self.effects(&mut stored)?;
        while let Some(applied) = self.writer.poll() {
            self.persisted(applied?);
            self.effects(&mut stored)?;
        }
        Ok(())
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn persisted(&mut self, applied: Applied) {
        self.engine.handle(self.now(), Input::Persisted(applied.token), &self.writer);
    }

    fn effects(&mut self, stored: &mut impl FnMut(&Batch)) -> anyhow::Result<()> {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Persist { batch, token, durability } => {
                    stored(&batch);
                    // Nothing is synced before it is reported: that is not what is measured.
                    let applied = self.writer.persist(batch, Applied { token, durability })?;
                    applied.into_iter().for_each(|applied| self.persisted(applied));
                }
                Effect::Reply { reply: Reply::Refused(reason), .. } | Effect::Close { reason, .. } => bail!(reason),
                Effect::Audit(record) => bail!("refused: {}", record.reason),
                Effect::Fault(error) => bail!(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Frames that are there already, gathered and judged as the agent does it; `stored` sees each batch.
    pub(crate) fn frames(
        &mut self,
        frames: Vec<LinkFrame>,
        threads: usize,
        mut stored: impl FnMut(&Batch),
    ) -> anyhow::Result<()> {
        self.writer = Writer::start(self.store.clone(), threads);
        let mut waiting = frames.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut gathered = Gathered::default();
            while let Some(frame) = waiting.next_if(|_| !gathered.is_full()) {
                gathered.push(frame);
            }
            let input = gathered.into_input(&self.engine, &self.writer, threads);
            self.input_and(input, &mut stored)?;
        }
        while let Some(applied) = self.writer.wait() {
            self.persisted(applied?);
            self.effects(&mut stored)?;
        }
        self.writer = Writer::start(self.store.clone(), 1);
        Ok(())
    }

    pub(crate) fn frame(&mut self, link: LinkId, frame: &Frame) -> anyhow::Result<()> {
        self.input(Input::Frame { link, channel: frame.channel(), bytes: frame.encode() })
    }

    pub(crate) fn state(&mut self, statements: &[SignedStatement]) -> anyhow::Result<()> {
        let statements = statements.iter().map(|signed| signed.parts()).collect();
        self.input(Input::Statements { request: RequestId(1), statements })
    }

    /// A peer links and says `Hello`: it has this node's root, so that both are ready, or another one.
    pub(crate) fn greet(&mut self, link: LinkId, peer: &SigningKey, root: Root) -> anyhow::Result<()> {
        let fleet = self.engine.replica().roster().fleet();
        self.input(Input::LinkUp { link, peer: public(peer), dialled: true })?;
        for channel in [Channel::Control, Channel::Data] {
            self.input(Input::Writable { link, channel, bytes: WINDOW_BYTES })?;
        }
        let scope = Scope { name: "fleet".to_owned(), root, generation: 1, cursor: None };
        let hello = Hello {
            protocol: PROTOCOL_RANGE,
            fleet,
            chain: Vec::new(),
            scopes: vec![scope],
            frame_bytes_max: FRAME_BYTES_MAX as u32,
        };
        self.frame(link, &Frame::Hello(hello))?;
        let place = Place { generation: 1, position: 0 };
        self.frame(link, &Frame::Place(PlaceOf { place, items_bits: 0, is_equal: false }))
    }
}
