//! Trees that a stranger's program made: measured and removed, however wide, deep or unreadable they are.
//!
//! A script can nest directories deeper than a path can name or a stack can follow, so nothing here recurses without a
//! limit, and removal never leaves the top: it lifts what lies deeper up to there. No link is ever followed.

use std::{
    fs::{self, DirEntry, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

/// Files and directories that a script may have at once (script contract, "The work directory"); counting more would take longer
/// than the pause between two measurements.
pub(super) const MAX_ENTRIES: u64 = 100_000;
/// Levels of directories that it may nest; what lies deeper would not be counted.
pub(super) const MAX_LEVELS: u64 = 64;

/// Why a tree has no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uncounted {
    /// It has more than [`MAX_ENTRIES`].
    Entries,
    /// It is deeper than [`MAX_LEVELS`].
    Levels,
    /// A directory in it can't be read.
    Unreadable,
}

/// Bytes on the disk of all regular files below `path`, which need not exist.
///
/// # Errors
/// If some of it could not be counted: then it may be of any size.
pub(super) fn size(path: &Path) -> Result<u64, Uncounted> {
    let mut entries = MAX_ENTRIES;
    size_below(path, MAX_LEVELS, &mut entries)
}

fn size_below(path: &Path, levels: u64, entries: &mut u64) -> Result<u64, Uncounted> {
    *entries = entries.checked_sub(1).ok_or(Uncounted::Entries)?;
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return gone(&error),
    };
    if !found.is_dir() {
        return Ok(if found.is_file() { found.blocks() * 512 } else { 0 });
    }
    let levels = levels.checked_sub(1).ok_or(Uncounted::Levels)?;
    let inside = match fs::read_dir(path) {
        Ok(inside) => inside,
        Err(error) => return gone(&error),
    };
    let mut sum = 0_u64;
    for entry in inside {
        sum += match entry {
            Ok(entry) => size_below(&entry.path(), levels, entries)?,
            Err(error) => gone(&error)?,
        };
    }
    Ok(sum)
}

/// The script goes on while it is measured: what was there a moment ago may be gone.
fn gone(error: &io::Error) -> Result<u64, Uncounted> {
    if error.kind() == io::ErrorKind::NotFound { Ok(0) } else { Err(Uncounted::Unreadable) }
}

/// Removes a file, or a directory and all in it. That it is not there is no error.
///
/// # Errors
/// If something in it can't be removed; it is left where it is.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => remove_directory(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_directory(top: &Path) -> io::Result<()> {
    unlock(top);
    let mut lifted = 0;
    loop {
        let mut empty = true;
        for entry in fs::read_dir(top)? {
            empty = false;
            remove_entry(top, &entry?, &mut lifted)?;
        }
        if empty {
            return fs::remove_dir(top);
        }
    }
}

/// Removes an entry of `top`. Directories in it become entries of `top`, whose turn comes.
fn remove_entry(top: &Path, entry: &DirEntry, lifted: &mut u64) -> io::Result<()> {
    if !entry.file_type()?.is_dir() {
        return fs::remove_file(entry.path());
    }
    unlock(&entry.path());
    for inner in fs::read_dir(entry.path())? {
        let inner = inner?;
        if inner.file_type()?.is_dir() {
            unlock(&inner.path());
            lift(top, &inner.path(), lifted)?;
        } else {
            fs::remove_file(inner.path())?;
        }
    }
    fs::remove_dir(entry.path())
}

/// Moves a directory to `top` under a name that is free there.
fn lift(top: &Path, directory: &Path, lifted: &mut u64) -> io::Result<()> {
    loop {
        *lifted += 1;
        let renamed = fs::rename(directory, top.join(format!(".lifted-{lifted}")));
        match renamed.map_err(|error| (error.kind(), error)) {
            Ok(()) => return Ok(()),
            Err((io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists, _)) => {}
            Err((io::ErrorKind::NotADirectory, _)) => {}
            Err((_, error)) => return Err(error),
        }
    }
}

/// A script may have taken its own directories' permissions away. Where that can't be undone, removing says so.
fn unlock(directory: &Path) {
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

    use super::*;

    /// Directories inside each other, as `os.mkdir` and `os.chdir` in turn make them: deeper than any path can name.
    fn nest(top: &Path, levels: usize) {
        let mut open = openat(CWD, top, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&open, "d", Mode::RWXU).unwrap();
            open = openat(&open, "d", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        }
    }

    /// The standard library follows them by recursion: 30,000 levels overflow a thread's stack, which ends the process.
    #[test]
    fn directories_deeper_than_any_stack_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        nest(&top, 30_000);
        assert_eq!(size(&top), Err(Uncounted::Levels));
        remove(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn what_is_removed_is_gone_and_what_it_linked_to_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (top, outside) = (directory.path().join("top"), directory.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        // A name that the removal itself would choose, in use.
        fs::create_dir_all(top.join(".lifted-1/full")).unwrap();
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        symlink(&outside, top.join("a/b/c/link")).unwrap();
        fs::set_permissions(top.join("a/b"), Permissions::from_mode(0o000)).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        remove(&top).unwrap();
        symlink(&outside, &top).unwrap();
        remove(&top).unwrap();
        assert!(outside.join("kept").exists() && fs::symlink_metadata(&top).is_err());
    }

    #[test]
    fn what_is_too_much_to_count_has_no_size() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), vec![1; 10_000]).unwrap();
        let flat = size(directory.path()).unwrap();
        assert!((10_000..100_000).contains(&flat), "{flat}");
        nest(directory.path(), usize::try_from(MAX_LEVELS).unwrap() - 1);
        assert_eq!(size(directory.path()), Ok(flat), "so deep it may be");
        let mut few = 3;
        assert_eq!(size_below(directory.path(), MAX_LEVELS, &mut few), Err(Uncounted::Entries));
        assert_eq!(size(&directory.path().join("nothing")), Ok(0));
        remove(&directory.path().join("d")).unwrap();
    }
}
