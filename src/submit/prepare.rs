//! Imports what a job file names. Blocks on the disk; runs off the event loop.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Content, Error, JobFile, Records};
use crate::{
    clock,
    shard::dataset::{self, CutSpec, Manifest, RecordFormat},
    store::Files,
    tensor,
    types::{ContentId, DataKey, Digest, JobSpec, ShardSpec},
};

/// Files and directories of a bundle. A vendored PyTorch has about 20,000; every worker lays out all of them for each process.
const MAX_BUNDLE_ENTRIES: usize = 65_536;

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
    /// What shards and held-out data are sealed with. It is not in the spec, which everybody reads.
    pub data_key: Option<DataKey>,
}

impl Prepared {
    /// Every root that must survive this node: bundle, model, manifest, held-out data, shards.
    pub fn roots(&self) -> Vec<ContentId> {
        let spec = &self.spec;
        let fixed = [spec.bundle, spec.model, spec.dataset_cid];
        fixed.into_iter().chain(spec.held_out).chain(self.shards.iter().map(|shard| shard.cid)).collect()
    }
}

/// Imports bundle and model, cuts the data set. Relative paths start at `base_directory`; `scratch` is a directory that holds the
/// data set once more while it is cut.
///
/// Content that the file names by CID must be in the store already ([`JobFile::needs`]).
pub fn prepare(
    job: &JobFile,
    base_directory: &Path,
    scratch: &Path,
    overrides: Overrides,
    files: &dyn Files,
) -> Result<Prepared, Error> {
    let job = overridden(job, overrides)?;
    let bundle = import_bundle(&job.bundle, base_directory, files)?;
    let model = import("model", &job.model, base_directory, files)?;
    let model_root = model_root(&model, files)?;
    let scratch = scratch_in(scratch)?;
    let data_key = job.data.sealed.then(|| DataKey(clock::random_bytes()));
    let manifest = cut(&job, base_directory, scratch.path(), data_key.clone(), files)?;
    let dataset_cid = manifest.store(files).map_err(dataset::Error::Store)?;
    let spec = JobSpec {
        name: job.name.clone(),
        model_id: job.model_id.clone(),
        task_type: job.task_type,
        bundle,
        model,
        model_root,
        dataset_cid,
        held_out: manifest.held_out,
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
        data_key: data_key.as_ref().map(DataKey::commitment),
    };
    Ok(Prepared { spec, shards: manifest.shards, data_key })
}

fn overridden(job: &JobFile, overrides: Overrides) -> Result<JobFile, Error> {
    let mut job = job.clone();
    job.shards = overrides.shards.unwrap_or(job.shards);
    job.copies = overrides.copies.unwrap_or(job.copies);
    job.check_counts()?;
    Ok(job)
}

fn import_bundle(bundle: &Content, base: &Path, files: &dyn Files) -> Result<ContentId, Error> {
    if let Content::Path(path) = bundle {
        check_size(&base.join(path))?;
    }
    let cid = import("bundle", bundle, base, files)?;
    let entries =
        files.list(&cid).map_err(|source| Error::Import { key: "bundle", path: shown(bundle, base), source })?;
    let has_manifest = entries.iter().any(|(name, _)| name == "atlas.toml");
    has_manifest.then_some(cid).ok_or_else(|| Error::value("bundle", "names a directory with an `atlas.toml`"))
}

