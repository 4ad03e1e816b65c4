//! Small secrets for one node, by HPKE (RFC 9180): base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
//!
//! The recipient's key is its Ed25519 key as a point of Curve25519 (RFC 7748, 4.1), so that whoever knows a node can write to it.
//! Nothing here says who sealed: that is the business of the connection that the bytes came over.

use ed25519_dalek::VerifyingKey;
use hpke::{
    Deserializable as _, OpModeR, OpModeS, Serializable as _, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256,
};

use super::Keypair;
use crate::types::NodeKey;

type PublicKey = <X25519HkdfSha256 as hpke::Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
type Encapsulated = <X25519HkdfSha256 as hpke::Kem>::EncappedKey;

/// Bytes of the encapsulated key that a sealed secret begins with.
const ENCAPSULATED: usize = 32;
/// Bytes that sealing adds: the encapsulated key, and the tag of Poly1305 at the end.
pub const OVERHEAD: usize = ENCAPSULATED + 16;

/// Why a secret could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The recipient's key is no Ed25519 public key, or one that gives everybody the same secret.
    #[error("the recipient's key can't be sealed to")]
    Recipient,
    /// The bytes were sealed to another node, for another purpose, or changed on the way.
    #[error("the sealed bytes are not for this node and purpose, or were changed")]
    Sealed,
}

/// Seals `secret` so that `recipient` alone can open it, and only for the same `purpose`. Draws a key by chance.
pub fn seal_to(recipient: &NodeKey, purpose: &[u8], secret: &[u8]) -> Result<Vec<u8>, Error> {
    let point = VerifyingKey::from_bytes(&recipient.0).map_err(|_| Error::Recipient)?.to_montgomery();
    let key = PublicKey::from_bytes(point.as_bytes()).map_err(|_| Error::Recipient)?;
    let (encapsulated, sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        purpose,
        secret,
        &[],
    )
    .map_err(|_| Error::Recipient)?;
    Ok([encapsulated.to_bytes().as_slice(), &sealed].concat())
}

impl Keypair {
    /// Opens what [`seal_to`] sealed to this node for `purpose`.
    pub fn open_sealed(&self, purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (encapsulated, sealed) = sealed.split_at_checked(ENCAPSULATED).ok_or(Error::Sealed)?;
        let encapsulated = Encapsulated::from_bytes(encapsulated).map_err(|_| Error::Sealed)?;
        let key = PrivateKey::from_bytes(&self.0.to_scalar_bytes()).map_err(|_| Error::Sealed)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &key,
            &encapsulated,
            purpose,
            sealed,
            &[],
        )
        .map_err(|_| Error::Sealed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &[u8] = b"thirty-two bytes of a secret key";

    #[test]
    fn the_recipient_alone_opens_a_sealed_secret_and_only_for_its_purpose() {
        let (recipient, other) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
        let sealed = seal_to(&recipient.node_key(), b"purpose", SECRET).unwrap();
        assert_eq!(sealed.len(), SECRET.len() + OVERHEAD);
        assert_eq!(recipient.open_sealed(b"purpose", &sealed).unwrap(), SECRET);
        assert_eq!(recipient.open_sealed(b"another", &sealed), Err(Error::Sealed));
        assert_eq!(other.open_sealed(b"purpose", &sealed), Err(Error::Sealed));
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_bytes() {
        let recipient = Keypair::from_secret(&[1; 32]).node_key();
        assert_ne!(seal_to(&recipient, b"", SECRET), seal_to(&recipient, b"", SECRET));
    }

    #[test]
    fn keys_that_are_no_points_or_small_ones_are_refused() {
        assert_eq!(seal_to(&NodeKey([2; 32]), b"", SECRET), Err(Error::Recipient));
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(seal_to(&NodeKey(identity), b"", SECRET), Err(Error::Recipient));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed_and_any_bytes_are_refused_without_a_panic(
            at in 0_usize..80, bit in 0_u32..8, any in proptest::collection::vec(any::<u8>(), 0..100)
        ) {
            let recipient = Keypair::from_secret(&[1; 32]);
            let mut sealed = seal_to(&recipient.node_key(), b"purpose", SECRET).unwrap();
            sealed[at] ^= 1 << bit;
            // The highest bit of an X25519 public key is ignored (RFC 7748, 5), but HPKE hashes the bytes as they came.
            prop_assert_eq!(recipient.open_sealed(b"purpose", &sealed), Err(Error::Sealed));
            prop_assert_eq!(recipient.open_sealed(b"purpose", &any), Err(Error::Sealed));
        }
    }
}
