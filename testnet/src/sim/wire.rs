//! Lines between nodes and the sessions on them: reliable and ordered until they are cut, slow where the line is slow. A
//! lost packet is a delay of everything behind it on its stream.

use std::collections::BTreeMap;

use crdt::sync::{Channel, LinkId};

use super::random::Random;
use super::topology::Line;

/// Bytes of a packet.
const PACKET_BYTES: u64 = 1200;
/// Retransmissions of one packet at most.
const RETRIES_MAX: u32 = 16;

/// What one end sends to the other.
#[derive(Debug, Clone, Default)]
struct Direction {
    /// When the line has taken all that was given to it, microseconds.
    busy_until_us: u64,
    /// When the last frame of each stream arrives, microseconds.
    last_us: BTreeMap<Channel, u64>,
}

/// A session between two nodes.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The line's number.
    pub(crate) line: usize,
    /// Node and link of each end, as the line has them.
    pub(crate) ends: [(usize, LinkId); 2],
    directions: [Direction; 2],
}

/// When a frame that is sent now leaves, and when it arrives, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) taken_us: u64,
    pub(crate) arrives_us: u64,
}

impl Session {
    pub(crate) fn new(line: usize, ends: [(usize, LinkId); 2]) -> Session {
        Session { line, ends, directions: Default::default() }
    }

    /// The slot of an end.
    pub(crate) fn slot_of(&self, node: usize) -> usize {
        usize::from(self.ends[0].0 != node)
    }

    /// Sends a frame from an end.
    pub(crate) fn pass(
        &mut self,
        from: usize,
        line: &Line,
        now_us: u64,
        channel: Channel,
        bytes: usize,
        random: &mut Random,
    ) -> Passage {
        let direction = &mut self.directions[from];
        let bytes = bytes as u64;
        let start_us = direction.busy_until_us.max(now_us);
        let transmission_us = (bytes * 1_000_000).checked_div(line.rate).unwrap_or(0);
        direction.busy_until_us = start_us + transmission_us;
        let jitter_us = if line.jitter_us == 0 { 0 } else { random.below(line.jitter_us + 1) };
        // A packet that is lost is sent again after one and a half round trips.
        let retry_us = 3 * line.delay_us + 2 * line.jitter_us;
        let mut lost = 0;
        for _ in 0..bytes.div_ceil(PACKET_BYTES).max(1) {
            let mut times = 0;
            while times < RETRIES_MAX && random.happens(line.loss_ppm) {
                times += 1;
            }
            lost = lost.max(times); // packets that are lost together are sent again together
        }
        let arrives_us = direction.busy_until_us + line.delay_us + jitter_us + u64::from(lost) * retry_us;
        let last_us = direction.last_us.entry(channel).or_default();
        *last_us = arrives_us.max(*last_us);
        Passage { taken_us: direction.busy_until_us, arrives_us: *last_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rate: u64, loss_ppm: u32) -> Line {
        Line { ends: (0, 1), delay_us: 10_000, jitter_us: 0, rate, loss_ppm }
    }

    #[test]
    fn a_slow_line_takes_its_time_and_keeps_the_order() {
        let mut session = Session::new(0, [(0, LinkId(1)), (1, LinkId(2))]);
        let mut random = Random::new(1);
        let mut pass = |channel, bytes| session.pass(0, &line(1_000_000, 0), 5, channel, bytes, &mut random);
        assert_eq!(pass(Channel::Data, 10_000), Passage { taken_us: 10_005, arrives_us: 20_005 });
        assert_eq!(pass(Channel::Control, 1_000), Passage { taken_us: 11_005, arrives_us: 21_005 });
    }

    #[test]
    fn a_lost_packet_delays_its_stream_alone() {
        let mut session = Session::new(0, [(0, LinkId(1)), (1, LinkId(2))]);
        let mut random = Random::new(3);
        let delayed = session.pass(0, &line(0, 900_000), 0, Channel::Data, 100, &mut random).arrives_us;
        assert!(delayed > 40_000, "{delayed}");
        assert_eq!(session.pass(0, &line(0, 0), 0, Channel::Data, 100, &mut random).arrives_us, delayed);
        assert_eq!(session.pass(0, &line(0, 0), 0, Channel::Control, 100, &mut random).arrives_us, 10_000);
    }
}
