//! What follows from several readings: the hottest sensor, whether one is critical, where power comes from.
//!
//! Nothing is derived from what was not read: while a sensor or a supply hangs, a statement that needs it is absent
//! and not guessed, so that no false crossing is told to the fleet.

use std::collections::BTreeMap;

use crdt::schema::Value;

/// Prefixes of names of sensors that sit in or at the processor.
const CPU_SENSORS: [&str; 8] =
    ["cpu-thermal", "cpu_thermal", "x86_pkg_temp", "soc-thermal", "soc_thermal", "coretemp", "k10temp", "zenpower"];

/// Which classes of sources had a member that hangs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hanging {
    /// A thermal zone or a monitoring chip.
    pub(crate) temperature: bool,
    /// A power supply.
    pub(crate) power: bool,
}

/// The derived values of an environment.
pub(crate) fn derive(environment: &BTreeMap<String, Value>, hanging: Hanging) -> Vec<(String, Value)> {
    let mut derived = Vec::new();
    temperature(environment, hanging.temperature, &mut derived);
    power(environment, hanging.power, &mut derived);
    derived
}

fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Uint(number) => i64::try_from(*number).ok(),
        _ => None,
    }
}

fn temperature(environment: &BTreeMap<String, Value>, is_hanging: bool, derived: &mut Vec<(String, Value)>) {
    let (mut hottest, mut processor) = (None, None);
    for (path, value) in environment {
        let Some(sensor) = path.strip_suffix(".temperature_milli_celsius") else { continue };
        let number = int(value);
        hottest = hottest.max(number);
        if is_at_processor(environment, sensor) {
            processor = processor.max(number);
        }
    }
    if let Some(number) = processor {
        derived.push(("cpu.temperature_milli_celsius".to_owned(), Value::Int(number)));
    }
    if let Some(number) = hottest {
        derived.push(("temperature.hottest_milli_celsius".to_owned(), Value::Int(number)));
    }
    // Critical needs one sensor that says so; not critical needs all that have a limit.
    let (mut is_critical, mut is_complete, mut has_limit) = (false, !is_hanging, false);
    for (path, value) in environment {
        let Some(sensor) = path.strip_suffix(".critical_milli_celsius") else { continue };
        has_limit = true;
        match environment.get(&format!("{sensor}.temperature_milli_celsius")) {
            Some(reading) => is_critical |= int(reading) >= int(value),
            None => is_complete = false,
        }
    }
    if has_limit && (is_critical || is_complete) {
        derived.push(("temperature.critical".to_owned(), Value::Bool(is_critical)));
    }
}

/// Whether a sensor, `thermal.zone0` or `hwmon.coretemp-2.temp1`, is the processor's.
fn is_at_processor(environment: &BTreeMap<String, Value>, sensor: &str) -> bool {
    let name = match environment.get(&format!("{sensor}.type")) {
        Some(Value::Text(name)) => name.as_str(),
        _ => sensor.strip_prefix("hwmon.").unwrap_or_default(),
    };
    CPU_SENSORS.iter().any(|prefix| name.to_lowercase().starts_with(prefix))
}

