//! One end of a transfer with iroh-blobs over loopback, with its store of files, as a user of the library would write it.
//!
//!     atlas-peer-iroh serve FILE DIR            prints its process, its address and the blob's hash; until its stdin ends
//!     atlas-peer-iroh fetch NODE ADDRESS HASH DIR    prints the seconds until the blob is on the disk, and MiB resident at most

use std::{net::SocketAddr, path::Path, time::Instant};

use anyhow::{Context as _, Result, bail};
use iroh::{Endpoint, EndpointAddr, endpoint::presets, protocol::Router};
use iroh_blobs::{ALPN, BlobsProtocol, Hash, store::fs::FsStore};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", file, directory] => serve(Path::new(file), Path::new(directory)).await,
        ["fetch", node, address, hash, directory] => {
            let node = EndpointAddr::new(node.parse()?).with_ip_addr(address.parse()?);
            fetch(node, hash.parse()?, Path::new(directory)).await
        }
        _ => bail!("serve FILE DIR, or fetch NODE ADDRESS HASH DIR"),
    }
}

/// On loopback alone: no relays, and no look-ups.
async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0".parse::<SocketAddr>()?)?.bind().await?)
}

async fn serve(file: &Path, directory: &Path) -> Result<()> {
    let store = FsStore::load(directory).await?;
    let tag = store.blobs().add_path(std::path::absolute(file)?).await?;
    let endpoint = endpoint().await?;
    let router = Router::builder(endpoint.clone()).accept(ALPN, BlobsProtocol::new(&store, None)).spawn();
    let address = *endpoint.bound_sockets().first().context("it is bound to no address")?;
    println!("{} {} {address} {}", std::process::id(), endpoint.id(), tag.hash);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    router.shutdown().await?;
    Ok(())
}

async fn fetch(node: EndpointAddr, hash: Hash, directory: &Path) -> Result<()> {
    let store = FsStore::load(directory).await?;
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(node, ALPN).await?;
    let began = Instant::now();
    store.remote().fetch(connection, hash).await?;
    store.sync_db().await?;
    // Its store leaves the content to the system's own time; for what is on the disk at the end it is synced here.
    let synced = std::process::Command::new("sync").arg("--file-system").arg(directory).status()?;
    if !synced.success() {
        bail!("sync failed");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{seconds} {}", peak_mib()?);
    endpoint.close().await;
    Ok(())
}

/// The greatest resident size so far, as proc(5) tells it.
fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("/proc has no VmHWM")?;
    let kib: f64 = line.split_whitespace().next().context("VmHWM has no number")?.parse()?;
    Ok(kib / 1024.0)
}
