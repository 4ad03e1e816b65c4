//! Which transactions were found authentic before.
//!
//! A validator looks at a transaction when it comes, each time a block leaves it waiting, when a block is arranged, when one is
//! proposed and when it is applied. Its signature is a function of its bytes and takes longer than all else, so it is verified
//! once, and known by the hash of all of its bytes after that. Nothing of this is part of the ledger: with an empty memory every
//! result is the same. Only what is authentic is remembered; who sends forgeries has each of them refused anew, and fills nothing.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use crate::types::Digest;

/// Transactions in one generation. Two of them hold more than CometBFT's mempool (5,000 by default) and a block; with
/// about 48 bytes for each they take less than 1 MiB.
const GENERATION: usize = 8_192;

/// Transactions whose signatures were verified, by the SHA-256 of their bytes. When there are too many, the oldest half is
/// forgotten, and verified again when they come again.
#[derive(Debug, Default)]
pub(super) struct Authentic(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

impl Authentic {
    /// Whether this was verified before, and is remembered.
    pub(super) fn knows(&self, transaction: &Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.young.contains(transaction) || known.old.contains(transaction)
    }

    /// Remembers that this was verified.
    pub(super) fn remember(&self, transaction: Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.young.len() == GENERATION {
            known.old = std::mem::take(&mut known.young);
        }
        known.young.insert(transaction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    #[test]
    fn the_newest_are_known_and_their_number_is_bounded() {
        let known = Authentic::default();
        for number in 0..3 * GENERATION {
            assert!(!known.knows(&name(number)));
            known.remember(name(number));
        }
        let kept = (0..3 * GENERATION).filter(|number| known.knows(&name(*number))).count();
        assert!((GENERATION..=2 * GENERATION).contains(&kept), "{kept}");
        assert!(known.knows(&name(3 * GENERATION - 1)) && !known.knows(&name(0)));
    }
}
