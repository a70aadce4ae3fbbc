//! Which readings are worth a change, and when: one pure state machine a document (DESIGN 4).
//!
//! A value is *significant* when it is new, when it left the dead-band around what was last written, or when it has
//! been missing from [`MISSING_MAX`] collections in a row (then it is deleted). Significant values are written at most
//! once an interval, all together. A *crossing* (a limit reached or left, mains lost or back, a link down or up) goes
//! at once, with all that is significant, while a token bucket of [`CROSSINGS_PER_MINUTE`] lasts; then it waits for the
//! next token or the interval, whichever is first. A write starts the interval anew.

use std::collections::BTreeMap;

use crdt::id::Time;
use crdt::schema::{Kind, Value};

use crate::collector::VALUES_MAX;

/// Collections in a row that a written value must be missing from before it is deleted.
pub const MISSING_MAX: u8 = 3;
/// Crossings that may go at once in a minute, and in a burst.
pub const CROSSINGS_PER_MINUTE: u64 = 6;
/// Default of the least interval between two writes of a document, milliseconds.
pub const INTERVAL_MS_MIN: u64 = 10_000;
/// Default of the bytes a second that all devices in scope together may spend on telemetry.
pub const TELEMETRY_BYTES_PER_S: u64 = 8_000;
/// Bytes that a change of telemetry takes on a link, measured.
pub const CHANGE_BYTES: u64 = 330;
/// Documents that a device writes telemetry to: device, environment, resource, link.
const DOCUMENTS: u64 = 4;
/// Microseconds that make one token of the bucket.
const TOKEN_MICROS: u64 = 60_000_000 / CROSSINGS_PER_MINUTE;

/// What to write: paths in order, each with its new value, or none to delete it.
pub type Edits = Vec<(String, Option<Value>)>;

/// The interval between two writes of a document, milliseconds: `min_ms`, or what keeps 4 documents of all devices in
/// scope, 330 bytes a change, within the budget.
pub fn interval_ms(devices_in_scope: u64, budget_bytes_per_s: u64, min_ms: u64) -> u64 {
    let bytes = (DOCUMENTS * CHANGE_BYTES).saturating_mul(devices_in_scope);
    min_ms.max(bytes.saturating_mul(1000) / budget_bytes_per_s.max(1))
}

/// Decides what of one document's readings is written, and when. Deterministic; the time comes in.
#[derive(Debug, Clone)]
pub struct Significance {
    kind: Kind,
    interval_ms: u64,
    /// What the document holds, as far as this writes it.
    written: BTreeMap<String, Value>,
    /// The last readings.
    readings: BTreeMap<String, Value>,
    /// For written paths without a reading: collections in a row that they are missing from.
    missing: BTreeMap<String, u8>,
    /// What the last edits replaced, in case they cannot be written.
    replaced: Edits,
    last_write: Option<Time>,
    /// The bucket, in microseconds saved for tokens, as of `bucket_at`.
    bucket_micros: u64,
    bucket_at: Time,
}

impl Significance {
    /// For a document that holds nothing yet: the first readings are all written.
    pub fn new(kind: Kind, interval_ms: u64) -> Significance {
        Significance::resume(kind, interval_ms, BTreeMap::new())
    }

    /// For a document that already holds `written`, for instance after a restart: the first readings are written at
    /// once where they differ significantly, and what is not read any more is deleted in its time. Only what a
    /// collector writes may be in `written`: every other path would be deleted.
    pub fn resume(kind: Kind, interval_ms: u64, written: BTreeMap<String, Value>) -> Significance {
        Significance {
            kind,
            interval_ms,
            written,
            readings: BTreeMap::new(),
            missing: BTreeMap::new(),
            replaced: Edits::new(),
            last_write: None,
            bucket_micros: TOKEN_MICROS * CROSSINGS_PER_MINUTE,
            bucket_at: Time(0),
        }
    }

    /// The document's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Another interval, from the last write on; see [`interval_ms`].
    pub fn set_interval_ms(&mut self, interval_ms: u64) {
        self.interval_ms = interval_ms;
    }

    /// Takes the readings of one collection, of which the first [`VALUES_MAX`] count. Gives what to write now; it is
    /// held for written from here on, and if writing fails [`Significance::not_written`] must be told.
    pub fn handle(&mut self, now: Time, mut readings: BTreeMap<String, Value>) -> Option<Edits> {
        while readings.len() > VALUES_MAX {
            readings.pop_last();
        }
        self.missing.retain(|path, _| !readings.contains_key(path));
        for path in self.written.keys().filter(|path| !readings.contains_key(*path)) {
            let count = self.missing.entry(path.clone()).or_default();
            *count = count.saturating_add(1);
        }
        self.readings = readings;
        self.handle_timeout(now)
    }

