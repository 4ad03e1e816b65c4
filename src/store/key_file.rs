//! The key file: the 32-byte secret of a node as one line of hexadecimal, readable by its owner alone.
//!
//! It is made once and never written again: a file that can't be read as a key is an error for a person to look
//! at, because whoever replaces a key gives up the node's name, reputation and rewards.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{clock, identity::Keypair};

/// Bits that nobody but the owner may have.
const FORBIDDEN_BITS: u32 = 0o077;
/// Longest file read in bytes: 64 digits and an end of line.
const MAX_BYTES: u64 = 66;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read or made.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the secret.
    #[error("{0} holds a secret and has mode {mode:04o}; run `chmod 600 {0}`", .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no key.
    #[error(
        "{} is not a key (one line of 64 hexadecimal digits); restore it from a backup, or move it away to start \
         under a new identity",
        .0.display()
    )]
    Corrupt(PathBuf),
}

/// The key in the file at `path`; a new one if there is no such file. Two processes that begin at once get the
/// same key.
pub fn load_or_create(path: &Path) -> Result<Keypair, Error> {
    match load(path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path).map_err(|source| io_error(path, source))?;
            load(path)
        }
        result => result,
    }
}

/// The key in the file at `path`.
pub fn load(path: &Path) -> Result<Keypair, Error> {
    let file = File::open(path).map_err(|source| io_error(path, source))?;
    let metadata = file.metadata().map_err(|source| io_error(path, source))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & FORBIDDEN_BITS != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|source| io_error(path, source))?;
    let digits = text.strip_suffix(b"\n").unwrap_or(&text);
    let mut secret = [0; 32];
    hex::decode_to_slice(digits, &mut secret).map_err(|_| Error::Corrupt(path.to_owned()))?;
    Ok(Keypair::from_secret(&secret))
}

/// Writes a new key beside `path`, syncs it, and links it into place unless somebody was faster.
fn create(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let name = format!(".key-{}", hex::encode(clock::random_bytes::<8>()));
    let temporary = directory.join(name);
    let result = write_new(&temporary, &clock::random_bytes()).and_then(|()| link(&temporary, path));
    fs::remove_file(&temporary)?;
    result?;
    File::open(directory)?.sync_all()
}

fn write_new(path: &Path, secret: &[u8; 32]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    // The process's umask can take bits away, which a later start would stumble over.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{}", hex::encode(secret))?;
    file.sync_all()
}

/// A hard link, unlike a rename, never replaces a key that is there.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/node.key");
        let first = load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(load_or_create(&path).unwrap().node_key(), first.node_key());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn starts_at_the_same_time_agree_on_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create(&path).unwrap().node_key())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        load_or_create(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
    }

    #[test]
    fn what_is_no_key_is_an_error_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        for text in [String::new(), "00".repeat(31), "00".repeat(33), "zz".repeat(32), "00".repeat(32) + "\n\n"] {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(load_or_create(&path), Err(Error::Corrupt(_))), "{text:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
