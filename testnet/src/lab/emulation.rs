//! The network between the nodes, without a clock, threads or sockets: packets go in with the time, and come out when they
//! arrive.
//!
//! Each direction of a line has its own rate, delay, jitter and loss, its own randomness, and keeps the order of its
//! packets. A packet meets, in this order: the cut, the longest packet, chance, the queue before the rate, the way. What is on its way when a
//! line is cut is lost; what is on its way when a line gets better arrives no later than it would have now.

use std::collections::BTreeMap;

use super::quality::{Bend, Quality};
use crate::sim::random::Random;
use crate::sim::topology::Topology;

#[cfg(test)]
mod tests;

/// What waits before a rate is this much at least.
pub(crate) const QUEUE_BYTES_MIN: u64 = 64 * 1024;
/// And what the rate takes away in this time, nanoseconds. What comes beyond is dropped.
pub(crate) const QUEUE_NS: u64 = 200_000_000;
/// Most bytes that are on their way in the whole network. What comes beyond is dropped.
pub(crate) const FLIGHT_BYTES_MAX: u64 = 256 * 1024 * 1024;

const NS_PER_S: u128 = 1_000_000_000;

/// A packet between two nodes, which are told by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

/// Why a packet does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dropped {
    /// The topology has no line between the two.
    NoLine,
    /// The line is cut in this direction.
    Cut,
    /// It is longer than what the line carries.
    TooLong,
    /// By chance, as the line's loss says.
    Loss,
    /// The queue before the line's rate is full.
    Queue,
    /// [`FLIGHT_BYTES_MAX`] are on their way.
    Flight,
}

/// What became of packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) arrived: u64,
    pub(crate) arrived_bytes: u64,
    pub(crate) no_line: u64,
    pub(crate) cut: u64,
    pub(crate) too_long: u64,
    pub(crate) loss: u64,
    pub(crate) queue: u64,
    pub(crate) flight: u64,
}

impl Counters {
    fn count(&mut self, dropped: Dropped) {
        let counter = match dropped {
            Dropped::NoLine => &mut self.no_line,
            Dropped::Cut => &mut self.cut,
            Dropped::TooLong => &mut self.too_long,
            Dropped::Loss => &mut self.loss,
            Dropped::Queue => &mut self.queue,
            Dropped::Flight => &mut self.flight,
        };
        *counter += 1;
    }
}

/// One direction of a line.
#[derive(Debug)]
struct Direction {
    /// As in the topology.
    plain: Quality,
    bend: Bend,
    is_cut: bool,
    /// When the last byte of the queue has left.
    free_at_ns: u64,
    /// When the last packet arrives: none that comes later overtakes it.
    last_due_ns: u64,
    random: Random,
}

impl Direction {
    /// When a packet arrives that comes now.
    fn take(&mut self, now_ns: u64, bytes: u64) -> Result<u64, Dropped> {
        if self.is_cut {
            return Err(Dropped::Cut);
        }
        let quality = self.bend.over(self.plain);
        if quality.mtu > 0 && bytes > u64::from(quality.mtu) {
            return Err(Dropped::TooLong);
        }
        if self.random.happens(quality.loss_ppm) {
            return Err(Dropped::Loss);
        }
        let mut leaves_ns = now_ns;
        if quality.rate > 0 {
            let waiting = bytes_in(self.free_at_ns.saturating_sub(now_ns), quality.rate);
            if waiting + bytes > QUEUE_BYTES_MIN.max(bytes_in(QUEUE_NS, quality.rate)) {
                return Err(Dropped::Queue);
            }
            self.free_at_ns = self.free_at_ns.max(now_ns) + time_of(bytes, quality.rate);
            leaves_ns = self.free_at_ns;
        }
        let jitter_ns = self.random.below(quality.jitter_us * 1000 + 1);
        self.last_due_ns = self.last_due_ns.max(leaves_ns + quality.delay_us * 1000 + jitter_ns);
        Ok(self.last_due_ns)
    }

    /// Changes what it is like: the queue leaves at the new rate. Returns when all that is on its way arrives at the
    /// latest.
    fn change(&mut self, now_ns: u64, bend: Bend) -> u64 {
        let before = self.bend.over(self.plain);
        let waiting = match before.rate {
            0 => 0,
            rate => bytes_in(self.free_at_ns.saturating_sub(now_ns), rate),
        };
        self.bend = bend;
        let quality = self.bend.over(self.plain);
        self.free_at_ns = match quality.rate {
            0 => now_ns,
            rate => now_ns + time_of(waiting, rate),
        };
        let latest_ns = self.free_at_ns + (quality.delay_us + quality.jitter_us) * 1000;
        self.last_due_ns = self.last_due_ns.min(latest_ns);
        latest_ns
    }
}

/// Bytes that a rate takes away in a time.
fn bytes_in(time_ns: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(time_ns) * u128::from(rate) / NS_PER_S).unwrap_or(u64::MAX)
}

