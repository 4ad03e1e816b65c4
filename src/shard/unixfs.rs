//! UnixFS: files and directories as DAGs of blocks, in the shape that Kubo gives them. Pure.
//!
//! The shape is the profile `unixfs-v1-2025` (IPIP-499), which is `ipfs add --cid-version=1 --raw-leaves
//! --chunker=size-1048576` with 1,024 links a node: raw leaves, balanced trees, CIDv1. A file of one chunk is its
//! raw leaf. Source of the schema: specs.ipfs.tech, "UnixFS".

use super::hamt;
use crate::{
    store::{
        dag_pb::{self, DAG_PB, Link, Node as PbNode, RAW},
        protobuf::{self, Reader, Value},
    },
    types::ContentId,
};

/// Bytes of a chunk (`--chunker=size-1048576`).
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Children of a file node.
pub const MAX_LINKS: usize = 1024;
/// A directory whose block would be larger becomes a sharded one (`UnixFSHAMTDirectorySizeThreshold`, estimated by
/// block).
pub const MAX_DIRECTORY_BYTES: usize = 256 * 1024;
/// Levels of a file's tree. 1,024⁴ MiB is more than any disk; deeper trees are made to exhaust their reader.
pub const MAX_FILE_DEPTH: usize = 5;
/// Levels of directories within directories.
pub const MAX_DIRECTORY_DEPTH: usize = 64;

const TYPE: u64 = 1;
const DATA: u64 = 2;
const FILE_SIZE: u64 = 3;
const BLOCK_SIZES: u64 = 4;
const HASH_TYPE: u64 = 5;
const FANOUT: u64 = 6;
/// Mode and modification time: known, and without meaning here.
const IGNORED: std::ops::RangeInclusive<u64> = 7..=8;

const TYPE_RAW: u64 = 0;
const TYPE_DIRECTORY: u64 = 1;
const TYPE_FILE: u64 = 2;
const TYPE_SHARDED_DIRECTORY: u64 = 5;

/// Why a block is not a part of a file or directory that this node reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a dag-pb node.
    #[error(transparent)]
    Node(#[from] dag_pb::Error),
    /// The UnixFS message inside is not protobuf.
    #[error("the UnixFS data is not protobuf")]
    Protobuf(#[from] protobuf::Error),
    /// A field that UnixFS does not have, or without its type.
    #[error("the UnixFS data has a field where UnixFS has none, or no type")]
    Field,
    /// The sizes told do not fit each other or the links.
    #[error("the sizes in the UnixFS data do not fit together")]
    Sizes,
    /// A symbolic link or metadata node.
    #[error("UnixFS type {0} (symbolic link or metadata) is not supported")]
    Type(u64),
    /// A sharded directory of another form than Kubo's, or one that can't be.
    #[error("this sharded directory has another form than Kubo's; add it again with `ipfs add`")]
    Sharded,
    /// A name that is empty, `.`, `..`, or holds `/` or NUL.
    #[error("`{0}` can't be the name of a file")]
    Name(String),
    /// Two entries with one name, or out of order.
    #[error("the directory's entries are not in strict order of their names")]
    Order,
}

/// A part of a file: what a parent says of its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The child.
    pub cid: ContentId,
    /// Bytes of the file below it.
    pub size: u64,
    /// Bytes of the blocks below it, its own included.
    pub total_size: u64,
}

/// A block, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// Bytes of a file.
    Leaf(std::borrow::Cow<'a, [u8]>),
    /// A file in parts, in order. The sum of the parts' sizes is the file's.
    Branch {
        /// Bytes of the file.
        size: u64,
        /// The parts.
        parts: Vec<Part>,
    },
    /// Entries in strict order of their names, each a valid name.
    Directory(Vec<Link>),
    /// A node of a sharded directory: some of its entries, and further nodes.
    Shard {
        /// Entries, each with a valid name; in no order, and their names may collide with those of other nodes.
        entries: Vec<Link>,
        /// Nodes below.
        nodes: Vec<ContentId>,
    },
}

/// Reads the block `bytes` named `cid`.
pub fn decode<'a>(cid: &ContentId, bytes: &'a [u8]) -> Result<Node<'a>, Error> {
    match cid.0.codec() {
        RAW => Ok(Node::Leaf(bytes.into())),
        DAG_PB => decode_node(PbNode::decode(bytes)?),
        other => Err(dag_pb::Error::Codec(other).into()),
    }
}

fn decode_node(node: PbNode) -> Result<Node<'static>, Error> {
    let data = Data::decode(&node.data)?;
    match data.kind {
        TYPE_FILE | TYPE_RAW => decode_file(node.links, data),
        TYPE_DIRECTORY => decode_directory(node.links),
        TYPE_SHARDED_DIRECTORY => decode_shard(node.links, &data),
        other => Err(Error::Type(other)),
    }
}

