use proptest::prelude::*;

use super::*;
use crate::sim::topology::{Line, Place, Topology};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn place(number: usize) -> Place {
    Place { name: format!("lab-{number}"), zone: "lab".to_owned(), nat: None }
}

/// Three nodes in a row, both lines alike.
fn row(quality: Quality) -> Emulation {
    let line = |ends| Line {
        ends,
        delay_us: quality.delay_us,
        jitter_us: quality.jitter_us,
        rate: quality.rate,
        loss_ppm: quality.loss_ppm,
    };
    let topology = Topology {
        name: "row".to_owned(),
        nodes: (0..3).map(place).collect(),
        lines: vec![line((0, 1)), line((1, 2))],
    };
    Emulation::new(&topology, 7)
}

const PLAIN: Quality = Quality { delay_us: 10_000, jitter_us: 0, rate: 0, loss_ppm: 0, mtu: 0 };

/// A packet of this size that bears a number.
fn packet(from: usize, to: usize, number: u32, size: usize) -> Packet {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(size.max(4), 0);
    Packet { from, to, bytes }
}

fn number(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.bytes[..4].try_into().expect("four bytes"))
}

/// All that arrives from now on, with the time.
fn drain(emulation: &mut Emulation) -> Vec<(u64, u32)> {
    let mut arrived = Vec::new();
    while let Some(due) = emulation.poll_timeout() {
        let packet = emulation.poll(due).expect("it is due");
        arrived.push((due, number(&packet)));
    }
    arrived
}

#[test]
fn what_is_too_long_vanishes_and_the_rest_passes() {
    let mut emulation = row(PLAIN);
    emulation.bend(0, 0, 1, &Bend { mtu_bytes: Some(1_280), ..Bend::default() });
    assert_eq!(emulation.handle(0, packet(0, 1, 1, 1_281)), Err(Dropped::TooLong));
    assert_eq!(emulation.handle(0, packet(0, 1, 2, 1_280)), Ok(()));
    assert_eq!(emulation.handle(0, packet(1, 0, 3, 1_500)), Ok(()));
    emulation.heal(0, 0, 1);
    assert_eq!(emulation.handle(0, packet(0, 1, 4, 1_500)), Ok(()));
    assert_eq!(emulation.counters().too_long, 1);
}

#[test]
fn a_packet_arrives_after_the_delay_and_not_before() {
    let mut emulation = row(PLAIN);
    emulation.handle(5 * MS, packet(0, 1, 1, 100)).expect("it is taken");
    assert_eq!(emulation.poll_timeout(), Some(15 * MS));
    assert_eq!(emulation.poll(15 * MS - 1), None);
    assert_eq!(emulation.poll(15 * MS), Some(packet(0, 1, 1, 100)));
    assert_eq!((emulation.poll_timeout(), emulation.counters().arrived_bytes), (None, 100));
}

#[test]
fn without_a_line_nothing_passes() {
    let mut emulation = row(PLAIN);
    assert_eq!(emulation.handle(0, packet(0, 2, 1, 100)), Err(Dropped::NoLine));
    assert_eq!(emulation.handle(0, packet(0, 0, 1, 100)), Err(Dropped::NoLine));
    assert_eq!((emulation.poll_timeout(), emulation.counters().no_line), (None, 2));
}

#[test]
fn a_cut_loses_what_is_on_its_way_in_this_direction_only() {
    let mut emulation = row(PLAIN);
    emulation.handle(0, packet(0, 1, 1, 100)).expect("it is taken");
    emulation.handle(0, packet(1, 0, 2, 100)).expect("it is taken");
    emulation.cut(0, 1);
    assert_eq!(emulation.handle(MS, packet(0, 1, 3, 100)), Err(Dropped::Cut));
    assert_eq!(drain(&mut emulation), [(10 * MS, 2)]);
    assert_eq!(emulation.counters().cut, 2);
    emulation.heal(20 * MS, 0, 1);
    emulation.handle(20 * MS, packet(0, 1, 4, 100)).expect("it is healed");
    assert_eq!(drain(&mut emulation), [(30 * MS, 4)]);
    assert_eq!(emulation.changed(), []);
}

