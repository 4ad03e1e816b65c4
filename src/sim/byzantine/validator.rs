//! One honest validator: the application on a disk of its own, and what its CometBFT asks of it: the handshake after a
//! start, the mempool with its recheck, votes, blocks, and state sync.

use std::{
    fs, io,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tendermint_proto::{
    google::protobuf::Timestamp,
    v0_38::abci::{
        RequestApplySnapshotChunk, RequestCheckTx, RequestCommit, RequestFinalizeBlock, RequestInfo, RequestInitChain,
        RequestListSnapshots, RequestLoadSnapshotChunk, RequestOfferSnapshot, RequestPrepareProposal,
        RequestProcessProposal, RequestQuery, ResponseFinalizeBlock, Snapshot, request::Value as Ask,
        response::Value as Answer, response_apply_snapshot_chunk::Result as Applied,
        response_offer_snapshot::Result as Offered, response_process_proposal::ProposalStatus,
    },
};

use super::Violation;
use crate::{
    chain::abci::{Application, Config},
    types::Time,
};

/// A decided block, with what it must come to: what the first replica that applied it answered.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) height: u64,
    pub(super) time: Time,
    pub(super) transactions: Vec<Bytes>,
    pub(super) outcome: Option<ResponseFinalizeBlock>,
}

impl Block {
    fn request(&self) -> RequestFinalizeBlock {
        RequestFinalizeBlock {
            hash: Bytes::copy_from_slice(&self.height.to_be_bytes()),
            height: signed(self.height),
            time: Some(timestamp(self.time)),
            txs: self.transactions.clone(),
            ..RequestFinalizeBlock::default()
        }
    }
}

/// An honest validator.
pub(super) struct Validator {
    pub(super) number: usize,
    /// Its clock is so much ahead of true time; behind where it is negative.
    pub(super) skew_millis: i64,
    /// Blocks committed since it was started, or before.
    pub(super) height: u64,
    pub(super) mempool: Vec<Bytes>,
    directory: PathBuf,
    config: Config,
    application: Option<Application>,
}

