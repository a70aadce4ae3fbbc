//! An author who makes changes in this process: signed runs of a log, as a device would make them.

use std::collections::BTreeMap;

use anyhow::Context;
use crdt::change::{LogName, RawBytes, Run, sign};
use crdt::id::{Actor, ChainHash, ChangeHash, DeviceId, FleetId, Key};
use crdt::raw::{Action, NewChange, OpId, Operation, encode, hash_of};
use crdt::schema::{DocumentName, Kind, Value};
use crdt::statement::{Admission, Body, Invitation, Operator as OperatorBody, ROLES, RootKeys, SignedStatement};
use ed25519_dalek::SigningKey;

use super::operator::{Operator, wall_ms};

/// A key that is the same in every run.
pub(crate) fn key(number: u16, purpose: u8) -> SigningKey {
    let mut seed = [purpose; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

pub(crate) fn public(key: &SigningKey) -> Key {
    Key(key.verifying_key().to_bytes())
}

/// A new fleet in memory: its operator, and the statements that say so.
pub(crate) fn found() -> (Operator, Vec<SignedStatement>) {
    let (root, operator) = (key(1, 1), key(1, 2));
    let keys = RootKeys { keys: vec![public(&root)], threshold: 1 };
    let genesis = Body::Root(keys).into_statement(None, &[], 1).sign(&root);
    let fleet = FleetId(genesis.id().0);
    let roles = ROLES.iter().map(|(role, _)| *role).collect();
    let first = OperatorBody { key: public(&operator), name: "bench".to_owned(), roles };
    let first = Body::Operator(first).into_statement(Some(fleet), &[], 1).sign(&root);
    (Operator::of(fleet, operator), vec![genesis, first])
}

/// The statements that make the device of `device` a member.
pub(crate) fn enrol(
    operator: &Operator,
    device: &SigningKey,
    one_time: &SigningKey,
    name: &str,
) -> [SignedStatement; 2] {
    let invitation = Invitation {
        key: public(one_time),
        name: name.to_owned(),
        zone: "bench".to_owned(),
        labels: BTreeMap::new(),
        not_after_ms: wall_ms(),
    };
    let admission =
        Admission { invitation: public(one_time), device: public(device), sealing: [9; 32], fingerprint: [[1; 32]; 3] };
    let admission = Body::Admission(admission).into_statement(Some(operator.fleet), &[], wall_ms());
    let mut admission = admission.sign(one_time);
    admission.add_signature(device);
    [operator.say(Body::Invitation(invitation), &[]), admission]
}

/// A log of a device in a document of its own.
pub(crate) struct Author {
    key: SigningKey,
    fleet: FleetId,
    pub(crate) log: LogName,
    pub(crate) actor: Actor,
    pub(crate) seq: u64,
    pub(crate) chain: ChainHash,
    head: Option<ChangeHash>,
    max_op: u64,
    /// Path → the operation that is visible.
    visible: BTreeMap<String, OpId>,
}

impl Author {
    pub(crate) fn new(fleet: FleetId, key: &SigningKey, kind: Kind, epoch: u64) -> Author {
        let device: DeviceId = public(key).device();
        let document = DocumentName::of_device(kind, &device);
        let log = LogName { document, epoch, author: public(key), carrier: device, incarnation: 1 };
        let actor = log.actor(&fleet);
        Author {
            key: key.clone(),
            fleet,
            log,
            actor,
            seq: 0,
            chain: ChainHash::START,
            head: None,
            max_op: 0,
            visible: BTreeMap::new(),
        }
    }

    /// The next change, signed, as a run of its own.
    pub(crate) fn write(&mut self, values: &[(String, i64)]) -> anyhow::Result<Run> {
        let mut operations = Vec::with_capacity(values.len());
        for (at, (path, value)) in values.iter().enumerate() {
            let id = OpId { counter: self.max_op + 1 + at as u64, actor: self.actor };
            let pred = self.visible.insert(path.clone(), id).into_iter().collect();
            operations.push(Operation { path: path.clone(), action: Action::Put(Value::Int(*value)), pred });
        }
        let new = NewChange {
            actor: self.actor,
            seq: self.seq + 1,
            start_op: self.max_op + 1,
            time_s: i64::try_from(wall_ms() / 1000).unwrap_or(i64::MAX),
            message: None,
            deps: self.head.into_iter().collect(),
            operations,
        };
        let raw = encode(&new).context("the change does not encode")?;
        let hash = hash_of(&raw).context("the change has no header")?;
        self.seq += 1;
        self.max_op += values.len() as u64;
        self.head = Some(hash);
        self.chain = self.chain.next(&hash);
        let signature = sign(&self.key, &self.fleet, &self.actor, self.seq, &self.chain);
        Ok(Run { log: self.log.clone(), first_seq: self.seq, changes: vec![RawBytes(raw)], signature })
    }
}

/// Readings such as a machine has: `count` of 40 paths, turning.
pub(crate) fn readings(turn: u64, count: u64) -> Vec<(String, i64)> {
    let names = ["memory.used_bytes", "cpu.utilisation_permille", "disk.sda.read_bytes_per_s", "load.one_milli"];
    (0..count)
        .map(|at| {
            let path = (turn + at) % 40;
            let name = names[(path % 4) as usize];
            (format!("{name}.{path}"), i64::try_from(turn * 7919 % 1_000_003).unwrap_or(0))
        })
        .collect()
}
