//! Signatures over exact bytes.
//!
//! A signature covers `domain ‖ 0x00 ‖ body` where `body` is the bytes as they were received. It is never
//! computed over a re-encoding, so that two encoders that differ can't disagree about who said what, and the
//! domain keeps a signature for one kind of object from being read as another.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Digest, NodeKey, SignatureBytes,
    verified::{Verified, Vouched},
};
use crate::codec;

/// A kind of object that nodes sign.
pub trait SignedObject: Serialize + DeserializeOwned {
    /// Names the kind, for example `atlas/receipt/v1`. Unique to it.
    const DOMAIN: &'static str;
    /// The longest encoding accepted, in bytes.
    const LIMIT: usize;

    /// The node that the object speaks for, which must be its signer; `None` if it names none.
    fn speaker(&self) -> Option<NodeKey>;
}

/// An encoded object with its signer and signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Signed {
    /// The CBOR encoding that was signed.
    #[serde(with = "bytes_or_hex")]
    pub body: Vec<u8>,
    /// Who signed.
    pub signer: NodeKey,
    /// Ed25519 over `domain ‖ 0x00 ‖ body`.
    pub signature: SignatureBytes,
}

/// Why a signed object was refused.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The body is longer than this kind of object may be.
    #[error("a signed object of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes received.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The signer is not a valid Ed25519 public key.
    #[error("the signer is not an Ed25519 public key")]
    Signer,
    /// The signature does not match the bytes.
    #[error("the signature does not match the bytes and the signer")]
    Signature,
    /// The signature is right but the bytes are not such an object.
    #[error("the signed bytes are not such an object")]
    Body(#[source] codec::Error),
    /// The object speaks for another node than the one that signed it.
    #[error("the signer is not the node that the object speaks for")]
    Speaker,
}

impl SignedError {
    /// It is not of who it says.
    pub fn is_forgery(&self) -> bool {
        matches!(self, Self::Signer | Self::Signature | Self::Speaker)
    }
}

impl Signed {
    /// Encodes and signs `object`.
    pub fn seal<T: SignedObject>(key: &SigningKey, object: &T) -> Self {
        let body = codec::encode(object);
        let signature = SignatureBytes(key.sign(&signed_bytes(T::DOMAIN, &body)).to_bytes());
        let signed = Self { body, signer: NodeKey(key.verifying_key().to_bytes()), signature };
        // What was signed in this thread needs no verification.
        memo::with(|everybody| {
            if let Some(known) = everybody {
                known.remember(signed.name(T::DOMAIN));
            }
        });
        signed
    }

    /// Checks the signature strictly (no weak keys, no malleable encodings), decodes, and checks that the signer is the
    /// node that the object speaks for.
    pub fn open<T: SignedObject>(&self) -> Result<T, SignedError> {
        self.open_within(None)
    }

    /// [`Signed::open`] of a part of what is vouched for: its signature is one of those that were found right, and is not
    /// verified again. All else is checked again.
    pub(crate) fn open_within<T: SignedObject>(&self, whole: Option<Vouched>) -> Result<T, SignedError> {
        match whole {
            Some(_) => self.check_length::<T>()?,
            None => self.verify::<T>()?,
        }
        let object: T = codec::decode(&self.body, T::LIMIT).map_err(SignedError::Body)?;
        match object.speaker() {
            Some(speaker) if speaker != self.signer => Err(SignedError::Speaker),
            _ => Ok(object),
        }
    }

    /// Checks length and signature as [`Signed::open`] does, and no more.
    pub(crate) fn verify<T: SignedObject>(&self) -> Result<(), SignedError> {
        self.check_length::<T>()?;
        let verify = || self.verify_under(T::DOMAIN);
        memo::with(|known| match known {
            Some(known) => known.once(self.name(T::DOMAIN), verify).map(drop),
            None => verify(),
        })
    }

    fn check_length<T: SignedObject>(&self) -> Result<(), SignedError> {
        if self.body.len() > T::LIMIT {
            return Err(SignedError::TooLong { length: self.body.len(), limit: T::LIMIT });
        }
        Ok(())
    }

    /// What its being right depends on.
    fn name(&self, domain: &str) -> Digest {
        Digest::of_parts(domain, &[&self.signer.0, &self.signature.0, &self.body])
    }

    /// Always one signature by itself. A batch, verified in one equation, takes half of the time, but it is another rule: the equation
    /// holds for some signatures with parts of small order that no single check accepts, and it is drawn by chance. Ledgers on two
    /// machines must come to one verdict.
    fn verify_under(&self, domain: &str) -> Result<(), SignedError> {
        let key = VerifyingKey::from_bytes(&self.signer.0).map_err(|_| SignedError::Signer)?;
        let signature = Signature::from_bytes(&self.signature.0);
        key.verify_strict(&signed_bytes(domain, &self.body), &signature).map_err(|_| SignedError::Signature)
    }

    /// Whether it is signed under the next version of the domain: an object of a newer node, which this one can't read.
    pub fn is_of_next_version<T: SignedObject>(&self) -> bool {
        let next = T::DOMAIN.rsplit_once("/v").and_then(|(name, version)| {
            let version: u32 = version.parse().ok()?;
            Some(format!("{name}/v{}", version + 1))
        });
        self.body.len() <= T::LIMIT && next.is_some_and(|domain| self.verify_under(&domain).is_ok())
    }

    /// SHA-256 of the body: the name of the object, whoever signed it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.body)
    }
}

fn signed_bytes(domain: &str, body: &[u8]) -> Vec<u8> {
    [domain.as_bytes(), &[0], body].concat()
}

/// What this thread verified, where a whole network runs in one: there each beat is verified by nine nodes, each transaction by
/// one, and always with the same result. Off everywhere but in simulations, which show that it changes nothing (`sim::tests`).
pub(crate) mod memo {
    use std::cell::RefCell;

    use super::Verified;

    thread_local! {
        static VERIFIED: RefCell<Option<Verified>> = const { RefCell::new(None) };
    }

    /// Remembers what this thread verifies, until dropped.
    #[derive(Debug)]
    pub(crate) struct Remembering(());

    impl Remembering {
        pub(crate) fn begin() -> Self {
            VERIFIED.set(Some(Verified::default()));
            Self(())
        }
    }

    impl Drop for Remembering {
        fn drop(&mut self) {
            VERIFIED.set(None);
        }
    }

    /// Gives what is remembered, if anything is.
    pub(super) fn with<R>(look: impl FnOnce(Option<&Verified>) -> R) -> R {
        VERIFIED.with_borrow(|verified| look(verified.as_ref()))
    }
}

/// A byte string in CBOR, hexadecimal in JSON, as the identifiers are.
mod bytes_or_hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&hex::encode(bytes))
        } else {
            serializer.serialize_bytes(bytes)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
        } else {
            serde_bytes::deserialize(deserializer)
        }
    }
}
