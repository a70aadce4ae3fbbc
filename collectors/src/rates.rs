//! Utilisation: the difference of two readings of a counter.
//!
//! Counters are compared against the machine's own clock (`/proc/uptime`), which a replay has too. While that
//! clock stands still the last rate stays; when a counter or the clock goes back (a reboot, a replay that starts
//! over) the rate stays and counting starts anew. The first utilisation of the processors is the average since boot,
//! as vmstat(8) has it; other rates need two collections. Sources: proc(5), Documentation/admin-guide/iostats.rst.

use std::collections::BTreeMap;

use crdt::id::Time;
use crdt::schema::Value;

use crate::bounds::RATE_BYTES_PER_S_MAX;

/// Progress of the machine's clock below which two readings make no rate, milliseconds.
const CLOCK_STEP_MS_MIN: u64 = 100;
/// Bytes of a sector in `/proc/diskstats`, whatever the disk says.
const SECTOR_BYTES: u64 = 512;

/// What a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counter {
    /// Ticks of all processors.
    Cpu { total: u64, idle: u64 },
    /// Sectors moved, and milliseconds in which the disk had work.
    Disk { sectors_read: u64, sectors_written: u64, busy_ms: u64 },
    /// Bytes moved, and the interface's capacity where it is known.
    Network { receive_bytes: u64, transmit_bytes: u64, megabits_per_s: Option<u64> },
}

/// One reading of a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// What its rates are named by: `disk.nvme0n1`.
    pub(crate) key: String,
    /// The machine's clock; the caller's stands in where there is none.
    pub(crate) clock_ms: Option<u64>,
    pub(crate) counter: Counter,
}

struct Known {
    clock_ms: u64,
    counter: Counter,
    rates: Vec<(String, Value)>,
}

/// The last reading of each counter.
#[derive(Default)]
pub(crate) struct Rates {
    known: BTreeMap<String, Known>,
}

impl Rates {
    /// The rates that samples make with those of the collection before. Counters that are not among them are
    /// forgotten, so this keeps no more than one collection has. Gives the sample's key, a path and its value.
    pub(crate) fn update(&mut self, now: Time, samples: Vec<Sample>) -> Vec<(String, String, Value)> {
        let mut before = std::mem::take(&mut self.known);
        let mut values = Vec::new();
        for Sample { key, clock_ms, counter } in samples {
            let clock_ms = clock_ms.unwrap_or(now.0 / 1000);
            let known = match before.remove(&key) {
                Some(last) if clock_ms >= last.clock_ms && clock_ms - last.clock_ms < CLOCK_STEP_MS_MIN => last,
                Some(last) => {
                    let since = clock_ms.checked_sub(last.clock_ms);
                    let rates = since.and_then(|ms| rates(&key, last.counter, counter, ms)).unwrap_or(last.rates);
                    Known { clock_ms, counter, rates }
                }
                None => Known { clock_ms, counter, rates: since_boot(&key, counter).unwrap_or_default() },
            };
            values.extend(known.rates.iter().map(|(path, value)| (key.clone(), path.clone(), value.clone())));
            self.known.insert(key, known);
        }
        values
    }
}

/// The average over all processors since boot; other counters may be younger than that.
fn since_boot(key: &str, counter: Counter) -> Option<Vec<(String, Value)>> {
    let is_cpu = matches!(counter, Counter::Cpu { .. });
    is_cpu.then(|| rates(key, Counter::Cpu { total: 0, idle: 0 }, counter, 0)).flatten()
}

