//! The bytes between CometBFT and its application: ABCI 2.0 messages, each behind its length.
//!
//! A frame is the length of its message as an unsigned protobuf varint, then the message (CometBFT 0.38,
//! `libs/protoio`). Nothing here reads a socket: frames are taken off the front of what was received.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use tendermint_proto::v0_38::abci::{Request, Response, request, response};

/// The longest request in bytes. A block has at most [`super::MAX_BLOCK`], a genesis [`super::MAX_GENESIS`], a chunk
/// [`super::sync::CHUNK`]; twice the largest leaves room for what stands around it.
pub const MAX_REQUEST: usize = 32 * 1024 * 1024;
/// The longest varint of a length that could be allowed: five times seven bits.
const MAX_PREFIX: usize = 5;

/// Bytes that are no request.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_REQUEST`], or no length at all.
    #[error("a request of {length} bytes is over the limit of {MAX_REQUEST}; lower block.max_bytes of the chain")]
    TooLong {
        /// What it claims.
        length: u64,
    },
    /// Not protobuf.
    #[error("a request that is no ABCI message")]
    Decode(#[from] prost::DecodeError),
    /// A message of a later ABCI.
    #[error("a request that ABCI 2.0 does not have; this program serves CometBFT 0.38")]
    Unknown,
}

/// Takes the first request off the front of `received`; `None` while it is not whole. Requests that come before an
/// error are given before it.
pub fn take_request(received: &mut BytesMut) -> Result<Option<request::Value>, WireError> {
    let Some((length, prefix)) = read_length(received)? else {
        return Ok(None);
    };
    if received.len() < prefix + length {
        return Ok(None);
    }
    received.advance(prefix);
    let message: Bytes = received.split_to(length).freeze();
    Request::decode(message)?.value.ok_or(WireError::Unknown).map(Some)
}

/// The message's length and that of the varint before it; `None` while the varint is not whole.
fn read_length(received: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut length = 0_u64;
    for (place, byte) in received.iter().take(MAX_PREFIX).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_REQUEST);
            return fits.map(|length| Some((length, place + 1))).ok_or(WireError::TooLong { length });
        }
    }
    if received.len() < MAX_PREFIX { Ok(None) } else { Err(WireError::TooLong { length }) }
}

/// Puts a response behind what `out` has.
pub fn put_response(out: &mut Vec<u8>, response: response::Value) {
    let response = Response { value: Some(response) };
    out.reserve(response.encoded_len() + MAX_PREFIX);
    response.encode_length_delimited(out).expect("a vector grows");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tendermint_proto::v0_38::abci::{RequestCheckTx, RequestEcho};

    use super::*;

    fn frame(value: request::Value) -> Vec<u8> {
        Request { value: Some(value) }.encode_length_delimited_to_vec()
    }

    fn echo(length: usize) -> request::Value {
        request::Value::Echo(RequestEcho { message: "a".repeat(length) })
    }

    #[test]
    fn requests_come_off_the_front_in_order_however_they_are_cut() {
        let wanted =
            [echo(3), echo(300), request::Value::CheckTx(RequestCheckTx { tx: Bytes::from_static(b"x"), r#type: 0 })];
        let bytes: Vec<u8> = wanted.iter().cloned().flat_map(frame).collect();
        for size in [1, 2, 7, 1000] {
            let (mut received, mut found) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(size) {
                received.extend_from_slice(part);
                while let Some(request) = take_request(&mut received).unwrap() {
                    found.push(request);
                }
            }
            assert_eq!(found, wanted);
            assert!(received.is_empty());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        for prefix in [&[0xff, 0xff, 0xff, 0xff, 0x7f][..], &[0xff; 5], &[0xff; 20], &[0x81, 0x80, 0x80, 0x10]] {
            let error = take_request(&mut BytesMut::from(prefix)).unwrap_err();
            assert!(error.to_string().contains("over the limit"), "{error}");
        }
        assert!(take_request(&mut BytesMut::from(&[0xff; 4][..])).unwrap().is_none(), "the length is not whole");
    }

    #[test]
    fn what_is_no_request_says_so() {
        assert!(matches!(take_request(&mut BytesMut::from(&[0][..])), Err(WireError::Unknown)));
        // Field 99, which no request has.
        assert!(matches!(take_request(&mut BytesMut::from(&[4, 0x9a, 0x06, 1, 0][..])), Err(WireError::Unknown)));
        assert!(matches!(take_request(&mut BytesMut::from(&[2, 0x0a, 0x7f][..])), Err(WireError::Decode(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_requests_or_an_error_and_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut received = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take_request(&mut received) {}
        }
    }
}
