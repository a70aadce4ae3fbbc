//! `status` and `peer`: what the node sees.

use clap::Subcommand;
use serde_json::{Value, json as object};

use super::ping::{self, PingArgs};
use super::{Common, Failure, Outcome, code, watch};
use crate::output::{Format, age, bytes_text, dial_error, endpoint, escaped, json, note, print, scalar, table};

/// `peer`
#[derive(Subcommand)]
pub(crate) enum PeerCommand {
    /// List the other members: the links to them and why they are held, or via whom they are reached
    Ls {
        /// Again every second, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Remember where a member may be reached, and try it now where a link with it is wanted
    Add {
        /// The member and its address: a name, id or key, then host and port or a multiaddress
        #[arg(value_name = "PEER@ADDRESS")]
        address: String,
    },
    /// Ask a device whether it is there, over others where no link leads to it
    Ping(PingArgs),
    /// One peer, with addresses and the last errors
    Show {
        /// A name, an id, or a unique prefix of one
        peer: String,
    },
}

/// `status`
pub(crate) async fn status(common: &Common, watch: bool) -> Outcome {
    watch::show(common, "/v1/status", watch, described).await
}

fn described(status: &Value) -> String {
    let peers = &status["peers"];
    let mut rows = vec![
        vec!["node".to_owned(), format!("{}  {}", scalar(&status["name"]), scalar(&status["node"]))],
        vec!["fleet".to_owned(), scalar(&status["fleet"])],
        vec!["standing".to_owned(), scalar(&status["standing"])],
        vec!["up".to_owned(), age(status["uptime_s"].as_u64().unwrap_or(0))],
        vec!["peers".to_owned(), format!("{} of {} linked", peers["up"], peers["known"])],
        vec![
            "holds".to_owned(),
            format!(
                "{} documents, {} changes, {} statements",
                status["documents"], status["changes"], status["statements"]
            ),
        ],
        vec!["behind".to_owned(), format!("{} changes that live peers have", status["behind"])],
        vec!["root_durable".to_owned(), scalar(&status["root_durable"])],
        vec!["root".to_owned(), scalar(&status["root"])],
    ];
    for relayed in status["relayed"].as_array().into_iter().flatten() {
        let bytes = bytes_text(relayed["bytes"].as_u64().unwrap_or(0));
        rows.push(vec![
            "relayed".to_owned(),
            format!("{bytes} for {} from {}", scalar(&relayed["for"]), scalar(&relayed["from"])),
        ]);
    }
    if status["offline"] == Value::Bool(true) {
        rows.push(vec!["offline".to_owned(), "yes, until fleetsync node online".to_owned()]);
    }
    if let Some(reason) = status["refusing_writes"].as_str() {
        rows.push(vec!["refusing".to_owned(), format!("writes: {reason}")]);
    }
    for address in status["listening"].as_array().into_iter().flatten() {
        // In the form that `join --ask` takes.
        rows.push(vec!["listening".to_owned(), format!("{}@{}", scalar(&status["key"]), scalar(address))]);
    }
    for address in status["reachable"].as_array().into_iter().flatten() {
        rows.push(vec!["reachable".to_owned(), format!("{}@{}", scalar(&status["key"]), scalar(address))]);
    }
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    rows.iter().map(|row| format!("{:width$}  {}\n", row[0], escaped(&row[1]))).collect()
}

/// Runs a `peer` verb.
pub(crate) async fn peer(common: &Common, command: PeerCommand) -> Outcome {
    match command {
        PeerCommand::Ls { watch } => watch::show(common, "/v1/peers", watch, list).await,
        PeerCommand::Show { peer } => show(common, &peer).await,
        PeerCommand::Add { address } => add(common, &address).await,
        PeerCommand::Ping(args) => ping::run(common, &args).await,
    }
}

fn list(peers: &Value) -> String {
    let mut rows: Vec<_> = peers.as_array().into_iter().flatten().map(row).collect();
    rows.sort();
    table(&["PEER", "ZONE", "STATE", "RTT", "LOSS", "RATE", "KIND", "SINCE", "VIA", "WHY"], &rows)
}

/// Takes `PEER@ADDRESS`, as `status` prints it.
async fn add(common: &Common, word: &str) -> Outcome {
    let (peer, address) = word.rsplit_once('@').ok_or_else(|| {
        Failure::new(code::USAGE, format!("{word:?} does not say whose address it is"))
            .hint("fleetsync peer add robot-7@192.0.2.1:4410")
    })?;
    let body = object!({ "peer": peer, "address": address });
    let added = common.connect().await?.post("/v1/peers", &body).await?;
    if common.format() != Format::Table {
        print(&json(&added, common.format()));
        return Ok(());
    }
    let name = scalar(&added["name"]);
    let addresses = added["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let shown = addresses.map(|address| escaped(&endpoint(address))).collect::<Vec<_>>().join(", ");
    note(&format!("{name} is tried at {shown}; fleetsync peer show {name} says what came of it"));
    Ok(())
}

async fn show(common: &Common, peer: &str) -> Outcome {
    let peers = common.connect().await?.get("/v1/peers").await?;
    let matches = |entry: &&Value| {
        entry["name"] == peer || entry["device"].as_str().is_some_and(|device| device.starts_with(peer))
    };
    let mut found = peers.as_array().into_iter().flatten().filter(matches);
    let entry = found.next().ok_or_else(|| {
        Failure::new(code::NOT_FOUND, format!("no peer is called {peer:?}")).hint("fleetsync peer ls")
    })?;
    if let Some(other) = found.next() {
        let ids = format!("{}, {}", entry["device"], other["device"]);
        return Err(Failure::new(code::USAGE, format!("{peer:?} is ambiguous"))
            .cause(ids)
            .hint("fleetsync peer ls -o json"));
    }
    print(&json(entry, common.format()));
    Ok(())
}

fn row(peer: &Value) -> Vec<String> {
    let (measured, way) = (&peer["measured"], &peer["way"]);
    let is_linked = peer["state"] != "down";
    let rtt = measured["rtt_ms"].as_f64().or(peer["rtt_ms"].as_f64());
    let since = if is_linked { &peer["since_s"] } else { &peer["down_s"] };
    let error = || peer["errors"][0].as_str().map_or("-".to_owned(), |error| escaped(&dial_error(error)));
    let why = if is_linked { scalar(&peer["why"]) } else { error() };
    vec![
        scalar(&peer["name"]),
        scalar(&peer["zone"]),
        match (is_linked, way.is_null()) {
            (true, _) => scalar(&peer["state"]),
            (false, false) => "reached".to_owned(),
            (false, true) => "away".to_owned(),
        },
        rtt.map_or("-".to_owned(), |millis| format!("{millis:.1} ms")),
        measured["loss_percent"].as_f64().map_or("-".to_owned(), |percent| format!("{percent:.1}%")),
        peer["rate_bytes_per_s"].as_u64().map_or("-".to_owned(), rate),
        scalar(&measured["kind"]),
        since.as_u64().map_or("-".to_owned(), age),
        if is_linked { peer["address"].as_str().map_or("-".to_owned(), endpoint) } else { over(way) },
        why,
    ]
}

/// Via whom a member without a link is reached.
fn over(way: &Value) -> String {
    let path = way["path"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<String> = path[..path.len().saturating_sub(1)].iter().map(scalar).collect();
    if names.is_empty() { "-".to_owned() } else { names.join(" → ") }
}

/// A rate for people.
pub(super) fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes_text(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn peers_that_are_linked_reached_and_away() {
        let measured = json!({ "rtt_ms": 1.25, "loss_percent": 0.8, "kind": "lan" });
        let linked = json!({
            "name": "h", "zone": "lab", "state": "up", "rtt_ms": 9.0, "measured": measured, "since_s": 5, "down_s": null,
            "address": "/ip4/192.0.2.1/udp/4410/quic-v1", "why": "near", "rate_bytes_per_s": 12_000_000, "errors": [],
            "way": { "via": "h", "path": ["h"] },
        });
        let reached = json!({
            "name": "c", "zone": "yard", "state": "down", "measured": null, "down_s": null, "errors": [],
            "way": { "via": "h", "path": ["h", "i", "c"] },
        });
        let away = json!({
            "name": "d", "zone": null, "state": "down", "measured": null, "down_s": 130, "errors": ["refused", "late"],
            "way": null,
        });
        let expected = [
            ["h", "lab", "up", "1.2 ms", "0.8%", "12.0 MB/s", "lan", "5 s", "quic 192.0.2.1:4410", "near"],
            ["c", "yard", "reached", "-", "-", "-", "-", "-", "h → i", "-"],
            ["d", "-", "away", "-", "-", "-", "-", "2 min", "-", "refused"],
        ];
        assert_eq!([linked, reached, away].map(|peer| row(&peer)), expected.map(|row| row.map(str::to_owned).to_vec()));
    }
}
