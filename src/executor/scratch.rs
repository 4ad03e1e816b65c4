//! Content in a plain directory: what `script check`, which runs without a node, has in place of a block store.
//! Its names are made up, so nothing of it may ever reach a peer.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use cid::Cid;
use multihash::Multihash;

use crate::{
    store::{Files, Imported},
    types::{ContentId, Digest},
};

/// Content by a made-up CID. Imports copy, exports copy.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    next: AtomicU64,
}

impl Scratch {
    /// Content below `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, next: AtomicU64::new(0) }
    }

    fn fresh(&self) -> io::Result<(ContentId, PathBuf)> {
        let digest = Digest::of(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let hash = Multihash::wrap(0x12, &digest.0).map_err(io::Error::other)?;
        let cid = ContentId(Cid::new_v1(0x55, hash));
        fs::create_dir_all(&self.path)?;
        Ok((cid, self.at(&cid)))
    }

    fn at(&self, cid: &ContentId) -> PathBuf {
        self.path.join(cid.to_string())
    }
}

impl Files for Scratch {
    fn import_bytes(&self, bytes: &[u8]) -> io::Result<ContentId> {
        let (cid, path) = self.fresh()?;
        fs::write(path, bytes)?;
        Ok(cid)
    }

    fn import_path(&self, path: &Path) -> io::Result<Imported> {
        let (cid, to) = self.fresh()?;
        copy(path, &to)?;
        Ok(Imported { cid, size: 0, files: 0 })
    }

    fn read(&self, cid: &ContentId, _limit: usize) -> io::Result<Vec<u8>> {
        fs::read(self.at(cid))
    }

    fn export(&self, cid: &ContentId, to: &Path) -> io::Result<()> {
        if to.exists() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        copy(&self.at(cid), to)
    }

    fn list(&self, _cid: &ContentId) -> io::Result<Vec<(String, ContentId)>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Copies a file or a directory.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(|_| ());
    }
    fs::create_dir(to)?;
    fs::read_dir(from)?.try_for_each(|entry| {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))
    })
}
