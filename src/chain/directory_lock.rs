//! One process for each directory of a ledger: two that write the same blocks or snapshots would ruin them.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

/// Makes `directory` and takes it for this process, as long as the file that it gives is open.
pub(super) fn take(directory: &Path) -> Result<File, TryLockError> {
    fs::create_dir_all(directory).map_err(TryLockError::Error)?;
    let file = File::create(directory.join("lock")).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}
