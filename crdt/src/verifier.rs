//! The strict check of Ed25519 signatures, with keys that were parsed once.

use ed25519_dalek::{Signature, VerifyingKey};

use crate::id::Key;

/// The encodings of the eight points of small order.
const SMALL_ORDER: [[u8; 32]; 8] = {
    let order_8 = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    let other_order_8 = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut order_2 = [0xff; 32];
    order_2[0] = 0xec;
    order_2[31] = 0x7f;
    [
        neutral,
        order_2,
        [0; 32],
        with_sign([0; 32]),
        order_8,
        with_sign(order_8),
        other_order_8,
        with_sign(other_order_8),
    ]
};

const fn with_sign(mut point: [u8; 32]) -> [u8; 32] {
    point[31] |= 0x80;
    point
}

/// A key that signatures are checked with. Parsing it anew for each would be a tenth of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    key: VerifyingKey,
    is_weak: bool,
}

impl Verifier {
    /// Parses a key; none where it is no point of the curve.
    pub fn new(key: &Key) -> Option<Verifier> {
        let key = VerifyingKey::from_bytes(&key.0).ok()?;
        Some(Verifier { key, is_weak: key.is_weak() })
    }

    /// Whether a signature of `message` passes the strict verification, which is [`VerifyingKey::verify_strict`]'s: S is
    /// canonical, neither the key nor R is a point of small order, and R has the one encoding of what it must be.
    ///
    /// The library finds the order of R by decompressing it, a sixth of the check. But R is compared, byte for byte, with
    /// the encoding of a point that was computed, so one of small order has one of eight encodings.
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let is_small = SMALL_ORDER.iter().any(|point| signature[..32] == point[..]);
        let signature = Signature::from_bytes(signature);
        !self.is_weak && !is_small && ed25519_dalek::Verifier::verify(&self.key, message, &signature).is_ok()
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

    #[test]
    fn the_points_of_small_order_are_distinct_and_of_small_order() {
        let distinct: std::collections::BTreeSet<_> = SMALL_ORDER.into_iter().collect();
        assert_eq!(distinct.len(), 8);
        for point in SMALL_ORDER {
            let key = VerifyingKey::from_bytes(&point).expect("a point");
            assert!(key.is_weak() && key.to_bytes() == point);
        }
    }

    /// With a key of small order, S = 0 and R a point of small order, the equation itself holds for some messages.
    #[test]
    fn nothing_of_small_order_verifies() {
        let mut lenient = 0;
        for (key, point) in SMALL_ORDER.iter().flat_map(|key| SMALL_ORDER.iter().map(move |point| (key, point))) {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(point);
            let parsed = VerifyingKey::from_bytes(key).expect("a point");
            for message in 0..16u8 {
                let equation = ed25519_dalek::Verifier::verify(&parsed, &[message], &Signature::from_bytes(&signature));
                lenient += usize::from(equation.is_ok());
                assert!(!verifies(&Key(*key), &[message], &signature));
                assert!(!verify_strict(&Key(*key), &[message], &signature));
            }
        }
        assert!(lenient > 0, "the check of the order is what refuses them");
    }

    /// R of small order with an honest key: S = k a makes the equation hold with R the neutral point.
    #[test]
    fn an_honest_key_with_a_small_point_does_not_verify() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = Key(key.verifying_key().to_bytes());
        for point in SMALL_ORDER {
            let mut signature = key.sign(b"a").to_bytes();
            signature[..32].copy_from_slice(&point);
            assert_eq!(verifies(&public, b"a", &signature), verify_strict(&public, b"a", &signature));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

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
