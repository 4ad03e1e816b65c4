//! Files and directories into DAGs: all cores read, hash and keep, and the tree grows in order.
//!
//! Hashing takes longer than reading, and writing waits for the disk, so a file of many chunks is worked on by all cores, and by
//! more threads than these where they wait. What comes as a stream is read by one thread.
//! Memory is a few chunks, whatever the size of the file. It never decides what is kept how long: whoever imports protects
//! and pins.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use super::{
    files::{Error, at, at_path},
    unixfs::{CHUNK_BYTES, FileBuilder, MAX_DIRECTORY_DEPTH, Part, encode_directory},
};
use crate::{
    store::{
        BlockStore, Imported, blocks,
        dag_pb::{self, DAG_PB, RAW},
    },
    types::ContentId,
};

/// Threads that hash and keep the chunks of one file, at most: with more, the disk is what takes longest.
const MAX_WORKERS: usize = 16;
/// Chunks that each thread has in hand or waits for. Memory of an import is this many times [`CHUNK_BYTES`] a thread.
const CHUNKS_A_WORKER: usize = 2;

/// Where blocks go.
pub(super) trait Blocks: Sync {
    /// Threads that wait for the disk while all cores are busy.
    const WAITING: usize;

    /// Keeps a block, or only names it.
    fn put(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, blocks::Error>;
}

impl Blocks for BlockStore {
    /// One waits for a sync of its own, one for it to end; the cores go on.
    const WAITING: usize = 2;

    fn put(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, blocks::Error> {
        self.put_new(codec, bytes)
    }
}

/// Names blocks and keeps none.
struct Names;

impl Blocks for Names {
    const WAITING: usize = 0;

