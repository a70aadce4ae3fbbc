//! Who is at the other end: an ed25519 public key.

use std::fmt;
use std::str::FromStr;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

/// A libp2p peer id of an ed25519 key is this prefix and the key: multihash code 0 (identity), 36 bytes long, holding the
/// protobuf `{type: ed25519, data: 32 bytes}` (libp2p specs, `peer-ids.md`).
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// A peer's ed25519 public key. Displayed as 64 lowercase hex digits; ordered by its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey(
    /// The 32 bytes of the compressed point.
    pub [u8; 32],
);

/// A text is no peer key: not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer key is 64 hex digits")]
pub struct BadPeerKey;

impl PeerKey {
    /// The peer id libp2p gives to this key.
    pub(crate) fn to_peer_id(self) -> PeerId {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        PeerId::from_bytes(&bytes).expect("an identity multihash of at most 42 bytes is always a peer id")
    }

    /// The key inside a peer id; `None` when the id is of another kind of key.
    pub(crate) fn from_peer_id(id: &PeerId) -> Option<Self> {
        let bytes = id.to_bytes();
        let key = bytes.strip_prefix(&PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({self})")
    }
}

impl FromStr for PeerKey {
    type Err = BadPeerKey;

    fn from_str(text: &str) -> Result<Self, BadPeerKey> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadPeerKey);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or(BadPeerKey);
            let value = digit(pair[0])? * 16 + digit(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| BadPeerKey)?;
        }
        Ok(Self(key))
    }
}

/// A hash of keys in this order (for rendezvous hashing, Thaler and Ravishankar 1998; mixed as SplitMix64).
pub(crate) fn hash_of<const N: usize>(keys: [&PeerKey; N]) -> u64 {
    let words = keys.into_iter().flat_map(|key| key.0.as_chunks::<8>().0.iter().copied());
    words.fold(0, |hash, word| {
        let mut mixed: u64 = (hash ^ u64::from_le_bytes(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::identity::Keypair;
    use proptest::prelude::*;

    #[test]
    fn is_the_key_inside_libp2ps_own_peer_id() {
        let mut secret = [7; 32];
        let pair = Keypair::ed25519_from_bytes(&mut secret).expect("any 32 bytes are a secret");
        let public = pair.public();
        let bytes = public.clone().try_into_ed25519().expect("ed25519").to_bytes();
        assert_eq!(PeerKey(bytes).to_peer_id(), public.to_peer_id());
        assert_eq!(PeerKey::from_peer_id(&public.to_peer_id()), Some(PeerKey(bytes)));
    }

    #[test]
    fn a_hashed_peer_id_holds_no_key() {
        assert_eq!(PeerKey::from_peer_id(&PeerId::random()), None);
    }

    proptest! {
        #[test]
        fn text_and_peer_id_round_trip(bytes: [u8; 32]) {
            let key = PeerKey(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
            prop_assert_eq!(PeerKey::from_peer_id(&key.to_peer_id()), Some(key));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<PeerKey>();
        }
    }
}
