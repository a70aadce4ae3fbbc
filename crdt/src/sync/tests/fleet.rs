//! A fleet on paper: keys and the statements that make devices members.

use ed25519_dalek::SigningKey;

use crate::id::{DeviceId, FleetId, Key};
use crate::statement::{Admission, Body, Invitation, Operator, ROLES, RootKeys, SignedStatement, StatementParts};

pub(super) fn key_of(signing: &SigningKey) -> Key {
    Key(signing.verifying_key().to_bytes())
}

/// Keys of a fleet with `devices` members and two operators.
pub(super) struct Fleet {
    pub(super) id: FleetId,
    pub(super) operators: [SigningKey; 2],
    pub(super) devices: Vec<SigningKey>,
    genesis: Vec<SignedStatement>,
    entries: Vec<[SignedStatement; 2]>,
}

fn seed(kind: u8, number: usize) -> SigningKey {
    let mut bytes = [kind; 32];
    bytes[1] = number as u8;
    SigningKey::from_bytes(&bytes)
}

impl Fleet {
    pub(super) fn new(devices: usize) -> Fleet {
        let root = seed(1, 0);
        let keys = RootKeys { keys: vec![key_of(&root)], threshold: 1 };
        let genesis = Body::Root(keys).into_statement(None, &[], 1_000).sign(&root);
        let id = FleetId(genesis.id().0);
        let operators = [seed(2, 0), seed(2, 1)];
        let mut statements = vec![genesis];
        for (number, operator) in operators.iter().enumerate() {
            let roles = ROLES.iter().map(|(role, _)| *role).collect();
            let operator = Operator { key: key_of(operator), name: format!("operator-{number}"), roles };
            statements.push(Body::Operator(operator).into_statement(Some(id), &[], 1_000).sign(&root));
        }
        let mut fleet = Fleet { id, operators, devices: Vec::new(), genesis: statements, entries: Vec::new() };
        for number in 0..devices {
            let device = seed(3, number);
            let entry = fleet.entry(&seed(4, number), &device, &format!("node-{number}"));
            fleet.devices.push(device);
            fleet.entries.push(entry);
        }
        fleet
    }

    /// An invitation for a one-time key and the admission of a device by it.
    pub(super) fn entry(&self, one_time: &SigningKey, device: &SigningKey, name: &str) -> [SignedStatement; 2] {
        let invitation = Invitation {
            key: key_of(one_time),
            name: name.to_owned(),
            zone: "lab".to_owned(),
            labels: Default::default(),
            not_after_ms: 10_000,
        };
        let admission = Admission {
            invitation: key_of(one_time),
            device: key_of(device),
            sealing: [9; 32],
            fingerprint: [[1; 32]; 3],
        };
        let invitation = Body::Invitation(invitation).into_statement(Some(self.id), &[], 1_000);
        let mut admission = Body::Admission(admission).into_statement(Some(self.id), &[], 1_000).sign(one_time);
        admission.add_signature(device);
        [invitation.sign(&self.operators[0]), admission]
    }

    /// A statement of the first operator.
    pub(super) fn sign(&self, body: Body) -> StatementParts {
        body.into_statement(Some(self.id), &[], 1_000).sign(&self.operators[0]).parts()
    }

    pub(super) fn device_id(&self, number: usize) -> DeviceId {
        key_of(&self.devices[number]).device()
    }

    /// What a device knows when it has just joined.
    pub(super) fn statements_of(&self, number: usize) -> Vec<StatementParts> {
        self.genesis.iter().chain(&self.entries[number]).map(SignedStatement::parts).collect()
    }

    /// The one-time key that admitted a device.
    pub(super) fn one_time(&self, number: usize) -> SigningKey {
        seed(4, number)
    }
}
