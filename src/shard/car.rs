//! CARv1: a stream of blocks behind a header that names roots, as `ipfs dag export` writes and `ipfs dag import`
//! reads. Pure but for the stream that it reads from.
//!
//! Source: ipld.io, "CARv1". `varint(length) header`, then for each block `varint(length) cid bytes`.

use std::io::{self, Read};

use bytes::Bytes;
use cid::Cid;
use serde::Deserialize;
use serde_bytes::ByteBuf;

use crate::{
    codec,
    store::{
        dag_pb::MAX_BLOCK_BYTES,
        protobuf::{read_varint, write_varint},
    },
    types::ContentId,
};

/// Bytes of a header: about 1,500 roots.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// Bytes of a CID and its block.
const MAX_SECTION_BYTES: usize = MAX_BLOCK_BYTES + 104;

/// Why a stream is no CAR that this node reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed.
    #[error("the CAR stream could not be read")]
    Io(#[from] io::Error),
    /// It ends in the middle.
    #[error("the CAR stream ends in the middle of a block")]
    Cut,
    /// The header is none.
    #[error("this is not a CAR file; `ipfs dag export CID` makes one")]
    Header(#[source] codec::Error),
    /// Another version.
    #[error("CAR version {0} is not supported; export as CARv1 (`ipfs dag export CID`)")]
    Version(u64),
    /// A length over the limit, or a broken varint.
    #[error("a length in the CAR stream is broken or over the limit")]
    Length,
    /// A block without a valid CID before it.
    #[error("a block in the CAR stream has no valid CID")]
    Cid,
}

/// The header of a stream with one root.
pub fn header(root: &ContentId) -> Vec<u8> {
    let cid = root.0.to_bytes();
    // DAG-CBOR by hand: {"roots": [42(h'00' ‖ cid)], "version": 1}.
    let mut cbor = b"\xa2\x65roots\x81\xd8\x2a\x58".to_vec();
    cbor.push(u8::try_from(cid.len() + 1).expect("a binary CID has at most 104 bytes"));
    cbor.push(0);
    cbor.extend_from_slice(&cid);
    cbor.extend_from_slice(b"\x67version\x01");
    let mut out = Vec::with_capacity(cbor.len() + 2);
    write_varint(&mut out, cbor.len() as u64);
    out.extend_from_slice(&cbor);
    out
}

/// What stands before a block of `length` bytes.
pub fn section_head(cid: &ContentId, length: usize) -> Vec<u8> {
    let cid = cid.0.to_bytes();
    let mut out = Vec::with_capacity(cid.len() + 4);
    write_varint(&mut out, (cid.len() + length) as u64);
    out.extend_from_slice(&cid);
    out
}

#[derive(Deserialize)]
struct Header {
    version: u64,
    #[serde(default)]
    roots: Vec<ByteBuf>,
}

/// Reads a stream, one block at a time. The blocks are not verified.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    roots: Vec<ContentId>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut stream: R) -> Result<Self, Error> {
        let bytes = read_section(&mut stream, MAX_HEADER_BYTES)?.ok_or(Error::Cut)?;
        let header: Header = codec::decode(&bytes, MAX_HEADER_BYTES).map_err(Error::Header)?;
        if header.version != 1 {
            return Err(Error::Version(header.version));
        }
        let root = |bytes: &ByteBuf| {
            let cid = bytes.strip_prefix(&[0]).and_then(|bytes| Cid::try_from(bytes).ok());
            cid.map(ContentId).ok_or(Error::Cid)
        };
        let roots = header.roots.iter().map(root).collect::<Result<_, _>>()?;
        Ok(Self { stream, roots })
    }

    /// The roots that the header names.
    pub fn roots(&self) -> &[ContentId] {
        &self.roots
    }

    /// The next block under the name that the stream gives it; `None` at the end.
    pub fn next_block(&mut self) -> Result<Option<(ContentId, Bytes)>, Error> {
        let Some(section) = read_section(&mut self.stream, MAX_SECTION_BYTES)? else {
            return Ok(None);
        };
        let mut rest = &section[..];
        let cid = Cid::read_bytes(&mut rest).map_err(|_| Error::Cid)?;
        let start = section.len() - rest.len();
        Ok(Some((ContentId(cid), Bytes::from(section).slice(start..))))
    }
}

/// A length and as many bytes; `None` if the stream ends before it.
fn read_section(stream: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    let Some(length) = read_length(stream)? else {
        return Ok(None);
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(Error::Length)?;
    let mut section = Vec::new();
    stream.take(length as u64).read_to_end(&mut section)?;
    if section.len() == length { Ok(Some(section)) } else { Err(Error::Cut) }
}

fn read_length(stream: &mut impl Read) -> Result<Option<u64>, Error> {
    let mut bytes = Vec::with_capacity(10);
    loop {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(Error::Cut) };
        }
        bytes.push(byte[0]);
        if byte[0] & 0x80 == 0 {
            let (length, _) = read_varint(&bytes).map_err(|_| Error::Length)?;
            return Ok(Some(length));
        }
        if bytes.len() == 10 {
            return Err(Error::Length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::dag_pb::{RAW, content_id};

    fn stream(root: &ContentId, blocks: &[&[u8]]) -> Vec<u8> {
        let mut out = header(root);
        for block in blocks {
            out.extend(section_head(&content_id(RAW, block), block.len()));
            out.extend_from_slice(block);
        }
        out
    }

    #[test]
    fn what_is_written_reads_back() {
        let root = content_id(RAW, b"one");
        let bytes = stream(&root, &[b"one", b"", b"three"]);
        let mut reader = Reader::new(&bytes[..]).unwrap();
        assert_eq!(reader.roots(), [root]);
        for block in [&b"one"[..], b"", b"three"] {
            let (cid, bytes) = reader.next_block().unwrap().unwrap();
            assert_eq!((cid, &bytes[..]), (content_id(RAW, block), block));
        }
        assert!(reader.next_block().unwrap().is_none());
    }

    /// What Kubo 0.42 writes for `ipfs dag export` of a file that holds `hello`.
    #[test]
    fn kubo_writes_the_same_bytes() {
        let root = content_id(RAW, b"hello");
        assert_eq!(
            hex::encode(stream(&root, &[b"hello"])),
            "3aa265726f6f747381d82a582500015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b98246776657273696f6e0129015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b982468656c6c6f"
        );
    }

    #[test]
    fn a_stream_that_is_cut_or_foreign_is_an_error() {
        let bytes = stream(&content_id(RAW, b"one"), &[b"one"]);
        let start = header(&content_id(RAW, b"one")).len();
        for end in (0..start).chain(start + 1..bytes.len()) {
            let result = Reader::new(&bytes[..end]).and_then(|mut reader| reader.next_block().map(drop));
            assert!(result.is_err(), "cut at {end}");
        }
        assert!(matches!(Reader::new(&b"\x0a\xa1\x67version\x02"[..]), Err(Error::Version(2))));
        assert!(matches!(Reader::new(&[0xff; 20][..]), Err(Error::Length)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let joined = [header(&content_id(RAW, b"")), bytes.clone()].concat();
            let _ = Reader::new(&bytes[..]);
            let mut reader = Reader::new(&joined[..]).unwrap();
            while let Ok(Some(_)) = reader.next_block() {}
        }
    }
}
