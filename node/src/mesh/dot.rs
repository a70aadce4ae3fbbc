//! The mesh in the language of Graphviz.

use std::collections::BTreeMap;

use super::{LinkState, Mesh, Node, State, label, sentence};

/// An undirected graph with a cluster a zone.
pub(crate) fn graph(mesh: &Mesh) -> String {
    let mut zones: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for node in &mesh.nodes {
        zones.entry(node.zone.as_deref().unwrap_or_default()).or_default().push(node);
    }
    let mut text = format!("graph {} {{\n", quoted(&format!("mesh as {} sees it", mesh.view)));
    for (number, (zone, nodes)) in zones.iter().enumerate() {
        text.push_str(&format!("  subgraph cluster_{number} {{\n    label={};\n", quoted(zone)));
        for node in nodes {
            let style = match node.state {
                State::Here => "filled",
                State::Away => "dashed",
                State::Linked | State::Reached => "solid",
            };
            text.push_str(&format!("    {} [label={}, style={style}];\n", quoted(&node.device), quoted(&node.name)));
        }
        text.push_str("  }\n");
    }
    for link in &mesh.links {
        let style = match (link.state, link.cut_off) {
            (LinkState::OneSided, _) => "dashed",
            (LinkState::Up, Some(_)) => "bold",
            (LinkState::Up, None) => "solid",
        };
        let (a, b, words) = (quoted(&link.a), quoted(&link.b), quoted(&label(link)));
        text.push_str(&format!("  {a} -- {b} [label={words}, style={style}, tooltip={}];\n", quoted(&sentence(link))));
    }
    text + "}\n"
}

/// A text as Graphviz takes it in quotes: backslashes begin escapes there. Control characters are left out.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::super::tests::{mesh, node};
    use super::*;

    #[test]
    fn zones_are_clusters_and_links_say_what_they_are_like() {
        let mut mesh = mesh(vec![node("a", "lab", State::Here), node("b", "yard", State::Away)], &[("a", "b")]);
        mesh.links[0].state = LinkState::OneSided;
        mesh.links[0].said_by = vec!["b".to_owned()];
        let expected = r#"graph "mesh as a sees it" {
  subgraph cluster_0 {
    label="lab";
    "a" [label="a", style=filled];
  }
  subgraph cluster_1 {
    label="yard";
    "b" [label="b", style=dashed];
  }
  "a" -- "b" [label="1.5 ms", style=dashed, tooltip="a – b: 1.5 ms, lan; only b says that it is up"];
}
"#;
        assert_eq!(graph(&mesh), expected);
    }

    #[test]
    fn names_end_no_quotes() {
        let hostile = "a\"]; b -- c [label=\"\n\\";
        let text = graph(&mesh(vec![node(hostile, "lab", State::Linked)], &[]));
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains(r#"label="a\"]; b -- c [label=\"\\""#), "{text}");
    }
}
