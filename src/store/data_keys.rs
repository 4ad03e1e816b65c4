//! The keys of sealed data sets that this node may read: one file each, readable by the owner alone, named by the commitment.
//!
//! They outlive a restart, so that a holder goes on when the submitter is away. A key goes when its job has ended. Nothing here
//! decides who gets a key, and no key leaves but to those who seal and open with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
};

use crate::types::{DataKey, Digest};

/// Keys kept: more sealed jobs than a node has to do with at once. A further one is refused.
pub const MAX_KEYS: usize = 1024;
/// Longest file read in bytes: 64 digits and an end of line.
const MAX_FILE: u64 = 66;

/// Why a key could not be kept or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or the directory can't be used.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many.
    #[error("{} holds {MAX_KEYS} keys; remove those of jobs that have ended", .0.display())]
    Full(PathBuf),
}

/// The keys, shared by all who seal and open.
#[derive(Debug)]
pub struct DataKeys {
    directory: PathBuf,
    keys: RwLock<BTreeMap<Digest, DataKey>>,
}

impl DataKeys {
    /// Reads the keys in `directory`, which is made if it is missing. A file that is no key is left alone, with a warning.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let at = |source| Error::Io { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let mut keys = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(at)?.take(2 * MAX_KEYS) {
            let path = entry.map_err(at)?.path();
            match read(&path) {
                Some(key) if keys.len() < MAX_KEYS => {
                    keys.insert(key.commitment(), key);
                }
                _ => {
                    tracing::warn!(path = %path.display(), "this is no key of a data set, or one too many; it is not used")
                }
            }
        }
        Ok(Self { directory: directory.to_owned(), keys: RwLock::new(keys) })
    }

    /// The commitments to the keys that are here.
    pub fn commitments(&self) -> BTreeSet<Digest> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The key with this commitment.
    pub fn get(&self, commitment: &Digest) -> Option<DataKey> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(commitment).cloned()
    }

    /// Keeps a key. It is on the disk when this returns.
    pub fn keep(&self, key: DataKey) -> Result<Digest, Error> {
        let commitment = key.commitment();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&commitment) {
            return Ok(commitment);
        }
        if keys.len() >= MAX_KEYS {
            return Err(Error::Full(self.directory.clone()));
        }
        let path = self.path(&commitment);
        self.write(&path, &key).map_err(|source| Error::Io { path, source })?;
        keys.insert(commitment, key);
        Ok(commitment)
    }

    /// Forgets a key, here and on the disk. One that is not here is forgotten already.
    pub fn forget(&self, commitment: &Digest) -> Result<(), Error> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(commitment);
        let path = self.path(commitment);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self, commitment: &Digest) -> PathBuf {
        self.directory.join(commitment.to_string())
    }

    /// Under another name first: a file that is there is whole.
    fn write(&self, path: &Path, key: &DataKey) -> io::Result<()> {
        let temporary = path.with_extension("part");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", hex::encode(key.0))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

/// The key in a file that is named by its commitment.
fn read(path: &Path) -> Option<DataKey> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MAX_FILE + 1).read_to_end(&mut text).ok()?;
    let mut key = DataKey([0; DataKey::BYTES]);
    hex::decode_to_slice(text.strip_suffix(b"\n").unwrap_or(&text), &mut key.0).ok()?;
    (path.file_name()?.to_str()? == key.commitment().to_string()).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const KEY: DataKey = DataKey([5; DataKey::BYTES]);

    #[test]
    fn a_kept_key_outlives_a_restart_and_a_forgotten_one_does_not() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("data-keys");
        let keys = DataKeys::open(&directory).unwrap();
        let commitment = keys.keep(KEY).unwrap();
        assert_eq!(keys.keep(KEY).unwrap(), commitment, "twice is once");
        let again = DataKeys::open(&directory).unwrap();
        assert_eq!((again.get(&commitment), again.commitments().len()), (Some(KEY), 1));
        again.forget(&commitment).unwrap();
        again.forget(&commitment).unwrap();
        assert_eq!(again.get(&commitment), None);
        assert!(DataKeys::open(&directory).unwrap().commitments().is_empty());
    }

    #[test]
    fn keys_are_for_the_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("data-keys");
        let keys = DataKeys::open(&directory).unwrap();
        let path = keys.path(&keys.keep(KEY).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
    }

    #[test]
    fn a_file_that_is_no_key_or_has_anothers_name_is_left_alone_and_not_used() {
        let place = tempfile::tempdir().unwrap();
        let names = ["notes".to_owned(), Digest([1; 32]).to_string()];
        for (name, text) in names.iter().zip(["buy milk".to_owned(), hex::encode(KEY.0)]) {
            fs::write(place.path().join(name), text).unwrap();
        }
        assert!(DataKeys::open(place.path()).unwrap().commitments().is_empty());
        assert!(names.iter().all(|name| place.path().join(name).exists()));
    }

    #[test]
    fn there_is_a_most_of_keys() {
        let place = tempfile::tempdir().unwrap();
        let keys = DataKeys::open(place.path()).unwrap();
        {
            let mut kept = keys.keys.write().unwrap();
            for number in 0..MAX_KEYS as u64 {
                let mut key = DataKey([0; DataKey::BYTES]);
                key.0[..8].copy_from_slice(&number.to_be_bytes());
                kept.insert(key.commitment(), key);
            }
        }
        assert!(matches!(keys.keep(KEY), Err(Error::Full(_))));
    }
}
