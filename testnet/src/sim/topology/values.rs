//! Numbers in a file that know their limits: what is parsed lies within them.

use serde::Deserialize;

/// A whole number, `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct Whole<const MIN: i64, const MAX: i64>(usize);

/// A decimal number from 0 to `MAX`, kept in `STEPS` steps to the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub(super) struct Decimal<const MAX: u32, const STEPS: u32>(u64);

/// Milliseconds up to 10 s, kept as microseconds.
pub(super) type Millis = Decimal<10_000, 1_000>;
/// Milliseconds up to 1 s, kept as microseconds.
pub(super) type AccessMillis = Decimal<1_000, 1_000>;
/// Mbit/s up to a Tbit/s, kept as bytes a second.
pub(super) type Mbit = Decimal<1_000_000, 125_000>;
/// Per cent, kept as millionths. A link that loses nearly all is no link, and a sender would try for ever.
pub(super) type Percent = Decimal<90, 10_000>;

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    pub(super) fn value(self) -> usize {
        self.0
    }
}

impl<const MAX: u32, const STEPS: u32> Decimal<MAX, STEPS> {
    pub(super) fn steps(self) -> u64 {
        self.0
    }
}

impl<const MIN: i64, const MAX: i64> TryFrom<i64> for Whole<MIN, MAX> {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, String> {
        match usize::try_from(value) {
            Ok(whole) if (MIN..=MAX).contains(&value) => Ok(Whole(whole)),
            _ => Err(format!("{value} is not allowed, allowed are {MIN} to {MAX}")),
        }
    }
}

impl<const MAX: u32, const STEPS: u32> TryFrom<f64> for Decimal<MAX, STEPS> {
    type Error = String;

    fn try_from(value: f64) -> Result<Self, String> {
        // Not a number is in no range. Within the range the product is exact enough and far below 2^63.
        if !(0.0..=f64::from(MAX)).contains(&value) {
            return Err(format!("{value} is not allowed, allowed are 0 to {MAX}"));
        }
        let steps = (value * f64::from(STEPS)).round() as u64;
        // What rounds to 0 would say something else: a rate of 0 is none.
        if steps == 0 && value > 0.0 {
            return Err(format!("{value} is not allowed, the smallest above 0 is {}", 1.0 / f64::from(STEPS)));
        }
        Ok(Decimal(steps))
    }
}
