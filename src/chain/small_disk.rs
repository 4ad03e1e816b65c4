//! A disk that fills quickly, for tests of what a full one does.

use std::{fs, path::Path};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A small file system in memory, unmounted when dropped.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// One of so many KiB; none, with a word, where this host mounts nothing for this user.
    pub(super) fn mount(kibibytes: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = std::ffi::CString::new(format!("size={kibibytes}k")).unwrap();
        match mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), size.as_c_str()) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                eprintln!("not tried: a file system can't be mounted here ({error})");
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    pub(super) fn fill(&self) {
        let error = fs::write(self.0.path().join("filler"), vec![0; 64 * 1024 * 1024]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Gives it back.
    pub(super) fn make_room(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}
