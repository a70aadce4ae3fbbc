//! What the statements say whose kinds this version knows.

use std::collections::BTreeMap;

use ipld_core::ipld::Ipld;

use super::{Role, Statement, StatementError};
use crate::id::{DeviceId, FleetId, Key, StatementId};

/// Longest name, zone, label key or label value, bytes.
pub const WORD_BYTES_MAX: usize = 64;
/// Most labels of an invitation.
pub const LABELS_MAX: usize = 16;
/// Most keys of a root.
pub const ROOT_KEYS_MAX: usize = 16;

/// Why a body does not say what its kind must say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A field is missing or of another type.
    #[error("field {0} is missing or malformed")]
    Field(&'static str),
    /// The subject is not the one that the body implies.
    #[error("the subject does not fit the body")]
    Subject,
    /// A threshold of zero or above the number of keys, or a key twice.
    #[error("the threshold does not fit the keys")]
    Threshold,
    /// A word that is empty, too long or has other characters than letters, digits, '-', '_', '.'.
    #[error("{0:?} is not a word of letters, digits, '-', '_' and '.', at most {WORD_BYTES_MAX} of them")]
    Word(String),
}

/// The keys that hold the root of trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootKeys {
    /// The holders' keys, distinct.
    pub keys: Vec<Key>,
    /// How many of them must sign.
    pub threshold: usize,
}

/// A person or program that may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The operator's key.
    pub key: Key,
    /// The name that people read.
    pub name: String,
    /// What it may sign.
    pub roles: Vec<Role>,
}

/// A one-time key that admits one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The one-time key, whose secret is in the ticket.
    pub key: Key,
    /// The device's name.
    pub name: String,
    /// The device's zone.
    pub zone: String,
    /// The device's labels.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since 1970; judged only by the member that takes the join.
    pub not_after_ms: u64,
}

/// A device's entry into the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The invitation's one-time key.
    pub invitation: Key,
    /// The device's key.
    pub device: Key,
    /// The X25519 key for sealed secrets.
    pub sealing: [u8; 32],
    /// Three BLAKE3 hashes, keyed with the fleet id, of what identifies the machine.
    pub fingerprint: [[u8; 32]; 3],
}

/// Which of several admissions by one invitation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The invitation's one-time key.
    pub invitation: Key,
    /// The admission that stands.
    pub admission: StatementId,
}

/// One attribute of a device, as operators say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The device.
    pub device: DeviceId,
    /// `name`, `zone`, `location`, `owner`, `cordon`, `label/<key>`.
    pub attribute: String,
    /// The value; none takes the attribute away.
    pub value: Option<String>,
}

/// The end of a membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The device.
    pub device: DeviceId,
    /// Why, for people.
    pub reason: String,
}

/// A body of a kind that this version knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Body {
    /// `root`
    Root(RootKeys),
    /// `operator`
    Operator(Operator),
    /// `invitation`
    Invitation(Invitation),
    /// `admission`
    Admission(Admission),
    /// `pin`
    Pin(Pin),
    /// `assigned`
    Assigned(Assigned),
    /// `removal`
    Removal(Removal),
    /// A kind that this version does not know: carried, without effect.
    Unknown,
}

/// Whether `word` is 1 to [`WORD_BYTES_MAX`] letters, digits, `-`, `_`, `.`.
pub fn check_word(word: &str) -> Result<(), BodyError> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.bytes().all(is_allowed) {
        return Err(BodyError::Word(word.to_owned()));
    }
    Ok(())
}

