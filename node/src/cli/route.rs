//! `route`: the ways to other devices, and the whole mesh.

use clap::Subcommand;
use serde_json::Value;

use super::observe::rate;
use super::{Common, Failure, Outcome, code};
use crate::client::encode;
use crate::mesh::{LinkState, Mesh, dot, svg};
use crate::output::{Format, escaped, json, line, print, scalar, table};

/// `route`
#[derive(Subcommand)]
pub(crate) enum RouteCommand {
    /// The way to a device and its backups, why they are taken, and what each link costs
    Show {
        /// A name, an id, or a unique prefix of one
        device: String,
    },
    /// The whole mesh, as this node's replica shows it
    Graph {
        /// The form of output
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
}

/// Runs a `route` verb.
pub(crate) async fn run(common: &Common, command: RouteCommand) -> Outcome {
    match command {
        RouteCommand::Show { device } => show(common, &device).await,
        RouteCommand::Graph { output } => graph(common, output).await,
    }
}

async fn show(common: &Common, device: &str) -> Outcome {
    let route = common.connect().await?.get(&format!("/v1/routes/{}", encode(device))).await?;
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
        let rows: Vec<_> = ways.iter().map(row).collect();
        print(&table(&["WAY", "COST", "PATH", "CHANGES COME THIS WAY", "WHY"], &rows));
        line("");
        print(&table(
            &["LINK", "COST", "DELAY", "JITTER", "HOP", "LOSS", "OTHER", "RTT", "LOST", "KIND"],
            &parts(ways),
        ));
    }
    Ok(())
}

fn hops(way: &Value) -> &[Value] {
    way["path"].as_array().map_or(&[][..], Vec::as_slice)
}

fn millis(value: &Value) -> String {
    value.as_f64().map_or("-".to_owned(), |millis| format!("{millis:.1} ms"))
}

fn row(way: &Value) -> Vec<String> {
    let path = hops(way).iter().map(|hop| format!("{} ({})", scalar(&hop["name"]), millis(&hop["cost_ms"])));
    let path: Vec<String> = path.collect();
    let may = match (way["parent"].as_bool(), way["role"].as_str()) {
        (Some(true), Some("next hop")) => "yes",
        (Some(true), _) => "when the others fail",
        _ => "never: it leads back",
    };
    vec![scalar(&way["role"]), millis(&way["cost_ms"]), path.join(" → "), may.to_owned(), scalar(&way["why"])]
}

/// What each link of the ways costs, and of what: each once.
fn parts(ways: &[Value]) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for hop in ways.iter().flat_map(hops) {
        let (parts, link) = (&hop["parts"], &hop["link"]);
        let others = ["relayed", "battery", "metered", "busy"].map(|part| (part, &parts[format!("{part}_ms")]));
        let others = others.into_iter().filter(|(_, cost)| cost.as_f64().is_some_and(|cost| cost > 0.0));
        let others: Vec<String> = others.map(|(part, cost)| format!("{part} {}", millis(cost))).collect();
        let lost = link["loss_percent"].as_f64().map_or("-".to_owned(), |percent| format!("{percent:.1}%"));
        let row = vec![
            format!("{} → {}", scalar(&hop["from"]), scalar(&hop["name"])),
            millis(&hop["cost_ms"]),
            millis(&parts["delay_ms"]),
            millis(&parts["jitter_ms"]),
            millis(&parts["hop_ms"]),
            millis(&parts["loss_ms"]),
            if others.is_empty() { "-".to_owned() } else { others.join(", ") },
            millis(&link["rtt_ms"]),
            lost,
            scalar(&link["kind"]),
        ];
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

async fn graph(common: &Common, output: Format) -> Outcome {
    let shown = common.connect().await?.get("/v1/graph").await?;
    if matches!(output, Format::Json | Format::Jsonl) {
        print(&json(&shown, output));
        return Ok(());
    }
    let mesh: Mesh = serde_json::from_value(shown).map_err(|error| {
        Failure::new(code::REFUSED, "the node's answer is no mesh").cause(error).hint("fleetsync --version")
    })?;
    print(&match output {
        Format::Dot => dot::graph(&mesh),
        Format::Svg => svg::drawing(&mesh),
        _ => described(&mesh),
    });
    Ok(())
}

fn described(mesh: &Mesh) -> String {
    let nodes = mesh.nodes.iter().map(|node| {
        let zone = node.zone.clone().unwrap_or_else(|| "-".to_owned());
        vec![node.name.clone(), zone, node.state.word().to_owned(), node.links.to_string()]
    });
    let nodes = table(&["NODE", "ZONE", "STATE", "LINKS"], &nodes.collect::<Vec<_>>());
    let millis = |millis: Option<f64>| millis.map_or("-".to_owned(), |millis| format!("{millis:.1} ms"));
    let links = mesh.links.iter().map(|link| {
        let state = match link.state {
            LinkState::Up => "up".to_owned(),
            LinkState::OneSided => format!("only {} says so", link.said_by.join(", ")),
        };
        let cut_off = link.cut_off.map_or("-".to_owned(), |count| format!("{count} cut off"));
        vec![
            format!("{} – {}", link.a_name, link.b_name),
            state,
            millis(link.rtt_ms),
            link.loss_percent.map_or("-".to_owned(), |percent| format!("{percent:.1}%")),
            link.kind.clone().unwrap_or_else(|| "-".to_owned()),
            link.rate_bytes_per_s.map_or("-".to_owned(), rate),
            millis(link.cost_ms),
            cut_off,
        ]
    });
    let header = ["LINK", "STATE", "RTT", "LOSS", "KIND", "RATE", "COST", "WITHOUT IT"];
    format!("{nodes}\n{}", table(&header, &links.collect::<Vec<_>>()))
}
