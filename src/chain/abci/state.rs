//! The application's decisions: what a block does to the ledger, and which height CometBFT may count on. Pure.
//!
//! CometBFT keeps the blocks and hands them over again after a restart, from the height that [`State::info`] names. So
//! there is no log here: the ledger of some earlier height is enough to come back to every later one. What [`State`]
//! must get right is the moment between `FinalizeBlock` and `Commit`: a block that was applied and not committed does
//! not count, and the same block, asked for again, gives the same answer without being applied twice.

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{
    RequestFinalizeBlock, RequestInitChain, RequestQuery, ResponseCheckTx, ResponseFinalizeBlock, ResponseInfo,
    ResponseInitChain, ResponseQuery,
};

use super::{
    MAX_BLOCK,
    genesis::{self, InitError},
    proposal::{self, Fault},
    query,
};
use crate::{
    chain::{
        embedded::{APP_VERSION, finalize_block},
        ledger::Ledger,
        wire::Code,
    },
    types::Digest,
};

/// A transaction may be this far ahead of its creator's next in the mempool: what is further can't be in one of the next
/// blocks, and only fills it. A client has at most 32 in flight.
const MAX_AHEAD: u64 = 1_000;

/// A request that can't be answered. CometBFT stops, and says this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Init(#[from] InitError),
    #[error("the chain has not begun: there was no InitChain")]
    NotBegun,
    #[error("InitChain for a ledger that is at height {height}: empty the application's directory to begin anew")]
    Begun { height: u64 },
    #[error("block {found} does not follow on the ledger's height {height}")]
    OutOfTurn { found: i64, height: u64 },
    #[error("block {height} came twice with other contents")]
    Other { height: u64 },
    #[error("Commit without a block")]
    NothingToCommit,
}

/// The ledger, and what of it is committed.
#[derive(Debug, Default)]
pub(super) struct State {
    ledger: Option<Ledger>,
    committed: Committed,
    pending: Option<Pending>,
}

/// What CometBFT was told is safe.
#[derive(Debug, Default, Clone, Copy)]
struct Committed {
    height: u64,
    app_hash: Option<Digest>,
}

/// A block that was applied and not committed.
#[derive(Debug)]
struct Pending {
    hash: Bytes,
    transactions: Vec<Bytes>,
    response: ResponseFinalizeBlock,
}

impl State {
    /// The state after `ledger`'s last block.
    pub(super) fn at(ledger: Ledger) -> Self {
        let committed = Committed { height: ledger.height(), app_hash: Some(ledger.app_hash()) };
        Self { ledger: Some(ledger), committed, pending: None }
    }