impl Body {
    /// The kind's name; none for [`Body::Unknown`].
    pub fn kind(&self) -> &'static str {
        match self {
            Body::Root(_) => "root",
            Body::Operator(_) => "operator",
            Body::Invitation(_) => "invitation",
            Body::Admission(_) => "admission",
            Body::Pin(_) => "pin",
            Body::Assigned(_) => "assigned",
            Body::Removal(_) => "removal",
            Body::Unknown => "",
        }
    }

    /// The subject that the body implies.
    pub fn subject(&self) -> String {
        match self {
            Body::Root(_) => "root".to_owned(),
            Body::Operator(operator) => operator.key.to_string(),
            Body::Invitation(invitation) => invitation.key.to_string(),
            Body::Admission(admission) => admission.device.device().to_string(),
            Body::Pin(pin) => pin.invitation.to_string(),
            Body::Assigned(assigned) => format!("{}/{}", assigned.device, assigned.attribute),
            Body::Removal(removal) => removal.device.to_string(),
            Body::Unknown => String::new(),
        }
    }

    /// The statement that says this, made at `time_ms` (a claim for people, milliseconds since 1970).
    ///
    /// `replaces` names the statements of the same subject that it supersedes, with their versions.
    pub fn into_statement(self, fleet: Option<FleetId>, replaces: &[(StatementId, u64)], time_ms: u64) -> Statement {
        let mut ids: Vec<StatementId> = replaces.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let mut body = self.fields();
        body.insert("time".to_owned(), Ipld::Integer(i128::from(time_ms)));
        Statement {
            fleet,
            kind: self.kind().to_owned(),
            subject: self.subject(),
            version: 1 + replaces.iter().map(|(_, version)| *version).max().unwrap_or(0),
            replaces: ids,
            body: Ipld::Map(body),
        }
    }

    fn fields(&self) -> BTreeMap<String, Ipld> {
        let bytes = |bytes: &[u8]| Ipld::Bytes(bytes.to_vec());
        let text = |text: &str| Ipld::String(text.to_owned());
        let fields: Vec<(&str, Ipld)> = match self {
            Body::Root(root) => vec![
                ("keys", Ipld::List(root.keys.iter().map(|key| bytes(&key.0)).collect())),
                ("threshold", Ipld::Integer(root.threshold as i128)),
            ],
            Body::Operator(operator) => vec![
                ("key", bytes(&operator.key.0)),
                ("name", text(&operator.name)),
                ("roles", Ipld::List(operator.roles.iter().map(|role| text(role.name())).collect())),
            ],
            Body::Invitation(invitation) => vec![
                ("key", bytes(&invitation.key.0)),
                ("name", text(&invitation.name)),
                ("zone", text(&invitation.zone)),
                ("labels", Ipld::Map(invitation.labels.iter().map(|(k, v)| (k.clone(), text(v))).collect())),
                ("not_after", Ipld::Integer(i128::from(invitation.not_after_ms))),
            ],
            Body::Admission(admission) => vec![
                ("invitation", bytes(&admission.invitation.0)),
                ("device", bytes(&admission.device.0)),
                ("sealing", bytes(&admission.sealing)),
                ("fingerprint", Ipld::List(admission.fingerprint.iter().map(|hash| bytes(hash)).collect())),
            ],
            Body::Pin(pin) => {
                vec![("invitation", bytes(&pin.invitation.0)), ("admission", bytes(&pin.admission.0))]
            }
            Body::Assigned(assigned) => vec![
                ("device", bytes(&assigned.device.0)),
                ("attribute", text(&assigned.attribute)),
                ("value", assigned.value.as_deref().map_or(Ipld::Null, text)),
            ],
            Body::Removal(removal) => {
                vec![("device", bytes(&removal.device.0)), ("reason", text(&removal.reason))]
            }
            Body::Unknown => vec![],
        };
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Reads the body of a statement; fields that this version does not know are ignored.
    pub fn of(statement: &Statement) -> Result<Body, StatementError> {
        let read: fn(&Fields<'_>) -> Result<Body, BodyError> = match statement.kind.as_str() {
            "root" => read_root,
            "operator" => read_operator,
            "invitation" => read_invitation,
            "admission" => read_admission,
            "pin" => read_pin,
            "assigned" => read_assigned,
            "removal" => read_removal,
            _ => return Ok(Body::Unknown),
        };
        let fail = |error| StatementError::Body(known_kind(&statement.kind), error);
        let Ipld::Map(map) = &statement.body else { return Err(fail(BodyError::Field("map"))) };
        let body = read(&Fields(map)).map_err(fail)?;
        if body.subject() == statement.subject { Ok(body) } else { Err(fail(BodyError::Subject)) }
    }
}

fn known_kind(kind: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["root", "operator", "invitation", "admission", "pin", "assigned", "removal"];
    KNOWN.into_iter().find(|known| *known == kind).unwrap_or("unknown")
}

/// When the signer says that the statement was made: milliseconds since 1970, a claim for people.
pub(crate) fn time_ms(statement: &Statement) -> u64 {
    match &statement.body {
        Ipld::Map(map) => Fields(map).unsigned("time").unwrap_or(0),
        _ => 0,
    }
}

