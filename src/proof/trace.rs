//! The trace: the state roots at a round's segment boundaries, committed to by one root before anybody asks.
//!
//! Its n + 1 entries are the round's start, each kept checkpoint, and the end; the leaf of an entry is
//! SHA-256(0x00 ‖ state root), the tree is that of RFC 6962 ([`crate::tensor::merkle`]).

use crate::{
    tensor::{checkpoint::MAX_TRACE, merkle},
    types::Digest,
};

/// Most segments of a round; the trace has one entry more.
#[expect(clippy::cast_possible_truncation, reason = "255 fits")]
pub const MAX_SEGMENTS: u32 = MAX_TRACE as u32 - 1;

/// The root over a trace.
pub fn root(trace: &[Digest]) -> Digest {
    merkle::root(&leaves(trace))
}

/// The path that opens entry `index`; `None` if there is no such entry.
pub fn path(trace: &[Digest], index: u32) -> Option<Vec<Digest>> {
    merkle::path(&leaves(trace), usize::try_from(index).ok()?)
}

/// True if `state_root` is entry `index` of the trace of `segments` segments behind `trace_root`.
pub fn verify(trace_root: &Digest, segments: u32, index: u32, state_root: &Digest, path: &[Digest]) -> bool {
    let leaf = merkle::leaf(&state_root.0);
    merkle::root_from_path(leaf, index as usize, segments as usize + 1, path) == Some(*trace_root)
}

fn leaves(trace: &[Digest]) -> Vec<Digest> {
    trace.iter().map(|state_root| merkle::leaf(&state_root.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_opens_at_its_own_place_only() {
        let trace: Vec<Digest> = (0..21_u8).map(|i| Digest([i; 32])).collect();
        let root = root(&trace);
        for (index, entry) in (0..).zip(&trace) {
            let path = path(&trace, index).unwrap();
            assert!(verify(&root, 20, index, entry, &path));
            assert!(!verify(&root, 20, (index + 1) % 21, entry, &path));
            assert!(!verify(&root, 20, index, &Digest([99; 32]), &path));
            assert!(!verify(&root, 20, 21, entry, &path));
        }
        assert!(path(&trace, 21).is_none());
    }

    #[test]
    fn an_inner_node_passed_as_a_state_is_refused() {
        let trace: Vec<Digest> = (0..4_u8).map(|i| Digest([i; 32])).collect();
        let opening = path(&trace, 0).unwrap();
        let inner = merkle::root(&leaves(&trace[..2]));
        assert!(!verify(&root(&trace), 1, 0, &inner, &opening[1..]));
        assert!(!verify(&root(&trace), 3, 0, &inner, &opening[1..]));
    }
}
