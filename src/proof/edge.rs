//! Level L0 over content: the update and the end-of-round checkpoint, checked byte by byte.

use crate::{
    proof::{Refusal, trace},
    store::Files,
    tensor::{self, MAX_FILE_BYTES, Tensors, checkpoint::Checkpoint, guarded, root, update},
    types::{ContentId, Digest, Generation, Receipt, Time, UpdateCodec},
};

/// Asks to check the content behind a receipt that [`super::check_receipt`] accepted. The update, the checkpoint and
/// the model must be in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Repeated by the answer.
    pub id: u64,
    /// The receipt.
    pub receipt: Receipt,
    /// The task's present generation.
    pub generation: Generation,
    /// The round's model.
    pub base_model: ContentId,
    /// The job's codec.
    pub codec: UpdateCodec,
    /// This node's time, for the checkpoint's age.
    pub now: Time,
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Answer {
    /// Of the request.
    pub id: u64,
    /// Accepted, or why not.
    pub result: Result<(), Refusal>,
}

/// Blocks while it reads and hashes; answers exactly once, also when something panics.
pub fn perform(files: &dyn Files, request: &Request) -> Answer {
    Answer { id: request.id, result: guarded(|| check_update(files, request)) }
}

/// Checks digest, length, schema, finiteness, canonical form, the checkpoint's signature, trace and roots, and that the
/// update is exactly the difference between the round's model and the checkpoint's. Nothing is allocated for the update before its
/// length is known to be that of this model's updates.
pub fn check_update(files: &dyn Files, request: &Request) -> Result<(), Refusal> {
    let receipt = &request.receipt;
    let base = read_model(files, &request.base_model)?;
    if root::of_tensors(&base) != receipt.in_params_root {
        return Err(Refusal::Unexpected("input model"));
    }
    let update = read_update(files, request, &base)?;
    let checkpoint = Checkpoint::open(files, &receipt.checkpoint.cid, request.now)?;
    check_checkpoint(&checkpoint, request)?;
    checkpoint.check_roots(files)?;
    // The receipt's only freedom is the state it ended in: the update follows from it, byte for byte.
    let trained = read_model(files, &checkpoint.model)?;
    if update::encode_difference(&base, &trained, request.codec)? != update {
        return Err(Refusal::Difference);
    }
    Ok(())
}

fn read_model(files: &dyn Files, cid: &ContentId) -> Result<Tensors, Refusal> {
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    let tensors = Tensors::parse(files.read(cid, limit)?.into())?;
    tensors.check_finite()?;
    Ok(tensors)
}

fn read_update(files: &dyn Files, request: &Request, base: &Tensors) -> Result<bytes::Bytes, Refusal> {
    let (receipt, schema) = (&request.receipt, base.schema());
    let expected = update::encoded_length(&schema, request.codec)?;
    if receipt.update_length != expected {
        return Err(Refusal::Length { claimed: receipt.update_length, expected });
    }
    let bytes = files.read(&receipt.update_cid, usize::try_from(expected).unwrap_or(usize::MAX))?;
    if Digest::of(&bytes) != receipt.update_digest {
        return Err(Refusal::Digest);
    }
    let bytes = bytes::Bytes::from(bytes);
    let update = tensor::update::Update::parse(bytes.clone())?;
    update.check_schema(&schema, request.codec)?;
    update.check_values()?;
    Ok(bytes)
}

fn check_checkpoint(checkpoint: &Checkpoint, request: &Request) -> Result<(), Refusal> {
    let (manifest, receipt) = (&checkpoint.manifest, &request.receipt);
    let start = root::start_root(&receipt.in_params_root, &receipt.in_opt_root);
    let unexpected = [
        (manifest.node != receipt.node, "checkpoint's node"),
        (manifest.task != receipt.task, "checkpoint's task"),
        (manifest.generation != request.generation, "checkpoint's generation"),
        (manifest.epoch != receipt.round, "checkpoint's round"),
        (manifest.iteration != receipt.checkpoint.step, "checkpoint's step"),
        (manifest.state_root != receipt.out_state_root, "checkpoint's state"),
        (manifest.opt_root != receipt.out_opt_root, "checkpoint's optimizer state"),
        (manifest.trace.len() != receipt.segments as usize + 1, "checkpoint's number of segments"),
        (manifest.trace.first() != Some(&start), "trace's first state"),
        (trace::root(&manifest.trace) != receipt.trace_root, "checkpoint's trace"),
    ];
    match unexpected.into_iter().find(|(wrong, _)| *wrong) {
        Some((_, field)) => Err(Refusal::Unexpected(field)),
        None => Ok(()),
    }
}
