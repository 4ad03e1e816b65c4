//! Snapshots of a ledger on disk, so that a restart replays few blocks. Each is one file, written beside and renamed: a
//! crash leaves it whole or not there. It never decides what to do with one that is damaged.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{codec, types::Digest};

/// A longer file is no snapshot of ours: 4 GiB of ledger do not fit the machines that carry one.
const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The state after a block.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The block.
    pub height: u64,
    /// Where that block's frame begins in the log; 0 for a chain whose blocks are kept elsewhere.
    pub offset: u64,
    /// The application.
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
}

/// A snapshot as its file has it.
pub(super) fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let body = codec::encode(snapshot);
    [&Digest::of(&body).0, body.as_slice()].concat()
}

/// Writes and syncs a snapshot, then removes all but the `kept` newest.
pub(super) fn write(directory: &Path, snapshot: &Snapshot, kept: usize) -> io::Result<()> {
    write_encoded(directory, snapshot.height, &encode(snapshot), kept)
}

/// The same for one that is encoded already.
pub(super) fn write_encoded(directory: &Path, height: u64, snapshot: &[u8], kept: usize) -> io::Result<()> {
    let temporary = directory.join("snapshot.part");
    if let Err(error) = write_synced(&temporary, snapshot) {
        // Half of one is of no use to anybody, and a full disk needs the room.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path(directory, height))?;
    File::open(directory)?.sync_all()?;
    for height in heights(directory)?.into_iter().skip(kept) {
        fs::remove_file(path(directory, height))?;
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The heights of the snapshots there are, newest first.
pub(super) fn heights(directory: &Path) -> io::Result<Vec<u64>> {
    let mut heights: Vec<u64> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let height = name.to_str().and_then(|name| name.strip_prefix("snapshot-")?.parse::<u64>().ok());
        // `snapshot-+5` and `snapshot-05` are somebody else's.
        heights.extend(height.filter(|height| name.to_str() == Some(file_name(*height).as_str())));
    }
    heights.sort_unstable_by(|a, b| b.cmp(a));
    Ok(heights)
}

/// Reads a snapshot; `None` if it is damaged, or the disk does not give it back. That it may not be read is an error, with
/// the name of the file: whoever set its permissions wants to know.
pub(super) fn read(directory: &Path, height: u64) -> io::Result<Option<Snapshot>> {
    let path = path(directory, height);
    let read = || if fs::metadata(&path)?.len() > MAX_BYTES { Ok(Vec::new()) } else { fs::read(&path) };
    match read() {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a snapshot can't be read");
            Ok(None)
        }
    }
}

/// Reads a snapshot as its file has it; `None` if it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let (checksum, body) = bytes.split_at_checked(32)?;
    (Digest::of(body).0 == *checksum).then(|| codec::decode(body, body.len()).ok())?
}

/// Its file.
pub(super) fn path(directory: &Path, height: u64) -> PathBuf {
    directory.join(file_name(height))
}

fn file_name(height: u64) -> String {
    format!("snapshot-{height}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_newest_snapshots_stay_and_a_damaged_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        for height in [1000, 2000, 10_000] {
            write(directory.path(), &Snapshot { height, offset: 7, state: vec![1, 2, 3] }, 2).unwrap();
        }
        assert_eq!(heights(directory.path()).unwrap(), [10_000, 2000]);
        let whole = read(directory.path(), 2000).unwrap().unwrap();
        assert_eq!(whole, Snapshot { height: 2000, offset: 7, state: vec![1, 2, 3] });
        let file = path(directory.path(), 10_000);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        assert_eq!(read(directory.path(), 10_000).unwrap(), None);
    }
}