    fn put(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, blocks::Error> {
        Ok(dag_pb::content_id(codec, bytes))
    }
}

/// The name that the file or directory at `path` would get, without storing anything. Blocks.
///
/// # Errors
/// If something there can't be read, or is neither a file nor a directory.
pub fn name(path: &Path) -> Result<Imported, Error> {
    import_path(&Names, path)
}

/// The name that what `reader` gives until its end would get as a file, without storing anything. Blocks.
///
/// # Errors
/// If it can't be read.
pub fn name_stream(reader: impl Read) -> Result<Imported, Error> {
    import_reader(&Names, reader)
}

/// Imports what `reader` gives until its end as one file. Nothing is synced.
pub(super) fn import_reader(blocks: &impl Blocks, reader: impl Read) -> Result<Imported, Error> {
    let part = import_stream(blocks, reader, Path::new("input"))?;
    Ok(Imported { cid: part.cid, size: part.size, files: 1 })
}

/// Imports the file or directory at `path`. Nothing is synced.
pub(super) fn import_path(blocks: &impl Blocks, path: &Path) -> Result<Imported, Error> {
    let mut files = 0;
    let part = import_entry(blocks, path, 0, &mut files)?;
    Ok(Imported { cid: part.cid, size: part.size, files })
}

fn import_entry(blocks: &impl Blocks, path: &Path, depth: usize, files: &mut u64) -> Result<Part, Error> {
    let metadata = at(path, fs::symlink_metadata(path))?;
    if metadata.is_file() {
        *files += 1;
        let file = at(path, File::open(path))?;
        return import_file(blocks, &file, metadata.len(), path);
    }
    if !metadata.is_dir() {
        return Err(Error::Special(path.to_owned()));
    }
    if depth == MAX_DIRECTORY_DEPTH {
        return Err(Error::Deep(path.display().to_string()));
    }
    let mut entries = Vec::new();
    for entry in at(path, fs::read_dir(path))? {
        let entry = at(path, entry)?;
        let name = entry.file_name().into_string().map_err(|_| Error::Name(entry.path()))?;
        entries.push((name, import_entry(blocks, &entry.path(), depth + 1, files)?));
    }
    let (nodes, part) = encode_directory(entries).map_err(|error| at_path(path, error))?;
    for node in nodes {
        blocks.put(DAG_PB, &node)?;
    }
    Ok(part)
}

/// Imports a file. Each worker reads the chunks that it hashes, so that they are in its own cache when it does.
fn import_file(blocks: &impl Blocks, file: &File, length: u64, path: &Path) -> Result<Part, Error> {
    let chunks = length.div_ceil(CHUNK_BYTES as u64);
    if chunks <= 1 {
        // A file of the system that says that it is empty may have something to read.
        return import_stream(blocks, file, path);
    }
    let read = |number: u64, chunk: &mut Vec<u8>| {
        let begin = number * CHUNK_BYTES as u64;
        chunk.resize(usize::try_from(length - begin).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES), 0);
        at(path, file.read_exact_at(chunk, begin).map_err(shrunk))
    };
    let keep = || {
        let mut chunk = Vec::new();
        move |number, ()| (read(number, &mut chunk).and_then(|()| Ok(keep_leaf(blocks, &chunk)?)), ())
    };
    with_workers(blocks, keep, |growing| (0..chunks).try_for_each(|_| growing.push(()).map(drop)))
}

/// Imports what `reader` gives until its end as one file; `path` is what an error names.
fn import_stream(blocks: &impl Blocks, mut reader: impl Read, path: &Path) -> Result<Part, Error> {
    let first = read_chunk(&mut reader, Vec::new(), path)?;
    if first.len() < CHUNK_BYTES {
        return keep_leaf(blocks, &first).map_err(Error::from);
    }
    let keep = || |_, chunk: Vec<u8>| (keep_leaf(blocks, &chunk).map_err(Error::from), chunk);
    with_workers(blocks, keep, |growing| {
        let mut chunk = first;
        // The first chunk is never empty here; an empty one is the end.
        while !chunk.is_empty() {
            let last = chunk.len() < CHUNK_BYTES;
            let memory = growing.push(chunk)?.unwrap_or_default();
            if last {
                break;
            }
            chunk = read_chunk(&mut reader, memory, path)?;
        }
        Ok(())
    })
}

fn shrunk(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return io::Error::new(error.kind(), "it became shorter while it was read");
    }
    error
}

/// The bytes of the next chunk, in memory that was used before; shorter than a chunk at the end.
fn read_chunk(reader: &mut impl Read, mut chunk: Vec<u8>, path: &Path) -> Result<Vec<u8>, Error> {
    chunk.clear();
    at(path, reader.take(CHUNK_BYTES as u64).read_to_end(&mut chunk))?;
    Ok(chunk)
}

fn keep_leaf(blocks: &impl Blocks, chunk: &[u8]) -> Result<Part, blocks::Error> {
    let size = chunk.len() as u64;
    Ok(Part { cid: blocks.put(RAW, chunk)?, size, total_size: size })
}

/// What became of a chunk of this number, and its memory.
type Leaf<T> = (u64, Result<Part, Error>, T);

/// Has the chunks that `feed` pushes kept by workers, each by its own `keep`, and makes them one file.
fn with_workers<B: Blocks, T: Send, K>(
    blocks: &B,
    keep: impl Fn() -> K,
    feed: impl FnOnce(&mut Growing<'_, B, T>) -> Result<(), Error>,
) -> Result<Part, Error>
where
    K: FnMut(u64, T) -> (Result<Part, Error>, T) + Send,
{
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores + B::WAITING).min(MAX_WORKERS);
    let in_hand = workers * CHUNKS_A_WORKER;
    let (chunks, waiting) = sync_channel(in_hand);
    let (leaves, kept) = sync_channel(in_hand);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (waiting, leaves, keep) = (&waiting, leaves.clone(), keep());
            scope.spawn(move || work(waiting, &leaves, keep));
        }
        // So that they end with the workers.
        drop(leaves);
        let tree = FileBuilder::default();
        let mut growing = Growing { blocks, tree, chunks, kept, done: BTreeMap::new(), next: 0, sent: 0, in_hand };
        feed(&mut growing)?;
        growing.finish()
    })
}

/// Keeps chunks until there are no more.
fn work<T>(
    waiting: &Mutex<Receiver<(u64, T)>>,
    leaves: &SyncSender<Leaf<T>>,
    mut keep: impl FnMut(u64, T) -> (Result<Part, Error>, T),
) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, chunk)) = next else { return };
        let (leaf, memory) = keep(number, chunk);
        // Nobody listens any more after an error.
        if leaves.send((number, leaf, memory)).is_err() {
            return;
        }
    }
}

/// A file of more than one chunk, on its way. A chunk is its bytes, or nothing where the workers read it.
struct Growing<'a, B, T> {
    blocks: &'a B,
    tree: FileBuilder,
    chunks: SyncSender<(u64, T)>,
    kept: Receiver<Leaf<T>>,
    /// Leaves whose predecessors are not done yet.
    done: BTreeMap<u64, Part>,
    /// The leaf that the tree needs next.
    next: u64,
    /// Chunks that were pushed.
    sent: u64,
    in_hand: usize,
}