struct Fields<'a>(&'a BTreeMap<String, Ipld>);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, name: &'static str) -> Result<[u8; N], BodyError> {
        match self.0.get(name) {
            Some(Ipld::Bytes(bytes)) => bytes.as_slice().try_into().map_err(|_| BodyError::Field(name)),
            _ => Err(BodyError::Field(name)),
        }
    }

    fn list_of_bytes<const N: usize>(&self, name: &'static str) -> Result<Vec<[u8; N]>, BodyError> {
        let Some(Ipld::List(list)) = self.0.get(name) else { return Err(BodyError::Field(name)) };
        list.iter()
            .map(|item| match item {
                Ipld::Bytes(bytes) => bytes.as_slice().try_into().map_err(|_| BodyError::Field(name)),
                _ => Err(BodyError::Field(name)),
            })
            .collect()
    }

    fn unsigned(&self, name: &'static str) -> Result<u64, BodyError> {
        match self.0.get(name) {
            Some(Ipld::Integer(number)) => u64::try_from(*number).map_err(|_| BodyError::Field(name)),
            _ => Err(BodyError::Field(name)),
        }
    }

    fn text(&self, name: &'static str) -> Result<&str, BodyError> {
        match self.0.get(name) {
            Some(Ipld::String(text)) => Ok(text),
            _ => Err(BodyError::Field(name)),
        }
    }

    fn word(&self, name: &'static str) -> Result<String, BodyError> {
        let word = self.text(name)?;
        check_word(word)?;
        Ok(word.to_owned())
    }
}

fn read_root(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let keys: Vec<Key> = fields.list_of_bytes("keys")?.into_iter().map(Key).collect();
    let threshold = usize::try_from(fields.unsigned("threshold")?).map_err(|_| BodyError::Threshold)?;
    let is_distinct = keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key));
    if threshold == 0 || threshold > keys.len() || keys.len() > ROOT_KEYS_MAX || !is_distinct {
        return Err(BodyError::Threshold);
    }
    Ok(Body::Root(RootKeys { keys, threshold }))
}

fn read_operator(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let Some(Ipld::List(list)) = fields.0.get("roles") else { return Err(BodyError::Field("roles")) };
    // A role that this version does not know gives nothing here, and its statement stays valid.
    let roles = list
        .iter()
        .filter_map(|item| match item {
            Ipld::String(name) => Role::from_name(name),
            _ => None,
        })
        .collect();
    Ok(Body::Operator(Operator { key: Key(fields.bytes("key")?), name: fields.word("name")?, roles }))
}

fn read_invitation(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let Some(Ipld::Map(map)) = fields.0.get("labels") else { return Err(BodyError::Field("labels")) };
    if map.len() > LABELS_MAX {
        return Err(BodyError::Field("labels"));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in map {
        let Ipld::String(value) = value else { return Err(BodyError::Field("labels")) };
        check_word(key)?;
        check_word(value)?;
        labels.insert(key.clone(), value.clone());
    }
    Ok(Body::Invitation(Invitation {
        key: Key(fields.bytes("key")?),
        name: fields.word("name")?,
        zone: fields.word("zone")?,
        labels,
        not_after_ms: fields.unsigned("not_after")?,
    }))
}

fn read_admission(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let fingerprint = fields.list_of_bytes("fingerprint")?;
    Ok(Body::Admission(Admission {
        invitation: Key(fields.bytes("invitation")?),
        device: Key(fields.bytes("device")?),
        sealing: fields.bytes("sealing")?,
        fingerprint: fingerprint.try_into().map_err(|_| BodyError::Field("fingerprint"))?,
    }))
}

fn read_pin(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let admission = StatementId(fields.bytes("admission")?);
    Ok(Body::Pin(Pin { invitation: Key(fields.bytes("invitation")?), admission }))
}

fn read_assigned(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let attribute = fields.text("attribute")?;
    for part in attribute.split('/') {
        check_word(part)?;
    }
    let value = match fields.0.get("value") {
        Some(Ipld::Null) => None,
        Some(Ipld::String(value)) if value.len() <= 1024 => Some(value.clone()),
        _ => return Err(BodyError::Field("value")),
    };
    Ok(Body::Assigned(Assigned { device: DeviceId(fields.bytes("device")?), attribute: attribute.to_owned(), value }))
}

fn read_removal(fields: &Fields<'_>) -> Result<Body, BodyError> {
    let reason = fields.text("reason")?.to_owned();
    Ok(Body::Removal(Removal { device: DeviceId(fields.bytes("device")?), reason }))
}
