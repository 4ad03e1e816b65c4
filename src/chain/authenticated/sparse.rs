//! The sparse Merkle tree itself, in memory: one hash over all leaves, and what shows a single one of them.
//!
//! It has the form of the Jellyfish Merkle tree of the crate `jmt`, to the byte: a binary tree of depth 256 in which a subtree of one
//! leaf is that leaf. That crate's own tree is made for nodes on a disk. It bundles four levels in a node of sixteen children, and so
//! copies about a KiB some five times and hashes up to fifteen inner nodes where one leaf changed: at a million records
//! that was most of what a transaction cost. Here a change goes down one path, in place, and hashes what lies on it: about
//! log2(records) nodes and as many hashes. Proofs are still verified by `jmt`, and the tests compare every root and proof with its.
//!
//! Nodes are shared between clones of a tree. So a clone costs nothing, and a change of it copies the path that it goes
//! down while the other stays as it was. Nothing here knows what a leaf stands for.

use std::{mem, sync::Arc};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// SHA-256.
pub(super) type Hash = [u8; 32];

/// What stands for a subtree without a leaf.
const EMPTY: Hash = *b"SPARSE_MERKLE_PLACEHOLDER_HASH__";
/// Before the hash of a leaf, so that it can't be read as that of an inner node.
const LEAF_DOMAIN: &[u8] = b"JMT::LeafNode";
/// Before the hash of an inner node. A letter is missing so that it has 16 bytes.
const INNER_DOMAIN: &[u8] = b"JMT::IntrnalNode";

/// What work a tree has done, counted: the same on every machine, unlike the time that it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Nodes that were there and that a change went through.
    pub nodes: u64,
    /// Hashes of leaves and inner nodes.
    pub hashes: u64,
}

/// One leaf. The names of its parts are those of the proofs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Leaf {
    /// Its path from the root: bits from the first byte's highest.
    key_hash: Hash,
    value_hash: Hash,
}

/// What stands beside a path, as a proof tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Sibling {
    /// No leaf.
    Null,
    /// An inner node.
    Internal { left_child: Hash, right_child: Hash },
    /// A leaf.
    Leaf(Leaf),
}

/// What lies on the way to a leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    /// The leaf at its end; that of another path if the way ends there; none if it ends at nothing.
    leaf: Option<Leaf>,
    /// From the end up to the root.
    siblings: Vec<Sibling>,
    /// The library's form has such a part.
    phantom_hasher: (),
}

/// A tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    root: Side,
    effort: Effort,
}

/// A subtree, seen from above it.
#[derive(Clone, Debug)]
struct Side {
    hash: Hash,
    node: Option<Arc<Node>>,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    /// Of its paths' next bit 0 and 1.
    Inner([Side; 2]),
}

impl Tree {
    /// The hash over everything.
    pub(super) fn root(&self) -> Hash {
        self.root.hash
    }

    /// What all changes so far took.
    pub(super) fn effort(&self) -> Effort {
        self.effort
    }

    /// Sets the hash of a value at each of these paths, or takes the leaf away. No path may come twice.
    pub(super) fn change(&mut self, mut changes: Vec<(Hash, Option<Hash>)>) {
        changes.sort_unstable_by_key(|(path, _)| *path);
        debug_assert!(changes.windows(2).all(|pair| pair[0].0 != pair[1].0), "a path comes twice");
        self.root.change(0, &changes, &mut self.effort);
    }

    /// What lies on the way to a path.
    pub(super) fn way(&self, path: &Hash) -> Way {
        let (mut siblings, mut place) = (Vec::new(), &self.root);
        let leaf = loop {
            match place.node.as_deref() {
                None => break None,
                Some(Node::Leaf(leaf)) => break Some(*leaf),
                Some(Node::Inner(sides)) => {
                    let next = usize::from(bit(path, siblings.len()));
                    siblings.push(sides[1 - next].as_sibling());
                    place = &sides[next];
                }
            }
        };
        siblings.reverse();
        Way { leaf, siblings, phantom_hasher: () }
    }

    /// Leaves and inner nodes.
    #[cfg(test)]
    fn size(&self) -> usize {
        self.root.size()
    }
}

impl Default for Side {
    fn default() -> Self {
        Self { hash: EMPTY, node: None }
    }
}

impl Side {
    fn leaf(leaf: Leaf, effort: &mut Effort) -> Self {
        let hash = hash(LEAF_DOMAIN, &leaf.key_hash, &leaf.value_hash, effort);
        Self { hash, node: Some(Arc::new(Node::Leaf(leaf))) }
    }

    fn inner(sides: [Self; 2], effort: &mut Effort) -> Self {
        let hash = hash(INNER_DOMAIN, &sides[0].hash, &sides[1].hash, effort);
        Self { hash, node: Some(Arc::new(Node::Inner(sides))) }
    }

