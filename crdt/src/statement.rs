//! Statements: signed facts about authority, which replicate as themselves (PROTOCOL 1).
//!
//! A statement is canonical DAG-CBOR `{body, fleet, format, kind, replaces, subject, version}`; its id is BLAKE3 of
//! those bytes. Signatures stand beside it and are over `"fleetsync statement v1" ‖ id`.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use ipld_core::ipld::Ipld;
use serde::{Deserialize, Serialize};

use crate::id::{FleetId, Key, StatementId};
use crate::verifier::Verifier;

pub(crate) use body::time_ms;
mod body;
pub use body::{
    Admission, Assigned, Body, BodyError, Invitation, LABELS_MAX, Operator, Pin, ROOT_KEYS_MAX, Removal, RootKeys,
    WORD_BYTES_MAX, check_word,
};

/// Largest statement without signatures, bytes.
pub const STATEMENT_BYTES_MAX: usize = 4 * 1024;
/// Most signatures of one statement.
pub const SIGNATURES_MAX: usize = 32;
/// Most statements that one statement replaces.
pub const REPLACES_MAX: usize = 32;
/// Format number of a statement.
pub const STATEMENT_FORMAT: u64 = 1;

const SIGNATURE_CONTEXT: &[u8] = b"fleetsync statement v1";

/// What an operator may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Invitations, pins, removals, device revocations.
    Enrol,
    /// Assigned attributes.
    Assign,
    /// Configuration documents and versions.
    Config,
    /// Policies.
    Policy,
    /// Releases.
    Release,
    /// Rollouts.
    Rollout,
    /// Stops.
    Stop,
    /// Heartbeats.
    Witness,
    /// Nothing: reads only.
    Observer,
}

/// Every role with its name.
pub const ROLES: [(Role, &str); 9] = [
    (Role::Enrol, "enrol"),
    (Role::Assign, "assign"),
    (Role::Config, "config"),
    (Role::Policy, "policy"),
    (Role::Release, "release"),
    (Role::Rollout, "rollout"),
    (Role::Stop, "stop"),
    (Role::Witness, "witness"),
    (Role::Observer, "observer"),
];

impl Role {
    /// The role's name.
    pub fn name(self) -> &'static str {
        ROLES.iter().find(|(role, _)| *role == self).map_or("", |(_, name)| name)
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Role> {
        ROLES.iter().find(|(_, known)| *known == name).map(|(role, _)| *role)
    }
}

/// The envelope of a statement; the body is a generic value, so that unknown kinds are carried unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The fleet; none in the first root statement, whose id *is* the fleet's.
    pub fleet: Option<FleetId>,
    /// What kind of fact it is.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// 1 + the greatest version that it replaces.
    pub version: u64,
    /// The statements of the same kind and subject that it replaces, ascending.
    pub replaces: Vec<StatementId>,
    /// What it says.
    pub body: Ipld,
}

