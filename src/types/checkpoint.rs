//! The checkpoint: enough to continue a task on another node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ContentId, Digest, Generation, NodeKey, Round, SignedObject, Step, TaskId, Time};

/// Older checkpoints are refused (origin: "at most 7 days old").
pub const CHECKPOINT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the ledger remembers of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// CID of the checkpoint's root: a directory of `manifest` (a [`super::Signed`] [`CheckpointManifest`] in CBOR) and
    /// `state/` (what the manifest's `cid` names), so that whoever holds this one DAG can continue from it.
    pub cid: ContentId,
    /// The round it belongs to.
    pub round: Round,
    /// Steps done inside that round.
    pub step: Step,
}

/// The signed manifest of a checkpoint. (Origin: task_id epoch iteration cid timestamp signature; `epoch` is
/// the round, `iteration` the step.)
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// The task.
    pub task: TaskId,
    /// The generation that wrote it.
    pub generation: Generation,
    /// The round.
    pub epoch: Round,
    /// Steps done inside the round.
    pub iteration: Step,
    /// The node that wrote it; must be the signer.
    pub node: NodeKey,
    /// CID of the state's directory: `model.safetensors`, and `optim.safetensors` and `state.json` if the script has them.
    pub cid: ContentId,
    /// Bytes of that directory's files.
    pub size: u64,
    /// `state_root` of proof.md over the checkpoint's tensors.
    pub state_root: Digest,
    /// `params_root` over the optimizer tensors; zero digest if there are none.
    pub opt_root: Digest,
    /// State roots of the round so far: its start, each earlier kept checkpoint, this one. Whoever continues from here
    /// needs them for the receipt's trace. 2 to 256.
    pub trace: Vec<Digest>,
    /// When it was written.
    pub timestamp: Time,
}

impl SignedObject for CheckpointManifest {
    const DOMAIN: &'static str = "atlas/checkpoint/v1";
    const LIMIT: usize = 16 * 1024;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.node)
    }
}
