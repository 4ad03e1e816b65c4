//! The receipt: how it is made, and every check that needs no content.

use crate::{
    proof::trace,
    tensor::{Error as FormatError, checkpoint, root, update},
    types::{
        AssignmentId, CheckpointRef, ContentId, Digest, Generation, Metrics, NodeKey, Receipt, Round, Signed,
        SignedError, TaskId, Time,
    },
};

/// What a receipt for a (task, round) must say, derived by whoever checks it from committed state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The task.
    pub task: TaskId,
    /// The open round.
    pub round: Round,
    /// The present generation of the task.
    pub generation: Generation,
    /// Hash of the transaction that took the lease.
    pub lease_tx: Digest,
    /// Who holds the lease.
    pub holder: NodeKey,
    /// `params_root` of the round's model.
    pub in_params_root: Digest,
    /// Root of the optimizer state that the slot begins from; zero for none.
    pub in_opt_root: Digest,
    /// The script bundle.
    pub bundle: ContentId,
    /// The slot's shard.
    pub shard: ContentId,
    /// The slot's seed in this round ([`super::seed::seed`]).
    pub seed: Digest,
    /// Steps that the round owes, H.
    pub local_steps: u32,
}

impl Expected {
    /// The assignment, which is also the receipt's nonce.
    pub fn assignment(&self) -> AssignmentId {
        AssignmentId::derive(&self.task, self.round, self.generation, &self.lease_tx)
    }

    /// H("atlas/computation/v1" ‖ 0x00 ‖ bundle CID ‖ shard CID ‖ seed ‖ in params root ‖ in optimizer root ‖ out state
    /// root), each CID in binary after its length as u32 big-endian.
    pub fn computation_hash(&self, out_state_root: &Digest) -> Digest {
        let cid = |cid: &ContentId| {
            let bytes = cid.0.to_bytes();
            let length = u32::try_from(bytes.len()).expect("a CID has under 100 bytes");
            [&length.to_be_bytes()[..], &bytes].concat()
        };
        let (bundle, shard) = (cid(&self.bundle), cid(&self.shard));
        let roots = [&self.seed, &self.in_params_root, &self.in_opt_root, out_state_root].map(|root| root.0);
        let parts: [&[u8]; 6] = [&bundle, &shard, &roots[0], &roots[1], &roots[2], &roots[3]];
        Digest::of_parts("atlas/computation/v1", &parts)
    }

    /// The state root that every trace of this round begins with.
    pub fn start_root(&self) -> Digest {
        root::start_root(&self.in_params_root, &self.in_opt_root)
    }
}

/// What a worker did in a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The worker's clock.
    pub timestamp: Time,
    /// Names architecture, instruction set, library builds and threads.
    pub class_id: Digest,
    /// State root after the known-answer run; zero if not measured yet.
    pub kat_root: Digest,
    /// State roots from the round's start to its end.
    pub trace: Vec<Digest>,
    /// Optimizer root at the end; zero for none.
    pub out_opt_root: Digest,
    /// SHA-256 of the encoded update.
    pub update_digest: Digest,
    /// Where it is.
    pub update_cid: ContentId,
    /// Its length in bytes.
    pub update_length: u64,
    /// The end-of-round checkpoint, held by another node.
    pub checkpoint: CheckpointRef,
    /// What it cost.
    pub metrics: Metrics,
}

