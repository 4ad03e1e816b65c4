//! An application whose blocks are written down: what a replay checks the ledger by.

use serde::{Deserialize, Serialize};

use super::Application;
use crate::{
    chain::ledger::{BlockResult, QueryError, SnapshotError, TransactionResult},
    record::{LEDGER, Recorder, Recording},
    types::{Digest, Time},
};

/// What a recorded ledger was told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// Become the state of this snapshot.
    Restore(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Apply the next block, of these transactions.
    Block(Vec<serde_bytes::ByteBuf>),
}

/// An application that is recorded. It changes nothing.
pub(super) struct Recorded<A> {
    application: A,
    recorder: Recorder,
}

impl<A: Application> Recorded<A> {
    /// `application` is at `genesis`.
    pub(super) fn new<G: Serialize>(application: A, chain_id: &str, genesis: &G, recording: &Recording) -> Self {
        let recorder = recording.of(&format!("{LEDGER}{chain_id}"));
        recorder.begin(genesis);
        Self { application, recorder }
    }
}

impl<A: Application> Application for Recorded<A> {
    fn height(&self) -> u64 {
        self.application.height()
    }

    fn time(&self) -> Time {
        self.application.time()
    }

    fn app_hash(&self) -> Digest {
        self.application.app_hash()
    }

    fn check(&self, transaction: &[u8]) -> TransactionResult {
        self.application.check(transaction)
    }

    fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        let told = transactions.iter().cloned().map(serde_bytes::ByteBuf::from).collect();
        self.recorder.input(time, &Told::Block(told));
        let result = self.application.apply_block(time, transactions);
        self.recorder.output(&result);
        self.recorder.settled(None);
        result
    }

    fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
        self.application.query(path, data)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.application.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        self.recorder.input(self.application.time(), &Told::Restore(snapshot.to_vec()));
        let result = self.application.restore(snapshot);
        self.recorder.output(&result);
        self.recorder.settled(None);
        result
    }

    fn has_open_work(&self) -> bool {
        self.application.has_open_work()
    }
}
