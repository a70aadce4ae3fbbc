//! The `environment` document: temperatures, fans, power.
//!
//! Sources: Documentation/driver-api/thermal/sysfs-api.rst (m°C), Documentation/hwmon/sysfs-interface.rst (m°C, rpm, µW),
//! Documentation/ABI/testing/sysfs-class-power (µW, µWh, µAh, µV, µA, percent).

use crdt::schema::{Kind, Value};

use crate::bounds::{self, Bounds};
use crate::probe::{Probe, base_name, segment};

/// Thermal zones that are read.
pub const THERMAL_ZONES_MAX: usize = 64;
/// Monitoring chips that are read.
pub const HWMONS_MAX: usize = 32;
/// Channels of one sort that are read of a monitoring chip.
pub const CHANNELS_MAX: usize = 32;
/// Power supplies that are read.
pub const POWER_SUPPLIES_MAX: usize = 16;
/// Trip points of a thermal zone that are looked at.
const TRIP_POINTS_MAX: usize = 16;

fn put(probe: &mut Probe<'_>, path: String, value: Value) {
    probe.put(Kind::Environment, path, value);
}

/// All thermal zones.
pub(crate) fn list_thermal(probe: &mut Probe<'_>, folder: &str) {
    probe.children(folder, THERMAL_ZONES_MAX, |name| name.starts_with("thermal_zone"), read_thermal);
}

/// One thermal zone. It is named by its number, because types repeat; the type is a value.
fn read_thermal(probe: &mut Probe<'_>, folder: &str) {
    let key = format!("thermal.{}", segment(base_name(folder).trim_start_matches("thermal_")));
    if let Some(name) = probe.line(&format!("{folder}/type")) {
        put(probe, format!("{key}.type"), Value::Text(name));
    }
    for number in 0..TRIP_POINTS_MAX {
        let Some(name) = probe.quiet_text(&format!("{folder}/trip_point_{number}_type")) else { break };
        if name != "critical" {
            continue;
        }
        if let Some(limit) = probe.number(&format!("{folder}/trip_point_{number}_temp"), &bounds::CRITICAL) {
            put(probe, format!("{key}.critical_milli_celsius"), Value::Int(limit));
        }
    }
    if let Some(temperature) = probe.number(&format!("{folder}/temp"), &bounds::TEMPERATURE) {
        put(probe, format!("{key}.temperature_milli_celsius"), Value::Int(temperature));
    }
}

/// All monitoring chips.
pub(crate) fn list_hwmon(probe: &mut Probe<'_>, folder: &str) {
    probe.children(folder, HWMONS_MAX, |name| name.starts_with("hwmon"), read_hwmon);
}

/// One monitoring chip: `hwmon.<name>-<number>.<channel>`, because names repeat.
fn read_hwmon(probe: &mut Probe<'_>, folder: &str) {
    let Some(name) = probe.line(&format!("{folder}/name")) else { return };
    let number = base_name(folder).trim_start_matches("hwmon");
    let key = format!("hwmon.{}", segment(&format!("{name}-{number}")));
    for channel in channels(probe, folder, |file| is_input(file, "temp")) {
        read_temperature(probe, folder, &channel, &key);
    }
    for channel in channels(probe, folder, |file| is_input(file, "fan")) {
        put_label(probe, folder, &channel, &key);
        if let Some(rpm) = probe.unsigned(&format!("{folder}/{channel}_input"), &bounds::FAN) {
            put(probe, format!("{key}.{channel}.speed_rpm"), Value::Uint(rpm));
        }
    }
    for channel in channels(probe, folder, |file| is_input(file, "power")) {
        put_label(probe, folder, &channel, &key);
        let files = [format!("{folder}/{channel}_input"), format!("{folder}/{channel}_average")];
        let file = files.iter().find(|file| probe.exists(file));
        if let Some(power) = file.and_then(|file| probe.unsigned(file, &bounds::POWER_MICROWATT)) {
            put(probe, format!("{key}.{channel}.power_milliwatt"), Value::Uint(power / 1000));
        }
    }
}

/// Names of a chip's channels: `temp1` for `temp1_input`, each once.
fn channels(probe: &mut Probe<'_>, folder: &str, filter: fn(&str) -> bool) -> Vec<String> {
    let files = probe.list(folder, CHANNELS_MAX * 2, filter);
    let mut names: Vec<String> = files.iter().filter_map(|file| Some(file.split_once('_')?.0.to_owned())).collect();
    names.dedup();
    names.truncate(CHANNELS_MAX);
    names
}

