//! `device`: facts, which devices say of themselves, and assigned attributes, which operators say of them.

use clap::Subcommand;
use crdt::id::DeviceId;
use crdt::statement::{Assigned, Body};
use serde_json::Value;

use super::enrol::{checked, labels_of};
use super::sign::{Operator, text};
use super::{Common, Failure, Outcome, code};
use crate::client::{Client, encode};
use crate::output::{Format, age, json, note, print, scalar, table};

/// `device`
#[derive(Subcommand)]
pub(crate) enum DeviceCommand {
    /// List devices
    Ls {
        /// Again every second, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// A device's facts and assigned attributes, each with author and age
    Get {
        /// A name, an id, or a unique prefix of one
        device: String,
        /// A dotted path
        path: Option<String>,
        /// Ask the device itself, over others where no link leads to it, in place of this node's replica
        #[arg(long)]
        live: bool,
    },
    /// Set or take away labels
    Label {
        /// The device
        device: String,
        /// KEY=VALUE sets, KEY- takes away
        #[arg(required = true)]
        labels: Vec<String>,
    },
    /// Give a device another name
    Rename {
        /// The device
        device: String,
        /// Its new name
        name: String,
    },
    /// Move a device to another zone
    Move {
        /// The device
        device: String,
        /// Its new zone
        #[arg(long)]
        zone: String,
    },
    /// Keep new work away from a device
    Cordon {
        /// The device
        device: String,
        /// Let work in again
        #[arg(long)]
        undo: bool,
        /// Why, for people
        #[arg(long, default_value = "cordoned")]
        reason: String,
    },
}

/// Runs a `device` verb.
pub(crate) async fn run(common: &Common, command: DeviceCommand) -> Outcome {
    let mut client = common.connect().await?;
    match command {
        DeviceCommand::Ls { watch } => super::watch::show(common, "/v1/devices", watch, list).await,
        DeviceCommand::Get { device, path, live } => show(common, &mut client, &device, path.as_deref(), live).await,
        DeviceCommand::Label { device, labels } => label(common, &mut client, &device, &labels).await,
        DeviceCommand::Rename { device, name } => {
            let name = checked(&name, "name")?;
            assign(common, &mut client, &device, vec![("name".to_owned(), Some(name))]).await
        }
        DeviceCommand::Move { device, zone } => {
            let zone = checked(&zone, "zone")?;
            assign(common, &mut client, &device, vec![("zone".to_owned(), Some(zone))]).await
        }
        DeviceCommand::Cordon { device, undo, reason } => {
            let value = (!undo).then_some(reason);
            assign(common, &mut client, &device, vec![("cordon".to_owned(), value)]).await
        }
    }
}

fn permille(value: &Value) -> String {
    value.as_i64().map_or("-".to_owned(), |permille| format!("{}%", (permille + 5) / 10))
}

fn celsius(value: &Value) -> String {
    value.as_i64().map_or("-".to_owned(), |milli| format!("{:.1}°C", milli as f64 / 1000.0))
}

fn power(row: &Value) -> String {
    let source = scalar(&row["power_source"]);
    row["power_capacity_percent"].as_i64().map_or(source.clone(), |percent| format!("{source} {percent}%"))
}

fn list(devices: &Value) -> String {
    let row = |device: &Value| {
        vec![
            scalar(&device["name"]),
            scalar(&device["zone"]),
            scalar(&device["presence"]),
            permille(&device["cpu_utilisation_permille"]),
            celsius(&device["temperature_milli_celsius"]),
            power(device),
            device["age_s"].as_u64().map_or("-".to_owned(), age),
            scalar(&device["source"]),
        ]
    };
    let rows: Vec<_> = devices.as_array().into_iter().flatten().map(row).collect();
    table(&["DEVICE", "ZONE", "PRESENCE", "CPU", "TEMP", "POWER", "AGE", "SOURCE"], &rows)
}

async fn show(common: &Common, client: &mut Client, device: &str, path: Option<&str>, live: bool) -> Outcome {
    let resource = format!("/v1/devices/{}?path={}&live={live}", encode(device), encode(path.unwrap_or_default()));
    let shown = client.get(&resource).await?;
    if common.format() != Format::Table {
        return print_json(common, &shown, path);
    }
    if path.is_none() {
        print(&format!("{}  {}  {}\n\n", scalar(&shown["name"]), scalar(&shown["presence"]), scalar(&shown["device"])));
    }
    let mut rows = Vec::new();
    for origin in ["assigned", "facts"] {
        for (path, entry) in shown[origin].as_object().into_iter().flatten() {
            rows.push(vec![
                path.clone(),
                scalar(&entry["value"]),
                scalar(&entry["origin"]),
                scalar(&entry["author"]),
                entry["age_s"].as_u64().map_or("-".to_owned(), age),
            ]);
            for other in entry["conflicts"].as_array().into_iter().flatten() {
                rows.push(vec!["  also".to_owned(), scalar(other.get("value").unwrap_or(other))]);
            }
        }
    }
    print(&table(&["PATH", "VALUE", "ORIGIN", "AUTHOR", "AGE"], &rows));
    Ok(())
}

/// `{value, author, age_s, view, origin}` for one path, a map of such otherwise (DESIGN 5).
fn print_json(common: &Common, shown: &Value, path: Option<&str>) -> Outcome {
    let mut all = serde_json::Map::new();
    for origin in ["assigned", "facts"] {
        all.extend(shown[origin].as_object().cloned().unwrap_or_default());
    }
    let one = path.and_then(|path| all.get(path));
    print(&json(&one.cloned().unwrap_or(Value::Object(all.clone())), common.format()));
    Ok(())
}

async fn label(common: &Common, client: &mut Client, device: &str, labels: &[String]) -> Outcome {
    let mut edits = Vec::new();
    for word in labels {
        match word.strip_suffix('-').filter(|_| !word.contains('=')) {
            Some(key) => edits.push((format!("label/{}", checked(key, "label")?), None)),
            None => {
                for (key, value) in labels_of(std::slice::from_ref(word))? {
                    edits.push((format!("label/{key}"), Some(value)));
                }
            }
        }
    }
    assign(common, client, device, edits).await
}

async fn assign(common: &Common, client: &mut Client, device: &str, edits: Vec<(String, Option<String>)>) -> Outcome {
    let shown = client.get(&format!("/v1/devices/{}", encode(device))).await?;
    let id: DeviceId = text(&shown, "device")?
        .parse()
        .map_err(|error| Failure::new(code::REFUSED, "the node's answer is no device").cause(error))?;
    let operator = Operator::unlock(common, client).await?;
    for (attribute, value) in edits {
        let said = value.clone().unwrap_or_else(|| "taken away".to_owned());
        operator.state(client, Body::Assigned(Assigned { device: id, attribute: attribute.clone(), value })).await?;
        note(&format!("{device} {attribute}: {said}"));
    }
    Ok(())
}