fn decode_file(links: Vec<Link>, data: Data) -> Result<Node<'static>, Error> {
    if links.is_empty() {
        let told = data.file_size.unwrap_or(data.bytes.len() as u64);
        return if told == data.bytes.len() as u64 { Ok(Node::Leaf(data.bytes.into())) } else { Err(Error::Sizes) };
    }
    let sum = data.block_sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size)).ok_or(Error::Sizes)?;
    // Parts without bytes would let few blocks describe endless work.
    let empty_part = data.block_sizes.contains(&0);
    if empty_part || !data.bytes.is_empty() || links.len() != data.block_sizes.len() || data.file_size != Some(sum) {
        return Err(Error::Sizes);
    }
    let part = |(link, size): (Link, u64)| Part { cid: link.cid, size, total_size: link.total_size };
    Ok(Node::Branch { size: sum, parts: links.into_iter().zip(data.block_sizes).map(part).collect() })
}

fn decode_directory(links: Vec<Link>) -> Result<Node<'static>, Error> {
    for link in &links {
        check_name(&link.name)?;
    }
    // Every writer sorts; who doesn't could hide a second entry behind a first of the same name.
    if links.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Err(Error::Order);
    }
    Ok(Node::Directory(links))
}

fn decode_shard(links: Vec<Link>, data: &Data) -> Result<Node<'static>, Error> {
    if (data.hash_type, data.fanout) != (Some(hamt::MURMUR3), Some(hamt::FANOUT)) {
        return Err(Error::Sharded);
    }
    let (mut entries, mut nodes) = (Vec::new(), Vec::new());
    for mut link in links {
        let (_, name) = link.name.split_at_checked(hamt::PREFIX).ok_or(Error::Sharded)?;
        if name.is_empty() {
            nodes.push(link.cid);
            continue;
        }
        check_name(name)?;
        link.name = name.to_owned();
        entries.push(link);
    }
    Ok(Node::Shard { entries, nodes })
}

/// Puts the entries of all nodes of a sharded directory in order; no name may occur twice.
pub fn join_shards(mut entries: Vec<Link>) -> Result<Vec<Link>, Error> {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if entries.windows(2).any(|pair| pair[0].name == pair[1].name) {
        return Err(Error::Order);
    }
    Ok(entries)
}

/// Refuses names that could leave the directory they are in.
pub fn check_name(name: &str) -> Result<(), Error> {
    let bad = name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']);
    if bad { Err(Error::Name(name.chars().take(80).collect())) } else { Ok(()) }
}

/// The blocks of a directory with these entries, in any order, and what a parent says of it. It is one block, or, if
/// that would be over [`MAX_DIRECTORY_BYTES`], the blocks of a sharded directory.
pub fn encode_directory(mut entries: Vec<(String, Part)>) -> Result<(Vec<Vec<u8>>, Part), Error> {
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, _) in &entries {
        check_name(name)?;
    }
    if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::Order);
    }
    let below: u64 = entries.iter().map(|(_, part)| part.total_size).sum();
    let size = entries.iter().map(|(_, part)| part.size).sum();
    let link = |(name, part): &(String, Part)| Link { cid: part.cid, name: name.clone(), total_size: part.total_size };
    let mut data = Vec::new();
    protobuf::write_varint_field(&mut data, TYPE, TYPE_DIRECTORY);
    let block = PbNode { links: entries.iter().map(link).collect(), data }.encode();
    if block.len() > MAX_DIRECTORY_BYTES {
        return hamt::encode(entries);
    }
    let total_size = below + block.len() as u64;
    let cid = dag_pb::content_id(DAG_PB, &block);
    Ok((vec![block], Part { cid, size, total_size }))
}

/// Grows the balanced tree over the leaves of one file, in order, holding at most [`MAX_LINKS`] parts a level.
#[derive(Debug, Default)]
pub struct FileBuilder {
    /// Level 0 holds leaves; a level is sealed into a node of the next when one more part arrives than fits.
    levels: Vec<Vec<Part>>,
}

impl FileBuilder {
    /// Adds the next leaf; `put` keeps each node that is complete.
    pub fn push<E>(&mut self, leaf: Part, put: &mut impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.add(0, leaf, put)
    }

    /// Closes the tree. `None` if there was no leaf: an empty file is one empty leaf, which the caller pushes.
    pub fn finish<E>(mut self, put: &mut impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<Option<Part>, E> {
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            if top && self.levels[level].len() <= 1 {
                return Ok(self.levels[level].pop());
            }
            self.seal(level, put)?;
            level += 1;
        }
        Ok(None)
    }