#[test]
fn a_rate_is_held_and_a_full_queue_drops_the_tail() {
    // 1 MB/s: a thousand bytes take a millisecond, and 200 ms of it wait at most.
    let mut emulation = row(Quality { rate: 1_000_000, ..PLAIN });
    let taken = (0..1_000).filter(|number| emulation.handle(0, packet(0, 1, *number, 1_000)).is_ok()).count();
    assert_eq!(taken, 200);
    assert_eq!(emulation.counters().queue, 800);
    let arrived = drain(&mut emulation);
    assert_eq!((arrived[0], arrived[199]), ((11 * MS, 0), (210 * MS, 199)));
}

#[test]
fn loss_is_near_what_is_asked_for_and_the_same_with_the_same_seed() {
    let lost = || {
        let mut emulation = row(Quality { loss_ppm: 300_000, ..PLAIN });
        let sent = (0..10_000).map(|number| emulation.handle(0, packet(0, 1, number, 40)).is_err());
        sent.collect::<Vec<bool>>()
    };
    let first = lost();
    let count = first.iter().filter(|is_lost| **is_lost).count();
    assert!((2_850..3_150).contains(&count), "{count} of 10,000 at 30 %");
    assert_eq!(first, lost());
}

#[test]
fn bends_add_up_until_the_line_is_healed() {
    let mut emulation = row(PLAIN);
    emulation.bend(0, 0, 1, &Bend { rtt_times: Some(10.0), ..Bend::default() });
    emulation.bend(0, 0, 1, &Bend { rate_mbit: Some(8.0), ..Bend::default() });
    emulation.handle(0, packet(0, 1, 1, 1_000)).expect("it is taken");
    emulation.handle(0, packet(1, 0, 2, 1_000)).expect("it is taken");
    assert_eq!(drain(&mut emulation), [(10 * MS, 2), (101 * MS, 1)]);
    let changed = emulation.changed();
    assert_eq!((changed.len(), changed[0].from, changed[0].bend.rate_mbit), (1, 0, Some(8.0)));
    emulation.heal(S, 0, 1);
    emulation.handle(S, packet(0, 1, 3, 1_000)).expect("it is taken");
    assert_eq!(drain(&mut emulation), [(S + 10 * MS, 3)]);
}

#[test]
fn a_line_that_gets_better_takes_along_what_is_on_its_way() {
    let mut emulation = row(PLAIN);
    emulation.bend(0, 0, 1, &Bend { delay_ms: Some(9_000.0), ..Bend::default() });
    for number in 0..5 {
        emulation.handle(u64::from(number) * MS, packet(0, 1, number, 40)).expect("it is taken");
    }
    emulation.heal(100 * MS, 0, 1);
    emulation.handle(100 * MS, packet(0, 1, 5, 40)).expect("it is taken");
    let arrived = drain(&mut emulation);
    assert_eq!(arrived, (0..6).map(|number| (110 * MS, number)).collect::<Vec<_>>());
}

#[test]
fn what_waits_leaves_at_the_new_rate() {
    let mut emulation = row(Quality { rate: 1_000_000, ..PLAIN });
    for number in 0..50 {
        emulation.handle(0, packet(0, 1, number, 1_000)).expect("there is room");
    }
    emulation.bend(0, 0, 1, &Bend { rate_mbit: Some(4.0), ..Bend::default() });
    emulation.handle(0, packet(0, 1, 50, 1_000)).expect("there is room");
    // 51 kB at 500 kB/s, and the way.
    assert_eq!(drain(&mut emulation).last(), Some(&(112 * MS, 50)));
}

