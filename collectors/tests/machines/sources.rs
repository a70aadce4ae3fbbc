//! What each source gives, and what it leaves out.

use std::fs;
use std::sync::Arc;

use collectors::{Collector, SourceState, THERMAL_ZONES_MAX};
use crdt::id::{FleetId, Time};
use crdt::schema::{Kind, Value, check_path};
use proptest::prelude::*;

use crate::fixture::{Fixed, Machine, ZONES};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn a_machine_without_faults() {
    let mut machine = Machine::new();
    let collection = machine.collect();
    let environment = [
        ("thermal.zone0.temperature_milli_celsius", Value::Int(45_000)),
        ("temperature.hottest_milli_celsius", Value::Int(51_000)),
        ("power.battery.bat0.capacity_percent", Value::Uint(80)),
        ("power.battery.bat0.power_milliwatt", Value::Uint(24_000)),
        ("power.source", Value::Text("battery".to_owned())),
        ("hwmon.chip-3.fan1.speed_rpm", Value::Uint(1_200)),
        ("hwmon.chip-3.power1.power_milliwatt", Value::Uint(15_000)),
    ];
    for (path, value) in environment {
        assert_eq!(collection.environment.get(path), Some(&value), "{path}");
    }
    let resource = [
        ("memory.used_bytes", 600 * 1024),
        ("memory.utilisation_permille", 600),
        ("cpu.load_5m_milli", 1_050),
        ("cpu.load_15m_milli", 12_000),
        ("filesystem.root.used_bytes", 600),
    ];
    for (path, value) in resource {
        assert_eq!(collection.resource.get(path), Some(&Value::Uint(value)), "{path}");
    }
    assert!(!collection.resource.keys().any(|path| path.contains("bind") || path.contains("lies")), "{collection:?}");
    assert_eq!(machine.report("filesystems").state, SourceState::Implausible);
    assert_eq!(machine.report("dmi").state, SourceState::Absent);
    assert_eq!(machine.report("memory").path, "/proc/meminfo");
}

#[test]
fn an_empty_root_gives_nothing_and_does_not_fail() {
    let root = tempfile::tempdir().unwrap();
    let mut collector = Collector::at_root(root.path(), Arc::new(Fixed(Vec::new())), FleetId([7; 32]));
    let collection = collector.collect(Time(0));
    assert_eq!(collection.device.keys().collect::<Vec<_>>(), ["cpu.architecture"]);
    assert_eq!(
        collection.environment.into_iter().collect::<Vec<_>>(),
        [("power.source".to_owned(), Value::Text("unknown".to_owned()))]
    );
    assert!(collection.resource.is_empty());
    assert!(collector.explain().iter().all(|report| report.state == SourceState::Absent
        || !report.values.is_empty()
        || report.name == "filesystems"));
}

#[test]
fn dmi_without_what_makers_left_empty() {
    let mut machine = Machine::new();
    let files = [
        ("sys_vendor", "ACME"),
        ("product_name", "To Be Filled By O.E.M."),
        ("board_name", "X570"),
        ("bios_version", ""),
        ("product_serial", "Default string"),
        ("product_uuid", "4C4C4544-0000-2010-8020-80C04F202020"),
    ];
    for (file, text) in files {
        machine.write(&format!("sys/class/dmi/id/{file}"), text);
    }
    let device = machine.collect().device;
    let hardware: Vec<&str> = device.keys().map(String::as_str).filter(|path| path.starts_with("hardware.")).collect();
    assert_eq!(hardware, ["hardware.board", "hardware.uuid_hash", "hardware.vendor"]);
    let report = machine.report("dmi");
    assert_eq!((report.state, report.notes.len()), (SourceState::Found, 2), "{report:?}");
}

#[test]
fn an_operating_system_that_keeps_its_name_elsewhere() {
    let mut machine = Machine::new();
    machine.write("usr/lib/os-release", "# comment\nID=nixos\nVERSION_ID='24.05'\nHOME_URL=\"https://x\"");
    let device = machine.collect().device;
    assert_eq!((&device["os.id"], &device["os.version"]), (&text("nixos"), &text("24.05")));
    machine.write("etc/os-release", "ID=debian");
    assert_eq!(machine.collect().device["os.id"], text("debian"));
}

