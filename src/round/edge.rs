//! What the round does with content: encode an update, combine updates. Blocking; run off the event loop.

use std::io;

use serde::{Deserialize, Serialize};

use super::{aggregate, aggregate::Contribution};
use crate::{
    store::Files,
    tensor::{Error as FormatError, MAX_FILE_BYTES, Tensors, guarded, root, update},
    types::{AggregationRule, Cause, ContentId, Digest, JobId, OrCause as _, OuterStep, Round, Slot, UpdateCodec},
};

/// The most bytes of updates that are combined in memory: 64 workers of 64 MB, or 10 of 400. More is refused: such jobs need sharded
/// aggregation, or a smaller codec.
pub const MAX_UPDATES_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// The most updates of a round; beyond it aggregation has to be sharded.
pub const MAX_UPDATES: usize = 1024;

/// Asks for the update of a finished round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageRequest {
    /// The round's model.
    pub base_model: ContentId,
    /// The trained model: that of the kept end-of-round checkpoint, so that receipt and checkpoint can't disagree.
    pub trained: ContentId,
    /// The job's codec.
    pub codec: UpdateCodec,
}

/// An update, encoded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Where it is.
    pub update_cid: ContentId,
    /// SHA-256 of its bytes.
    pub update_digest: Digest,
    /// Its length in bytes.
    pub update_length: u64,
}

/// Asks for the next model of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateRequest {
    /// The round's model.
    pub base_model: ContentId,
    /// The outer momentum; `None` for zero.
    pub momentum: Option<ContentId>,
    /// The updates to combine; in any order, at most one a slot.
    pub updates: Vec<Update>,
    /// The outer step.
    pub outer: OuterStep,
    /// The job's codec.
    pub codec: UpdateCodec,
    /// The job's rule.
    pub rule: AggregationRule,
}

/// One update of a round, as its accepted receipt names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// The slot.
    pub slot: Slot,
    /// Where it is.
    pub cid: ContentId,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its weight.
    pub samples: u64,
}

/// The next model and momentum, stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregated {
    /// `params_root` of the model.
    pub params_root: Digest,
    /// `params_root` of the momentum.
    pub momentum_root: Digest,
    /// The model's canonical file.
    pub model_cid: ContentId,
    /// The momentum's canonical file.
    pub momentum_cid: ContentId,
}

