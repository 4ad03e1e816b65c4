//! A shard between two nodes beside everything that people would move it with otherwise, in one run on one machine.
//!
//! Each peer is a program with two ends. `serve` says its process and how to reach it; `fetch` brings the content, verified and on
//! the disk, and says the seconds and its own peak of memory. `scripts/bench-peers` installs them and calls this.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use atlas_node::clock;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    Arguments,
    node::{Node, resident_mib},
    raw::Sender,
    report::Report,
    shard::{MIB, SHARD_MIB, import, seconds_since, transfer, without_ledger, write_synced},
};

/// The word that makes this program the reader of a file over HTTP.
pub(crate) const HTTP_FETCH: &str = "http-fetch";
/// The word of [`HTTP_FETCH`] for a file that is only hashed.
const NOWHERE: &str = "-";

/// What the node is compared with.
struct Peer {
    /// What it is called on the command line.
    key: &'static str,
    name: &'static str,
    /// What ours should be of it.
    target: &'static str,
    /// Its program, below the checkout, and what stands first on its command line.
    program: &'static [&'static str],
}

const PEERS: [Peer; 5] = [
    Peer { key: "http", name: "nginx to SHA-256", target: ">= 1.0", program: &["scripts/peers/nginx"] },
    Peer { key: "http-disk", name: "nginx to SHA-256 and disk", target: "", program: &["scripts/peers/nginx"] },
    Peer { key: "iroh", name: "iroh-blobs", target: ">= 2", program: &["target/peers/release/atlas-peer-iroh"] },
    Peer { key: "kubo", name: "Kubo bitswap", target: ">= 2", program: &["scripts/peers/kubo"] },
    Peer { key: "helia", name: "Helia", target: ">= 7", program: &[".tools/bin/node", "scripts/peers/helia/peer.js"] },
];

/// What peers are called, for the command line.
pub(crate) const NAMES: [&str; PEERS.len()] = {
    let mut names = [""; PEERS.len()];
    let mut index = 0;
    while index < PEERS.len() {
        names[index] = PEERS[index].key;
        index += 1;
    }
    names
};

/// What one way of moving it took, over all runs.
#[derive(Default)]
struct Samples {
    mib_s: Vec<f64>,
    /// MiB resident at most of who gives and who takes.
    peaks: [Vec<f64>; 2],
}

impl Samples {
    fn add(&mut self, mib: u32, seconds: f64, peaks: [f64; 2]) {
        self.mib_s.push(f64::from(mib) / seconds);
        self.peaks.iter_mut().zip(peaks).for_each(|(all, peak)| all.push(peak));
    }

    fn tell(&self, name: &str, limit: &'static str, report: &mut Report) {
        report.add(name, "MiB/s", &self.mib_s, "");
        report.add(format!("{name}: giver resident"), "MiB", &self.peaks[0], limit);
        report.add(format!("{name}: taker resident"), "MiB", &self.peaks[1], limit);
    }
}

/// A peer whose giving end runs. Dropping it ends that.
struct Server {
    peer: &'static Peer,
    child: Child,
    process: u32,
    /// How to reach it: what its other end is told.
    address: Vec<String>,
}

impl Server {
    async fn start(peer: &'static Peer, content: &Path, directory: &Path) -> Result<Self> {
        let mut child = command(peer)
            .arg("serve")
            .arg(content)
            .arg(directory.join(format!("{}-giver", peer.key)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start; scripts/bench-peers installs it", peer.name))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout is a pipe")?).read_line(&mut line).await?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let process = words.next().and_then(|word| word.parse().ok());
        let process = process.with_context(|| format!("{} said no process but `{}`", peer.name, line.trim()))?;
        Ok(Self { peer, child, process, address: words.collect() })
    }

    /// Seconds, and MiB resident at most of both ends.
    async fn fetch(&self, directory: &Path, digest: &str) -> Result<(f64, [f64; 2])> {
        let place = directory.join(format!("{}-taker", self.peer.key));
        let mut command = match self.peer.key {
            "http" => http_reader(&self.address, digest, Path::new(NOWHERE))?,
            "http-disk" => http_reader(&self.address, digest, &place)?,
            _ => {
                let mut command = command(self.peer);
                command.arg("fetch").args(&self.address).arg(&place);
                command
            }
        };
        // The greatest resident size is counted from here, as documented in proc(5).
        fs::write(format!("/proc/{}/clear_refs", self.process), "5")?;
        let output = command.stdin(Stdio::null()).output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [seconds, taker] = numbers[..] else {
            bail!("{} broke: {text}{}", self.peer.name, String::from_utf8_lossy(&output.stderr));
        };
        let giver = resident_mib(self.process)?[1];
        remove(&place)?;
        Ok((seconds, [giver, taker]))
    }

    async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().await?;
        Ok(())
    }
}