#[test]
fn disks_without_what_is_none() {
    let mut machine = Machine::new();
    for (name, size) in [("sda", "1000"), ("sr0", "0"), ("loop0", "10"), ("dm-0", "10"), ("cciss!c0d0", "8")] {
        machine.write(&format!("sys/block/{name}/size"), size);
    }
    machine.write("sys/block/sda/queue/rotational", "1");
    machine.write("sys/block/sda/device/model", "ST1000   ");
    machine.write("proc/uptime", "10.00 5.00");
    machine.write("proc/diskstats", "8 0 sda 1 0 100 1 1 0 100 1 0 1 1\n8 1 sda1 1 0 100 1 1 0 100 1 0 1 1");
    let device = machine.collect().device;
    let disks: Vec<&str> = device.keys().map(String::as_str).filter(|path| path.starts_with("disk.")).collect();
    let expected = ["disk.cciss-c0d0.size_bytes", "disk.sda.model", "disk.sda.rotational", "disk.sda.size_bytes"];
    assert_eq!(disks, expected);
    assert_eq!((&device["disk.sda.model"], &device["disk.sda.rotational"]), (&text("ST1000"), &Value::Bool(true)));
    machine.write("proc/uptime", "20.00 5.00");
    machine.write("proc/diskstats", "8 0 sda 1 0 2100 1 1 0 100 1 0 5001 1\n8 1 sda1 9 9 9 9 9 9 9 9 9 9 9");
    let resource = machine.collect().resource;
    assert_eq!(resource["disk.sda.read_bytes_per_s"], Value::Uint(2_000 * 512 / 10));
    assert_eq!(resource["disk.sda.utilisation_permille"], Value::Uint(500));
    assert!(!resource.keys().any(|path| path.contains("sda1")));
}

#[test]
fn interfaces_of_all_kinds() {
    let mut machine = Machine::new();
    let interfaces = [
        ("lo", "772", "", "", None),
        ("veth12", "1", "", "", None),
        ("eth0", "1", "", "device/uevent", Some("ethernet")),
        ("wlan0", "1", "DEVTYPE=wlan", "device/uevent", Some("wifi")),
        ("wlan1", "1", "", "phy80211/name", Some("wifi")),
        ("wwan0", "65534", "DEVTYPE=wwan", "device/uevent", Some("cellular")),
        ("can0", "280", "", "device/uevent", Some("can")),
        ("br0", "1", "DEVTYPE=bridge", "", Some("bridge")),
        ("tun0", "65534", "", "tun_flags", Some("tunnel")),
        ("dummy0", "1", "", "", Some("virtual")),
    ];
    for (name, hardware, uevent, extra, _) in interfaces {
        let folder = format!("sys/class/net/{name}");
        machine.write(&format!("{folder}/type"), hardware);
        machine.write(&format!("{folder}/uevent"), uevent);
        machine.write(&format!("{folder}/address"), "02:00:00:00:00:01");
        if !extra.is_empty() {
            machine.write(&format!("{folder}/{extra}"), "x");
        }
    }
    machine.write("sys/class/net/eth0/operstate", "down");
    machine.write("sys/class/net/eth0/speed", "-1");
    machine.write("sys/class/net/can0/operstate", "unknown");
    machine.write("sys/class/net/can0/carrier", "1");
    machine.write("sys/class/net/bonding_masters", "");
    let device = machine.collect().device;
    for (name, .., kind) in interfaces {
        assert_eq!(device.get(&format!("interface.{name}.kind")), kind.map(text).as_ref(), "{name}");
    }
    assert_eq!((&device["interface.eth0.up"], &device["interface.can0.up"]), (&Value::Bool(false), &Value::Bool(true)));
    assert!(!device.contains_key("interface.eth0.speed_megabits_per_s"), "-1 is no speed");
    assert_eq!(machine.report("net/eth0").state, SourceState::Found, "and no lie");
    assert!(device.contains_key("interface.eth0.mac_hash") && !device.contains_key("interface.br0.mac_hash"));
}

#[test]
fn supplies_that_are_not_the_machines() {
    let mut machine = Machine::new();
    for (file, text) in [("type", "Battery"), ("scope", "Device"), ("capacity", "5"), ("status", "Discharging")] {
        machine.write(&format!("sys/class/power_supply/hidpp_battery_0/{file}"), text);
    }
    machine.write("sys/class/power_supply/BAT1/type", "Battery");
    machine.write("sys/class/power_supply/BAT1/present", "0");
    machine.write("sys/class/power_supply/ucsi-1/type", "USB");
    machine.write("sys/class/power_supply/ucsi-1/online", "2");
    let environment = machine.collect().environment;
    assert!(!environment.keys().any(|path| path.contains("hidpp") || path.contains("bat1")), "{environment:?}");
    assert_eq!(environment["power.mains.ucsi-1.online"], Value::Bool(true));
    assert_eq!(environment["power.capacity_percent"], Value::Uint(80));
    assert_eq!(environment["power.source"], text("mains"));
}

