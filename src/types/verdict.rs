//! A validator's word that a node did wrong, after an audit that the ledger can't repeat.

use serde::{Deserialize, Serialize};

use super::{Digest, JobId, NodeKey, Round, SignedObject};

/// "An audit found that this node computed falsely in this round." It is of one ledger, because a job's id is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerdictVote {
    /// Who did it.
    pub node: NodeKey,
    /// In which job.
    pub job: JobId,
    /// In which of its rounds.
    pub round: Round,
    /// SHA-256 of the audit's evidence, which anyone can check without the ledger.
    pub evidence: Digest,
    /// The validator that found it, by the key that signs its blocks; must be the signer.
    pub validator: NodeKey,
}

impl SignedObject for VerdictVote {
    const DOMAIN: &'static str = "atlas/verdict-vote/v1";
    const LIMIT: usize = 512;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.validator)
    }
}