/// What happened between two readings; none if a counter went back or moved faster than any machine does.
fn rates(key: &str, old: Counter, new: Counter, ms: u64) -> Option<Vec<(String, Value)>> {
    let named = |name: &str, value: u64| (format!("{key}.{name}"), Value::Uint(value));
    let per_second = |amount: u64| {
        let rate = u128::from(amount) * 1000 / u128::from(ms.max(1));
        u64::try_from(rate).ok().filter(|rate| *rate <= RATE_BYTES_PER_S_MAX)
    };
    match (old, new) {
        (Counter::Cpu { total, idle }, Counter::Cpu { total: total_now, idle: idle_now }) => {
            let total = total_now.checked_sub(total).filter(|ticks| *ticks > 0)?;
            // The kernel's idle ticks may go back a little (proc(5) on iowait): that is no idle time.
            let idle = idle_now.saturating_sub(idle).min(total);
            Some(vec![named("utilisation_permille", permille(total - idle, total))])
        }
        (
            Counter::Disk { sectors_read, sectors_written, busy_ms },
            Counter::Disk { sectors_read: read_now, sectors_written: written_now, busy_ms: busy_now },
        ) => {
            let read = read_now.checked_sub(sectors_read)?.saturating_mul(SECTOR_BYTES);
            let written = written_now.checked_sub(sectors_written)?.saturating_mul(SECTOR_BYTES);
            let busy = busy_now.checked_sub(busy_ms)?.min(ms);
            Some(vec![
                named("read_bytes_per_s", per_second(read)?),
                named("write_bytes_per_s", per_second(written)?),
                named("utilisation_permille", permille(busy, ms)),
            ])
        }
        (
            Counter::Network { receive_bytes, transmit_bytes, .. },
            Counter::Network { receive_bytes: receive_now, transmit_bytes: transmit_now, megabits_per_s },
        ) => {
            let receive = per_second(receive_now.checked_sub(receive_bytes)?)?;
            let transmit = per_second(transmit_now.checked_sub(transmit_bytes)?)?;
            let mut values = vec![named("receive_bytes_per_s", receive), named("transmit_bytes_per_s", transmit)];
            if let Some(megabits) = megabits_per_s.filter(|megabits| *megabits > 0) {
                let capacity = megabits * 1_000_000 / 8;
                values.push(named("utilisation_permille", permille(receive.max(transmit).min(capacity), capacity)));
            }
            Some(values)
        }
        _ => None,
    }
}

/// `part` of `whole` in thousandths.
pub(crate) fn permille(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(clock_ms: u64, total: u64, idle: u64) -> Vec<Sample> {
        vec![Sample { key: "cpu".to_owned(), clock_ms: Some(clock_ms), counter: Counter::Cpu { total, idle } }]
    }

    fn utilisation(values: &[(String, String, Value)]) -> Option<u64> {
        values.iter().find_map(|(_, path, value)| match value {
            Value::Uint(number) if path.ends_with("utilisation_permille") => Some(*number),
            _ => None,
        })
    }

    #[test]
    fn a_rate_stays_while_the_clock_stands() {
        let mut rates = Rates::default();
        let now = Time(0);
        assert_eq!(utilisation(&rates.update(now, cpu(1_000, 100, 80))), Some(200), "since boot");
        assert_eq!(utilisation(&rates.update(now, cpu(2_000, 200, 155))), Some(250));
        assert_eq!(utilisation(&rates.update(now, cpu(2_000, 200, 155))), Some(250));
        assert_eq!(utilisation(&rates.update(now, cpu(2_050, 205, 155))), Some(250), "too soon");
        assert_eq!(utilisation(&rates.update(now, cpu(3_000, 300, 255))), Some(0), "against the last that counted");
        assert_eq!(utilisation(&rates.update(now, cpu(10, 5, 5))), Some(0), "a reboot");
        assert_eq!(utilisation(&rates.update(now, cpu(1_010, 105, 5))), Some(1000));
        assert_eq!(rates.update(now, Vec::new()), []);
        assert!(rates.known.is_empty());
    }

    #[test]
    fn disks_and_networks() {
        let disk = |read, written, busy_ms| Counter::Disk { sectors_read: read, sectors_written: written, busy_ms };
        let values = rates("disk.sda", disk(0, 0, 0), disk(2_000, 4_000, 500), 1_000).unwrap();
        let expected =
            [("read_bytes_per_s", 1_024_000), ("write_bytes_per_s", 2_048_000), ("utilisation_permille", 500)];
        assert_eq!(values, expected.map(|(name, value)| (format!("disk.sda.{name}"), Value::Uint(value))));
        assert_eq!(rates("d", disk(5, 0, 0), disk(4, 0, 0), 1_000), None, "went back");
        let net = |bytes, speed| Counter::Network { receive_bytes: bytes, transmit_bytes: 0, megabits_per_s: speed };
        let values = rates("network.eth0", net(0, None), net(12_500_000, Some(1000)), 1_000).unwrap();
        assert_eq!(values[2], ("network.eth0.utilisation_permille".to_owned(), Value::Uint(100)));
        assert_eq!(rates("n", net(0, None), net(u64::MAX, None), 1_000), None, "no machine is that fast");
    }
}