#[test]
fn a_critical_temperature_is_noticed() {
    let mut machine = Machine::new();
    machine.write(&format!("{ZONES}/thermal_zone0/trip_point_0_type"), "passive");
    machine.write(&format!("{ZONES}/thermal_zone0/trip_point_0_temp"), "40000");
    machine.write(&format!("{ZONES}/thermal_zone0/trip_point_1_type"), "critical");
    machine.write(&format!("{ZONES}/thermal_zone0/trip_point_1_temp"), "90000");
    machine.write("sys/class/hwmon/hwmon3/temp1_crit", "80000");
    assert_eq!(machine.collect().environment["temperature.critical"], Value::Bool(false));
    machine.write("sys/class/hwmon/hwmon3/temp1_input", "80000");
    assert_eq!(machine.collect().environment["temperature.critical"], Value::Bool(true));
}

#[test]
fn a_class_of_too_many_members_is_cut_and_says_so() {
    let mut machine = Machine::new();
    for number in 0..THERMAL_ZONES_MAX + 6 {
        machine.write(&format!("{ZONES}/thermal_zone{number}/temp"), "40000");
    }
    let environment = machine.collect().environment;
    let zones = environment.keys().filter(|path| path.starts_with("thermal.") && path.ends_with("celsius")).count();
    assert_eq!(zones, THERMAL_ZONES_MAX);
    assert_eq!(machine.report("thermal").notes, ["/sys/class/thermal: 70 entries, the first 64 are read"]);
}

/// Every file that is read of the machine, and some that it has not.
const FILES: [&str; 22] = [
    "proc/cpuinfo",
    "proc/stat",
    "proc/uptime",
    "proc/meminfo",
    "proc/loadavg",
    "proc/diskstats",
    "proc/net/dev",
    "proc/device-tree/compatible",
    "etc/os-release",
    "etc/machine-id",
    "sys/devices/system/cpu/online",
    "sys/block/sda/size",
    "sys/class/net/eth0/type",
    "sys/class/net/eth0/speed",
    "sys/class/net/eth0/address",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/thermal/thermal_zone0/type",
    "sys/class/hwmon/hwmon3/name",
    "sys/class/hwmon/hwmon3/power1_average",
    "sys/class/power_supply/BAT0/voltage_now",
    "sys/class/power_supply/BAT0/current_now",
    "sys/class/power_supply/BAT0/energy_now",
];

/// Bytes that look a little like what a file should hold.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![any::<i64>().prop_map(|n| n.to_string()), any::<u64>().prop_map(|n| n.to_string())];
    let word = prop_oneof![
        4 => number,
        4 => "(cpu|eth0|sda|lo|MemTotal|MemAvailable|ID|processor|model name|kB)",
        2 => "[0-9]{1,4}\\.[0-9]{2}",
        1 => "\\PC{0,8}",
    ];
    let glue = prop_oneof![Just(" "), Just(": "), Just("="), Just("\n"), Just("-"), Just(","), Just("\0")];
    let text = proptest::collection::vec((word, glue), 0..24)
        .prop_map(|words| words.into_iter().flat_map(|(word, glue)| (word + glue).into_bytes()).collect());
    prop_oneof![3 => text, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_bytes_in_any_file_break_a_reader(
        rounds in proptest::collection::vec(proptest::collection::vec((0..FILES.len(), contents()), 1..8), 2..4)
    ) {
        let mut machine = Machine::new();
        for (second, files) in rounds.into_iter().enumerate() {
            for (file, bytes) in files {
                machine.write(FILES[file], "");
                fs::write(machine.root.path().join(FILES[file]), bytes).unwrap();
            }
            let collection = machine.collector.collect(Time(second as u64 * 1_000_000));
            for kind in [Kind::Device, Kind::Environment, Kind::Resource] {
                for (path, value) in collection.of(kind).unwrap() {
                    prop_assert!(check_path(path).is_ok() && value.check().is_ok(), "{} {:?}", path, value);
                }
            }
            for report in machine.collector.explain() {
                prop_assert!(!report.notes.iter().any(|note| note.contains("the reader failed")), "{:?}", report);
                prop_assert!(report.state != SourceState::Hung, "{:?}", report);
            }
        }
    }
}
