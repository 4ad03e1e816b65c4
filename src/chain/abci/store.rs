//! What the application keeps on disk: snapshots of the ledger, and a lock.
//!
//! A snapshot is written when its block is committed, so CometBFT has that block, and every later one: whatever is lost
//! here comes back by replay. That is why a damaged snapshot is passed over, and never a reason not to start.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use bytes::Bytes;
use tendermint_proto::v0_38::abci::Snapshot as Offer;

use super::{Error, sync};
use crate::chain::{
    directory_lock,
    ledger::Ledger,
    snapshot::{self, Snapshot},
};

/// Snapshots kept: a validator that fetches one needs minutes, and a newer one comes every few hundred blocks.
const KEPT: usize = 4;

/// The directory of one application.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    /// What others may fetch, by height.
    offers: Mutex<BTreeMap<u64, Offer>>,
    /// Held as long as the directory is ours.
    _lock: File,
}

impl Store {
    /// Takes the directory for this process, and finds the newest ledger in it that is whole.
    pub(super) fn open(directory: &Path) -> Result<(Self, Option<Ledger>), Error> {
        let lock = lock(directory)?;
        let fail = |source| Error::Io { path: directory.to_owned(), source };
        let (mut offers, mut newest, mut passed_over) = (BTreeMap::new(), None, 0);
        for height in snapshot::heights(directory).map_err(fail)? {
            let Some(snapshot) = snapshot::read(directory, height).map_err(fail)? else {
                tracing::warn!(height, "the snapshot is damaged and passed over; CometBFT replays its blocks");
                passed_over += 1;
                continue;
            };
            if newest.is_none() {
                newest = restore(height, &snapshot);
                if newest.is_none() {
                    passed_over += 1;
                    continue;
                }
            }
            offers.insert(height, sync::describe(height, &snapshot::encode(&snapshot)));
        }
        if newest.is_none() && passed_over > 0 {
            tracing::warn!(
                directory = %directory.display(),
                "none of the ledger's {passed_over} snapshots is whole: CometBFT replays every block from the first. If it \
                 ends because it has given up the first ones, the ledger comes back from a snapshot of the other validators"
            );
        }
        Ok((Self { directory: directory.to_owned(), offers: Mutex::new(offers), _lock: lock }, newest))
    }

    /// Writes and syncs a snapshot; the oldest ones go.
    pub(super) fn write(&self, snapshot: &Snapshot) -> io::Result<()> {
        self.put(snapshot, KEPT)
    }

    fn put(&self, snapshot: &Snapshot, kept: usize) -> io::Result<()> {
        let bytes = snapshot::encode(snapshot);
        snapshot::write_encoded(&self.directory, snapshot.height, &bytes, kept)?;
        let mut offers = self.offers.lock().expect("no holder of this lock panics");
        offers.insert(snapshot.height, sync::describe(snapshot.height, &bytes));
        while offers.len() > kept {
            offers.pop_first();
        }
        Ok(())
    }

    /// Writes and syncs the snapshot that another validator gave, in place of all that were there: the blocks that led to
    /// those are not CometBFT's any more, so none of them may be found at the next start.
    pub(super) fn replace(&self, snapshot: &Snapshot) -> io::Result<()> {
        self.put(snapshot, usize::MAX)?;
        for height in snapshot::heights(&self.directory)? {
            if height != snapshot.height {
                fs::remove_file(snapshot::path(&self.directory, height))?;
            }
        }
        self.offers.lock().expect("no holder of this lock panics").retain(|height, _| *height == snapshot.height);
        Ok(())
    }

    /// What others may fetch, oldest first.
    pub(super) fn offers(&self) -> Vec<Offer> {
        self.offers.lock().expect("no holder of this lock panics").values().cloned().collect()
    }

    /// The height of the oldest snapshot.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.offers.lock().expect("no holder of this lock panics").keys().next().copied()
    }

    /// A chunk of a snapshot; empty if there is none.
    pub(super) fn chunk(&self, height: u64, format: u32, index: u32) -> io::Result<Bytes> {
        if !self.offers.lock().expect("no holder of this lock panics").contains_key(&height) {
            return Ok(Bytes::new());
        }
        let file = File::open(snapshot::path(&self.directory, height))?;
        let place = sync::chunk(file.metadata()?.len(), format, index);
        let length = usize::try_from(place.end - place.start).expect("a chunk has a few MiB");
        let mut chunk = vec![0; length];
        file.read_exact_at(&mut chunk, place.start)?;
        Ok(chunk.into())
    }
}

fn restore(height: u64, snapshot: &Snapshot) -> Option<Ledger> {
    match Ledger::restore(&snapshot.state) {
        Ok(ledger) if ledger.height() == height => Some(ledger),
        Ok(ledger) => {
            tracing::warn!(height, found = ledger.height(), "the snapshot is of another height and passed over");
            None
        }
        Err(error) => {
            tracing::warn!(height, %error, "the snapshot is not usable and passed over; CometBFT replays its blocks");
            None
        }
    }
}

/// Makes `directory` and takes it for this process.
fn lock(directory: &Path) -> Result<File, Error> {
    directory_lock::take(directory).map_err(|refused| match refused {
        TryLockError::WouldBlock => Error::Locked { path: directory.to_owned() },
        TryLockError::Error(source) => Error::Io { path: directory.to_owned(), source },
    })
}
