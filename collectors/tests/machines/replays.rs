//! The three replays of the demo, and this machine.

use std::collections::{BTreeMap, BTreeSet};

use collectors::{Collection, Collector, SourceState};
use crdt::id::{FleetId, Time};
use crdt::schema::{Kind, Value, check_path, paths_clash};

const FLEET: FleetId = FleetId([7; 32]);

fn open(name: &str) -> Collector {
    let folder = format!("{}/../scripts/replay/{name}", env!("CARGO_MANIFEST_DIR"));
    Collector::replay(folder, FLEET).unwrap()
}

fn at(collector: &mut Collector, second: u64) -> Collection {
    collector.collect(Time(second * 1_000_000))
}

fn int(document: &BTreeMap<String, Value>, path: &str) -> i64 {
    match document.get(path) {
        Some(Value::Int(number)) => *number,
        Some(Value::Uint(number)) => i64::try_from(*number).unwrap(),
        other => panic!("{path} is {other:?}"),
    }
}

fn text<'a>(document: &'a BTreeMap<String, Value>, path: &str) -> &'a str {
    match document.get(path) {
        Some(Value::Text(text)) => text,
        other => panic!("{path} is {other:?}"),
    }
}

/// `device cpu.cores` and so on, of all three documents.
fn paths(collection: &Collection) -> BTreeSet<String> {
    let of = |kind: Kind| collection.of(kind).unwrap().keys().map(move |path| format!("{} {path}", kind.name()));
    [Kind::Device, Kind::Environment, Kind::Resource].into_iter().flat_map(of).collect()
}

/// What holds for every collection of every machine.
fn check(collection: &Collection) {
    for kind in [Kind::Device, Kind::Environment, Kind::Resource] {
        let document = collection.of(kind).unwrap();
        let mut last: Option<&String> = None;
        for (path, value) in document {
            check_path(path).unwrap();
            value.check().unwrap();
            let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            assert!(path.chars().all(is_part), "{path}");
            assert!(matches!(value, Value::Text(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_)), "{path}");
            assert!(last.is_none_or(|last| !paths_clash(last, path)), "{last:?} {path}");
            last = Some(path);
        }
    }
}

#[test]
fn the_paths_of_the_pi_are_these() {
    let mut pi = open("pi");
    at(&mut pi, 0);
    let second = at(&mut pi, 6);
    let expected: BTreeSet<String> = include_str!("golden/pi-paths.txt").lines().map(str::to_owned).collect();
    let found = paths(&second);
    let missing: Vec<_> = expected.difference(&found).collect();
    let extra: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
}

