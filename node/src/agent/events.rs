//! What happens on a node, as watchers see it: one JSON object each. Moves of the mesh say why, and the last ones are kept.

use std::collections::VecDeque;

use crdt::id::{Actor, DeviceId, StatementId};
use crdt::schema::DocumentName;
use crdt::statement::Statement;
use crdt::store::{AuditRecord, StoreError};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use transport::{Cost, LetGo, Reason, Suspected};

use super::Node;
use super::moves::Why;
use crate::output::dial_error;

/// Most moves of the mesh that are kept.
pub(crate) const PAST_MAX: usize = 512;
/// Most destinations that an event names.
pub(super) const NAMED_MAX: usize = 16;

/// An event; `event` names its kind.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NodeEvent {
    /// Milliseconds since 1970 by this node's clock; 0 until the event is emitted.
    pub(crate) time_ms: u64,
    /// `change`, `statement`, `link up`, `link down`, `suspect`, `cleared`, `route`, `reached`, `unreached`, `seeks`,
    /// `dial failed`, `listening`, `not listening`, `reachable`, `not reachable`, `refused`, `wants to join`, `offline`,
    /// `online`, `disk full`, `disk room`, `fault`.
    pub(crate) event: &'static str,
    /// What it is about.
    pub(crate) subject: String,
    /// The name of the device that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// More of it.
    pub(crate) detail: Value,
    /// Whether the mesh moved.
    #[serde(skip)]
    pub(crate) is_move: bool,
}

/// A device with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    #[serde(serialize_with = "as_text")]
    pub(crate) device: DeviceId,
    pub(crate) name: String,
}

