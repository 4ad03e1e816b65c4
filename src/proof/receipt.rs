//! The receipt: how it is made, and every check that needs no content.

use crate::{
    proof::trace,
    tensor::{Error as FormatError, checkpoint, root, update},
    types::{
        AssignmentId, CheckpointRef, ContentId, Digest, Generation, Metrics, NodeKey, Receipt, Round, Signed,
        SignedError, TaskId, Time, computation,
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

    /// The hash of what is computed, if it ends with `out_state_root` ([`computation::hash`]).
    pub fn computation_hash(&self, out_state_root: &Digest) -> Digest {
        let inputs = (&self.in_params_root, &self.in_opt_root);
        computation::hash((&self.bundle, &self.shard), &self.seed, inputs, out_state_root)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::testing::Worker;

    fn refused(change: impl FnOnce(&mut Receipt)) -> Refusal {
        let worker = Worker::default();
        let mut receipt = worker.receipt();
        change(&mut receipt);
        check_receipt(&worker.keypair().seal(&receipt), &worker.expected()).unwrap_err()
    }

    #[test]
    fn what_is_built_is_accepted() {
        let worker = Worker::default();
        let receipt = worker.receipt();
        assert_eq!(check_receipt(&worker.keypair().seal(&receipt), &worker.expected()).unwrap(), receipt);
    }

    #[test]
    fn a_receipt_replayed_in_another_round_generation_or_lease_is_refused() {
        let worker = Worker::default();
        let signed = worker.keypair().seal(&worker.receipt());
        type Change = fn(&mut Expected);
        let changes: [Change; 4] = [
            |expected| expected.round += 1,
            |expected| expected.generation += 1,
            |expected| expected.lease_tx = Digest([1; 32]),
            |expected| expected.task.slot += 1,
        ];
        for change in changes {
            let mut expected = worker.expected();
            change(&mut expected);
            let refusal = check_receipt(&signed, &expected).unwrap_err();
            assert!(matches!(refusal, Refusal::Unexpected(_)) && !refusal.is_retryable(), "{refusal}");
        }
    }

    #[test]
    fn another_holders_or_a_forged_receipt_is_refused() {
        let worker = Worker::default();
        let other = Worker { secret: 9, ..Worker::default() };
        let stolen = other.keypair().seal(&worker.receipt());
        assert!(matches!(check_receipt(&stolen, &worker.expected()), Err(Refusal::Signed(SignedError::Speaker))));
        let own = other.keypair().seal(&other.receipt());
        assert!(matches!(check_receipt(&own, &worker.expected()), Err(Refusal::Unexpected("node"))));
        let mut changed = worker.keypair().seal(&worker.receipt());
        *changed.body.last_mut().unwrap() ^= 1;
        assert!(matches!(check_receipt(&changed, &worker.expected()), Err(Refusal::Signed(SignedError::Signature))));
    }

    #[test]
    fn wrong_inputs_another_shard_another_seed_and_skipped_steps_are_refused() {
        assert!(matches!(refused(|r| r.in_params_root = Digest([1; 32])), Refusal::Unexpected("input model")));
        assert!(matches!(refused(|r| r.in_opt_root = Digest([1; 32])), Refusal::Unexpected("input optimizer state")));
        assert!(matches!(refused(|r| r.metrics.iterations -= 1), Refusal::Unexpected("number of steps")));
        assert!(matches!(refused(|r| r.out_state_root = Digest([1; 32])), Refusal::Unexpected(_)));
        let worker = Worker::default();
        let signed = worker.keypair().seal(&worker.receipt());
        let expected = worker.expected();
        let (bundle, shard, seed) = (expected.shard, expected.bundle, Digest([1; 32]));
        for wrong in [
            Expected { bundle, ..expected.clone() },
            Expected { shard, ..expected.clone() },
            Expected { seed, ..expected.clone() },
        ] {
            assert!(matches!(check_receipt(&signed, &wrong), Err(Refusal::Unexpected(_))));
        }
    }

    #[test]
    fn a_receipt_that_contradicts_itself_is_refused() {
        for change in [
            (|r: &mut Receipt| r.segments = 0) as fn(&mut Receipt),
            |r| r.segments = trace::MAX_SEGMENTS + 1,
            |r| r.metrics.samples = 0,
            |r| r.checkpoint.round += 1,
            |r| r.checkpoint.step -= 1,
        ] {
            assert!(matches!(refused(change), Refusal::Contradiction(_)));
        }
    }
}
