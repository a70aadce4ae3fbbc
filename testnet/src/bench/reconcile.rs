//! Two shipped engines with many logs, and what it costs them to find out what differs: in virtual time, over a link of 50 ms
//! one way and 20 Mbit/s each way.
//!
//! *Bytes beside the changes* are those of all frames but `Hello`, `Ask`, probes, and the signed changes themselves (`Name` and
//! `Changes`). The *time to heal* is from the link's coming up at both ends to equal roots.
//!
//! Beside them stands `automerge::sync`, which knows one document and one peer: whoever uses it over libp2p has a session of
//! it for each document, and a link that comes up costs an exchange for each document that there is. One exchange is
//! measured with the real crate, for a document of one change that is equal on both sides (the first message of both) and
//! for one that got a second change on one side (all messages), and counted once for each document; nothing is added
//! for naming the documents or for framing. It is measured with the states of the last session (`State::encode`) and
//! without, and the cheaper counts. The time is that of the one-way trips of an exchange, and of all bytes of one
//! direction at the link's rate, as if all documents were exchanged at once.

use clap::Args;

use self::base::Base;
use self::exchange::{Exchanges, Work};
use super::pair::{Pair, Traffic, Wire, kind};
use super::report::{Report, Row};
use super::{Format, note};

mod base;
mod exchange;
mod urgent;

/// The link.
const WIRE: Wire = Wire { delay_us: 50_000, rate: 20_000_000 / 8 };
/// So long after a link came up both sides have compared roots.
const COMPARED_MS: u64 = 70_000;
/// So long after the roots are equal nothing follows.
const SETTLED_MS: u64 = 5_000;
/// The longest wait for anything, microseconds.
const WAIT_US: u64 = 120_000_000;
/// The changes themselves.
const OF_CHANGES: [u8; 2] = [kind::NAME, kind::CHANGES];
/// What a link says when it comes up, whatever differs.
const OF_GREETING: [u8; 4] = [kind::HELLO, kind::ASK, kind::PROBE, kind::PROBE_ANSWER];
/// Documents that change while the link is down and the cursors are known.
const MISSED: [usize; 3] = [1, 100, 1000];
/// Documents that differ without a cursor, and what finding them may cost, bytes.
const DIFFERING: [(usize, f64); 2] = [(10, 8_000.0), (HEALED, 280_000.0)];
/// Documents that change while two nodes are apart.
const HEALED: usize = 1000;

/// `bench reconcile`
#[derive(Args)]
pub(crate) struct ReconcileArgs {
    /// Logs on both sides; of fewer, a thousand that differ would be too large a part to be told by a cursor
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(4000..=1_000_000))]
    logs: u32,
    /// History that is on its way while stops are sent, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=4096))]
    backlog_mib: u32,
    /// Prints what was sent, by type of frame and direction
    #[arg(long)]
    verbose: bool,
    /// The form of output
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Format,
}

/// What a link that came up sent until all was settled.
struct Healed {
    traffic: Traffic,
    /// Until the roots were equal, microseconds.
    after_us: u64,
}

/// The bench while it runs.
struct Bench<'a> {
    args: &'a ReconcileArgs,
    base: Base,
    pair: Pair,
    /// What `automerge::sync` does by the document.
    exchanges: Exchanges,
    /// The value that is written next: no two changes are alike.
    value: i64,
    report: Report,
}

/// Runs everything.
pub(crate) fn run(args: &ReconcileArgs) -> anyhow::Result<Report> {
    let (kept, fresh) = (Exchanges::measure(true)?, Exchanges::measure(false)?);
    note("==> beside: automerge::sync, one exchange for each document whenever a link comes up");
    note(&format!("    with kept states: {}", kept.about()));
    note(&format!("    without: {}", fresh.about()));
    let exchanges = if kept.is_cheaper_than(&fresh) { kept } else { fresh };
    note(&format!("==> {} logs are written", args.logs));
    let mut base = Base::make(args.logs as usize)?;
    let pair = base.pair(WIRE)?;
    let report = Report::new("reconcile").beside("TIMES AUTOMERGE::SYNC, BY THE DOCUMENT");
    let mut bench = Bench { args, base, pair, exchanges, value: 0, report };
    bench.equal()?;
    bench.missed()?;
    bench.healed_by_cursors()?;
    bench.without_cursors()?;
    let Bench { mut report, .. } = bench;
    report.extend(urgent::rows(args.backlog_mib)?);
    Ok(report)
}

