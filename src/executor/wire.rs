//! `/atlas/task/1`: a submitter offers a slot, a creator controls a task, anyone with the right to asks how it goes.

use serde::{Deserialize, Serialize};

use super::{ProcessState, StopMode};
use crate::{
    gossip,
    identity::sealing,
    protocol::cbor_message,
    types::{DataKey, Generation, Round, Signed, Slot, Step, TaskId},
};

/// The longest reason of a refusal in bytes; a longer one is cut.
pub const MAX_REASON: usize = 512;
/// The longest part of a log in one answer, in bytes.
pub const MAX_LOG: u32 = 64 * 1024;

/// Bytes of a sealed data key.
pub const SEALED_DATA_KEY: usize = DataKey::BYTES + sealing::OVERHEAD;

/// What a data key is sealed for: `atlas/data-key/v1 ‖ 0x00 ‖ job ‖ slot ‖ generation`, the numbers as 4 bytes each, big-endian. A
/// key that was handed over for one lease is none for another.
pub fn data_key_purpose(task: &TaskId, generation: Generation) -> Vec<u8> {
    let numbers = (task.slot.to_be_bytes(), generation.to_be_bytes());
    [b"atlas/data-key/v1\0".as_slice(), &task.job.0, &numbers.0, &numbers.1].concat()
}

/// What one node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// "Would you take this slot?" Answered by `accepted` or `refused`.
    Offer {
        /// A signed [`gossip::Announcement`].
        announcement: Signed,
        /// The slot.
        slot: Slot,
    },
    /// "Stop this task." Answered by `done` or `refused`, as are the next two.
    Stop {
        /// The task.
        task: TaskId,
        /// The generation that is meant; a stop for another one is refused.
        generation: Generation,
        /// How.
        mode: StopMode,
    },
    /// "Checkpoint it, stop it, and keep the lease."
    Pause {
        /// The task.
        task: TaskId,
        /// The generation that is meant.
        generation: Generation,
    },
    /// "Go on."
    Resume {
        /// The task.
        task: TaskId,
        /// The generation that is meant.
        generation: Generation,
    },
    /// "How far is it?" Answered by `progress` or `refused`.
    Progress {
        /// The task.
        task: TaskId,
    },
    /// "I hold this task; give me the key of its data." Answered by `data_key` or `refused`.
    DataKey {
        /// The task.
        task: TaskId,
        /// The generation of the lease that the asking node holds.
        generation: Generation,
    },
    /// "What did it print?" Answered by `log` or `refused`.
    Log {
        /// The task.
        task: TaskId,
        /// Offset of the first byte wanted, counted over the task's life; `None` for the last `max` bytes.
        from: Option<u64>,
        /// Most bytes wanted; more than [`MAX_LOG`] is read as [`MAX_LOG`].
        max: u32,
    },
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// What its process does.
    pub state: ProcessState,
    /// The round.
    pub round: Round,
    /// Steps done in it.
    pub step: Step,
    /// Steps of the round.
    pub of: Step,
    /// The last loss that the script reported.
    pub loss: Option<f64>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The slot will be taken.
    Accepted,
    /// It will not be done.
    Refused {
        /// Why, in words, at most [`MAX_REASON`] bytes.
        reason: String,
    },
    /// It was done.
    Done,
    /// How far it is.
    Progress(ProgressReport),
    /// The key of the task's data, sealed to the asking node's key for the purpose that [`data_key_purpose`] names.
    DataKey {
        /// [`SEALED_DATA_KEY`] bytes.
        #[serde(with = "serde_bytes")]
        sealed: Vec<u8>,
    },
    /// Part of a log.
    Log {
        /// Offset of the first byte.
        from: u64,
        /// The bytes, which need not be UTF-8.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
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

cbor_message!(Request, gossip::MAX_MESSAGE + 1024);
cbor_message!(Response, MAX_LOG as usize + 1024);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Message;
    use crate::types::JobId;

    fn round_trip<M: Message + Clone + PartialEq>(message: M) {
        let bytes = message.clone().encode().concat();
        assert!(bytes.len() <= M::LIMIT);
        assert_eq!(M::decode(bytes.into()).unwrap(), message);
    }

    #[test]
    fn messages_read_back_as_they_were_written() {
        let task = TaskId { job: JobId([1; 32]), slot: 3 };
        round_trip(Request::Stop { task, generation: 2, mode: StopMode::Checkpoint });
        round_trip(Request::Log { task, from: None, max: MAX_LOG });
        round_trip(Response::Log { from: 7, bytes: vec![0xff; MAX_LOG as usize] });
        let report = ProgressReport { state: ProcessState::Running, round: 1, step: 2, of: 3, loss: Some(0.5) };
        round_trip(Response::Progress(report));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let Response::Refused { reason } = Response::refused("é".repeat(400)) else {
            panic!("not a refusal");
        };
        assert_eq!(reason.len(), MAX_REASON);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::decode(bytes.into());
        }
    }
}
