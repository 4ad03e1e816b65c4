//! What edges need of content, behind a trait, so that a test can stand in for the disk; and what lies below it:
//! the block store, the node format whose links it follows, the key file, and data that is sealed.
//!
//! The store knows blocks, links and pins. It never talks to a peer, and never asks what a file is: that is
//! `shard`'s.

mod block_file;
pub mod blocks;
pub mod dag_pb;
pub mod data_keys;
pub mod key_file;
pub mod pins;
pub mod protobuf;
pub mod sealed;
pub(crate) mod table;

pub use blocks::{BlockStore, Quota};
pub use pins::Pin;

use std::{io, path::Path};

use crate::types::ContentId;

/// Whole files and directories by CID. Calls block; run them off the event loop.
///
/// Implemented by `shard::Files` over the block store. Everything read is verified against its name.
pub trait Files: Send + Sync + 'static {
    /// Stores `bytes` as a UnixFS file (`unixfs-v1-2025`: CIDv1, sha2-256, raw leaves, 1 MiB chunks).
    fn import_bytes(&self, bytes: &[u8]) -> io::Result<ContentId>;

    /// Stores the file or directory at `path`. Symbolic links and special files are an error. Memory does not grow with size.
    fn import_path(&self, path: &Path) -> io::Result<Imported>;

    /// Reads a whole file of at most `limit` bytes; a longer one is an error before it is read.
    fn read(&self, cid: &ContentId, limit: usize) -> io::Result<Vec<u8>>;

    /// Writes the file or directory to `to`, which must not exist. Names that could leave `to` are an error.
    fn export(&self, cid: &ContentId, to: &Path) -> io::Result<()>;

    /// As [`Files::export`], but more than `limit` bytes of files are an error: a few blocks that name each other can claim any
    /// number. Content that is not made of blocks can't, and is written as it is.
    fn export_at_most(&self, cid: &ContentId, to: &Path, _limit: u64) -> io::Result<()> {
        self.export(cid, to)
    }

    /// The CIDs of the entries of a directory, by name.
    fn list(&self, cid: &ContentId) -> io::Result<Vec<(String, ContentId)>>;
}

/// What an import made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The root.
    pub cid: ContentId,
    /// Bytes of the files themselves.
    pub size: u64,
    /// Regular files.
    pub files: u64,
}
