//! Content between two nodes over lines that are far or lossy, beside what plain TCP gets of the same line.
//!
//! The line is `scripts/link`. Every run has a line and a connection of its own, so that the start of each is in the figure.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use atlas_node::{
    api::{ShardGet, client::Client},
    clock,
    types::ContentId,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use super::{
    Arguments,
    link::{End, Line, Link, Told},
    node::{Node, Place, within},
    report::Report,
    shard::{MIB, import, seconds_since, without_ledger, write_synced},
};

/// The word that makes this program the sender of a plain stream.
pub(crate) const SERVE: &str = "plain-serve";
/// The word that makes it the reader.
pub(crate) const FETCH: &str = "plain-fetch";
/// What is moved if nothing else is said: 21 seconds of the line, so that its start, about one at 200 ms, is a twentieth.
const SHARD_MIB: u32 = 256;
/// Mbit/s of every line.
const MBIT: u32 = 100;

/// A line, and what content has to take of it over each transport.
struct Far {
    rtt_ms: u32,
    loss: f64,
    targets: [&'static str; 2],
}

const FAR: [Far; 4] = [
    Far { rtt_ms: 50, loss: 0.0, targets: [">= 0.85", ">= 0.85"] },
    Far { rtt_ms: 200, loss: 0.0, targets: [">= 0.85", ">= 0.85"] },
    Far { rtt_ms: 50, loss: 0.01, targets: ["", ">= 0.60"] },
    Far { rtt_ms: 200, loss: 0.01, targets: ["", ">= 0.60"] },
];

/// How the nodes listen, and what that is called.
const TRANSPORTS: [(&str, &str); 2] = [("TCP", "tcp/0"), ("QUIC", "udp/0/quic-v1")];

/// Measures every line.
pub(crate) async fn measure(arguments: &Arguments) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mib = arguments.shard_mib.unwrap_or(SHARD_MIB);
    let content = directory.path().join("content");
    write_synced(&content, mib)?;
    let mut report = Report::new(arguments.json);
    for far in &FAR {
        let loss = if far.loss > 0.0 { format!(", {}% loss", far.loss * 100.0) } else { String::new() };
        report.begin(&format!("{MBIT} Mbit/s, {} ms{loss}", far.rtt_ms));
        let mut plain = Samples::default();
        for run in 0..arguments.runs {
            let link = lay(far, run)?;
            let seconds = plain_stream(&link, mib).await?;
            plain.add(mib, seconds, &link.end()?)?;
        }
        plain.tell("plain TCP", "", &mut report);
        for ((name, transport), target) in TRANSPORTS.iter().zip(far.targets) {
            let mut shard = Samples::default();
            for run in 0..arguments.runs {
                let link = lay(far, run)?;
                let seconds = transfer(&link, transport, arguments, directory.path(), &content).await?;
                shard.add(mib, seconds, &link.end()?)?;
            }
            shard.tell(&format!("shard over {name}"), target, &mut report);
        }
    }
    report.finish();
    Ok(())
}

/// One way to move it over one line, in all runs.
#[derive(Default)]
struct Samples {
    mib_s: Vec<f64>,
    /// Of the line.
    share: Vec<f64>,
    /// Percent of the packets that the line lost by its chance, and that found its queue full.
    lost: Vec<f64>,
    overflowed: Vec<f64>,
    /// How late the line was with a packet at most, and how much of a core it took: whether it was what it said.
    late_ms: Vec<f64>,
    cpu: Vec<f64>,
}

impl Samples {
    fn add(&mut self, mib: u32, seconds: f64, told: &Told) -> Result<()> {
        if told.from_left.missed + told.from_right.missed > 0 {
            bail!("the line was not run in time and missed packets: leave the machine to the measurement ({told:?})");
        }
        self.mib_s.push(f64::from(mib) / seconds);
        self.share.push(f64::from(mib) * (MIB * 8) as f64 / seconds / (f64::from(MBIT) * 1e6));
        let sent = &told.from_left;
        let percent = |count: u64| 100.0 * count as f64 / (sent.packets + sent.overflowed) as f64;
        self.lost.push(percent(sent.lost));
        self.overflowed.push(percent(sent.overflowed));
        self.late_ms.push(told.from_left.late_most_ms.max(told.from_right.late_most_ms));
        self.cpu.push(told.cpu_seconds / told.seconds);
        Ok(())
    }

