//! Files and directories in and out of the block store.
//!
//! [`import`] holds a few chunks at a time and export writes one at a time, so that memory does not grow with size.
//! Everything read is verified against its name; sizes that a writer of blocks told are checked before they are
//! believed, because the DAG may come from a stranger.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    edge, hamt, import,
    unixfs::{self, MAX_DIRECTORY_DEPTH, MAX_FILE_DEPTH, Node, Part, encode_directory},
};
use crate::{
    store::{
        self, BlockStore, Imported, blocks,
        dag_pb::{DAG_PB, Link},
    },
    types::ContentId,
};

/// Files and directories that one export writes at most: a few blocks that name each other can describe more than
/// any disk holds.
const MAX_EXPORT_ENTRIES: u64 = 1_000_000;

/// Why a file or directory could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The block store refused.
    #[error(transparent)]
    Store(#[from] blocks::Error),
    /// A block that is not here.
    #[error("block {0} is not in the store; fetch it first")]
    Missing(ContentId),
    /// A block that is no part of a file or directory.
    #[error("{cid}: {source}")]
    Unixfs {
        /// The block.
        cid: ContentId,
        /// What is wrong.
        source: unixfs::Error,
    },
    /// A path could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A symbolic link, device, socket or pipe.
    #[error("{} is neither a file nor a directory; copy what it stands for in its place", .0.display())]
    Special(PathBuf),
    /// A file name that is not UTF-8.
    #[error("{} has a name that is not UTF-8; rename it", .0.display())]
    Name(PathBuf),
    /// Directories nested deeper than [`MAX_DIRECTORY_DEPTH`], or a file's tree deeper than [`MAX_FILE_DEPTH`].
    #[error("{0} is nested too deep")]
    Deep(String),
    /// A directory where a file is wanted, or the other way round.
    #[error("{cid} is not a {wanted}")]
    Kind {
        /// The object.
        cid: ContentId,
        /// `file` or `directory`.
        wanted: &'static str,
    },
    /// More bytes or entries than the caller allows.
    #[error("{cid} is over the limit of {limit} {unit}")]
    TooLong {
        /// The object.
        cid: ContentId,
        /// What is allowed.
        limit: u64,
        /// `bytes` or `entries`.
        unit: &'static str,
    },
    /// The threads of an import ended before it did.
    #[error("a thread of the import panicked; this is a bug")]
    Workers,
    /// A part whose length is not what its parent told.
    #[error("{0} is not as long as its parent says")]
    Length(ContentId),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Store(_) => {
                let Error::Store(error) = error else { unreachable!("matched above") };
                return error.into();
            }
            Error::Io { source, .. } => source.kind(),
            Error::Missing(_) => io::ErrorKind::NotFound,
            Error::TooLong { .. } => io::ErrorKind::FileTooLarge,
            Error::Special(_) | Error::Name(_) | Error::Kind { .. } => io::ErrorKind::InvalidInput,
            Error::Unixfs { .. } | Error::Deep(_) | Error::Length(_) => io::ErrorKind::InvalidData,
            Error::Workers => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

pub(super) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Files and directories over a block store.
#[derive(Clone, Debug)]
pub struct Files {
    store: Arc<BlockStore>,
}

impl Files {
    /// Files over `store`.
    pub fn new(store: Arc<BlockStore>) -> Self {
        Self { store }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<BlockStore> {
        &self.store
    }

    /// Stores what `reader` gives until its end as one file, and syncs.
    pub fn import_reader(&self, reader: impl Read) -> Result<Imported, Error> {
        let _kept_meanwhile = self.store.importing();
        let imported = import::import_reader(&*self.store, reader)?;
        self.store.sync()?;
        Ok(imported)
    }

    /// Makes a directory of what is here already: names, and what they stand for.
    pub fn put_directory(&self, entries: Vec<(String, ContentId)>) -> Result<ContentId, Error> {
        let part = |cid: ContentId| match edge::dag_bytes(&self.store, &cid) {
            Ok(size) if self.store.has(&cid) => Ok(Part { cid, size, total_size: size }),
            _ => Err(Error::Missing(cid)),
        };
        let entries: Result<Vec<(String, Part)>, Error> =
            entries.into_iter().map(|(name, cid)| Ok((name, part(cid)?))).collect();
        let (nodes, root) = encode_directory(entries?).map_err(|error| at_path(Path::new("directory"), error))?;
        for node in nodes {
            self.store.put_new(DAG_PB, &node)?;
        }
        Ok(root.cid)
    }

    fn block(&self, cid: &ContentId) -> Result<Bytes, Error> {
        let read = self.store.get_verified(cid);
        let read = read.map_err(|source| Error::Io { path: PathBuf::from(cid.to_string()), source })?;
        read.ok_or(Error::Missing(*cid))
    }

    /// Bytes of the file at `cid`, as its root tells, without reading its parts.
    pub fn file_size(&self, cid: &ContentId) -> Result<u64, Error> {
        match decode(cid, &self.block(cid)?)? {
            Node::Leaf(bytes) => Ok(bytes.len() as u64),
            Node::Branch { size, .. } => Ok(size),
            Node::Directory(_) | Node::Shard { .. } => Err(Error::Kind { cid: *cid, wanted: "file" }),
        }
    }

    /// Hands the bytes of a file of at most `limit` bytes to `sink`, in order, in pieces of at most 2 MiB.
    pub fn read_to(
        &self,
        cid: &ContentId,
        limit: u64,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, Error> {
        self.read_part(cid, None, Limit { root: *cid, bytes: limit }, 0, sink)
    }

    fn read_part(
        &self,
        cid: &ContentId,
        told: Option<u64>,
        limit: Limit,
        depth: usize,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<u64, Error> {
        let block = self.block(cid)?;
        let node = decode(cid, &block)?;
        let size = match &node {
            Node::Leaf(bytes) => bytes.len() as u64,
            Node::Branch { size, .. } => *size,
            Node::Directory(_) | Node::Shard { .. } => return Err(Error::Kind { cid: *cid, wanted: "file" }),
        };
        // Whatever a branch claims is checked against its parent before anything below is read, so the root's
        // claim, which the limit bounds, bounds all.
        if told.is_some_and(|told| told != size) {
            return Err(Error::Length(*cid));
        }
        limit.check(size)?;
        match node {
            Node::Leaf(bytes) => at(Path::new("output"), sink(&bytes))?,
            Node::Branch { .. } if depth == MAX_FILE_DEPTH => return Err(Error::Deep(cid.to_string())),
            Node::Branch { parts, .. } => {
                for part in parts {
                    self.read_part(&part.cid, Some(part.size), limit, depth + 1, sink)?;
                }
            }
            Node::Directory(_) | Node::Shard { .. } => unreachable!("returned above"),
        }
        Ok(size)
    }

    /// As [`store::Files::export`], refusing to write more than `limit` bytes of files.
    pub fn export_within(&self, cid: &ContentId, to: &Path, limit: u64) -> Result<(), Error> {
        let mut budget = Budget { root: *cid, limit, bytes: limit, entries: MAX_EXPORT_ENTRIES };
        self.export_entry(cid, to, 0, &mut budget)
    }

    fn export_entry(&self, cid: &ContentId, to: &Path, depth: usize, budget: &mut Budget) -> Result<(), Error> {
        budget.take_entry()?;
        let links = match decode(cid, &self.block(cid)?)? {
            Node::Leaf(_) | Node::Branch { .. } => return self.export_file(cid, to, budget),
            Node::Directory(links) => links,
            Node::Shard { entries, nodes } => self.join_shards(cid, entries, nodes)?,
        };
        if depth == MAX_DIRECTORY_DEPTH {
            return Err(Error::Deep(cid.to_string()));
        }
        at(to, fs::create_dir(to))?;
        for link in links {
            self.export_entry(&link.cid, &to.join(&link.name), depth + 1, budget)?;
        }
        Ok(())
    }

    /// All entries of a sharded directory, whose root has these entries and nodes below, in order.
    fn join_shards(&self, root: &ContentId, mut entries: Vec<Link>, nodes: Vec<ContentId>) -> Result<Vec<Link>, Error> {
        let mut open: Vec<(ContentId, usize)> = nodes.into_iter().map(|node| (node, 1)).collect();
        let mut seen = HashSet::new();
        while let Some((cid, level)) = open.pop() {
            // A node has one place in the tree: at a second it would repeat its names.
            if level == hamt::MAX_DEPTH || !seen.insert(cid) {
                return Err(Error::Deep(root.to_string()));
            }
            let Node::Shard { entries: more, nodes } = decode(&cid, &self.block(&cid)?)? else {
                return Err(Error::Kind { cid, wanted: "part of a directory" });
            };
            entries.extend(more);
            open.extend(nodes.into_iter().map(|node| (node, level + 1)));
            if entries.len() as u64 > MAX_EXPORT_ENTRIES {
                return Err(Error::TooLong { cid: *root, limit: MAX_EXPORT_ENTRIES, unit: "entries" });
            }
        }
        unixfs::join_shards(entries).map_err(|source| Error::Unixfs { cid: *root, source })
    }

    fn export_file(&self, cid: &ContentId, to: &Path, budget: &mut Budget) -> Result<(), Error> {
        let mut file = at(to, File::create_new(to))?;
        let limit = budget.bytes;
        let written = self.read_to(cid, limit, &mut |bytes| file.write_all(bytes)).map_err(|error| match error {
            Error::Io { path, source } if path == Path::new("output") => Error::Io { path: to.to_owned(), source },
            Error::TooLong { .. } => budget.over("bytes"),
            other => other,
        })?;
        budget.bytes -= written;
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Limit {
    root: ContentId,
    bytes: u64,
}

impl Limit {
    fn check(&self, size: u64) -> Result<(), Error> {
        if size <= self.bytes {
            return Ok(());
        }
        Err(Error::TooLong { cid: self.root, limit: self.bytes, unit: "bytes" })
    }
}

/// What an export may still write.
struct Budget {
    root: ContentId,
    limit: u64,
    bytes: u64,
    entries: u64,
}

impl Budget {
    fn take_entry(&mut self) -> Result<(), Error> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| self.over("entries"))?;
        Ok(())
    }

    fn over(&self, unit: &'static str) -> Error {
        let limit = if unit == "bytes" { self.limit } else { MAX_EXPORT_ENTRIES };
        Error::TooLong { cid: self.root, limit, unit }
    }
}

fn decode<'a>(cid: &ContentId, bytes: &'a [u8]) -> Result<Node<'a>, Error> {
    unixfs::decode(cid, bytes).map_err(|source| Error::Unixfs { cid: *cid, source })
}

pub(super) fn at_path(path: &Path, error: unixfs::Error) -> Error {
    Error::Io { path: path.to_owned(), source: io::Error::new(io::ErrorKind::InvalidInput, error) }
}

impl store::Files for Files {
    fn import_bytes(&self, bytes: &[u8]) -> io::Result<ContentId> {
        Ok(self.import_reader(bytes)?.cid)
    }

    fn import_path(&self, path: &Path) -> io::Result<Imported> {
        let _kept_meanwhile = self.store.importing();
        let imported = import::import_path(&*self.store, path)?;
        self.store.sync().map_err(Error::Store)?;
        Ok(imported)
    }

    fn read(&self, cid: &ContentId, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to(cid, limit as u64, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Writes at most as many bytes as the store's quota: more can't have come from distinct blocks.
    fn export(&self, cid: &ContentId, to: &Path) -> io::Result<()> {
        self.export_at_most(cid, to, self.store.quota().bytes)
    }

    fn export_at_most(&self, cid: &ContentId, to: &Path, limit: u64) -> io::Result<()> {
        if fs::symlink_metadata(to).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists already", to.display())));
        }
        Ok(self.export_within(cid, to, limit.min(self.store.quota().bytes))?)
    }

    fn list(&self, cid: &ContentId) -> io::Result<Vec<(String, ContentId)>> {
        let links = match decode(cid, &self.block(cid)?)? {
            Node::Directory(links) => links,
            Node::Shard { entries, nodes } => self.join_shards(cid, entries, nodes)?,
            Node::Leaf(_) | Node::Branch { .. } => {
                return Err(Error::Kind { cid: *cid, wanted: "directory" }.into());
            }
        };
        Ok(links.into_iter().map(|link| (link.name, link.cid)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use store::{
        Files as _, Quota,
        dag_pb::{self, RAW},
    };
    use tempfile::TempDir;

    use super::{
        super::unixfs::{CHUNK_BYTES, FileBuilder},
        *,
    };

    fn fixture() -> (TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 64 << 20 }).unwrap();
        (directory, Files::new(store))
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
    }

    #[test]
    fn well_known_files_get_their_well_known_names() {
        let (_directory, files) = fixture();
        for (bytes, cid) in [
            (&b""[..], "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
            (b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        ] {
            assert_eq!(files.import_bytes(bytes).unwrap().to_string(), cid);
        }
    }

    #[test]
    fn files_of_every_awkward_length_read_back() {
        let (_directory, files) = fixture();
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes = sample(length);
            let cid = files.import_bytes(&bytes).unwrap();
            assert_eq!(files.read(&cid, length).unwrap(), bytes);
            assert_eq!(files.file_size(&cid).unwrap(), length as u64);
            if length > 0 {
                let error = files.read(&cid, length - 1).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            }
        }
    }

    #[test]
    fn a_directory_comes_out_as_it_went_in() {
        let (directory, files) = fixture();
        let source = directory.path().join("source");
        fs::create_dir_all(source.join("deep/er")).unwrap();
        fs::create_dir(source.join("empty")).unwrap();
        fs::write(source.join("b.txt"), b"b").unwrap();
        fs::write(source.join("a.bin"), sample(CHUNK_BYTES + 7)).unwrap();
        fs::write(source.join("deep/er/c"), b"c").unwrap();
        let imported = files.import_path(&source).unwrap();
        assert_eq!((imported.size, imported.files), (CHUNK_BYTES as u64 + 9, 3));
        let names: Vec<String> = files.list(&imported.cid).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.bin", "b.txt", "deep", "empty"]);

        let copy = directory.path().join("copy");
        files.export(&imported.cid, &copy).unwrap();
        assert_eq!(fs::read(copy.join("a.bin")).unwrap(), sample(CHUNK_BYTES + 7));
        assert_eq!(files.import_path(&copy).unwrap(), imported);
        assert_eq!(files.export(&imported.cid, &copy).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let error = files.export_within(&imported.cid, &directory.path().join("small"), 100).unwrap_err();
        assert!(matches!(error, Error::TooLong { limit: 100, .. }), "{error}");
    }

    /// A name that Kubo 0.42 gave with the profile `unixfs-v1-2025`.
    #[test]
    fn kubo_gives_a_directory_the_same_name() {
        let (directory, files) = fixture();
        let source = directory.path().join("source");
        fs::create_dir_all(source.join("deep/er")).unwrap();
        fs::create_dir(source.join("empty")).unwrap();
        fs::write(source.join("b.txt"), "b").unwrap();
        fs::write(source.join("a.bin"), vec![0; CHUNK_BYTES + 7]).unwrap();
        fs::write(source.join("deep/er/c"), "c").unwrap();
        fs::write(source.join("Z ü"), "ü").unwrap();
        let imported = files.import_path(&source).unwrap();
        assert_eq!(imported.cid.to_string(), "bafybeiejis5prmx75ijntkl6gmcnfhva55qjbzna7wu37cminqh3qfaxhe");
    }

    #[test]
    fn a_directory_of_many_files_comes_out_as_it_went_in() {
        let (directory, files) = fixture();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        let name = |number: usize| format!("{}-{number}", "record".repeat(20));
        for number in 0..1800 {
            fs::write(source.join(name(number)), format!("{number}")).unwrap();
        }
        let imported = files.import_path(&source).unwrap();
        let listed = files.list(&imported.cid).unwrap();
        assert_eq!(listed.len(), 1800);
        let block = files.store().get(&imported.cid).unwrap().unwrap();
        assert!(matches!(decode(&imported.cid, &block).unwrap(), Node::Shard { .. }));
        let copy = directory.path().join("copy");
        files.export(&imported.cid, &copy).unwrap();
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 1800);
        assert_eq!(fs::read_to_string(copy.join(name(1234))).unwrap(), "1234");
    }

    #[test]
    fn links_to_elsewhere_are_not_followed() {
        let (directory, files) = fixture();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        symlink("/etc/passwd", source.join("link")).unwrap();
        let error = files.import_path(&source).unwrap_err();
        assert!(error.to_string().contains("neither a file nor a directory"), "{error}");
    }

    #[test]
    fn pipes_sockets_and_devices_are_refused_without_being_opened() {
        let (directory, files) = fixture();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        let pipe = source.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let error = files.import_path(&source).unwrap_err().to_string();
        assert!(error.contains("pipe is neither a file nor a directory"), "{error}");
        fs::remove_file(&pipe).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
        let error = files.import_path(&source).unwrap_err().to_string();
        assert!(error.contains("socket is neither a file nor a directory"), "{error}");
        let error = files.import_path(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("/dev/zero is neither a file nor a directory"), "{error}");
    }

    /// A file node over these parts, which claims their sizes.
    fn branch(parts: &[(ContentId, u64)]) -> Vec<u8> {
        let link = |(cid, size): &(ContentId, u64)| Link { cid: *cid, name: String::new(), total_size: *size };
        let mut data = Vec::new();
        crate::store::protobuf::write_varint_field(&mut data, 1, 2);
        crate::store::protobuf::write_varint_field(&mut data, 3, parts.iter().map(|(_, size)| size).sum());
        parts.iter().for_each(|(_, size)| crate::store::protobuf::write_varint_field(&mut data, 4, *size));
        dag_pb::Node { links: parts.iter().map(link).collect(), data }.encode()
    }

    fn directory_of(name: &str, cid: ContentId) -> Vec<u8> {
        let link = Link { cid, name: name.to_owned(), total_size: 1 };
        dag_pb::Node { links: vec![link], data: vec![8, 1] }.encode()
    }

    #[test]
    fn a_dag_that_is_too_deep_ends_its_reader_in_words_and_nothing_else() {
        let (directory, files) = fixture();
        let store = files.store();
        let good = files.import_bytes(b"good").unwrap();
        let leaf = store.put_new(RAW, b"x").unwrap();
        let (mut file, mut folder) = (leaf, leaf);
        for _ in 0..20_000 {
            file = store.put_new(DAG_PB, &branch(&[(file, 1)])).unwrap();
            folder = store.put_new(DAG_PB, &directory_of("d", folder)).unwrap();
        }
        let error = files.read(&file, 100).unwrap_err().to_string();
        assert!(error.contains("nested too deep"), "{error}");
        let to = directory.path().join("to");
        let error = files.export(&folder, &to).unwrap_err().to_string();
        assert!(error.contains("nested too deep"), "{error}");
        // Pinning, collecting, counting and archiving follow links too.
        store.pin(&folder, "bomb").unwrap();
        store.pin(&good, "good").unwrap();
        store.collect_garbage(0).unwrap();
        assert!(store.has(&leaf) && !store.has(&file));
        assert!(crate::shard::edge::dag_bytes(store, &folder).unwrap() > 20_000);
        crate::shard::archive::export(store, &folder, &mut |_| Ok(())).unwrap();
        assert_eq!(files.read(&good, 4).unwrap(), b"good");
    }

    #[test]
    fn a_dag_that_is_too_wide_is_refused_by_what_it_claims_or_stopped_at_the_limit() {
        let (directory, files) = fixture();
        let store = files.store();
        let leaf = store.put_new(RAW, &vec![7; CHUNK_BYTES]).unwrap();
        // A thousand times a thousand times a mebibyte, in three blocks.
        let (mut file, mut size) = (leaf, CHUNK_BYTES as u64);
        for _ in 0..2 {
            file = store.put_new(DAG_PB, &branch(&vec![(file, size); 1000])).unwrap();
            size *= 1000;
        }
        let error = files.read(&file, 1 << 30).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{error}");
        let to = directory.path().join("to");
        let error = files.export(&file, &to).unwrap_err().to_string();
        assert!(error.contains("over the limit of 67108864 bytes"), "{error}");
        assert_eq!(fs::metadata(&to).unwrap().len(), 0, "it is refused by what it claims");
        // A directory claims nothing: it is stopped where the limit is.
        let link = |number: usize| Link { cid: leaf, name: format!("{number:05}"), total_size: 1 };
        let wide = dag_pb::Node { links: (0..20_000).map(link).collect(), data: vec![8, 1] }.encode();
        let wide = store.put_new(DAG_PB, &wide).unwrap();
        let many = directory.path().join("many");
        let error = files.export_at_most(&wide, &many, 3 << 20).unwrap_err().to_string();
        assert!(error.contains("over the limit of 3145728 bytes"), "{error}");
        assert!(fs::read_dir(&many).unwrap().count() <= 4);
        fs::remove_dir_all(&many).unwrap();
        let error = files.export(&wide, &many).unwrap_err().to_string();
        assert!(error.contains("over the limit of 67108864 bytes"), "{error}");
        assert!(fs::read_dir(&many).unwrap().count() <= 65);
    }

    /// No hash leads back to itself, so only a damaged disk can show a cycle.
    #[test]
    fn a_cycle_on_the_disk_is_found_out_and_nothing_runs_in_circles() {
        let (directory, files) = fixture();
        let store = files.store();
        let good = files.import_bytes(b"good").unwrap();
        let block = directory_of("d", good);
        let root = store.put_new(DAG_PB, &block).unwrap();
        store.sync().unwrap();
        let name = hex::encode(root.0.hash().digest());
        let path = directory.path().join("blocks/placed").join(&name[62..]).join(&name);
        fs::write(&path, directory_of("d", root)).unwrap();
        store.pin(&root, "cycle").unwrap();
        store.pin(&good, "good").unwrap();
        store.collect_garbage(0).unwrap();
        let error = files.export(&root, &directory.path().join("to")).unwrap_err().to_string();
        assert!(error.contains(&root.to_string()), "{error}");
        assert!(!store.has(&root), "the damaged block is dropped, to be fetched again");
        assert_eq!(files.read(&good, 4).unwrap(), b"good");
        store.put(&root, &block).unwrap();
        files.export(&root, &directory.path().join("again")).unwrap();
    }

    #[test]
    fn a_part_that_is_shorter_than_its_parent_says_is_refused() {
        let (_directory, files) = fixture();
        let store = files.store();
        let leaf = Part { cid: store.put_new(RAW, b"four").unwrap(), size: 5, total_size: 5 };
        let mut builder = FileBuilder::default();
        let mut put = |block: Vec<u8>| store.put_new(DAG_PB, &block).map(drop);
        builder.push(leaf, &mut put).unwrap();
        builder.push(leaf, &mut put).unwrap();
        let root = builder.finish(&mut put).unwrap().unwrap();
        let error = files.read(&root.cid, 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_missing_block_is_named() {
        let (_directory, files) = fixture();
        let absent = dag_pb::content_id(RAW, b"absent");
        let error = files.read(&absent, 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains(&absent.to_string()));
    }
}
