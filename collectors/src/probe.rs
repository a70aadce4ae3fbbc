//! What the reader of one source sees: files, bounds, and a place for what it found.

use std::sync::Arc;

use crdt::id::{FleetId, hex};
use crdt::schema::{Kind, Value};

use crate::bounds::{self, Bounds};
use crate::rates::Sample;
use crate::source::{Source, SourceState, shown};
use crate::system::System;
use crate::tree::{Tree, TreeError};

/// Characters of a text value; the rest is cut.
pub const TEXT_CHARS_MAX: usize = 256;
/// Characters of one part of a path that comes from a name in the system.
const SEGMENT_CHARS_MAX: usize = 64;
/// Remarks that a source keeps; more are dropped.
const NOTES_MAX: usize = 8;
/// Hexadecimal digits that are kept of a keyed hash.
const HASH_DIGITS: usize = 16;

/// What firmware says where the maker filled in nothing.
const PLACEHOLDERS: [&str; 10] = [
    "to be filled by o.e.m.",
    "default string",
    "system product name",
    "system manufacturer",
    "system serial number",
    "not specified",
    "not applicable",
    "none",
    "0123456789",
    "o.e.m.",
];

/// Where every source is read from.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) tree: Arc<Tree>,
    pub(crate) system: Arc<dyn System>,
    pub(crate) fleet: FleetId,
}

/// What one source gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) values: Vec<(Kind, String, Value)>,
    /// Counters, of which two make a rate.
    pub(crate) samples: Vec<Sample>,
    /// Sources that were found while reading this one.
    pub(crate) children: Vec<Source>,
    pub(crate) notes: Vec<String>,
    pub(crate) is_found: bool,
    pub(crate) is_denied: bool,
    pub(crate) is_implausible: bool,
}

impl Outcome {
    /// Implausible wins over found, because a person should look at it.
    pub(crate) fn state(&self) -> SourceState {
        match (self.is_implausible, self.is_found, self.is_denied) {
            (true, _, _) => SourceState::Implausible,
            (_, true, _) => SourceState::Found,
            (_, _, true) => SourceState::Denied,
            _ => SourceState::Absent,
        }
    }

    /// Keeps a remark for people, up to a limit.
    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }
}

/// Reads files for one source and keeps what they gave. Every method may block; see [`crate::source`].
pub(crate) struct Probe<'a> {
    origin: &'a Origin,
    pub(crate) outcome: Outcome,
}

