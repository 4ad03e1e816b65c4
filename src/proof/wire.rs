//! `/atlas/proof/1`: Receipt → Verified or Refused; Challenge → Opening or Refused. CBOR.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    protocol::{DecodeError, Message, cbor_message},
    types::{self, ContentId, Digest, Receipt, Signed, SignedObject},
};

/// The longest request in bytes: a signed receipt with the CBOR around it. A longer one is refused unread.
pub const MAX_REQUEST: usize = Receipt::LIMIT + 512;
/// The longest answer in bytes: an attestation, or an opening with a path of 8 digests. A longer one is refused unread.
pub const MAX_RESPONSE: usize = 4096;
/// The longest path of an opening: a trace has at most 256 entries.
pub const MAX_PATH: usize = 8;
/// The longest reason in bytes; it is cut.
pub const MAX_REASON: usize = 512;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// "Check this receipt of mine and attest it." A signed [`Receipt`], sent by its signer.
    Receipt(Signed),
    /// "Open one state of the trace that you committed to."
    Challenge {
        /// Digest of the receipt's signed body.
        receipt: Digest,
        /// Which of the trace's entries, 0 for the round's start.
        index: u32,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The receipt holds at level L0. A signed [`crate::types::Attestation`].
    Verified(Signed),
    /// The state that was asked for.
    Opening(Opening),
    /// Neither.
    Refused(Refused),
}

/// One entry of a trace with its proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The state root.
    pub state_root: Digest,
    /// Siblings up to the trace root, lowest first; at most [`MAX_PATH`].
    pub path: Vec<Digest>,
    /// The checkpoint of that state; `None` for a state that this node has no checkpoint of, which is the round's start (anybody
    /// derives it) or one that an earlier holder kept.
    pub checkpoint: Option<ContentId>,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// True if it says nothing about the receipt: ask again later, or ask another node.
    pub retryable: bool,
    /// For people, at most [`MAX_REASON`] bytes.
    pub reason: String,
}

impl Refused {
    /// A refusal that is about this node and not about the receipt.
    pub fn later(reason: impl Into<String>) -> Self {
        Self { retryable: true, reason: reason.into() }.cut()
    }

    /// A refusal that every honest node would give.
    pub fn never(reason: impl Into<String>) -> Self {
        Self { retryable: false, reason: reason.into() }.cut()
    }

    /// Cuts the reason to [`MAX_REASON`] bytes at a character.
    #[must_use]
    pub fn cut(mut self) -> Self {
        let end = (0..=MAX_REASON.min(self.reason.len())).rev().find(|end| self.reason.is_char_boundary(*end));
        self.reason.truncate(end.unwrap_or(0));
        self
    }
}

impl From<&super::Refusal> for Refused {
    /// With the causes, innermost last.
    fn from(refusal: &super::Refusal) -> Self {
        Self { retryable: refusal.is_retryable(), reason: types::words(refusal) }.cut()
    }
}

cbor_message!(Request, MAX_REQUEST);

impl Message for Response {
    const LIMIT: usize = MAX_RESPONSE;

    fn encode(self) -> Vec<Bytes> {
        vec![codec::encode(&self).into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(match codec::decode(&bytes, MAX_RESPONSE)? {
            Self::Refused(refused) => Self::Refused(refused.cut()),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::Keypair;

    #[test]
    fn messages_read_back() {
        let signed = Keypair::from_secret(&[1; 32]).seal(&crate::types::Attestation {
            receipt: Digest([1; 32]),
            verifier: Keypair::from_secret(&[1; 32]).node_key(),
            timestamp: crate::types::Time(7),
        });
        let requests = [Request::Receipt(signed.clone()), Request::Challenge { receipt: Digest([2; 32]), index: 3 }];
        for request in requests {
            assert_eq!(Request::decode(request.clone().encode().concat().into()).unwrap(), request);
        }
        let opening = Opening { state_root: Digest([3; 32]), path: vec![Digest([4; 32]); MAX_PATH], checkpoint: None };
        for response in
            [Response::Verified(signed), Response::Opening(opening), Response::Refused(Refused::later("busy"))]
        {
            assert_eq!(Response::decode(response.clone().encode().concat().into()).unwrap(), response);
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let refused = Refused::never("ü".repeat(400));
        assert_eq!(refused.reason.len(), MAX_REASON);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::decode(bytes.into());
        }
    }
}
