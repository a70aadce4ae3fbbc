//! `node`: the node itself.

use clap::Subcommand;
use serde_json::{Value, json as object};

use super::{Common, Outcome};
use crate::client::Client;
use crate::output::{Format, json, note, print, scalar, table};

/// `node`
#[derive(Subcommand)]
pub(crate) enum NodeCommand {
    /// Every setting with its value and origin
    Config,
    /// Cut the node off from its peers; kept over restarts
    Offline,
    /// Let the node back in
    Online,
    /// Every source of readings: found, absent, denied, hung or implausible
    Collect {
        /// With the values that each source gave
        #[arg(long)]
        explain: bool,
    },
}

/// Runs a `node` verb.
pub(crate) async fn run(common: &Common, command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::Config => config(common).await,
        NodeCommand::Offline => offline(common, true).await,
        NodeCommand::Online => offline(common, false).await,
        NodeCommand::Collect { explain } => collect(common, explain).await,
    }
}

async fn config(common: &Common) -> Outcome {
    // A node that runs says what it runs with; otherwise this is what it would run with.
    let settings = match Client::connect(&common.socket()?).await {
        Ok(mut client) => client.get("/v1/node/config").await?,
        Err(_) => crate::api::settings_to_json(&common.settings(&[])?),
    };
    if common.format() != Format::Table {
        print(&json(&settings, common.format()));
        return Ok(());
    }
    let row = |setting: &Value| {
        let value = scalar(&setting["value"]);
        let shown = if value.is_empty() { "-".to_owned() } else { value };
        vec![scalar(&setting["name"]), shown, scalar(&setting["origin"]), scalar(&setting["about"])]
    };
    let rows: Vec<_> = settings.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["SETTING", "VALUE", "ORIGIN", "WHAT IT IS"], &rows));
    Ok(())
}

async fn offline(common: &Common, offline: bool) -> Outcome {
    let mut client = common.connect().await?;
    client.post("/v1/node/offline", &object!({ "offline": offline })).await?;
    note(if offline {
        "offline: this node takes writes and answers, and talks to no peer until fleetsync node online"
    } else {
        "online: this node looks for its peers"
    });
    Ok(())
}

async fn collect(common: &Common, explain: bool) -> Outcome {
    let mut client = common.connect().await?;
    let sources = client.get("/v1/node/collect").await?;
    if common.format() != Format::Table {
        print(&json(&sources, common.format()));
        return Ok(());
    }
    let mut rows = Vec::new();
    for source in sources.as_array().into_iter().flatten() {
        let notes: Vec<&str> = source["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        rows.push(vec![scalar(&source["source"]), scalar(&source["state"]), scalar(&source["path"]), notes.join("; ")]);
        for (path, value) in source["values"].as_object().into_iter().flatten().filter(|_| explain) {
            rows.push(vec![String::new(), String::new(), format!("  {path}"), scalar(value)]);
        }
    }
    print(&table(&["SOURCE", "STATE", "PATH", "NOTES"], &rows));
    Ok(())
}
