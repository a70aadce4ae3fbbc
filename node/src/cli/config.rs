//! `config`: configurations that operators edit on any node.

use clap::Subcommand;
use crdt::schema::{DocumentName, Value};
use serde_json::{Map, Value as Json};

use super::document::{fetch, print_values};
use super::sign::{Operator, Wish};
use super::{Common, Failure, Outcome, code};
use crate::output::{Format, json, note, print, table};

/// `config`
#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// List configurations
    Ls,
    /// Read a configuration, or a part of it
    Get {
        /// Its name
        name: String,
        /// A dotted path
        path: Option<String>,
        /// Values alone, nested by path
        #[arg(long)]
        values: bool,
    },
    /// Set a value: true, false, null and finite numbers are taken as such, all else as text; --text makes anything a text
    Set {
        /// Its name
        name: String,
        /// A dotted path
        path: String,
        /// The value
        #[arg(required_unless_present = "delete", allow_hyphen_values = true)]
        value: Option<String>,
        /// Take the value as text, whatever it looks like
        #[arg(long)]
        text: bool,
        /// Take the value away
        #[arg(long, conflicts_with_all = ["value", "text"])]
        delete: bool,
    },
}

/// A typed value from what a person typed.
pub(crate) fn value_of(word: &str, as_text: bool) -> Value {
    let text = || Value::Text(word.to_owned());
    if as_text {
        return text();
    }
    match word {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => {
            let is_number = word.starts_with(|first: char| first.is_ascii_digit() || first == '-');
            let integer = word.parse().map(Value::Int).or_else(|_| word.parse().map(Value::Uint));
            let float = || word.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float);
            integer.ok().or_else(float).filter(|_| is_number).unwrap_or_else(text)
        }
    }
}

fn document_of(name: &str) -> Result<DocumentName, Failure> {
    DocumentName::config(name).map_err(|error| {
        Failure::new(code::USAGE, format!("{name:?} is no name of a configuration"))
            .cause(error)
            .hint("fleetsync config set --help")
    })
}

/// A view's values nested by path.
fn nest(values: &Map<String, Json>) -> Json {
    let mut root = Map::new();
    for (path, entry) in values {
        let parts: Vec<&str> = path.split('.').collect();
        insert(&mut root, &parts, entry["value"].clone());
    }
    Json::Object(root)
}

fn insert(map: &mut Map<String, Json>, parts: &[&str], value: Json) {
    let [first, rest @ ..] = parts else { return };
    if rest.is_empty() {
        // Where one side of a cut made `a` and the other `a.b`, both are shown: the value stands under "".
        match map.get_mut(*first) {
            Some(Json::Object(inner)) => inner.insert(String::new(), value),
            _ => map.insert((*first).to_owned(), value),
        };
        return;
    }
    let inner = map.entry((*first).to_owned()).or_insert_with(|| Json::Object(Map::new()));
    if !inner.is_object() {
        *inner = Json::Object(Map::from_iter([(String::new(), inner.take())]));
    }
    if let Json::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

/// Runs a `config` verb.
pub(crate) async fn run(common: &Common, command: ConfigCommand) -> Outcome {
    let mut client = common.connect().await?;
    match command {
        ConfigCommand::Ls => {
            let mut documents = client.get("/v1/documents").await?;
            if let Json::Array(documents) = &mut documents {
                documents
                    .retain(|document| document["document"].as_str().is_some_and(|name| name.starts_with("config/")));
            }
            match common.format() {
                Format::Table => {
                    let row = |document: &Json| {
                        let name = document["document"].as_str().unwrap_or_default().trim_start_matches("config/");
                        vec![name.to_owned(), document["changes"].to_string(), document["logs"].to_string()]
                    };
                    let rows: Vec<_> = documents.as_array().into_iter().flatten().map(row).collect();
                    print(&table(&["NAME", "CHANGES", "LOGS"], &rows));
                }
                format => print(&json(&documents, format)),
            }
        }
        ConfigCommand::Get { name, path, values } => {
            let document = document_of(&name)?;
            let view = fetch(&mut client, document.as_str(), path.as_deref().unwrap_or_default()).await?;
            match (&view["values"], values) {
                (Json::Object(flat), true) => print(&json(&nest(flat), common.format())),
                _ => print_values(&view, common.format()),
            }
        }
        ConfigCommand::Set { name, path, value, text, delete } => {
            let document = document_of(&name)?;
            let value = if delete { None } else { value.map(|word| value_of(&word, text)) };
            let operator = Operator::unlock(common, &mut client).await?;
            let written = operator.edit(&mut client, &document, &[Wish { path: path.clone(), value }]).await?;
            note(if written { "written, synced to disk here and on its way" } else { "unchanged: it has this value" });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_become_values() {
        assert_eq!(value_of("auto", false), Value::Text("auto".to_owned()));
        assert_eq!(value_of("true", false), Value::Bool(true));
        assert_eq!(value_of("true", true), Value::Text("true".to_owned()));
        assert_eq!(value_of("-3", false), Value::Int(-3));
        assert_eq!(value_of("18446744073709551615", false), Value::Uint(u64::MAX));
        assert_eq!(value_of("1.5", false), Value::Float(1.5));
        assert_eq!(value_of("1.5.2", false), Value::Text("1.5.2".to_owned()));
        assert_eq!(value_of("-2.5e-3", false), Value::Float(-0.0025));
        // What is no finite number is a text, which is what JSON can say of it.
        for word in ["inf", "-inf", "-infinity", "1e400", "-1e400", "nan", "-nan"] {
            assert_eq!(value_of(word, false), Value::Text(word.to_owned()));
        }
    }

    #[test]
    fn values_nest_by_path_and_clashes_keep_both() {
        let entry = |value: i64| json!({ "value": value });
        let flat = [("a.b", 1), ("a.c.d", 2), ("e", 3), ("a.c", 4), ("e.f", 5)];
        let flat: Map<String, Json> = flat.into_iter().map(|(path, value)| (path.to_owned(), entry(value))).collect();
        assert_eq!(nest(&flat), json!({ "a": { "b": 1, "c": { "d": 2, "": 4 } }, "e": { "": 3, "f": 5 } }));
    }
}
