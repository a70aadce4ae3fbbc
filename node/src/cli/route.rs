//! `route`: the ways to other devices.

use clap::Subcommand;
use serde_json::Value;

use super::{Common, Failure, Outcome, code};
use crate::client::encode;
use crate::output::{Format, escaped, json, line, print, scalar, table};

/// `route`
#[derive(Subcommand)]
pub(crate) enum RouteCommand {
    /// The way to a device and its backups, and what each costs
    Show {
        /// A name, an id, or a unique prefix of one
        device: String,
    },
}

/// Runs a `route` verb.
pub(crate) async fn run(common: &Common, command: RouteCommand) -> Outcome {
    let RouteCommand::Show { device } = command;
    let route = common.connect().await?.get(&format!("/v1/routes/{}", encode(&device))).await?;
    let ways = route["ways"].as_array().map_or(&[][..], Vec::as_slice);
    let name = escaped(&scalar(&route["name"]));
    let seen = format!("{name} is {}, as {} sees it", scalar(&route["presence"]), escaped(&scalar(&route["view"])));
    if ways.is_empty() && route["presence"] != "here" {
        return Err(Failure::new(code::NEGATIVE, format!("no way to {name} is known"))
            .cause(format!("{seen}: no chain of measured links leads there, of which both ends say that they are up"))
            .hint("fleetsync peer ls"));
    }
    if common.format() != Format::Table {
        print(&json(&route, common.format()));
        return Ok(());
    }
    line(&seen);
    if !ways.is_empty() {
        print(&table(&["WAY", "COST", "PATH", "CHANGES COME THIS WAY"], &ways.iter().map(row).collect::<Vec<_>>()));
    }
    Ok(())
}

fn row(way: &Value) -> Vec<String> {
    let millis = |of: &Value| of["cost_ms"].as_f64().map_or("-".to_owned(), |millis| format!("{millis:.1} ms"));
    let hops = way["path"].as_array().map_or(&[][..], Vec::as_slice);
    let path: Vec<String> = hops.iter().map(|hop| format!("{} ({})", scalar(&hop["name"]), millis(hop))).collect();
    let may = match (way["parent"].as_bool(), way["role"].as_str()) {
        (Some(true), Some("next hop")) => "yes",
        (Some(true), _) => "when the others fail",
        _ => "never: it leads back",
    };
    vec![scalar(&way["role"]), millis(way), path.join(" → "), may.to_owned()]
}