fn time_of(bytes: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(bytes) * NS_PER_S / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

/// All lines, and what is on its way.
#[derive(Debug)]
pub(crate) struct Emulation {
    directions: BTreeMap<(usize, usize), Direction>,
    /// By when it arrives, and by number where several arrive at once.
    flight: BTreeMap<(u64, u64), Packet>,
    flight_bytes: u64,
    /// Of the next packet.
    number: u64,
    counters: Counters,
}

/// A direction that is not as the topology says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Changed {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) is_cut: bool,
    pub(crate) bend: Bend,
}

impl Emulation {
    /// The lines of a topology; what is drawn is drawn from the seed.
    pub(crate) fn new(topology: &Topology, seed: u64) -> Emulation {
        let nodes = topology.nodes.len() as u64;
        let mut directions = BTreeMap::new();
        for line in &topology.lines {
            for (from, to) in [line.ends, (line.ends.1, line.ends.0)] {
                let direction = Direction {
                    plain: Quality::of(line),
                    bend: Bend::default(),
                    is_cut: false,
                    free_at_ns: 0,
                    last_due_ns: 0,
                    random: Random::of(seed, from as u64 * nodes + to as u64),
                };
                directions.insert((from, to), direction);
            }
        }
        Emulation { directions, flight: BTreeMap::new(), flight_bytes: 0, number: 0, counters: Counters::default() }
    }

    /// Takes a packet, or says why it is dropped, which is counted too.
    pub(crate) fn handle(&mut self, now_ns: u64, packet: Packet) -> Result<(), Dropped> {
        let taken = self.take(now_ns, packet);
        if let Err(dropped) = taken {
            self.counters.count(dropped);
        }
        taken
    }

    fn take(&mut self, now_ns: u64, packet: Packet) -> Result<(), Dropped> {
        let direction = self.directions.get_mut(&(packet.from, packet.to)).ok_or(Dropped::NoLine)?;
        let bytes = packet.bytes.len() as u64;
        if self.flight_bytes + bytes > FLIGHT_BYTES_MAX {
            return Err(Dropped::Flight);
        }
        let due_ns = direction.take(now_ns, bytes)?;
        self.flight_bytes += bytes;
        self.flight.insert((due_ns, self.number), packet);
        self.number += 1;
        Ok(())
    }

    /// The next packet that has arrived by now.
    pub(crate) fn poll(&mut self, now_ns: u64) -> Option<Packet> {
        let entry = self.flight.first_entry().filter(|entry| entry.key().0 <= now_ns)?;
        let packet = entry.remove();
        let bytes = packet.bytes.len() as u64;
        self.flight_bytes -= bytes;
        self.counters.arrived += 1;
        self.counters.arrived_bytes += bytes;
        Some(packet)
    }

    /// When the next packet arrives.
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        self.flight.first_key_value().map(|((due_ns, _), _)| *due_ns)
    }

    /// Cuts a direction, which loses what is on its way there.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        let Some(direction) = self.directions.get_mut(&(from, to)) else { return };
        direction.is_cut = true;
        direction.free_at_ns = 0;
        direction.last_due_ns = 0;
        let (flight_bytes, counters) = (&mut self.flight_bytes, &mut self.counters);
        self.flight.retain(|_, packet| {
            let is_kept = (packet.from, packet.to) != (from, to);
            if !is_kept {
                *flight_bytes -= packet.bytes.len() as u64;
                counters.count(Dropped::Cut);
            }
            is_kept
        });
    }

    /// Changes what a direction is like; what the bend leaves out stays as it is.
    pub(crate) fn bend(&mut self, now_ns: u64, from: usize, to: usize, bend: &Bend) {
        let Some(direction) = self.directions.get_mut(&(from, to)) else { return };
        let bend = bend.after(&direction.bend);
        let latest_ns = direction.change(now_ns, bend);
        self.hasten(from, to, latest_ns);
    }

    /// Makes a direction again what the topology says.
    pub(crate) fn heal(&mut self, now_ns: u64, from: usize, to: usize) {
        let Some(direction) = self.directions.get_mut(&(from, to)) else { return };
        direction.is_cut = false;
        let latest_ns = direction.change(now_ns, Bend::default());
        self.hasten(from, to, latest_ns);
    }

    /// Lets what is on its way arrive no later than that, in its order.
    fn hasten(&mut self, from: usize, to: usize, latest_ns: u64) {
        let late = self.flight.range((latest_ns, 0)..).filter(|(_, packet)| (packet.from, packet.to) == (from, to));
        let late: Vec<(u64, u64)> = late.map(|(key, _)| *key).collect();
        for key in late {
            // Its number keeps it behind what was sent before it.
            if let Some(packet) = self.flight.remove(&key) {
                self.flight.insert((latest_ns, key.1), packet);
            }
        }
    }

    /// What is cut or bent.
    pub(crate) fn changed(&self) -> Vec<Changed> {
        let changed = self.directions.iter().filter(|(_, direction)| direction.is_cut || !direction.bend.is_none());
        changed
            .map(|((from, to), direction)| Changed {
                from: *from,
                to: *to,
                is_cut: direction.is_cut,
                bend: direction.bend.clone(),
            })
            .collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }
}
