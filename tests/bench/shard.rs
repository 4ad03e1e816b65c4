//! A shard from one node process to another on loopback: verified, on the disk, synced.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Result;
use atlas_node::{
    api::{ShardAdd, ShardGet},
    clock,
    types::ContentId,
};

use super::{Arguments, mesh::free_port, node::Node, raw::Sender, report::Report};

pub(crate) const MIB: usize = 1024 * 1024;
/// What is moved if nothing else is said.
pub(crate) const SHARD_MIB: u32 = 1024;

/// What one transfer took.
pub(crate) struct Transfer {
    pub(crate) seconds: f64,
    /// MiB resident at most, of the node that gives and of the node that takes.
    pub(crate) peaks: [f64; 2],
}

/// All runs.
#[derive(Default)]
struct Samples {
    raw: Vec<f64>,
    disk: Vec<f64>,
    shard: Vec<f64>,
    peaks: [Vec<f64>; 2],
    raw_peaks: [Vec<f64>; 2],
}

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mib = arguments.shard_mib.unwrap_or(SHARD_MIB);
    let content = directory.path().join("content");
    write_synced(&content, mib)?;
    let settings = without_ledger(arguments)?;
    let flags = settings.iter().map(String::as_str).collect::<Vec<_>>();
    let mut giver = Node::spawn(directory.path(), "giver", &flags)?;
    let bootstrap = giver.ready().await?.0.listen.first().cloned().unwrap_or_default();
    let (cid, import_seconds) = import(&giver, content).await?;
    report.add("import, synced", "MiB/s", &[f64::from(mib) / import_seconds], "");
    report.add("import: resident at most", "MiB", &[giver.resident_mib()?[1]], "<= 64");

    let sender = Sender::start(u64::from(mib) * MIB as u64).await?;
    let mut samples = Samples::default();
    // The first pass warms caches and is not counted.
    for run in 0..=arguments.runs {
        let (raw_seconds, raw_peaks) = sender.fetch().await?;
        let disk_seconds = write_synced(&directory.path().join("disk"), mib)?;
        let taker = [&flags[..], &["--bootstrap", &bootstrap]].concat();
        let transfer = transfer(directory.path(), &format!("taker-{run}"), &taker, &giver, cid).await?;
        if run > 0 {
            samples.raw.push(f64::from(mib) / raw_seconds);
            samples.disk.push(f64::from(mib) / disk_seconds);
            samples.shard.push(f64::from(mib) / transfer.seconds);
            samples.peaks.iter_mut().zip(transfer.peaks).for_each(|(all, peak)| all.push(peak));
            samples.raw_peaks.iter_mut().zip(raw_peaks).for_each(|(all, peak)| all.push(peak));
        }
    }
    samples.tell(mib, report);
    giver.stop().await
}

/// Flags of a node that moves content, which needs no ledger: none answers.
pub(crate) fn without_ledger(arguments: &Arguments) -> Result<Vec<String>> {
    let rpc = format!("http://127.0.0.1:{}", free_port()?);
    let python = arguments.python.to_string_lossy().into_owned();
    Ok(["--ledger", "rpc", "--chain-rpc", &rpc, "--python", &python, "--storage-gb", "100"].map(str::to_owned).into())
}

impl Samples {
    fn tell(&self, mib: u32, report: &mut Report) {
        // Half of the raw stream is what is to be reached; a disk that is slower than that is the limit instead.
        let limits: Vec<f64> = self.raw.iter().zip(&self.disk).map(|(raw, disk)| (raw / 2.0).min(*disk)).collect();
        report.add(format!("{mib} MiB, verified, on disk"), "MiB/s", &self.shard, "");
        report.add("raw stream, same transport", "MiB/s", &self.raw, "");
        report.add("sequential write, synced", "MiB/s", &self.disk, "");
        report.ratio("of the raw stream", &self.shard, &self.raw, ">= 0.50");
        report.ratio("of the lesser of half the stream and disk", &self.shard, &limits, ">= 0.9");
        report.add("giver: resident at most", "MiB", &self.peaks[0], "<= 64");
        report.add("taker: resident at most", "MiB", &self.peaks[1], "<= 64");
        report.add("raw sender: resident at most", "MiB", &self.raw_peaks[0], "");
        report.add("raw reader: resident at most", "MiB", &self.raw_peaks[1], "");
    }
}

/// Puts a file into the store of a node: its name, and the seconds that took.
pub(crate) async fn import(giver: &Node, path: PathBuf) -> Result<(ContentId, f64)> {
    let began = clock::now_micros();
    let added = giver.client()?.shard_add(&ShardAdd { path, car: false }).await?;
    Ok((added.cid, seconds_since(began)))
}

/// A new node takes the content into its store.
pub(crate) async fn transfer(
    directory: &Path,
    label: &str,
    flags: &[&str],
    giver: &Node,
    cid: ContentId,
) -> Result<Transfer> {
    let mut taker = Node::spawn(directory, label, flags)?;
    taker.settled(1).await?;
    giver.forget_peak()?;
    taker.forget_peak()?;
    let client = taker.client()?;
    let began = clock::now_micros();
    client.shard_get(&ShardGet::keep(cid)).await?;
    let seconds = seconds_since(began);
    let peaks = [giver.resident_mib()?[1], taker.resident_mib()?[1]];
    // What it stored stays till the end: a file system that has just lost a thousand files is slower than others.
    taker.stop().await?;
    Ok(Transfer { seconds, peaks })
}

/// Writes that many MiB that no file system packs, and syncs: what the disk gives. In seconds.
pub(crate) fn write_synced(path: &Path, mib: u32) -> Result<f64> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0_u8; MIB];
    for bytes in piece.as_chunks_mut::<8>().0 {
        // xorshift64, Marsaglia 2003.
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        *bytes = word.to_le_bytes();
    }
    let began = clock::now_micros();
    let mut file = File::create(path)?;
    for number in 0..mib {
        // Every piece is another block.
        piece[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(seconds_since(began))
}

/// Since a time of [`clock::now_micros`].
pub(crate) fn seconds_since(began: u64) -> f64 {
    (clock::now_micros() - began) as f64 / 1e6
}
