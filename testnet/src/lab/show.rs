//! `ps` for people.

use serde_json::Value;

use super::quality::Bend;
use super::watch::short;

/// The column of a node's state.
const STATE: usize = 4;
/// Most changed lines that are listed.
const CHANGED_MAX: usize = 20;

/// The answer to `ps` as a table, with what is cut or bent, and what became of packets, below.
pub(crate) fn table(report: &Value) -> String {
    let titles = ["NODE", "ZONE", "ADDRESS", "PID", "STATE", "PEERS", "ROOT", "DOCUMENTS", "CHANGES", "CPU"];
    let mut lines: Vec<Vec<String>> = vec![titles.map(str::to_owned).to_vec()];
    for node in list(&report["nodes"]) {
        let cell = |key: &str| plain(&node[key]);
        let root = cell("root_durable");
        let cpu = node["cpu_percent"].as_f64().map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}%"));
        let mut line = ["name", "zone", "address", "pid", "state", "peers_up"].map(cell).to_vec();
        if node["is_unplugged"] == true {
            line[STATE].push_str(", unplugged");
        }
        line.extend([short(&root).to_owned(), cell("documents"), cell("changes"), cpu]);
        lines.push(line);
    }
    let mut text = columns(&lines);
    for line in changed(list(&report["changed"])) {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&packets(&report["packets"]));
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len)).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(padded).collect()
}

/// A line for each line of the network that is changed; one for both directions where they are alike.
fn changed(directions: &[Value]) -> Vec<String> {
    let is_same = |a: &Value, b: &Value| {
        a["from"] == b["to"] && a["to"] == b["from"] && a["cut"] == b["cut"] && a["bend"] == b["bend"]
    };
    let mut lines = Vec::new();
    for (place, direction) in directions.iter().enumerate() {
        let other = directions.iter().position(|other| is_same(direction, other));
        if other.is_some_and(|other| other < place) {
            continue;
        }
        let arrow = if other.is_some() { "<->" } else { "->" };
        let bend: Bend = serde_json::from_value(direction["bend"].clone()).unwrap_or_default();
        let cut = (direction["cut"] == true).then(|| "cut".to_owned());
        let what: Vec<String> = cut.into_iter().chain((!bend.is_none()).then(|| bend.to_string())).collect();
        lines.push(format!("{} {arrow} {}: {}", plain(&direction["from"]), plain(&direction["to"]), what.join(", ")));
    }
    let more = lines.len().saturating_sub(CHANGED_MAX);
    lines.truncate(CHANGED_MAX);
    if more > 0 {
        lines.push(format!("and {more} more lines"));
    }
    lines
}

fn packets(packets: &Value) -> String {
    let bytes = packets["arrived_bytes"].as_u64().unwrap_or(0);
    let mut text = format!("packets: {} arrived ({:.1} MB)", plain(&packets["arrived"]), bytes as f64 / 1e6);
    let why = [
        ("cut", "on cut lines"),
        ("too_long", "longer than the line carries"),
        ("loss", "by loss"),
        ("queue", "before full queues"),
        ("flight", "with too much on its way"),
        ("no_line", "without a line"),
        ("foreign", "for nobody here"),
        ("refused", "that a node did not take"),
        ("untranslated", "that a router did not let pass"),
    ];
    let dropped = why.iter().filter_map(|(key, words)| {
        packets["dropped"][key].as_u64().filter(|count| *count > 0).map(|count| format!("{count} {words}"))
    });
    let dropped: Vec<String> = dropped.collect();
    if !dropped.is_empty() {
        text.push_str(&format!("; dropped: {}", dropped.join(", ")));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_names_nodes_changed_lines_and_lost_packets() {
        let report = json!({
            "nodes": [
                { "name": "lab-0", "zone": "lab", "address": "10.44.0.1", "pid": 7, "state": "running", "peers_up": 1,
                  "root_durable": "0123456789abcdef", "documents": 4, "changes": 9, "cpu_percent": 1.25 },
                { "name": "lab-1", "zone": "lab", "address": "10.44.0.2", "pid": null, "state": "dead" },
                { "name": "lab-2", "zone": "lab", "address": "10.44.0.3", "pid": 9, "state": "running", "is_unplugged": true },
            ],
            "changed": [
                { "from": "lab-0", "to": "lab-1", "cut": true, "bend": {} },
                { "from": "lab-0", "to": "lab-2", "cut": false, "bend": { "loss_percent": 30.0 } },
                { "from": "lab-1", "to": "lab-0", "cut": true, "bend": {} },
            ],
            "packets": { "arrived": 5, "arrived_bytes": 1_500_000, "dropped": { "cut": 2, "loss": 0 } },
        });
        insta::assert_snapshot!(table(&report), @r"
        NODE   ZONE  ADDRESS    PID  STATE               PEERS  ROOT      DOCUMENTS  CHANGES  CPU
        lab-0  lab   10.44.0.1  7    running             1      01234567  4          9        1.2%
        lab-1  lab   10.44.0.2  -    dead                -      -         -          -        -
        lab-2  lab   10.44.0.3  9    running, unplugged  -      -         -          -        -
        lab-0 <-> lab-1: cut
        lab-0 -> lab-2: loss 30 %
        packets: 5 arrived (1.5 MB); dropped: 2 on cut lines
        ");
    }
}
