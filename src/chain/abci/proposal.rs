//! What may stand in a block, and in which order: what a proposer arranges, and every other validator checks.
//!
//! A transaction out of its creator's turn would be in the block and do nothing, and its bytes would be spent. So a
//! block holds only transactions that are whole, authentic, for this ledger and next in their creator's line. Both
//! functions decide by the same [`Line`]: what an honest proposer arranges, every honest validator accepts.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    chain::{
        ledger::{Claim, Ledger},
        wire::Code,
    },
    types::NodeKey,
};

/// Why a proposed block is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Its transactions are longer than a block may be.
    #[error("its transactions have {bytes} bytes, over the limit of {limit}")]
    Long { bytes: usize, limit: usize },
    /// A transaction that can't be in a block.
    #[error("transaction {position}: {reason}")]
    Transaction { position: usize, reason: String },
}

/// The accounts' nonces while a block is gone through.
struct Line<'a> {
    ledger: &'a Ledger,
    next: BTreeMap<NodeKey, u64>,
}

impl<'a> Line<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, next: BTreeMap::new() }
    }

    /// The nonce that the creator's next transaction in this block must have.
    fn next(&self, creator: &NodeKey) -> u64 {
        self.next.get(creator).copied().unwrap_or_else(|| self.ledger.next_nonce(creator))
    }

    /// Takes a transaction into the block if it is its creator's turn.
    fn take(&mut self, claim: Claim) -> bool {
        let turn = claim.nonce == self.next(&claim.creator);
        if turn {
            self.next.insert(claim.creator, claim.nonce.saturating_add(1));
        }
        turn
    }
}

/// The transactions of the next block, of those that wait, in at most `max_bytes` as a block counts them. The order is
/// that in which they wait, but that each creator's come by nonce. What is left out stays in the mempool, whose recheck
/// drops it if it can never be included.
pub(super) fn arrange(ledger: &Ledger, waiting: Vec<Bytes>, max_bytes: usize) -> Vec<Bytes> {
    let mut line = Line::new(ledger);
    let mut early: BTreeMap<Claim, Bytes> = BTreeMap::new();
    let (mut block, mut room) = (Vec::new(), max_bytes);
    for bytes in waiting {
        let Ok(claim) = ledger.claim(&bytes) else { continue };
        early.insert(claim, bytes);
        let mut turn = Claim { nonce: line.next(&claim.creator), ..claim };
        while let Some(bytes) = early.remove(&turn) {
            let Some(left) = room.checked_sub(size(&bytes)) else {
                return block;
            };
            room = left;
            line.take(turn);
            block.push(bytes);
            turn.nonce = line.next(&claim.creator);
        }
    }
    block
}

/// Whether a block of these transactions may follow on the ledger's last.
pub(super) fn check(ledger: &Ledger, transactions: &[Bytes], limit: usize) -> Result<(), Fault> {
    let bytes = transactions.iter().map(|bytes| size(bytes)).sum();
    if bytes > limit {
        return Err(Fault::Long { bytes, limit });
    }
    let mut line = Line::new(ledger);
    for (position, bytes) in transactions.iter().enumerate() {
        let fault = |reason| Fault::Transaction { position, reason };
        let claim = ledger.claim(bytes).map_err(|refused| fault(format!("{} (code {})", refused.log, refused.code)))?;
        if !line.take(claim) {
            let (expected, code) = (line.next(&claim.creator), Code::Nonce as u32);
            return Err(fault(format!("nonce {} is not the next; expected {expected} (code {code})", claim.nonce)));
        }
    }
    Ok(())
}

/// The bytes that a transaction takes in a block: its own, a field tag and its length.
fn size(transaction: &[u8]) -> usize {
    1 + prost::length_delimiter_len(transaction.len()) + transaction.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::testing::{genesis, transaction},
        *,
    };

    const LIMIT: usize = 1 << 20;

    fn ledger() -> Ledger {
        Ledger::new(genesis()).unwrap()
    }

    #[test]
    fn a_block_has_each_creators_transactions_by_nonce_and_leaves_out_what_is_not_next() {
        let [a0, a1, a3, b0] = [(1, 0), (1, 1), (1, 3), (2, 0)].map(|(who, nonce)| transaction(who, nonce));
        let waiting = vec![a1.clone(), Bytes::from_static(b"garbage"), a3, b0.clone(), a0.clone(), a0.clone()];
        let block = arrange(&ledger(), waiting, LIMIT);
        assert_eq!(block, [b0, a0, a1]);
        assert_eq!(check(&ledger(), &block, LIMIT), Ok(()));
    }

    #[test]
    fn a_block_ends_where_its_room_does() {
        let waiting: Vec<Bytes> = (0..10).map(|nonce| transaction(1, nonce)).collect();
        let room = waiting[..4].iter().map(|bytes| size(bytes)).sum();
        assert_eq!(arrange(&ledger(), waiting.clone(), room), waiting[..4]);
        assert_eq!(arrange(&ledger(), waiting.clone(), room - 1), waiting[..3]);
        assert_eq!(check(&ledger(), &waiting[..4], room), Ok(()));
        assert_eq!(check(&ledger(), &waiting[..4], room - 1), Err(Fault::Long { bytes: room, limit: room - 1 }));
    }

    #[test]
    fn a_proposer_that_lies_is_told_what_is_wrong() {
        let [a0, a1, a2] = [0, 1, 2].map(|nonce| transaction(1, nonce));
        let mut forged = a0.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        for (block, words) in [
            (vec![a1.clone()], "transaction 0: nonce 1 is not the next; expected 0"),
            (vec![a0.clone(), a0.clone()], "transaction 1: nonce 0 is not the next; expected 1"),
            (vec![a0.clone(), a2], "transaction 1: nonce 2"),
            (vec![a0.clone(), Bytes::from(forged)], "transaction 1: "),
            (vec![a0, Bytes::new()], "transaction 1: "),
        ] {
            let fault = check(&ledger(), &block, LIMIT).unwrap_err().to_string();
            assert!(fault.contains(words), "{fault}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_an_honest_proposer_arranges_every_validator_accepts(
            order in prop::collection::vec((1_u8..4, 0_u64..4, any::<bool>()), 0..24),
            max_bytes in 0_usize..4_000,
        ) {
            let waiting = order.iter().map(|(who, nonce, whole)| {
                let bytes = transaction(*who, *nonce);
                if *whole { bytes } else { bytes.slice(..bytes.len() - 1) }
            });
            let block = arrange(&ledger(), waiting.collect(), max_bytes);
            prop_assert_eq!(check(&ledger(), &block, max_bytes), Ok(()));
        }
    }
}
