//! Messages of `/atlas/shard/1`: numbers are big-endian, a CID is one length byte and its binary form.
//!
//! The encoding is its own because blocks travel in it: a header names what follows, then come the blocks as they
//! lie in memory, so that a block is copied neither on the way out nor on the way in. Every count and length is
//! checked before anything is taken.
//!
//! ```text
//! request   = 01 budget:u32 count:u8 cid*count          Get
//!           | 02 count:u8 cid*count                     Have
//!           | 03 size:u64 cid                           Hold
//!           | 04 cid                                    Held
//! response  = 01 count:u8 (state:u8 length:u32)*count block*   Blocks; state 0 missing, 1 present, 2 omitted
//!           | 02 count:u8 (0|1)*count                   Have
//!           | 03                                        Accepted
//!           | 04 reason:u8                              Refused
//!           | 05                                        Noted
//! cid       = length:u8 bytes*length
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    protocol::{DecodeError, Message},
    store::dag_pb::MAX_BLOCK_BYTES,
    types::ContentId,
};

/// Blocks asked for in one request. More would make one lost answer dear; small blocks go four at a time.
pub const MAX_GET: usize = 4;
/// CIDs in one `Have`.
pub const MAX_HAVE: usize = 64;
/// Bytes of blocks in one answer. Holds two blocks of the largest size.
pub const MAX_ANSWER_BYTES: usize = 2 * MAX_BLOCK_BYTES;
/// Bytes of a binary CID: version, codec, hash code and length take at most 10 each, the hash at most 64.
const MAX_CID_BYTES: usize = 104;

/// What one peer asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// "Give me these blocks."
    Get {
        /// 1 to [`MAX_GET`] blocks.
        cids: Vec<ContentId>,
        /// Bytes of blocks wanted at most; blocks over it are left out. The first is given if it is here at all.
        budget: u32,
    },
    /// "Which of these do you have?"
    Have {
        /// 1 to [`MAX_HAVE`] blocks.
        cids: Vec<ContentId>,
    },
    /// "Please fetch this DAG from me and keep it, and tell me with [`Request::Held`] when it is on your disk."
    Hold {
        /// The root.
        root: ContentId,
        /// Bytes of the files in it.
        size: u64,
    },
    /// "What you asked me to hold is on my disk."
    Held {
        /// The root.
        root: ContentId,
    },
}

/// One block of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// Not here.
    Missing,
    /// Here it is. Not yet verified.
    Present(Bytes),
    /// Here, but over the budget: ask again.
    Omitted,
}