/// Counts before anything is read: importing a million files takes minutes and fills the block store.
fn check_size(bundle: &Path) -> Result<(), Error> {
    let mut open = vec![bundle.to_owned()];
    let mut entries = 0;
    while let Some(directory) = open.pop() {
        // What can't be read is told by the import.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            entries += 1;
            if entries > MAX_BUNDLE_ENTRIES {
                let reason = format!(
                    "has over {MAX_BUNDLE_ENTRIES} files and directories: leave out what the script does not need (caches, \
                     `.git`), and put data into the data set"
                );
                return Err(Error::value("bundle", reason));
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    Ok(())
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

/// What the first round's receipts must begin from.
fn model_root(model: &ContentId, files: &dyn Files) -> Result<Digest, Error> {
    let limit = usize::try_from(tensor::MAX_FILE_BYTES).unwrap_or(usize::MAX);
    let import = |source| Error::Import { key: "model", path: model.to_string().into(), source };
    let bytes = files.read(model, limit).map_err(import)?;
    let unusable = |error: tensor::Error| Error::value("model", format!("names no usable safetensors file: {error}"));
    let root = tensor::root::of_file(&bytes).map_err(unusable)?;
    // Every update of such a model would be refused, after the work was done.
    tensor::Tensors::parse(bytes.into()).and_then(|model| model.check_finite()).map_err(unusable)?;
    Ok(root)
}

fn shown(content: &Content, base: &Path) -> PathBuf {
    match content {
        Content::Path(path) => base.join(path),
        Content::Cid(cid) => cid.to_string().into(),
    }
}

fn scratch_in(parent: &Path) -> Result<tempfile::TempDir, Error> {
    let made = tempfile::Builder::new().prefix("cut-").tempdir_in(parent);
    made.map_err(|source| dataset::Error::Io { path: parent.to_owned(), source }.into())
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Cuts the data set; one that is named by CID is written to `scratch` first, because cutting reads it at random.
fn cut(job: &JobFile, base: &Path, scratch: &Path, key: Option<DataKey>, files: &dyn Files) -> Result<Manifest, Error> {
    let (source, file_name) = match &job.data.source {
        Content::Path(path) => (base.join(path), file_name(path)?),
        Content::Cid(cid) => {
            let path = scratch.join("data");
            files.export(cid, &path).map_err(|source| Error::Import {
                key: "data.path",
                path: cid.to_string().into(),
                source,
            })?;
            (path, "data".to_owned())
        }
    };
    let format = match job.data.records {
        Records::Lines { header } => RecordFormat::Lines { header },
        Records::Fixed { bytes } => RecordFormat::Fixed { bytes },
    };
    let scratch = scratch.to_owned();
    let (seed, slots, held_out) = (job.seed, job.shards, job.data.held_out);
    let spec = CutSpec { source, format, seed, slots, held_out, file_name, scratch, key };
    Ok(dataset::cut(&spec, files)?)
}

fn file_name(path: &Path) -> Result<String, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| Error::value("data.path", "names a file with a name in UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{shard, store::blocks};

    const JOB: &str = "name='ridge'\nbundle='bundle'\nmodel='model.safetensors'\nseed=7\nrounds=2\nlocal_steps=5\n\
                       shards=3\n[data]\npath='table.csv'\nheader=true\nheld_out=0.25\n";

    /// A directory with a bundle, a model and a table of 20 records, and a block store.
    fn scene() -> (tempfile::TempDir, shard::Files) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("bundle")).unwrap();
        fs::write(path.join("bundle/atlas.toml"), "name = 'ridge'").unwrap();
        // A safetensors file with one tensor of one number.
        let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let model = [&(header.len() as u64).to_le_bytes(), &header[..], &1_f32.to_le_bytes()].concat();
        fs::write(path.join("model.safetensors"), model).unwrap();
        let table: String = (0..20).map(|record| format!("{record},{}\n", record * 2)).collect();
        fs::write(path.join("table.csv"), format!("x,y\n{table}")).unwrap();
        let store = blocks::BlockStore::open(&path.join("blocks"), blocks::Quota { bytes: 1 << 30 }).unwrap();
        (directory, shard::Files::new(store))
    }

    fn prepared(
        text: &str,
        overrides: Overrides,
        scene: &(tempfile::TempDir, shard::Files),
    ) -> Result<Prepared, Error> {
        let base = scene.0.path();
        prepare(&JobFile::parse(text).unwrap(), base, base, overrides, &scene.1)
    }

    #[test]
    fn a_job_file_becomes_a_job_whose_content_is_stored() {
        let scene = scene();
        let first = prepared(JOB, Overrides::default(), &scene).unwrap();
        assert_eq!(first.shards.iter().map(|shard| shard.records).collect::<Vec<_>>(), [5, 5, 5]);
        for root in first.roots() {
            let to = scene.0.path().join(format!("out-{root}"));
            scene.1.export(&root, &to).unwrap();
        }
        let held_out = scene.0.path().join(format!("out-{}", first.spec.held_out.unwrap())).join("table.csv");
        assert_eq!(fs::read_to_string(held_out).unwrap().lines().count(), 1 + 5, "a header and a quarter of 20");
        assert_eq!(prepared(JOB, Overrides::default(), &scene).unwrap(), first, "the same file is the same job");
    }

    #[test]
    fn the_command_line_overrides_counts_and_stays_within_their_range() {
        let scene = scene();
        let two = Overrides { shards: Some(2), copies: Some(0) };
        let job = prepared(JOB, two, &scene).unwrap();
        assert_eq!((job.shards.len(), job.spec.copies), (2, 0));
        assert!(prepared(JOB, Overrides { shards: Some(0), copies: None }, &scene).is_err());
    }

    #[test]
    fn content_is_named_by_cid_as_well_as_by_path() {
        let scene = scene();
        let by_path = prepared(JOB, Overrides::default(), &scene).unwrap();
        let table = scene.1.import_path(&scene.0.path().join("table.csv")).unwrap().cid;
        let text = JOB
            .replace("'bundle'", &format!("'{}'", by_path.spec.bundle))
            .replace("'model.safetensors'", &format!("'{}'", by_path.spec.model))
            .replace("'table.csv'", &format!("'{table}'"));
        let by_cid = prepared(&text, Overrides::default(), &scene).unwrap();
        assert_eq!((by_cid.spec.bundle, by_cid.spec.model), (by_path.spec.bundle, by_path.spec.model));
        assert_eq!(by_cid.shards.len(), 3);
    }

    #[test]
    fn what_is_missing_or_no_bundle_is_named_by_its_key() {
        let scene = scene();
        for (from, to, expected) in [
            ("'bundle'", "'nowhere'", "`bundle`"),
            ("'bundle'", "'blocks'", "atlas.toml"),
            ("'model.safetensors'", "'nowhere'", "`model`"),
            ("'table.csv'", "'nowhere'", "`data`"),
        ] {
            let error = prepared(&JOB.replace(from, to), Overrides::default(), &scene).unwrap_err();
            assert!(error.to_string().contains(expected), "{to}: {error}");
        }
        let few = prepared(JOB, Overrides { shards: Some(16), copies: None }, &scene).unwrap_err();
        assert!(matches!(few, Error::Cut(_)), "{few}");
    }

    #[test]
    fn a_bundle_of_a_hundred_thousand_files_is_refused_before_any_is_read() {
        let scene = scene();
        let many = scene.0.path().join("bundle/node_modules/many");
        fs::create_dir_all(&many).unwrap();
        for number in 0..100_000 {
            fs::File::create(many.join(number.to_string())).unwrap();
        }
        let used = scene.1.store().used_bytes();
        let error = prepared(JOB, Overrides::default(), &scene).unwrap_err().to_string();
        assert!(error.contains("`bundle` has over 65536 files"), "{error}");
        assert_eq!(scene.1.store().used_bytes(), used, "nothing was stored");
        fs::remove_dir_all(scene.0.path().join("bundle/node_modules")).unwrap();
        prepared(JOB, Overrides::default(), &scene).unwrap();
    }

    #[test]
    fn a_model_that_is_no_safetensors_file_or_not_finite_is_refused_by_its_key() {
        let scene = scene();
        let file =
            |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        let one = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        for (bytes, expected) in [
            (b"".to_vec(), "header"),
            (b"PK\x03\x04 a zip file of another format".to_vec(), "header"),
            (u64::MAX.to_le_bytes().to_vec(), "claims 18446744073709551615 bytes"),
            ((1_u64 << 40).to_le_bytes().to_vec(), "claims 1099511627776 bytes"),
            (file("{}", b"trailing"), "byte"),
            (file(one, &[0; 3]), "byte"),
            (file(&one.replace("[1]", "[2]"), &[0; 4]), "w"),
            (file(&one.replace("[1]", "[4294967296,4294967296]"), &[0; 4]), "w"),
            (file(one, &f32::NAN.to_le_bytes()), "finite"),
            (file(one, &f32::NEG_INFINITY.to_le_bytes()), "finite"),
        ] {
            fs::write(scene.0.path().join("model.safetensors"), &bytes).unwrap();
            let error = prepared(JOB, Overrides::default(), &scene).unwrap_err().to_string();
            assert!(error.contains("`model` names no usable safetensors file"), "{error}");
            assert!(error.contains(expected), "`{expected}` is missing in: {error}");
        }
    }
}
