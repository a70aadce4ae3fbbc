//! A machine of files in a temporary folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collectors::{COLLECT_MS_MAX, Collection, Collector, Filesystem, SourceReport, System, SystemError};
use crdt::id::{FleetId, Time};

/// What a collection may take when sources hang.
const COLLECT_LIMIT: Duration = Duration::from_millis(COLLECT_MS_MAX + 500);
/// Where thermal zones are.
pub(crate) const ZONES: &str = "sys/class/thermal";

/// A system that answers what it is told.
pub(crate) struct Fixed(pub(crate) Vec<Filesystem>);

impl System for Fixed {
    fn architecture(&self) -> Option<String> {
        Some("aarch64".to_owned())
    }
    fn filesystems(&self) -> Result<Vec<Filesystem>, SystemError> {
        Ok(self.0.clone())
    }
}

/// A machine of files that a test lays out.
pub(crate) struct Machine {
    pub(crate) root: tempfile::TempDir,
    pub(crate) collector: Collector,
}

impl Machine {
    /// A small machine of two zones, a battery, memory and a network interface.
    pub(crate) fn new() -> Machine {
        let filesystem = |mount: &str, device: &str, total_bytes, available_bytes| Filesystem {
            mount: mount.to_owned(),
            device: device.to_owned(),
            kind: "ext4".to_owned(),
            total_bytes,
            available_bytes,
        };
        let filesystems = vec![
            filesystem("/", "/dev/sda1", 1000, 400),
            filesystem("/mnt/bind", "/dev/sda1", 1000, 400),
            filesystem("/lies", "/dev/sdb1", 10, 400),
        ];
        let root = tempfile::tempdir().unwrap();
        let collector = Collector::at_root(root.path(), Arc::new(Fixed(filesystems)), FleetId([7; 32]));
        let machine = Machine { root, collector };
        for (zone, temperature) in [(0, "45000"), (1, "51000")] {
            machine.write(&format!("{ZONES}/thermal_zone{zone}/type"), "cpu-thermal");
            machine.write(&format!("{ZONES}/thermal_zone{zone}/temp"), temperature);
        }
        let battery = [("type", "Battery"), ("status", "Discharging"), ("capacity", "80"), ("voltage_now", "12000000")];
        for (file, text) in battery {
            machine.write(&format!("sys/class/power_supply/BAT0/{file}"), text);
        }
        machine.write("sys/class/power_supply/BAT0/current_now", "-2000000");
        machine.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 10 kB\nSwapFree: 10 kB");
        machine.write("proc/loadavg", "0.20 1.05 12.00 1/100 4711");
        machine.write("sys/class/hwmon/hwmon3/name", "chip");
        machine.write("sys/class/hwmon/hwmon3/fan1_input", "1200");
        machine.write("sys/class/hwmon/hwmon3/power1_average", "15000000");
        machine.write("sys/class/hwmon/hwmon3/temp1_input", "30000");
        machine
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let file = self.root.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, format!("{text}\n")).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        let file = self.root.path().join(path);
        if file.is_dir() { fs::remove_dir_all(file).unwrap() } else { fs::remove_file(file).unwrap() }
    }

    /// A file that never answers.
    pub(crate) fn hang(&self, path: &str) {
        let file = self.root.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        if file.exists() {
            fs::remove_file(&file).unwrap();
        }
        make_fifo(&file);
    }

    pub(crate) fn collect(&mut self) -> Collection {
        let start = Instant::now();
        let collection = self.collector.collect(Time(0));
        assert!(start.elapsed() < COLLECT_LIMIT, "{:?}", start.elapsed());
        collection
    }

    pub(crate) fn report(&self, name: &str) -> SourceReport {
        self.collector
            .explain()
            .into_iter()
            .find(|report| report.name == name)
            .unwrap_or_else(|| panic!("no source {name}"))
    }
}

fn make_fifo(file: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}