impl Slot {
    /// Bytes of the block in it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Present(block) => block.len(),
            Self::Missing | Self::Omitted => 0,
        }
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Too many requests wait; later it may go.
    #[error("the peer is busy")]
    Busy,
    /// The space set aside for others is used up.
    #[error("the peer has no room set aside for it")]
    NoRoom,
    /// The asker once sent bytes that did not match their name.
    #[error("the peer does not trust this node")]
    Banned,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Get`: one slot for each block asked for, in order.
    Blocks(Vec<Slot>),
    /// To `Have`: one for each, in order.
    Have(Vec<bool>),
    /// To `Hold`.
    Accepted,
    /// To anything.
    Refused(Refusal),
    /// To `Held`.
    Noted,
}

impl Message for Request {
    const LIMIT: usize = 8 + MAX_HAVE * (1 + MAX_CID_BYTES);

    fn encode(self) -> Vec<Bytes> {
        let mut out = BytesMut::new();
        match &self {
            Self::Get { cids, budget } => {
                out.put_u8(1);
                out.put_u32(*budget);
                put_cids(&mut out, cids);
            }
            Self::Have { cids } => {
                out.put_u8(2);
                put_cids(&mut out, cids);
            }
            Self::Hold { root, size } => {
                out.put_u8(3);
                out.put_u64(*size);
                put_cid(&mut out, root);
            }
            Self::Held { root } => {
                out.put_u8(4);
                put_cid(&mut out, root);
            }
        }
        vec![out.freeze()]
    }

    fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let request = match take_u8(&mut bytes)? {
            1 => {
                let budget = bytes.try_get_u32().map_err(|_| cut())?;
                Self::Get { cids: take_cids(&mut bytes, MAX_GET)?, budget }
            }
            2 => Self::Have { cids: take_cids(&mut bytes, MAX_HAVE)? },
            3 => {
                let size = bytes.try_get_u64().map_err(|_| cut())?;
                Self::Hold { root: take_cid(&mut bytes)?, size }
            }
            4 => Self::Held { root: take_cid(&mut bytes)? },
            other => return Err(DecodeError::unknown(format!("{other} is no kind of request"))),
        };
        at_end(&bytes, request)
    }
}

impl Message for Response {
    const LIMIT: usize = 2 + MAX_GET * 5 + MAX_ANSWER_BYTES;
    /// Where the block of an answer of one block begins.
    const ALIGNED_AT: usize = 2 + 5;

    fn encode(self) -> Vec<Bytes> {
        let mut head = BytesMut::new();
        let mut segments = vec![];
        match self {
            Self::Blocks(slots) => {
                head.put_u8(1);
                head.put_u8(count(slots.len()));
                for slot in slots {
                    let (state, block) = match slot {
                        Slot::Missing => (0, Bytes::new()),
                        Slot::Present(block) => (1, block),
                        Slot::Omitted => (2, Bytes::new()),
                    };
                    head.put_u8(state);
                    head.put_u32(u32::try_from(block.len()).expect("a block is at most 2 MiB"));
                    segments.push(block);
                }
            }
            Self::Have(bits) => {
                head.put_u8(2);
                head.put_u8(count(bits.len()));
                head.extend(bits.into_iter().map(u8::from));
            }
            Self::Accepted => head.put_u8(3),
            Self::Refused(refusal) => {
                head.put_u8(4);
                head.put_u8(refusal_code(refusal));
            }
            Self::Noted => head.put_u8(5),
        }
        segments.insert(0, head.freeze());
        segments
    }

    fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        let response = match take_u8(&mut bytes)? {
            1 => Self::Blocks(take_slots(&mut bytes)?),
            2 => Self::Have(take_bits(&mut bytes)?),
            3 => Self::Accepted,
            4 => Self::Refused(refusal(take_u8(&mut bytes)?)?),
            5 => Self::Noted,
            other => return Err(DecodeError::unknown(format!("{other} is no kind of response"))),
        };
        at_end(&bytes, response)
    }
}

fn refusal_code(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Busy => 0,
        Refusal::NoRoom => 1,
        Refusal::Banned => 2,
    }
}

fn refusal(code: u8) -> Result<Refusal, DecodeError> {
    match code {
        0 => Ok(Refusal::Busy),
        1 => Ok(Refusal::NoRoom),
        2 => Ok(Refusal::Banned),
        other => Err(DecodeError::unknown(format!("{other} is no reason to refuse"))),
    }
}

fn take_slots(bytes: &mut Bytes) -> Result<Vec<Slot>, DecodeError> {
    let count = take_count(bytes, MAX_GET)?;
    let mut heads = Vec::with_capacity(count);
    for _ in 0..count {
        let state = take_u8(bytes)?;
        let length = bytes.try_get_u32().map_err(|_| cut())? as usize;
        heads.push((state, length));
    }
    heads.into_iter().map(|(state, length)| take_slot(bytes, state, length)).collect()
}

fn take_slot(bytes: &mut Bytes, state: u8, length: usize) -> Result<Slot, DecodeError> {
    match (state, length) {
        (0, 0) => Ok(Slot::Missing),
        (2, 0) => Ok(Slot::Omitted),
        (1, length) if length > MAX_BLOCK_BYTES => Err(error(format!("a block of {length} bytes is too large"))),
        (1, length) if length > bytes.len() => Err(cut()),
        (1, length) => Ok(Slot::Present(bytes.split_to(length))),
        _ => Err(error(format!("a block of state {state} and {length} bytes makes no sense"))),
    }
}

fn take_bits(bytes: &mut Bytes) -> Result<Vec<bool>, DecodeError> {
    let count = take_count(bytes, MAX_HAVE)?;
    (0..count)
        .map(|_| match take_u8(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(error(format!("{other} is neither yes nor no"))),
        })
        .collect()
}

fn put_cids(out: &mut BytesMut, cids: &[ContentId]) {
    out.put_u8(count(cids.len()));
    for cid in cids {
        put_cid(out, cid);
    }
}

fn put_cid(out: &mut BytesMut, cid: &ContentId) {
    let bytes = cid.0.to_bytes();
    out.put_u8(count(bytes.len()));
    out.put_slice(&bytes);
}

fn count(length: usize) -> u8 {
    u8::try_from(length).expect("every list of the protocol has at most 255 entries")
}

fn take_cids(bytes: &mut Bytes, most: usize) -> Result<Vec<ContentId>, DecodeError> {
    let count = take_count(bytes, most)?;
    (0..count).map(|_| take_cid(bytes)).collect()
}

fn take_cid(bytes: &mut Bytes) -> Result<ContentId, DecodeError> {
    let length = usize::from(take_u8(bytes)?);
    if length > bytes.len() {
        return Err(cut());
    }
    ContentId::from_bytes(&bytes.split_to(length)).ok_or_else(|| error("not a CID".into()))
}

fn take_count(bytes: &mut Bytes, most: usize) -> Result<usize, DecodeError> {
    let count = usize::from(take_u8(bytes)?);
    if (1..=most).contains(&count) { Ok(count) } else { Err(error(format!("{count} entries, not 1 to {most}"))) }
}

fn take_u8(bytes: &mut Bytes) -> Result<u8, DecodeError> {
    bytes.try_get_u8().map_err(|_| cut())
}

fn at_end<T>(bytes: &Bytes, message: T) -> Result<T, DecodeError> {
    if bytes.is_empty() { Ok(message) } else { Err(error(format!("{} bytes after the end", bytes.len()))) }
}

fn cut() -> DecodeError {
    error("the message ends too early".into())
}

fn error(reason: String) -> DecodeError {
    DecodeError::malformed(reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::dag_pb::{RAW, content_id};

    fn joined(segments: Vec<Bytes>) -> Bytes {
        segments.concat().into()
    }

    fn cids(count: u8) -> Vec<ContentId> {
        (0..count).map(|number| content_id(RAW, &[number])).collect()
    }

    #[test]
    fn every_message_reads_back() {
        let requests = [
            Request::Get { cids: cids(4), budget: 77 },
            Request::Have { cids: cids(64) },
            Request::Hold { root: cids(1)[0], size: u64::MAX },
            Request::Held { root: cids(1)[0] },
        ];
        for request in requests {
            let bytes = joined(request.clone().encode());
            assert!(bytes.len() <= Request::LIMIT);
            assert_eq!(Request::decode(bytes).unwrap(), request);
        }
        let responses = [
            Response::Blocks(vec![Slot::Missing, Slot::Present(Bytes::from_static(b"block")), Slot::Omitted]),
            Response::Have(vec![true, false]),
            Response::Accepted,
            Response::Refused(Refusal::NoRoom),
            Response::Noted,
        ];
        for response in responses {
            assert_eq!(Response::decode(joined(response.clone().encode())).unwrap(), response);
        }
    }

    #[test]
    fn a_block_is_not_copied_on_its_way_out_or_in() {
        let block = Bytes::from(vec![7; 1000]);
        let segments = Response::Blocks(vec![Slot::Present(block.clone())]).encode();
        assert_eq!(segments[1].as_ptr(), block.as_ptr());
        let frame = joined(segments);
        let Response::Blocks(slots) = Response::decode(frame.clone()).unwrap() else { panic!("not blocks") };
        let Slot::Present(read) = &slots[0] else { panic!("not present") };
        assert!(frame.as_ptr_range().contains(&read.as_ptr()));
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        for bytes in [&[1, 0, 0, 0, 1, 0][..], &[1, 0, 0, 0, 1, 5], &[2, 65], &[3, 0], &[9], &[], &[4, 200, 1]] {
            assert!(Request::decode(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
        for bytes in [&[1, 1, 1, 0xff, 0xff, 0xff, 0xff][..], &[1, 1, 0, 0, 0, 0, 1], &[3, 0], &[4, 9], &[2, 1, 2]] {
            assert!(Response::decode(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Ok(request) = Request::decode(bytes.clone()) {
                prop_assert_eq!(&joined(request.encode()), &bytes);
            }
            if let Ok(response) = Response::decode(bytes.clone()) {
                prop_assert_eq!(&joined(response.encode()), &bytes);
            }
        }
    }
}
