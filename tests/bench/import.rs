//! A file into the block store: beside SHA-256 on all cores, a synced write, and `ipfs add` where there is one.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};
use atlas_node::{
    clock,
    shard::{Files, import},
    store::{BlockStore, Files as _, blocks::Quota},
};
use sha2::{Digest, Sha256};

use super::{
    Arguments,
    report::Report,
    shard::{MIB, SHARD_MIB, seconds_since, write_synced},
};

pub(crate) fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (content, mib) = (directory.path().join("content"), arguments.shard_mib.unwrap_or(SHARD_MIB));
    write_synced(&content, mib)?;
    let rate = |seconds: f64| f64::from(mib) / seconds;
    let kubo = Kubo::find(directory.path())?;
    let (mut limit, mut named, mut disk, mut stored) = (vec![], vec![], vec![], vec![]);
    let mut theirs = [vec![], vec![]];
    // The first pass warms caches and is not counted.
    for run in 0..=arguments.runs {
        let figures = [
            sha256_on_all_cores(mib),
            timed(|| Ok(import::name(&content).map(drop)?))?,
            write_synced(&directory.path().join("disk"), mib)?,
            store(&content, &directory.path().join(format!("store-{run}")))?,
        ];
        if run > 0 {
            for (samples, seconds) in [&mut limit, &mut named, &mut disk, &mut stored].into_iter().zip(figures) {
                samples.push(rate(seconds));
            }
        }
        if let Some(kubo) = kubo.as_ref().filter(|_| run > 0) {
            theirs[0].push(rate(kubo.add(&["--only-hash"], &content)?));
            theirs[1].push(rate(kubo.add(&["--pin=false"], &content)?));
            kubo.forget()?;
        }
    }
    report.add("SHA-256, all cores", "MiB/s", &limit, "");
    report.add("shard add --only-hash", "MiB/s", &named, "");
    report.ratio("--only-hash of SHA-256", &named, &limit, ">= 0.8");
    report.add("sequential write, synced", "MiB/s", &disk, "");
    report.add("stored and synced", "MiB/s", &stored, "");
    report.ratio("stored of written", &stored, &disk, ">= 0.8");
    if kubo.is_some() {
        report.add("ipfs add --only-hash", "MiB/s", &theirs[0], "");
        report.ratio("--only-hash to ipfs add --only-hash", &named, &theirs[0], "");
        report.add("ipfs add", "MiB/s", &theirs[1], "");
        report.ratio("stored to ipfs add", &stored, &theirs[1], ">= 2");
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = clock::now_micros();
    work()?;
    Ok(seconds_since(began))
}

/// Hashes so many MiB from memory, a share on each core. In seconds.
fn sha256_on_all_cores(mib: u32) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let piece = vec![7_u8; MIB];
    let began = clock::now_micros();
    std::thread::scope(|scope| {
        for core in 0..cores {
            let (piece, share) = (&piece, (mib as usize + core) / cores);
            scope.spawn(move || {
                (0..share).for_each(|_| {
                    std::hint::black_box(Sha256::digest(piece));
                })
            });
        }
    });
    seconds_since(began)
}

/// Imports into a new store, synced. In seconds.
fn store(content: &Path, directory: &Path) -> Result<f64> {
    let files = Files::new(BlockStore::open(directory, Quota { bytes: 100 << 30 })?);
    timed(|| Ok(files.import_path(content).map(drop)?))
}

/// A repository of Kubo's, offline.
struct Kubo {
    program: PathBuf,
    directory: PathBuf,
}

impl Kubo {
    /// `scripts/setup --dev` builds it; without it there is no comparison.
    fn find(directory: &Path) -> Result<Option<Self>> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/ipfs");
        if !program.exists() {
            eprintln!("no {}: `ipfs add` is left out; scripts/setup --dev builds it", program.display());
            return Ok(None);
        }
        let kubo = Self { program, directory: directory.join("kubo") };
        // Its default, as ours: what is added is on the disk when the command ends (`flatfs` with `sync`).
        kubo.run(&["init", "--profile=test,unixfs-v1-2025"])?;
        Ok(Some(kubo))
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("IPFS_PATH", &self.directory).env("IPFS_TELEMETRY", "off");
        let output = command.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("ipfs {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// `ipfs add`. In seconds.
    fn add(&self, flags: &[&str], content: &Path) -> Result<f64> {
        let content = content.to_string_lossy();
        timed(|| self.run(&[&["add", "--quieter", "--progress=false"], flags, &[&*content]].concat()))
    }

    /// Deletes what was added, so that it is added again and not found.
    fn forget(&self) -> Result<()> {
        self.run(&["repo", "gc", "--quiet"])
    }
}