    /// The ledger, if the chain has begun.
    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Where CometBFT goes on: the last committed height.
    pub(super) fn info(&self) -> ResponseInfo {
        let app_hash = self.committed.app_hash.filter(|_| self.committed.height > 0);
        ResponseInfo {
            data: "atlas".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            app_version: APP_VERSION,
            last_block_height: i64::try_from(self.committed.height).unwrap_or(i64::MAX),
            last_block_app_hash: app_hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0)),
        }
    }

    /// Begins the chain. CometBFT asks for it as long as no block is committed.
    pub(super) fn init_chain(&mut self, request: &RequestInitChain) -> Result<ResponseInitChain, Refusal> {
        let height = self.committed.height;
        if height > 0 {
            return Err(Refusal::Begun { height });
        }
        *self = Self::at(genesis::begin(request)?);
        let app_hash = self.committed.app_hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0));
        Ok(ResponseInitChain { app_hash, ..ResponseInitChain::default() })
    }

    /// Whether a transaction may wait for a block. Size, form, signature and chain id come first, without a look at any
    /// account.
    pub(super) fn check(&self, transaction: &[u8]) -> ResponseCheckTx {
        let Some(ledger) = &self.ledger else {
            return refused(Code::Conflict, "the chain has not begun".to_owned());
        };
        let claim = match ledger.claim(transaction) {
            Ok(claim) => claim,
            Err(result) => return ResponseCheckTx { code: result.code, log: result.log, ..ResponseCheckTx::default() },
        };
        let expected = ledger.next_nonce(&claim.creator);
        if claim.nonce < expected {
            return refused(Code::Nonce, format!("nonce {} is not the next; expected {expected}", claim.nonce));
        }
        if claim.nonce - expected > MAX_AHEAD {
            let words = format!("nonce {} is more than {MAX_AHEAD} ahead; expected {expected}", claim.nonce);
            return refused(Code::Nonce, words);
        }
        ResponseCheckTx::default()
    }

    /// The next block of those that wait.
    pub(super) fn prepare(&self, waiting: Vec<Bytes>, max_bytes: i64) -> Vec<Bytes> {
        let room = usize::try_from(max_bytes).unwrap_or(0).min(MAX_BLOCK);
        self.ledger.as_ref().map_or_else(Vec::new, |ledger| proposal::arrange(ledger, waiting, room))
    }

    /// Whether another validator's block may be the next.
    pub(super) fn process(&self, transactions: &[Bytes]) -> Result<(), Fault> {
        let ledger = self.ledger.as_ref();
        ledger.map_or(Ok(()), |ledger| proposal::check(ledger, transactions, MAX_BLOCK))
    }

    /// Applies a decided block: one result a transaction, whatever its bytes are.
    pub(super) fn finalize(&mut self, request: RequestFinalizeBlock) -> Result<ResponseFinalizeBlock, Refusal> {
        let ledger = self.ledger.as_mut().ok_or(Refusal::NotBegun)?;
        let height = self.committed.height;
        if u64::try_from(request.height).ok() != Some(height + 1) {
            return Err(Refusal::OutOfTurn { found: request.height, height });
        }
        if let Some(pending) = &self.pending {
            let same = (&pending.hash, &pending.transactions) == (&request.hash, &request.txs);
            return if same { Ok(pending.response.clone()) } else { Err(Refusal::Other { height: height + 1 }) };
        }
        let transactions: Vec<Vec<u8>> = request.txs.iter().map(|bytes| bytes.to_vec()).collect();
        let result = ledger.apply_block(genesis::time(request.time.as_ref()), &transactions);
        let response = ResponseFinalizeBlock::from(finalize_block(result));
        let (hash, transactions) = (request.hash, request.txs);
        self.pending = Some(Pending { hash, transactions, response: response.clone() });
        Ok(response)
    }

    /// Makes the applied block count; its height.
    pub(super) fn commit(&mut self) -> Result<u64, Refusal> {
        let ledger = self.ledger.as_ref().ok_or(Refusal::NotBegun)?;
        self.pending.take().ok_or(Refusal::NothingToCommit)?;
        self.committed = Committed { height: ledger.height(), app_hash: Some(ledger.app_hash()) };
        Ok(self.committed.height)
    }

    /// Answers a query from the last block's state.
    pub(super) fn query(&self, request: &RequestQuery) -> ResponseQuery {
        query::answer(self.ledger.as_ref(), request)
    }
}

