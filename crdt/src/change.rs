//! Signed changes, the logs that they form and the hash chain that one signature vouches for (PROTOCOL 2).

use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};

use crate::id::{Actor, ChainHash, ChangeHash, DeviceId, FleetId, Key};
use crate::schema::DocumentName;
use crate::statement::SignatureBytes;
use crate::verifier::Verifier;

/// Largest raw Automerge change, bytes.
pub const RAW_BYTES_MAX: usize = 64 * 1024;
/// Most changes in one signed run.
pub const RUN_CHANGES_MAX: usize = 32;
/// Most raw bytes in one signed run, one change of any allowed size aside.
pub const RUN_BYTES_MAX: usize = 48 * 1024;
/// Format number of a signed change that stands by itself (a file, an API body).
pub const SIGNED_CHANGE_FORMAT: u8 = 1;

const ACTOR_CONTEXT: &[u8] = b"fleetsync actor v1";
const CHANGE_CONTEXT: &[u8] = b"fleetsync change v1";

/// The parts that name a log: what one author made to one document on one carrier, in one epoch and incarnation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogName {
    /// The document.
    pub document: DocumentName,
    /// The document's epoch, from 1; always 1 for documents of several writers until a statement rolls them over.
    pub epoch: u64,
    /// The key that vouches for the changes.
    pub author: Key,
    /// The device on which the changes were made.
    pub carrier: DeviceId,
    /// 64 random bits of the carrier, drawn anew after a restore, a clone or seeing oneself ahead.
    pub incarnation: u64,
}

impl LogName {
    /// The log's id: the first 16 bytes of BLAKE3 over the context and the length-prefixed parts.
    pub fn actor(&self, fleet: &FleetId) -> Actor {
        let mut hasher = blake3::Hasher::new();
        hasher.update(ACTOR_CONTEXT);
        let epoch = self.epoch.to_be_bytes();
        let incarnation = self.incarnation.to_be_bytes();
        let parts: [&[u8]; 6] =
            [&fleet.0, &self.author.0, &self.carrier.0, self.document.as_str().as_bytes(), &epoch, &incarnation];
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        Actor(hasher.finalize().as_bytes()[..16].try_into().expect("a BLAKE3 hash has 32 bytes"))
    }
}

/// What the signature of change `seq` of a log is over.
pub fn signing_bytes(fleet: &FleetId, actor: &Actor, seq: u64, chain: &ChainHash) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHANGE_CONTEXT.len() + 88);
    bytes.extend_from_slice(CHANGE_CONTEXT);
    bytes.extend_from_slice(&fleet.0);
    bytes.extend_from_slice(&actor.0);
    bytes.extend_from_slice(&seq.to_be_bytes());
    bytes.extend_from_slice(&chain.0);
    bytes
}

/// The author's signature over a log up to and including `seq`.
pub fn sign(key: &SigningKey, fleet: &FleetId, actor: &Actor, seq: u64, chain: &ChainHash) -> SignatureBytes {
    SignatureBytes(key.sign(&signing_bytes(fleet, actor, seq, chain)).to_bytes())
}

/// Whether `signature` vouches for the log up to `seq`; strict verification.
pub fn is_vouched(
    author: &Key,
    fleet: &FleetId,
    actor: &Actor,
    seq: u64,
    chain: &ChainHash,
    signature: &SignatureBytes,
) -> bool {
    Verifier::new(author).is_some_and(|author| is_vouched_by(&author, fleet, actor, seq, chain, signature))
}

/// As [`is_vouched`], with the author's key parsed.
pub fn is_vouched_by(
    author: &Verifier,
    fleet: &FleetId,
    actor: &Actor,
    seq: u64,
    chain: &ChainHash,
    signature: &SignatureBytes,
) -> bool {
    author.verifies(&signing_bytes(fleet, actor, seq, chain), &signature.0)
}

/// Consecutive changes of one log that end at a signed one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The log.
    pub log: LogName,
    /// Sequence number of the first change, from 1.
    pub first_seq: u64,
    /// Raw Automerge changes, 1 to [`RUN_CHANGES_MAX`].
    pub changes: Vec<RawBytes>,
    /// The author's signature at the last of them.
    pub signature: SignatureBytes,
}

/// Bytes as they are: a raw Automerge change, or what is not read here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawBytes(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl std::fmt::Debug for RawBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawBytes({} bytes)", self.0.len())
    }
}

impl Run {
    /// Sequence number of the last change.
    pub fn last_seq(&self) -> u64 {
        self.first_seq.saturating_sub(1).saturating_add(self.changes.len() as u64)
    }
}

