//! `events`: what happens on the node, and the last moves of the mesh with their causes.

use clap::Args;
use serde_json::Value;

use super::watch::Signals;
use super::{Common, Outcome};
use crate::output::{Format, escaped, json, line, moment_text, print, scalar};

/// `events`
#[derive(Args)]
pub(crate) struct EventsArgs {
    /// Follow until interrupted; without it `events` ends after --count events
    #[arg(long)]
    watch: bool,
    /// How many events to wait for
    #[arg(long, default_value_t = 10, conflicts_with = "watch")]
    count: u64,
    /// Show so many of the last moves of the mesh: links, routes, neighbours; and end, unless --watch is given
    #[arg(long, value_name = "N", conflicts_with = "count")]
    last: Option<usize>,
    /// Only moves of the mesh, no changes of documents
    #[arg(long)]
    mesh: bool,
}

/// Runs `events`.
pub(crate) async fn run(common: &Common, args: EventsArgs) -> Outcome {
    let mut client = common.connect().await?;
    let format = common.format();
    if let (Some(last), false) = (args.last, args.watch) {
        let past = client.get(&format!("/v1/events/past?last={last}")).await?;
        match format {
            Format::Table => past.as_array().into_iter().flatten().for_each(|event| line(&told(event))),
            format => print(&json(&past, format)),
        }
        return Ok(());
    }
    let mut left = args.count;
    let mut signals = Signals::start()?;
    let resource = format!("/v1/events?past={}&moves={}", args.last.unwrap_or(0), args.mesh);
    let followed = client.follow(&resource, |event| {
        match format {
            Format::Table => line(&told(&event)),
            _ => print(&json(&event, Format::Jsonl)),
        }
        left = left.saturating_sub(1);
        args.watch || left > 0
    });
    tokio::select! {
        followed = followed => Ok(followed?),
        () = signals.interrupted() => Ok(()),
    }
}

/// An event in a line: when, what, about whom, and why.
fn told(event: &Value) -> String {
    let time = event["time_ms"].as_u64().map_or(String::new(), moment_text);
    let detail = &event["detail"];
    let about = match detail["destinations"].as_array() {
        Some(destinations) => destinations_text(destinations, &detail["destinations_len"]),
        None => event["name"].as_str().or(event["subject"].as_str()).unwrap_or_default().to_owned(),
    };
    let name = |of: &Value| of["name"].as_str().map(str::to_owned);
    let moved = match (name(&detail["from"]), name(&detail["to"])) {
        (None, Some(to)) if to == about => "directly".to_owned(),
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(to)) => format!("over {to}"),
        (Some(from), None) if from != about => format!("not over {from}"),
        (_, None) => String::new(),
    };
    let after: Vec<String> = detail["after"].as_array().into_iter().flatten().filter_map(name).collect();
    let after =
        if after.is_empty() { String::new() } else { format!("(after news of the links of {})", after.join(", ")) };
    let why = match detail["reason"].as_str() {
        Some(reason) => reason.to_owned(),
        None if detail.is_null() => String::new(),
        None => detail.to_string(),
    };
    let parts = [about, moved, why, after];
    let parts: Vec<String> = parts.iter().filter(|part| !part.is_empty()).map(|part| escaped(part)).collect();
    format!("{time}  {:<13} {}", scalar(&event["event"]), parts.join("  ")).trim_end().to_owned()
}

fn destinations_text(destinations: &[Value], count: &Value) -> String {
    let names: Vec<&str> = destinations.iter().filter_map(|destination| destination["name"].as_str()).collect();
    let more = count.as_u64().unwrap_or(0).saturating_sub(names.len() as u64);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn moves_are_told_with_names_and_causes() {
        let route = json!({
            "time_ms": 0, "event": "route", "subject": "", "detail": {
                "reason": "the link to h is suspect", "from": { "name": "h" }, "to": { "name": "i" },
                "destinations": [{ "name": "c" }, { "name": "d" }], "destinations_len": 5, "after": [{ "name": "g" }],
            },
        });
        let parts = [
            "1970-01-01 00:00:00.000Z",
            "route         c, d and 3 more",
            "h → i",
            "the link to h is suspect",
            "(after news of the links of g)",
        ];
        assert_eq!(told(&route), parts.join("  "));
        let directly = |from: Value, to: Value| {
            json!({
                "time_ms": 0, "event": "reached", "subject": "77", "name": "h", "detail": {
                    "reason": "why", "from": from, "to": to, "destinations": [{ "name": "h" }], "destinations_len": 1,
                },
            })
        };
        let h = || json!({ "name": "h" });
        assert!(told(&directly(Value::Null, h())).ends_with("  h  directly  why"));
        assert!(told(&directly(h(), Value::Null)).ends_with("  h  why"));
        let detail = json!({ "reason": "x\u{1b}" });
        let down = json!({ "time_ms": 0, "event": "link down", "subject": "77", "name": "h", "detail": detail });
        assert_eq!(told(&down), "1970-01-01 00:00:00.000Z  link down     h  x\\u{1b}");
        let change = json!({ "time_ms": 0, "event": "change", "subject": "config/a", "detail": { "seq": 3 } });
        assert_eq!(told(&change), "1970-01-01 00:00:00.000Z  change        config/a  {\"seq\":3}");
        let online = json!({ "time_ms": 0, "event": "online", "subject": "", "detail": null });
        assert_eq!(told(&online), "1970-01-01 00:00:00.000Z  online");
    }
}
