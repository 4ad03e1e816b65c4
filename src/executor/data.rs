//! Lays out a task's data for its script; opens it if it is sealed.
//!
//! The opened files lie in the work directory of the process alone, which only the node and its sandbox may read and which goes
//! with the task. The block store keeps the sealed form.

use std::{fs, io, path::Path};

use super::RunSpec;
use crate::store::{Files, data_keys::DataKeys, sealed};

/// The data as the script reads it: as it is in the store, or opened with its key. `aside` is a place for the sealed files
/// meanwhile, outside of what the script is told of.
pub(super) fn lay_out(spec: &RunSpec, to: &Path, aside: &Path, files: &dyn Files, keys: &DataKeys) -> io::Result<()> {
    let Some(commitment) = &spec.data_key else {
        return files.export_at_most(&spec.data, to, spec.data_bytes);
    };
    files.export_at_most(&spec.data, aside, spec.data_bytes)?;
    // No other key, even if it is here: the job says which one its data is sealed with.
    let key = |wanted: &_| (wanted == commitment).then(|| keys.get(commitment)).flatten();
    sealed::open_path(&key, aside, to, spec.data_bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    fs::remove_dir_all(aside)
}