impl<B: Blocks, T> Growing<'_, B, T> {
    /// Hands the next chunk to the workers. When they have enough, waits for one, and gives its memory back.
    fn push(&mut self, chunk: T) -> Result<Option<T>, Error> {
        self.chunks.send((self.sent, chunk)).map_err(|_| Error::Workers)?;
        self.sent += 1;
        if self.sent - self.next < self.in_hand as u64 {
            return Ok(None);
        }
        self.take().map(Some)
    }

    fn finish(mut self) -> Result<Part, Error> {
        while self.next < self.sent {
            self.take()?;
        }
        let mut put = |node: Vec<u8>| self.blocks.put(DAG_PB, &node).map(drop);
        let root = self.tree.finish(&mut put)?;
        Ok(root.expect("at least one leaf was pushed"))
    }

    /// Waits for one chunk to be kept, and puts what can be put into the tree. Gives the chunk's memory back.
    fn take(&mut self) -> Result<T, Error> {
        let (number, leaf, memory) = self.kept.recv().map_err(|_| Error::Workers)?;
        self.done.insert(number, leaf?);
        while let Some(part) = self.done.remove(&self.next) {
            self.next += 1;
            self.tree.push(part, &mut |node: Vec<u8>| self.blocks.put(DAG_PB, &node).map(drop))?;
        }
        Ok(memory)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Keeps blocks in memory, the slower the smaller the first byte, so that they are done out of order.
    #[derive(Default)]
    struct Slow(Mutex<HashSet<ContentId>>);

    impl Blocks for Slow {
        const WAITING: usize = 3;

        fn put(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, blocks::Error> {
            for _ in 0..u32::from(255 - bytes.first().copied().unwrap_or_default()) {
                std::thread::yield_now();
            }
            let cid = dag_pb::content_id(codec, bytes);
            self.0.lock().unwrap().insert(cid);
            Ok(cid)
        }
    }

    /// Fails at the block with this first byte.
    struct Failing(u8);

    impl Blocks for Failing {
        const WAITING: usize = 0;

        fn put(&self, codec: u64, bytes: &[u8]) -> Result<ContentId, blocks::Error> {
            match bytes.first() {
                Some(first) if *first == self.0 => Err(blocks::Error::Full { used: 1, quota: 1 }),
                _ => Names.put(codec, bytes),
            }
        }
    }

    fn sample(chunks: usize, more: usize) -> Vec<u8> {
        (0..chunks * CHUNK_BYTES + more).map(|index| u8::try_from(index / CHUNK_BYTES % 256).unwrap()).collect()
    }

    /// One chunk after the other, as the format says.
    fn in_order(bytes: &[u8]) -> ContentId {
        let mut tree = FileBuilder::default();
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let leaf = keep_leaf(&Names, chunk).unwrap();
            tree.push(leaf, &mut |_| Ok::<_, ()>(())).unwrap();
        }
        tree.finish(&mut |_| Ok::<_, ()>(())).unwrap().unwrap().cid
    }

    #[test]
    fn chunks_that_are_done_out_of_order_make_the_same_file() {
        for (chunks, more) in [(1, 0), (1, 1), (2, 0), (9, 5), (70, 0)] {
            let (bytes, blocks) = (sample(chunks, more), Slow::default());
            let part = import_stream(&blocks, &bytes[..], Path::new("x")).unwrap();
            assert_eq!((part.cid, part.size), (in_order(&bytes), bytes.len() as u64), "{chunks} chunks and {more}");
            assert!(blocks.0.lock().unwrap().contains(&part.cid));
        }
    }

    #[test]
    fn a_file_is_what_a_stream_of_its_bytes_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (chunks, more) in [(0, 0), (0, 3), (1, 0), (1, 1), (2, 0), (9, 5), (70, 0)] {
            let (bytes, blocks) = (sample(chunks, more), Slow::default());
            fs::write(&path, &bytes).unwrap();
            let imported = import_path(&blocks, &path).unwrap();
            let streamed = import_reader(&Names, &bytes[..]).unwrap();
            assert_eq!((imported.cid, imported.size), (streamed.cid, streamed.size), "{chunks} chunks and {more}");
            assert!(blocks.0.lock().unwrap().contains(&imported.cid));
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shrunk");
        fs::write(&path, sample(3, 0)).unwrap();
        let file = File::open(&path).unwrap();
        let failed = import_file(&Names, &file, 4 * CHUNK_BYTES as u64, &path).unwrap_err();
        assert!(failed.to_string().contains("shrunk"), "{failed}");
    }

    #[test]
    fn a_store_that_is_full_ends_the_import_and_its_threads() {
        let bytes = sample(40, 0);
        for at in [0, 7, 39] {
            let failed = import_stream(&Failing(at), &bytes[..], Path::new("x"));
            assert!(matches!(failed, Err(Error::Store(blocks::Error::Full { .. }))), "at chunk {at}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_read_to_its_end_is_an_error_with_its_path() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(self.0);
                self.0 -= length;
                if length == 0 { Err(io::Error::other("the disk is gone")) } else { Ok(length) }
            }
        }
        for length in [10, 3 * CHUNK_BYTES + 1] {
            let failed = import_stream(&Names, Broken(length), Path::new("of/mine")).unwrap_err();
            assert!(failed.to_string().contains("of/mine"), "{failed}");
        }
    }
}