fn as_text<S: serde::Serializer>(device: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

/// Destinations that are reached otherwise than before.
#[derive(Debug, Clone)]
pub(super) struct RouteMove {
    /// The first of them, at most [`NAMED_MAX`].
    pub(super) to: Vec<Named>,
    /// How many they are.
    pub(super) count: usize,
    /// The neighbours with which the way begins: before, and now.
    pub(super) before: Option<Named>,
    pub(super) now: Option<Named>,
    pub(super) why: Why,
    /// The devices of which others were heard since the last search.
    pub(super) after: Vec<Named>,
}

impl NodeEvent {
    fn new(event: &'static str, subject: String, detail: Value) -> NodeEvent {
        NodeEvent { time_ms: 0, event, subject, name: None, detail, is_move: false }
    }

    fn of_mesh(event: &'static str, subject: String, detail: Value) -> NodeEvent {
        NodeEvent { is_move: true, ..NodeEvent::new(event, subject, detail) }
    }

    fn of_device(event: &'static str, about: &Named, detail: Value) -> NodeEvent {
        NodeEvent { name: Some(about.name.clone()), ..NodeEvent::of_mesh(event, about.device.to_string(), detail) }
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

    pub(super) fn link_up(peer: &Named, address: &str, dialled_by_us: bool, why: Option<Reason>) -> NodeEvent {
        let why = why.map(|why| held_text(why, dialled_by_us));
        let reason = match (dialled_by_us, why) {
            (false, _) => "the peer dialled".to_owned(),
            (true, Some(why)) => format!("dialled: {why}"),
            (true, None) => "dialled".to_owned(),
        };
        let detail = json!({ "reason": reason, "why": why, "address": address, "dialled_by_us": dialled_by_us });
        NodeEvent::of_device("link up", peer, detail)
    }

    pub(super) fn link_suspect(peer: &Named, cause: Option<Suspected>) -> NodeEvent {
        let reason = match cause {
            Some(Suspected::Silent) | None => "it is silent, and three probes were not answered",
            Some(Suspected::Unanswered) => "what it sends arrives, but no probe is answered",
            Some(Suspected::Unheard) => "it hears nothing of this node, and a probe was not answered",
        };
        NodeEvent::of_device("suspect", peer, json!({ "reason": reason }))
    }

    pub(super) fn link_cleared(peer: &Named) -> NodeEvent {
        NodeEvent::of_device("cleared", peer, json!({ "reason": "it answers again" }))
    }

    pub(super) fn link_down(peer: &Named, reason: &str) -> NodeEvent {
        NodeEvent::of_device("link down", peer, json!({ "reason": reason }))
    }

    /// A neighbour is being sought.
    pub(super) fn seeks(peer: &Named, why: Reason) -> NodeEvent {
        NodeEvent::of_device("seeks", peer, json!({ "reason": reason_text(why) }))
    }

    /// The first dial of a row that came to nothing.
    pub(super) fn dial_failed(peer: &Named, errors: &[String]) -> NodeEvent {
        let causes: Vec<String> = errors.iter().map(|error| dial_error(error)).collect();
        NodeEvent::of_device("dial failed", peer, json!({ "reason": causes.join("; ") }))
    }

    pub(super) fn route(moved: &RouteMove) -> NodeEvent {
        let event = match (&moved.before, &moved.now) {
            (None, _) => "reached",
            (Some(_), None) => "unreached",
            _ => "route",
        };
        let detail = json!({
            "reason": route_reason(moved),
            "from": moved.before,
            "to": moved.now,
            "destinations": moved.to,
            "destinations_len": moved.count,
            "after": moved.after,
        });
        match &moved.to[..] {
            [one] => NodeEvent::of_device(event, one, detail),
            _ => NodeEvent::of_mesh(event, String::new(), detail),
        }
    }

    pub(super) fn listening(address: &str, is_so: bool) -> NodeEvent {
        NodeEvent::of_mesh(if is_so { "listening" } else { "not listening" }, address.to_owned(), Value::Null)
    }

    pub(super) fn reachable(address: &str, is_so: bool) -> NodeEvent {
        NodeEvent::of_mesh(if is_so { "reachable" } else { "not reachable" }, address.to_owned(), Value::Null)
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
        NodeEvent::of_mesh(if offline { "offline" } else { "online" }, String::new(), Value::Null)
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

/// The words for why a link is held. One that this node dialled without having chosen the peer is one to a member that only a
/// ticket spoke of then.
pub(crate) fn held_text(reason: Reason, dialled_by_us: bool) -> &'static str {
    match (reason, dialled_by_us) {
        (Reason::Sought, true) => "a ticket named it",
        (reason, _) => reason_text(reason),
    }
}

/// The words for why a link is sought.
fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Few => "all are linked",
        Reason::Zone => "another zone",
        Reason::Far => "far",
        Reason::Near => "near",
        Reason::Trial => "trial",
        Reason::Island => "nothing else led there",
        Reason::Sought => "the peer sought it",
    }
}

/// The words for why a link is let go.
pub(super) fn let_go_text(why: LetGo) -> &'static str {
    match why {
        LetGo::TooMany => "let go: there are more than sixteen links, and this one is the farthest that is not needed",
        LetGo::Swapped => "let go: a trial found a nearer neighbour",
        LetGo::TriedOut => "let go: the trial showed that it is not nearer than others",
    }
}

fn route_reason(moved: &RouteMove) -> String {
    let name = |of: &Option<Named>| of.as_ref().map_or("nobody".to_owned(), |of| of.name.clone());
    let (before, now) = (name(&moved.before), name(&moved.now));
    let millis = |cost: Cost| format!("{:.1} ms", f64::from(cost.micros()) / 1000.0);
    match moved.why {
        Why::Linked => "the link to it is measured".to_owned(),
        Why::Leads => format!("{now} leads there"),
        Why::LinkGone => format!("the link to {before} is gone"),
        Why::LinkSuspect => format!("the link to {before} is suspect"),
        Why::LinkUnmeasured => format!("the link to {before} is new and not measured yet"),
        Why::Ended => format!("{before} leads there no more"),
        Why::Outdone => format!("{before} leads there no more, or at a higher cost than three others"),
        Why::Cheaper { before: then, now } => format!("{} in place of {}", millis(now), millis(then)),
    }
}

