//! New files written past the page cache.
//!
//! A transfer writes each block once and seldom reads it soon. Through the page cache the kernel finds a page for every 4 KiB,
//! clears it, copies into it and writes it out later, which here took a quarter of all processor time of a transfer; and a shard
//! of some gigabytes pushes everything else of the machine's owner out of memory. Direct writes (`O_DIRECT`, open(2)) hand the
//! bytes to the disk from where they are. A reader pays by one read from the disk.
//!
//! Nothing here makes a file durable: a direct write leaves the file's length and place to a sync, as every write does. And
//! nothing depends on it: where the file system refuses direct writes (a tmpfs of older kernels, some overlays) the same bytes
//! are written in the common way.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use rustix::fs::OFlags;

/// What addresses, offsets and lengths of direct writes are multiples of, in bytes: the largest logical block of the disks in
/// use. A page of memory has as many.
const ALIGNMENT: usize = 4096;
/// Shorter files are written in the common way, in bytes: a page or two cost less than waiting for the disk.
const DIRECT_FROM: usize = 64 * 1024;
/// Bytes written at once: one chunk of content.
const PIECE: usize = 1024 * 1024;
/// Buffers kept for the next file. As many writers as this work without new memory; further ones make and drop their own.
const KEPT_BUFFERS: usize = 4;

/// Writes new files, with buffers used again from file to file.
#[derive(Debug, Default)]
pub(super) struct Writer(Mutex<Vec<Vec<u8>>>);

impl Writer {
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
        let mut buffer = self.take();
        let written = bytes.chunks(PIECE).try_for_each(|piece| file.write_all(aligned(&mut buffer, piece)));
        self.give_back(buffer);
        written?;
        if bytes.len().is_multiple_of(ALIGNMENT) { Ok(()) } else { file.set_len(bytes.len() as u64) }
    }

    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; PIECE + ALIGNMENT])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_BUFFERS {
            kept.push(buffer);
        }
    }
}

/// The piece at an aligned address, with zeros up to an aligned length.
fn aligned<'a>(buffer: &'a mut [u8], piece: &[u8]) -> &'a [u8] {
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let length = piece.len().next_multiple_of(ALIGNMENT);
    let place = &mut buffer[start..start + length];
    let (bytes, padding) = place.split_at_mut(piece.len());
    bytes.copy_from_slice(piece);
    padding.fill(0);
    place
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
        let writer = Writer::default();
        let around = |length: usize| [length - 1, length, length + 1];
        for length in
            [0, 1].into_iter().chain([DIRECT_FROM, PIECE, PIECE + ALIGNMENT, 2 * PIECE].into_iter().flat_map(around))
        {
            let path = directory.path().join("file");
            writer.write_new(&path, &content(length)).unwrap();
            assert!(fs::read(&path).unwrap() == content(length), "{length}");
        }
    }

    #[test]
    fn many_writers_at_once_keep_few_buffers() {
        let directory = tempfile::tempdir().unwrap();
        let writer = Writer::default();
        std::thread::scope(|scope| {
            for number in 0..4 * KEPT_BUFFERS {
                let (writer, path) = (&writer, directory.path().join(number.to_string()));
                scope.spawn(move || {
                    writer.write_new(&path, &content(PIECE + number)).unwrap();
                    assert!(fs::read(&path).unwrap() == content(PIECE + number));
                });
            }
        });
        assert!(writer.0.lock().unwrap().len() <= KEPT_BUFFERS);
    }

    #[test]
    fn a_full_disk_is_an_error_and_not_a_short_file() {
        let error = Writer::default().write_new(Path::new("/dev/full"), &content(PIECE)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
