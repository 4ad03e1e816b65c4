//! A validator's word that a ledger shall run by other numbers from a block on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, LedgerId, NodeKey, SignedObject};
use crate::codec;

/// Other numbers for a ledger. It is told from every other change by all that it says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParameterChange {
    /// The ledger; any other refuses it.
    pub chain_id: LedgerId,
    /// Parameters by their names in a genesis, those of its economy with `economy.` before them; a truth is 0 or 1.
    pub values: BTreeMap<String, u64>,
    /// The first block that runs by them.
    pub from_height: u64,
}

impl ParameterChange {
    /// The name of the proposal to make this change: SHA-256("atlas/parameter-change/v1" ‖ 0x00 ‖ its CBOR).
    pub fn id(&self) -> Digest {
        Digest::of_parts("atlas/parameter-change/v1", &[&codec::encode(self)])
    }
}

/// "I want this change."
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ParameterVote {
    /// What shall change.
    pub change: ParameterChange,
    /// Who wants it, by the key that signs its blocks; must be the signer.
    pub validator: NodeKey,
}

impl SignedObject for ParameterVote {
    const DOMAIN: &'static str = "atlas/parameter-vote/v1";
    const LIMIT: usize = 4_096;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.validator)
    }
}
