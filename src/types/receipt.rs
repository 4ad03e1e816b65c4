//! The receipt: a worker's signed statement of what it computed in one round, and another node's word on it.

use serde::{Deserialize, Serialize};

use super::{AssignmentId, CheckpointRef, ContentId, Digest, NodeKey, Round, SignedObject, TaskId, Time};

/// What a round cost (origin: iterations, time, memory, gpu).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metrics {
    /// Local steps.
    pub iterations: u64,
    /// Records seen, counted with repetition; the update's weight in the aggregate.
    pub samples: u64,
    /// The last loss in millionths; `i64::MAX` if the script reported none or a non-finite one.
    pub loss_micros: i64,
    /// Wall-clock milliseconds of the process in this round.
    pub wall_millis: u64,
    /// CPU milliseconds of the process in this round.
    pub cpu_millis: u64,
    /// Peak resident bytes.
    pub memory_bytes: u64,
    /// GPUs used.
    pub gpu_count: u32,
}

/// One receipt a task and round. It goes out before its update can be seen by others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// The assignment; also the nonce.
    pub assignment: AssignmentId,
    /// The task.
    pub task: TaskId,
    /// The round.
    pub round: Round,
    /// The worker; must be the signer.
    pub node: NodeKey,
    /// The worker's clock.
    pub timestamp: Time,
    /// Names architecture, effective instruction set, library builds and threads.
    pub class_id: Digest,
    /// State root after the fixed known-answer training run; zero if not measured yet.
    pub kat_root: Digest,
    /// `params_root` of the model the round began from.
    pub in_params_root: Digest,
    /// Root of the optimizer state the round began from; zero for none.
    pub in_opt_root: Digest,
    /// Merkle root over the state roots at the n + 1 segment boundaries.
    pub trace_root: Digest,
    /// Number of segments, n.
    pub segments: u32,
    /// State root at the round's end.
    pub out_state_root: Digest,
    /// Optimizer root at the round's end; zero for none.
    pub out_opt_root: Digest,
    /// SHA-256 of the encoded update.
    pub update_digest: Digest,
    /// Where the encoded update is.
    pub update_cid: ContentId,
    /// Its length in bytes.
    pub update_length: u64,
    /// The end-of-round checkpoint, held by another node.
    pub checkpoint: CheckpointRef,
    /// H("atlas/computation/v1" ‖ bundle CID ‖ shard CID ‖ seed ‖ in_params_root ‖ in_opt_root ‖ out_state_root).
    pub computation_hash: Digest,
    /// What it cost.
    pub metrics: Metrics,
}

impl SignedObject for Receipt {
    const DOMAIN: &'static str = "atlas/receipt/v1";
    const LIMIT: usize = 4096;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.node)
    }
}

/// A node other than the worker fetched the update and the checkpoint, and checked level L0 of proof.md.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attestation {
    /// Digest of the receipt's signed body.
    pub receipt: Digest,
    /// The verifier; must be the signer, and not the worker.
    pub verifier: NodeKey,
    /// The verifier's clock.
    pub timestamp: Time,
}

impl SignedObject for Attestation {
    const DOMAIN: &'static str = "atlas/attestation/v1";
    const LIMIT: usize = 512;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.verifier)
    }
}
