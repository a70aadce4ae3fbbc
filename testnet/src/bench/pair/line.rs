//! One direction of a link: frames leave one after the other at the line's rate and arrive after its delay.

use std::collections::VecDeque;

use crdt::sync::Channel;

/// What a link is like, each way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    /// One way, microseconds.
    pub(crate) delay_us: u64,
    /// Bytes a second; 0 for no limit.
    pub(crate) rate: u64,
}

impl Wire {
    /// How long so many bytes take to leave, microseconds.
    pub(crate) fn transmission_us(&self, bytes: u64) -> u64 {
        if self.rate == 0 { 0 } else { (bytes * 1_000_000).div_ceil(self.rate) }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It has left the sender's end: as many bytes fit there again.
    Left { channel: Channel, bytes: usize },
    /// It is at the other end.
    Arrived { channel: Channel, bytes: Vec<u8> },
}

/// A direction. Of what waits for the line control frames go first; each stream keeps its order.
#[derive(Debug)]
pub(crate) struct Line {
    wire: Wire,
    control: VecDeque<Vec<u8>>,
    data: VecDeque<Vec<u8>>,
    /// What is on its way out, and when that is over.
    leaving: Option<(u64, Channel, Vec<u8>)>,
    on_way: VecDeque<(u64, Channel, Vec<u8>)>,
}

impl Line {
    pub(crate) fn new(wire: Wire) -> Line {
        Line { wire, control: VecDeque::new(), data: VecDeque::new(), leaving: None, on_way: VecDeque::new() }
    }

    /// Gives a frame to the line.
    pub(crate) fn send(&mut self, now_us: u64, channel: Channel, bytes: Vec<u8>) {
        match channel {
            Channel::Control => self.control.push_back(bytes),
            Channel::Data => self.data.push_back(bytes),
        }
        if self.leaving.is_none() {
            self.start(now_us);
        }
    }

    fn start(&mut self, now_us: u64) {
        let control = self.control.pop_front().map(|bytes| (Channel::Control, bytes));
        let next = control.or_else(|| self.data.pop_front().map(|bytes| (Channel::Data, bytes)));
        self.leaving =
            next.map(|(channel, bytes)| (now_us + self.wire.transmission_us(bytes.len() as u64), channel, bytes));
    }

    /// When something happens next.
    pub(crate) fn next_us(&self) -> Option<u64> {
        let leaves = self.leaving.as_ref().map(|(at, ..)| *at);
        let arrives = self.on_way.front().map(|(at, ..)| *at);
        leaves.into_iter().chain(arrives).min()
    }

    /// What has happened by now, one thing at a time.
    pub(crate) fn pass(&mut self, now_us: u64) -> Option<Passed> {
        if let Some((_, channel, bytes)) = self.on_way.pop_front_if(|(at, ..)| *at <= now_us) {
            return Some(Passed::Arrived { channel, bytes });
        }
        let (at, channel, bytes) = self.leaving.take_if(|(at, ..)| *at <= now_us)?;
        let length = bytes.len();
        self.on_way.push_back((at + self.wire.delay_us, channel, bytes));
        self.start(at);
        Some(Passed::Left { channel, bytes: length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that happens, with when: first byte and length of a frame that arrived.
    fn run(line: &mut Line) -> Vec<(u64, Option<u8>, usize)> {
        let mut seen = Vec::new();
        while let Some(now) = line.next_us() {
            seen.push(match line.pass(now).expect("something is due") {
                Passed::Left { bytes, .. } => (now, None, bytes),
                Passed::Arrived { bytes, .. } => (now, Some(bytes[0]), bytes.len()),
            });
        }
        assert_eq!(line.pass(u64::MAX), None);
        seen
    }

    #[test]
    fn frames_leave_at_the_rate_and_arrive_after_the_delay() {
        let mut line = Line::new(Wire { delay_us: 50_000, rate: 1_000_000 });
        line.send(7, Channel::Data, vec![1; 1000]);
        line.send(7, Channel::Data, vec![2; 500]);
        let seen = run(&mut line);
        assert_eq!(seen, [(1007, None, 1000), (1507, None, 500), (51_007, Some(1), 1000), (51_507, Some(2), 500)]);
        // An idle line owes nothing for the time in which nothing left.
        line.send(100_000, Channel::Data, vec![3; 10]);
        assert_eq!(run(&mut line), [(100_010, None, 10), (150_010, Some(3), 10)]);
    }

    #[test]
    fn control_frames_overtake_what_waits_and_nothing_that_leaves() {
        let mut line = Line::new(Wire { delay_us: 0, rate: 1_000_000 });
        for (first, channel) in [(1, Channel::Data), (2, Channel::Data), (3, Channel::Control), (4, Channel::Control)] {
            line.send(0, channel, vec![first; 10]);
        }
        let arrived: Vec<(u64, u8)> =
            run(&mut line).into_iter().filter_map(|(at, first, _)| first.map(|first| (at, first))).collect();
        assert_eq!(arrived, [(10, 1), (20, 3), (30, 4), (40, 2)]);
    }

    #[test]
    fn without_a_rate_only_the_delay_counts_and_a_part_of_a_microsecond_counts_whole() {
        let free = Wire { delay_us: 5, rate: 0 };
        let mut line = Line::new(free);
        line.send(3, Channel::Control, vec![9; 1 << 16]);
        assert_eq!(run(&mut line), [(3, None, 1 << 16), (8, Some(9), 1 << 16)]);
        assert_eq!(Wire { rate: 2_500_000, ..free }.transmission_us(1), 1);
    }
}
