//! The strict check of Ed25519 signatures, with keys that were parsed once.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::id::Key;

/// A key that signatures are checked with. Parsing it anew for each would be a tenth of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    key: VerifyingKey,
}

impl Verifier {
    /// Parses a key; none where it is no point of the curve.
    pub fn new(key: &Key) -> Option<Verifier> {
        VerifyingKey::from_bytes(&key.0).ok().map(|key| Verifier { key })
    }

    /// Whether a signature of `message` passes [`VerifyingKey::verify_strict`].
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    use super::*;

    fn verify_strict(key: &Key, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&key.0)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
    }

    fn verifies(key: &Key, message: &[u8], signature: &[u8; 64]) -> bool {
        Verifier::new(key).is_some_and(|key| key.verifies(message, signature))
    }

    /// A key of small order verifies nothing: with S = 0 and R = its negative the equation itself would hold.
    #[test]
    fn a_key_of_small_order_verifies_nothing() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let lenient = VerifyingKey::from_bytes(&neutral).unwrap();
        assert!(ed25519_dalek::Verifier::verify(&lenient, b"a", &Signature::from_bytes(&signature)).is_ok());
        assert!(!verifies(&Key(neutral), b"a", &signature));
    }

    proptest! {
        #![proptest_config(crate::fixture::cases(500))]

        #[test]
        fn it_is_the_strict_verification(
            seed in any::<[u8; 32]>(), message in proptest::collection::vec(any::<u8>(), 0..40),
            flips in proptest::collection::vec((0usize..96, 0u8..8), 0..3),
        ) {
            let key = SigningKey::from_bytes(&seed);
            let mut public = key.verifying_key().to_bytes();
            let mut signature = key.sign(&message).to_bytes();
            for (at, bit) in &flips {
                match at.checked_sub(64) {
                    Some(at) => public[at] ^= 1 << bit,
                    None => signature[*at] ^= 1 << bit,
                }
            }
            let is_strict = verify_strict(&Key(public), &message, &signature);
            prop_assert_eq!(verifies(&Key(public), &message, &signature), is_strict);
            prop_assert!(is_strict || !flips.is_empty());
        }
    }
}