/// Why there is no update or no next model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Content is missing or the disk fails.
    #[error("a model or an update can't be read or kept: fetch it first, and look at the disk")]
    Io(#[from] io::Error),
    /// The model or the momentum is not acceptable.
    #[error("the round's model or momentum is not acceptable")]
    Model(#[from] FormatError),
    /// What the script wrote is not acceptable.
    #[error("the model that the script wrote is not acceptable: {0}")]
    Trained(#[source] FormatError),
    /// The trained model gives no update.
    #[error("the trained model gives no update")]
    Encode(#[source] update::Error),
    /// A slot's update is not what its receipt names, or not acceptable.
    #[error("the update of slot {slot} is not acceptable: {fault}")]
    Update {
        /// The slot.
        slot: Slot,
        /// What is wrong.
        fault: String,
    },
    /// The updates are too many or too long for one node.
    #[error(
        "{count} updates of {bytes} bytes are over the limits of {MAX_UPDATES} and {MAX_UPDATES_BYTES}: use a smaller codec or fewer workers"
    )]
    TooMuch {
        /// How many.
        count: usize,
        /// Bytes together.
        bytes: u64,
    },
    /// The arithmetic has no result.
    #[error(transparent)]
    Aggregate(#[from] aggregate::Error),
}

/// Why there is no next model, for the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The slot whose update is to blame, if one is.
    pub slot: Option<Slot>,
    /// Why, in words.
    pub cause: Cause,
}

impl From<&Error> for Failed {
    fn from(error: &Error) -> Self {
        let slot = match error {
            Error::Update { slot, .. } => Some(*slot),
            _ => None,
        };
        Self { slot, cause: Cause::of(error) }
    }
}

/// Asks this edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// From the coordinator, at the end of a worker's round.
    Package {
        /// Repeated by the answer.
        id: u64,
        /// What to encode.
        request: PackageRequest,
    },
    /// From [`super::State`].
    Aggregate {
        /// Repeated by the answer.
        id: u64,
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
        /// What to combine.
        request: AggregateRequest,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To the coordinator.
    Packaged {
        /// Of the request.
        id: u64,
        /// The update.
        result: Result<Package, Cause>,
    },
    /// To [`super::State`].
    Aggregated {
        /// Of the request.
        id: u64,
        /// The job.
        job: JobId,
        /// The round.
        round: Round,
        /// The next model.
        result: Result<Aggregated, Failed>,
    },
}

/// Blocks while it computes; answers exactly once, also when something panics.
pub fn perform(files: &dyn Files, request: &Request) -> Answer {
    match request {
        Request::Package { id, request } => {
            let result = guarded(|| package(files, request)).or_cause();
            Answer::Packaged { id: *id, result }
        }
        Request::Aggregate { id, job, round, request } => {
            let result = guarded(|| aggregate(files, request)).map_err(|error| Failed::from(&error));
            Answer::Aggregated { id: *id, job: *job, round: *round, result }
        }
    }
}

/// Encodes and stores the difference between the round's model and the trained one.
pub fn package(files: &dyn Files, request: &PackageRequest) -> Result<Package, Error> {
    let base = read_tensors(files, &request.base_model)?;
    let trained = read_tensors(files, &request.trained).map_err(|error| match error {
        Error::Model(error) => Error::Trained(error),
        other => other,
    })?;
    let bytes = update::encode_difference(&base, &trained, request.codec).map_err(Error::Encode)?;
    let update_cid = files.import_bytes(&bytes)?;
    Ok(Package { update_cid, update_digest: Digest::of(&bytes), update_length: bytes.len() as u64 })
}

/// Combines the updates and stores the next model and momentum. The result depends on the request's content alone:
/// equal on every node.
pub fn aggregate(files: &dyn Files, request: &AggregateRequest) -> Result<Aggregated, Error> {
    let base = read_tensors(files, &request.base_model)?;
    let momentum = request.momentum.map(|cid| read_tensors(files, &cid)).transpose()?;
    let contributions = read_updates(files, request, &base)?;
    let AggregationRule::NormClippedMean = request.rule;
    let next = aggregate::norm_clipped_mean(&base, momentum.as_ref(), &contributions, request.outer)?;
    drop((base, momentum, contributions));
    Ok(Aggregated {
        params_root: root::of_tensors(&next.model),
        momentum_root: root::of_tensors(&next.momentum),
        model_cid: files.import_bytes(&next.model.to_safetensors())?,
        momentum_cid: files.import_bytes(&next.momentum.to_safetensors())?,
    })
}

fn read_tensors(files: &dyn Files, cid: &ContentId) -> Result<Tensors, Error> {
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    let tensors = Tensors::parse(files.read(cid, limit)?.into())?;
    tensors.check_finite()?;
    Ok(tensors)
}

fn read_updates(files: &dyn Files, request: &AggregateRequest, base: &Tensors) -> Result<Vec<Contribution>, Error> {
    let schema = base.schema();
    let length = update::encoded_length(&schema, request.codec).map_err(Error::Encode)?;
    let (count, bytes) = (request.updates.len(), length.saturating_mul(request.updates.len() as u64));
    if count > MAX_UPDATES || bytes > MAX_UPDATES_BYTES {
        return Err(Error::TooMuch { count, bytes });
    }
    let read = |update: &Update| {
        let fault = |fault: String| Error::Update { slot: update.slot, fault };
        let bytes = files.read(&update.cid, usize::try_from(length).unwrap_or(usize::MAX))?;
        if Digest::of(&bytes) != update.digest {
            return Err(fault("its bytes have another digest than its receipt says".into()));
        }
        let parsed = update::Update::parse(bytes.into()).map_err(|error| fault(error.to_string()))?;
        parsed.check_schema(&schema, request.codec).map_err(|error| fault(error.to_string()))?;
        parsed.check_values().map_err(|error| fault(error.to_string()))?;
        Ok(Contribution { slot: update.slot, samples: update.samples, update: parsed })
    };
    request.updates.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::{Store, model};

    fn store_model(store: &Store, values: &[f32]) -> ContentId {
        store.files.import_bytes(&model(values).to_safetensors()).unwrap()
    }

    fn packaged(store: &Store, base: ContentId, slot: Slot, values: &[f32]) -> Update {
        let request = PackageRequest { base_model: base, trained: store_model(store, values), codec: UpdateCodec::F32 };
        let package = package(&*store.files, &request).unwrap();
        Update { slot, cid: package.update_cid, digest: package.update_digest, samples: 10 }
    }

    fn request(base: ContentId, updates: Vec<Update>) -> AggregateRequest {
        AggregateRequest {
            base_model: base,
            momentum: None,
            updates,
            outer: OuterStep { learning_rate_micros: 1_000_000, momentum_micros: 0 },
            codec: UpdateCodec::F32,
            rule: AggregationRule::NormClippedMean,
        }
    }

    #[test]
    fn packaged_updates_combine_to_the_mean_of_the_trained_models() {
        let store = Store::new();
        let base = store_model(&store, &[1.0, 1.0]);
        let updates = vec![packaged(&store, base, 1, &[1.0, 0.0]), packaged(&store, base, 0, &[0.0, 1.0])];
        let made = aggregate(&*store.files, &request(base, updates)).unwrap();
        assert_eq!(made.model_cid, store_model(&store, &[0.5, 0.5]));
        assert_eq!(made.params_root, root::of_tensors(&model(&[0.5, 0.5])));
        assert_eq!(made.momentum_cid, store_model(&store, &[0.5, 0.5]));
        assert_eq!(made.momentum_root, made.params_root);
    }

    #[test]
    fn a_wrong_update_is_blamed_on_its_slot_and_a_missing_one_on_nobody() {
        let store = Store::new();
        let base = store_model(&store, &[1.0, 1.0]);
        let good = packaged(&store, base, 0, &[0.0, 1.0]);
        let blamed =
            |update| Failed::from(&aggregate(&*store.files, &request(base, vec![good, update])).unwrap_err()).slot;
        assert_eq!(blamed(Update { slot: 1, digest: Digest([1; 32]), ..good }), Some(1));
        let garbage = store.files.import_bytes(&[7; 40]).unwrap();
        assert_eq!(blamed(Update { slot: 1, cid: garbage, digest: Digest::of(&[7; 40]), samples: 1 }), Some(1));
        let nowhere = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".parse().unwrap();
        assert_eq!(blamed(Update { slot: 1, cid: nowhere, ..good }), None);
    }

    #[test]
    fn what_a_script_wrote_is_packaged_only_if_it_is_a_finite_model_of_the_same_shapes() {
        let store = Store::new();
        let base = store_model(&store, &[1.0, 1.0]);
        let refused = |bytes: &[u8]| {
            let trained = store.files.import_bytes(bytes).unwrap();
            let request = PackageRequest { base_model: base, trained, codec: UpdateCodec::F32 };
            let error = package(&*store.files, &request).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            format!("{error}: {source}")
        };
        let bomb = [&(1_u64 << 40).to_le_bytes()[..], b"{}"].concat();
        for (bytes, words) in [
            (model(&[1.0, f32::NAN]).to_safetensors(), "finite"),
            (model(&[f32::INFINITY, 1.0]).to_safetensors(), "finite"),
            (model(&[1.0, 1.0, 1.0]).to_safetensors(), "tensor"),
            (model(&[]).to_safetensors(), "tensor"),
            (bomb, "claims 1099511627776 bytes"),
            (b"not a model".to_vec(), "claims"),
        ] {
            let error = refused(&bytes);
            assert!(error.contains(words), "`{words}` is missing in: {error}");
        }
    }

    #[test]
    fn too_much_is_refused_before_it_is_read() {
        let store = Store::new();
        let base = store_model(&store, &[1.0]);
        let update = packaged(&store, base, 0, &[0.0]);
        let many = vec![update; MAX_UPDATES + 1];
        assert!(matches!(aggregate(&*store.files, &request(base, many)), Err(Error::TooMuch { .. })));
    }

    #[test]
    fn an_answer_comes_also_when_there_is_nothing_to_read() {
        let (store, empty) = (Store::new(), Store::new());
        let base = store_model(&store, &[1.0]);
        let request = PackageRequest { base_model: base, trained: base, codec: UpdateCodec::F32 };
        let answer = perform(&*empty.files, &Request::Package { id: 3, request });
        assert!(
            matches!(answer, Answer::Packaged { id: 3, result: Err(cause) } if cause.to_string().contains("fetch it first"))
        );
    }
}
