//! What is urgent while a long history is on its way: statements of class `stop`, one every two seconds, over a link of
//! 25 ms one way and 20 Mbit/s, behind a backlog of large changes.

use anyhow::ensure;
use crdt::schema::Value;
use crdt::sync::{Edit, Input, RequestId};

use super::base::Base;
use crate::bench::note;
use crate::bench::pair::{Pair, Wire};
use crate::bench::report::{Row, quantile};

/// The link.
const WIRE: Wire = Wire { delay_us: 25_000, rate: 20_000_000 / 8 };
/// Bytes of a value; three make a change.
const VALUE_BYTES: usize = 15_000;
const VALUES: usize = 3;
/// Between two stops, milliseconds.
const EVERY_MS: u64 = 2_000;
/// The longest wait for one, microseconds.
const WAIT_US: u64 = 60_000_000;
/// What a stop may take beyond the link's own delay, milliseconds.
const LATE_MS_MAX: f64 = 50.0;

/// How late stops are while `mebibytes` of changes are on their way.
pub(super) fn rows(mebibytes: u32) -> anyhow::Result<Vec<Row>> {
    let mut base = Base::make(0)?;
    let mut pair = base.pair(WIRE)?;
    let changes = (mebibytes as usize * (1 << 20)).div_ceil(VALUES * VALUE_BYTES);
    note(&format!("==> {changes} changes of {} KB are written, then a link comes up", VALUES * VALUE_BYTES / 1000));
    for document in 0..changes {
        let edit = |path: usize| {
            let value = Value::Text(format!("{document:0VALUE_BYTES$}"));
            Edit { path: format!("p{path}"), value: Some(value) }
        };
        let edits = (0..VALUES).map(edit).collect();
        pair.act(0, |node, now_us| base.edit(node, now_us, document, edits))?;
    }
    let idle_ms = idle(&mut base)?;
    pair.link_up()?;
    let mut late_ms = Vec::new();
    while !has_all(&pair) {
        pair.run_for(EVERY_MS)?;
        late_ms.push(stop(&base, &mut pair, 2 + late_ms.len() as u64)? - idle_ms);
    }
    ensure!(!late_ms.is_empty(), "nothing was on its way");
    late_ms.sort_by(f64::total_cmp);
    let name =
        format!("stop behind {mebibytes} MiB of history at 20 Mbit/s, beyond the {idle_ms:.1} ms of an idle link");
    let at = |share: f64| quantile(&late_ms, share);
    Ok(vec![
        Row::new(format!("{name}, p50 of {}", late_ms.len()), "ms", at(0.5)).at_most(LATE_MS_MAX),
        Row::new(format!("{name}, p99"), "ms", at(0.99)).at_most(LATE_MS_MAX),
        Row::new(format!("{name}, max"), "ms", at(1.0)).at_most(LATE_MS_MAX),
    ])
}

/// Whether the other side has everything.
fn has_all(pair: &Pair) -> bool {
    let [from, to] = &pair.nodes;
    to.engine.replica().logs().changes() >= from.engine.replica().logs().changes()
}

/// A stop on a link on which nothing else is, milliseconds.
fn idle(base: &mut Base) -> anyhow::Result<f64> {
    let mut pair = base.pair(WIRE)?;
    pair.link_up()?;
    pair.run_for(EVERY_MS)?;
    stop(base, &mut pair, 1)
}

/// An operator hands in a stop on one side; how long until it is on the other, milliseconds.
fn stop(base: &Base, pair: &mut Pair, number: u64) -> anyhow::Result<f64> {
    let signed = base.stop(number);
    let id = signed.id();
    let input = Input::Statements { request: RequestId(number << 32), statements: vec![signed.parts()] };
    pair.act(0, |node, now_us| node.handle(now_us, input))?;
    let is_there = |pair: &Pair| pair.nodes[1].engine.replica().roster().entries().contains_key(&id);
    Ok(pair.run_until(WAIT_US, is_there)? as f64 / 1e3)
}