#[test]
fn the_pi_heats_up_and_its_fan_follows() {
    let mut pi = open("pi");
    assert_eq!(pi.source_name(), "replay");
    let course: Vec<Collection> = (0..7).map(|frame| at(&mut pi, frame * 5)).collect();
    course.iter().for_each(check);
    let temperatures: Vec<i64> = course.iter().map(|c| int(&c.environment, "cpu.temperature_milli_celsius")).collect();
    assert_eq!(temperatures, [48_450, 49_550, 56_750, 67_150, 72_650, 61_250, 48_450]);
    let fan: Vec<i64> = course.iter().map(|c| int(&c.environment, "hwmon.pwmfan-2.fan1.speed_rpm")).collect();
    assert_eq!(fan[..5], [0, 0, 2_482, 5_230, 7_905]);
    let utilisation: Vec<i64> = course.iter().map(|c| int(&c.resource, "cpu.utilisation_permille")).collect();
    assert_eq!(utilisation[1..6], [90, 600, 950, 980, 200], "the first is since boot: {}", utilisation[0]);
    assert_eq!(int(&course[2].resource, "network.eth0.receive_bytes_per_s"), 900_000);
    assert_eq!(int(&course[2].resource, "disk.mmcblk0.read_bytes_per_s"), 4_000 * 512);
    let device = &course[0].device;
    assert_eq!(text(device, "hardware.model"), "Raspberry Pi 5 Model B Rev 1.0");
    assert_eq!(text(device, "hardware.compatible"), "raspberrypi,5-model-b brcm,bcm2712");
    assert_eq!((text(device, "cpu.model"), int(device, "cpu.cores")), ("Cortex-A76", 4));
    assert_eq!(text(device, "os.name"), "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(int(device, "disk.mmcblk0.size_bytes"), 124_735_488 * 512);
    assert_eq!(device["interface.eth0.up"], Value::Bool(true));
    assert_eq!(text(device, "interface.wlan0.kind"), "wifi");
    assert_eq!(course[0].environment["temperature.critical"], Value::Bool(false));
}

#[test]
fn the_pi_zero_has_no_fan() {
    let mut zero = open("pi-zero");
    let course: Vec<Collection> = (0..5).map(|frame| at(&mut zero, frame * 6)).collect();
    course.iter().for_each(check);
    assert_eq!(text(&course[0].device, "cpu.model"), "Cortex-A53");
    assert_eq!(int(&course[0].device, "memory.total_bytes"), 437_088 * 1024);
    assert!(!paths(&course[0]).iter().any(|path| path.contains("rpm")));
    let temperatures: BTreeSet<i64> =
        course.iter().map(|c| int(&c.environment, "temperature.hottest_milli_celsius")).collect();
    assert_eq!(temperatures.len(), 5);
}

#[test]
fn the_laptop_goes_from_mains_to_battery() {
    let mut laptop = open("laptop");
    let course: Vec<Collection> = (0..8).map(|step| at(&mut laptop, step * 6)).collect();
    course.iter().for_each(check);
    let sources: Vec<&str> = course.iter().map(|c| text(&c.environment, "power.source")).collect();
    assert_eq!(sources, ["mains", "mains", "battery", "battery", "battery", "battery", "mains", "mains"]);
    let capacity: Vec<i64> = course.iter().map(|c| int(&c.environment, "power.capacity_percent")).collect();
    assert_eq!(capacity[1..6], [84, 83, 82, 80, 78]);
    let (device, environment) = (&course[0].device, &course[0].environment);
    assert_eq!(text(device, "hardware.product_version"), "ThinkPad X1 Carbon Gen 9");
    assert_eq!(int(device, "cpu.cores"), 8);
    assert_eq!(text(environment, "power.battery.bat0.status"), "charging");
    assert_eq!(int(environment, "power.battery.bat0.energy_full_milliwatt_hours"), 52_470);
    assert_eq!(int(environment, "cpu.temperature_milli_celsius"), 47_000);
    assert_eq!(text(environment, "hwmon.coretemp-3.temp1.label"), "Package id 0");
}

#[test]
fn nothing_in_a_replay_is_denied_hung_or_implausible() {
    for name in ["pi", "pi-zero", "laptop"] {
        let mut collector = open(name);
        for second in 0..60 {
            at(&mut collector, second);
            for report in collector.explain() {
                let is_good = matches!(report.state, SourceState::Found | SourceState::Absent);
                assert!(is_good && report.notes.is_empty(), "{name}, second {second}: {report:?}");
            }
        }
    }
}

#[test]
fn what_identifies_a_machine_is_never_in_clear() {
    for name in ["pi", "pi-zero", "laptop"] {
        let folder = format!("{}/../scripts/replay/{name}/base", env!("CARGO_MANIFEST_DIR"));
        let mut collector = open(name);
        let collection = at(&mut collector, 0);
        let values = format!("{collection:?}{:?}", collector.explain()).to_lowercase();
        let secrets = [
            "etc/machine-id",
            "proc/sys/kernel/random/boot_id",
            "proc/device-tree/serial-number",
            "sys/class/dmi/id/product_serial",
            "sys/class/dmi/id/product_uuid",
            "sys/class/net/eth0/address",
            "sys/class/net/wlan0/address",
            "sys/class/net/wlp0s20f3/address",
        ];
        let secrets = secrets.iter().filter_map(|file| std::fs::read_to_string(format!("{folder}/{file}")).ok());
        let mut count = 0;
        for secret in secrets {
            let secret = secret.trim_matches(['\0', '\n']).to_lowercase();
            assert!(!secret.is_empty() && !values.contains(&secret), "{name}: {secret}");
            count += 1;
        }
        assert!(count >= 4, "{name}");
        let hashes = collection.device.iter().filter(|(path, _)| path.ends_with("_hash"));
        let is_hash = |value: &Value| matches!(value, Value::Text(text) if text.len() == 16);
        assert!(hashes.clone().count() >= 4 && hashes.clone().all(|(_, value)| is_hash(value)), "{name}");
    }
}

#[test]
fn hashes_and_fingerprints_depend_on_machine_and_fleet() {
    let prints: BTreeSet<[u8; 32]> =
        ["pi", "pi-zero", "laptop"].iter().flat_map(|name| open(name).fingerprint()).collect();
    assert_eq!(prints.len(), 9);
    let folder = format!("{}/../scripts/replay/pi", env!("CARGO_MANIFEST_DIR"));
    let mut elsewhere = Collector::replay(folder, FleetId([8; 32])).unwrap();
    assert!(elsewhere.fingerprint().iter().all(|part| !prints.contains(part)));
    let (here, there) = (at(&mut open("pi"), 0).device, at(&mut elsewhere, 0).device);
    assert_ne!(here["machine.id_hash"], there["machine.id_hash"]);
    assert_eq!(here["hardware.model"], there["hardware.model"]);
}

#[test]
fn this_machine_is_read() {
    let mut collector = Collector::live(FLEET);
    assert_eq!(collector.source_name(), "live");
    let first = collector.collect(Time(0));
    let second = collector.collect(Time(1_000_000));
    check(&first);
    check(&second);
    assert!(int(&second.device, "memory.total_bytes") > 0);
    assert!(!text(&second.device, "kernel.release").is_empty());
    assert!(int(&second.resource, "cpu.utilisation_permille") <= 1000);
}
