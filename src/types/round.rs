//! The outcome of a round: which updates were applied and which model came out.

use serde::{Deserialize, Serialize};

use super::{ContentId, Digest, JobId, NodeKey, Round, SignedObject, Slot};

/// One update that the round applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AppliedSlot {
    /// The slot.
    pub slot: Slot,
    /// SHA-256 of the encoded update, as in the slot's receipt.
    pub update_digest: Digest,
    /// The worker whose receipt it is.
    pub node: NodeKey,
    /// Records seen: the weight.
    pub samples: u64,
}

/// What the holders of the job's slots recomputed and agree on. `applied` and `skipped` are sorted by slot,
/// disjoint, and together are all slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoundOutcome {
    /// The job.
    pub job: JobId,
    /// The round.
    pub round: Round,
    /// `params_root` of the next model.
    pub params_root: Digest,
    /// `params_root` of the outer momentum.
    pub momentum_root: Digest,
    /// CID of the next model's canonical safetensors file.
    pub model_cid: ContentId,
    /// CID of the outer momentum's canonical safetensors file.
    pub momentum_cid: ContentId,
    /// Updates applied.
    pub applied: Vec<AppliedSlot>,
    /// Slots that gave no update in time.
    pub skipped: Vec<Slot>,
}

impl RoundOutcome {
    /// The name of the outcome, over its canonical encoding: what a [`RoundVote`] is about.
    pub fn digest(&self) -> Digest {
        Digest::of_parts("atlas/round-outcome/v1", &[&crate::codec::encode(self)])
    }
}

/// "I recomputed this outcome from the updates and got the same."
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoundVote {
    /// The job.
    pub job: JobId,
    /// The round.
    pub round: Round,
    /// [`RoundOutcome::digest`].
    pub outcome: Digest,
    /// The holder that recomputed; must be the signer.
    pub node: NodeKey,
}

impl SignedObject for RoundVote {
    const DOMAIN: &'static str = "atlas/round-vote/v1";
    const LIMIT: usize = 512;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.node)
    }
}
