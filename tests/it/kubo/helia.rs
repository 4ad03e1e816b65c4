//! Helia, a third implementation, reads what we pinned on Kubo: by Kubo's bitswap, and with its own reading of UnixFS.

use std::{fs, process::Stdio, time::Duration};

use atlas_node::{ipfs::Pinner, store::Files as _};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::{daemon::Kubo, done, empty_store};
use crate::{content::bytes, interop::installed};

/// Helia starts and reads in two seconds on an idle machine.
const READ: Duration = Duration::from_secs(60);

/// What is pinned: files around the boundary of a chunk, and a directory in another. None is empty: for the block of an empty
/// file Helia 7.1.15 waits for ever, whoever added it to Kubo.
const FILES: [(&str, usize); 4] =
    [("word", 5), ("chunk and a byte", (1 << 20) + 1), ("inner/three chunks", 3 << 20), ("inner/ünï", 70_000)];

/// As Helia prints it: a line a file with its length, its SHA-256 and its path.
fn line(path: &str, content: &[u8]) -> String {
    format!("{} {} {path}", content.len(), hex::encode(Sha256::digest(content)))
}

#[tokio::test(flavor = "multi_thread")]
async fn helia_reads_from_kubo_what_a_node_pinned_there() {
    let (place, files) = empty_store();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("inner")).unwrap();
    let mut expected = Vec::new();
    for (path, length) in FILES {
        let content = bytes(length, length as u64);
        fs::write(source.join(path), &content).unwrap();
        expected.push(line(path, &content));
    }
    expected.sort();
    let root = files.import_path(&source).unwrap().cid;

    let mut kubo = Kubo::new();
    let rpc = kubo.start_online().await;
    let pinner = Pinner::start(rpc.parse().unwrap(), files.store().clone(), &place.path().join("pins")).unwrap();
    pinner.pin(root, "a directory").unwrap();
    done(&pinner, 1).await;

    let (node, peer) = installed("peers/helia");
    let mut helia = Command::new(node);
    helia.arg("peer.js").arg("tree").arg(kubo.peer_address()).arg(root.to_string()).arg(place.path().join("helia"));
    let run = helia.current_dir(peer).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(READ, run).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, expected);
}
