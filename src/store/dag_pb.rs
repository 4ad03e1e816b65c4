//! Content identifiers, and dag-pb: the node format that carries links between blocks.
//!
//! Source: ipld.io, "DAG-PB". What a node's data means is UnixFS's affair (`shard::unixfs`); here are only names
//! and links, which is all that the block store needs to know which blocks a pinned root keeps alive.

use cid::{Cid, multihash::Multihash};
use sha2::{Digest as _, Sha256};

use super::protobuf::{self, Reader, Value};
use crate::types::ContentId;

/// Codec of a block that is bytes and nothing else.
pub const RAW: u64 = 0x55;
/// Codec of a dag-pb node.
pub const DAG_PB: u64 = 0x70;
/// Multihash code of SHA-256.
pub const SHA2_256: u64 = 0x12;
/// Multihash code of "the bytes themselves".
pub const IDENTITY: u64 = 0x00;

/// Largest block in bytes, as everywhere in IPFS: larger ones are refused by its peers too.
pub const MAX_BLOCK_BYTES: usize = 2 * 1024 * 1024;

const LINKS: u64 = 2;
const DATA: u64 = 1;
const LINK_HASH: u64 = 1;
const LINK_NAME: u64 = 2;
const LINK_TSIZE: u64 = 3;

/// Why a block is no dag-pb node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not protobuf.
    #[error("the node is not protobuf")]
    Protobuf(#[from] protobuf::Error),
    /// A field that dag-pb does not have, twice what it has once, or links after data after links.
    #[error("the node has a field where dag-pb has none")]
    Field,
    /// A link without a CID, or with bytes that are none.
    #[error("a link of the node has no valid CID")]
    Link,
    /// A link name that is not UTF-8.
    #[error("a link of the node has a name that is not UTF-8")]
    Name,
    /// A codec whose links this node can't read.
    #[error("blocks of codec 0x{0:x} are not supported; use raw or dag-pb (UnixFS)")]
    Codec(u64),
}

/// A link to another block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The block.
    pub cid: ContentId,
    /// The entry's name in a directory; empty in a file.
    pub name: String,
    /// Bytes of all blocks below, counted with repetition. Told by the writer, not verified.
    pub total_size: u64,
}

/// A dag-pb node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Links, in order.
    pub links: Vec<Link>,
    /// What the layer above put there.
    pub data: Vec<u8>,
}

impl Node {
    /// The canonical encoding: links, then data.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 56 * self.links.len() + 8);
        let mut inner = Vec::with_capacity(64);
        for link in &self.links {
            inner.clear();
            protobuf::write_bytes_field(&mut inner, LINK_HASH, &link.cid.0.to_bytes());
            // An empty name is written too: Kubo does, and the CID depends on it.
            protobuf::write_bytes_field(&mut inner, LINK_NAME, link.name.as_bytes());
            protobuf::write_varint_field(&mut inner, LINK_TSIZE, link.total_size);
            protobuf::write_bytes_field(&mut out, LINKS, &inner);
        }
        protobuf::write_bytes_field(&mut out, DATA, &self.data);
        out
    }

    /// Reads a node; unknown fields are an error, as dag-pb demands.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut node = Self::default();
        let mut data = None;
        let mut links_closed = false;
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field {
                (LINKS, Value::Bytes(link)) if !links_closed => node.links.push(decode_link(link)?),
                (DATA, Value::Bytes(value)) if data.is_none() => {
                    links_closed = !node.links.is_empty();
                    data = Some(value.to_vec());
                }
                _ => return Err(Error::Field),
            }
        }
        node.data = data.unwrap_or_default();
        Ok(node)
    }
}

fn decode_link(bytes: &[u8]) -> Result<Link, Error> {
    let (mut cid, mut name, mut total_size) = (None, None, None);
    let mut reader = Reader::new(bytes);
    while let Some(field) = reader.next_field()? {
        match field {
            (LINK_HASH, Value::Bytes(hash)) if cid.is_none() => cid = Some(hash),
            (LINK_NAME, Value::Bytes(text)) if name.is_none() => name = Some(text),
            (LINK_TSIZE, Value::Varint(size)) if total_size.is_none() => total_size = Some(size),
            _ => return Err(Error::Field),
        }
    }
    let cid = ContentId::from_bytes(cid.ok_or(Error::Link)?).ok_or(Error::Link)?;
    let name = String::from_utf8(name.unwrap_or_default().to_vec()).map_err(|_| Error::Name)?;
    Ok(Link { cid, name, total_size: total_size.unwrap_or(0) })
}

/// The CIDs that the block `bytes` named `cid` links to, in order; none for a raw block.
pub fn links(cid: &ContentId, bytes: &[u8]) -> Result<Vec<ContentId>, Error> {
    match cid.0.codec() {
        RAW => Ok(Vec::new()),
        DAG_PB => Ok(Node::decode(bytes)?.links.into_iter().map(|link| link.cid).collect()),
        other => Err(Error::Codec(other)),
    }
}

/// The CIDv1 of `bytes` under `codec`, with SHA-256.
pub fn content_id(codec: u64, bytes: &[u8]) -> ContentId {
    from_digest(codec, &Sha256::digest(bytes).into())
}

/// The CIDv1 with this SHA-256 digest.
///
/// # Panics
/// Never: a multihash has room for 64 bytes.
pub fn from_digest(codec: u64, digest: &[u8; 32]) -> ContentId {
    let hash = Multihash::wrap(SHA2_256, digest).expect("32 bytes fit a multihash of 64");
    ContentId(Cid::new_v1(codec, hash))
}

/// What a CID says of its block without the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// The block has this SHA-256 digest.
    Sha256([u8; 32]),
    /// The block is these bytes.
    Inline(&'a [u8]),
    /// A hash function that this node does not use.
    Unsupported,
}

/// How `cid` names its block.
pub fn named(cid: &ContentId) -> Named<'_> {
    let hash = cid.0.hash();
    match hash.code() {
        SHA2_256 => hash.digest().try_into().map_or(Named::Unsupported, Named::Sha256),
        IDENTITY => Named::Inline(hash.digest()),
        _ => Named::Unsupported,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn well_known_names_are_reproduced() {
        assert_eq!(content_id(RAW, b"").to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        let empty_directory = Node { links: Vec::new(), data: vec![8, 1] };
        assert_eq!(
            content_id(DAG_PB, &empty_directory.encode()).to_string(),
            "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
        );
    }

    #[test]
    fn links_on_both_sides_of_the_data_are_refused() {
        let link = Link { cid: content_id(RAW, b"a"), name: String::new(), total_size: 1 };
        let bytes = Node { links: vec![link], data: vec![8, 1] }.encode();
        let split = bytes.len() - 4;
        assert_eq!(Node::decode(&[&bytes[..], &bytes[..split]].concat()), Err(Error::Field));
        assert!(Node::decode(&[&bytes[split..], &bytes[..split]].concat()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_in_words(bytes: Vec<u8>) {
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(Node::decode(&node.encode()), Ok(node));
            }
        }
    }
}