/// Why bytes are no statement. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// Larger than [`STATEMENT_BYTES_MAX`].
    #[error("a statement has at most {STATEMENT_BYTES_MAX} bytes, this one has {0}")]
    Size(usize),
    /// Not DAG-CBOR.
    #[error("not DAG-CBOR: {0}")]
    Encoding(String),
    /// DAG-CBOR whose canonical form differs.
    #[error("not canonical DAG-CBOR")]
    NotCanonical,
    /// A field of the envelope is missing, of another type, or there are others.
    #[error("the envelope's field {0} is missing or malformed")]
    Envelope(&'static str),
    /// Of another format.
    #[error("statement format {0} is not known here")]
    Format(u64),
    /// A signature that does not verify.
    #[error("the signature of {0} does not verify")]
    Signature(Key),
    /// More than [`SIGNATURES_MAX`] signatures, or none, or not in the order of their keys.
    #[error("a statement has 1 to {SIGNATURES_MAX} signatures in the order of their keys")]
    Signatures,
    /// A body that its kind does not allow.
    #[error("the body of a {0} statement: {1}")]
    Body(&'static str, BodyError),
}

impl Statement {
    /// Canonical bytes, without signatures.
    pub fn encode(&self) -> Vec<u8> {
        let fleet = self.fleet.map(|fleet| fleet.0.to_vec()).unwrap_or_default();
        let replaces = self.replaces.iter().map(|id| Ipld::Bytes(id.0.to_vec())).collect();
        let map = BTreeMap::from([
            ("body".to_owned(), self.body.clone()),
            ("fleet".to_owned(), Ipld::Bytes(fleet)),
            ("format".to_owned(), Ipld::Integer(i128::from(STATEMENT_FORMAT))),
            ("kind".to_owned(), Ipld::String(self.kind.clone())),
            ("replaces".to_owned(), Ipld::List(replaces)),
            ("subject".to_owned(), Ipld::String(self.subject.clone())),
            ("version".to_owned(), Ipld::Integer(i128::from(self.version))),
        ]);
        serde_ipld_dagcbor::to_vec(&Ipld::Map(map)).expect("an Ipld value with finite numbers always encodes")
    }

    /// Reads canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Statement, StatementError> {
        if bytes.len() > STATEMENT_BYTES_MAX {
            return Err(StatementError::Size(bytes.len()));
        }
        let value: Ipld =
            serde_ipld_dagcbor::from_slice(bytes).map_err(|error| StatementError::Encoding(error.to_string()))?;
        let statement = Statement::from_map(value)?;
        if statement.encode() != bytes { Err(StatementError::NotCanonical) } else { Ok(statement) }
    }

    fn from_map(value: Ipld) -> Result<Statement, StatementError> {
        let Ipld::Map(mut map) = value else { return Err(StatementError::Envelope("map")) };
        if map.len() != 7 {
            return Err(StatementError::Envelope("count"));
        }
        let format = unsigned(map.remove("format"), "format")?;
        if format != STATEMENT_FORMAT {
            return Err(StatementError::Format(format));
        }
        let fleet = match map.remove("fleet") {
            Some(Ipld::Bytes(bytes)) if bytes.is_empty() => None,
            Some(Ipld::Bytes(bytes)) => Some(FleetId(bytes.try_into().map_err(|_| StatementError::Envelope("fleet"))?)),
            _ => return Err(StatementError::Envelope("fleet")),
        };
        let Some(Ipld::List(list)) = map.remove("replaces") else {
            return Err(StatementError::Envelope("replaces"));
        };
        let replaces = list
            .into_iter()
            .map(|item| match item {
                Ipld::Bytes(bytes) => bytes.try_into().ok().map(StatementId),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .filter(|ids| ids.len() <= REPLACES_MAX && ids.windows(2).all(|pair| pair[0] < pair[1]))
            .ok_or(StatementError::Envelope("replaces"))?;
        Ok(Statement {
            fleet,
            kind: text(map.remove("kind"), "kind")?,
            subject: text(map.remove("subject"), "subject")?,
            version: unsigned(map.remove("version"), "version")?,
            replaces,
            body: map.remove("body").ok_or(StatementError::Envelope("body"))?,
        })
    }

    /// BLAKE3 of the canonical bytes.
    pub fn id(&self) -> StatementId {
        StatementId(*blake3::hash(&self.encode()).as_bytes())
    }

    /// The statement with the signature of `key`.
    pub fn sign(self, key: &SigningKey) -> SignedStatement {
        let mut signed =
            SignedStatement { id: self.id(), bytes: self.encode(), statement: self, signatures: BTreeMap::new() };
        signed.add_signature(key);
        signed
    }
}

fn unsigned(value: Option<Ipld>, field: &'static str) -> Result<u64, StatementError> {
    match value {
        Some(Ipld::Integer(number)) => u64::try_from(number).map_err(|_| StatementError::Envelope(field)),
        _ => Err(StatementError::Envelope(field)),
    }
}

fn text(value: Option<Ipld>, field: &'static str) -> Result<String, StatementError> {
    match value {
        Some(Ipld::String(text)) if !text.is_empty() && text.len() <= 256 => Ok(text),
        _ => Err(StatementError::Envelope(field)),
    }
}

/// What a signature of a statement is over.
pub fn signing_bytes(id: &StatementId) -> Vec<u8> {
    [SIGNATURE_CONTEXT, &id.0].concat()
}

/// A statement with signatures that were verified.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedStatement {
    id: StatementId,
    bytes: Vec<u8>,
    statement: Statement,
    signatures: BTreeMap<Key, [u8; 64]>,
}

/// How a signed statement travels and is stored: postcard after the frame's or the record's format byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementParts {
    /// Canonical bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// Signers, ascending, each with its 64-byte signature.
    pub signatures: Vec<(Key, SignatureBytes)>,
}

