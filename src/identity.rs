//! One Ed25519 key is the peer, the ledger account and the signer.
//!
//! This module converts between the three; reading and writing the key file is `store::key_file`'s.

use std::sync::Arc;

use bech32::{Bech32, Hrp};
use ed25519_dalek::SigningKey;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::types::{Digest, NodeKey, Signed, SignedObject};

/// The human-readable part of ledger addresses (origin: `atlas`).
const ADDRESS_PREFIX: &str = "atlas";

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
    let key = libp2p::identity::ed25519::PublicKey::try_from_bytes(&key.0).ok()?;
    Some(libp2p::identity::PublicKey::from(key).to_peer_id())
}

/// The node key inside a peer id; `None` for peers whose key is not Ed25519.
pub fn node_key(peer: &PeerId) -> Option<NodeKey> {
    // An Ed25519 peer id is the identity multihash of the protobuf `08 01 12 20 ‖ key`.
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20])?;
    NodeKey::from_slice(key)
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
        assert_eq!(node_key(&pair.peer_id()), Some(pair.node_key()));
        assert!(address(&pair.node_key()).starts_with("atlas1"));
    }
}
