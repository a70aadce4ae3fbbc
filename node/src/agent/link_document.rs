//! What a device says of its links in `link/<id>`: where it is reached, whom it holds links to, and what they are like.

use std::collections::{BTreeMap, BTreeSet};

use crdt::id::DeviceId;
use crdt::schema::Value;
use crdt::view::View;
use transport::{LinkKind, LinkState, Measured};

use crate::blobs::BlobId;

/// What a device says of one of its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) is_up: bool,
    /// Milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// What the link is like, where it was measured.
    pub(crate) measured: Option<(Measured, LinkKind)>,
    /// What it was last seen to take while there was more to send, bytes a second.
    pub(crate) rate: Option<u64>,
}

/// A `link` document as it is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkDocument {
    /// The best first.
    pub(crate) addresses: Vec<String>,
    pub(crate) neighbours: BTreeMap<DeviceId, Report>,
    /// What makes the device a costly one.
    pub(crate) burden: Burden,
    /// The UDP port of its bulk plane.
    pub(crate) bulk_port: Option<u16>,
    /// Blobs that it has whole, with their sizes in bytes.
    pub(crate) blobs: BTreeMap<BlobId, u64>,
}

/// What makes all links of a device dearer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Burden {
    /// It pays for what it sends.
    pub(crate) is_metered: bool,
    /// It runs on battery.
    pub(crate) is_on_battery: bool,
    /// Its processors have been at their limit for a while.
    pub(crate) is_busy: bool,
}

impl LinkDocument {
    /// Reads a view; what it does not understand it passes over.
    pub(crate) fn read(view: &View) -> LinkDocument {
        let value = |path: &str| view.get(path).map(|entry| &entry.read.value);
        let addresses = view.iter().filter(|(path, _)| path.starts_with("address."));
        let addresses = addresses.filter_map(|(_, entry)| match &entry.read.value {
            Value::Text(address) => Some(address.clone()),
            _ => None,
        });
        let neighbours = devices_in(view).into_iter().filter_map(|device| {
            let field = |name: &str| value(&format!("neighbour.{device}.{name}"));
            let Some(Value::Bool(is_up)) = field("up") else { return None };
            let since_ms = match field("since") {
                Some(Value::Timestamp(millis)) => u64::try_from(*millis).unwrap_or(0),
                _ => 0,
            };
            let rate = read_number(&field, "rate_bytes_per_second");
            Some((device, Report { is_up: *is_up, since_ms, measured: read_measured(&field), rate }))
        });
        LinkDocument {
            addresses: addresses.collect(),
            neighbours: neighbours.collect(),
            burden: Burden {
                is_metered: value("metered") == Some(&Value::Bool(true)),
                is_on_battery: value("battery") == Some(&Value::Bool(true)),
                is_busy: value("busy") == Some(&Value::Bool(true)),
            },
            bulk_port: read_number(&value, "bulk.port").and_then(|port| u16::try_from(port).ok()),
            blobs: blobs_in(view),
        }
    }

    /// What is to be written.
    pub(crate) fn values(&self) -> BTreeMap<String, Value> {
        let mut values = BTreeMap::new();
        for (number, address) in self.addresses.iter().enumerate() {
            values.insert(format!("address.{number}"), Value::Text(address.clone()));
        }
        let Burden { is_metered, is_on_battery, is_busy } = self.burden;
        for (path, is_so) in [("metered", is_metered), ("battery", is_on_battery), ("busy", is_busy)] {
            if is_so {
                values.insert(path.to_owned(), Value::Bool(true));
            }
        }
        if let Some(port) = self.bulk_port {
            values.insert("bulk.port".to_owned(), Value::Uint(port.into()));
        }
        for (blob, size) in &self.blobs {
            values.insert(format!("blob.{blob}"), Value::Uint(*size));
        }
        for (device, report) in &self.neighbours {
            let mut put = |name: &str, value: Value| values.insert(format!("neighbour.{device}.{name}"), value);
            put("up", Value::Bool(report.is_up));
            put("since", Value::Timestamp(i64::try_from(report.since_ms).unwrap_or(i64::MAX)));
            if let Some((measured, kind)) = report.measured {
                put("rtt_microsecond", Value::Uint(measured.rtt_micros));
                put("jitter_microsecond", Value::Uint(measured.jitter_micros));
                put("loss_ppm", Value::Uint(measured.loss_ppm));
                put("kind", Value::Text(text_of(kind).to_owned()));
            }
            if let Some(rate) = report.rate {
                put("rate_bytes_per_second", Value::Uint(rate));
            }
        }
        values
    }

    /// The links that are up and measured.
    pub(crate) fn states(&self) -> impl Iterator<Item = (DeviceId, LinkState)> + '_ {
        self.neighbours.keys().filter_map(|device| Some((*device, self.state(device)?)))
    }

    /// What is said of the link to a neighbour, where it is up and measured.
    pub(crate) fn state(&self, neighbour: &DeviceId) -> Option<LinkState> {
        let report = self.neighbours.get(neighbour).filter(|report| report.is_up)?;
        Some(state_of(report.measured?, self.burden))
    }
}

/// What one end says of a link.
pub(crate) fn state_of((measured, kind): (Measured, LinkKind), burden: Burden) -> LinkState {
    let Measured { rtt_micros, jitter_micros, loss_ppm } = measured;
    let Burden { is_metered, is_on_battery, is_busy } = burden;
    LinkState { rtt_micros, jitter_micros, loss_ppm, kind, is_metered, is_on_battery, is_busy }
}

