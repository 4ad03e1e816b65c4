//! The peer of the shard transfer: one libp2p stream over the node's own transport, which nobody checks or keeps.
//!
//! Both ends are processes of their own. No swarm and no protocol stand between the stream and the reader, so this is
//! the most that the transport gives.

use std::{future::poll_fn, pin::Pin, process::Stdio, task::Poll};

use anyhow::{Context as _, Result, bail};
use atlas_node::{clock, identity::Keypair, swarm};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Multiaddr, Transport,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt},
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::node::resident_mib;

/// The word that makes this program the sender.
pub(crate) const SERVE: &str = "raw-serve";
/// The word that makes it the reader.
pub(crate) const FETCH: &str = "raw-fetch";
/// Bytes of one write or read: a block.
const PIECE: usize = 1024 * 1024;

/// A sender that runs.
pub(crate) struct Sender {
    child: Child,
    address: String,
    _lines: BufReader<ChildStdout>,
}

impl Sender {
    /// Starts a process that sends `bytes` to whoever opens a stream.
    pub(crate) async fn start(bytes: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([SERVE, &bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("its stdout is a pipe")?);
        let mut address = String::new();
        lines.read_line(&mut address).await?;
        Ok(Self { child, address: address.trim().to_owned(), _lines: lines })
    }

    /// Reads everything in a process of its own: seconds, and MiB resident at most of sender and reader.
    pub(crate) async fn fetch(&self) -> Result<(f64, [f64; 2])> {
        let output = Command::new(std::env::current_exe()?).args([FETCH, &self.address]).output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [seconds, reader] = numbers[..] else {
            bail!("the raw stream broke: {}", String::from_utf8_lossy(&output.stderr));
        };
        let sender = resident_mib(self.child.id().context("the sender is gone")?)?[1];
        Ok((seconds, [sender, reader]))
    }
}

/// The sender's process.
pub(crate) async fn serve(bytes: u64) -> Result<()> {
    let mut transport = swarm::transport(&key(1), None).map_err(anyhow::Error::from_boxed)?;
    transport.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        match poll_fn(|cx| Pin::new(&mut transport).poll(cx)).await {
            TransportEvent::NewAddress { listen_addr, .. } => println!("{listen_addr}"),
            TransportEvent::Incoming { upgrade, .. } => {
                tokio::spawn(async move {
                    let (_, muxer) = upgrade.await?;
                    send(muxer, bytes).await
                });
            }
            _ => {}
        }
    }
}

async fn send(mut muxer: StreamMuxerBox, bytes: u64) -> Result<()> {
    let mut stream = poll_fn(|cx| drive(&mut muxer, cx, StreamMuxerExt::poll_inbound_unpin)).await?;
    let driver = keep_going(muxer);
    let piece = vec![7; PIECE];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE as u64);
        stream.write_all(&piece[..usize::try_from(length)?]).await?;
        left -= length;
    }
    stream.close().await?;
    Ok(driver.await?)
}

/// The reader's process.
pub(crate) async fn fetch(address: Multiaddr) -> Result<()> {
    let mut transport = swarm::transport(&key(2), None).map_err(anyhow::Error::from_boxed)?;
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, mut muxer) = transport.dial(address, options)?.await?;
    let began = clock::now_micros();
    let mut stream = poll_fn(|cx| drive(&mut muxer, cx, StreamMuxerExt::poll_outbound_unpin)).await?;
    let driver = keep_going(muxer);
    // What is asked for opens the stream at the other end.
    stream.write_all(&[1]).await?;
    let mut buffer = vec![0; PIECE];
    while stream.read(&mut buffer).await? > 0 {}
    let seconds = (clock::now_micros() - began) as f64 / 1e6;
    driver.abort();
    println!("{seconds} {}", resident_mib(std::process::id())?[1]);
    Ok(())
}

fn key(number: u8) -> libp2p::identity::Keypair {
    Keypair::from_secret(&[number; 32]).to_libp2p()
}

type Opened = Result<libp2p::core::muxing::SubstreamBox, std::io::Error>;

/// Lets the connection work, and asks it for a stream.
fn drive(
    muxer: &mut StreamMuxerBox,
    cx: &mut std::task::Context<'_>,
    ask: fn(&mut StreamMuxerBox, &mut std::task::Context<'_>) -> Poll<Opened>,
) -> Poll<Opened> {
    if let Poll::Ready(stream) = ask(muxer, cx) {
        return Poll::Ready(stream);
    }
    match muxer.poll_unpin(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Pending,
    }
}

/// The connection works in a task of its own, as a swarm's connections do, until it ends.
fn keep_going(mut muxer: StreamMuxerBox) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while poll_fn(|cx| muxer.poll_unpin(cx)).await.is_ok() {} })
}
