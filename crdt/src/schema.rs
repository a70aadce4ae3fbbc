//! Documents, paths and values: the vocabulary that every other module shares.
//!
//! A document is named `kind/name` and is one flat map from dotted path to scalar (PROTOCOL 2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::DeviceId;

/// Longest document name, bytes.
pub const DOCUMENT_NAME_BYTES_MAX: usize = 160;
/// Longest path of a value, bytes.
pub const PATH_BYTES_MAX: usize = 512;
/// Longest string or byte value, bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

/// What a document is about, which also says who may write it (DESIGN 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Facts of a device: identity, hardware, operating system, versions. Written by that device.
    Device,
    /// Temperatures, power, cooling. Written by that device.
    Environment,
    /// Capacity, utilisation, allocations. Written by that device.
    Resource,
    /// Addresses and neighbours. Written by that device.
    Link,
    /// The working copy of a configuration. Written by operators, on any node.
    Config,
    /// What a device asks of others' resources. Written by that device.
    Claim,
}

/// All kinds, in the order of their names in [`Kind::name`].
pub const KINDS: [Kind; 6] = [Kind::Device, Kind::Environment, Kind::Resource, Kind::Link, Kind::Config, Kind::Claim];

impl Kind {
    /// The word before the slash of a document's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Device => "device",
            Kind::Environment => "environment",
            Kind::Resource => "resource",
            Kind::Link => "link",
            Kind::Config => "config",
            Kind::Claim => "claim",
        }
    }

    /// Whether several authors write documents of this kind; those keep their full history.
    pub fn has_many_writers(self) -> bool {
        matches!(self, Kind::Config)
    }

    /// The class in which changes of this kind travel.
    pub fn class(self) -> Class {
        match self {
            Kind::Device => Class::Device,
            Kind::Environment => Class::Environment,
            Kind::Resource | Kind::Claim => Class::Resource,
            Kind::Link => Class::Link,
            Kind::Config => Class::Config,
        }
    }
}

/// The order in which a link carries what is missing, most urgent first (PROTOCOL 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Roots, operators, invitations, admissions, pins, removals, assignments, revocations.
    Membership,
    /// Statements that stop a rollout.
    Stop,
    /// Policy versions.
    Policy,
    /// Configuration: working documents and versions.
    Config,
    /// Rollout intents and skips.
    Rollout,
    /// Releases.
    Release,
    /// Device facts.
    Device,
    /// Resources and claims.
    Resource,
    /// Environment.
    Environment,
    /// Links.
    Link,
    /// History that a peer has missed for long.
    Backfill,
}

/// All classes, the most urgent first.
const CLASSES: [Class; 11] = [
    Class::Membership,
    Class::Stop,
    Class::Policy,
    Class::Config,
    Class::Rollout,
    Class::Release,
    Class::Device,
    Class::Resource,
    Class::Environment,
    Class::Link,
    Class::Backfill,
];

impl Class {
    /// The class that is next after this one in urgency.
    pub(crate) fn next(self) -> Option<Class> {
        CLASSES.into_iter().find(|class| *class > self)
    }

    /// The class of statements of a kind. Of kinds that are not known here nothing is more urgent than a release.
    pub(crate) fn of_statement(kind: &str) -> Class {
        match kind {
            "root" | "operator" | "invitation" | "admission" | "pin" | "assigned" | "removal" | "revocation"
            | "revocation-part" | "fork" => Class::Membership,
            "stop" => Class::Stop,
            "policy" => Class::Policy,
            "config" | "config-scope" => Class::Config,
            "rollout" | "skip" => Class::Rollout,
            _ => Class::Release,
        }
    }
}

/// The name of a document: `kind/name`, or `kind/name/part` for a part of a device's document.
///
/// Names are lowercase letters, digits, `-`, `_` and `.`; the name of a device's document is its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DocumentName {
    text: String,
    kind: Kind,
}

/// Why a text names no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentNameError {
    /// No slash, or an unknown word before it.
    #[error("{0:?} is not a document name: it starts with one of device/ environment/ resource/ link/ config/ claim/")]
    Kind(String),
    /// Empty or with characters that names do not have.
    #[error("{0:?} is not a document name: after the kind come lowercase letters, digits, '-', '_' and '.'")]
    Name(String),
    /// A device's document that is not named by a device id.
    #[error("{0:?} is not a document name: a device's document is named by the 64 digits of its id")]
    Device(String),
    /// Longer than [`DOCUMENT_NAME_BYTES_MAX`].
    #[error("a document name has at most {DOCUMENT_NAME_BYTES_MAX} bytes")]
    Length,
}

impl DocumentName {
    /// The document `kind/id` of a device.
    pub fn of_device(kind: Kind, device: &DeviceId) -> DocumentName {
        DocumentName { text: [kind.name(), "/", &crate::id::hex(&device.0)].concat(), kind }
    }

    /// The working copy of the configuration `name`.
    pub fn config(name: &str) -> Result<DocumentName, DocumentNameError> {
        format!("config/{name}").parse()
    }

    /// What the document is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands after the kind.
    pub fn name(&self) -> &str {
        &self.text[self.kind.name().len() + 1..]
    }