fn command(peer: &Peer) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join(peer.program[0]));
    command.args(&peer.program[1..]).current_dir(root);
    command
}

fn http_reader(address: &[String], digest: &str, to: &Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(HTTP_FETCH).args(address).arg(digest).arg(to);
    Ok(command)
}

fn remove(place: &Path) -> Result<()> {
    match fs::metadata(place) {
        Ok(found) if found.is_dir() => Ok(fs::remove_dir_all(place)?),
        Ok(_) => Ok(fs::remove_file(place)?),
        Err(_) => Ok(()),
    }
}

/// Measures the node and every peer that is not left out.
pub(crate) async fn measure(arguments: &Arguments) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mib = arguments.shard_mib.unwrap_or(SHARD_MIB);
    let content = directory.path().join("content");
    write_synced(&content, mib)?;
    let digest = digest_of(&content)?;
    let mut servers = Vec::new();
    for peer in PEERS.iter().filter(|peer| !arguments.without.iter().any(|left_out| left_out == peer.key)) {
        servers.push(Server::start(peer, &content, directory.path()).await?);
    }
    let settings = without_ledger(arguments)?;
    let flags: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut giver = Node::spawn(directory.path(), "giver", &flags)?;
    let bootstrap = giver.ready().await?.0.listen.first().cloned().unwrap_or_default();
    let (cid, _) = import(&giver, content).await?;
    let raw = Sender::start(u64::from(mib) * MIB as u64).await?;
    let (mut ours, mut stream, mut disk) = (Samples::default(), Samples::default(), Vec::new());
    let mut theirs: Vec<Samples> = servers.iter().map(|_| Samples::default()).collect();
    // The first pass warms caches and is not counted.
    for run in 0..=arguments.runs {
        let counted = run > 0;
        let (seconds, peaks) = raw.fetch().await?;
        if counted {
            stream.add(mib, seconds, peaks);
        }
        let seconds = write_synced(&directory.path().join("disk"), mib)?;
        disk.extend(counted.then(|| f64::from(mib) / seconds));
        let taker = [&flags[..], &["--bootstrap", &bootstrap]].concat();
        let moved = transfer(directory.path(), &format!("taker-{run}"), &taker, &giver, cid).await?;
        if counted {
            ours.add(mib, moved.seconds, moved.peaks);
        }
        for (server, samples) in servers.iter().zip(&mut theirs) {
            let (seconds, peaks) = server.fetch(directory.path(), &digest).await?;
            if counted {
                samples.add(mib, seconds, peaks);
            }
        }
    }
    giver.stop().await?;
    tell(arguments, mib, &ours, (&stream, &disk), servers.iter().map(|server| server.peer).zip(&theirs));
    for server in servers {
        server.stop().await?;
    }
    Ok(())
}

fn tell<'a>(
    arguments: &Arguments,
    mib: u32,
    ours: &Samples,
    (stream, disk): (&Samples, &[f64]),
    theirs: impl Iterator<Item = (&'static Peer, &'a Samples)>,
) {
    let mut report = Report::new(arguments.json);
    report.begin(&format!("{mib} MiB"));
    ours.tell("atlas-node", "<= 64", &mut report);
    stream.tell("raw libp2p stream", "", &mut report);
    report.add("sequential write, synced", "MiB/s", disk, "");
    report.ratio("ours to the raw stream", &ours.mib_s, &stream.mib_s, ">= 0.50");
    // Half of the raw stream is what is to be reached; a disk that is slower than that is the limit instead.
    let limits: Vec<f64> = stream.mib_s.iter().zip(disk).map(|(stream, disk)| (stream / 2.0).min(*disk)).collect();
    report.ratio("ours to the lesser of half the stream and disk", &ours.mib_s, &limits, ">= 0.9");
    for (peer, samples) in theirs {
        samples.tell(peer.name, "", &mut report);
        report.ratio(format!("ours to {}", peer.name), &ours.mib_s, &samples.mib_s, peer.target);
    }
    report.finish();
}

fn digest_of(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut piece = vec![0; MIB];
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// The reader's process: a file over HTTP, hashed as it comes, and on the disk unless it is to go nowhere.
pub(crate) async fn http_fetch(url: &str, digest: &str, to: &str) -> Result<()> {
    let began = clock::now_micros();
    let mut body = reqwest::get(url).await?.error_for_status()?.bytes_stream();
    let mut file = (to != NOWHERE).then(|| File::create(PathBuf::from(to))).transpose()?;
    let mut hasher = Sha256::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        hasher.update(&piece);
        if let Some(file) = &mut file {
            file.write_all(&piece)?;
        }
    }
    if let Some(file) = file {
        file.sync_all()?;
    }
    if hex::encode(hasher.finalize()) != digest {
        bail!("the bytes are others");
    }
    println!("{} {}", seconds_since(began), resident_mib(std::process::id())?[1]);
    Ok(())
}
