//! What a round of a slot is to compute, as numbers that anyone derives: its seed and the hash of it.

use super::{ContentId, Digest, Slot};

/// H("atlas/seed/v1" ‖ 0x00 ‖ `job_seed` as u64 ‖ slot as u32 ‖ cursor as u32), big-endian. The cursor counts the rounds of
/// the slot that were applied, so that a skipped round draws the same batches again. It comes from no id, account or
/// time: who computes must not change what is computed.
pub fn seed(job_seed: u64, slot: Slot, cursor: u32) -> Digest {
    Digest::of_parts("atlas/seed/v1", &[&job_seed.to_be_bytes(), &slot.to_be_bytes(), &cursor.to_be_bytes()])
}

/// H("atlas/computation/v1" ‖ 0x00 ‖ bundle CID ‖ shard CID ‖ seed ‖ in params root ‖ in optimizer root ‖ out state
/// root), each CID in binary after its length as u32 big-endian.
pub fn hash(
    (bundle, shard): (&ContentId, &ContentId),
    seed: &Digest,
    (in_params_root, in_opt_root): (&Digest, &Digest),
    out_state_root: &Digest,
) -> Digest {
    let cid = |cid: &ContentId| {
        let bytes = cid.0.to_bytes();
        let length = u32::try_from(bytes.len()).expect("a CID has under 100 bytes");
        [&length.to_be_bytes()[..], &bytes].concat()
    };
    let (bundle, shard) = (cid(bundle), cid(shard));
    let roots = [&seed.0[..], &in_params_root.0, &in_opt_root.0, &out_state_root.0];
    Digest::of_parts("atlas/computation/v1", &[&bundle, &shard, roots[0], roots[1], roots[2], roots[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_moves_the_seed_and_the_first_one_is_known() {
        let first = seed(1, 2, 3);
        assert!([seed(2, 2, 3), seed(1, 3, 3), seed(1, 2, 4)].iter().all(|other| *other != first));
        let bytes = [&b"atlas/seed/v1\0"[..], &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]].concat();
        assert_eq!(first, Digest::of(&bytes));
    }
}
