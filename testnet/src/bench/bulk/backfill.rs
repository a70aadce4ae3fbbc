//! Changes that a node has missed, over one long line that loses packets: with the bulk plane, and without.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;

use super::{Ground, LONG, has_answer, questions};
use crate::bench::process::PATIENCE;
use crate::bench::report::{Report, Row, median};

/// Characters of a value that is written; what is signed and sent is about as long.
const VALUE_CHARACTERS: usize = 12 * 1024;
const DOCUMENT: &str = "config/bench";
/// The node that writes, and the one that has missed it.
const WRITER: &str = "ends-0";
const MISSING: &str = "ends-1";
const QUESTIONS: usize = 30;
/// Without the bulk plane it takes long: so much less is sent, but more than may come before the first loss counts.
const LESS: u64 = 8;

/// Text of printable characters that hardly gets shorter when it is compressed.
fn noise(state: &mut u64) -> String {
    let mut next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + ((*state >> 40) % 94) as u8)
    };
    (0..VALUE_CHARACTERS).map(|_| next()).collect()
}

/// Writes so many bytes of changes; what they are.
async fn write(ground: &Ground, seed: u64, bytes: u64) -> anyhow::Result<u64> {
    let (operator, mut client) = (ground.fleet.operator()?, ground.client(WRITER).await?);
    let (mut written, mut state) = (0, seed);
    while written < bytes {
        written += operator.set(&mut client, DOCUMENT, "noise", noise(&mut state)).await? as u64;
    }
    Ok(written)
}

/// Has a node miss changes and come back; the share of the line that they take then, and round trips of questions meanwhile,
/// milliseconds.
async fn miss(ground: &mut Ground, with_bulk: bool, bytes: u64) -> anyhow::Result<(f64, Vec<f64>)> {
    let node = ground.node(MISSING)?;
    ground.fleet.stop(node).await?;
    let settings = ground.fleet.folder_of(node).join("config.toml");
    std::fs::write(settings, format!("[bulk]\nbackfill = {with_bulk}\n"))?;
    let written = write(ground, u64::from(with_bulk), bytes).await?;
    ground.fleet.start_again(node).await?;
    let start = Instant::now();
    has_answer(&mut ground.client(WRITER).await?, &format!("/v1/ping/{MISSING}"), "no link came up").await?;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let asking = questions(ground.client(WRITER).await?, MISSING.to_owned(), move |_| *is_over.borrow());
    let asking = tokio::spawn(asking);
    let agreed = ground.fleet.watch().agree(10 * PATIENCE).await;
    ensure!(agreed.is_ok(), "what was missed does not come: {agreed:?}");
    let seconds = start.elapsed().as_secs_f64();
    // An error means that a question had no answer, which is told below.
    let _ = over.send(true);
    Ok((written as f64 * 8.0 / seconds / LONG, asking.await??))
}

pub(super) async fn bench(report: &mut Report, program: &Path, folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut ground = Ground::start("changes", "bulk-long", program, folder).await?;
    let idle = questions(ground.client(WRITER).await?, MISSING.to_owned(), |asked| asked >= QUESTIONS).await?;
    let (without, _) = miss(&mut ground, false, bytes / LESS).await?;
    let (with, meanwhile) = miss(&mut ground, true, bytes).await?;
    report.add(Row::new("the same line: the share of changes that were missed", "%", with * 100.0));
    report.add(Row::new("the same without the bulk plane", "%", without * 100.0));
    report.add(Row::new("with it against without", "x", with / without));
    report.add(Row::new("a question meanwhile, later than without, p50", "ms", median(&meanwhile) - median(&idle)));
    Ok(())
}
