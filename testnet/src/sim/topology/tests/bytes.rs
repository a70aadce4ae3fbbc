//! Whatever stands in a file: a topology that holds what it promises, or an error; never a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::{PRESETS, Topology};
use super::check;

/// A value as it stands in a file, mostly one that is allowed.
fn value() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => select(vec!["0", "-0.0", "2", "8", "0.2", "30"]),
        1 => select(vec!["1000", "10001", "1e-9", "1e308", "-1", "nan", "-inf", "\"x\"", "[]", "{}", "1979-05-27"]),
    ]
}

/// Some keys of a table that says what links are like; `access_ms` is not in each.
fn keys() -> impl Strategy<Value = String> {
    let quality = prop_oneof![
        8 => select(vec!["delay_ms", "jitter_ms", "rate_mbit_s", "loss_percent"]),
        1 => select(vec!["access_ms", "delay"]),
    ];
    vec((quality, value()), 0..3)
        .prop_map(|keys| keys.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
}

fn zones() -> impl Strategy<Value = String> {
    let zone = |(at, nodes): (usize, usize)| format!("[zones.z{at}]\nnodes = {nodes}\n");
    vec(1usize..40, 1..5).prop_map(move |zones| zones.into_iter().enumerate().map(zone).collect())
}

fn node() -> impl Strategy<Value = String> {
    prop_oneof![8 => (0..2, 0..20).prop_map(|(zone, number)| format!("z{zone}-{number}")), 1 => ".{0,8}"]
}

fn mesh() -> impl Strategy<Value = String> {
    let kind = select(vec!["full", "near-far", "line", "star", "listed", "ring"]);
    let number = (select(vec!["near", "far"]), value()).prop_map(|(key, value)| format!("{key} = {value}\n"));
    let hub = node().prop_map(|hub| format!("hubs = [{hub:?}]\n"));
    let within = any::<bool>().prop_map(|within| format!("within_zones = {within}\n"));
    let rest = prop_oneof![4 => Just(String::new()), 1 => number, 1 => hub, 1 => within];
    (kind, rest).prop_map(|(kind, rest)| format!("[mesh]\nkind = \"{kind}\"\n{rest}"))
}

fn table() -> impl Strategy<Value = String> {
    prop_oneof![
        keys().prop_map(|keys| format!("[within]\n{keys}")),
        keys().prop_map(|keys| format!("[across]\n{keys}")),
        (0..2, 0..3, keys()).prop_map(|(a, b, keys)| format!("[[between]]\nzones = [\"z{a}\", \"z{b}\"]\n{keys}")),
        (node(), node(), keys()).prop_map(|(a, b, keys)| format!("[[link]]\nbetween = [{a:?}, {b:?}]\n{keys}")),
        mesh(),
    ]
}

fn holds(text: &str, seed: u64) {
    if let Ok(topology) = Topology::parse("test", text, seed) {
        check(&topology);
        check(&topology.shrink_to(topology.nodes.len() / 2));
    }
}

proptest! {
    #[test]
    fn bytes(bytes in vec(any::<u8>(), 0..300), seed: u64) {
        holds(&String::from_utf8_lossy(&bytes), seed);
    }

    #[test]
    fn tables(zones in zones(), tables in vec(table(), 0..4), seed: u64) {
        holds(&format!("{zones}{}", tables.concat()), seed);
    }

    #[test]
    fn presets_with_something_else_in_them(
        preset in select(PRESETS.iter().filter(|(name, _)| !name.contains("000")).collect::<Vec<_>>()),
        places in vec((any::<Index>(), 0usize..30, ".{0,4}"), 1..4),
        seed: u64,
    ) {
        let mut text: Vec<char> = preset.1.chars().collect();
        for (at, gone, instead) in places {
            let at = at.index(text.len());
            let end = (at + gone).min(text.len());
            text.splice(at..end, instead.chars());
        }
        holds(&text.into_iter().collect::<String>(), seed);
    }
}