/// The devices that a view speaks of as neighbours.
fn devices_in(view: &View) -> BTreeSet<DeviceId> {
    let ids = view.keys().filter_map(|path| path.strip_prefix("neighbour.")?.strip_suffix(".up"));
    ids.filter_map(|id| id.parse().ok()).collect()
}

fn blobs_in(view: &View) -> BTreeMap<BlobId, u64> {
    let said = view.iter().filter_map(|(path, entry)| match &entry.read.value {
        Value::Uint(size) => Some((path.strip_prefix("blob.")?.parse().ok()?, *size)),
        _ => None,
    });
    said.collect()
}

fn read_number<'a>(field: &impl Fn(&str) -> Option<&'a Value>, name: &str) -> Option<u64> {
    match field(name) {
        Some(Value::Uint(number)) => Some(*number),
        Some(Value::Int(number)) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn read_measured<'a>(field: &impl Fn(&str) -> Option<&'a Value>) -> Option<(Measured, LinkKind)> {
    let number = |name| read_number(field, name);
    let measured = Measured {
        rtt_micros: number("rtt_microsecond")?,
        jitter_micros: number("jitter_microsecond").unwrap_or(0),
        loss_ppm: number("loss_ppm").unwrap_or(0),
    };
    let kind = match field("kind") {
        Some(Value::Text(kind)) if kind == text_of(LinkKind::Lan) => LinkKind::Lan,
        Some(Value::Text(kind)) if kind == text_of(LinkKind::Relayed) => LinkKind::Relayed,
        _ => LinkKind::Wan,
    };
    Some((measured, kind))
}

/// The word for a kind of link, in documents and in output.
pub(crate) fn text_of(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Lan => "lan",
        LinkKind::Wan => "wan",
        LinkKind::Relayed => "relayed",
    }
}

#[cfg(test)]
mod tests {
    use crdt::id::Key;
    use crdt::view::{Entry, Shown};

    use super::*;

    fn view_of(values: BTreeMap<String, Value>) -> View {
        let shown = |value| Shown { value, author: Key([1; 32]), carrier: DeviceId([1; 32]), time_s: 0 };
        values.into_iter().map(|(path, value)| (path, Entry { read: shown(value), others: Vec::new() })).collect()
    }

    fn document() -> LinkDocument {
        let measured = Measured { rtt_micros: 20_000, jitter_micros: 300, loss_ppm: 7_800 };
        let up = Report { is_up: true, since_ms: 7, measured: Some((measured, LinkKind::Lan)), rate: Some(2_500_000) };
        let down = Report { is_up: false, since_ms: 9, measured: None, rate: None };
        LinkDocument {
            addresses: vec!["/ip4/192.0.2.1/tcp/4410".to_owned(), "/ip4/192.0.2.2/tcp/4410".to_owned()],
            neighbours: BTreeMap::from([(DeviceId([2; 32]), up), (DeviceId([3; 32]), down)]),
            burden: Burden { is_metered: true, is_on_battery: true, is_busy: true },
            bulk_port: Some(4411),
            blobs: BTreeMap::from([(BlobId([0xcd; 32]), 1 << 30)]),
        }
    }

    #[test]
    fn a_document_is_read_as_it_was_written() {
        assert_eq!(LinkDocument::read(&view_of(document().values())), document());
        let states: Vec<_> = document().states().collect();
        assert!(matches!(states[..], [(device, state)] if device == DeviceId([2; 32]) && state.is_metered));
    }

    #[test]
    fn the_paths_of_a_document() {
        let values = document().values();
        let id = DeviceId([2; 32]);
        let of = |name: &str| values.get(&format!("neighbour.{id}.{name}")).cloned();
        assert_eq!(of("up"), Some(Value::Bool(true)));
        assert_eq!(of("since"), Some(Value::Timestamp(7)));
        assert_eq!(of("rtt_microsecond"), Some(Value::Uint(20_000)));
        assert_eq!(of("jitter_microsecond"), Some(Value::Uint(300)));
        assert_eq!(of("loss_ppm"), Some(Value::Uint(7_800)));
        assert_eq!(of("kind"), Some(Value::Text("lan".to_owned())));
        assert_eq!(values.get("metered"), Some(&Value::Bool(true)));
        assert_eq!(values.get("battery"), Some(&Value::Bool(true)));
        assert_eq!(values.get("busy"), Some(&Value::Bool(true)));
        assert_eq!(of("rate_bytes_per_second"), Some(Value::Uint(2_500_000)));
        assert_eq!(values.get("bulk.port"), Some(&Value::Uint(4411)));
        assert_eq!(values.get(&format!("blob.{}", "cd".repeat(32))), Some(&Value::Uint(1 << 30)));
        assert_eq!(values.len(), 16, "{values:?}");
        assert_eq!(LinkDocument::default().values(), BTreeMap::new(), "what is not so is not said");
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        let mut values = document().values();
        values.insert("neighbour.nobody.up".to_owned(), Value::Bool(true));
        values.insert(format!("neighbour.{}.up", DeviceId([4; 32])), Value::Uint(1));
        values.insert(format!("neighbour.{}.rtt_microsecond", DeviceId([3; 32])), Value::Text("quick".to_owned()));
        values.insert("metered.since".to_owned(), Value::Null);
        values.insert("blob.cdcd".to_owned(), Value::Uint(1));
        values.insert(format!("blob.{}", "ab".repeat(32)), Value::Text("large".to_owned()));
        assert_eq!(LinkDocument::read(&view_of(values)), document());
    }
}