    /// The device whose document this is; none for documents of several writers.
    pub fn device(&self) -> Option<DeviceId> {
        let name = self.name();
        name.split('/').next().and_then(|id| id.parse().ok()).filter(|_| !self.kind.has_many_writers())
    }
}

impl FromStr for DocumentName {
    type Err = DocumentNameError;

    fn from_str(text: &str) -> Result<Self, DocumentNameError> {
        if text.len() > DOCUMENT_NAME_BYTES_MAX {
            return Err(DocumentNameError::Length);
        }
        let (word, name) = text.split_once('/').ok_or_else(|| DocumentNameError::Kind(text.to_owned()))?;
        let kind = KINDS
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or_else(|| DocumentNameError::Kind(text.to_owned()))?;
        let is_word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        };
        let mut parts = name.split('/');
        let first = parts.next().unwrap_or_default();
        if kind.has_many_writers() {
            if !is_word(first) || parts.next().is_some() {
                return Err(DocumentNameError::Name(text.to_owned()));
            }
        } else {
            let id: DeviceId = first.parse().map_err(|_| DocumentNameError::Device(text.to_owned()))?;
            if id.to_string() != first {
                return Err(DocumentNameError::Device(text.to_owned()));
            }
            if !parts.next().is_none_or(is_word) || parts.next().is_some() {
                return Err(DocumentNameError::Name(text.to_owned()));
            }
        }
        Ok(DocumentName { text: text.to_owned(), kind })
    }
}

impl TryFrom<String> for DocumentName {
    type Error = DocumentNameError;
    fn try_from(text: String) -> Result<Self, DocumentNameError> {
        text.parse()
    }
}

impl From<DocumentName> for String {
    fn from(name: DocumentName) -> String {
        name.text
    }
}

impl fmt::Display for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A scalar, as Automerge stores it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating point number; NaN and infinities are refused by [`Value::check`].
    Float(f64),
    /// At most [`VALUE_BYTES_MAX`] bytes of text.
    Text(String),
    /// At most [`VALUE_BYTES_MAX`] bytes.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Milliseconds since 1970 by the author's wall clock: a claim for people.
    Timestamp(i64),
}

/// Why a path or a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// An empty path, an empty part of it, or a control character in it.
    #[error("{0:?} is not a path: it has parts of printable characters, joined by dots")]
    Path(String),
    /// A path longer than [`PATH_BYTES_MAX`].
    #[error("a path has at most {PATH_BYTES_MAX} bytes, this one has {0}")]
    PathLength(usize),
    /// A value longer than [`VALUE_BYTES_MAX`].
    #[error("a value has at most {VALUE_BYTES_MAX} bytes, this one has {0}")]
    ValueLength(usize),
    /// NaN or an infinity.
    #[error("a number must be finite")]
    NotFinite,
}

/// Checks a dotted path: non-empty parts, no control characters, at most [`PATH_BYTES_MAX`] bytes.
pub fn check_path(path: &str) -> Result<(), ValueError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(ValueError::PathLength(path.len()));
    }
    let is_part = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_control() || c.is_whitespace());
    if !path.split('.').all(is_part) {
        return Err(ValueError::Path(path.to_owned()));
    }
    Ok(())
}

/// Whether one of two paths is a proper prefix of the other, part by part, so that they cannot nest together.
pub fn paths_clash(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.len() > short.len() && long.starts_with(short) && long.as_bytes()[short.len()] == b'.'
}

impl Value {
    /// Checks size and finiteness.
    pub fn check(&self) -> Result<(), ValueError> {
        let length = match self {
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Float(number) if !number.is_finite() => return Err(ValueError::NotFinite),
            _ => 0,
        };
        if length > VALUE_BYTES_MAX { Err(ValueError::ValueLength(length)) } else { Ok(()) }
    }

    /// Bytes that the value counts for against the limit of an epoch's values.
    pub fn size(&self) -> usize {
        match self {
            Value::Null | Value::Bool(_) => 1,
            Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Timestamp(_) => 8,
            Value::Text(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_documents() {
        let id = DeviceId([0xa7; 32]);
        let device = DocumentName::of_device(Kind::Device, &id);
        assert_eq!(device.as_str().parse(), Ok(device.clone()));
        assert_eq!(device.device(), Some(id));
        assert_eq!(format!("{device}/disks").parse::<DocumentName>().map(|n| n.device()), Ok(Some(id)));
        assert_eq!("config/camera".parse::<DocumentName>().map(|n| n.device()), Ok(None));
        for bad in ["camera", "config/", "config/a/b", "config/A", "device/x", "thing/x", "config/a b"] {
            assert!(bad.parse::<DocumentName>().is_err(), "{bad}");
        }
        assert!(format!("device/{}", id.to_string().to_uppercase()).parse::<DocumentName>().is_err());
    }

    #[test]
    fn paths() {
        assert_eq!(check_path("exposure.mode"), Ok(()));
        for bad in ["", ".", "a.", "a..b", "a b", "a\n"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        assert!(paths_clash("a", "a.b") && paths_clash("a.b.c", "a.b"));
        assert!(!paths_clash("a", "ab") && !paths_clash("a.b", "a.c") && !paths_clash("a", "a"));
    }
}
