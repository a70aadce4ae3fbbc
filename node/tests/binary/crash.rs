//! Crashes at any moment: what was acknowledged is there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::fleet::{Fleet, Node, config, converge, within};
use crate::operator::Operator;
use crate::random::Random;

const SEED: u64 = 20_261_124;
const KILLS: u64 = 50;
/// Every fourth start is killed within this time, before or just after the node is ready.
const EARLY_US: u64 = 60_000;
/// All others are killed within this time after the first write was acknowledged.
const LATE_US: u64 = 250_000;

/// Writes to `config/burst` until the node is gone; notes what was acknowledged.
fn write_until_gone(
    node: &Node,
    operator: &mut Operator,
    next: &mut u64,
    acknowledged: &mut BTreeMap<String, u64>,
    has_written: &AtomicBool,
) {
    let Ok(mut api) = Api::connect(&node.socket()) else { return };
    loop {
        // Twenty keys that are overwritten and one that grows: both lost and stale values would be seen.
        let path = if next.is_multiple_of(2) { format!("key{}", *next % 20) } else { format!("once{next}") };
        match operator.set(&mut api, "config/burst", &path, &json!(*next)) {
            Ok(status) => {
                assert_eq!(status, 200);
                acknowledged.insert(path, *next);
                has_written.store(true, Ordering::Relaxed);
            }
            Err(_) => return,
        }
        *next += 1;
    }
}

/// Everything that was acknowledged is there; only the write that got no answer may stand in the place of another.
fn nothing_lost(node: &Node, acknowledged: &BTreeMap<String, u64>, unanswered: u64) {
    let answer = node.api().get("/v1/document?document=config/burst").unwrap();
    if acknowledged.is_empty() {
        return;
    }
    let view = answer.json();
    for (path, number) in acknowledged {
        let found = view["values"][path]["value"].as_u64();
        assert!(
            found == Some(*number) || found == Some(unanswered),
            "{} lost {path} = {number}, it has {found:?} (seed {SEED})",
            node.name
        );
    }
}

#[test]
fn fifty_kills_under_writes_lose_nothing_that_was_acknowledged() {
    let (fleet, a, mut b) = Fleet::pair();
    within("a link", || a.links() == 1);
    let mut random = Random::new(SEED);
    let mut operator = Operator::of(&fleet);
    let mut acknowledged = BTreeMap::new();
    let mut next = 1;
    for round in 0..KILLS {
        if round % 4 == 3 {
            // At any moment of the start, too.
            let moment = Duration::from_micros(random.below(EARLY_US));
            while b.age() < moment {
                std::hint::spin_loop();
            }
        } else {
            b = b.ready();
            nothing_lost(&b, &acknowledged, next);
            let has_written = AtomicBool::new(false);
            let moment = Duration::from_micros(random.below(LATE_US));
            let pid = b.pid();
            std::thread::scope(|scope| {
                let writer =
                    scope.spawn(|| write_until_gone(&b, &mut operator, &mut next, &mut acknowledged, &has_written));
                within("an acknowledged write", || has_written.load(Ordering::Relaxed) || writer.is_finished());
                // The moment is what is tested, so this is a wait and not one for a condition.
                std::thread::sleep(moment);
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            });
        }
        b.kill();
        b = fleet.start("b", &[]);
    }
    b = b.ready();
    nothing_lost(&b, &acknowledged, next);
    assert_eq!(operator.resubmit(&mut b.api()).unwrap(), 200);
    assert!(acknowledged.len() > 100, "only {} writes were acknowledged", acknowledged.len());
    operator.set(&mut b.api(), "config/burst", "last", &Value::Null).unwrap();
    within("the last write on a", || config(&a, "burst", "last").is_some());
    converge(&[&a, &b]);
    nothing_lost(&a, &acknowledged, next);
    for name in ["a", "b"] {
        fleet.cli(name, &["doc", "verify", "config/burst"]).ok();
    }
}
