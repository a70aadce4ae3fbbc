//! A fleet's keys and statements, and the replica that its nodes start with.

use std::collections::BTreeMap;
use std::sync::Arc;

use crdt::id::{DeviceId, FleetId, Key, Time};
use crdt::statement::{
    Admission, Assigned, Body, Invitation, Operator, ROLES, Removal, RootKeys, SignedStatement, StatementParts,
};
use crdt::store::MemoryStore;
use crdt::sync::{Config, Effect, Engine, Input, RequestId};
use ed25519_dalek::SigningKey;

use super::topology::Place;

/// Operators of every fleet.
pub(crate) const OPERATORS: usize = 3;
/// When all statements were signed, milliseconds since 1970.
const SIGNED_MS: u64 = 1_700_000_000_000;

/// Keys of a fleet, and what its members start with.
pub(crate) struct Fleet {
    pub(crate) id: FleetId,
    pub(crate) operators: Vec<SigningKey>,
    pub(crate) devices: Vec<SigningKey>,
    ids: Vec<DeviceId>,
    places: Vec<Place>,
    /// The root, and the operators.
    pub(crate) genesis: Vec<StatementParts>,
    /// What every member's disk holds at the start, and an engine on it.
    pub(crate) base: Arc<MemoryStore>,
    pub(crate) engine: Engine,
}

fn secret(kind: u8, number: usize) -> SigningKey {
    let mut bytes = [kind; 32];
    bytes[1..9].copy_from_slice(&(number as u64).to_be_bytes());
    SigningKey::from_bytes(&bytes)
}

pub(crate) fn key_of(signing: &SigningKey) -> Key {
    Key(signing.verifying_key().to_bytes())
}

/// The device of the engine that all others are copies of.
fn template(fleet: FleetId) -> Config {
    Config { fleet, key: secret(9, 0), incarnation: 1, seed: 1 }
}

impl Fleet {
    /// The fleet of these places; the devices whose number `is_member` says are members from the start, the others join.
    pub(crate) fn new(places: &[Place], is_member: impl Fn(usize) -> bool) -> Fleet {
        let root = secret(1, 0);
        let keys = RootKeys { keys: vec![key_of(&root)], threshold: 1 };
        let first = Body::Root(keys).into_statement(None, &[], SIGNED_MS).sign(&root);
        let id = FleetId(first.id().0);
        let mut genesis = vec![first.parts()];
        let operators: Vec<SigningKey> = (0..OPERATORS).map(|number| secret(2, number)).collect();
        for (number, operator) in operators.iter().enumerate() {
            let roles = ROLES.iter().map(|(role, _)| *role).collect();
            let body = Body::Operator(Operator { key: key_of(operator), name: format!("operator-{number}"), roles });
            genesis.push(body.into_statement(Some(id), &[], SIGNED_MS).sign(&root).parts());
        }
        let devices: Vec<SigningKey> = (0..places.len()).map(|number| secret(3, number)).collect();
        let ids = devices.iter().map(|device| key_of(device).device()).collect();
        let places = places.to_vec();
        let engine = Engine::open(template(id), &MemoryStore::default()).expect("an empty store opens");
        let mut fleet = Fleet { id, operators, devices, ids, places, genesis, base: Arc::default(), engine };
        let mut statements = fleet.genesis.clone();
        (0..fleet.places.len()).filter(|number| is_member(*number)).for_each(|number| {
            statements.extend(fleet.entry(number));
        });
        let (store, engine) = fleet.settle(statements);
        (fleet.base, fleet.engine) = (Arc::new(store), engine);
        fleet
    }

    /// The store of a member that has taken these statements, and an engine that starts on it.
    fn settle(&self, statements: Vec<StatementParts>) -> (MemoryStore, Engine) {
        let mut store = MemoryStore::default();
        let mut engine = self.engine.clone();
        for part in statements.chunks(256) {
            let input = Input::Statements { request: RequestId(1), statements: part.to_vec() };
            let mut inputs = vec![input];
            while let Some(input) = inputs.pop() {
                engine.handle(Time(1), input, &store);
                while let Some(effect) = engine.poll_effect() {
                    if let Effect::Persist { batch, token, .. } = effect {
                        store.apply(&batch);
                        inputs.push(Input::Persisted(token));
                    }
                }
            }
        }
        let engine = Engine::open(template(self.id), &store).expect("what was just stored opens");
        // What copies share is computed once.
        let _ = (engine.root(), engine.replica().root_durable());
        (store, engine)
    }

    pub(crate) fn device(&self, number: usize) -> DeviceId {
        self.ids[number]
    }

    /// The invitation and the admission of a device.
    pub(crate) fn entry(&self, number: usize) -> [StatementParts; 2] {
        let one_time = secret(4, number);
        let place = &self.places[number];
        let invitation = Invitation {
            key: key_of(&one_time),
            name: place.name.clone(),
            zone: place.zone.clone(),
            labels: BTreeMap::new(),
            not_after_ms: u64::MAX,
        };
        let admission = Admission {
            invitation: key_of(&one_time),
            device: key_of(&self.devices[number]),
            sealing: [9; 32],
            fingerprint: [[1; 32]; 3],
        };
        let invitation = self.sign(0, Body::Invitation(invitation));
        let mut admission = Body::Admission(admission).into_statement(Some(self.id), &[], SIGNED_MS).sign(&one_time);
        admission.add_signature(&self.devices[number]);
        [invitation, admission.parts()]
    }

    /// What an operator says of a device's label; each number is another statement that replaces none.
    pub(crate) fn label(&self, operator: usize, number: usize, value: &str) -> StatementParts {
        let device = self.device(number);
        let attribute = format!("label/{}", value.split('-').next().unwrap_or("a"));
        self.sign(operator, Body::Assigned(Assigned { device, attribute, value: Some(value.to_owned()) }))
    }

    /// The end of a membership.
    pub(crate) fn removal(&self, operator: usize, number: usize) -> StatementParts {
        self.sign(operator, Body::Removal(Removal { device: self.device(number), reason: "stolen".to_owned() }))
    }

    fn sign(&self, operator: usize, body: Body) -> StatementParts {
        let signed: SignedStatement =
            body.into_statement(Some(self.id), &[], SIGNED_MS).sign(&self.operators[operator % OPERATORS]);
        signed.parts()
    }
}
