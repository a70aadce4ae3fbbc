//! Identifiers and hashes: 32-byte newtypes that print as lowercase hexadecimal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text has the wrong number of hexadecimal digits.
    #[error("expected {expected} hexadecimal digits, found {found} characters")]
    Length {
        /// Digits that were expected.
        expected: usize,
        /// Characters that were found.
        found: usize,
    },
    /// A character is not a hexadecimal digit.
    #[error("character {0} is not a hexadecimal digit")]
    Digit(usize),
}

/// Lowercase hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

/// The bytes that `text`, in hexadecimal of either case, stands for.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(ParseIdError::Length { expected: N * 2, found: text.chars().count() });
    }
    let mut out = [0; N];
    for (at, digit) in digits.iter().enumerate() {
        let value = (*digit as char).to_digit(16).ok_or(ParseIdError::Digit(at))?;
        out[at / 2] = out[at / 2] << 4 | u8::try_from(value).expect("a hexadecimal digit is below 16");
    }
    Ok(out)
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}…)", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                unhex(text).map(Self)
            }
        }
    };
}

identifier!(
    /// A fleet: BLAKE3 of the canonical bytes of its first root statement.
    FleetId, 32
);
identifier!(
    /// A device: BLAKE3 of its public key.
    DeviceId, 32
);
identifier!(
    /// An ed25519 public key of a device, an operator or a root key holder.
    Key, 32
);
identifier!(
    /// A statement: BLAKE3 of its canonical bytes without signatures.
    StatementId, 32
);
identifier!(
    /// A log, and the Automerge actor of its changes: the first 16 bytes of a BLAKE3 hash (PROTOCOL 2).
    Actor, 16
);
identifier!(
    /// The SHA-256 hash of a raw Automerge change.
    ChangeHash, 32
);
identifier!(
    /// The hash chain over a log: `H_n = BLAKE3(H_{n-1} ‖ change hash n)`, `H_0` is all zero.
    ChainHash, 32
);
identifier!(
    /// A root over a set of logs and statements.
    Root, 32
);

impl Key {
    /// The id of the device that holds this key.
    pub fn device(&self) -> DeviceId {
        DeviceId(*blake3::hash(&self.0).as_bytes())
    }
}

impl ChainHash {
    /// The value before the first change.
    pub const START: ChainHash = ChainHash([0; 32]);

    /// The value after one more change.
    pub fn next(&self, change: &ChangeHash) -> ChainHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&change.0);
        ChainHash(*hasher.finalize().as_bytes())
    }
}

/// A point in time: microseconds of a monotonic clock that starts anywhere. Never a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `micros` microseconds later.
    pub fn plus_micros(self, micros: u64) -> Time {
        Time(self.0.saturating_add(micros))
    }

    /// The time `millis` milliseconds later.
    pub fn plus_millis(self, millis: u64) -> Time {
        self.plus_micros(millis.saturating_mul(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        let id = FleetId([0xa7; 32]);
        assert_eq!(id.to_string().parse::<FleetId>(), Ok(id));
        assert_eq!("00".parse::<FleetId>(), Err(ParseIdError::Length { expected: 64, found: 2 }));
        assert_eq!(unhex::<1>("0g"), Err(ParseIdError::Digit(1)));
    }
}
