//! Imports what a job file names. Blocks on the disk; runs off the event loop.

use std::path::{Path, PathBuf};

use super::{Content, Error, JobFile};
use crate::{
    store::Files,
    types::{ContentId, JobSpec, ShardSpec},
};

/// What the command line may set beside the job file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Instead of `shards`.
    pub shards: Option<u32>,
    /// Instead of `copies`.
    pub copies: Option<u32>,
}

/// A job ready to go on the ledger; all its content is in the block store.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// What it asks for.
    pub spec: JobSpec,
    /// Its shards, by slot.
    pub shards: Vec<ShardSpec>,
}

impl Prepared {
    /// Every root that must survive this node: bundle, model, manifest, held-out data, shards.
    pub fn roots(&self) -> Vec<ContentId> {
        let spec = &self.spec;
        let fixed = [spec.bundle, spec.model, spec.dataset_cid];
        fixed.into_iter().chain(spec.held_out).chain(self.shards.iter().map(|shard| shard.cid)).collect()
    }
}

/// Imports bundle and model, cuts the data set. Relative paths start at `base_directory`.
///
/// Content that the file names by CID must be in the store already ([`JobFile::needs`]).
pub fn prepare(
    job: &JobFile,
    base_directory: &Path,
    overrides: Overrides,
    files: &dyn Files,
) -> Result<Prepared, Error> {
    let job = overridden(job, overrides)?;
    let bundle = import_bundle(&job.bundle, base_directory, files)?;
    let model = import("model", &job.model, base_directory, files)?;
    let cut = cut(&job, base_directory, files)?;
    let spec = JobSpec {
        name: job.name.clone(),
        model_id: job.model_id.clone(),
        task_type: job.task_type,
        bundle,
        model,
        dataset_cid: cut.manifest,
        held_out: cut.held_out,
        seed: job.seed,
        rounds: job.rounds,
        local_steps: job.local_steps,
        checkpoint_every: job.checkpoint_every,
        config: job.config.clone(),
        output: job.output,
        codec: job.codec,
        rule: job.rule,
        outer: job.outer,
        quorum: job.quorum,
        resources: job.resources,
        round_limit_millis: millis(job.round_limit),
        deadline_millis: millis(job.deadline),
        budget: job.budget,
        settle: job.settle,
        copies: job.copies,
        session: job.session,
    };
    Ok(Prepared { spec, shards: cut.shards })
}

fn overridden(job: &JobFile, overrides: Overrides) -> Result<JobFile, Error> {
    let mut job = job.clone();
    job.shards = overrides.shards.unwrap_or(job.shards);
    job.copies = overrides.copies.unwrap_or(job.copies);
    job.check_counts()?;
    Ok(job)
}

fn import_bundle(bundle: &Content, base: &Path, files: &dyn Files) -> Result<ContentId, Error> {
    let cid = import("bundle", bundle, base, files)?;
    let entries =
        files.list(&cid).map_err(|source| Error::Import { key: "bundle", path: shown(bundle, base), source })?;
    let has_manifest = entries.iter().any(|(name, _)| name == "atlas.toml");
    has_manifest.then_some(cid).ok_or_else(|| Error::value("bundle", "names a directory with an `atlas.toml`"))
}

fn import(key: &'static str, content: &Content, base: &Path, files: &dyn Files) -> Result<ContentId, Error> {
    match content {
        Content::Cid(cid) => Ok(*cid),
        Content::Path(path) => {
            let path = base.join(path);
            let imported = files.import_path(&path).map_err(|source| Error::Import { key, path, source })?;
            Ok(imported.cid)
        }
    }
}

fn shown(content: &Content, base: &Path) -> PathBuf {
    match content {
        Content::Path(path) => base.join(path),
        Content::Cid(cid) => cid.to_string().into(),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A data set in pieces.
struct Cut {
    manifest: ContentId,
    held_out: Option<ContentId>,
    shards: Vec<ShardSpec>,
}

fn cut(_job: &JobFile, _base: &Path, _files: &dyn Files) -> Result<Cut, Error> {
    Err(Error::Cut("cutting data sets is not part of this build".into()))
}
