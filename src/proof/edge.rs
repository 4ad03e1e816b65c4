//! Level L0 over content: the update and the end-of-round checkpoint, checked byte by byte.

use serde::{Deserialize, Serialize};

use crate::{
    proof::{Refusal, trace, wire::Refused},
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
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Of the request.
    pub id: u64,
    /// Accepted, or why not.
    pub result: Result<(), Refused>,
}

/// Blocks while it reads and hashes; answers exactly once, also when something panics.
pub fn perform(files: &dyn Files, request: &Request) -> Answer {
    let result = guarded(|| check_update(files, request));
    Answer { id: request.id, result: result.map_err(|refusal| Refused::from(&refusal)) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proof::testing::{NOW, Worker},
        tensor::{
            root,
            testing::{Store, model},
        },
        types::{Digest, NodeKey},
    };

    fn check(store: &Store, request: &Request) -> Result<(), Refusal> {
        let checked = check_update(&*store.files, request);
        assert_eq!(perform(&*store.files, request).result.err(), checked.as_ref().err().map(Refused::from));
        checked
    }

    #[test]
    fn an_honest_round_holds() {
        for codec in [UpdateCodec::F32, UpdateCodec::I8B256] {
            let store = Store::new();
            let request = Worker { codec, ..Worker::default() }.finish(&store);
            check(&store, &request).unwrap();
        }
    }

    #[test]
    fn bytes_that_are_not_the_digest_are_refused() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        request.receipt.update_digest = Digest([1; 32]);
        assert!(matches!(check(&store, &request), Err(Refusal::Digest)));
    }

    #[test]
    fn a_wrong_length_is_refused_before_anything_is_read() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        request.receipt.update_length = u64::MAX;
        let (claimed, nowhere) = (u64::MAX, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        request.receipt.update_cid = nowhere.parse().unwrap();
        assert!(matches!(check(&store, &request), Err(Refusal::Length { claimed: c, .. }) if c == claimed));
    }

    #[test]
    fn a_wrong_input_model_is_refused() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        request.base_model = store.files.import_bytes(&model(&[9.0; 4]).to_safetensors()).unwrap();
        assert!(matches!(check(&store, &request), Err(Refusal::Unexpected("input model"))));
    }

    #[test]
    fn a_neighbours_update_and_an_update_that_is_no_difference_are_refused() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        let other = Worker { trained: vec![0.9; 4], ..Worker::default() }.finish(&store);
        request.receipt.update_cid = other.receipt.update_cid;
        request.receipt.update_digest = other.receipt.update_digest;
        assert!(matches!(check(&store, &request), Err(Refusal::Difference)));
    }

    #[test]
    fn a_neighbours_checkpoint_is_refused() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        let other = Worker { secret: 9, ..Worker::default() }.finish(&store);
        request.receipt.checkpoint.cid = other.receipt.checkpoint.cid;
        assert!(matches!(check(&store, &request), Err(Refusal::Unexpected("checkpoint's node"))));
    }

    #[test]
    fn an_update_of_another_model_or_codec_is_refused() {
        let store = Store::new();
        let mut request = Worker::default().finish(&store);
        request.codec = UpdateCodec::I8B256;
        assert!(check(&store, &request).is_err());

        let base = model(&[0.0; 4]);
        let mut bytes = update::encode_difference(&base, &base, UpdateCodec::F32).unwrap();
        let mut request = Worker::default().finish(&store);
        let renamed = bytes.iter().position(|byte| *byte == b'w').unwrap();
        bytes[renamed] = b'x';
        request.receipt.update_cid = store.files.import_bytes(&bytes).unwrap();
        request.receipt.update_digest = Digest::of(&bytes);
        assert!(matches!(check(&store, &request), Err(Refusal::Update(update::Error::Schema))));
    }

    #[test]
    fn nan_and_infinity_are_refused() {
        let store = Store::new();
        for value in [f32::NAN, f32::INFINITY] {
            let mut request = Worker::default().finish(&store);
            let base = model(&[0.0; 4]);
            let mut bytes = update::encode_difference(&base, &base, UpdateCodec::F32).unwrap();
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&value.to_le_bytes());
            request.receipt.update_cid = store.files.import_bytes(&bytes).unwrap();
            request.receipt.update_digest = Digest::of(&bytes);
            assert!(matches!(check(&store, &request), Err(Refusal::Update(update::Error::NotFinite { .. }))));
        }
    }

    #[test]
    fn every_claim_about_the_checkpoint_is_compared() {
        type Change = fn(&mut Request);
        let changes: [Change; 9] = [
            |request| request.receipt.node = NodeKey([1; 32]),
            |request| request.receipt.task.slot += 1,
            |request| request.receipt.round += 1,
            |request| request.receipt.checkpoint.step += 1,
            |request| request.receipt.out_state_root = Digest([1; 32]),
            |request| request.receipt.out_opt_root = Digest([1; 32]),
            |request| request.receipt.segments += 1,
            |request| request.receipt.trace_root = Digest([1; 32]),
            |request| request.generation += 1,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let store = Store::new();
            let mut request = Worker::default().finish(&store);
            change(&mut request);
            assert!(matches!(check(&store, &request), Err(Refusal::Unexpected(_))), "change {index}");
        }
    }

    #[test]
    fn a_forged_middle_state_moves_the_trace_root() {
        let store = Store::new();
        let honest = Worker::default().finish(&store).receipt;
        let forged = Worker { middle: Digest([1; 32]), ..Worker::default() }.finish(&store).receipt;
        assert_ne!(honest.trace_root, forged.trace_root);
        assert_eq!(honest.in_params_root, root::of_tensors(&model(&[0.0; 4])));
    }

    #[test]
    fn what_is_not_here_says_nothing_about_the_receipt() {
        let (store, empty) = (Store::new(), Store::new());
        let request = Worker { now: NOW, ..Worker::default() }.finish(&store);
        assert!(check(&empty, &request).unwrap_err().is_retryable());
        let mut wrong = request;
        wrong.receipt.update_digest = Digest([1; 32]);
        assert!(!check(&store, &wrong).unwrap_err().is_retryable());
    }
}
