//! One answer to each request: the decisions of [`State`] with the disk of [`Store`] behind them.
//!
//! CometBFT's four connections ask at once. What changes the ledger comes on one of them, so that one lock, which the
//! others share for reading, keeps the order; a snapshot is written outside of it, and that of a large ledger by a thread of its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, RwLock},
};

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{
    RequestApplySnapshotChunk, RequestFinalizeBlock, RequestInfo, RequestInitChain, RequestOfferSnapshot,
    RequestPrepareProposal, RequestProcessProposal, ResponseApplySnapshotChunk, ResponseCommit, ResponseEcho,
    ResponseException, ResponseExtendVote, ResponseFlush, ResponseListSnapshots, ResponseLoadSnapshotChunk,
    ResponseOfferSnapshot, ResponsePrepareProposal, ResponseProcessProposal, ResponseVerifyVoteExtension, request,
    response, response_offer_snapshot::Result as Offered, response_process_proposal::ProposalStatus,
    response_verify_vote_extension::VerifyStatus,
};

use super::{
    Config, Error, ahead,
    state::{Refusal, State},
    store::Store,
    sync::{self, Restoring, Step},
    writer::Writer,
};
use crate::chain::{ledger::Ledger, snapshot::Snapshot};

/// Records of a ledger whose snapshot is written within `Commit`: it takes some tens of milliseconds, as a block does. One of a
/// million records takes seconds, in which no block would be made.
const AT_ONCE: usize = 20_000;

/// The application of one validator, asked in this process. [`super::Server`] carries its requests over a socket.
#[derive(Debug)]
pub struct Application {
    config: Config,
    state: Arc<RwLock<State>>,
    store: Arc<Store>,
    restoring: Mutex<Option<Restoring>>,
    writer: Writer,
    /// [`AT_ONCE`], but in tests.
    at_once: usize,
}

impl Application {
    /// Opens the application in `directory` at its newest snapshot that is whole.
    pub fn open(directory: &Path, config: Config) -> Result<Self, Error> {
        let (store, ledger) = Store::open(directory)?;
        let state = Arc::new(RwLock::new(ledger.map_or_else(State::default, State::at)));
        let store = Arc::new(store);
        let writer = Writer::new(state.clone(), store.clone());
        Ok(Self { config, state, store, restoring: Mutex::new(None), writer, at_once: AT_ONCE })
    }

    /// The height that CometBFT goes on from.
    pub fn height(&self) -> i64 {
        self.read(State::info).last_block_height
    }

    /// Answers a request. A failure of this program is an exception, at which CometBFT stops rather than go on without
    /// its application.
    pub fn answer(&self, request: request::Value) -> response::Value {
        let answered = catch_unwind(AssertUnwindSafe(|| self.perform(request)));
        let failed = "the application failed on this request; its log says where".to_owned();
        answered.unwrap_or_else(|_| exception(failed))
    }

