//! Flows over one link in virtual time.

use std::collections::VecDeque;

use super::*;

const PACKET: u64 = 1_200;
const STEP: Duration = Duration::from_micros(100);

/// A packet on its way: whose it is, when it was sent, and when its acknowledgement comes.
struct Flying {
    flow: usize,
    sent: Instant,
    acked_at: Instant,
}

struct Link {
    rate: u64,
    delay: Duration,
    loss_ppm: u64,
    /// How long a packet may wait at most.
    queue: Duration,
    free_at: Instant,
    random: u64,
}

impl Link {
    /// When the acknowledgement of a packet comes that is sent now, and how long the packet waits; none where it is lost.
    fn pass(&mut self, now: Instant) -> Option<(Instant, Duration)> {
        let begins = self.free_at.max(now);
        if begins - now > self.queue {
            return None;
        }
        self.free_at = begins + Duration::from_nanos(PACKET * 1_000_000_000 / self.rate);
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let is_lost = (self.random >> 33) % 1_000_000 < self.loss_ppm;
        (!is_lost).then(|| (self.free_at + 2 * self.delay, begins - now))
    }
}

struct Run {
    /// Bytes a second of each flow.
    rates: Vec<f64>,
    /// Waits in the second half, in order.
    waits: Vec<Duration>,
}

fn run(mut link: Link, starts: &[u64], seconds: u64) -> Run {
    let start = link.free_at;
    let mut flows: Vec<Delay> = starts.iter().map(|_| Delay::new(start)).collect();
    let (mut in_flight, mut allowed) = (vec![0u64; flows.len()], vec![0.0; flows.len()]);
    let (mut flying, mut lost) = (VecDeque::<Flying>::new(), VecDeque::<(usize, Instant)>::new());
    let (mut acked, mut waits) = (vec![0u64; flows.len()], Vec::new());
    for micros in (0..seconds * 1_000_000).step_by(STEP.as_micros() as usize) {
        let now = start + Duration::from_micros(micros);
        let is_second_half = micros > seconds * 500_000;
        while let Some(packet) = flying.pop_front_if(|packet| packet.acked_at <= now) {
            in_flight[packet.flow] -= PACKET;
            acked[packet.flow] += if is_second_half { PACKET } else { 0 };
            flows[packet.flow].acked(now, packet.sent, PACKET, false);
        }
        while let Some((flow, _)) = lost.pop_front_if(|(_, noticed_at)| *noticed_at <= now) {
            in_flight[flow] -= PACKET;
            flows[flow].on_congestion_event(now, now, false, PACKET);
        }
        for flow in 0..flows.len() {
            // As the pacer of quinn lets them go: a window and a quarter in a round trip.
            let window = flows[flow].window();
            allowed[flow] += 1.25 * window as f64 * STEP.as_secs_f64() / (2 * link.delay + TARGET).as_secs_f64();
            allowed[flow] = allowed[flow].min(16.0 * PACKET as f64);
            let has_begun = micros >= starts[flow] * 1_000_000;
            while has_begun && allowed[flow] >= PACKET as f64 && in_flight[flow] + PACKET <= window {
                allowed[flow] -= PACKET as f64;
                in_flight[flow] += PACKET;
                match link.pass(now) {
                    Some((acked_at, wait)) => {
                        flying.push_back(Flying { flow, sent: now, acked_at });
                        if is_second_half {
                            waits.push(wait);
                        }
                    }
                    None => lost.push_back((flow, now + 2 * link.delay + link.queue.min(TARGET))),
                }
            }
        }
    }
    waits.sort_unstable();
    let rates = acked.iter().map(|bytes| *bytes as f64 / (seconds as f64 / 2.0)).collect();
    Run { rates, waits }
}

fn link(megabits: u64, delay_ms: u64, loss_ppm: u64, queue_ms: u64) -> Link {
    Link {
        rate: megabits * 125_000,
        delay: Duration::from_millis(delay_ms),
        loss_ppm,
        queue: Duration::from_millis(queue_ms),
        free_at: Instant::now(),
        random: 7,
    }
}

#[test]
fn a_long_link_with_losses_is_full_and_nothing_waits_long() {
    for (megabits, delay_ms, loss_ppm, queue_ms) in [(100, 50, 10_000, 100), (20, 10, 0, 500), (50, 100, 50_000, 200)] {
        let Run { rates, waits } = run(link(megabits, delay_ms, loss_ppm, queue_ms), &[0], 60);
        let share = rates[0] / (megabits as f64 * 125_000.0) / (1.0 - loss_ppm as f64 / 1e6);
        let wait = waits[waits.len() * 99 / 100];
        assert!(share > 0.9, "{share} of {megabits} Mbit/s at {delay_ms} ms");
        assert!(wait <= Duration::from_millis(50), "{wait:?} at {megabits} Mbit/s, {delay_ms} ms");
    }
}

#[test]
fn a_short_queue_that_drops_is_no_reason_to_stand_still_or_to_flood_it() {
    let Run { rates, waits } = run(link(100, 20, 0, 5), &[0], 40);
    assert!(rates[0] > 0.7 * 12_500_000.0, "{rates:?}");
    assert!(!waits.is_empty());
}

#[test]
fn who_comes_later_gets_a_share_and_leaves_one() {
    let Run { rates, waits } = run(link(50, 25, 1_000, 300), &[0, 5], 120);
    let all: f64 = rates.iter().sum();
    assert!(all > 0.9 * 50.0 * 125_000.0, "{rates:?}");
    assert!(rates.iter().all(|rate| *rate > 0.2 * all), "{rates:?}");
    let wait = waits[waits.len() * 99 / 100];
    assert!(wait < 4 * TARGET, "{wait:?}");
}
