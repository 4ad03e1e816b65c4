//! The authenticated map: one hash that commits to every record, and proofs of single ones.
//!
//! A Jellyfish Merkle tree (Diem, 2021; crate `jmt`) over SHA-256. The root depends on keys and values alone, never
//! on their history, so a restored snapshot has the root it was taken at. Only the newest version is kept: each
//! change removes the nodes it replaces, and a change costs the depth of the tree. Values are not kept either; they
//! are the records themselves. A ledger keeps one of its records, and a client that trusts nobody's word keeps another of what it
//! was told: equal roots are equal records. It never knows what a record means.

use std::collections::BTreeMap;

use jmt::{
    JellyfishMerkleTree, KeyHash, OwnedValue, RootHash, SimpleHasher, Version,
    proof::SparseMerkleProof,
    storage::{LeafNode, Node, NodeKey, TreeReader, TreeUpdateBatch},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::Digest;

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

/// SHA-256 for the tree. `jmt` is built on an older `digest` than the rest of this program.
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
        self.path.verify(RootHash(app_hash.0), key_hash(key), self.value.as_deref()).is_ok()
    }
}

fn key_hash(key: &impl Named) -> KeyHash {
    KeyHash(Digest::of(&key.name()).0)
}

/// The nodes of the newest version of the tree.
#[derive(Default)]
struct Nodes(BTreeMap<NodeKey, Node>);

impl TreeReader for Nodes {
    fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Node>> {
        Ok(self.0.get(node_key).cloned())
    }

    /// The tree asks for a value only to hand it on with its proof; [`Tree::prove`] puts the record there.
    fn get_value_option(&self, _version: Version, _key: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
        Ok(Some(OwnedValue::new()))
    }

    /// Asked for only when a tree is restored node by node; ours is rebuilt from its records.
    fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
        Ok(None)
    }
}

/// A change of a tree that is not made yet.
pub(super) struct Staged {
    root: Digest,
    batch: TreeUpdateBatch,
}

impl Staged {
    /// The root of the tree with it.
    pub(super) fn root(&self) -> Digest {
        self.root
    }
}

/// The tree.
pub(super) struct Tree {
    nodes: Nodes,
    /// Version that the next change writes.
    next_version: Version,
    root: Digest,
}

impl Tree {
    /// The tree of nothing.
    pub(super) fn new() -> Self {
        Self { nodes: Nodes::default(), next_version: 0, root: Digest([0; 32]) }
    }

    /// The hash over everything; zero before the first change.
    pub(super) fn root(&self) -> Digest {
        self.root
    }

    /// Sets (`Some`) and removes (`None`) records by key. No key may be given twice; to remove one that is not there changes nothing.
    pub(super) fn update<K: Named>(&mut self, changes: impl IntoIterator<Item = (K, Option<Vec<u8>>)>) {
        let staged = self.stage(changes);
        self.adopt(staged);
    }

    /// What [`Tree::update`] would make of it, which changes nothing yet.
    pub(super) fn stage<K: Named>(&self, changes: impl IntoIterator<Item = (K, Option<Vec<u8>>)>) -> Staged {
        let changes = changes.into_iter().map(|(key, value)| (key_hash(&key), value));
        let (root, batch) = JellyfishMerkleTree::<_, Hasher>::new(&self.nodes)
            .put_value_set(changes, self.next_version)
            .expect("every node that the tree refers to is in memory");
        Staged { root: Digest(root.0), batch }
    }

    /// Makes it so. Nothing may have changed since it was staged.
    pub(super) fn adopt(&mut self, staged: Staged) {
        for stale in &staged.batch.stale_node_index_batch {
            self.nodes.0.remove(&stale.node_key);
        }
        let nodes = staged.batch.node_batch.nodes().iter().map(|(key, node)| (key.clone(), node.clone()));
        self.nodes.0.extend(nodes);
        self.next_version += 1;
        self.root = staged.root;
    }

    /// The proof for `key`, whose record is `value`. `None` before the first change.
    pub(super) fn prove(&self, key: &impl Named, value: Option<Vec<u8>>) -> Option<Proof> {
        let version = self.next_version.checked_sub(1)?;
        let (_, path) = JellyfishMerkleTree::<_, Hasher>::new(&self.nodes)
            .get_with_proof(key_hash(key), version)
            .expect("every node that the tree refers to is in memory");
        Some(Proof { value, path })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{chain::Key, codec};

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
        assert!(grown.nodes.0.len() < 120, "{} nodes kept for 40 records", grown.nodes.0.len());
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