/// The last moves of the mesh.
#[derive(Debug, Default)]
pub(super) struct Past {
    moves: VecDeque<NodeEvent>,
}

impl Past {
    /// Keeps an event, where it is a move of the mesh; the oldest gives way.
    pub(super) fn note(&mut self, event: &NodeEvent) {
        if event.is_move {
            self.moves.push_back(event.clone());
        }
        while self.moves.len() > PAST_MAX {
            self.moves.pop_front();
        }
    }

    /// The last so many, the oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<NodeEvent> {
        self.moves.iter().skip(self.moves.len().saturating_sub(count)).cloned().collect()
    }
}

impl Node {
    /// Tells watchers, and keeps a move of the mesh.
    pub(crate) fn emit(&mut self, event: NodeEvent) {
        let event = event.at(self.clock.wall_ms());
        self.past.note(&event);
        // An error means that nobody watches.
        let _ = self.events.send(event);
    }

    /// The last moves of the mesh, the oldest first, and whatever happens from now on.
    pub(crate) fn follow(&self, past: usize) -> (Vec<NodeEvent>, broadcast::Receiver<NodeEvent>) {
        (self.past.last(past), self.events.subscribe())
    }

    /// A device with its name.
    pub(crate) fn named(&self, device: DeviceId) -> Named {
        Named { device, name: crate::api::name_of(self, &device) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Named {
        Named { device: DeviceId([name.as_bytes()[0]; 32]), name: name.to_owned() }
    }

    fn moved(to: &[&str], before: Option<&str>, now: Option<&str>, why: Why) -> NodeEvent {
        NodeEvent::route(&RouteMove {
            to: to.iter().map(|name| named(name)).collect(),
            count: to.len(),
            before: before.map(named),
            now: now.map(named),
            why,
            after: vec![named("g")],
        })
    }

    #[test]
    fn a_route_says_from_whom_to_whom_and_why() {
        let one = moved(&["c"], Some("h"), Some("i"), Why::LinkSuspect);
        assert_eq!((one.event, one.name.as_deref(), one.is_move), ("route", Some("c"), true));
        assert_eq!(one.detail["reason"], "the link to h is suspect");
        assert_eq!((&one.detail["from"]["name"], &one.detail["to"]["name"]), (&json!("h"), &json!("i")));
        assert_eq!(one.detail["after"][0]["device"], DeviceId([b'g'; 32]).to_string());
        let before = Cost::from_micros(20_100);
        let cheaper = Why::Cheaper { before, now: Cost::from_micros(12_340) };
        assert_eq!(moved(&["c"], Some("h"), Some("i"), cheaper).detail["reason"], "12.3 ms in place of 20.1 ms");
        assert_eq!(moved(&["c"], None, Some("i"), Why::Leads).event, "reached");
        let lost = moved(&["c", "d"], Some("h"), None, Why::Ended);
        assert_eq!((lost.event, lost.subject.as_str(), &lost.detail["destinations_len"]), ("unreached", "", &json!(2)));
    }

    #[test]
    fn only_moves_are_kept_and_the_oldest_give_way() {
        let mut past = Past::default();
        past.note(&NodeEvent::room());
        assert!(past.last(10).is_empty(), "that is no move");
        (0..=PAST_MAX as u64).for_each(|time| past.note(&NodeEvent::offline(true).at(time)));
        let times = |count: usize| past.last(count).iter().map(|event| event.time_ms).collect::<Vec<_>>();
        assert_eq!(times(2), [PAST_MAX as u64 - 1, PAST_MAX as u64]);
        assert_eq!((times(9_999).len(), times(9_999)[0]), (PAST_MAX, 1));
    }
}
