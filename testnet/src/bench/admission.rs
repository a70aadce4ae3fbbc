//! What the gate costs: one change of five values of a document of one writer, in process.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, ensure};
use crdt::admission::{Gate, Outcome};
use crdt::change::is_vouched;
use crdt::roster::{Judgement, Roster};
use crdt::schema::Kind;
use crdt::statement::SignedStatement;
use crdt::store::{LogStore, MemoryStore, Staged};
use ed25519_dalek::SigningKey;

use super::author::{Author, enrol, found, key, readings};
use super::report::{Row, median};

const CHANGES: u64 = 500;
const RUNS: u64 = 9;
const VALUES: u64 = 5;

/// A fleet of one device, in memory.
fn fleet() -> anyhow::Result<(Roster, SigningKey)> {
    let (operator, mut statements) = found();
    let device = key(1, 3);
    statements.extend(enrol(&operator, &device, &key(1, 4), "bench"));
    let mut roster = Roster::new(operator.fleet);
    statements.iter().try_for_each(|signed| take(&mut roster, signed))?;
    Ok((roster, device))
}

fn take(roster: &mut Roster, signed: &SignedStatement) -> anyhow::Result<()> {
    let Judgement::Store(signed) = roster.judge(signed) else { anyhow::bail!("a statement was not taken") };
    roster.insert(*signed);
    Ok(())
}

/// Medians of one run, microseconds: all of the admission, and the check of the signature alone.
fn run(roster: &Roster, device: &SigningKey) -> anyhow::Result<(f64, f64)> {
    let fleet = roster.fleet();
    let gate = Gate { fleet: &fleet, roster };
    let mut store = MemoryStore::default();
    let mut author = Author::new(fleet, device, Kind::Resource, 1);
    let (mut whole, mut signature) = (Vec::new(), Vec::new());
    for turn in 0..CHANGES {
        let run = author.write(&readings(turn * VALUES, VALUES))?;
        let siblings = if turn == 0 { &[][..] } else { std::slice::from_ref(&author.actor) };
        let start = Instant::now();
        let mut staged = Staged::new(&store);
        let outcome = gate.admit(&mut staged, siblings, &run)?;
        let batch = staged.into_batch();
        whole.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(matches!(outcome, Outcome::Admitted(_)), "a change was not admitted: {outcome:?}");
        let start = Instant::now();
        let is_vouched = is_vouched(&run.log.author, &fleet, &author.actor, author.seq, &author.chain, &run.signature);
        signature.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(is_vouched, "a signature does not verify");
        store.apply(&batch);
    }
    let mut rows = 0;
    store.scan(crdt::store::Table::Change, &[], &[0xff; 25], &mut |_, _| {
        rows += 1;
        ControlFlow::Continue(())
    })?;
    ensure!(rows == CHANGES, "{rows} changes were stored");
    Ok((median(&whole), median(&signature)))
}

/// Admission with the check of the signature taken off, and that check.
pub(crate) fn rows() -> anyhow::Result<Vec<Row>> {
    let (roster, device) = fleet().context("a fleet in memory")?;
    let runs = (0..RUNS).map(|_| run(&roster, &device)).collect::<anyhow::Result<Vec<_>>>()?;
    let rest: Vec<f64> = runs.iter().map(|(whole, signature)| whole - signature).collect();
    let signature: Vec<f64> = runs.iter().map(|(_, signature)| *signature).collect();
    let signature = median(&signature);
    Ok(vec![
        Row::new(
            "admission of a one-writer change of 5 values, signature aside (store in memory)",
            "µs",
            median(&rest),
        )
        .at_most(15.0)
        .beside(signature),
        Row::new("the signature's strict verification", "µs", signature),
    ])
}
