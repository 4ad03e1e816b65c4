//! Bytes that can be read in pieces, from memory or from a file.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Random access to bytes whose length is known. Pieces are read by several threads at once.
pub trait Content: Sync {
    /// The bytes of `range`, which must lie inside: borrowed where they already are in memory, else read into `buffer`.
    fn piece<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]>;
}

impl Content for [u8] {
    fn piece<'a>(&'a self, range: Range<u64>, _: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let place = |offset| usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof));
        self.get(place(range.start)?..place(range.end)?).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Content for File {
    fn piece<'a>(&'a self, range: Range<u64>, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        buffer.resize(length, 0);
        self.read_exact_at(buffer, range.start)?;
        Ok(buffer)
    }
}
