//! The `resource` document: capacity and utilisation of processors, memory, disks, networks and filesystems.
//!
//! Sources: proc(5), Documentation/admin-guide/iostats.rst, Documentation/ABI/testing/sysfs-class-net; filesystems by
//! [`crate::System`].

use std::collections::BTreeSet;

use crdt::schema::{Kind, Value};

use crate::bounds;
use crate::device::{DISKS_MAX, INTERFACES_MAX, interface_speed, is_disk, is_interface};
use crate::probe::{Probe, segment};
use crate::rates::{Counter, Sample, permille};

/// Filesystems that are described.
pub const FILESYSTEMS_MAX: usize = 16;

fn put(probe: &mut Probe<'_>, path: impl Into<String>, number: u64) {
    probe.put(Kind::Resource, path, Value::Uint(number));
}

/// Ticks of all processors; utilisation is what of them was not idle.
pub(crate) fn read_cpu_ticks(probe: &mut Probe<'_>, file: &str) {
    let clock_ms = probe.clock_ms();
    let Some(text) = probe.text(file) else { return };
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let ticks: Option<Vec<u64>> =
        line.and_then(|line| line.split_whitespace().take(8).map(|word| word.parse().ok()).collect());
    let Some(ticks) = ticks.filter(|ticks| ticks.len() >= 4) else {
        return probe.implausible(file, "the first line is not the ticks of all processors");
    };
    let sum = |ticks: &[u64]| ticks.iter().try_fold(0_u64, |sum, ticks| sum.checked_add(*ticks));
    match (sum(&ticks), sum(&ticks[3..ticks.len().min(5)])) {
        (Some(total), Some(idle)) => {
            probe.found();
            let counter = Counter::Cpu { total, idle };
            probe.outcome.samples.push(Sample { key: "cpu".to_owned(), clock_ms, counter });
        }
        _ => probe.implausible(file, "more ticks than time has"),
    }
}

/// Load averages, in thousandths of a runnable task.
pub(crate) fn read_load(probe: &mut Probe<'_>, file: &str) {
    let Some(text) = probe.text(file) else { return };
    let names = ["cpu.load_1m_milli", "cpu.load_5m_milli", "cpu.load_15m_milli"];
    let mut words = text.split_whitespace();
    for name in names {
        let word = words.next().unwrap_or_default();
        // Two digits stand behind the point, so the thousandths are the digits and a zero.
        let digits = match word.split_once('.') {
            Some((whole, part)) if part.len() == 2 => format!("{whole}{part}0"),
            _ => word.to_owned() + "?",
        };
        if let Some(load) = probe.parse(file, &digits, &bounds::LOAD_MILLI) {
            put(probe, name, load.unsigned_abs());
        }
    }
}

/// Memory and swap. Used is what is not available: caches can be had back.
pub(crate) fn read_memory(probe: &mut Probe<'_>, file: &str) {
    let Some(text) = probe.text(file) else { return };
    let total = meminfo(probe, file, &text, "MemTotal").filter(|bytes| *bytes > 0);
    if let Some(total) = total {
        probe.put(Kind::Device, "memory.total_bytes", Value::Uint(total));
        put(probe, "memory.total_bytes", total);
        match meminfo(probe, file, &text, "MemAvailable").map(|available| (available, total.checked_sub(available))) {
            Some((available, Some(used))) => {
                put(probe, "memory.available_bytes", available);
                put(probe, "memory.used_bytes", used);
                put(probe, "memory.utilisation_permille", permille(used, total));
            }
            Some((_, None)) => probe.implausible(file, "more memory is available than there is"),
            None => {}
        }
    } else {
        probe.implausible(file, "tells no size of memory");
    }
    let swap = (meminfo(probe, file, &text, "SwapTotal"), meminfo(probe, file, &text, "SwapFree"));
    if let (Some(total), Some(free)) = swap {
        match total.checked_sub(free) {
            Some(used) => {
                put(probe, "swap.total_bytes", total);
                put(probe, "swap.used_bytes", used);
            }
            None => probe.implausible(file, "more swap is free than there is"),
        }
    }
}

