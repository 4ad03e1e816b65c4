//! How far the block log was synced: what tells a last block that rotted on the disk from one that a crash tore.
//!
//! Either is a frame at the log's end that is not whole. The one was acknowledged, and must not be lost without a word;
//! the other was not, and is cut off. The mark is written after each sync of the log and is not synced itself: after a
//! `kill -9` it is there, and after a power cut it is at worst that of an earlier block, which is true as well. It never
//! decides what the log has: without it, or if it is damaged itself, all that is lost is this distinction.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::types::Digest;

/// Bytes of the file: an offset, big-endian, and the first bytes of its SHA-256.
const LENGTH: usize = 16;

/// The mark; there is one writer.
#[derive(Debug)]
pub(super) struct Synced {
    file: File,
    /// Said once, not with each block.
    failed: bool,
}

impl Synced {
    /// Opens the mark at `path`, and gives what it says: every byte of the log before it was synced.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; LENGTH];
        let end = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        if end.is_none() && file.metadata()?.len() > 0 {
            tracing::warn!(path = %path.display(), "the mark of the last synced block is damaged and written anew");
        }
        Ok((Self { file, failed: false }, end.unwrap_or(0)))
    }

    /// The log is synced up to byte `end`. What can't be written costs the distinction, and no block.
    pub(super) fn mark(&mut self, end: u64) {
        match self.file.write_all_at(&encode(end), 0) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, "the mark of the last synced block can't be written");
            }
            Err(_) => {}
        }
    }
}

fn encode(end: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let offset = end.to_be_bytes();
    bytes[..8].copy_from_slice(&offset);
    bytes[8..].copy_from_slice(&Digest::of(&offset).0[..8]);
    bytes
}

fn decode(bytes: &[u8; LENGTH]) -> Option<u64> {
    let end = u64::from_be_bytes(bytes[..8].try_into().ok()?);
    (encode(end) == *bytes).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_one_that_is_bent_or_cut_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.synced");
        let read = || Synced::open(&path).unwrap().1;
        assert_eq!(read(), 0);
        let (mut synced, _) = Synced::open(&path).unwrap();
        for end in [7, u64::MAX, 300] {
            synced.mark(end);
            assert_eq!(read(), end);
        }
        let whole = std::fs::read(&path).unwrap();
        for place in 0..LENGTH {
            let mut bent = whole.clone();
            bent[place] ^= 0x10;
            std::fs::write(&path, bent).unwrap();
            assert_eq!(read(), 0, "{place}");
            std::fs::write(&path, &whole[..place]).unwrap();
            assert_eq!(read(), 0, "{place}");
        }
    }
}