impl Validator {
    pub(super) fn new(number: usize, directory: &Path, snapshot_every: NonZeroU64) -> Self {
        Self {
            number,
            skew_millis: 0,
            height: 0,
            mempool: Vec::new(),
            directory: directory.join(format!("validator-{number}")),
            config: Config { snapshot_every, keep_blocks: None },
            application: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.application.is_some()
    }

    /// Both processes are gone, with all that is not on the disk.
    pub(super) fn crash(&mut self) {
        self.application = None;
        self.mempool.clear();
    }

    /// Starts the application, if it does not run, and brings it to the chain's last block as CometBFT does: the blocks
    /// come again that follow on the height that it names. Answers how many.
    pub(super) fn start(&mut self, init: &RequestInitChain, chain: &mut [Block]) -> Result<u64, Violation> {
        if self.application.is_none() {
            let opened = Application::open(&self.directory, self.config);
            let fail = |error| self.broken("start", format!("validator {} does not start: {error}", self.number));
            self.application = Some(opened.map_err(fail)?);
        }
        let Answer::Info(info) = self.ask(Ask::Info(RequestInfo::default()))? else { return Err(self.odd("Info")) };
        let height = u64::try_from(info.last_block_height).unwrap_or(u64::MAX);
        let known = height.checked_sub(1).and_then(|place| chain.get(usize::try_from(place).ok()?));
        let app_hash = known.and_then(|block| Some(block.outcome.as_ref()?.app_hash.clone())).unwrap_or_default();
        if info.last_block_app_hash != app_hash || height > chain.len() as u64 {
            let what = format!(
                "validator {} is at height {height} with app hash {}, where the chain has {}",
                self.number,
                hex::encode(&info.last_block_app_hash),
                hex::encode(&app_hash)
            );
            return Err(self.broken("agreement", what));
        }
        if height == 0 {
            self.ask(Ask::InitChain(init.clone()))?;
        }
        self.height = height;
        let place = usize::try_from(height).unwrap_or(usize::MAX);
        chain[place..].iter_mut().try_for_each(|block| self.execute(block))?;
        Ok((chain.len() - place) as u64)
    }

    /// Applies the next block and commits it.
    pub(super) fn execute(&mut self, block: &mut Block) -> Result<(), Violation> {
        self.finalize(block)?;
        self.commit()
    }

    /// Applies the next block. What comes of it must be what came of it elsewhere.
    pub(super) fn finalize(&mut self, block: &mut Block) -> Result<(), Violation> {
        self.finalize_as(block, block.request())
    }

    /// The same, with its transactions in the opposite order.
    pub(super) fn finalize_reversed(&mut self, block: &mut Block) -> Result<(), Violation> {
        let mut request = block.request();
        request.txs.reverse();
        self.finalize_as(block, request)
    }

    fn finalize_as(&mut self, block: &mut Block, request: RequestFinalizeBlock) -> Result<(), Violation> {
        let Answer::FinalizeBlock(outcome) = self.ask(Ask::FinalizeBlock(request))? else {
            return Err(self.odd("FinalizeBlock"));
        };
        let known = block.outcome.get_or_insert_with(|| outcome.clone());
        if *known == outcome {
            return Ok(());
        }
        let what = format!(
            "block {} gives app hash {} at validator {} and {} elsewhere",
            block.height,
            hex::encode(&outcome.app_hash),
            self.number,
            hex::encode(&known.app_hash)
        );
        Err(self.broken("agreement", what))
    }

    pub(super) fn commit(&mut self) -> Result<(), Violation> {
        let Answer::Commit(_) = self.ask(Ask::Commit(RequestCommit {}))? else { return Err(self.odd("Commit")) };
        self.height += 1;
        Ok(())
    }

    /// Whether a transaction may wait for a block; its code.
    pub(super) fn check(&self, transaction: &Bytes) -> Result<u32, Violation> {
        let request = RequestCheckTx { tx: transaction.clone(), r#type: 0 };
        let Answer::CheckTx(answer) = self.ask(Ask::CheckTx(request))? else { return Err(self.odd("CheckTx")) };
        Ok(answer.code)
    }

    /// After a block: what was in it leaves the mempool, and what may wait no more.
    pub(super) fn recheck(&mut self, block: &Block) -> Result<(), Violation> {
        let waiting = std::mem::take(&mut self.mempool);
        for transaction in waiting {
            if !block.transactions.contains(&transaction) && self.check(&transaction)? == 0 {
                self.mempool.push(transaction);
            }
        }
        Ok(())
    }

    /// The block that it would propose.
    pub(super) fn prepare(&self, max_bytes: usize, waiting: Vec<Bytes>) -> Result<Vec<Bytes>, Violation> {
        let max_tx_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        let request = RequestPrepareProposal { max_tx_bytes, txs: waiting, ..RequestPrepareProposal::default() };
        let Answer::PrepareProposal(answer) = self.ask(Ask::PrepareProposal(request))? else {
            return Err(self.odd("PrepareProposal"));
        };
        Ok(answer.txs)
    }

    /// Whether it accepts a block of another.
    pub(super) fn process(&self, height: u64, transactions: &[Bytes]) -> Result<bool, Violation> {
        let request = RequestProcessProposal {
            txs: transactions.to_vec(),
            height: signed(height),
            ..RequestProcessProposal::default()
        };
        let Answer::ProcessProposal(answer) = self.ask(Ask::ProcessProposal(request))? else {
            return Err(self.odd("ProcessProposal"));
        };
        Ok(answer.status == i32::from(ProposalStatus::Accept))
    }

    /// What a query gives.
    pub(super) fn query(&self, path: &str, data: Vec<u8>) -> Result<Bytes, Violation> {
        let request = RequestQuery { path: path.to_owned(), data: data.into(), ..RequestQuery::default() };
        let Answer::Query(answer) = self.ask(Ask::Query(request))? else { return Err(self.odd("Query")) };
        if answer.code == 0 { Ok(answer.value) } else { Err(self.broken("answers", answer.log)) }
    }

    /// The snapshots that it offers to others.
    pub(super) fn offers(&self) -> Result<Vec<Snapshot>, Violation> {
        let Answer::ListSnapshots(answer) = self.ask(Ask::ListSnapshots(RequestListSnapshots {}))? else {
            return Err(self.odd("ListSnapshots"));
        };
        Ok(answer.snapshots)
    }

    /// Begins, empty, at a snapshot of `giver`, whose first chunk comes bent from somebody else. False if the giver has none.
    pub(super) fn restore(&mut self, giver: &Self, chain: &[Block]) -> Result<bool, Violation> {
        let Some(offer) = giver.offers()?.pop() else { return Ok(false) };
        let opened = Application::open(&self.directory, self.config);
        let fail = |error| self.broken("start", format!("validator {} does not start: {error}", self.number));
        self.application = Some(opened.map_err(fail)?);
        let place = usize::try_from(offer.height - 1).unwrap_or(usize::MAX);
        let header = chain[place].outcome.as_ref().map_or_else(Bytes::new, |outcome| outcome.app_hash.clone());
        let request = RequestOfferSnapshot { snapshot: Some(offer.clone()), app_hash: header };
        match self.ask(Ask::OfferSnapshot(request))? {
            Answer::OfferSnapshot(answer) if answer.result == i32::from(Offered::Accept) => {}
            _ => return Err(self.odd("OfferSnapshot")),
        }
        for index in 0..offer.chunks {
            let request = RequestLoadSnapshotChunk { height: offer.height, format: offer.format, chunk: index };
            let Answer::LoadSnapshotChunk(loaded) = giver.ask(Ask::LoadSnapshotChunk(request))? else {
                return Err(self.odd("LoadSnapshotChunk"));
            };
            let mut bent = loaded.chunk.to_vec();
            bent.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            self.apply(index, bent.into(), Applied::Retry)?;
            self.apply(index, loaded.chunk, Applied::Accept)?;
        }
        self.height = offer.height;
        Ok(true)
    }

    fn apply(&self, index: u32, chunk: Bytes, expected: Applied) -> Result<(), Violation> {
        let request = RequestApplySnapshotChunk { index, chunk, sender: "somebody".to_owned() };
        match self.ask(Ask::ApplySnapshotChunk(request))? {
            Answer::ApplySnapshotChunk(answer) if answer.result == i32::from(expected) => Ok(()),
            other => Err(self.broken("answers", format!("{expected:?} was expected for a chunk, not {other:?}"))),
        }
    }

    /// What it keeps of the ledger, newest first.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_snapshot(path)).collect();
        files.sort_by_key(|path| std::cmp::Reverse((path.as_os_str().len(), path.clone())));
        files
    }

    /// Its disk is gone.
    pub(super) fn lose_disk(&mut self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn ask(&self, request: Ask) -> Result<Answer, Violation> {
        let application = self.application.as_ref().expect("only validators that are up are asked");
        match application.answer(request) {
            Answer::Exception(exception) => Err(self.broken("answers", exception.error)),
            answer => Ok(answer),
        }
    }

    fn odd(&self, what: &str) -> Violation {
        self.broken("answers", format!("{what} was answered with something else"))
    }

    fn broken(&self, invariant: &'static str, what: String) -> Violation {
        Violation::new(invariant, format!("validator {} at height {}: {what}", self.number, self.height))
    }
}

fn is_snapshot(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("snapshot-"))
}

fn signed(height: u64) -> i64 {
    i64::try_from(height).unwrap_or(i64::MAX)
}

/// Our times as CometBFT's.
pub(super) fn timestamp(time: Time) -> Timestamp {
    let millis = time.as_millis();
    let nanos = i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: signed(millis / 1_000), nanos }
}