    /// The subtree of these leaves, which are sorted and have the first `depth` bits of their paths in common.
    fn of(depth: usize, leaves: &[Leaf], effort: &mut Effort) -> Self {
        match leaves {
            [] => Self::default(),
            [leaf] => Self::leaf(*leaf, effort),
            _ => {
                let (zeros, ones) = split(leaves, depth, |leaf| &leaf.key_hash);
                let sides = [Self::of(depth + 1, zeros, effort), Self::of(depth + 1, ones, effort)];
                Self::inner(sides, effort)
            }
        }
    }

    /// Makes changes in this subtree, sorted, whose paths have the first `depth` bits in common.
    fn change(&mut self, depth: usize, changes: &[(Hash, Option<Hash>)], effort: &mut Effort) {
        let Some(node) = &mut self.node else {
            *self = Self::of(depth, &leaves(changes, None), effort);
            return;
        };
        effort.nodes += 1;
        let sides = match Arc::make_mut(node) {
            Node::Inner(sides) => sides,
            Node::Leaf(leaf) => {
                let leaves = leaves(changes, Some(*leaf));
                *self = Self::of(depth, &leaves, effort);
                return;
            }
        };
        let (zeros, ones) = split(changes, depth, |(path, _)| path);
        for (side, changes) in sides.iter_mut().zip([zeros, ones]) {
            if !changes.is_empty() {
                side.change(depth + 1, changes, effort);
            }
        }
        match lone(sides) {
            Some(lone) => *self = lone,
            None => self.hash = hash(INNER_DOMAIN, &sides[0].hash, &sides[1].hash, effort),
        }
    }

    fn is_inner(&self) -> bool {
        matches!(self.node.as_deref(), Some(Node::Inner(_)))
    }

    fn as_sibling(&self) -> Sibling {
        match self.node.as_deref() {
            None => Sibling::Null,
            Some(Node::Leaf(leaf)) => Sibling::Leaf(*leaf),
            Some(Node::Inner([left, right])) => Sibling::Internal { left_child: left.hash, right_child: right.hash },
        }
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        match self.node.as_deref() {
            None => 0,
            Some(Node::Leaf(_)) => 1,
            Some(Node::Inner(sides)) => 1 + sides.iter().map(Self::size).sum::<usize>(),
        }
    }
}

/// What is left of an inner node that has at most one leaf.
fn lone(sides: &mut [Side; 2]) -> Option<Side> {
    let [left, right] = sides;
    match (&left.node, &right.node) {
        (None, _) if !right.is_inner() => Some(mem::take(right)),
        (_, None) if !left.is_inner() => Some(mem::take(left)),
        _ => None,
    }
}

/// The leaves after these changes where at most one was before.
fn leaves(changes: &[(Hash, Option<Hash>)], before: Option<Leaf>) -> Vec<Leaf> {
    let set = changes.iter().filter_map(|(path, value)| value.map(|value| Leaf { key_hash: *path, value_hash: value }));
    let mut leaves: Vec<Leaf> = set.collect();
    if let Some(before) = before
        && changes.binary_search_by_key(&before.key_hash, |(path, _)| *path).is_err()
    {
        leaves.insert(leaves.partition_point(|leaf| leaf.key_hash < before.key_hash), before);
    }
    leaves
}

/// Parts what is sorted by path, and has the first `depth` bits of it in common, by the next bit.
fn split<T>(sorted: &[T], depth: usize, path: impl Fn(&T) -> &Hash) -> (&[T], &[T]) {
    sorted.split_at(sorted.partition_point(|item| !bit(path(item), depth)))
}

fn bit(path: &Hash, depth: usize) -> bool {
    path[depth / 8] >> (7 - depth % 8) & 1 == 1
}