    fn perform(&self, request: request::Value) -> response::Value {
        use request::Value as Ask;
        use response::Value as Answer;
        match request {
            Ask::Echo(request) => Answer::Echo(ResponseEcho { message: request.message }),
            Ask::Flush(_) => Answer::Flush(ResponseFlush {}),
            Ask::Info(request) => self.info(&request),
            Ask::InitChain(request) => self.init_chain(&request),
            Ask::Query(request) => Answer::Query(self.read(|state| state.query(&request))),
            Ask::CheckTx(request) => Answer::CheckTx(self.read(|state| state.check(&request.tx))),
            Ask::PrepareProposal(request) => Answer::PrepareProposal(self.prepare(request)),
            Ask::ProcessProposal(request) => Answer::ProcessProposal(self.process(&request)),
            Ask::FinalizeBlock(request) => self.finalize(request),
            Ask::Commit(_) => self.commit(),
            Ask::ListSnapshots(_) => Answer::ListSnapshots(ResponseListSnapshots { snapshots: self.store.offers() }),
            Ask::OfferSnapshot(request) => Answer::OfferSnapshot(self.offer(&request)),
            Ask::LoadSnapshotChunk(request) => self.load(request.height, request.format, request.chunk),
            Ask::ApplySnapshotChunk(request) => self.apply(&request),
            // The chain has no vote extensions: its genesis does not turn them on.
            Ask::ExtendVote(_) => Answer::ExtendVote(ResponseExtendVote::default()),
            Ask::VerifyVoteExtension(request) => Answer::VerifyVoteExtension(verify(&request.vote_extension)),
        }
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().expect("a failure under this lock ends the chain here"))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, Refusal>) -> Result<T, Refusal> {
        change(&mut self.state.write().expect("a failure under this lock ends the chain here"))
    }

    fn info(&self, request: &RequestInfo) -> response::Value {
        let info = self.read(State::info);
        tracing::info!(
            cometbft = request.version,
            abci = request.abci_version,
            height = info.last_block_height,
            app_hash = hex::encode(&info.last_block_app_hash),
            "CometBFT asks where to go on"
        );
        response::Value::Info(info)
    }

    fn init_chain(&self, request: &RequestInitChain) -> response::Value {
        match self.change(|state| state.init_chain(request)) {
            Ok(response) => {
                tracing::info!(chain_id = request.chain_id, "the chain begins");
                response::Value::InitChain(response)
            }
            Err(refusal) => refused(&refusal),
        }
    }

    fn prepare(&self, request: RequestPrepareProposal) -> ResponsePrepareProposal {
        let RequestPrepareProposal { max_tx_bytes, txs, .. } = request;
        ResponsePrepareProposal { txs: self.read(|state| state.prepare(txs, max_tx_bytes)) }
    }

    fn process(&self, request: &RequestProcessProposal) -> ResponseProcessProposal {
        self.verify_ahead(&request.txs);
        let status = match self.read(|state| state.process(&request.txs)) {
            Ok(()) => ProposalStatus::Accept,
            Err(fault) => {
                let proposer = hex::encode_upper(&request.proposer_address);
                tracing::warn!(height = request.height, proposer, %fault, "a proposed block is refused");
                ProposalStatus::Reject
            }
        };
        ResponseProcessProposal { status: status.into() }
    }

    /// Nobody waits for it but who asked: others go on reading.
    fn verify_ahead(&self, transactions: &[Bytes]) {
        self.read(|state| {
            if let Some(ledger) = state.ledger() {
                ahead::verify(ledger, transactions);
            }
        });
    }

    fn finalize(&self, request: RequestFinalizeBlock) -> response::Value {
        self.verify_ahead(&request.txs);
        for misbehavior in &request.misbehavior {
            let validator = misbehavior.validator.as_ref().map(|validator| hex::encode_upper(&validator.address));
            tracing::warn!(validator, height = misbehavior.height, "a validator signed two blocks of one height");
        }
        match self.change(|state| state.finalize(request)) {
            Ok(response) => response::Value::FinalizeBlock(response),
            Err(refusal) => refused(&refusal),
        }
    }

    fn commit(&self) -> response::Value {
        let height = match self.change(State::commit) {
            Ok(height) => height,
            Err(refusal) => return refused(&refusal),
        };
        if height.is_multiple_of(self.config.snapshot_every.get()) {
            self.keep_snapshot(height);
        }
        response::Value::Commit(ResponseCommit { retain_height: self.retain_height(height) })
    }

    /// Takes a snapshot. A failure costs replay time at the next start, and nothing else.
    fn keep_snapshot(&self, height: u64) {
        if self.read(|state| state.ledger().map_or(0, Ledger::records)) > self.at_once {
            return self.writer.begin(height);
        }
        let state = self.read(|state| state.ledger().map(Ledger::snapshot));
        let Some(state) = state else { return };
        if let Err(error) = self.store.write(&Snapshot { height, offset: 0, state }) {
            tracing::warn!(height, %error, "the snapshot could not be written; the next one is tried in its time");
        }
    }

    /// The first block that CometBFT must keep: a restart replays from the oldest snapshot at worst. 0 keeps all.
    fn retain_height(&self, height: u64) -> i64 {
        let wanted = self.config.keep_blocks.map_or(0, |kept| (height + 1).saturating_sub(kept.get()));
        let needed = self.store.oldest().unwrap_or(0);
        i64::try_from(wanted.min(needed)).unwrap_or(0)
    }

    fn load(&self, height: u64, format: u32, index: u32) -> response::Value {
        let chunk = self.store.chunk(height, format, index).unwrap_or_else(|error| {
            tracing::warn!(height, index, %error, "a chunk of a snapshot can't be read");
            Bytes::new()
        });
        response::Value::LoadSnapshotChunk(ResponseLoadSnapshotChunk { chunk })
    }

    fn offer(&self, request: &RequestOfferSnapshot) -> ResponseOfferSnapshot {
        let begun = request.snapshot.as_ref().ok_or(Offered::Reject);
        let begun = begun.and_then(|offer| Restoring::begin(offer, &request.app_hash));
        let mut restoring = self.restoring.lock().expect("no holder of this lock panics");
        let result = match begun {
            Ok(begun) => {
                *restoring = Some(begun);
                Offered::Accept
            }
            Err(refused) => refused,
        };
        ResponseOfferSnapshot { result: result.into() }
    }

    fn apply(&self, request: &RequestApplySnapshotChunk) -> response::Value {
        let mut slot = self.restoring.lock().expect("no holder of this lock panics");
        let Some(restoring) = slot.as_mut() else {
            return exception("a chunk of a snapshot that was not offered".to_owned());
        };
        let step = restoring.apply(request.index, &request.chunk);
        let result = sync::verdict(&step).into();
        let mut response = ResponseApplySnapshotChunk { result, ..ResponseApplySnapshotChunk::default() };
        match step {
            Step::More => {}
            Step::Refetch => {
                tracing::warn!(index = request.index, sender = request.sender, "a chunk is not what was offered");
                response.refetch_chunks.push(request.index);
                response.reject_senders.push(request.sender.clone());
            }
            Step::Wrong(reason) => {
                tracing::warn!(reason, "a snapshot is refused");
                *slot = None;
            }
            Step::Done { ledger, snapshot } => {
                // Kept before it counts: CometBFT has no earlier block to replay.
                if let Err(error) = self.store.replace(&snapshot) {
                    return exception(format!("the snapshot can't be kept: {error}; make room and start again"));
                }
                tracing::info!(height = snapshot.height, app_hash = %ledger.app_hash(), "the ledger is restored");
                *self.state.write().expect("a failure under this lock ends the chain here") = State::at(*ledger);
                *slot = None;
            }
        }
        response::Value::ApplySnapshotChunk(response)
    }
}

fn verify(extension: &[u8]) -> ResponseVerifyVoteExtension {
    let status = if extension.is_empty() { VerifyStatus::Accept } else { VerifyStatus::Reject };
    ResponseVerifyVoteExtension { status: status.into() }
}

fn refused(refusal: &Refusal) -> response::Value {
    tracing::error!(%refusal, "CometBFT asked for what can't be done, and stops");
    exception(refusal.to_string())
}

fn exception(error: String) -> response::Value {
    response::Value::Exception(ResponseException { error })
}

#[cfg(test)]
#[path = "application_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "damage_tests.rs"]
mod damage_tests;
