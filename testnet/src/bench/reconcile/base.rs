//! What both nodes start with: a fleet of two devices and many documents of operators, half of them written on either.

use std::sync::Arc;

use anyhow::{Context, bail};
use crdt::change::sign;
use crdt::schema::{DocumentName, Value};
use crdt::statement::{Body, Removal, SignedStatement};
use crdt::store::{Batch, LogStore, MemoryStore, TABLES};
use crdt::sync::{Config, Edit, Engine, Input, Reply};

use crate::bench::pair::{Node, Pair, Sent, Wire};
use crate::sim::disk::Disk;
use crate::sim::fleet::{Fleet, key_of};
use crate::sim::topology::Place;

/// When all is written, microseconds.
const WRITTEN_US: u64 = 1;

/// A fleet of two, and what both hold.
pub(crate) struct Base {
    fleet: Fleet,
    store: Arc<MemoryStore>,
    engine: Engine,
    /// Logs of changes, each in a document of its own.
    logs: usize,
    starts: u64,
}

impl Base {
    /// An operator writes so many documents, all through the engine's own door: the first half on one device, the second half
    /// on the other, which has the first half on its disk.
    pub(crate) fn make(logs: usize) -> anyhow::Result<Base> {
        let places = ["a-0", "a-1"].map(|name| Place { name: name.to_owned(), zone: "a".to_owned(), nat: None });
        let fleet = Fleet::new(&places, |_| true);
        let (store, engine) = (fleet.base.clone(), fleet.engine.clone());
        let mut base = Base { fleet, store, engine, logs, starts: 0 };
        for number in 0..2 {
            let mut node = base.node(number);
            for document in base.written_on(number) {
                base.write(&mut node, WRITTEN_US, document, 0)?;
            }
            base.store = Arc::new(whole(&node.disk)?);
            base.engine = node.engine;
        }
        Ok(base)
    }

    /// The documents whose logs a device carries.
    fn written_on(&self, number: usize) -> std::ops::Range<usize> {
        let half = self.logs / 2;
        if number == 0 { 0..half } else { half..self.logs }
    }

    fn config(&mut self, number: usize) -> Config {
        self.starts += 1;
        let key = self.fleet.devices[number].clone();
        Config { fleet: self.fleet.id, key, incarnation: 1 + number as u64, seed: self.starts }
    }

    fn node(&mut self, number: usize) -> Node {
        let key = key_of(&self.fleet.devices[number]);
        let config = self.config(number);
        let engine = self.engine.copy_for(config);
        Node::new(engine, key, Disk::new(self.store.clone()))
    }

    /// Two nodes that hold all of it and know nothing of each other.
    pub(crate) fn pair(&mut self, wire: Wire) -> anyhow::Result<Pair> {
        let mut pair = Pair::new(wire, [self.node(0), self.node(1)]);
        // What is opened from a disk draws the name of its order, which is longer than the one that both were made with.
        self.restart(&mut pair)?;
        Ok(pair)
    }

    /// Both start again on what they stored, as after a crash: their orders of admission have new names.
    pub(crate) fn restart(&mut self, pair: &mut Pair) -> anyhow::Result<()> {
        pair.cut()?;
        for (number, node) in pair.nodes.iter_mut().enumerate() {
            node.engine = Engine::open(self.config(number), &node.disk)?;
        }
        Ok(())
    }

    /// The next change of the first `count` of the logs that a device carries.
    pub(crate) fn change(&self, pair: &mut Pair, number: usize, count: usize, value: i64) -> anyhow::Result<()> {
        pair.act(number, |node, now_us| {
            let mut sent = Sent::new();
            for document in self.written_on(number).take(count) {
                sent.extend(self.write(node, now_us, document, value)?);
            }
            Ok(sent)
        })
    }

    fn write(&self, node: &mut Node, now_us: u64, document: usize, value: i64) -> anyhow::Result<Sent> {
        self.edit(node, now_us, document, vec![Edit { path: "a".to_owned(), value: Some(Value::Int(value)) }])
    }

    /// An operator edits a document on a node.
    pub(crate) fn edit(&self, node: &mut Node, now_us: u64, document: usize, edits: Vec<Edit>) -> anyhow::Result<Sent> {
        let operator = &self.fleet.operators[0];
        let document = DocumentName::config(&format!("c{document:06}")).context("a document's name")?;
        let author = key_of(operator);
        let mut sent = Sent::new();
        let prepared =
            node.request(now_us, &mut sent, |request| Input::Prepare { request, document, author, edits })?;
        let Reply::Prepared(change) = prepared else { bail!("nothing to sign: {prepared:?}") };
        let actor = change.log.actor(&self.fleet.id);
        let chain = change.chain_before.next(&change.hash().context("a change without a header")?);
        let signature = sign(operator, &self.fleet.id, &actor, change.seq, &chain);
        match node.request(now_us, &mut sent, |request| Input::Submit { request, change, signature })? {
            Reply::Written { .. } => Ok(sent),
            reply => bail!("a change was not taken: {reply:?}"),
        }
    }
}

impl Base {
    /// A statement of class `stop`, as an operator signs it.
    pub(crate) fn stop(&self, number: u64) -> SignedStatement {
        let body = Body::Removal(Removal { device: self.fleet.device(0), reason: String::new() });
        let mut statement = body.into_statement(Some(self.fleet.id), &[], number);
        (statement.kind, statement.subject) = ("stop".to_owned(), format!("rollout-{number}"));
        statement.sign(&self.fleet.operators[0])
    }
}

/// All that a disk holds.
fn whole(disk: &Disk) -> anyhow::Result<MemoryStore> {
    let mut store = MemoryStore::default();
    for (table, _) in TABLES {
        let mut rows = Batch::default();
        disk.scan(table, &[], &[0xff; 64], &mut |key, value| {
            rows.put(table, key, value.to_vec());
            std::ops::ControlFlow::Continue(())
        })?;
        store.apply(&rows);
    }
    Ok(store)
}