/// The 64 bytes of an ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignatureBytes(pub [u8; 64]);

impl std::fmt::Debug for SignatureBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignatureBytes({}…)", crate::id::hex(&self.0[..4]))
    }
}

impl Serialize for SignatureBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let halves: [[u8; 32]; 2] =
            [self.0[..32].try_into().expect("half of 64 bytes"), self.0[32..].try_into().expect("half of 64 bytes")];
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignatureBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&halves[0]);
        bytes[32..].copy_from_slice(&halves[1]);
        Ok(SignatureBytes(bytes))
    }
}

impl SignedStatement {
    /// Reads and verifies: every signature must verify strictly.
    pub fn from_parts(parts: StatementParts) -> Result<SignedStatement, StatementError> {
        let statement = Statement::decode(&parts.bytes)?;
        let id = StatementId(*blake3::hash(&parts.bytes).as_bytes());
        let is_ordered = parts.signatures.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if parts.signatures.is_empty() || parts.signatures.len() > SIGNATURES_MAX || !is_ordered {
            return Err(StatementError::Signatures);
        }
        let message = signing_bytes(&id);
        for (key, signature) in &parts.signatures {
            if !verifies(key, &message, &signature.0) {
                return Err(StatementError::Signature(*key));
            }
        }
        let signatures = parts.signatures.into_iter().map(|(key, signature)| (key, signature.0)).collect();
        Ok(SignedStatement { id, bytes: parts.bytes, statement, signatures })
    }

    /// The form in which it travels and is stored.
    pub fn parts(&self) -> StatementParts {
        StatementParts {
            bytes: self.bytes.clone(),
            signatures: self.signatures.iter().map(|(key, bytes)| (*key, SignatureBytes(*bytes))).collect(),
        }
    }

    /// BLAKE3 of the canonical bytes.
    pub fn id(&self) -> StatementId {
        self.id
    }

    /// The envelope and the body.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Who signed, ascending by key.
    pub fn signatures(&self) -> &BTreeMap<Key, [u8; 64]> {
        &self.signatures
    }

    /// Adds the signature of `key`.
    pub fn add_signature(&mut self, key: &SigningKey) {
        let signature = key.sign(&signing_bytes(&self.id)).to_bytes();
        self.signatures.insert(Key(key.verifying_key().to_bytes()), signature);
    }

    /// Takes over the signatures of `other`, of the same statement; of two by one key the lower bytes stay.
    /// Says whether anything changed.
    pub fn merge(&mut self, other: &SignedStatement) -> bool {
        let mut changed = false;
        for (key, signature) in &other.signatures {
            let is_better = self.signatures.get(key).is_none_or(|known| signature < known);
            if other.id == self.id && is_better {
                self.signatures.insert(*key, *signature);
                changed = true;
            }
        }
        changed
    }

    /// The statement with only the signatures that `keep` allows; none if no signature is left.
    pub fn retain(&self, keep: impl Fn(&Key) -> bool) -> Option<SignedStatement> {
        let signatures: BTreeMap<_, _> =
            self.signatures.iter().filter(|(key, _)| keep(key)).map(|(key, bytes)| (*key, *bytes)).collect();
        (!signatures.is_empty()).then(|| SignedStatement { signatures, ..self.clone() })
    }
}

/// Whether `signature` of `message` by `key` passes the strict verification: no small-order keys, canonical S.
pub fn verifies(key: &Key, message: &[u8], signature: &[u8; 64]) -> bool {
    Verifier::new(key).is_some_and(|key| key.verifies(message, signature))
}

#[cfg(test)]
mod tests;