    fn add<E>(&mut self, level: usize, part: Part, put: &mut impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == MAX_LINKS {
            self.seal(level, put)?;
        }
        self.levels[level].push(part);
        Ok(())
    }

    fn seal<E>(&mut self, level: usize, put: &mut impl FnMut(Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let parts = std::mem::take(&mut self.levels[level]);
        let (block, part) = encode_branch(&parts);
        put(block)?;
        self.add(level + 1, part, put)
    }
}

fn encode_branch(parts: &[Part]) -> (Vec<u8>, Part) {
    let size = parts.iter().map(|part| part.size).sum();
    let mut data = Vec::with_capacity(16 + 6 * parts.len());
    protobuf::write_varint_field(&mut data, TYPE, TYPE_FILE);
    protobuf::write_varint_field(&mut data, FILE_SIZE, size);
    for part in parts {
        protobuf::write_varint_field(&mut data, BLOCK_SIZES, part.size);
    }
    let link = |part: &Part| Link { cid: part.cid, name: String::new(), total_size: part.total_size };
    let block = PbNode { links: parts.iter().map(link).collect(), data }.encode();
    let total_size = parts.iter().map(|part| part.total_size).sum::<u64>() + block.len() as u64;
    let cid = dag_pb::content_id(DAG_PB, &block);
    (block, Part { cid, size, total_size })
}

/// The message inside a node's data.
#[derive(Debug, Default)]
struct Data {
    kind: u64,
    bytes: Vec<u8>,
    file_size: Option<u64>,
    block_sizes: Vec<u64>,
    hash_type: Option<u64>,
    fanout: Option<u64>,
}

impl Data {
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut data = Self::default();
        let mut kind = None;
        let mut reader = Reader::new(bytes);
        while let Some(field) = reader.next_field()? {
            match field {
                (TYPE, Value::Varint(value)) if kind.is_none() => kind = Some(value),
                (DATA, Value::Bytes(value)) if data.bytes.is_empty() => data.bytes = value.to_vec(),
                (FILE_SIZE, Value::Varint(size)) if data.file_size.is_none() => data.file_size = Some(size),
                (BLOCK_SIZES, Value::Varint(size)) => data.block_sizes.push(size),
                (BLOCK_SIZES, Value::Bytes(packed)) => data.push_packed(packed)?,
                (HASH_TYPE, Value::Varint(code)) if data.hash_type.is_none() => data.hash_type = Some(code),
                (FANOUT, Value::Varint(fanout)) if data.fanout.is_none() => data.fanout = Some(fanout),
                (number, _) if IGNORED.contains(&number) => {}
                _ => return Err(Error::Field),
            }
        }
        data.kind = kind.ok_or(Error::Field)?;
        Ok(data)
    }

