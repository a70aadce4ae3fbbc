//! What a reading may plausibly be. What lies outside is dropped and reported, never written.
//!
//! The bounds are wide: they refuse what no machine has (absolute zero, 10^9, minus one kilobyte of memory),
//! not what is unusual.

use std::ops::RangeInclusive;

/// A quantity as a file gives it, in the file's unit.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// What is measured, with its unit, for people.
    pub(crate) name: &'static str,
    /// Values that are believed.
    pub(crate) range: RangeInclusive<i64>,
}

const fn bounds(name: &'static str, min: i64, max: i64) -> Bounds {
    Bounds { name, range: min..=max }
}

/// A sensor in or near electronics: from the arctic to where solder softens.
pub(crate) const TEMPERATURE: Bounds = bounds("temperature in m°C", -60_000, 150_000);
/// A critical limit; drivers say 0, -274000 or 65261850 where there is none.
pub(crate) const CRITICAL: Bounds = bounds("critical temperature in m°C", 30_000, 150_000);
pub(crate) const FAN: Bounds = bounds("fan speed in rpm", 0, 50_000);
/// Up to 100 kW.
pub(crate) const POWER_MICROWATT: Bounds = bounds("power in µW", 0, 100_000_000_000);
/// Discharge has either sign (Documentation/ABI/testing/sysfs-class-power); up to 2 kA.
pub(crate) const CURRENT_MICROAMPERE: Bounds = bounds("current in µA", -2_000_000_000, 2_000_000_000);
/// Up to 2 kV.
pub(crate) const VOLTAGE_MICROVOLT: Bounds = bounds("voltage in µV", 0, 2_000_000_000);
/// Up to 1 MWh.
pub(crate) const ENERGY_MICROWATT_HOURS: Bounds = bounds("energy in µWh", 0, 1_000_000_000_000);
/// Up to 10 kAh.
pub(crate) const CHARGE_MICROAMPERE_HOURS: Bounds = bounds("charge in µAh", 0, 10_000_000_000);
pub(crate) const PERCENT: Bounds = bounds("percentage", 0, 100);
/// 0 offline, 1 online, 2 online and programmable.
pub(crate) const ONLINE: Bounds = bounds("online flag", 0, 2);
pub(crate) const FLAG: Bounds = bounds("flag", 0, 1);
/// 64 TiB.
pub(crate) const MEMORY_KIB: Bounds = bounds("memory in KiB", 0, 64 << 30);
/// 1 EiB in 512-byte sectors.
pub(crate) const SECTORS: Bounds = bounds("size in sectors", 0, 1 << 51);
/// 3.2 Tbit/s; drivers say -1 or 0 where they do not know.
pub(crate) const SPEED_MEGABITS: Bounds = bounds("speed in Mbit/s", -1, 3_200_000);
/// 1 MHz to 20 GHz.
pub(crate) const FREQUENCY_KHZ: Bounds = bounds("frequency in kHz", 1_000, 20_000_000);
/// Load average in thousandths.
pub(crate) const LOAD_MILLI: Bounds = bounds("load in thousandths", 0, 100_000_000);
/// 1 EiB.
pub(crate) const FILESYSTEM_BYTES_MAX: u64 = 1 << 60;
/// 1 TB/s.
pub(crate) const RATE_BYTES_PER_S_MAX: u64 = 1_000_000_000_000;
/// Processors of one machine.
pub(crate) const CORES_MAX: u64 = 65_536;

/// A whole number within its bounds, or what is wrong with it.
pub(crate) fn parse(text: &str, bounds: &Bounds) -> Result<i64, String> {
    if text.is_empty() {
        return Err(format!("{}: the file is empty", bounds.name));
    }
    let shown: String = text.chars().take(32).filter(|c| !c.is_control()).collect();
    let number: i64 = text.parse().map_err(|_| format!("{}: {shown:?} is not a whole number", bounds.name))?;
    if bounds.range.contains(&number) {
        Ok(number)
    } else {
        let (min, max) = (bounds.range.start(), bounds.range.end());
        Err(format!("{}: {number} is outside {min} to {max}", bounds.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_are_refused_with_a_reason() {
        assert_eq!(parse("45000", &TEMPERATURE), Ok(45_000));
        assert_eq!(parse("-40000", &TEMPERATURE), Ok(-40_000));
        for lie in ["-273150", "1000000000", "", "NaN", "nan", "45.5", "0x10", "garbage\u{0}", "99999999999999999999"] {
            let why = parse(lie, &TEMPERATURE).expect_err(lie);
            assert!(why.starts_with("temperature in m°C: "), "{why}");
        }
        assert!(parse("-8 kB", &MEMORY_KIB).is_err() && parse("-8", &MEMORY_KIB).is_err());
        assert!(parse("101", &PERCENT).is_err() && parse("65261850", &CRITICAL).is_err());
    }
}
