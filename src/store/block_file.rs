//! Files of blocks: written past the page cache, read into memory that is used again.
//!
//! A transfer writes each block once and seldom reads it soon. Through the page cache the kernel finds a page for every 4 KiB,
//! clears it, copies into it and writes it out later, which here took a quarter of all processor time of a transfer; and a shard
//! of some gigabytes pushes everything else of the machine's owner out of memory. Direct writes (`O_DIRECT`, open(2)) hand the
//! bytes to the disk from where they are, if that is an aligned address. A reader pays by one read from the disk.
//!
//! Nothing here makes a file durable: a direct write leaves the file's length and place to a sync, as every write does. And
//! nothing depends on it: where the file system refuses direct writes (a tmpfs of older kernels, some overlays) the same bytes
//! are written in the common way.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bytes::Bytes;
use rustix::fs::OFlags;

use super::dag_pb::MAX_BLOCK_BYTES;
use crate::types::{ALIGNMENT, Buffer, Buffers};

/// Shorter files are written in the common way, in bytes: a page or two cost less than waiting for the disk.
const DIRECT_FROM: usize = 64 * 1024;
/// Bytes written at once: one chunk of content.
const PIECE: usize = 1024 * 1024;
/// Pieces of memory kept for the next file: as many readers and writers as keep a disk busy.
const KEPT_BUFFERS: usize = 4;

/// Writes and reads files of blocks.
#[derive(Debug)]
pub(super) struct BlockFiles(Buffers);

impl Default for BlockFiles {
    fn default() -> Self {
        Self(Buffers::new(KEPT_BUFFERS))
    }
}

impl BlockFiles {
    /// Reads the file at `path`. One that is longer than any block is an error of kind `InvalidData`.
    pub(super) fn read(&self, path: &Path) -> io::Result<Bytes> {
        let mut file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if length > MAX_BLOCK_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{length} bytes are longer than any block"),
            ));
        }
        let mut buffer = self.0.take(length);
        file.read_exact(&mut buffer)?;
        Ok(buffer.into())
    }

    /// Creates or replaces the file at `path` with `bytes`. They survive the death of the process when it returns, and that of the
    /// machine after a sync.
    pub(super) fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() < DIRECT_FROM {
            return File::create(path)?.write_all(bytes);
        }
        match self.write_direct(path, bytes) {
            // What the file system says that can't write directly, at the opening or later.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => File::create(path)?.write_all(bytes),
            result => result,
        }
    }

    fn write_direct(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut file = File::options().write(true).create(true).truncate(true).custom_flags(flags).open(path)?;
        for piece in bytes.chunks(PIECE) {
            if piece.as_ptr().addr().is_multiple_of(ALIGNMENT) && piece.len().is_multiple_of(ALIGNMENT) {
                file.write_all(piece)?;
            } else {
                file.write_all(&self.aligned(piece))?;
            }
        }
        if bytes.len().is_multiple_of(ALIGNMENT) { Ok(()) } else { file.set_len(bytes.len() as u64) }
    }

    /// The piece at an aligned address, with zeros up to an aligned length.
    fn aligned(&self, piece: &[u8]) -> Buffer {
        let mut buffer = self.0.take_aligned(piece.len().next_multiple_of(ALIGNMENT), 0);
        let (bytes, padding) = buffer.split_at_mut(piece.len());
        bytes.copy_from_slice(piece);
        padding.fill(0);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Not constant, so that a piece in the wrong place shows.
    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 251 + at).to_le_bytes()[0]).collect()
    }

    #[test]
    fn files_of_every_length_have_their_bytes_and_no_padding() {
        let directory = tempfile::tempdir().unwrap();
        let files = BlockFiles::default();
        let around = |length: usize| [length - 1, length, length + 1];
        for length in
            [0, 1].into_iter().chain([DIRECT_FROM, PIECE, PIECE + ALIGNMENT, 2 * PIECE].into_iter().flat_map(around))
        {
            let path = directory.path().join("file");
            files.write_new(&path, &content(length)).unwrap();
            assert!(fs::read(&path).unwrap() == content(length), "{length}");
            if length <= MAX_BLOCK_BYTES {
                assert!(files.read(&path).unwrap() == content(length), "{length}");
            }
        }
    }

    #[test]
    fn many_writers_and_readers_at_once_each_have_their_own_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let files = BlockFiles::default();
        std::thread::scope(|scope| {
            for number in 0..4 * KEPT_BUFFERS {
                let (files, path) = (&files, directory.path().join(number.to_string()));
                scope.spawn(move || {
                    files.write_new(&path, &content(PIECE + number)).unwrap();
                    assert!(files.read(&path).unwrap() == content(PIECE + number));
                });
            }
        });
    }

    #[test]
    fn a_file_longer_than_any_block_is_not_read_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        File::create(&path).unwrap().set_len(MAX_BLOCK_BYTES as u64 + 1).unwrap();
        assert_eq!(BlockFiles::default().read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_short_file() {
        let error = BlockFiles::default().write_new(Path::new("/dev/full"), &content(PIECE)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
