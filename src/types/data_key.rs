//! The key that a data set is sealed with.

use super::Digest;

/// What a commitment is hashed under.
const DOMAIN: &str = "atlas/data-key/v1";

/// A key of XChaCha20-Poly1305, drawn by chance for one job. It is never printed, put on the ledger, recorded or sent in the open;
/// what names it everywhere is its [`DataKey::commitment`].
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(pub [u8; Self::BYTES]);

impl DataKey {
    /// Bytes of a key.
    pub const BYTES: usize = 32;

    /// SHA-256 of `atlas/data-key/v1 ‖ 0x00 ‖ key`. It says which key is meant and nothing about it: nobody can try 2^256 keys.
    pub fn commitment(&self) -> Digest {
        Digest::of_parts(DOMAIN, &[&self.0])
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataKey({})", self.commitment())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_commitment_and_never_printed() {
        let key = DataKey([7; DataKey::BYTES]);
        assert_ne!(key.commitment(), DataKey([8; DataKey::BYTES]).commitment());
        assert_eq!(format!("{key:?}"), format!("DataKey({})", key.commitment()));
        assert!(!format!("{key:?}").contains(&hex::encode([7; 4])));
    }
}