impl<'a> Probe<'a> {
    pub(crate) fn new(origin: &'a Origin) -> Probe<'a> {
        Probe { origin, outcome: Outcome::default() }
    }

    pub(crate) fn system(&self) -> &dyn System {
        &*self.origin.system
    }

    /// A value of this source.
    pub(crate) fn put(&mut self, kind: Kind, path: impl Into<String>, value: Value) {
        self.outcome.is_found = true;
        self.outcome.values.push((kind, path.into(), value));
    }

    /// A reading that is not believed.
    pub(crate) fn implausible(&mut self, path: &str, why: &str) {
        self.outcome.is_implausible = true;
        self.outcome.note(format!("{}: {why}", shown(path)));
    }

    /// Marks this source as found although it gives no value of its own.
    pub(crate) fn found(&mut self) {
        self.outcome.is_found = true;
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.origin.tree.exists(path)
    }

    /// A file's bytes; what keeps them away is remembered.
    fn bytes(&mut self, path: &str) -> Option<Vec<u8>> {
        match self.origin.tree.read(path) {
            Ok(bytes) => Some(bytes),
            Err(TreeError::Absent) => None,
            Err(TreeError::Denied(why)) => {
                self.outcome.is_denied = true;
                self.outcome.note(format!("{}: {why}", shown(path)));
                None
            }
        }
    }

    /// A file's text, without the NUL that ends strings in a device tree and without white space at its ends.
    pub(crate) fn text(&mut self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
    }

    /// A file's text, where a refusal is an ordinary answer and not worth a remark.
    pub(crate) fn quiet_text(&self, path: &str) -> Option<String> {
        let bytes = self.origin.tree.read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file of one whole number within its bounds.
    pub(crate) fn number(&mut self, path: &str, bounds: &Bounds) -> Option<i64> {
        let text = self.text(path)?;
        self.parse(path, &text, bounds)
    }

    /// As [`Probe::number`], for a quantity that is never negative.
    pub(crate) fn unsigned(&mut self, path: &str, bounds: &Bounds) -> Option<u64> {
        self.number(path, bounds).map(i64::unsigned_abs)
    }

    /// A whole number out of a file's text.
    pub(crate) fn parse(&mut self, path: &str, text: &str, bounds: &Bounds) -> Option<i64> {
        bounds::parse(text, bounds).map_err(|why| self.implausible(path, &why)).ok()
    }

    /// A file of one line for people: no control characters, no placeholder, at most [`TEXT_CHARS_MAX`] characters.
    pub(crate) fn line(&mut self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        self.clean(path, &text)
    }

    /// The same for text that stands inside a file.
    pub(crate) fn clean(&mut self, path: &str, text: &str) -> Option<String> {
        if text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
            self.implausible(path, "not one line of text");
            return None;
        }
        let is_placeholder = PLACEHOLDERS.contains(&text.to_lowercase().as_str());
        if is_placeholder {
            self.outcome.note(format!("{}: a placeholder of the firmware's maker", shown(path)));
        }
        (!is_placeholder && !text.is_empty()).then(|| text.chars().take(TEXT_CHARS_MAX).collect())
    }

    /// Puts the line of a file, where there is one.
    pub(crate) fn put_line(&mut self, kind: Kind, path: &str, file: &str) {
        if let Some(text) = self.line(file) {
            self.put(kind, path, Value::Text(text));
        }
    }

    /// Puts a keyed hash of the line of a file, where there is one: what identifies a machine, never in clear.
    pub(crate) fn put_hash(&mut self, kind: Kind, path: &str, file: &str) {
        if let Some(text) = self.line(file) {
            let hash = self.hash(&text);
            self.put(kind, path, Value::Text(hash));
        }
    }

    /// The first 16 hexadecimal digits of BLAKE3, keyed with the fleet id, over the text in lowercase.
    pub(crate) fn hash(&self, text: &str) -> String {
        let hash = blake3::keyed_hash(&self.origin.fleet.0, text.to_lowercase().as_bytes());
        hex(&hash.as_bytes()[..HASH_DIGITS / 2])
    }

    /// Sorted names in a directory that pass `filter`, at most `limit`; the rest is left out and noted.
    pub(crate) fn list(&mut self, path: &str, limit: usize, filter: fn(&str) -> bool) -> Vec<String> {
        let mut names = match self.origin.tree.list(path) {
            Ok(names) => names,
            Err(TreeError::Absent) => return Vec::new(),
            Err(TreeError::Denied(why)) => {
                self.outcome.is_denied = true;
                self.outcome.note(format!("{}: {why}", shown(path)));
                return Vec::new();
            }
        };
        self.found();
        names.retain(|name| filter(name));
        if names.len() > limit {
            self.outcome.note(format!("/{path}: {} entries, the first {limit} are read", names.len()));
            names.truncate(limit);
        }
        names
    }

    /// Reads each entry of a directory as a source of its own, so that one that hangs holds up no other.
    pub(crate) fn children(
        &mut self,
        path: &str,
        limit: usize,
        filter: fn(&str) -> bool,
        read: fn(&mut Probe<'_>, &str),
    ) {
        for name in self.list(path, limit, filter) {
            let source = Source { name: format!("{}/{name}", base_name(path)), path: format!("{path}/{name}"), read };
            self.outcome.children.push(source);
        }
    }

    /// Milliseconds since boot, by the file that a replay has too; rates are counted against it.
    pub(crate) fn clock_ms(&mut self) -> Option<u64> {
        let text = self.text("proc/uptime")?;
        let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
        let seconds: u64 = seconds.parse().ok()?;
        let hundredths: u64 = hundredths.get(..2)?.parse().ok()?;
        seconds.checked_mul(1000)?.checked_add(hundredths * 10)
    }
}

/// One part of a path: lowercase letters, digits, `_` and `-`, from any name in the system.
pub(crate) fn segment(name: &str) -> String {
    let allowed = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-') => c,
        _ => '-',
    };
    let part: String = name.trim().chars().take(SEGMENT_CHARS_MAX).map(allowed).collect();
    if part.is_empty() { "unnamed".to_owned() } else { part }
}

/// The last part of a file's path.
pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_a_part_of_a_path() {
        assert_eq!(segment("BAT0"), "bat0");
        assert_eq!(segment("eth0.100"), "eth0-100");
        assert_eq!(segment("Package id 0 °"), "package-id-0--");
        assert_eq!(segment(" "), "unnamed");
        assert_eq!(segment(&"x".repeat(200)).len(), SEGMENT_CHARS_MAX);
        assert_eq!(crdt::schema::check_path(&format!("a.{}", segment("a b.c"))), Ok(()));
    }
}