    /// Readers of protobuf accept the packed form of a repeated field, whichever way it was declared.
    fn push_packed(&mut self, mut packed: &[u8]) -> Result<(), Error> {
        while !packed.is_empty() {
            let (size, rest) = protobuf::read_varint(packed)?;
            self.block_sizes.push(size);
            packed = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(number: u64, size: u64) -> Part {
        Part { cid: dag_pb::content_id(RAW, &number.to_be_bytes()), size, total_size: size }
    }

    fn build(leaves: u64) -> (Part, Vec<Vec<u8>>) {
        let mut nodes = Vec::new();
        let mut put = |block| {
            nodes.push(block);
            Ok::<_, ()>(())
        };
        let mut builder = FileBuilder::default();
        for number in 0..leaves {
            builder.push(leaf(number, 7), &mut put).unwrap();
        }
        let root = builder.finish(&mut put).unwrap().unwrap();
        (root, nodes)
    }

    #[test]
    fn trees_have_the_balanced_shape() {
        let links = |block: &[u8]| PbNode::decode(block).unwrap().links.len();
        assert_eq!(build(1), (leaf(0, 7), vec![]));
        for (leaves, expected) in
            [(2, vec![2]), (1024, vec![1024]), (1025, vec![1024, 1, 2]), (2049, vec![1024, 1024, 1, 3])]
        {
            let (root, nodes) = build(leaves);
            assert_eq!(nodes.iter().map(|node| links(node)).collect::<Vec<_>>(), expected);
            assert_eq!(root.size, 7 * leaves);
            let Node::Branch { size, .. } = decode(&root.cid, nodes.last().unwrap()).unwrap() else {
                panic!("the root of several leaves is a branch");
            };
            assert_eq!(size, 7 * leaves);
        }
    }

    #[test]
    fn a_tree_of_three_levels_hangs_every_leaf_at_one_depth() {
        let (root, nodes) = build(1024 * 1024 + 1);
        // 1,025 nodes over leaves, 2 over those, and the root.
        assert_eq!(nodes.len(), 1025 + 2 + 1);
        assert_eq!(root.size, 7 * (1024 * 1024 + 1));
    }

    /// Names that Kubo 0.42 gave with the profile `unixfs-v1-2025`.
    #[test]
    fn kubo_gives_the_same_names() {
        let zeros = |length: usize| {
            let size = length as u64;
            Part { cid: dag_pb::content_id(RAW, &vec![0; length]), size, total_size: size }
        };
        let (chunk, one) = (zeros(CHUNK_BYTES), zeros(1));
        let file = |leaves: &[Part]| {
            let mut put = |_: Vec<u8>| Ok::<_, ()>(());
            let mut builder = FileBuilder::default();
            leaves.iter().for_each(|leaf| builder.push(*leaf, &mut put).unwrap());
            builder.finish(&mut put).unwrap().unwrap().cid.to_string()
        };
        assert_eq!(file(&[chunk]), "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla");
        assert_eq!(file(&[chunk, one]), "bafybeihd4yzq7n5umhjngdum4r6k2to7egxfkf2jz6thvwzf6djus22cmq");
        assert_eq!(file(&[chunk; 1025]), "bafybeigt7wofv4vnxbg3titijasuw4ptg5kfztec4smsk7opdt7z6djoxq");
        let entry = |name: String, text: String| {
            let size = text.len() as u64;
            (name, Part { cid: dag_pb::content_id(RAW, text.as_bytes()), size, total_size: size })
        };
        let records = |count: usize| {
            let record = |number| entry(format!("record-{number:04}.txt"), format!("{number:04}"));
            encode_directory((0..count).map(record).collect()).unwrap()
        };
        let (blocks, directory) = records(3000);
        assert_eq!(blocks.len(), 1);
        assert_eq!(directory.cid.to_string(), "bafybeied7ujltecwdgshaleh2jbuqo3hi6ngaspi74q5jmtp7vitczol4y");
        let (blocks, directory) = records(6000);
        assert!(blocks.len() > 256);
        assert_eq!(directory.cid.to_string(), "bafybeifdibl7sgwmudtdjbpt465ee3fphkngutmqauqev3igr5bz4gbfxe");

        // The largest block that is not sharded, and one byte more.
        let filled = |length: usize| {
            let numbered = (0..4095).map(|number| entry(format!("{number:020}"), format!("{number:04}")));
            let entries = numbered.chain([entry("z".repeat(length), "last".into())]).collect();
            encode_directory(entries).unwrap().1.cid.to_string()
        };
        assert_eq!(filled(16), "bafybeifvlr7rn2vppvkuqcmpjtvw5mx7sw62p75izzx6qpjqwnyicd7c6q");
        assert_eq!(filled(17), "bafybeiguov4pqtfobv3rfbzrgnadqaxavrfjl5pu4u6bptjekn26inyxzm");
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused_both_ways() {
        for name in ["", ".", "..", "a/b", "/", "a\0b"] {
            assert!(matches!(encode_directory(vec![(name.into(), leaf(1, 1))]), Err(Error::Name(_))), "{name:?}");
            let links = vec![Link { cid: leaf(1, 1).cid, name: name.into(), total_size: 1 }];
            let block = PbNode { links, data: vec![8, 1] }.encode();
            assert!(matches!(decode(&dag_pb::content_id(DAG_PB, &block), &block), Err(Error::Name(_))), "{name:?}");
        }
        let twice = vec![("a".into(), leaf(1, 1)), ("a".into(), leaf(2, 1))];
        assert_eq!(encode_directory(twice), Err(Error::Order));
    }

    #[test]
    fn sizes_that_do_not_add_up_are_refused() {
        let links = vec![Link { cid: leaf(1, 1).cid, name: String::new(), total_size: 1 }; 2];
        let mut data = Vec::new();
        protobuf::write_varint_field(&mut data, TYPE, TYPE_FILE);
        protobuf::write_varint_field(&mut data, FILE_SIZE, 3);
        for size in [u64::MAX, 4] {
            protobuf::write_varint_field(&mut data, BLOCK_SIZES, size);
        }
        let block = PbNode { links, data }.encode();
        assert_eq!(decode(&dag_pb::content_id(DAG_PB, &block), &block), Err(Error::Sizes));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_node_or_an_error(bytes: Vec<u8>) {
            let _ = decode(&dag_pb::content_id(DAG_PB, &bytes), &bytes);
            let block = PbNode { links: vec![], data: bytes }.encode();
            let _ = decode(&dag_pb::content_id(DAG_PB, &block), &block);
        }
    }
}
