//! What one direction of a line is like, and how a person bends it.

use serde::{Deserialize, Serialize};

use crate::sim::topology::Line;

/// Longest delay of a bent line, microseconds: as in topologies.
pub(crate) const DELAY_US_MAX: u64 = 10_000_000;

/// What one direction of a line is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quality {
    pub(crate) delay_us: u64,
    /// As much more at most, evenly.
    pub(crate) jitter_us: u64,
    /// Bytes a second; 0 for no limit.
    pub(crate) rate: u64,
    /// Lost packets in a million.
    pub(crate) loss_ppm: u32,
    /// Longer packets vanish, bytes; 0 for no limit.
    pub(crate) mtu: u32,
}

impl Quality {
    pub(crate) fn of(line: &Line) -> Quality {
        Quality { delay_us: line.delay_us, jitter_us: line.jitter_us, rate: line.rate, loss_ppm: line.loss_ppm, mtu: 0 }
    }
}

/// Other properties than the topology's; what is `None` is as it was.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bend {
    /// One way, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<f64>,
    /// As much more at most, evenly, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jitter_ms: Option<f64>,
    /// Lost packets in a hundred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) loss_percent: Option<f64>,
    /// Megabits a second; 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate_mbit: Option<f64>,
    /// The delay and the jitter, times this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_times: Option<f64>,
    /// Longest packet, bytes; longer ones vanish, and nobody is told (a black hole). 0 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu_bytes: Option<u32>,
}

impl Bend {
    /// A bend that only loses packets.
    pub(crate) fn loss(percent: f64) -> Bend {
        Bend { loss_percent: Some(percent), ..Bend::default() }
    }

    pub(crate) fn is_none(&self) -> bool {
        *self == Bend::default()
    }

    /// What this says, and the rest as an earlier one said.
    pub(crate) fn after(&self, earlier: &Bend) -> Bend {
        Bend {
            delay_ms: self.delay_ms.or(earlier.delay_ms),
            jitter_ms: self.jitter_ms.or(earlier.jitter_ms),
            loss_percent: self.loss_percent.or(earlier.loss_percent),
            rate_mbit: self.rate_mbit.or(earlier.rate_mbit),
            rtt_times: self.rtt_times.or(earlier.rtt_times),
            mtu_bytes: self.mtu_bytes.or(earlier.mtu_bytes),
        }
    }

    /// What a line is like that is bent so, its delay and jitter at most [`DELAY_US_MAX`].
    pub(crate) fn over(&self, plain: Quality) -> Quality {
        let times = self.rtt_times.unwrap_or(1.0);
        let micros = |millis: Option<f64>, plain: u64| {
            let micros = millis.map_or(plain as f64, |millis| millis * 1e3) * times;
            (micros.max(0.0) as u64).min(DELAY_US_MAX)
        };
        Quality {
            delay_us: micros(self.delay_ms, plain.delay_us),
            jitter_us: micros(self.jitter_ms, plain.jitter_us),
            rate: self.rate_mbit.map_or(plain.rate, |mbit| (mbit.max(0.0) * 125_000.0) as u64),
            loss_ppm: self.loss_percent.map_or(plain.loss_ppm, |percent| (percent.clamp(0.0, 100.0) * 1e4) as u32),
            mtu: self.mtu_bytes.unwrap_or(plain.mtu),
        }
    }

    /// The first number that no line can have, in words.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let is_off = |value: Option<f64>, most: f64| value.is_some_and(|value| !(0.0..=most).contains(&value));
        let millis = DELAY_US_MAX as f64 / 1e3;
        let faults = [
            (is_off(self.delay_ms, millis), "a delay is 0 to 10000 ms"),
            (is_off(self.jitter_ms, millis), "a jitter is 0 to 10000 ms"),
            (is_off(self.loss_percent, 100.0), "a loss is 0 to 100 percent"),
            (is_off(self.rate_mbit, 100_000.0), "a rate is 0 (no limit) to 100000 Mbit/s"),
            (is_off(self.rtt_times, 1000.0), "a round trip is 0 to 1000 times what it was"),
        ];
        faults.into_iter().find_map(|(is_fault, text)| is_fault.then_some(text))
    }
}

impl std::fmt::Display for Bend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            self.delay_ms.map(|delay| format!("delay {delay} ms")),
            self.jitter_ms.map(|jitter| format!("jitter {jitter} ms")),
            self.loss_percent.map(|percent| format!("loss {percent} %")),
            self.rate_mbit.map(|mbit| match mbit {
                0.0 => "no limit of rate".to_owned(),
                mbit => format!("{mbit} Mbit/s"),
            }),
            self.rtt_times.map(|times| format!("round trip times {times}")),
            self.mtu_bytes.map(|mtu| match mtu {
                0 => "no limit of length".to_owned(),
                mtu => format!("{mtu} bytes a packet"),
            }),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}
