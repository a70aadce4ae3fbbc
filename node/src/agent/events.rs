//! What happens on a node, as watchers see it: one JSON object each.

use crdt::id::{Actor, DeviceId, StatementId};
use crdt::schema::DocumentName;
use crdt::statement::Statement;
use crdt::store::{AuditRecord, StoreError};
use serde::Serialize;
use serde_json::{Value, json};

/// An event; `event` names its kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeEvent {
    /// Milliseconds since 1970 by this node's clock; 0 until the event is emitted.
    pub(crate) time_ms: u64,
    /// `change`, `statement`, `link up`, `link down`, `refused`, `wants to join`, `offline`, `online`, `disk full`, `disk room`, `fault`.
    pub(crate) event: &'static str,
    /// What it is about.
    pub(crate) subject: String,
    /// More of it.
    pub(crate) detail: Value,
}

impl NodeEvent {
    fn new(event: &'static str, subject: String, detail: Value) -> NodeEvent {
        NodeEvent { time_ms: 0, event, subject, detail }
    }

    /// The event as it happened at a time, milliseconds since 1970.
    pub(super) fn at(self, time_ms: u64) -> NodeEvent {
        NodeEvent { time_ms, ..self }
    }

    pub(super) fn change(document: &DocumentName, actor: &Actor, seq: u64) -> NodeEvent {
        NodeEvent::new("change", document.to_string(), json!({ "log": actor.to_string(), "seq": seq }))
    }

    pub(super) fn statement(id: &StatementId, statement: &Statement) -> NodeEvent {
        let detail = json!({ "kind": statement.kind, "subject": statement.subject, "version": statement.version });
        NodeEvent::new("statement", id.to_string(), detail)
    }

    pub(super) fn link_up(device: &DeviceId) -> NodeEvent {
        NodeEvent::new("link up", device.to_string(), Value::Null)
    }

    pub(super) fn link_suspect(device: &DeviceId) -> NodeEvent {
        NodeEvent::new("suspect", device.to_string(), json!({ "reason": "three probes were not answered" }))
    }

    pub(super) fn link_cleared(device: &DeviceId) -> NodeEvent {
        NodeEvent::new("cleared", device.to_string(), json!({ "reason": "it answers again" }))
    }

    pub(super) fn link_down(device: &DeviceId, reason: &str) -> NodeEvent {
        NodeEvent::new("link down", device.to_string(), json!({ "reason": reason }))
    }

    pub(super) fn audit(record: &AuditRecord) -> NodeEvent {
        let detail = json!({
            "reason": record.reason,
            "peer": record.peer.map(|peer| peer.device().to_string()),
            "author": record.author.map(|author| author.to_string()),
            "seq": record.seq,
        });
        NodeEvent::new("refused", record.document.clone().unwrap_or_default(), detail)
    }

    pub(super) fn wish(device: &DeviceId, name: &str, address: &str) -> NodeEvent {
        NodeEvent::new("wants to join", device.to_string(), json!({ "name": name, "address": address }))
    }

    pub(super) fn offline(offline: bool) -> NodeEvent {
        NodeEvent::new(if offline { "offline" } else { "online" }, String::new(), Value::Null)
    }

    pub(super) fn full(reason: &str) -> NodeEvent {
        NodeEvent::new("disk full", String::new(), json!({ "reason": reason }))
    }

    pub(super) fn room() -> NodeEvent {
        NodeEvent::new("disk room", String::new(), Value::Null)
    }

    pub(super) fn fault(error: &StoreError) -> NodeEvent {
        NodeEvent::new("fault", String::new(), json!({ "reason": error.to_string() }))
    }
}
