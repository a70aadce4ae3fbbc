//! The seal of an epoch: what the first change of the next one says about the one before, as its commit message.

use std::fmt;
use std::str::FromStr;

use crate::id::{Actor, ChainHash, hex, unhex};
use crate::store::{StoreError, encode_record};
use crate::view::View;

/// `seal v1 <actor> <last seq> <chain> <hash of the values>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// The log of the epoch before.
    pub actor: Actor,
    /// Its last sequence number.
    pub last_seq: u64,
    /// Its hash chain there.
    pub chain: ChainHash,
    /// BLAKE3 of the values that the new epoch starts with.
    pub values: [u8; 32],
}

/// The text is no seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a seal: expected \"seal v1 ACTOR SEQ CHAIN VALUES\"")]
pub struct SealError;

/// The hash of a document's values: BLAKE3 over path and value records in the order of the paths.
pub fn values_hash(view: &View) -> Result<[u8; 32], StoreError> {
    let mut hasher = blake3::Hasher::new();
    for (path, entry) in view {
        hasher.update(&(path.len() as u64).to_be_bytes()).update(path.as_bytes());
        hasher.update(&encode_record(&entry.read.value));
    }
    Ok(*hasher.finalize().as_bytes())
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seal v1 {} {} {} {}", self.actor, self.last_seq, self.chain, hex(&self.values))
    }
}

impl FromStr for Seal {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Seal, SealError> {
        let mut words = text.strip_prefix("seal v1 ").ok_or(SealError)?.split(' ');
        let mut next = || words.next().ok_or(SealError);
        let seal = Seal {
            actor: next()?.parse().map_err(|_| SealError)?,
            last_seq: next()?.parse().map_err(|_| SealError)?,
            chain: next()?.parse().map_err(|_| SealError)?,
            values: unhex(next()?).map_err(|_| SealError)?,
        };
        // One text a seal: what is written again is the same.
        if seal.to_string() == text { Ok(seal) } else { Err(SealError) }
    }
}
