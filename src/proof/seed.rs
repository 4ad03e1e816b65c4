//! The seed of a slot's round.

use crate::types::{Digest, Slot};

/// H("atlas/seed/v1" ‖ 0x00 ‖ `job_seed` as u64 ‖ slot as u32 ‖ cursor as u32), big-endian. The cursor counts the rounds of
/// the slot that were applied, so that a skipped round draws the same batches again. It comes from no id, account or
/// time: who computes must not change what is computed.
pub fn seed(job_seed: u64, slot: Slot, cursor: u32) -> Digest {
    Digest::of_parts("atlas/seed/v1", &[&job_seed.to_be_bytes(), &slot.to_be_bytes(), &cursor.to_be_bytes()])
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
