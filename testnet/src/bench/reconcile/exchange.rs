//! The baseline: `automerge::sync` as applications on libp2p use it. A session is for one document, so that a link that comes up
//! costs an exchange for each document that there is.

use anyhow::Context;
use automerge::sync::{State, SyncDoc};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT};

use crate::bench::pair::Wire;

/// More messages than any exchange of two changes takes.
const TRIPS_MAX: u64 = 16;

/// What the two sides send of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Bytes of each side's messages.
    bytes: [u64; 2],
    /// One-way trips until nobody has anything to say.
    trips: u64,
}

impl Exchange {
    fn both(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// What is sent of a document of one change that is equal on both sides, and of one that got a second change on one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchanges {
    equal: Exchange,
    differing: Exchange,
    /// Bytes of the second change.
    change: u64,
}

/// The work of a reconnect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) documents: u64,
    /// Of which so many differ, one half newer on either side.
    pub(crate) differing: u64,
}

impl Exchanges {
    /// Measures them, with what `State::encode` keeps of the last session or with nothing. Of equal documents only the first
    /// message of both counts.
    pub(crate) fn measure(keeps_states: bool) -> anyhow::Result<Exchanges> {
        let mut left = AutoCommit::new().with_actor(ActorId::from([1; 16]));
        left.put(ROOT, "a", 0)?;
        let mut docs = [left.fork().with_actor(ActorId::from([2; 16])), left];
        docs.reverse();
        let mut states = [State::new(), State::new()];
        if keeps_states {
            run(&mut docs, &mut states, TRIPS_MAX)?;
            for state in &mut states {
                *state = State::decode(&state.encode()).context("a state that was just kept")?;
            }
        }
        let equal = run(&mut docs, &mut states.clone(), 1)?;
        docs[0].put(ROOT, "a", 1)?;
        let change = docs[0].get_last_local_change().context("a change was made")?.raw_bytes().len() as u64;
        let differing = run(&mut docs, &mut states, TRIPS_MAX)?;
        Ok(Exchanges { equal, differing, change })
    }

    /// Whether equal documents, of which there are most, cost less.
    pub(crate) fn is_cheaper_than(&self, other: &Exchanges) -> bool {
        self.equal.both() < other.equal.both()
    }

    /// Bytes of everything, both ways.
    pub(crate) fn bytes(&self, work: Work) -> f64 {
        let equal = (work.documents - work.differing) * self.equal.both();
        (equal + work.differing * self.differing.both()) as f64
    }

    /// The same beside the changes themselves.
    pub(crate) fn bytes_beside_changes(&self, work: Work) -> f64 {
        self.bytes(work) - (work.differing * self.change) as f64
    }

    /// How long all takes that is sent at once, as far as the line and its delay go, milliseconds.
    pub(crate) fn heal_ms(&self, work: Work, wire: Wire) -> f64 {
        // Half of what differs is newer on either side, so that the directions are alike.
        let transmission_us = wire.transmission_us((self.bytes(work) / 2.0) as u64);
        (self.differing.trips * wire.delay_us + transmission_us) as f64 / 1e3
    }

    /// For people.
    pub(crate) fn about(&self) -> String {
        format!(
            "{} + {} bytes of an equal document; {} + {} of one that differs, in {} trips, {} of them the change",
            self.equal.bytes[0],
            self.equal.bytes[1],
            self.differing.bytes[0],
            self.differing.bytes[1],
            self.differing.trips,
            self.change
        )
    }
}

/// Both sides say what they have to say, then hear it, until nobody says anything.
fn run(docs: &mut [AutoCommit; 2], states: &mut [State; 2], trips_max: u64) -> anyhow::Result<Exchange> {
    let mut exchange = Exchange { bytes: [0; 2], trips: 0 };
    while exchange.trips < trips_max {
        let messages: [_; 2] = std::array::from_fn(|side| docs[side].sync().generate_sync_message(&mut states[side]));
        if messages.iter().all(Option::is_none) {
            break;
        }
        exchange.trips += 1;
        for (from, message) in messages.into_iter().enumerate() {
            let Some(message) = message else { continue };
            exchange.bytes[from] += message.clone().encode().len() as u64;
            docs[1 - from].sync().receive_sync_message(&mut states[1 - from], message)?;
        }
    }
    Ok(exchange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_multiplied() {
        let equal = Exchange { bytes: [10, 20], trips: 1 };
        let differing = Exchange { bytes: [100, 40], trips: 3 };
        let exchanges = Exchanges { equal, differing, change: 50 };
        let dearer = Exchanges { equal: Exchange { bytes: [11, 20], trips: 1 }, ..exchanges };
        assert!(exchanges.is_cheaper_than(&dearer) && !dearer.is_cheaper_than(&exchanges));
        let work = Work { documents: 1000, differing: 10 };
        assert_eq!(exchanges.bytes(work), 990.0 * 30.0 + 10.0 * 140.0);
        assert_eq!(exchanges.bytes_beside_changes(work), 990.0 * 30.0 + 10.0 * 90.0);
        let wire = Wire { delay_us: 50_000, rate: 1_000_000 };
        assert_eq!(exchanges.heal_ms(work, wire), 150.0 + 15.55);
    }

    #[test]
    fn a_document_that_differs_costs_its_change_and_then_is_equal() {
        for keeps_states in [false, true] {
            let Exchanges { equal, differing, change } = Exchanges::measure(keeps_states).unwrap();
            assert!(equal.bytes.iter().all(|bytes| *bytes > 32) && equal.trips == 1, "{equal:?}");
            assert!(differing.bytes[0] > change && (2..TRIPS_MAX).contains(&differing.trips), "{differing:?}");
        }
    }
}