impl Bench<'_> {
    fn work(&self, differing: usize) -> Work {
        Work { documents: u64::from(self.args.logs), differing: differing as u64 }
    }

    /// So many documents change on each device.
    fn change(&mut self, counts: [usize; 2]) -> anyhow::Result<()> {
        self.value += 1;
        for (number, count) in counts.into_iter().enumerate() {
            self.base.change(&mut self.pair, number, count, self.value)?;
        }
        Ok(())
    }

    /// The link comes up; each of so many missing changes comes once.
    fn link_up(&mut self, what: &str, changes: usize) -> anyhow::Result<Healed> {
        self.pair.take_traffic();
        self.pair.link_up()?;
        let after_us = self.pair.run_until(WAIT_US, Pair::is_equal)?;
        self.pair.run_for(SETTLED_MS)?;
        let traffic = self.pair.take_traffic();
        self.tell(what, &traffic);
        let came = traffic.frames(kind::CHANGES);
        anyhow::ensure!(came == changes as u64, "{what}: {came} changes were sent for {changes} that were missing");
        Ok(Healed { traffic, after_us })
    }

    fn tell(&self, what: &str, traffic: &Traffic) {
        if self.args.verbose {
            note(&format!("==> {what}\n{traffic}"));
        }
    }

    /// Equal replicas compare roots: right after a change, when both orders of admission have grown, and once more.
    fn equal(&mut self) -> anyhow::Result<()> {
        self.link_up("equal from the start", 0)?;
        self.pair.run_for(COMPARED_MS)?;
        self.change([1, 1])?;
        self.pair.run_for(SETTLED_MS)?;
        for when in ["after a change on either side", "when nothing has changed since"] {
            self.pair.take_traffic();
            self.pair.run_until(WAIT_US, |pair| pair.traffic().frames(kind::ROOT) > 0)?;
            self.pair.run_for(1_000)?;
            let traffic = self.pair.take_traffic();
            let name = format!("equal replicas: one comparison, {when}");
            self.tell(&name, &traffic);
            anyhow::ensure!(traffic.frames(kind::ROOT) == 1, "two comparisons at the same time");
            let bytes = traffic.bytes_of(&[kind::ROOT, kind::PLACE]) as f64;
            let beside = self.exchanges.bytes(self.work(0));
            self.report.add(Row::new(name, "bytes", bytes).at_most(64.0).beside(beside));
        }
        Ok(())
    }

    /// A reconnect after changes on one side, where both know up to where they have the other's order of admission.
    fn missed(&mut self) -> anyhow::Result<()> {
        for missed in MISSED {
            self.pair.run_for(COMPARED_MS)?;
            self.pair.cut()?;
            self.change([missed, 0])?;
            let name = format!("reconnect after {missed} missed changes");
            let Healed { traffic, .. } = self.link_up(&name, missed)?;
            let (all, changes) = (traffic.bytes_beside(&OF_GREETING) as f64, traffic.bytes_of(&OF_CHANGES) as f64);
            let beside = self.exchanges.bytes(self.work(missed));
            let what = format!("{name}: bytes over those of the signed changes");
            self.report.add(Row::new(what, "×", all / changes).at_most(1.3));
            self.report.add(Row::new(format!("{name}: all bytes"), "bytes", all).beside(beside));
        }
        Ok(())
    }

    /// Both sides changed while they were apart, and know up to where they had each other's.
    fn healed_by_cursors(&mut self) -> anyhow::Result<()> {
        self.pair.run_for(COMPARED_MS)?;
        self.pair.cut()?;
        self.change([HEALED / 2; 2])?;
        let healed = self.link_up("heal with cursors", HEALED)?;
        let beside = self.exchanges.heal_ms(self.work(HEALED), WIRE);
        self.report.extend(heal_rows("with cursors", &healed, beside));
        Ok(())
    }

    /// Both start anew after a crash: no cursor holds, and ranges are compared.
    fn without_cursors(&mut self) -> anyhow::Result<()> {
        for (differing, most) in DIFFERING {
            self.base.restart(&mut self.pair)?;
            self.change([differing / 2; 2])?;
            let name = format!("{} logs of which {differing} differ, no cursor", self.args.logs);
            let healed = self.link_up(&name, differing)?;
            let kinds = [OF_GREETING.as_slice(), OF_CHANGES.as_slice()].concat();
            let bytes = healed.traffic.bytes_beside(&kinds) as f64;
            let beside = self.exchanges.bytes_beside_changes(self.work(differing));
            let what = format!("{name}: bytes beside the changes");
            self.report.add(Row::new(what, "bytes", bytes).at_most(most).beside(beside));
            if differing == HEALED {
                let beside = self.exchanges.heal_ms(self.work(HEALED), WIRE);
                self.report.extend(heal_rows("no cursor", &healed, beside));
            }
        }
        Ok(())
    }
}

/// Three round trips, and 1.3 times what the changes of the larger direction take to leave, milliseconds.
fn heal_ms_max(transfer_us: u64) -> f64 {
    (3 * 2 * WIRE.delay_us) as f64 / 1e3 + 1.3 * transfer_us as f64 / 1e3
}

fn heal_rows(how: &str, healed: &Healed, beside_ms: f64) -> [Row; 2] {
    let transfer_us = WIRE.transmission_us(healed.traffic.bytes_one_way(&OF_CHANGES));
    let (after_ms, most_ms) = (healed.after_us as f64 / 1e3, heal_ms_max(transfer_us));
    let name = format!("heal with {HEALED} changed documents, {how}");
    let three_ms = 3 * 2 * WIRE.delay_us / 1000;
    [
        Row::new(format!("{name}: over 3 RTT + 1.3 × transfer"), "×", after_ms / most_ms).at_most(1.0),
        Row::new(format!("{name} (3 RTT are {three_ms} ms)"), "ms", after_ms).beside(beside_ms),
    ]
}

#[cfg(test)]
mod tests;
