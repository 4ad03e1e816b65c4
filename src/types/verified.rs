//! Which signatures were found right before.
//!
//! Whether a signature is right is a function of its bytes, and takes longer to find than all else that is asked of a signed
//! object. Who meets the same object many times remembers what it verified: a validator, which looks at a transaction when it
//! comes, each time a block leaves it waiting, when a block is arranged, proposed and applied; and a simulation, where nine nodes
//! verify each beat in one thread. With an empty memory every result is the same. Only what was right is remembered; who sends
//! forgeries has each of them refused anew, and fills nothing.
//!
//! A name must be a hash of all bytes that the verdict depends on, the signature's own included.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::Digest;

/// Names in one generation: more than CometBFT's mempool (5,000 by default) and a block, one for each transaction, and more than a
/// simulated second of 1,000 nodes. With about 48 bytes for each, two generations take less than 1 MiB.
const GENERATION: usize = 8_192;

/// The names of verified objects, at most two generations of them. When the younger one is full the older one is forgotten, and
/// what was in it is verified again when it comes again.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<Generations>);

/// Says of something that every signature in it was found right. [`Verified`] alone gives one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vouched(());

#[derive(Debug, Default)]
struct Generations {
    young: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

impl Verified {
    /// Verifies what has this name, unless it was found right before.
    pub(crate) fn once<E>(&self, name: Digest, verify: impl FnOnce() -> Result<(), E>) -> Result<Vouched, E> {
        if let Some(vouched) = self.vouch(&name) {
            return Ok(vouched);
        }
        verify()?;
        self.remember(name);
        Ok(Vouched(()))
    }

    /// Vouches for what has this name, if it was found right before.
    pub(crate) fn vouch(&self, name: &Digest) -> Option<Vouched> {
        self.knows(name).then_some(Vouched(()))
    }

    fn knows(&self, name: &Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.young.contains(name) || known.old.contains(name)
    }

    /// Remembers what is known to be right.
    pub(super) fn remember(&self, name: Digest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.young.len() == GENERATION {
            known.old = std::mem::take(&mut known.young);
        }
        known.young.insert(name);
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
        let known = Verified::default();
        for number in 0..3 * GENERATION {
            assert!(!known.knows(&name(number)));
            known.remember(name(number));
        }
        let kept = (0..3 * GENERATION).filter(|number| known.knows(&name(*number))).count();
        assert!((GENERATION..=2 * GENERATION).contains(&kept), "{kept}");
        assert!(known.knows(&name(3 * GENERATION - 1)) && !known.knows(&name(0)));
    }

    #[test]
    fn what_is_right_is_verified_once_and_what_is_wrong_each_time() {
        let known = Verified::default();
        assert!(known.vouch(&name(1)).is_none());
        assert!(known.once(name(1), || Ok::<(), ()>(())).is_ok());
        assert!(known.once(name(1), || Err("verified twice")).is_ok() && known.vouch(&name(1)).is_some());
        for _ in 0..2 {
            assert_eq!(known.once(name(2), || Err("forged")).err(), Some("forged"));
        }
        assert!(known.vouch(&name(2)).is_none());
    }
}
