//! One Ed25519 key is the peer, the ledger account and the signer.
//!
//! This module converts between the three; reading and writing the key file is `store::key_file`'s.

pub mod sealing;

use std::sync::Arc;

use bech32::{Bech32, Hrp};
use ed25519_dalek::SigningKey;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::types::{Digest, NodeKey, Signed, SignedObject};

/// The human-readable part of ledger addresses (origin: `atlas`).
const ADDRESS_PREFIX: &str = "atlas";
/// Multihash code of "the content itself".
const IDENTITY_HASH: u64 = 0;
/// What precedes the 32 bytes of an Ed25519 key in its protobuf encoding (libp2p peer id specification): type 1, then a
/// byte string.
const ENCODED_KEY: [u8; 4] = [0x08, 0x01, 0x12, 0x20];
/// The longest text of a peer id in bytes; that of an Ed25519 key has 52. Base58 is read in the square of its length.
const MAX_PEER_TEXT: usize = 128;

/// The key pair of a node. Cloning shares it; it is never printed.
#[derive(Clone)]
pub struct Keypair(Arc<SigningKey>);

impl Keypair {
    /// The key pair with this 32-byte secret.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(Arc::new(SigningKey::from_bytes(secret)))
    }

    /// The secret, for the key file alone.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public key.
    pub fn node_key(&self) -> NodeKey {
        NodeKey(self.0.verifying_key().to_bytes())
    }

    /// The peer.
    pub fn peer_id(&self) -> PeerId {
        self.to_libp2p().public().to_peer_id()
    }

    /// Encodes and signs `object`.
    pub fn seal<T: SignedObject>(&self, object: &T) -> Signed {
        Signed::seal(&self.0, object)
    }

    /// The same key for the transport.
    ///
    /// # Panics
    /// Never: every 32-byte string is an Ed25519 secret.
    pub fn to_libp2p(&self) -> libp2p::identity::Keypair {
        libp2p::identity::Keypair::ed25519_from_bytes(self.secret()).expect("any 32 bytes are an Ed25519 secret")
    }

    /// The raw signing key, for signatures over other encodings than ours (block votes).
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keypair({})", self.node_key())
    }
}

/// The peer of a node key; `None` if the bytes are no Ed25519 public key.
pub fn peer_id(key: &NodeKey) -> Option<PeerId> {
    libp2p::identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(peer_id_of_known(key))
}

/// The peer of a key that is known to be an Ed25519 public key, because its signatures were verified (as those of a
/// ledger's nodes were), or that is only looked up or shown: a hundredth of the time of [`peer_id`]. Of other bytes it
/// gives a peer that nobody can be.
///
/// # Panics
/// Never: the 36 bytes of an encoded key fit the identity multihash of a peer id.
pub fn peer_id_of_known(key: &NodeKey) -> PeerId {
    let encoded = [&ENCODED_KEY, key.0.as_slice()].concat();
    let multihash = multihash::Multihash::wrap(IDENTITY_HASH, &encoded).expect("36 bytes fit a multihash of 64");
    PeerId::from_multihash(multihash).expect("an identity multihash of at most 42 bytes is a peer id")
}

/// The node key inside a peer id; `None` for peers whose key is not Ed25519.
pub fn node_key(peer: &PeerId) -> Option<NodeKey> {
    let multihash: &multihash::Multihash<64> = peer.as_ref();
    let key = multihash.digest().strip_prefix(&ENCODED_KEY).filter(|_| multihash.code() == IDENTITY_HASH)?;
    NodeKey::from_slice(key)
}

/// The node key inside the text of a peer id; `None` if it is none, or of a key that is not Ed25519.
pub fn node_key_of_text(peer: &str) -> Option<NodeKey> {
    let peer = Some(peer).filter(|peer| peer.len() <= MAX_PEER_TEXT)?;
    node_key(&peer.parse::<PeerId>().ok()?)
}

/// The peer that a multiaddr ends in, if it names one.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

/// The bech32 address of an account: the first 20 bytes of SHA-256 of its key, prefix `atlas`.
///
/// # Panics
/// Never: the prefix is valid and 20 bytes fit.
pub fn address(key: &NodeKey) -> String {
    let prefix = Hrp::parse(ADDRESS_PREFIX).expect("`atlas` is a valid prefix");
    bech32::encode::<Bech32>(prefix, &Digest::of(&key.0).0[..20]).expect("20 bytes fit a bech32 string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_gives_back_the_key_it_was_made_from() {
        let pair = Keypair::from_secret(&[9; 32]);
        assert_eq!(peer_id(&pair.node_key()), Some(pair.peer_id()));
        assert_eq!(peer_id_of_known(&pair.node_key()), pair.peer_id());
        assert_eq!(node_key(&pair.peer_id()), Some(pair.node_key()));
        assert!(address(&pair.node_key()).starts_with("atlas1"));
    }
}
