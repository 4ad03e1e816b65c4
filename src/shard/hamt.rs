//! Sharded directories: a directory too large for one block, as a tree by the hash of the names. Pure.
//!
//! Source: specs.ipfs.tech, "UnixFS", `HAMTShard`, in the form that Kubo writes: 256 children a node, one byte of
//! the murmur3-x64-64 of the name a level, links named by that byte in hexadecimal and, at an entry, by its name.

use std::collections::BTreeMap;

use super::unixfs::{Error, Part};
use crate::store::{
    dag_pb::{self, DAG_PB, Link, Node},
    protobuf,
};

/// Children of a node.
pub(super) const FANOUT: u64 = 256;
/// Code of murmur3-x64-64 in the multicodec table.
pub(super) const MURMUR3: u64 = 0x22;
/// Characters of a link's name that are its place.
pub(super) const PREFIX: usize = 2;
/// Levels of a tree: the hash has no more bytes.
pub(super) const MAX_DEPTH: usize = 8;

/// The blocks of the tree, children before parents, and what a parent says of the root. Names must be distinct.
pub(super) fn encode(entries: Vec<(String, Part)>) -> Result<(Vec<Vec<u8>>, Part), Error> {
    let hashed = entries.into_iter().map(|(name, part)| (murmur3(name.as_bytes()).to_be_bytes(), name, part));
    let mut blocks = Vec::new();
    let root = encode_level(hashed.collect(), 0, &mut blocks)?;
    Ok((blocks, root))
}

type Hashed = ([u8; MAX_DEPTH], String, Part);

fn encode_level(entries: Vec<Hashed>, level: usize, blocks: &mut Vec<Vec<u8>>) -> Result<Part, Error> {
    if level == MAX_DEPTH {
        // Two names with one 64-bit hash: nobody can make a tree of them.
        return Err(Error::Sharded);
    }
    let mut places: BTreeMap<u8, Vec<Hashed>> = BTreeMap::new();
    for entry in entries {
        places.entry(entry.0[level]).or_default().push(entry);
    }
    let (mut links, mut size) = (Vec::with_capacity(places.len()), 0);
    let mut bits = [0_u8; 32];
    for (place, mut entries) in places {
        bits[31 - usize::from(place / 8)] |= 1 << (place % 8);
        let (name, part) = match (entries.len(), entries.pop()) {
            (1, Some((_, name, part))) => (name, part),
            (_, last) => {
                entries.extend(last);
                (String::new(), encode_level(entries, level + 1, blocks)?)
            }
        };
        size += part.size;
        links.push(Link { cid: part.cid, name: format!("{place:02X}{name}"), total_size: part.total_size });
    }
    let below: u64 = links.iter().map(|link| link.total_size).sum();
    let block = Node { links, data: encode_data(&bits) }.encode();
    let cid = dag_pb::content_id(DAG_PB, &block);
    let total_size = below + block.len() as u64;
    blocks.push(block);
    Ok(Part { cid, size, total_size })
}

/// The UnixFS message of a node whose places with a child are set in `bits`, the first in the last byte's lowest.
fn encode_data(bits: &[u8; 32]) -> Vec<u8> {
    let used = bits.iter().position(|byte| *byte != 0).unwrap_or(bits.len());
    let mut data = Vec::with_capacity(48);
    protobuf::write_varint_field(&mut data, 1, 5);
    protobuf::write_bytes_field(&mut data, 2, &bits[used..]);
    protobuf::write_varint_field(&mut data, 5, MURMUR3);
    protobuf::write_varint_field(&mut data, 6, FANOUT);
    data
}

/// The first half of MurmurHash3's 128-bit variant for 64-bit machines, seed 0 (Austin Appleby, public domain).
fn murmur3(bytes: &[u8]) -> u64 {
    let (mut h1, mut h2) = (0_u64, 0_u64);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        h1 ^= mix_first(word(&chunk[..8]));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix_second(word(&chunk[8..]));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let tail = chunks.remainder();
    let (first, second) = tail.split_at(tail.len().min(8));
    // A part without bytes mixes to zero.
    h2 ^= mix_second(word(second));
    h1 ^= mix_first(word(first));
    let length = bytes.len() as u64;
    (h1, h2) = (h1 ^ length, h2 ^ length);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    finish(h1).wrapping_add(finish(h2))
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Up to eight bytes, little-endian.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn mix_first(word: u64) -> u64 {
    word.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_second(word: u64) -> u64 {
    word.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut word: u64) -> u64 {
    word = (word ^ word >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    word = (word ^ word >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}