fn power(environment: &BTreeMap<String, Value>, is_hanging: bool, derived: &mut Vec<(String, Value)>) {
    let supplies = environment.range("power.".to_owned()..).take_while(|(path, _)| path.starts_with("power."));
    let (mut mains, mut statuses, mut capacities) = (Vec::new(), Vec::new(), Vec::new());
    for (path, value) in supplies {
        match value {
            Value::Bool(online) if path.ends_with(".online") => mains.push(*online),
            Value::Text(status) if path.ends_with(".status") => statuses.push(status.as_str()),
            Value::Uint(percent) if path.ends_with(".capacity_percent") => capacities.push(*percent),
            _ => {}
        }
    }
    let is_online = mains.contains(&true);
    let is_draining = statuses.contains(&"discharging");
    let is_fed = statuses.iter().any(|status| ["charging", "full", "not-charging"].contains(status));
    let has_battery = !statuses.is_empty() || !capacities.is_empty();
    let source = if is_online {
        "mains"
    } else if is_draining {
        "battery"
    } else if is_fed && mains.is_empty() {
        "mains"
    } else if is_hanging {
        return;
    } else if has_battery && !mains.is_empty() {
        // The mains say that they are off: the battery feeds the machine, whatever its status says.
        "battery"
    } else {
        "unknown"
    };
    derived.push(("power.source".to_owned(), Value::Text(source.to_owned())));
    if !capacities.is_empty() && !is_hanging {
        let mean = capacities.iter().sum::<u64>() / capacities.len() as u64;
        derived.push(("power.capacity_percent".to_owned(), Value::Uint(mean)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(values: &[(&str, Value)]) -> BTreeMap<String, Value> {
        values.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect()
    }

    fn derived(values: &[(&str, Value)], hanging: Hanging, path: &str) -> Option<Value> {
        derive(&environment(values), hanging).into_iter().find(|(name, _)| name == path).map(|(_, value)| value)
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn where_power_comes_from() {
        let none = Hanging::default();
        let hangs = Hanging { power: true, ..none };
        let mains = |online| ("power.mains.ac.online", Value::Bool(online));
        let battery = |status| ("power.battery.bat0.status", text(status));
        let table = [
            (vec![], none, Some("unknown")),
            (vec![mains(true)], none, Some("mains")),
            (vec![mains(false)], none, Some("unknown")),
            (vec![mains(true), battery("charging")], none, Some("mains")),
            (vec![mains(false), battery("discharging")], none, Some("battery")),
            (vec![mains(false), battery("unknown")], none, Some("battery")),
            (vec![battery("full")], none, Some("mains")),
            (vec![battery("unknown")], none, Some("unknown")),
            // The mains hang: only what the battery itself says is known.
            (vec![battery("discharging")], hangs, Some("battery")),
            (vec![battery("charging")], hangs, Some("mains")),
            (vec![battery("unknown")], hangs, None),
            (vec![], hangs, None),
            (vec![mains(false)], hangs, None),
        ];
        for (values, hanging, source) in table {
            assert_eq!(derived(&values, hanging, "power.source"), source.map(text), "{values:?} {hanging:?}");
        }
    }

    #[test]
    fn not_critical_needs_every_sensor() {
        let at = |number| ("thermal.zone0.temperature_milli_celsius", Value::Int(number));
        let limit = ("thermal.zone0.critical_milli_celsius", Value::Int(100_000));
        let other_limit = ("hwmon.x-0.temp1.critical_milli_celsius", Value::Int(90_000));
        let (none, hangs) = (Hanging::default(), Hanging { temperature: true, ..Hanging::default() });
        let critical = |values: &[(&str, Value)], hanging| derived(values, hanging, "temperature.critical");
        assert_eq!(critical(&[at(50_000)], none), None, "no limit");
        assert_eq!(critical(&[at(50_000), limit.clone()], none), Some(Value::Bool(false)));
        assert_eq!(critical(&[at(100_000), limit.clone()], none), Some(Value::Bool(true)));
        assert_eq!(critical(&[at(50_000), limit.clone()], hangs), None);
        assert_eq!(critical(&[at(50_000), limit.clone(), other_limit.clone()], none), None);
        assert_eq!(critical(&[at(100_000), limit, other_limit], hangs), Some(Value::Bool(true)));
    }

    #[test]
    fn the_processor_and_the_hottest() {
        let values = [
            ("thermal.zone0.type", text("acpitz")),
            ("thermal.zone0.temperature_milli_celsius", Value::Int(-5_000)),
            ("hwmon.nvme-0.temp1.temperature_milli_celsius", Value::Int(60_000)),
            ("hwmon.coretemp-1.temp1.temperature_milli_celsius", Value::Int(50_000)),
            ("hwmon.coretemp-1.temp2.temperature_milli_celsius", Value::Int(52_000)),
        ];
        let of = |path| derived(&values, Hanging::default(), path);
        assert_eq!(of("temperature.hottest_milli_celsius"), Some(Value::Int(60_000)));
        assert_eq!(of("cpu.temperature_milli_celsius"), Some(Value::Int(52_000)));
        assert_eq!(derived(&[], Hanging::default(), "temperature.hottest_milli_celsius"), None);
    }
}