/// One line of `/proc/meminfo`, in bytes.
fn meminfo(probe: &mut Probe<'_>, file: &str, text: &str, name: &str) -> Option<u64> {
    let is_named = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
    let line = text.lines().find(is_named)?;
    let number = line[name.len() + 1..].trim().trim_end_matches("kB").trim_end();
    probe.parse(file, number, &bounds::MEMORY_KIB).map(|kib| kib.unsigned_abs() * 1024)
}

/// What disks did since they were there.
pub(crate) fn read_disk_counters(probe: &mut Probe<'_>, file: &str) {
    let clock_ms = probe.clock_ms();
    let disks: BTreeSet<String> = probe.list("sys/block", DISKS_MAX, is_disk).into_iter().collect();
    let Some(text) = probe.text(file) else { return };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Partitions are listed too; only what is under /sys/block is a disk.
        let Some(name) = words.get(2).filter(|name| disks.contains(**name)) else { continue };
        let field = |at: usize| words.get(at)?.parse::<u64>().ok();
        match (field(5), field(9), field(12)) {
            (Some(sectors_read), Some(sectors_written), Some(busy_ms)) => {
                let counter = Counter::Disk { sectors_read, sectors_written, busy_ms };
                probe.outcome.samples.push(Sample { key: format!("disk.{}", segment(name)), clock_ms, counter });
            }
            _ => probe.implausible(file, &format!("the line of {name} is not one of counters")),
        }
    }
}

/// What interfaces moved since they were there.
pub(crate) fn read_network_counters(probe: &mut Probe<'_>, file: &str) {
    let clock_ms = probe.clock_ms();
    let Some(text) = probe.text(file) else { return };
    probe.found();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.map(|(name, rest)| (name.trim(), rest)).filter(|(name, _)| is_interface(name));
    for (name, rest) in wanted.take(INTERFACES_MAX) {
        let field = |at: usize| rest.split_whitespace().nth(at)?.parse::<u64>().ok();
        let (Some(receive_bytes), Some(transmit_bytes)) = (field(0), field(8)) else {
            probe.implausible(file, &format!("the line of {name} is not one of counters"));
            continue;
        };
        let key = format!("network.{}", segment(name));
        let megabits_per_s = interface_speed(probe, &format!("sys/class/net/{name}"));
        if let Some(speed) = megabits_per_s {
            put(probe, format!("{key}.speed_megabits_per_s"), speed);
        }
        let counter = Counter::Network { receive_bytes, transmit_bytes, megabits_per_s };
        probe.outcome.samples.push(Sample { key, clock_ms, counter });
    }
}

/// Filesystems that hold data: each device once, at its shortest mount point.
pub(crate) fn read_filesystems(probe: &mut Probe<'_>, path: &str) {
    let mut filesystems = match probe.system().filesystems() {
        Ok(filesystems) => filesystems,
        Err(error) => return probe.implausible(path, &error.to_string()),
    };
    probe.found();
    filesystems.retain(|one| one.total_bytes > 0 && !["squashfs", "tmpfs", "ramfs", "efivarfs"].contains(&&*one.kind));
    filesystems.sort_by(|a, b| (a.mount.len(), &a.mount).cmp(&(b.mount.len(), &b.mount)));
    let mut devices = BTreeSet::new();
    filesystems.retain(|one| !one.device.starts_with('/') || devices.insert(one.device.clone()));
    for one in filesystems.into_iter().take(FILESYSTEMS_MAX) {
        let key = match one.mount.trim_matches('/') {
            "" => "filesystem.root".to_owned(),
            mount => format!("filesystem.{}", segment(mount)),
        };
        match one.total_bytes.checked_sub(one.available_bytes) {
            Some(used) if one.total_bytes <= bounds::FILESYSTEM_BYTES_MAX => {
                put(probe, format!("{key}.total_bytes"), one.total_bytes);
                put(probe, format!("{key}.used_bytes"), used);
            }
            _ => {
                probe
                    .implausible(path, &format!("{}: {} of {} bytes", one.mount, one.available_bytes, one.total_bytes));
                continue;
            }
        }
        if let Some(mount) = probe.clean(path, &one.mount) {
            probe.put(Kind::Resource, format!("{key}.mount"), Value::Text(mount));
        }
    }
}