#[test]
fn what_is_on_its_way_is_bounded() {
    let mut emulation = row(PLAIN);
    let most = FLIGHT_BYTES_MAX / 60_000;
    for number in 0..most {
        emulation.handle(0, packet(0, 1, number as u32, 60_000)).expect("there is room");
    }
    assert_eq!(emulation.handle(0, packet(1, 2, 0, 60_000)), Err(Dropped::Flight));
    drain(&mut emulation);
    emulation.handle(0, packet(1, 2, 0, 60_000)).expect("there is room again");
}

fn quality() -> impl Strategy<Value = Quality> {
    let rate = prop_oneof![Just(0), 10_000_u64..10_000_000];
    (0_u64..300_000, 0_u64..100_000, rate).prop_map(|(delay_us, jitter_us, rate)| Quality {
        delay_us,
        jitter_us,
        rate,
        loss_ppm: 0,
        mtu: 0,
    })
}

/// What happens to the first line, after a pause: a packet of a size, or another quality.
#[derive(Debug, Clone)]
enum Step {
    Send(usize),
    Bend(Bend),
    Heal,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let bend = (0.0..200.0, 0.0..50.0, 0.1..50.0).prop_map(|(delay_ms, jitter_ms, rate_mbit)| Bend {
        delay_ms: Some(delay_ms),
        jitter_ms: Some(jitter_ms),
        rate_mbit: Some(rate_mbit),
        ..Bend::default()
    });
    let step = prop_oneof![
        8 => (40_usize..1_500).prop_map(Step::Send),
        1 => bend.prop_map(Step::Bend),
        1 => Just(Step::Heal),
    ];
    proptest::collection::vec((0_u64..20 * MS, step), 1..200)
}

proptest! {
    #[test]
    fn whatever_is_taken_arrives_once_in_order_and_within_its_time(quality in quality(), steps in steps()) {
        let mut emulation = row(quality);
        let (mut now, mut taken, mut arrived) = (0, Vec::new(), Vec::new());
        for (number, (pause, step)) in steps.into_iter().enumerate() {
            now += pause;
            while let Some(packet) = emulation.poll(now) {
                arrived.push(super::tests::number(&packet));
            }
            match step {
                Step::Send(size) => {
                    if emulation.handle(now, packet(0, 1, number as u32, size)).is_ok() {
                        taken.push(number as u32);
                    }
                }
                Step::Bend(bend) => emulation.bend(now, 0, 1, &bend),
                Step::Heal => emulation.heal(now, 0, 1),
            }
        }
        emulation.heal(now, 0, 1);
        // The rest of the queue, the way, and its jitter.
        let latest = match quality.rate {
            0 => 0,
            rate => time_of(QUEUE_BYTES_MIN.max(50_000_000 / 8) , rate),
        };
        for (due, number) in drain(&mut emulation) {
            prop_assert!(due <= now + latest + (quality.delay_us + quality.jitter_us) * 1_000);
            arrived.push(number);
        }
        prop_assert_eq!(arrived, taken);
        prop_assert_eq!(emulation.flight_bytes, 0);
    }

    #[test]
    fn no_window_carries_more_than_the_rate(rate in 10_000_u64..10_000_000, sizes in proptest::collection::vec((0_u64..5 * MS, 40_usize..1_500), 2..300)) {
        let mut emulation = row(Quality { rate, ..PLAIN });
        let (mut now, mut sent) = (0, BTreeMap::new());
        for (number, (pause, size)) in sizes.into_iter().enumerate() {
            now += pause;
            if emulation.handle(now, packet(0, 1, number as u32, size)).is_ok() {
                sent.insert(number as u32, size as u64);
            }
        }
        let arrived = drain(&mut emulation);
        for (first, (start, _)) in arrived.iter().enumerate() {
            let mut bytes = 0;
            for (due, number) in &arrived[first + 1..] {
                bytes += sent[number];
                // Each packet's time is rounded down to a nanosecond.
                prop_assert!(bytes <= bytes_in(due - start + arrived.len() as u64, rate) + 1);
            }
        }
    }
}
