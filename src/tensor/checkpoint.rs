//! A kept checkpoint: one root that carries all it takes to continue a task elsewhere.
//!
//! ```text
//! root/                     named by CheckpointRef::cid; whoever holds this DAG holds everything
//!   manifest                a Signed CheckpointManifest, CBOR
//!   state/                  named by CheckpointManifest::cid
//!     model.safetensors
//!     optim.safetensors     if the script has one
//!     state.json            if the script has one
//! ```
//!
//! Loading trusts nothing: the signature, the age, the names and the roots are checked before anybody continues from it.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Error as FormatError, MAX_FILE_BYTES, root};
use crate::{
    codec,
    store::Files,
    types::{CHECKPOINT_MAX_AGE, CheckpointManifest, ContentId, Digest, Signed, SignedError, SignedObject, Time},
};

/// Name of the signed manifest in the root directory.
pub const MANIFEST: &str = "manifest";
/// Name of the state's directory in the root directory.
pub const STATE: &str = "state";
/// Name of the model in the state's directory.
pub const MODEL: &str = "model.safetensors";
/// Name of the optimizer state in the state's directory.
pub const OPTIMIZER: &str = "optim.safetensors";
/// Name of what else the script needs to continue, in the state's directory.
pub const SCRIPT_STATE: &str = "state.json";
/// The longest `state.json` in bytes: generator states and counters take a few thousand. A longer one is refused.
pub const MAX_SCRIPT_STATE_BYTES: usize = 1024 * 1024;
/// The most state roots of a round: its start and 255 checkpoints. See [`CheckpointManifest::trace`].
pub const MAX_TRACE: usize = 256;
/// A checkpoint may be this much newer than this node's clock says; peers' clocks differ. A newer one is refused.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);
/// The longest manifest file: the object, its signer, its signature, and the CBOR around them.
const MAX_MANIFEST_FILE_BYTES: usize = CheckpointManifest::LIMIT + 256;

/// Why a checkpoint can't be continued from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Some of it is not in the store, or can't be read.
    #[error("the checkpoint can't be read: fetch it first, and look at the disk")]
    Io(#[from] io::Error),
    /// The directories don't have the entries that they must have, or have others.
    #[error("the checkpoint has no entry `{0}` where it must be, or one too many")]
    Entry(&'static str),
    /// The manifest is no CBOR, or not signed.
    #[error("the checkpoint's manifest is not a signed manifest")]
    Manifest(#[from] SignedError),
    /// The manifest file is no signed object.
    #[error("the checkpoint's manifest can't be decoded")]
    Codec(#[from] codec::Error),
    /// The manifest contradicts itself or its directory.
    #[error("the checkpoint's manifest is wrong: {0}")]
    Contradiction(&'static str),
    /// Older than seven days, or from the future.
    #[error("the checkpoint was written at {written}, which at {now} is over 7 days ago or in the future")]
    Age {
        /// When it was written.
        written: Time,
        /// This node's time.
        now: Time,
    },
    /// A tensor file is not acceptable.
    #[error("a tensor file of the checkpoint is not acceptable")]
    Tensors(#[from] FormatError),
}

/// A checkpoint whose manifest was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The checked manifest.
    pub manifest: CheckpointManifest,
    /// The manifest as it was signed, for evidence.
    pub signed: Signed,
    /// The directory that a script resumes from.
    pub state: ContentId,
    /// The model file.
    pub model: ContentId,
    /// The optimizer's file.
    pub optimizer: Option<ContentId>,
    /// The script's own state.
    script_state: Option<ContentId>,
}

/// Roots of a checkpoint's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `params_root` of the model.
    pub params_root: Digest,
    /// Root of the optimizer state; zero for none.
    pub opt_root: Digest,
    /// State root of the whole.
    pub state_root: Digest,
}

impl Checkpoint {
    /// Loads the checkpoint `cid` from local content, checks its signature, age and names, and recomputes its roots.
    pub fn load(files: &dyn Files, cid: &ContentId, now: Time) -> Result<Self, Error> {
        let checkpoint = Self::open(files, cid, now)?;
        checkpoint.check_roots(files)?;
        Ok(checkpoint)
    }

    /// Everything that [`Checkpoint::load`] checks, but for the roots.
    pub fn open(files: &dyn Files, cid: &ContentId, now: Time) -> Result<Self, Error> {
        let [manifest, state] = entries(files, cid, [MANIFEST, STATE])?;
        let manifest = manifest.ok_or(Error::Entry(MANIFEST))?;
        let state = state.ok_or(Error::Entry(STATE))?;
        let bytes = files.read(&manifest, MAX_MANIFEST_FILE_BYTES)?;
        let signed: Signed = codec::decode(&bytes, MAX_MANIFEST_FILE_BYTES)?;
        let manifest: CheckpointManifest = signed.open()?;
        check_manifest(&manifest, &state)?;
        check_age(manifest.timestamp, now)?;
        let [model, optimizer, script_state] = entries(files, &state, [MODEL, OPTIMIZER, SCRIPT_STATE])?;
        let model = model.ok_or(Error::Entry(MODEL))?;
        Ok(Self { manifest, signed, state, model, optimizer, script_state })
    }

    /// Recomputes the roots and refuses a manifest that claims others.
    pub fn check_roots(&self, files: &dyn Files) -> Result<Roots, Error> {
        let file = |cid: &ContentId| files.read(cid, usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX));
        let params_root = root::of_file(&file(&self.model)?)?;
        let opt_root = match &self.optimizer {
            Some(optimizer) => root::of_file(&file(optimizer)?)?,
            None => root::NO_OPTIMIZER,
        };
        let extra = match &self.script_state {
            Some(extra) => files.read(extra, MAX_SCRIPT_STATE_BYTES)?,
            None => Vec::new(),
        };
        let state_root = root::state_root(&params_root, &opt_root, self.manifest.iteration, &extra);
        if state_root != self.manifest.state_root || opt_root != self.manifest.opt_root {
            return Err(Error::Contradiction("its roots are not those of its tensors"));
        }
        Ok(Roots { params_root, opt_root, state_root })
    }
}

/// The entries of those names; any other entry is an error.
fn entries<const N: usize>(
    files: &dyn Files,
    directory: &ContentId,
    names: [&'static str; N],
) -> Result<[Option<ContentId>; N], Error> {
    let mut found = [None; N];
    for (name, cid) in files.list(directory)? {
        let place = names.iter().position(|known| *known == name).ok_or(Error::Entry(names[0]))?;
        found[place] = Some(cid);
    }
    Ok(found)
}

/// What a manifest must fulfil by itself.
pub fn check_manifest(manifest: &CheckpointManifest, state: &ContentId) -> Result<(), Error> {
    let faults = [
        (manifest.cid != *state, "it names another directory"),
        (manifest.trace.len() < 2 || manifest.trace.len() > MAX_TRACE, "its trace has not 2 to 256 entries"),
        (manifest.trace.last() != Some(&manifest.state_root), "its trace does not end with its state"),
    ];
    faults.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, fault)| Err(Error::Contradiction(fault)))
}

fn check_age(written: Time, now: Time) -> Result<(), Error> {
    if now.since(written) > CHECKPOINT_MAX_AGE || written > now + MAX_CLOCK_SKEW {
        return Err(Error::Age { written, now });
    }
    Ok(())
}
