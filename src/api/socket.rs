//! Where the control socket of a data directory is, so that server and client agree without talking.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use crate::types::Digest;

/// The longest path that fits `sockaddr_un` beside its final zero (Linux, unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// The control socket of the node that lives in `data_dir`: inside it, or, where that path is too long for a socket,
/// under `/tmp/atlas-{user}/` by a hash of it.
pub fn path(data_dir: &Path) -> PathBuf {
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let inside = data_dir.join("control.sock");
    if inside.as_os_str().len() <= MAX_SOCKET_PATH {
        return inside;
    }
    let name = hex::encode(&Digest::of(data_dir.as_os_str().as_bytes()).0[..12]);
    short_directory().join(format!("{name}.sock"))
}

/// Makes the directory that holds `socket` if it is the short one, and refuses one that others could write to.
pub(super) fn prepare(socket: &Path) -> io::Result<()> {
    let short = short_directory();
    if !socket.starts_with(&short) {
        return Ok(());
    }
    if let Err(error) = fs::DirBuilder::new().mode(0o700).create(&short)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let found = fs::symlink_metadata(&short)?;
    let ours = found.is_dir() && found.uid() == user() && found.permissions().mode() & 0o077 == 0;
    ours.then_some(()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} belongs to another user or is open to others; remove it or choose a shorter --data-dir",
                short.display()
            ),
        )
    })
}

fn short_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/atlas-{}", user()))
}

fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_has_a_short_stand_in_that_is_always_the_same() {
        assert_eq!(path(Path::new("/var/lib/atlas")), Path::new("/var/lib/atlas/control.sock"));
        let long = PathBuf::from("/").join("x".repeat(120));
        assert!(path(&long).as_os_str().len() <= MAX_SOCKET_PATH);
        assert_eq!(path(&long), path(&long));
        assert_ne!(path(&long), path(&long.join("y")));
    }
}