/// Whether a file is the reading of a channel: `temp1_input`; power may only have an average.
fn is_input(file: &str, sort: &str) -> bool {
    let Some((channel, "input" | "average")) = file.split_once('_') else { return false };
    channel.strip_prefix(sort).is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn put_label(probe: &mut Probe<'_>, folder: &str, channel: &str, key: &str) {
    if let Some(label) = probe.line(&format!("{folder}/{channel}_label")) {
        put(probe, format!("{key}.{channel}.label"), Value::Text(label));
    }
}

/// One temperature of a chip, unless the chip itself says that the sensor is broken.
fn read_temperature(probe: &mut Probe<'_>, folder: &str, channel: &str, key: &str) {
    put_label(probe, folder, channel, key);
    let fault = format!("{folder}/{channel}_fault");
    if probe.quiet_text(&fault).is_some_and(|text| text == "1") {
        probe.implausible(&fault, "the chip says that this sensor is broken");
        return;
    }
    if let Some(limit) = probe.number(&format!("{folder}/{channel}_crit"), &bounds::CRITICAL) {
        put(probe, format!("{key}.{channel}.critical_milli_celsius"), Value::Int(limit));
    }
    if let Some(temperature) = probe.number(&format!("{folder}/{channel}_input"), &bounds::TEMPERATURE) {
        put(probe, format!("{key}.{channel}.temperature_milli_celsius"), Value::Int(temperature));
    }
}

/// All power supplies of the system.
pub(crate) fn list_power(probe: &mut Probe<'_>, folder: &str) {
    probe.children(folder, POWER_SUPPLIES_MAX, |_| true, read_supply);
}

/// One power supply. A mouse's battery (`scope` is `Device`) says nothing of this machine.
fn read_supply(probe: &mut Probe<'_>, folder: &str) {
    if probe.text(&format!("{folder}/scope")).is_some_and(|scope| scope == "Device") {
        probe.found();
        return;
    }
    let name = segment(base_name(folder));
    match probe.text(&format!("{folder}/type")).as_deref() {
        // An uninterruptible supply is a battery to what hangs on it.
        Some("Battery" | "UPS") => read_battery(probe, folder, &format!("power.battery.{name}")),
        Some("Mains" | "USB" | "Wireless") => {
            if let Some(online) = probe.number(&format!("{folder}/online"), &bounds::ONLINE) {
                put(probe, format!("power.mains.{name}.online"), Value::Bool(online > 0));
            }
        }
        Some(_) => probe.implausible(&format!("{folder}/type"), "not a type of power supply"),
        None => {}
    }
}

/// One battery. A bay without a battery is found and gives nothing.
fn read_battery(probe: &mut Probe<'_>, folder: &str, key: &str) {
    probe.found();
    if probe.quiet_text(&format!("{folder}/present")).is_some_and(|text| text == "0") {
        return;
    }
    if let Some(status) = probe.line(&format!("{folder}/status")) {
        match status.to_lowercase().as_str() {
            known @ ("charging" | "discharging" | "full" | "unknown") => {
                put(probe, format!("{key}.status"), Value::Text(known.to_owned()));
            }
            "not charging" => put(probe, format!("{key}.status"), Value::Text("not-charging".to_owned())),
            _ => probe.implausible(&format!("{folder}/status"), "not a status of a battery"),
        }
    }
    let quantities: [(&str, &str, &Bounds); 6] = [
        ("capacity_percent", "capacity", &bounds::PERCENT),
        ("energy_milliwatt_hours", "energy_now", &bounds::ENERGY_MICROWATT_HOURS),
        ("energy_full_milliwatt_hours", "energy_full", &bounds::ENERGY_MICROWATT_HOURS),
        ("charge_milliampere_hours", "charge_now", &bounds::CHARGE_MICROAMPERE_HOURS),
        ("charge_full_milliampere_hours", "charge_full", &bounds::CHARGE_MICROAMPERE_HOURS),
        ("voltage_millivolt", "voltage_now", &bounds::VOLTAGE_MICROVOLT),
    ];
    for (name, file, limits) in quantities {
        if let Some(number) = probe.unsigned(&format!("{folder}/{file}"), limits) {
            let number = if name.contains("_milli") { number / 1000 } else { number };
            put(probe, format!("{key}.{name}"), Value::Uint(number));
        }
    }
    if let Some(power) = battery_power_microwatt(probe, folder) {
        put(probe, format!("{key}.power_milliwatt"), Value::Uint(power / 1000));
    }
}

/// What flows in or out: given, or the product of voltage and current.
fn battery_power_microwatt(probe: &mut Probe<'_>, folder: &str) -> Option<u64> {
    let file = format!("{folder}/power_now");
    if probe.exists(&file) {
        return probe.unsigned(&file, &bounds::POWER_MICROWATT);
    }
    let microampere = probe.number(&format!("{folder}/current_now"), &bounds::CURRENT_MICROAMPERE)?.unsigned_abs();
    let microvolt = probe.unsigned(&format!("{folder}/voltage_now"), &bounds::VOLTAGE_MICROVOLT)?;
    // Both are bounded by 2 × 10^9, so the product fits.
    Some(microampere * microvolt / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_channels_are_told_from_their_settings() {
        assert!(is_input("temp1_input", "temp") && is_input("power12_average", "power"));
        for file in ["temp1_crit", "temp_input", "tempx_input", "temp1_input_lowest", "fan1_input", "name"] {
            assert!(!is_input(file, "temp"), "{file}");
        }
    }
}