    fn tell(&self, name: &str, target: &'static str, report: &mut Report) {
        report.add(name, "MiB/s", &self.mib_s, "");
        report.add("  of the line", "x", &self.share, target);
        report.add("  lost on the line", "%", &self.lost, "");
        report.add("  found its queue full", "%", &self.overflowed, "");
        report.add("  the line was late by", "ms", &self.late_ms, "");
        report.add("  the line took of a core", "x", &self.cpu, "");
    }
}

fn lay(far: &Far, run: u32) -> Result<Link> {
    let line = Line { mbit: MBIT, rtt_ms: far.rtt_ms, loss: far.loss, seed: u64::from(run) + 1 };
    Link::lay(&line)?.context("this machine lets nobody make a line; what is missing is said above")
}

/// Seconds that a new pair of nodes takes to move the content from the left to the right.
async fn transfer(
    link: &Link,
    transport: &str,
    arguments: &Arguments,
    directory: &Path,
    content: &Path,
) -> Result<f64> {
    let settings = without_ledger(arguments)?;
    let flags: Vec<&str> = settings.iter().map(String::as_str).collect();
    let place = |end: &End| Place { within: end.within.clone(), listen: format!("/ip4/{}/{transport}", end.address) };
    let mut giver = Node::spawn_at(&place(&link.left), directory, "giver", &flags)?;
    let bootstrap = giver.ready().await?.0.listen.first().cloned().unwrap_or_default();
    let (cid, _) = import(&giver, content.to_owned()).await?;
    let taker = [&flags[..], &["--bootstrap", &bootstrap]].concat();
    let mut taker = Node::spawn_at(&place(&link.right), directory, "taker", &taker)?;
    taker.settled(1).await?;
    taker.reached().await?;
    let seconds = fetch_seconds(&taker.client()?, cid).await?;
    taker.stop().await?;
    giver.stop().await?;
    for label in ["giver", "taker"] {
        std::fs::remove_dir_all(directory.join(label))?;
    }
    Ok(seconds)
}

async fn fetch_seconds(client: &Client, cid: ContentId) -> Result<f64> {
    let began = clock::now_micros();
    client.shard_get(&ShardGet::keep(cid)).await?;
    Ok(seconds_since(began))
}

/// Seconds that one TCP stream of the system takes for as many bytes.
async fn plain_stream(link: &Link, mib: u32) -> Result<f64> {
    let program = std::env::current_exe()?;
    let bytes = (u64::from(mib) * MIB as u64).to_string();
    let mut sender = within(&link.left.within, &program)
        .args([SERVE, &link.left.address, &bytes])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let address = first_line(sender.stdout.take().context("its stdout is a pipe")?).await?;
    let output = output(within(&link.right.within, &program).args([FETCH, &address])).await?;
    sender.kill().await?;
    output.trim().parse().with_context(|| format!("the plain stream broke: `{output}`"))
}

async fn first_line(stdout: tokio::process::ChildStdout) -> Result<String> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    Ok(line.trim().to_owned())
}

async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().await?;
    Ok(String::from_utf8(output.stdout)?)
}

/// The sender's process: says its address, and sends to the first who comes.
pub(crate) fn serve(host: &str, bytes: u64) -> Result<()> {
    let listener = TcpListener::bind((host, 0))?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let piece = vec![7; MIB];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(MIB as u64);
        stream.write_all(&piece[..usize::try_from(length)?])?;
        left -= length;
    }
    // Until the reader has seen the end.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The reader's process.
pub(crate) fn fetch(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let began = clock::now_micros();
    let mut buffer = vec![0; MIB];
    while stream.read(&mut buffer)? > 0 {}
    println!("{}", seconds_since(began));
    Ok(())
}
