//! Messages, in CBOR. The JSON inside is nobody's business here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    protocol::{DecodeError, Message},
    types::LedgerId,
};

/// The longest JSON-RPC request in bytes: a transaction of 512 KiB in base64 (the server's own limit).
pub const MAX_BODY: usize = 1024 * 1024;
/// The longest request: a body, the chain id (at most 50 bytes), and CBOR around them.
pub const MAX_REQUEST: usize = MAX_BODY + 1024;
/// The longest answer in bytes: a block of 4 MiB in base64 with the JSON around it. A longer one is refused.
pub const MAX_RESPONSE: usize = 8 * 1024 * 1024;

/// One JSON-RPC request to a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which ledger: a node may carry several.
    pub ledger: LedgerId,
    /// The JSON-RPC request.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The JSON-RPC answer, which may be a JSON-RPC error.
    Ok(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It never reached the ledger, or its answer does not come this way.
    Refused {
        /// Words, at most 200 characters.
        reason: String,
    },
}

impl Message for Request {
    const LIMIT: usize = MAX_REQUEST;

    fn encode(self) -> Vec<Bytes> {
        vec![codec::encode(&self).into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(codec::decode(&bytes, Self::LIMIT)?)
    }
}

impl Message for Response {
    const LIMIT: usize = MAX_RESPONSE;

    fn encode(self) -> Vec<Bytes> {
        vec![codec::encode(&self).into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(codec::decode(&bytes, Self::LIMIT)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip<M: Message + Clone + PartialEq>(message: &M) -> bool {
        M::decode(Bytes::from(message.clone().encode().concat())).is_ok_and(|read| read == *message)
    }

    proptest! {
        #[test]
        fn messages_read_back_and_garbage_is_an_error_at_most(
            ledger in "[a-z-]{1,50}", bytes in prop::collection::vec(any::<u8>(), 0..300), reason in ".{0,50}",
        ) {
            let request = Request { ledger, body: bytes.clone() };
            let refused = Response::Refused { reason };
            prop_assert!(round_trip(&request));
            prop_assert!(round_trip(&Response::Ok(bytes.clone())));
            prop_assert!(round_trip(&refused));
            let _ = Request::decode(Bytes::from(bytes.clone()));
            let _ = Response::decode(Bytes::from(bytes));
        }
    }
}
