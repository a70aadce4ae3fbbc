//! `doc`: documents as they are replicated.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use super::{Common, Failure, Outcome, code};
use crate::client::{Client, encode};
use crate::keys::quoted;
use crate::output::{Format, age, escaped, json, print, scalar, table};

/// `doc`
#[derive(Subcommand)]
pub(crate) enum DocCommand {
    /// List documents
    Ls,
    /// Read a document, or a part of it
    Get {
        /// `config/camera`, `device/NAME`, `environment/ID`, …
        document: String,
        /// A dotted path
        path: Option<String>,
    },
    /// The newest changes of a document
    Log {
        /// The document
        document: String,
    },
    /// The document as Automerge bytes, for any Automerge
    Export {
        /// The document
        document: String,
        /// The file to write [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Check every stored change of a document: bytes, hashes, chain and signatures
    Verify {
        /// The document
        document: String,
    },
}

/// A document's view.
pub(crate) async fn fetch(client: &mut Client, document: &str, path: &str) -> Result<Value, Failure> {
    Ok(client.get(&format!("/v1/document?document={}&path={}", encode(document), encode(path))).await?)
}

/// A view as a table, conflicts below the value that is read.
pub(crate) fn print_values(view: &Value, format: Format) {
    if format != Format::Table {
        return print(&json(&view["values"], format));
    }
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (path, entry) in view["values"].as_object().into_iter().flatten() {
        rows.push(row(path, entry));
        let conflicts = entry["conflicts"].as_array();
        for other in conflicts.into_iter().flatten() {
            rows.push(row("  also", other));
        }
        if conflicts.is_some() {
            notes.push(format!(
                "{}: {} values were written without knowing of each other; read meanwhile: {} (rule: {})\n",
                escaped(path),
                conflicts.map_or(0, Vec::len) + 1,
                scalar(&entry["value"]),
                scalar(&entry["rule"]),
            ));
        }
    }
    print(&table(&["PATH", "VALUE", "AUTHOR", "CARRIER", "AGE"], &rows));
    notes.iter().for_each(|line| print(line));
}

fn row(path: &str, entry: &Value) -> Vec<String> {
    vec![
        path.to_owned(),
        scalar(&entry["value"]),
        scalar(&entry["author"]),
        scalar(&entry["carrier"]),
        entry["age_s"].as_u64().map_or("-".to_owned(), age),
    ]
}

/// Runs a `doc` verb.
pub(crate) async fn run(common: &Common, command: DocCommand) -> Outcome {
    let mut client = common.connect().await?;
    match command {
        DocCommand::Ls => list(common, &mut client).await,
        DocCommand::Get { document, path } => {
            let view = fetch(&mut client, &document, path.as_deref().unwrap_or_default()).await?;
            print_values(&view, common.format());
            Ok(())
        }
        DocCommand::Log { document } => log(common, &mut client, &document).await,
        DocCommand::Export { document, to } => {
            let bytes = client.get_bytes(&format!("/v1/document/export?document={}", encode(&document))).await?;
            let written = match &to {
                Some(path) => std::fs::write(path, &bytes),
                None => std::io::stdout().lock().write_all(&bytes),
            };
            let folder = to.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
            let hint = format!("ls -ld {}", quoted(folder.unwrap_or(Path::new("."))));
            written.map_err(|error| Failure::new(code::REFUSED, "the export was not written").cause(error).hint(hint))
        }
        DocCommand::Verify { document } => verify(common, &mut client, &document).await,
    }
}

async fn list(common: &Common, client: &mut Client) -> Outcome {
    let documents = client.get("/v1/documents").await?;
    if common.format() != Format::Table {
        print(&json(&documents, common.format()));
        return Ok(());
    }
    let row = |document: &Value| {
        let name = document["document"].as_str().unwrap_or_default();
        let (kind, id) = name.split_once('/').unwrap_or((name, ""));
        let shown = if id.len() >= 64 { format!("{kind}/{}…", &id[..8]) } else { name.to_owned() };
        vec![shown, scalar(&document["about"]), document["changes"].to_string(), document["logs"].to_string()]
    };
    let rows: Vec<_> = documents.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["DOCUMENT", "ABOUT", "CHANGES", "LOGS"], &rows));
    Ok(())
}

async fn log(common: &Common, client: &mut Client, document: &str) -> Outcome {
    let changes = client.get(&format!("/v1/document/log?document={}", encode(document))).await?;
    if common.format() != Format::Table {
        print(&json(&changes, common.format()));
        return Ok(());
    }
    let row = |change: &Value| {
        let paths: Vec<&str> = change["paths"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let shown = match paths.as_slice() {
            [first, _, _, _, ..] => format!("{first} and {} more", paths.len() - 1),
            few => few.join(" "),
        };
        vec![
            change["hash"].as_str().unwrap_or_default().chars().take(8).collect(),
            scalar(&change["author"]),
            scalar(&change["carrier"]),
            change["seq"].to_string(),
            change["age_s"].as_u64().map_or("-".to_owned(), age),
            shown,
        ]
    };
    let rows: Vec<_> = changes.as_array().into_iter().flatten().map(row).collect();
    print(&table(&["CHANGE", "AUTHOR", "CARRIER", "SEQ", "AGE", "PATHS"], &rows));
    Ok(())
}

async fn verify(common: &Common, client: &mut Client, document: &str) -> Outcome {
    let report = client.get(&format!("/v1/document/verify?document={}", encode(document))).await?;
    if common.format() == Format::Table {
        let row = |log: &Value| {
            let damage = match &log["damage"] {
                Value::Null => "whole".to_owned(),
                damage => format!("damaged at {}: {}", damage["seq"], scalar(&damage["reason"])),
            };
            vec![scalar(&log["log"]), log["changes"].to_string(), log["signatures_checked"].to_string(), damage]
        };
        let rows: Vec<_> = report["logs"].as_array().into_iter().flatten().map(row).collect();
        print(&table(&["LOG", "CHANGES", "SIGNATURES", "STATE"], &rows));
    } else {
        print(&json(&report, common.format()));
    }
    if report["whole"] == Value::Bool(true) {
        return Ok(());
    }
    let damage =
        report["logs"].as_array().into_iter().flatten().map(|log| &log["damage"]).find(|damage| !damage.is_null());
    let cause = damage.map(|damage| format!("log {} change {}: {}", damage["log"], damage["seq"], damage["reason"]));
    Err(Failure::new(code::NEGATIVE, "the document is damaged on this node")
        .cause(cause.unwrap_or_default())
        .hint(format!("fleetsync doc verify {document}  # on another member, which may have it whole")))
}