/// A single change that its author signed or is asked to sign, as it stands in files and API bodies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedChange {
    /// The log.
    pub log: LogName,
    /// Its sequence number there.
    pub seq: u64,
    /// The hash chain before it.
    pub chain_before: ChainHash,
    /// The raw Automerge change.
    pub raw: RawBytes,
}

impl PreparedChange {
    /// The hash of the raw change as its header states it; `None` where there is no header.
    pub fn hash(&self) -> Option<ChangeHash> {
        crate::raw::hash_of(&self.raw.0)
    }

    /// Format byte, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![SIGNED_CHANGE_FORMAT];
        bytes.extend(postcard::to_stdvec(self).expect("plain data always encodes"));
        bytes
    }

    /// Reads what [`PreparedChange::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<PreparedChange> {
        let (format, rest) = bytes.split_first()?;
        if *format != SIGNED_CHANGE_FORMAT {
            return None;
        }
        postcard::take_from_bytes(rest).ok().filter(|(_, rest)| rest.is_empty()).map(|(change, _)| change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Kind;

    fn log() -> LogName {
        let author = Key([1; 32]);
        LogName {
            document: DocumentName::of_device(Kind::Device, &author.device()),
            epoch: 1,
            author,
            carrier: author.device(),
            incarnation: 7,
        }
    }

    #[test]
    fn every_part_changes_the_actor() {
        let fleet = FleetId([9; 32]);
        let base = log();
        let others = [
            LogName { epoch: 2, ..base.clone() },
            LogName { incarnation: 8, ..base.clone() },
            LogName { author: Key([2; 32]), ..base.clone() },
            LogName { carrier: DeviceId([2; 32]), ..base.clone() },
            LogName { document: DocumentName::config("a").unwrap(), ..base.clone() },
        ];
        for other in others {
            assert_ne!(other.actor(&fleet), base.actor(&fleet), "{other:?}");
        }
        assert_ne!(base.actor(&fleet), base.actor(&FleetId([8; 32])));
    }

    /// Golden: actors and signing bytes name what is stored and signed everywhere.
    #[test]
    fn golden_actor_and_signature() {
        let fleet = FleetId([9; 32]);
        let actor = log().actor(&fleet);
        assert_eq!(actor.to_string(), "a09cbda66d5e6a0874b8994359c9d5d9");
        let key = SigningKey::from_bytes(&[3; 32]);
        let signature = sign(&key, &fleet, &actor, 5, &ChainHash([4; 32]));
        let expected = "ab75eccaee85e35bfbbc09fee9a6f8327c0f888b6e49623fb298c3f3a9aa24fb\
            d4cdd6ec7ed9a42040bcddedd809fd38d881f2e4d9bdcb0299a79cacbf25a10c";
        assert_eq!(crate::id::hex(&signature.0), expected);
    }

    /// What a peer says is no sequence number does not end the process.
    #[test]
    fn the_last_number_of_any_run() {
        let run = |first_seq, count| {
            let signature = SignatureBytes([0; 64]);
            Run { log: log(), first_seq, changes: vec![RawBytes(vec![]); count], signature }.last_seq()
        };
        assert_eq!((run(1, 1), run(4, 3), run(4, 0)), (1, 6, 3));
        assert_eq!((run(0, 0), run(0, 2), run(u64::MAX, 2)), (0, 2, u64::MAX));
    }

    #[test]
    fn prepared_changes_round_trip() {
        let change = PreparedChange { log: log(), seq: 3, chain_before: ChainHash::START, raw: RawBytes(vec![1, 2]) };
        assert_eq!(PreparedChange::decode(&change.encode()), Some(change.clone()));
        let mut longer = change.encode();
        longer.push(0);
        assert_eq!(PreparedChange::decode(&longer), None);
    }

    /// Golden: what `--keys` keeps and the API takes.
    #[test]
    fn golden_prepared_change() {
        let change = PreparedChange { log: log(), seq: 3, chain_before: ChainHash([4; 32]), raw: RawBytes(vec![1, 2]) };
        let expected = "01476465766963652f393531353034393037316564393133313439613830643362623738393166636434633663\
            316533643134616438373839333961383066396239613931653038630101010101010101010101010101010101\
            010101010101010101010101010101019515049071ed913149a80d3bb7891fcd4c6c1e3d14ad878939a80f9b9a\
            91e08c07030404040404040404040404040404040404040404040404040404040404040404020102";
        assert_eq!(crate::id::hex(&change.encode()), expected);
    }
}
