//! Values that two or more modules share: identifiers, times, records and signed objects.
//!
//! Everything here is plain data. Nothing here reads a clock, a file or a socket, and nothing decides
//! anything: a value that needs a decision belongs to the module that makes it.

mod beat;
mod buffer;
mod cause;
mod checkpoint;
pub mod computation;
mod data_key;
mod ids;
mod job;
mod parameters;
mod receipt;
pub mod rendezvous;
mod resources;
mod round;
mod signed;
mod speed;
mod time;
mod verdict;
mod verified;

pub use beat::{Beat, Load};
pub use buffer::{ALIGNMENT, Buffer, Buffers};
pub use cause::{Cause, OrCause, words};
pub use checkpoint::{CHECKPOINT_MAX_AGE, CheckpointManifest, CheckpointRef};
pub use data_key::DataKey;
pub use ids::{
    AssignmentId, ContentId, Digest, Generation, JobId, LedgerId, NodeKey, ParseIdError, Round, SignatureBytes, Slot,
    Step, TaskId,
};
pub use job::{
    AggregationRule, JobSpec, JobStatus, NodeStatus, OuterStep, OutputKind, Quorum, Settle, ShardSpec, TaskStatus,
    TaskType, UpdateCodec,
};
pub use parameters::{ParameterChange, ParameterVote};
pub use receipt::{Attestation, Metrics, Receipt};
pub use resources::Resources;
pub use round::{AppliedSlot, RoundOutcome, RoundVote};
pub(crate) use signed::memo;
pub use signed::{Signed, SignedError, SignedObject};
pub use speed::Speed;
pub use time::{Time, doubled};
pub use verdict::VerdictVote;
pub(crate) use verified::{Verified, Vouched};
