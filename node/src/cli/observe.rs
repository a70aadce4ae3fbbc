//! `status`, `events` and `peer`: what the node sees.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::ping::{self, PingArgs};
use super::{Common, Failure, Outcome, code};
use crate::output::{Format, age, bytes_text, escaped, json, line, print, scalar, table, time_text};

/// `events`
#[derive(Args)]
pub(crate) struct EventsArgs {
    /// Follow until interrupted; without it `events` ends after --count events
    #[arg(long)]
    watch: bool,
    /// How many events to wait for
    #[arg(long, default_value_t = 10, conflicts_with = "watch")]
    count: u64,
}

/// `peer`
#[derive(Subcommand)]
pub(crate) enum PeerCommand {
    /// List peers
    Ls,
    /// Ask a device whether it is there, over others where no link leads to it
    Ping(PingArgs),
    /// One peer, with addresses and the last errors
    Show {
        /// A name, an id, or a unique prefix of one
        peer: String,
    },
}

/// `status`
pub(crate) async fn status(common: &Common) -> Outcome {
    let status = common.connect().await?.get("/v1/status").await?;
    if common.format() != Format::Table {
        print(&json(&status, common.format()));
        return Ok(());
    }
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
    let width = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
    for row in rows {
        line(&format!("{:width$}  {}", row[0], escaped(&row[1])));
    }
    Ok(())
}

/// `events`
pub(crate) async fn events(common: &Common, args: EventsArgs) -> Outcome {
    let mut client = common.connect().await?;
    let mut left = args.count;
    let format = common.format();
    let followed = client.follow("/v1/events", |event| {
        match format {
            Format::Table => {
                let time = event["time_ms"].as_u64().map_or(String::new(), time_text);
                let detail = if event["detail"].is_null() { String::new() } else { scalar(&event["detail"]) };
                line(&format!("{time}  {:<10} {} {detail}", scalar(&event["event"]), scalar(&event["subject"])));
            }
            _ => print(&json(&event, Format::Jsonl)),
        }
        left = left.saturating_sub(1);
        args.watch || left > 0
    });
    followed.await?;
    Ok(())
}

/// Runs a `peer` verb.
pub(crate) async fn peer(common: &Common, command: PeerCommand) -> Outcome {
    match command {
        PeerCommand::Ls => list(common).await,
        PeerCommand::Show { peer } => show(common, &peer).await,
        PeerCommand::Ping(args) => ping::run(common, &args).await,
    }
}

async fn list(common: &Common) -> Outcome {
    let peers = common.connect().await?.get("/v1/peers").await?;
    if common.format() != Format::Table {
        print(&json(&peers, common.format()));
        return Ok(());
    }
    let rows: Vec<_> = peers.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["PEER", "STATE", "PRESENCE", "SINCE", "RTT", "VIA", "SENT", "RECEIVED", "BACKLOG"], &rows));
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
    let bytes =
        |field: &str| peer[field].as_u64().map_or("-".to_owned(), |bytes| format!("{} kB", bytes.div_ceil(1000)));
    vec![
        scalar(&peer["name"]),
        scalar(&peer["state"]),
        scalar(&peer["presence"]),
        peer["since_s"].as_u64().map_or("-".to_owned(), age),
        peer["rtt_ms"].as_f64().map_or("-".to_owned(), |millis| format!("{millis:.1} ms")),
        scalar(&peer["address"]),
        bytes("bytes_out"),
        bytes("bytes_in"),
        scalar(&peer["backlog"]),
    ]
}
