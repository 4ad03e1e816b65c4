//! `/atlas/infer/1`: one question, one answer.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    executor::MAX_REASON,
    protocol::{DecodeError, Message, cbor_message},
    types::{ContentId, JobId, LedgerId},
};

/// The longest input in bytes.
pub const MAX_INPUT: usize = 1024 * 1024;
/// The longest result in bytes.
pub const MAX_RESULT: usize = 1024 * 1024;
/// What else is in a message, generously.
const OVERHEAD: usize = 4096;

/// Which model is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The present model of a job.
    Job {
        /// The job's ledger; `None` for the one that the answering node is configured with.
        ledger: Option<LedgerId>,
        /// The job.
        job: JobId,
    },
    /// A model by its id in the ledger's registry.
    ModelId {
        /// The ledger, as above.
        ledger: Option<LedgerId>,
        /// The id.
        model_id: String,
    },
    /// Any model, with the script that serves it.
    Model {
        /// The script, a directory.
        bundle: ContentId,
        /// The model, a file.
        model: ContentId,
    },
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which model is asked.
    pub target: Target,
    /// JSON, at most [`MAX_INPUT`] bytes; what it means is between the asker and the script.
    #[serde(with = "serde_bytes")]
    pub input: Vec<u8>,
}

/// What a model said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// JSON, at most [`MAX_RESULT`] bytes.
    #[serde(with = "serde_bytes")]
    pub result: Vec<u8>,
    /// Microseconds that the worker took.
    pub latency_micros: u64,
    /// Which model it was: its id in the registry, or its CID.
    pub model_id: String,
}

/// The answer, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// What the model said.
    Answer(Answer),
    /// There is no answer.
    Refused {
        /// Why, in words, at most [`MAX_REASON`] bytes.
        reason: String,
    },
}

impl Response {
    /// A refusal whose reason fits.
    pub fn refused(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        Self::Refused { reason }
    }
}

impl Message for Request {
    const LIMIT: usize = MAX_INPUT + OVERHEAD;

    fn encode(self) -> Vec<Bytes> {
        vec![codec::encode(&self).into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let request: Self = codec::decode(&bytes, Self::LIMIT)?;
        if request.input.len() > MAX_INPUT {
            return Err(DecodeError::malformed(format!("an input of more than {MAX_INPUT} bytes")));
        }
        Ok(request)
    }
}

cbor_message!(Response, MAX_RESULT + OVERHEAD);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_input_fits_and_a_longer_one_does_not() {
        let request = |length| Request {
            target: Target::Job { ledger: Some("l".repeat(64)), job: JobId([1; 32]) },
            input: vec![b' '; length],
        };
        let longest = request(MAX_INPUT).encode().concat();
        assert!(longest.len() <= Request::LIMIT);
        assert_eq!(Request::decode(longest.into()).unwrap(), request(MAX_INPUT));
        assert!(Request::decode(request(MAX_INPUT + 1).encode().concat().into()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::decode(bytes.into());
        }
    }
}
