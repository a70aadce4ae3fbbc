//! What a person reads, as snapshots: help of every verb, and tables with ids, ages and readings taken out.

use serde_json::json;

use crate::fleet::{Fleet, config, converge, within};

/// Every group of verbs; their help lists the verbs.
const GROUPS: [&str; 6] = ["device", "peer", "doc", "config", "member", "node"];

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = lines.take_while(|line| line.starts_with("  "));
    let names = commands.filter(|line| !line.starts_with("    ")).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn help_of_every_verb() {
    let fleet = Fleet::empty();
    let help = |words: &[&str]| {
        let mut command = fleet.command("a", &[words, &["--help"]].concat());
        // Help shows the values of the environment.
        command.env_remove("FLEETSYNC_DATA_DIR");
        crate::fleet::run(&mut command).ok().to_owned()
    };
    let mut all = format!("$ fleetsync --help\n{}", help(&[]));
    let mut seen = Vec::new();
    for verb in listed(&help(&[])) {
        let text = help(&[&verb]);
        all.push_str(&format!("\n$ fleetsync {verb} --help\n{text}"));
        let inner = listed(&text);
        if !inner.is_empty() {
            seen.push(verb.clone());
        }
        for name in inner {
            all.push_str(&format!("\n$ fleetsync {verb} {name} --help\n{}", help(&[&verb, &name])));
        }
    }
    assert!(GROUPS.iter().all(|group| seen.iter().any(|verb| verb == group)), "{seen:?}");
    // What every verb takes is shown once.
    insta::assert_snapshot!("help", all);
}

/// Takes out what differs from run to run.
fn normalised(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let words: Vec<String> = line.split("  ").map(str::trim).filter(|word| !word.is_empty()).map(word).collect();
        lines.push(words.join(" | "));
    }
    lines.join("\n")
}

/// A cell: ids, keys, ages, ports and readings become names.
fn word(cell: &str) -> String {
    let is_hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit());
    let age = |cell: &str| {
        let (number, unit) = cell.split_once(' ')?;
        (number.parse::<u64>().is_ok() && ["s", "min", "h"].contains(&unit)).then_some("AGE")
    };
    if let Some(age) = age(cell) {
        return age.to_owned();
    }
    if cell.ends_with('%') && cell.len() < 5 {
        return "PERCENT".to_owned();
    }
    let pieces = cell.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|piece| {
        let (text, rest) = match piece.char_indices().last() {
            Some((at, last)) if !last.is_ascii_alphanumeric() => piece.split_at(at),
            _ => (piece, ""),
        };
        let text = match text {
            text if is_hex(text, 64) => "ID",
            text if is_hex(text, 8) => "KEY",
            text if text.len() >= 4 && text.bytes().all(|b| b.is_ascii_digit()) => "NUMBER",
            text => text,
        };
        format!("{text}{rest}")
    });
    pieces.collect()
}

#[test]
fn tables() {
    let (fleet, a, b) = Fleet::pair();
    within("a link", || a.links() == 1 && b.links() == 1);
    fleet.cli("a", &["config", "set", "camera", "gain", "1"]).ok();
    within("the value on b", || config(&b, "camera", "gain") == Some(json!(1)));
    fleet.cli("b", &["node", "offline"]).ok();
    within("no link", || a.links() == 0);
    insta::assert_snapshot!("status_offline", normalised(&without_counts(fleet.cli("b", &["status"]).ok())));
    // Two against one, so that the greatest operation id is on the same side in every run.
    fleet.cli("a", &["config", "set", "camera", "gain", "4"]).ok();
    fleet.cli("a", &["config", "set", "camera", "gain", "5"]).ok();
    fleet.cli("b", &["config", "set", "camera", "gain", "2"]).ok();
    fleet.cli("b", &["node", "online"]).ok();
    within("the conflict on a", || {
        let view = fleet.cli("a", &["config", "get", "camera", "-o", "json"]).json();
        !view["gain"]["conflicts"].is_null()
    });
    converge(&[&a, &b]);
    insta::assert_snapshot!("config_get_conflict", normalised(fleet.cli("a", &["config", "get", "camera"]).ok()));
    insta::assert_snapshot!("member_ls", normalised(fleet.cli("a", &["member", "ls"]).ok()));
    insta::assert_snapshot!("config_ls", normalised(fleet.cli("a", &["config", "ls"]).ok()));
    within("readings of both", || {
        let devices = fleet.cli("a", &["device", "ls", "-o", "json"]).json();
        devices.as_array().unwrap().iter().all(|row| row["source"] == "live")
    });
    let devices = fleet.cli("a", &["device", "ls"]);
    // This machine's readings are its own: what is compared is who and where.
    let rows: Vec<String> = devices
        .ok()
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            [&words[..3], &words[words.len() - 1..]].concat().join(" | ")
        })
        .collect();
    insta::assert_snapshot!("device_ls", rows.join("\n"));
    insta::assert_snapshot!("status", normalised(&without_counts(fleet.cli("a", &["status"]).ok())));
    insta::assert_snapshot!("not_found", fleet.cli("a", &["config", "get", "none"]).err);
}

/// How many telemetry changes there are is a matter of time.
fn without_counts(status: &str) -> String {
    let line = |line: &str| {
        if line.starts_with("holds") { "holds  N documents, changes, statements".to_owned() } else { line.to_owned() }
    };
    status.lines().map(line).collect::<Vec<_>>().join("\n")
}
