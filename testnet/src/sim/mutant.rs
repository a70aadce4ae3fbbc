//! Wrappers that break a node on purpose, one for each oracle: an oracle that does not catch its mutant proves nothing.
//! They live between the engine and its driver; the engine is the shipped one.

use super::scenario::Scenario;
use super::verdict::{Oracle, Violation};
use super::world::run;

/// A way to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mutant {
    /// The index has other values than were written.
    StoresOtherValues,
    /// The same on all nodes, so that they agree.
    AllStoreOtherValues,
    /// A power cut leaves half of a batch.
    TearsBatches,
    /// Says that a batch is synced before it is.
    SyncsTooEarly,
    /// Takes no frame that says what a peer has.
    ComparesNothing,
    /// Sends the last changes again and again.
    RepeatsForEver,
    /// What was refused is taken all the same, as it was before it was altered.
    TakesWhatItRefused,
    /// Sends changes many times over, and has credit for each time.
    SendsManifold,
    /// Takes no removal.
    IgnoresRemovals,
    /// Lets the machine's clock decide something.
    AsksTheMachine,
}

/// All of them, each with the oracle that must catch it, and what it does.
pub(crate) const MUTANTS: [(Mutant, Oracle, &str); 10] = [
    (Mutant::StoresOtherValues, Oracle::EqualSets, "the index has other values than were written"),
    (Mutant::AllStoreOtherValues, Oracle::ViewsAsAutomerge, "the same on all nodes, so that they agree"),
    (Mutant::TearsBatches, Oracle::OpensAgain, "a power cut leaves half of a batch"),
    (Mutant::SyncsTooEarly, Oracle::NothingLost, "a batch is reported as synced before it is"),
    (Mutant::ComparesNothing, Oracle::HealsInTime, "frames that say what a peer has are not heard"),
    (Mutant::RepeatsForEver, Oracle::SilenceAfterwards, "the last changes are sent again every few seconds"),
    (Mutant::TakesWhatItRefused, Oracle::RefusalsChangeNothing, "an altered frame is refused, its original is taken"),
    (Mutant::SendsManifold, Oracle::Limits, "changes leave sixteen times, and are credited as often"),
    (Mutant::IgnoresRemovals, Oracle::RemovedCountNoMore, "statements that remove a device are not taken"),
    (
        Mutant::AsksTheMachine,
        Oracle::SameSeedSameRun,
        "the machine's own clock decides which end hears first of a link",
    ),
];

impl Mutant {
    /// The nodes that are broken: some, so that the others show what is right; all, where nobody has to show it.
    pub(crate) fn breaks(self, node: usize) -> bool {
        matches!(self, Mutant::AllStoreOtherValues | Mutant::TakesWhatItRefused) || node % 3 == 1
    }
}

/// Seeds that are tried to catch a mutant.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;

/// Runs a broken fleet until the oracle catches it: the seed and the breach. The same runs without the mutant must hold.
pub(crate) fn hunt(mutant: Mutant, oracle: Oracle) -> Option<(u64, Violation)> {
    let scenario = Scenario::parse("mutants", include_str!("../../scenarios/mutants.toml")).ok()?;
    for seed in SEEDS {
        let plan = scenario.plan(seed).ok()?;
        let ended = run(&plan, Some(mutant), None);
        if oracle == Oracle::SameSeedSameRun && run(&plan, Some(mutant), None).trace != ended.trace {
            return Some((seed, Violation { oracle, what: "two runs of one seed differ".to_owned() }));
        }
        if let Some(violation) = ended.violations.into_iter().find(|violation| violation.oracle == oracle) {
            return Some((seed, violation));
        }
    }
    None
}