fn hash(domain: &[u8], one: &Hash, other: &Hash, effort: &mut Effort) -> Hash {
    effort.hashes += 1;
    Sha256::new_with_prefix(domain).chain_update(one).chain_update(other).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jmt::{
        JellyfishMerkleTree, KeyHash, OwnedValue, SimpleHasher, Version,
        storage::{LeafNode, Node as Kept, NodeKey, TreeReader},
    };
    use proptest::prelude::*;

    use super::{super::Hasher, *};
    use crate::{codec, types::Digest};

    /// The nodes of all versions of the library's tree.
    #[derive(Default)]
    struct Nodes(BTreeMap<NodeKey, Kept>);

    impl TreeReader for Nodes {
        fn get_node_option(&self, node_key: &NodeKey) -> anyhow::Result<Option<Kept>> {
            Ok(self.0.get(node_key).cloned())
        }

        /// The tree asks for a value only to hand it on with its proof, which does not hold it.
        fn get_value_option(&self, _version: Version, _key: KeyHash) -> anyhow::Result<Option<OwnedValue>> {
            Ok(Some(OwnedValue::new()))
        }

        fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(NodeKey, LeafNode)>> {
            Ok(None)
        }
    }

    /// Changes of a step: paths that share long beginnings, so that subtrees are deep and thin; `None` removes.
    type Steps = Vec<BTreeMap<Hash, Option<Vec<u8>>>>;

    fn path() -> impl Strategy<Value = Hash> {
        (0_u8..4, 0_usize..34, 0_u8..8).prop_map(|(fill, at, bit)| {
            let mut path = [[0, 0xff, 0x0f, 0x10][usize::from(fill)]; 32];
            if let Some(byte) = path.get_mut(at) {
                *byte ^= 1 << bit;
            }
            path
        })
    }

    fn steps() -> impl Strategy<Value = Steps> {
        let value = prop_oneof![3 => prop::collection::vec(any::<u8>(), 0..3).prop_map(Some), 2 => Just(None)];
        prop::collection::vec(prop::collection::btree_map(path(), value, 1..12), 1..8)
    }

    fn value_hash(value: &[u8]) -> Hash {
        Hasher::hash(value)
    }

    fn change(tree: &mut Tree, step: &BTreeMap<Hash, Option<Vec<u8>>>) {
        tree.change(step.iter().map(|(path, value)| (*path, value.as_deref().map(value_hash))).collect());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn every_root_and_every_proof_is_the_librarys_to_the_byte(steps in steps(), asked in path()) {
            let mut nodes = Nodes::default();
            let mut tree = Tree::default();
            let mut left = BTreeMap::new();
            for (version, step) in (0..).zip(&steps) {
                let changes = step.iter().map(|(path, value)| (KeyHash(*path), value.clone() as Option<OwnedValue>));
                let (root, batch) =
                    JellyfishMerkleTree::<_, Hasher>::new(&nodes).put_value_set(changes, version).unwrap();
                nodes.0.extend(batch.node_batch.nodes().clone());
                let library = JellyfishMerkleTree::<_, Hasher>::new(&nodes);
                change(&mut tree, step);
                prop_assert_eq!(tree.root(), root.0);
                left.extend(step.clone());
                for path in step.keys().chain([&asked]) {
                    let (_, proof) = library.get_with_proof(KeyHash(*path), version).unwrap();
                    prop_assert_eq!(codec::encode(&tree.way(path)), codec::encode(&proof));
                }
            }
            // And it is the one that these leaves have by themselves: nothing is left behind.
            left.retain(|_, value| value.is_some());
            let mut built = Tree::default();
            change(&mut built, &left);
            prop_assert_eq!((tree.root(), tree.size()), (built.root(), built.size()));
        }

        #[test]
        fn a_clone_that_changes_leaves_the_other_as_it_was(steps in steps(), more in steps()) {
            let mut tree = Tree::default();
            steps.iter().for_each(|step| change(&mut tree, step));
            let (root, size) = (tree.root(), tree.size());
            let mut other = tree.clone();
            more.iter().for_each(|step| change(&mut other, step));
            prop_assert_eq!((tree.root(), tree.size()), (root, size));
            more.iter().for_each(|step| change(&mut tree, step));
            prop_assert_eq!((tree.root(), tree.size()), (other.root(), other.size()));
        }
    }

    /// Nodes and hashes of a change of one of `count` leaves, in thousandths.
    fn effort_of_one_change(count: u32) -> [u64; 2] {
        let path = |number: u32| Digest::of(&number.to_be_bytes()).0;
        let mut tree = Tree::default();
        tree.change((0..count).map(|number| (path(number), Some([0; 32]))).collect());
        let before = tree.effort();
        (0..500).for_each(|number| tree.change(vec![(path(number), Some([1; 32]))]));
        let after = tree.effort();
        [after.nodes - before.nodes, after.hashes - before.hashes].map(|count| count * 1_000 / 500)
    }

    #[test]
    fn ten_times_the_leaves_cost_a_change_less_than_four_nodes_and_four_hashes_more() {
        let [small, medium, large] = [1_000, 10_000, 100_000].map(effort_of_one_change);
        // log2(10) is 3.3.
        for (less, more) in [(small, medium), (medium, large)] {
            for (less, more) in less.iter().zip(&more) {
                assert!((3_000..4_000).contains(&(more - less)), "{less} to {more} thousandths");
            }
        }
        // One more than log2(100,000), which is 16.6, and what the leaves' uneven distribution adds.
        assert!((17_600..20_000).contains(&large[0]), "{large:?}");
    }
}
