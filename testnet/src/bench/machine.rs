//! What the machine itself needs: a synced write, a round trip over loopback; and what /proc says of it.

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::report::median;

const SYNCED_WRITES: usize = 200;
/// About what a small change adds to the write-ahead log.
const SYNCED_WRITE_BYTES: usize = 1024;
const ROUND_TRIPS: usize = 2000;
const DATAGRAM_BYTES: usize = 100;

/// Median of an append of 1 KiB to a file with fdatasync, milliseconds: what RocksDB does to its log.
pub(crate) fn synced_write_ms(folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join("synced-writes");
    let mut file = fs::File::create(&path).context("a file for synced writes")?;
    let mut samples = Vec::with_capacity(SYNCED_WRITES);
    for _ in 0..SYNCED_WRITES {
        let start = Instant::now();
        file.write_all(&[7; SYNCED_WRITE_BYTES])?;
        file.sync_data()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    Ok(median(&samples))
}

/// Median of 100 bytes there and back between two threads, UDP over loopback, milliseconds.
pub(crate) fn round_trip_ms() -> anyhow::Result<f64> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    near.set_read_timeout(Some(Duration::from_secs(1)))?;
    far.set_read_timeout(Some(Duration::from_secs(1)))?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut datagram = [0; DATAGRAM_BYTES];
        for _ in 0..ROUND_TRIPS {
            let bytes = far.recv(&mut datagram)?;
            far.send(&datagram[..bytes])?;
        }
        Ok(())
    });
    let mut samples = Vec::with_capacity(ROUND_TRIPS);
    let mut datagram = [1; DATAGRAM_BYTES];
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        near.send(&datagram)?;
        near.recv(&mut datagram)?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    echo.join().map_err(|_| anyhow::anyhow!("the echoing thread panicked"))??;
    Ok(median(&samples))
}

/// Processes that were runnable on average over the last minute.
pub(crate) fn load() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
    let first = text.split_whitespace().next().context("/proc/loadavg is empty")?;
    Ok(first.parse()?)
}

/// Bytes that went over the loopback interface since it came up.
pub(crate) fn loopback_bytes() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/net/dev").context("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("there is no interface lo")?;
    Ok(line.split_whitespace().next().context("no counter of lo")?.parse()?)
}

/// What a process has used of a core so far, seconds (proc(5): 14 utime and 15 stime, in ticks of 10 ms).
pub(crate) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')').context("a malformed stat")?;
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
}

/// Resident memory of a process, MB of 10^6 bytes.
pub(crate) fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().context("an empty VmRSS")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Files of a folder and below, bytes.
pub(crate) fn folder_bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { folder_bytes(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
