//! The authenticated map: one hash that commits to every record, and proofs of single ones.
//!
//! A Jellyfish Merkle tree (Diem, 2021) over SHA-256. The root depends on keys and values alone, never
//! on their history, so a restored snapshot has the root it was taken at. Only the newest version is kept, and a change costs
//! the depth of the tree: `sparse` is the tree, the crate `jmt` verifies its proofs. Values are not kept either; they
//! are the records themselves. A ledger keeps one of its records, and a client that trusts nobody's word keeps another of what it
//! was told: equal roots are equal records. It never knows what a record means.

mod sparse;

use jmt::{KeyHash, RootHash, SimpleHasher, proof::SparseMerkleProof};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use sparse::Effort;

use crate::{codec, types::Digest};

/// The longest way in bytes: 256 siblings of two hashes each, whose bytes take up to two bytes, and their names.
const MAX_WAY: usize = 256 * 256;

/// What has a place in the map: the key of a record.
pub trait Named {
    /// The bytes that the map hashes, in `protocols/ledger-state.md`'s form.
    fn name(&self) -> Vec<u8>;
}

impl Named for Vec<u8> {
    fn name(&self) -> Vec<u8> {
        self.clone()
    }
}

/// SHA-256 for the proofs. `jmt` is built on an older `digest` than the rest of this program.
#[derive(Clone, Debug)]
struct Hasher(Sha256);

impl SimpleHasher for Hasher {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// A proof that a record has a value, or that there is none, under an app hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// The record's CBOR; `None` if there is none.
    #[serde(with = "serde_bytes", default)]
    pub value: Option<Vec<u8>>,
    path: SparseMerkleProof<Hasher>,
}

impl Proof {
    /// Whether the ledger with this app hash has exactly this value under `key`.
    pub fn verify(&self, app_hash: Digest, key: &impl Named) -> bool {
        self.path.verify(RootHash(app_hash.0), KeyHash(path(key)), self.value.as_deref()).is_ok()
    }
}

/// Where a record lies in the tree.
fn path(key: &impl Named) -> sparse::Hash {
    Digest::of(&key.name()).0
}

/// A change of a tree that is not made yet.
pub(super) struct Staged(sparse::Tree);

impl Staged {
    /// The root of the tree with it.
    pub(super) fn root(&self) -> Digest {
        Digest(self.0.root())
    }
}

/// The tree. None before the first change, when it has no root yet.
#[derive(Default)]
pub(super) struct Tree(Option<sparse::Tree>);

impl Tree {
    /// The tree of nothing.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The hash over everything; zero before the first change.
    pub(super) fn root(&self) -> Digest {
        Digest(self.0.as_ref().map_or([0; 32], sparse::Tree::root))
    }

    /// What all changes so far took, of those that were made.
    pub(super) fn effort(&self) -> Effort {
        self.0.as_ref().map(sparse::Tree::effort).unwrap_or_default()
    }

    /// Sets (`Some`) and removes (`None`) records by key. No key may be given twice; to remove one that is not there changes nothing.
    pub(super) fn update<K: Named>(&mut self, changes: impl IntoIterator<Item = (K, Option<Vec<u8>>)>) {
        change(self.0.get_or_insert_default(), changes);
    }

    /// What [`Tree::update`] would make of it, which changes nothing yet.
    pub(super) fn stage<K: Named>(&self, changes: impl IntoIterator<Item = (K, Option<Vec<u8>>)>) -> Staged {
        let mut staged = self.0.clone().unwrap_or_default();
        change(&mut staged, changes);
        Staged(staged)
    }

    /// Makes it so. Nothing may have changed since it was staged.
    pub(super) fn adopt(&mut self, staged: Staged) {
        self.0 = Some(staged.0);
    }

    /// The proof for `key`, whose record is `value`. `None` before the first change.
    pub(super) fn prove(&self, key: &impl Named, value: Option<Vec<u8>>) -> Option<Proof> {
        let way = codec::encode(&self.0.as_ref()?.way(&path(key)));
        let path = codec::decode(&way, MAX_WAY).expect("a way is written as the library reads it");
        Some(Proof { value, path })
    }
}

fn change<K: Named>(tree: &mut sparse::Tree, changes: impl IntoIterator<Item = (K, Option<Vec<u8>>)>) {
    let hashed = changes.into_iter().map(|(key, value)| (path(&key), value.map(|value| Digest::of(&value).0)));
    tree.change(hashed.collect());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::Key;

    /// Longer than any proof here.
    const MAX_PROOF: usize = 1 << 20;

    fn model(index: usize) -> Key {
        Key::Model(index.to_string())
    }

    fn value(index: usize) -> Option<Vec<u8>> {
        Some(vec![u8::try_from(index % 251).unwrap(); 9])
    }

    #[test]
    fn the_root_depends_on_content_and_not_on_history() {
        let mut grown = Tree::new();
        for index in 0..60 {
            grown.update([(model(index), value(index + 1))]);
        }
        grown.update((0..60).map(|index| (model(index), value(index))));
        grown.update((40..60).map(|index| (model(index), None)));
        let mut built = Tree::new();
        built.update((0..40).rev().map(|index| (model(index), value(index))));
        assert_eq!(grown.root(), built.root());
    }

    #[test]
    fn a_proof_holds_for_its_own_key_value_and_root_alone() {
        let mut tree = Tree::new();
        tree.update((0..40).map(|index| (model(index), value(index))));
        let present = tree.prove(&model(7), value(7)).unwrap();
        assert!(present.verify(tree.root(), &model(7)));
        assert!(!present.verify(tree.root(), &model(8)));
        assert!(!present.verify(Digest([1; 32]), &model(7)));
        assert!(!Proof { value: value(8), ..present.clone() }.verify(tree.root(), &model(7)));
        assert!(!Proof { value: None, ..present }.verify(tree.root(), &model(7)));
        let absent = tree.prove(&model(99), None).unwrap();
        assert!(absent.verify(tree.root(), &model(99)));
        assert!(!absent.verify(tree.root(), &model(7)));
    }

    proptest! {
        #[test]
        fn a_damaged_proof_is_refused_or_shows_what_it_showed(
            count in 1..40_usize, asked in 0..60_usize, at in any::<usize>(), bit in 0..8_u8, cut in any::<bool>(),
        ) {
            let mut tree = Tree::new();
            tree.update((0..count).map(|index| (model(index), value(index))));
            let shown = (asked < count).then(|| value(asked)).flatten();
            let mut bytes = codec::encode(&tree.prove(&model(asked), shown.clone()).unwrap());
            let whole: Proof = codec::decode(&bytes, MAX_PROOF).unwrap();
            prop_assert!(whole.verify(tree.root(), &model(asked)));
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << bit;
            }
            if let Ok(damaged) = codec::decode::<Proof>(&bytes, MAX_PROOF) {
                prop_assert!(!damaged.verify(tree.root(), &model(asked)) || damaged.value == shown);
            }
        }

        #[test]
        fn any_bytes_are_a_proof_of_nothing_or_no_proof(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(proof) = codec::decode::<Proof>(&bytes, MAX_PROOF) {
                prop_assert!(!proof.verify(Digest([7; 32]), &Key::Genesis));
            }
        }
    }
}
