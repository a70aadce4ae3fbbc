//! Makes a failing plan smaller while it fails in the same way: fewer steps (delta debugging, Zeller and Hildebrandt 2002),
//! fewer nodes, less time.

use super::plan::Plan;
use super::verdict::Oracle;
use super::world::run;

/// Runs that are spent on it.
const RUNS_MAX: usize = 200;

struct Shrinker {
    oracle: Oracle,
    best: Plan,
    runs: usize,
}

/// The smallest plan that was found which the same oracle catches; `progress` is told its size after each step.
pub(crate) fn shrink(plan: Plan, oracle: Oracle, mut progress: impl FnMut(&Plan)) -> Plan {
    let mut shrinker = Shrinker { oracle, best: plan, runs: 0 };
    loop {
        let before = size(&shrinker.best);
        shrinker.shorten();
        shrinker.drop_nodes();
        shrinker.drop_steps();
        progress(&shrinker.best);
        if size(&shrinker.best) == before || shrinker.runs >= RUNS_MAX {
            return shrinker.best;
        }
    }
}

fn size(plan: &Plan) -> (usize, usize, u64) {
    (plan.topology.nodes.len(), plan.steps.len(), plan.heal_ms)
}

impl Shrinker {
    /// Takes a candidate over where it still fails.
    fn fails(&mut self, candidate: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let fails = run(&candidate, None, None).violations.iter().any(|violation| violation.oracle == self.oracle);
        if fails {
            self.best = candidate;
        }
        fails
    }

    /// Heals earlier.
    fn shorten(&mut self) {
        loop {
            let mut candidate = self.best.clone();
            candidate.heal_ms = candidate.heal_ms / 4 * 3;
            candidate.steps.retain(|(at_ms, _)| *at_ms < candidate.heal_ms);
            if candidate.heal_ms < 1_000 || !self.fails(candidate) {
                return;
            }
        }
    }

    fn drop_nodes(&mut self) {
        for share in [4, 2] {
            loop {
                let nodes = self.best.topology.nodes.len();
                let fewer = nodes - nodes.div_ceil(share);
                let mut candidate = self.best.clone();
                candidate.topology = candidate.topology.shrink_to(fewer);
                candidate.ground = candidate.ground.map(|ground| ground.shrink_to(fewer));
                candidate.steps.retain(|(_, step)| step.nodes().iter().all(|node| *node < fewer));
                candidate.joiners.retain(|node| *node < fewer);
                if fewer < 2 || !self.fails(candidate) {
                    break;
                }
            }
        }
    }

    fn drop_steps(&mut self) {
        let mut part = self.best.steps.len().div_ceil(2);
        while part > 0 && self.runs < RUNS_MAX {
            let mut at = 0;
            while at < self.best.steps.len() {
                let mut candidate = self.best.clone();
                let end = (at + part).min(candidate.steps.len());
                candidate.steps.drain(at..end);
                if !self.fails(candidate) {
                    at = end;
                }
            }
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }
}