/// Why a receipt is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The receipt is not properly signed.
    #[error("the receipt is not a signed receipt")]
    Signed(#[from] SignedError),
    /// A field is not what committed state says it must be.
    #[error("the receipt is for something else: its {0} is not the expected one")]
    Unexpected(&'static str),
    /// The receipt contradicts itself.
    #[error("the receipt contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The update is missing or can't be read here.
    #[error("the update or the model can't be read: fetch it first, and look at the disk")]
    Io(#[from] std::io::Error),
    /// The round's model is not acceptable.
    #[error("the round's model is not acceptable")]
    Model(#[from] FormatError),
    /// The update has another length than updates of this model.
    #[error("the update has {claimed} bytes where this model's have {expected}")]
    Length {
        /// As the receipt says.
        claimed: u64,
        /// As the model's schema and the job's codec say.
        expected: u64,
    },
    /// The update's bytes are not those that the receipt names.
    #[error("the update's bytes have another digest than the receipt says")]
    Digest,
    /// The bytes are no update of this model.
    #[error("the update is not acceptable")]
    Update(#[from] update::Error),
    /// The update is not what the checkpoint's model gives.
    #[error("the update is not the difference between the round's model and the checkpoint's")]
    Difference,
    /// The end-of-round checkpoint is not acceptable.
    #[error("the end-of-round checkpoint is not acceptable")]
    Checkpoint(#[from] checkpoint::Error),
}

impl Refusal {
    /// True if it says nothing about the receipt, only about this node: another try, or another node, may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Checkpoint(checkpoint::Error::Io(_)))
    }
}

/// The receipt of `work` under the assignment `expected`, to be signed by its holder.
pub fn build(expected: &Expected, work: Work) -> Result<Receipt, Refusal> {
    let out_state_root = *work.trace.last().ok_or(Refusal::Contradiction("its trace is empty"))?;
    if work.trace.first() != Some(&expected.start_root()) {
        return Err(Refusal::Unexpected("trace's first state"));
    }
    let segments = u32::try_from(work.trace.len() - 1).unwrap_or(u32::MAX);
    let receipt = Receipt {
        assignment: expected.assignment(),
        task: expected.task,
        round: expected.round,
        node: expected.holder,
        timestamp: work.timestamp,
        class_id: work.class_id,
        kat_root: work.kat_root,
        in_params_root: expected.in_params_root,
        in_opt_root: expected.in_opt_root,
        trace_root: trace::root(&work.trace),
        segments,
        out_state_root,
        out_opt_root: work.out_opt_root,
        update_digest: work.update_digest,
        update_cid: work.update_cid,
        update_length: work.update_length,
        checkpoint: work.checkpoint,
        computation_hash: expected.computation_hash(&out_state_root),
        metrics: work.metrics,
    };
    check_fields(&receipt, expected)?;
    Ok(receipt)
}

/// Level L0 without content: signature, signer, assignment, generation, inputs, and the receipt's own consistency.
pub fn check_receipt(signed: &Signed, expected: &Expected) -> Result<Receipt, Refusal> {
    let receipt: Receipt = signed.open()?;
    if signed.signer != receipt.node {
        return Err(Refusal::Contradiction("its signer is not its node"));
    }
    check_fields(&receipt, expected)?;
    Ok(receipt)
}

fn check_fields(receipt: &Receipt, expected: &Expected) -> Result<(), Refusal> {
    let unexpected = [
        (receipt.task != expected.task, "task"),
        (receipt.round != expected.round, "round"),
        (receipt.node != expected.holder, "node"),
        // Covers the generation and the lease too: a receipt of an earlier holder or lease has another id.
        (receipt.assignment != expected.assignment(), "assignment (task, round, generation or lease)"),
        (receipt.in_params_root != expected.in_params_root, "input model"),
        (receipt.in_opt_root != expected.in_opt_root, "input optimizer state"),
        (receipt.metrics.iterations != u64::from(expected.local_steps), "number of steps"),
        (
            receipt.computation_hash != expected.computation_hash(&receipt.out_state_root),
            "computation (bundle, shard, seed or roots)",
        ),
    ];
    if let Some((_, field)) = unexpected.into_iter().find(|(wrong, _)| *wrong) {
        return Err(Refusal::Unexpected(field));
    }
    let contradictions = [
        (receipt.segments == 0 || receipt.segments > trace::MAX_SEGMENTS, "it has not 1 to 255 segments"),
        (receipt.metrics.samples == 0, "it saw no sample"),
        (receipt.checkpoint.round != receipt.round, "its checkpoint is of another round"),
        (receipt.checkpoint.step != expected.local_steps, "its checkpoint is not that of the round's end"),
    ];
    match contradictions.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, fault)) => Err(Refusal::Contradiction(fault)),
        None => Ok(()),
    }
}
