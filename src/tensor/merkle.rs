//! Merkle trees of RFC 6962 §2.1: a leaf and an inner node never hash alike, and a last odd node is carried up
//! as it is, never paired with itself.

use sha2::{Digest as _, Sha256};

use crate::types::Digest;

/// The hash of a leaf: SHA-256(0x00 ‖ data).
pub fn leaf(data: &[u8]) -> Digest {
    hash(&[&[0x00], data])
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
fn node(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[0x01], &left.0, &right.0])
}

/// SHA-256 over the concatenation of `parts`.
pub(super) fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Digest(hasher.finalize().into())
}

/// The root over leaf hashes; SHA-256 of nothing for no leaves.
pub fn root(leaves: &[Digest]) -> Digest {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = parents(&level);
    }
    level.first().copied().unwrap_or_else(|| Digest::of(&[]))
}

/// The siblings that lead from leaf `index` to the root, lowest first; `None` if there is no such leaf.
pub fn path(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    leaves.get(index)?;
    let (mut level, mut index, mut siblings) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        siblings.extend(level.get(index ^ 1));
        level = parents(&level);
        index /= 2;
    }
    Some(siblings)
}

/// The root that a leaf hash and its path lead to in a tree of `count` leaves; `None` if `index` is no leaf of it or
/// the path has another length than the place asks for.
pub fn root_from_path(leaf: Digest, index: usize, count: usize, path: &[Digest]) -> Option<Digest> {
    if index >= count {
        return None;
    }
    let (mut hash, mut index, mut count, mut path) = (leaf, index, count, path.iter());
    while count > 1 {
        if index % 2 == 1 {
            hash = node(path.next()?, &hash);
        } else if index + 1 < count {
            hash = node(&hash, path.next()?);
        }
        index /= 2;
        count = count.div_ceil(2);
    }
    path.next().is_none().then_some(hash)
}

fn parents(level: &[Digest]) -> Vec<Digest> {
    let parent = |pair: &[Digest]| match pair {
        [left, right] => node(left, right),
        carried => carried[0],
    };
    level.chunks(2).map(parent).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    /// The definition of RFC 6962, word for word: split at the largest power of two below n.
    fn defined(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(&[]),
            [one] => *one,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(&defined(&leaves[..split]), &defined(&leaves[split..]))
            }
        }
    }

    #[test]
    fn the_root_is_the_one_that_rfc_6962_defines() {
        for count in 0..70 {
            assert_eq!(root(&leaves(count)), defined(&leaves(count)), "{count} leaves");
        }
        // The test vectors of the Certificate Transparency reference implementation.
        let data: [&[u8]; 3] = [&[], &[0x00], &[0x10]];
        let hashes: Vec<_> = data.iter().map(|data| leaf(data)).collect();
        let expected = "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77";
        assert_eq!(root(&hashes).to_string(), expected);
    }

    #[test]
    fn a_doubled_last_leaf_changes_the_root() {
        let three = leaves(3);
        assert_ne!(root(&three), root(&[three.clone(), vec![three[2]]].concat()));
    }

    #[test]
    fn an_inner_node_does_not_pass_as_a_leaf() {
        let four = leaves(4);
        let inner = node(&four[0], &four[1]);
        let right = node(&four[2], &four[3]);
        assert_eq!(root_from_path(inner, 0, 4, &[right]), None, "the path is too short for four leaves");
        assert_ne!(root_from_path(leaf(&inner.0), 0, 2, &[right]), Some(root(&four)));
    }

    proptest! {
        #[test]
        fn every_path_leads_to_the_root_and_to_no_other_place(count in 1_usize..300, index in 0_usize..300, other in 0_usize..300) {
            let (leaves, index, other) = (leaves(count), index % count, other % count);
            let path = path(&leaves, index).unwrap();
            prop_assert_eq!(root_from_path(leaves[index], index, count, &path), Some(root(&leaves)));
            if other != index {
                prop_assert_ne!(root_from_path(leaves[other], index, count, &path), Some(root(&leaves)));
                prop_assert_ne!(root_from_path(leaves[index], other, count, &path), Some(root(&leaves)));
            }
        }
    }
}
