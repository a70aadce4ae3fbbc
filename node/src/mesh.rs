//! The mesh as one node sees it: its members, and the links that the members' `link` documents speak of. What the API hands
//! out, and what is drawn of it.

use serde::{Deserialize, Serialize};

pub(crate) mod dot;
mod layout;
pub(crate) mod svg;

/// The mesh, as one node's replica has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mesh {
    /// The name of that node.
    pub(crate) view: String,
    /// All members, by name.
    pub(crate) nodes: Vec<Node>,
    /// All links that at least one of both ends says are up, by the ids of their ends.
    pub(crate) links: Vec<Link>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) device: String,
    pub(crate) name: String,
    pub(crate) zone: Option<String>,
    pub(crate) state: State,
    /// Links of which both ends say that they are up.
    pub(crate) links: usize,
}

/// How a node sees a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It is the node itself.
    Here,
    /// They are linked.
    Linked,
    /// Others that are present are linked with it.
    Reached,
    /// Nobody that is present is.
    Away,
}

impl State {
    /// All, in this order.
    pub(crate) const ALL: [State; 4] = [State::Here, State::Linked, State::Reached, State::Away];

    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Here => "here",
            State::Linked => "linked",
            State::Reached => "reached",
            State::Away => "away",
        }
    }
}

/// A link between two members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The ids of its ends, the lower one first.
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) a_name: String,
    pub(crate) b_name: String,
    /// Whether both ends say that it is up; otherwise it does not count.
    pub(crate) state: LinkState,
    /// The names of the ends that say so.
    pub(crate) said_by: Vec<String>,
    /// What the end says of it that makes it dearer, as far as it was measured.
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) loss_percent: Option<f64>,
    pub(crate) kind: Option<String>,
    pub(crate) cost_ms: Option<f64>,
    /// The rate that it was seen to take, the lower one of both ends.
    pub(crate) rate_bytes_per_s: Option<u64>,
    /// Without it, so many members are cut off from the others; none where other links lead there.
    pub(crate) cut_off: Option<usize>,
}

/// Whether a link counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LinkState {
    /// Both ends say that it is up.
    Up,
    /// Only one of them does.
    OneSided,
}

/// What a link is like, in a few words: `1.2 ms`, with its loss where there is some.
fn label(link: &Link) -> String {
    let rtt = link.rtt_ms.map(|millis| format!("{millis:.1} ms"));
    let loss = link.loss_percent.filter(|percent| *percent >= 0.1).map(|percent| format!("{percent:.1} % loss"));
    rtt.into_iter().chain(loss).collect::<Vec<_>>().join(", ")
}

/// All that is known of a link, a sentence.
fn sentence(link: &Link) -> String {
    let kind = link.kind.clone().unwrap_or_else(|| "not measured".to_owned());
    let said = match link.state {
        LinkState::Up => String::new(),
        LinkState::OneSided => format!("; only {} says that it is up", link.said_by.join(", ")),
    };
    let cut = link.cut_off.map(|count| format!("; without it {count} are cut off")).unwrap_or_default();
    let like = [label(link), kind].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ");
    format!("{} – {}: {like}{said}{cut}", link.a_name, link.b_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member whose id is its name.
    pub(super) fn node(name: &str, zone: &str, state: State) -> Node {
        Node { device: name.to_owned(), name: name.to_owned(), zone: Some(zone.to_owned()), state, links: 0 }
    }

    pub(super) fn mesh(nodes: Vec<Node>, links: &[(&str, &str)]) -> Mesh {
        let link = |(a, b): &(&str, &str)| Link {
            a: (*a).to_owned(),
            b: (*b).to_owned(),
            a_name: (*a).to_owned(),
            b_name: (*b).to_owned(),
            state: LinkState::Up,
            said_by: vec![(*a).to_owned(), (*b).to_owned()],
            rtt_ms: Some(1.5),
            loss_percent: Some(0.0),
            kind: Some("lan".to_owned()),
            cost_ms: Some(1.2),
            rate_bytes_per_s: None,
            cut_off: None,
        };
        Mesh { view: "a".to_owned(), nodes, links: links.iter().map(link).collect() }
    }

    /// Zones with so many members each, linked here and there.
    pub(super) fn many(zones: &[usize], seed: usize) -> Mesh {
        let members = zones.iter().enumerate().flat_map(|(zone, count)| (0..*count).map(move |member| (zone, member)));
        let nodes: Vec<Node> = members
            .map(|(zone, member)| node(&format!("node-{zone}-{member}"), &format!("zone-{zone}"), State::Linked))
            .collect();
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let count = names.len();
        let ends = (0..count).flat_map(|one| [1, 7 + seed % 5, 31].map(|step| (one, (one + step) % count)));
        let links: Vec<(&str, &str)> =
            ends.filter(|(one, other)| one != other).map(|(one, other)| (&*names[one], &*names[other])).collect();
        mesh(nodes, &links)
    }

    #[test]
    fn a_link_is_told_in_a_sentence() {
        let mut mesh = mesh(vec![], &[("a", "b")]);
        let link = &mut mesh.links[0];
        assert_eq!(sentence(link), "a – b: 1.5 ms, lan");
        (link.loss_percent, link.cut_off) = (Some(2.5), Some(3));
        assert_eq!(sentence(link), "a – b: 1.5 ms, 2.5 % loss, lan; without it 3 are cut off");
        (link.rtt_ms, link.loss_percent, link.kind, link.cut_off) = (None, None, None, None);
        (link.state, link.said_by) = (LinkState::OneSided, vec!["b".to_owned()]);
        assert_eq!(sentence(link), "a – b: not measured; only b says that it is up");
    }

    /// The format that scripts read.
    #[test]
    fn a_mesh_as_json() {
        let mesh = mesh(vec![node("a", "lab", State::Here)], &[("a", "b")]);
        let json = serde_json::to_value(&mesh).unwrap();
        let expected = serde_json::json!({
            "view": "a",
            "nodes": [{ "device": "a", "name": "a", "zone": "lab", "state": "here", "links": 0 }],
            "links": [{
                "a": "a", "b": "b", "a_name": "a", "b_name": "b", "state": "up", "said_by": ["a", "b"], "rtt_ms": 1.5,
                "loss_percent": 0.0, "kind": "lan", "cost_ms": 1.2, "rate_bytes_per_s": null, "cut_off": null,
            }],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Mesh>(json).unwrap(), mesh);
    }
}
