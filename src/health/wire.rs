//! The messages of `/atlas/health/1`. See `protocols/health.md`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    codec,
    protocol::{DecodeError, Message},
    types::{NodeKey, Signed},
};

/// The protocol id.
pub const PROTOCOL: &str = "/atlas/health/1";
/// The most bytes of payload in one message of the speed test: a stranger can make this node hold so much for a
/// stream. Longer ones are refused before they are read.
pub const MAX_PIECE: usize = 1024 * 1024;
/// The longest message in bytes: a piece with its head.
pub const MAX_MESSAGE: usize = MAX_PIECE + 1024;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A signed [`crate::types::Beat`] of the sender. Answer: [`Response::Noted`] or [`Response::Refused`].
    Beat(Signed),
    /// "Are you there?" Answer: [`Response::Alive`].
    Probe,
    /// "Ask this node for me whether it is there." Answer: [`Response::Alive`] or [`Response::NotReached`].
    ProbeFor {
        /// The suspected node.
        node: NodeKey,
    },
    /// For the round trip. Answer: [`Response::Pong`].
    Ping {
        /// Repeated by the answer.
        nonce: u64,
    },
    /// For the speed towards the sender. Answer: [`Response::Data`] or [`Response::Busy`].
    Download {
        /// How many bytes, at most [`MAX_PIECE`].
        bytes: u32,
    },
    /// For the speed from the sender: at most [`MAX_PIECE`] bytes of no meaning. Answer: [`Response::Received`].
    Upload(ByteBuf),
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The beat counts.
    Noted,
    /// The beat does not count.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The node is there.
    Alive {
        /// The sequence of its last beat; 0 if it has not beaten yet.
        sequence: u64,
        /// Whether the node that asks (or for which another asks) is one that it sends beats to. One that is
        /// not, but waits for beats, stops waiting. Always true through another node.
        watched: bool,
    },
    /// The suspected node did not answer the one that asked for another.
    NotReached,
    /// The round trip is done.
    Pong {
        /// As in the request.
        nonce: u64,
    },
    /// As many bytes as were asked for, of no meaning.
    Data(ByteBuf),
    /// The upload is here.
    Received {
        /// Its length.
        bytes: u32,
    },
    /// More was asked for than this node spends on others' measurements; later perhaps.
    Busy,
}

impl Message for Request {
    const LIMIT: usize = MAX_MESSAGE;

    fn encode(self) -> Vec<Bytes> {
        vec![codec::encode(&self).into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(codec::decode(&bytes, Self::LIMIT)?)
    }
}

impl Message for Response {
    const LIMIT: usize = MAX_MESSAGE;

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

    proptest! {
        #[test]
        fn bytes_of_a_stranger_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::decode(bytes.into());
        }

        #[test]
        fn a_damaged_message_is_read_or_refused_and_damage_to_its_content_shows(at in 0_usize..50, flip in 1_u8..) {
            let request = Request::ProbeFor { node: NodeKey([7; 32]) };
            let mut bytes = request.clone().encode().concat();
            let content = bytes.len() - 32;
            bytes[at] ^= flip;
            let read = Request::decode(bytes.into()).ok();
            prop_assert!(at < content || read.is_some_and(|read| read != request));
        }
    }

    #[test]
    fn a_choice_written_as_an_array_is_read_too() {
        // CBOR as we read it is not canonical: nothing may take the bytes of an unsigned message for its identity.
        let mut bytes = Request::Ping { nonce: 7 }.encode().concat();
        assert_eq!(bytes[0], 0xa1, "a map of one entry");
        bytes[0] = 0x82;
        assert_eq!(Request::decode(bytes.into()).unwrap(), Request::Ping { nonce: 7 });
    }

    #[test]
    fn every_message_reads_back_as_it_was() {
        for request in [
            Request::Probe,
            Request::ProbeFor { node: NodeKey([1; 32]) },
            Request::Ping { nonce: u64::MAX },
            Request::Download { bytes: 5 },
            Request::Upload(ByteBuf::from(vec![9; 300])),
        ] {
            assert_eq!(Request::decode(request.clone().encode().concat().into()).unwrap(), request);
        }
        for response in [
            Response::Noted,
            Response::Refused { reason: "no".into() },
            Response::Alive { sequence: 7, watched: false },
            Response::NotReached,
            Response::Data(ByteBuf::from(vec![9; 300])),
            Response::Busy,
        ] {
            assert_eq!(Response::decode(response.clone().encode().concat().into()).unwrap(), response);
        }
    }

    #[test]
    fn the_largest_piece_fits_a_message() {
        let full = Request::Upload(ByteBuf::from(vec![0; MAX_PIECE])).encode().concat();
        assert!(full.len() <= Request::LIMIT);
        let full = Response::Data(ByteBuf::from(vec![0; MAX_PIECE])).encode().concat();
        assert!(full.len() <= Response::LIMIT);
    }
}