fn refused(code: Code, log: String) -> ResponseCheckTx {
    ResponseCheckTx { code: code as u32, log, ..ResponseCheckTx::default() }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{block, init_chain, transaction},
        *,
    };

    fn begun() -> State {
        let mut state = State::default();
        state.init_chain(&init_chain()).unwrap();
        state
    }

    fn advance(state: &mut State, transactions: Vec<Bytes>) -> ResponseFinalizeBlock {
        let height = state.committed.height + 1;
        let response = state.finalize(block(height, transactions)).unwrap();
        assert_eq!(state.commit().unwrap(), height);
        response
    }

    #[test]
    fn a_chain_begins_at_height_0_and_counts_what_is_committed() {
        let mut state = State::default();
        assert_eq!((state.info().last_block_height, state.info().last_block_app_hash.len()), (0, 0));
        let begun = state.init_chain(&init_chain()).unwrap();
        assert_eq!(begun.app_hash.len(), 32);
        assert_eq!(state.info().last_block_height, 0);
        let response = advance(&mut state, vec![transaction(1, 0)]);
        assert_ne!(response.app_hash, begun.app_hash);
        assert_eq!((state.info().last_block_height, state.info().last_block_app_hash), (1, response.app_hash));
    }

    #[test]
    fn every_transaction_of_a_block_gets_a_result_whatever_its_bytes_are() {
        let mut state = begun();
        let transactions = vec![Bytes::new(), Bytes::from(vec![0xff; 700_000]), transaction(1, 0), transaction(1, 7)];
        let codes: Vec<u32> = advance(&mut state, transactions).tx_results.iter().map(|result| result.code).collect();
        assert_eq!(codes, [1, 1, 0, 4]);
        assert_eq!(advance(&mut state, Vec::new()).tx_results.len(), 0);
    }

    #[test]
    fn a_block_that_was_applied_and_not_committed_does_not_count_and_is_not_applied_twice() {
        let mut state = begun();
        advance(&mut state, vec![transaction(1, 0)]);
        let before = state.info();
        let first = state.finalize(block(2, vec![transaction(1, 1)])).unwrap();
        assert_eq!(state.info(), before, "CometBFT died here and asks where to go on");
        assert_eq!(state.finalize(block(2, vec![transaction(1, 1)])).unwrap(), first);
        assert!(matches!(state.finalize(block(2, vec![])), Err(Refusal::Other { height: 2 })));
        state.commit().unwrap();
        assert_eq!(state.info().last_block_app_hash, first.app_hash);
        assert!(matches!(state.commit(), Err(Refusal::NothingToCommit)));
    }

    #[test]
    fn a_first_block_that_was_not_committed_is_forgotten_when_the_chain_begins_again() {
        let mut state = begun();
        let first = state.finalize(block(1, vec![transaction(1, 0)])).unwrap();
        state.init_chain(&init_chain()).unwrap();
        assert_eq!(state.finalize(block(1, vec![transaction(1, 0)])).unwrap(), first);
        state.commit().unwrap();
        assert!(matches!(state.init_chain(&init_chain()), Err(Refusal::Begun { height: 1 })));
    }

    #[test]
    fn blocks_come_in_turn_and_none_before_the_chain_begins() {
        let mut state = begun();
        for height in [0, 2, 9] {
            let error = state.finalize(block(height, vec![])).unwrap_err();
            assert!(matches!(error, Refusal::OutOfTurn { height: 0, .. }), "{error}");
        }
        assert!(matches!(State::default().finalize(block(1, vec![])), Err(Refusal::NotBegun)));
        assert!(matches!(State::default().commit(), Err(Refusal::NotBegun)));
    }

    #[test]
    fn the_mempool_takes_what_may_be_next_soon() {
        let mut state = begun();
        advance(&mut state, vec![transaction(1, 0)]);
        let code = |who, nonce| state.check(&transaction(who, nonce)).code;
        assert_eq!([code(1, 0), code(1, 1), code(1, 1_001), code(1, 1_002), code(2, 0)], [4, 0, 0, 4, 0]);
        assert_eq!(state.check(b"garbage").code, 1);
        assert!(State::default().check(&transaction(1, 0)).code != 0);
    }

    #[test]
    fn equal_blocks_give_equal_app_hashes_on_two_validators() {
        let (mut one, mut other) = (begun(), begun());
        for nonce in 0..5 {
            let waiting = vec![transaction(1, nonce), transaction(2, nonce), Bytes::from_static(b"x")];
            let block = one.prepare(waiting, 100_000);
            assert_eq!(block.len(), 2);
            other.process(&block).unwrap();
            assert_eq!(advance(&mut one, block.clone()), advance(&mut other, block));
        }
        assert!(other.process(&[Bytes::from_static(b"x")]).is_err());
    }
}
