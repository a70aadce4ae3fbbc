//! Sources that hang, lie, vanish or may not be read: each costs its own values only.

use std::fs;
use std::time::{Duration, Instant};

use collectors::{COLLECT_MS_MAX, Collection, STUCK_WORKERS_MAX, Significance, SourceState};
use crdt::id::Time;
use crdt::schema::{Kind, Value};

use crate::fixture::{Machine, ZONES};

fn zone(collection: &Collection, zone: usize) -> Option<&Value> {
    collection.environment.get(&format!("thermal.zone{zone}.temperature_milli_celsius"))
}

#[test]
fn a_lie_is_dropped_and_reported() {
    let zone0 = format!("{ZONES}/thermal_zone0/temp");
    let gone = "thermal.zone0.temperature_milli_celsius";
    let table = [
        (zone0.as_str(), "-273150", "thermal/thermal_zone0", gone),
        (&zone0, "1000000000", "thermal/thermal_zone0", gone),
        (&zone0, "NaN", "thermal/thermal_zone0", gone),
        (&zone0, "", "thermal/thermal_zone0", gone),
        (&zone0, "\u{1b}[2J garbage", "thermal/thermal_zone0", gone),
        ("sys/class/power_supply/BAT0/capacity", "137", "power_supply/BAT0", "power.battery.bat0.capacity_percent"),
        ("sys/class/power_supply/BAT0/status", "Exploding", "power_supply/BAT0", "power.battery.bat0.status"),
        ("sys/class/hwmon/hwmon3/fan1_input", "-1", "hwmon/hwmon3", "hwmon.chip-3.fan1.speed_rpm"),
        ("sys/class/hwmon/hwmon3/temp1_fault", "1", "hwmon/hwmon3", "hwmon.chip-3.temp1.temperature_milli_celsius"),
        ("proc/meminfo", "MemTotal: -8 kB\nMemAvailable: 4 kB", "memory", "memory.total_bytes"),
        ("proc/meminfo", "MemTotal: 8 kB\nMemAvailable: 400 kB", "memory", "memory.used_bytes"),
        ("proc/meminfo", "MemTotal: 8 kB\nSwapTotal: 5 kB\nSwapFree: 6 kB", "memory", "swap.used_bytes"),
        ("proc/loadavg", "inf nan -1", "load", "cpu.load_1m_milli"),
        ("proc/stat", "cpu  1 2 x 4", "cpu-ticks", "cpu.utilisation_permille"),
        ("sys/devices/system/cpu/online", "0-99999999999", "cpu", "cpu.cores"),
        ("etc/os-release", "not at all", "os-release", "os.id"),
        ("etc/machine-id", "a\u{0}b", "machine-id", "machine.id_hash"),
    ];
    for (file, lie, source, path) in table {
        let mut machine = Machine::new();
        machine.write(file, lie);
        let collection = machine.collect();
        let report = machine.report(source);
        assert_eq!(report.state, SourceState::Implausible, "{file}: {report:?}");
        assert!(report.notes.iter().any(|note| note.starts_with('/')), "{report:?}");
        for document in [&collection.device, &collection.environment, &collection.resource] {
            assert!(!document.contains_key(path), "{file}: {path}");
        }
        assert_eq!(zone(&collection, 1), Some(&Value::Int(51_000)), "the others stand");
    }
}

#[test]
fn a_hanging_source_stalls_no_other_and_comes_back() {
    let mut machine = Machine::new();
    let path = format!("{ZONES}/thermal_zone1/temp");
    machine.hang(&path);
    let collection = machine.collect();
    assert_eq!((zone(&collection, 0), zone(&collection, 1)), (Some(&Value::Int(45_000)), None));
    assert!(
        collection.environment.contains_key("power.source") && collection.resource.contains_key("memory.used_bytes")
    );
    let report = machine.report("thermal/thermal_zone1");
    assert_eq!((report.state, report.path.as_str()), (SourceState::Hung, "/sys/class/thermal/thermal_zone1"));
    // It is left out from now on and costs no time.
    let start = Instant::now();
    machine.collect();
    assert!(start.elapsed() < Duration::from_millis(COLLECT_MS_MAX / 2), "{:?}", start.elapsed());
    assert_eq!(machine.report("thermal/thermal_zone1").state, SourceState::Hung);
    // The file is healthy again, and the stuck read ends.
    let writer = fs::OpenOptions::new().write(true).open(machine.root.path().join(&path)).unwrap();
    machine.remove(&path);
    machine.write(&path, "52000");
    drop(writer);
    let deadline = Instant::now() + Duration::from_secs(10);
    while zone(&machine.collect(), 1) != Some(&Value::Int(52_000)) {
        assert!(Instant::now() < deadline, "the source never came back");
        std::thread::yield_now();
    }
    assert_eq!(machine.report("thermal/thermal_zone1").state, SourceState::Found);
}

#[test]
fn many_hanging_sources_are_bounded_in_time_and_threads() {
    let mut machine = Machine::new();
    for number in 2..50 {
        machine.hang(&format!("{ZONES}/thermal_zone{number}/temp"));
    }
    for _ in 0..3 {
        machine.collect();
    }
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    let workers = names.filter(|name| name.trim() == "collector").count();
    assert!((1..=STUCK_WORKERS_MAX).contains(&workers), "{workers}");
}

#[test]
fn hanging_mains_are_not_guessed() {
    let mut machine = Machine::new();
    machine.write("sys/class/power_supply/AC/type", "Mains");
    machine.write("sys/class/power_supply/AC/online", "1");
    machine.write("sys/class/power_supply/BAT0/status", "Unknown");
    let source = |collection: Collection| collection.environment.get("power.source").cloned();
    assert_eq!(source(machine.collect()), Some(Value::Text("mains".to_owned())));
    machine.hang("sys/class/power_supply/AC/online");
    assert_eq!(source(machine.collect()), None, "neither mains nor battery is known");
}

#[test]
fn what_may_not_be_read_is_denied() {
    // A directory in place of a file: root, too, is refused.
    let mut machine = Machine::new();
    for path in ["etc/machine-id/x", "proc/loadavg.d/x", "sys/class/thermal/thermal_zone0/temp.d/x"] {
        machine.write(path, "");
    }
    machine.remove("proc/loadavg");
    fs::create_dir(machine.root.path().join("proc/loadavg")).unwrap();
    let collection = machine.collect();
    for name in ["machine-id", "load"] {
        let report = machine.report(name);
        assert_eq!((report.state, report.values.len(), report.notes.len()), (SourceState::Denied, 0, 1), "{report:?}");
    }
    assert!(zone(&collection, 0).is_some() && collection.resource.contains_key("memory.used_bytes"));
}

#[test]
fn what_vanishes_is_deleted_only_after_three_collections() {
    let mut machine = Machine::new();
    let mut significance = Significance::new(Kind::Environment, 1_000);
    let mut write = |machine: &mut Machine, second: u64| {
        let readings = machine.collect().environment;
        significance.handle(Time(second * 1_000_000), readings).unwrap_or_default()
    };
    assert!(write(&mut machine, 0).iter().any(|(path, _)| path.starts_with("thermal.zone0.")));
    machine.remove(&format!("{ZONES}/thermal_zone0"));
    assert_eq!(write(&mut machine, 10), []);
    assert_eq!(write(&mut machine, 20), []);
    let gone = ["thermal.zone0.temperature_milli_celsius", "thermal.zone0.type"].map(|path| (path.to_owned(), None));
    assert_eq!(write(&mut machine, 30), gone);
    assert!(!machine.collector.explain().iter().any(|report| report.name == "thermal/thermal_zone0"));
}
