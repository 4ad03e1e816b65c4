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
    link::{Line, Link},
    mesh::free_port,
    node::{Node, Place, within},
    report::Report,
    shard::{import, seconds_since, write_synced},
};

/// The word that makes this program the sender of a plain stream.
pub(crate) const SERVE: &str = "plain-serve";
/// The word that makes it the reader.
pub(crate) const FETCH: &str = "plain-fetch";
const MIB: usize = 1024 * 1024;
/// What is moved if nothing else is said: eleven seconds of the line, so that its start, about one, is a tenth.
const SHARD_MIB: u32 = 128;
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
        let mut late = Vec::new();
        let mut plain = Vec::new();
        for run in 0..arguments.runs {
            let link = lay(far, run)?;
            plain.push(plain_stream(&link, mib).await?);
            late.push(end(link)?);
        }
        tell(&mut report, "plain TCP", mib, &plain, "");
        for ((name, transport), target) in TRANSPORTS.iter().zip(far.targets) {
            let mut took = Vec::new();
            for run in 0..arguments.runs {
                let link = lay(far, run)?;
                took.push(transfer(&link, transport, arguments, directory.path(), &content).await?);
                late.push(end(link)?);
            }
            tell(&mut report, &format!("shard over {name}"), mib, &took, target);
        }
        report.add("the line itself: latest packet", "ms late", &late, "");
    }
    report.finish();
    Ok(())
}

fn lay(far: &Far, run: u32) -> Result<Link> {
    let line = Line { mbit: MBIT, rtt_ms: far.rtt_ms, loss: far.loss, seed: u64::from(run) + 1 };
    Link::lay(&line)?.context("this machine lets nobody make a line; what is missing is said above")
}

/// How late the line was, in ms. It must have seen every packet.
fn end(link: Link) -> Result<f64> {
    let told = link.end()?;
    if told.from_left.missed + told.from_right.missed > 0 {
        bail!("the line was not run in time and missed packets: leave the machine to the measurement ({told:?})");
    }
    Ok(told.from_left.late_most_ms.max(told.from_right.late_most_ms))
}

fn tell(report: &mut Report, name: &str, mib: u32, seconds: &[f64], target: &'static str) {
    let rates: Vec<f64> = seconds.iter().map(|seconds| f64::from(mib) / seconds).collect();
    let share = |rate: &f64| rate * (MIB * 8) as f64 / (f64::from(MBIT) * 1e6);
    let shares: Vec<f64> = rates.iter().map(share).collect();
    report.add(name, "MiB/s", &rates, "");
    report.add(format!("{name}, of the line"), "x", &shares, target);
}

/// Seconds that a new pair of nodes takes to move the content from the left to the right.
async fn transfer(
    link: &Link,
    transport: &str,
    arguments: &Arguments,
    directory: &Path,
    content: &Path,
) -> Result<f64> {
    // No ledger answers: content moves without one.
    let rpc = format!("http://127.0.0.1:{}", free_port()?);
    let python = arguments.python.to_string_lossy();
    let flags = ["--ledger", "rpc", "--chain-rpc", &rpc, "--python", &python, "--storage-gb", "10"];
    let place = |end: &super::link::End| Place {
        within: end.within.clone(),
        listen: format!("/ip4/{}/{transport}", end.address),
    };
    let mut giver = Node::spawn_at(&place(&link.left), directory, "giver", &flags)?;
    let bootstrap = giver.ready().await?.0.listen.first().cloned().unwrap_or_default();
    let (cid, _) = import(&giver, content.to_owned()).await?;
    let taker = [&flags[..], &["--bootstrap", &bootstrap]].concat();
    let mut taker = Node::spawn_at(&place(&link.right), directory, "taker", &taker)?;
    taker.until("connected", |status| status.peers > 0).await?;
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
    client.shard_get(&ShardGet { cid, to: None }).await?;
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
