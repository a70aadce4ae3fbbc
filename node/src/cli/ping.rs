//! `peer ping`: whether a device answers, how fast, and over whom.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{Common, Failure, Outcome};
use crate::client::{Client, ClientError, encode};
use crate::output::{Format, escaped, json as to_text, line, note, print, scalar};

/// `peer ping`
#[derive(Args)]
pub(crate) struct PingArgs {
    /// A name, an id, or a unique prefix of one; any device, linked or not
    device: String,
    /// How often to ask
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// From one question to the next, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    interval: u64,
}

/// What came of all questions.
#[derive(Default)]
struct Tally {
    answers: Vec<Value>,
    /// Why the last one was not answered.
    failure: Option<Failure>,
}

impl Tally {
    fn round_trips(&self) -> Vec<f64> {
        let mut millis: Vec<f64> = self.answers.iter().filter_map(|answer| answer["rtt_ms"].as_f64()).collect();
        millis.sort_by(f64::total_cmp);
        millis
    }

    fn to_json(&self, asked: u32) -> Value {
        let millis = self.round_trips();
        let way = |answer: &Value| json!({ "rtt_ms": answer["rtt_ms"], "hops": answer["hops"] });
        json!({
            "device": self.answers.first().map(|answer| &answer["device"]),
            "name": self.answers.first().map(|answer| &answer["name"]),
            "asked": asked,
            "answered": self.answers.len(),
            "rtt_ms": { "least": millis.first(), "median": millis.get(millis.len() / 2), "most": millis.last() },
            "answers": self.answers.iter().map(way).collect::<Vec<Value>>(),
        })
    }
}

/// Runs `peer ping`.
pub(crate) async fn run(common: &Common, args: &PingArgs) -> Outcome {
    let mut client = common.connect().await?;
    let mut tally = Tally::default();
    let is_table = common.format() == Format::Table;
    for number in 0..args.count {
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(args.interval)).await;
        }
        match ask(&mut client, &args.device).await? {
            Ok(answer) => {
                if is_table {
                    line(&describe(&answer));
                }
                tally.answers.push(answer);
            }
            Err(failure) => {
                if args.count > 1 {
                    note("no answer");
                }
                tally.failure = Some(failure);
            }
        }
    }
    if is_table && !tally.answers.is_empty() {
        line(&summary(&tally, args.count));
    } else if !is_table {
        print(&to_text(&tally.to_json(args.count), common.format()));
    }
    match tally.failure {
        Some(failure) if tally.answers.is_empty() => Err(failure),
        _ => Ok(()),
    }
}

/// An answer, or why there is none; whatever else is wrong ends it all.
async fn ask(client: &mut Client, device: &str) -> Result<Result<Value, Failure>, Failure> {
    match client.get(&format!("/v1/ping/{}", encode(device))).await {
        Ok(answer) => Ok(Ok(answer)),
        Err(error @ ClientError::Problem { status: 504, .. }) => Ok(Err(error.into())),
        Err(error) => Err(error.into()),
    }
}

fn describe(answer: &Value) -> String {
    let hops = answer["hops"].as_array().map_or(&[][..], Vec::as_slice);
    let (name, millis) = (escaped(&scalar(&answer["name"])), answer["rtt_ms"].as_f64().unwrap_or_default());
    match hops.split_last() {
        None => format!("{name} is this device: {millis:.1} ms"),
        Some((_, [])) => format!("{name} answers: {millis:.1} ms, directly"),
        Some((_, over)) => {
            let names: Vec<String> = over.iter().map(|hop| escaped(&scalar(&hop["name"]))).collect();
            format!("{name} answers: {millis:.1} ms, over {}", names.join(" → "))
        }
    }
}

fn summary(tally: &Tally, asked: u32) -> String {
    let millis = tally.round_trips();
    let answered = format!("{} of {asked} answered", millis.len());
    match (millis.first(), millis.get(millis.len() / 2), millis.last()) {
        (Some(least), Some(median), Some(most)) => {
            format!("{answered}; {least:.1} ms at best, {median:.1} ms in the middle, {most:.1} ms at worst")
        }
        _ => answered,
    }
}
