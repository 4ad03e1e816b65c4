//! What lies on the disk when the store is opened.

use std::{fs, io, path::Path};

use super::Key;

/// A block file.
pub(super) struct FoundBlock {
    pub(super) key: Key,
    pub(super) size: u32,
    pub(super) modified: Option<std::time::SystemTime>,
}

/// The blocks in a directory. Half-written ones are deleted, other files left alone.
pub(super) fn list_blocks(directory: &Path) -> io::Result<Vec<FoundBlock>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let mut key = Key::default();
        if hex::decode_to_slice(name, &mut key).is_ok() {
            let metadata = entry.metadata()?;
            let size = u32::try_from(metadata.len()).unwrap_or(u32::MAX);
            found.push(FoundBlock { key, size, modified: metadata.modified().ok() });
        } else if name.ends_with(".part") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(found)
}

/// Names this run of the machine; `None` where the system does not tell.
pub(super) fn boot_id() -> Option<Vec<u8>> {
    fs::read("/proc/sys/kernel/random/boot_id").ok().filter(|id| !id.is_empty())
}