    /// Gives what may be written now, if anything. To be called at [`Significance::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) -> Option<Edits> {
        self.fill_bucket(now);
        let edits = self.significant();
        if edits.is_empty() {
            return None;
        }
        if !self.is_due(now) {
            if self.bucket_micros < TOKEN_MICROS || !self.has_crossing(&edits) {
                return None;
            }
            self.bucket_micros -= TOKEN_MICROS;
        }
        self.last_write = Some(now);
        self.replaced = edits.iter().map(|(path, _)| (path.clone(), self.written.get(path).cloned())).collect();
        for (path, value) in &edits {
            match value {
                Some(value) => self.written.insert(path.clone(), value.clone()),
                None => {
                    self.missing.remove(path);
                    self.written.remove(path)
                }
            };
        }
        Some(edits)
    }

    /// When pending values may go; none while nothing is pending.
    pub fn poll_timeout(&self) -> Option<Time> {
        let edits = self.significant();
        if edits.is_empty() {
            return None;
        }
        let due = self.last_write.map_or(Time(0), |last| last.plus_millis(self.interval_ms));
        if !self.has_crossing(&edits) {
            return Some(due);
        }
        let token = self.bucket_at.plus_micros(TOKEN_MICROS.saturating_sub(self.bucket_micros));
        Some(due.min(token))
    }

    /// The edits that were given last could not be written (a full disk): what they replaced stands again, and they are
    /// pending, to go with the next interval or, if they cross, with the next token.
    pub fn not_written(&mut self) {
        for (path, value) in std::mem::take(&mut self.replaced) {
            match value {
                Some(value) => {
                    if !self.readings.contains_key(&path) {
                        self.missing.insert(path.clone(), MISSING_MAX);
                    }
                    self.written.insert(path, value);
                }
                None => {
                    self.written.remove(&path);
                }
            }
        }
    }

    fn is_due(&self, now: Time) -> bool {
        self.last_write.is_none_or(|last| now >= last.plus_millis(self.interval_ms))
    }

    fn fill_bucket(&mut self, now: Time) {
        let saved = now.0.saturating_sub(self.bucket_at.0);
        self.bucket_micros = self.bucket_micros.saturating_add(saved).min(TOKEN_MICROS * CROSSINGS_PER_MINUTE);
        self.bucket_at = self.bucket_at.max(now);
    }

    /// All that differs significantly between what is read and what is written.
    fn significant(&self) -> Edits {
        let is_significant = |path: &String, value: &Value| {
            self.written.get(path).is_none_or(|written| leaves_band(path, written, value, &self.readings))
        };
        let changed = self.readings.iter().filter(|(path, value)| is_significant(path, value));
        let gone = self.missing.iter().filter(|(_, count)| **count >= MISSING_MAX);
        let mut edits: Edits = changed
            .map(|(path, value)| (path.clone(), Some(value.clone())))
            .chain(gone.map(|(path, _)| (path.clone(), None)))
            .collect();
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        edits
    }

    fn has_crossing(&self, edits: &Edits) -> bool {
        let crosses = |path: &String, new: &Value| {
            self.written.get(path).is_some_and(|old| is_crossing(self.kind, path, old, new))
        };
        edits.iter().any(|(path, value)| value.as_ref().is_some_and(|value| crosses(path, value)))
    }
}

/// Whether a change goes at once. A value that appears or disappears is none: nothing was crossed then.
fn is_crossing(kind: Kind, path: &str, old: &Value, new: &Value) -> bool {
    let is_flip = matches!((old, new), (Value::Bool(old), Value::Bool(new)) if old != new);
    match kind {
        Kind::Environment if path == "temperature.critical" => is_flip,
        Kind::Environment if path == "power.source" => {
            let is_known = |value: &Value| matches!(value, Value::Text(text) if text == "mains" || text == "battery");
            is_known(old) && is_known(new) && old != new
        }
        Kind::Device => is_flip && path.starts_with("interface.") && path.ends_with(".up"),
        _ => false,
    }
}

/// Whether a reading is so far from what is written that it is worth a change.
fn leaves_band(path: &str, written: &Value, value: &Value, readings: &BTreeMap<String, Value>) -> bool {
    match (number(written), number(value)) {
        (Some(old), Some(new)) => old != new && old.abs_diff(new) >= band(path, old, readings),
        _ => written != value,
    }
}

fn number(value: &Value) -> Option<i128> {
    match value {
        Value::Int(number) => Some((*number).into()),
        Value::Uint(number) => Some((*number).into()),
        _ => None,
    }
}

/// The dead-band of a number by the unit in its path: a change of less is not significant.
fn band(path: &str, old: i128, readings: &BTreeMap<String, Value>) -> u128 {
    let sibling = |ending: &str, other: &str| {
        let stem = path.strip_suffix(ending)?;
        number(readings.get(&format!("{stem}{other}"))?).map(i128::unsigned_abs)
    };
    let share = |percent: u128| old.unsigned_abs() * percent / 100;
    let ends = |ending: &str| path.ends_with(ending);
    if ends("_milli_celsius") {
        1_000
    } else if ends("_permille") {
        50
    } else if ends(".used_bytes") || ends(".available_bytes") {
        let total = sibling("used_bytes", "total_bytes").or_else(|| sibling("available_bytes", "total_bytes"));
        total.map_or(share(1), |total| total / 100)
    } else if ends("_bytes_per_s") {
        let speed = sibling("receive_bytes_per_s", "speed_megabits_per_s")
            .or_else(|| sibling("transmit_bytes_per_s", "speed_megabits_per_s"));
        // One per cent of a megabit a second is 1,250 bytes.
        let capacity = speed.map_or(0, |megabits| megabits * 1_250);
        capacity.max(share(10)).max(64 * 1024)
    } else if ends(".energy_milliwatt_hours") {
        sibling("energy_milliwatt_hours", "energy_full_milliwatt_hours").map_or(share(1), |full| full / 100)
    } else if ends(".charge_milliampere_hours") {
        sibling("charge_milliampere_hours", "charge_full_milliampere_hours").map_or(share(1), |full| full / 100)
    } else if ends("_rpm") {
        share(5).max(100)
    } else if ends("_milliwatt") {
        share(5).max(500)
    } else if ends("_millivolt") {
        share(1).max(100)
    } else if ends("_milli") {
        250
    } else {
        // Percentages move by one; sizes, counts and limits are exact.
        1
    }
}

#[cfg(test)]
#[path = "significance/tests.rs"]
mod tests;
