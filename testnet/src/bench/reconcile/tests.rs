//! The driver with real engines, and the bench on few logs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

#[test]
fn time_to_heal_is_judged_by_round_trips_and_transfer() {
    assert_eq!(heal_ms_max(0), 300.0);
    assert_eq!(heal_ms_max(100_000), 430.0);
    let mut traffic = Traffic::default();
    traffic.note(0, &[kind::CHANGES; 250_000]);
    traffic.note(1, &[kind::CHANGES; 100]);
    let healed = Healed { traffic, after_us: 860_000 };
    let [ratio, ms] = heal_rows("so", &healed, 8_600.0).map(|row| {
        let mut report = Report::new("x");
        report.add(row);
        serde_json::from_str::<Value>(&report.to_json().unwrap()).unwrap()["rows"][0].clone()
    });
    assert_eq!((&ratio["value"], &ratio["pass"]), (&2.0.into(), &false.into()));
    assert_eq!((&ms["value"], &ms["ratio"]), (&860.0.into(), &0.1.into()));
}

#[test]
fn engines_over_a_link_see_its_delay_and_its_rate() {
    let mut base = Base::make(4).unwrap();
    let wire = Wire { delay_us: 50_000, rate: 0 };
    let mut pair = base.pair(wire).unwrap();
    pair.link_up().unwrap();
    pair.run_for(10_000).unwrap();
    let rtt = |pair: &Pair| pair.nodes[0].engine.links().next().unwrap().rtt_micros.unwrap();
    assert_eq!(rtt(&pair), 100_000);
    // A probe of a few bytes at a thousand bytes a second takes its time, both ways.
    let mut slow = base.pair(Wire { rate: 1000, ..wire }).unwrap();
    slow.link_up().unwrap();
    slow.run_for(60_000).unwrap();
    assert!((108_000..130_000).contains(&rtt(&slow)), "{}", rtt(&slow));
}

#[test]
fn what_is_written_on_one_is_on_the_other_after_a_cut() {
    let mut base = Base::make(4).unwrap();
    let mut pair = base.pair(WIRE).unwrap();
    assert!(pair.is_equal());
    pair.link_up().unwrap();
    pair.run_for(1_000).unwrap();
    pair.cut().unwrap();
    pair.take_traffic();
    base.change(&mut pair, 0, 2, 1).unwrap();
    base.change(&mut pair, 1, 1, 1).unwrap();
    assert!(!pair.is_equal());
    pair.run_for(1_000).unwrap();
    assert!(!pair.is_equal() && pair.traffic().frames(kind::CHANGES) == 0);
    base.restart(&mut pair).unwrap();
    pair.link_up().unwrap();
    let after_us = pair.run_until(WAIT_US, Pair::is_equal).unwrap();
    assert!(after_us >= 4 * WIRE.delay_us, "{after_us}");
    assert_eq!(pair.take_traffic().frames(kind::CHANGES), 3);
}

#[test]
fn few_logs_show_what_many_do() {
    let args = ReconcileArgs { logs: 4000, backlog_mib: 16, verbose: true, output: Format::Json };
    let report: Value = serde_json::from_str(&run(&args).unwrap().to_json().unwrap()).unwrap();
    let rows: BTreeMap<&str, &Value> =
        report["rows"].as_array().unwrap().iter().map(|row| (row["name"].as_str().unwrap(), row)).collect();
    assert_eq!(rows.len(), 2 + 2 * MISSED.len() + DIFFERING.len() + 4 + 3);
    let row = |what: &str| {
        let found = rows.iter().find(|(name, _)| name.starts_with(what));
        found.map_or_else(|| panic!("no row of {what}"), |(_, row)| *row)
    };
    assert_eq!(row("equal replicas")["pass"], true);
    // What differs is told by name, so that it costs something beside the changes, and less than they do.
    let ratio = row("reconnect after 1000 missed changes: bytes over")["value"].as_f64().unwrap();
    assert!(ratio > 1.0 && ratio < 1.3, "{ratio}");
    let [few, many] = DIFFERING.map(|(count, _)| row(&format!("4000 logs of which {count} differ"))["value"].as_f64());
    assert!(few > Some(1_536.0) && many > few, "{few:?} {many:?}");
    let times = ["with cursors (", "no cursor ("]
        .map(|how| row(&format!("heal with {HEALED} changed documents, {how}"))["value"].as_f64().unwrap());
    assert!(200.0 < times[0] && times[0] < times[1], "{times:?}");
    assert_eq!(row("stop behind 16 MiB")["pass"], true);
}
