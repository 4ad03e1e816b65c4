//! The newest trusted header, kept on disk, so that a restart goes on from it.
//!
//! It never holds what was not verified, and what it holds can be removed: then trust begins anew.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
};

use super::Error;
use crate::chain::light::Anchor;

/// The longest file in bytes: two sets of 10,000 validators in JSON, with their signatures.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The file of one ledger.
#[derive(Clone, Debug)]
pub(super) struct TrustFile {
    path: PathBuf,
}

impl TrustFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was kept; none before anything was. A file that can't be read as one is an error: beginning anew without a word
    /// would undo its point.
    pub(super) fn load(&self) -> Result<Option<Anchor>, Error> {
        let length = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error(error)),
            Ok(metadata) => metadata.len(),
        };
        if length > MAX_BYTES {
            return Err(self.damaged(&format!("it has {length} bytes")));
        }
        let bytes = fs::read(&self.path).map_err(|error| self.error(error))?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| self.damaged(&error.to_string()))
    }

    /// What it holds is not what it should be.
    pub(super) fn damaged(&self, reason: &str) -> Error {
        self.error(io::Error::other(format!(
            "holds no trusted header ({reason}); remove it, and set ledger.trust_height and ledger.trust_hash to a block from a source that you trust"
        )))
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }

    /// Keeps `anchor` in place of the last one. Blocks.
    pub(super) fn save(&self, anchor: &Anchor) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let temporary = self.path.with_extension("trust-new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(anchor).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::light::{
        Beginning, State,
        testing::{CHAIN, Lab, time_of},
    };

    #[test]
    fn what_is_kept_is_read_again_and_nonsense_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = TrustFile::new(directory.path().join("deep/atlas-lab.trust"));
        assert!(file.load().unwrap().is_none());
        let lab = Lab::new(3, |_| vec![1, 2, 3, 4]);
        let mut state = State::new(CHAIN.parse().unwrap(), Beginning::FirstSeen, std::time::Duration::from_secs(60));
        state.take_block(3, lab.block(3), time_of(3)).unwrap();
        let anchor = state.anchor().unwrap();
        file.save(anchor).unwrap();
        assert_eq!(file.load().unwrap().as_ref(), Some(anchor));
        fs::write(directory.path().join("deep/atlas-lab.trust"), "{}").unwrap();
        assert!(file.load().unwrap_err().to_string().contains("atlas-lab.trust"));
        let nobody = std::error::Error::source(&file.load().unwrap_err()).unwrap().to_string();
        assert!(nobody.contains("ledger.trust_height"), "{nobody}");
    }
}
