//! Verifies the signatures of a block's transactions before the ledger looks at the block, side by side.
//!
//! A validator verifies a transaction when it first hears of it, and remembers that. What it never heard of comes to it in a
//! block: another's proposal, or all of them when it catches up. The ledger applies transactions one after the other in one thread,
//! and verifies what is not known to be right; here that is done ahead on the cores there are. It decides nothing:
//! what it passes over, and what is forged, the ledger verifies when it comes to it.

use std::{
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::chain::ledger::Ledger;

/// Threads at most, the caller's among them. More would take from CometBFT and from what else the machine computes: a guess.
const MAX_THREADS: usize = 4;

/// Verifies those of the transactions whose signatures are not known to be right, and has the ledger remember them.
pub fn verify<T: AsRef<[u8]> + Sync>(ledger: &Ledger, transactions: &[T]) {
    let unknown: Vec<&[u8]> =
        transactions.iter().map(AsRef::as_ref).filter(|transaction| !ledger.is_verified(transaction)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(transaction) = unknown.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Whoever is refused here is refused again in the block, with its result.
            let _ = ledger.claim(transaction);
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 1..cores.min(MAX_THREADS).min(unknown.len()) {
            // A thread that can't be had leaves more to the others.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{
        super::testing::{genesis, transaction},
        *,
    };

    #[test]
    fn what_is_right_is_known_after_it_and_what_is_forged_is_not() {
        let ledger = Ledger::new(genesis()).unwrap();
        let mut transactions: Vec<Bytes> = (0..40).map(|nonce| transaction(1, nonce)).collect();
        let mut forged = transactions[7].to_vec();
        *forged.last_mut().unwrap() ^= 1;
        transactions[7] = forged.into();
        transactions[9] = Bytes::from_static(b"garbage");
        for _ in 0..2 {
            verify(&ledger, &transactions);
            let unknown: Vec<usize> = (0..40).filter(|place| !ledger.is_verified(&transactions[*place])).collect();
            assert_eq!(unknown, [7, 9]);
        }
        verify::<Bytes>(&ledger, &[]);
    }
}
