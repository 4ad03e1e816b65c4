//! What the deciding parts of a node are made from, as data: the first entry of a recording.
//!
//! The node makes its parts from it whether it records or not, so a replay, which makes them from what was recorded,
//! can't differ. The key is not in it: the file's path is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::coordinator::{self, Coordinator};
use crate::{
    chain::rpc as ledger_rpc,
    executor, health,
    identity::Keypair,
    proof,
    shard::{self, edge::Hold},
    types::{NodeKey, Time},
};

/// Settings and start time of every part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Beginning {
    /// Whose node it is.
    pub node: NodeKey,
    /// Where its key is.
    pub key_file: PathBuf,
    /// When it began.
    pub at: Time,
    /// Of the coordinator.
    pub coordinator: coordinator::Config,
    /// Of `/atlas/task/1`.
    pub executor: executor::Config,
    /// Of `/atlas/infer/1`.
    pub inference: executor::inference::Config,
    /// Of `/atlas/health/1`.
    pub health: health::Config,
    /// Of `/atlas/proof/1`.
    pub proof: proof::Config,
    /// Of `/atlas/shard/1`.
    pub shard: shard::Config,
    /// What is held for others.
    pub holds: Vec<Hold>,
    /// Of `/atlas/ledger-rpc/1`.
    pub ledger_rpc: ledger_rpc::Config,
}

impl Beginning {
    /// The coordinator of a node with this key.
    pub fn coordinator(&self, keypair: &Keypair) -> Coordinator {
        Coordinator::new(self.coordinator.clone(), keypair.clone(), self.at).awaiting_host()
    }

    /// The state of `/atlas/task/1`.
    pub fn executor(&self) -> executor::State {
        executor::State::new(self.executor.clone())
    }

    /// The state of `/atlas/infer/1`.
    pub fn inference(&self) -> executor::inference::State {
        executor::inference::State::new(self.inference.clone())
    }

    /// The state of `/atlas/health/1`.
    pub fn health(&self, keypair: &Keypair) -> health::State {
        health::State::new(self.health.clone(), keypair.clone(), self.at)
    }

    /// The state of `/atlas/proof/1`.
    pub fn proof(&self) -> proof::State {
        proof::State::new(self.proof.clone(), self.node)
    }

    /// The state of `/atlas/shard/1`.
    pub fn shard(&self) -> shard::State {
        shard::State::new(self.shard, self.holds.clone())
    }

    /// The state of `/atlas/ledger-rpc/1`.
    pub fn ledger_rpc(&self) -> ledger_rpc::State {
        ledger_rpc::State::new(self.ledger_rpc.clone())
    }
}
