//! Content between real nodes: ends that are killed, sources that are slow, and sources that lie.
//!
//! No ledger is needed, and none is there.

mod kills;
mod seeders;

use std::{
    fs,
    path::{Path, PathBuf},
};

use atlas_node::{
    api::{Shard, ShardAdd, ShardGet},
    types::ContentId,
};

use crate::e2e::{
    lab::{Lab, free_port},
    node::Node,
};

const MIB: usize = 1 << 20;

/// Nodes that move content among themselves.
struct Mesh {
    lab: Lab,
    rpc: String,
}

impl Mesh {
    fn new() -> Self {
        Self { lab: Lab::new(), rpc: format!("http://127.0.0.1:{}", free_port()) }
    }

    fn node(&self, label: &str, flags: &[&str]) -> Node {
        // Nobody answers there: content moves without a ledger.
        let flags = [&["--ledger", "rpc", "--chain-rpc", &self.rpc, "--storage-gb", "4"], flags].concat();
        Node::new(self.lab.path(), label, &flags)
    }

    /// A node that has the content of the file at `path`.
    async fn seeder(&self, label: &str, path: &Path, flags: &[&str]) -> (Node, Shard) {
        let mut node = self.node(label, flags);
        node.start().await;
        let shard = node.client().shard_add(&ShardAdd { path: path.to_owned(), car: false }).await.unwrap();
        (node, shard)
    }

    /// A node without content that is connected with `seeders`.
    async fn taker(&self, label: &str, seeders: &[&Node]) -> Node {
        let bootstraps = seeders.iter().flat_map(|seeder| ["--bootstrap", &seeder.address]);
        let mut node = self.node(label, &bootstraps.collect::<Vec<_>>());
        node.start().await;
        let all = u32::try_from(seeders.len()).unwrap();
        node.until_status("it is connected with the seeders", |status| status.peers >= all).await;
        node
    }

    /// A file of so many MiB, no two alike.
    fn file(&self, name: &str, mib: usize) -> PathBuf {
        let path = self.lab.path().join(name);
        fs::write(&path, mebibytes(mib)).unwrap();
        path
    }
}

/// So many MiB, no two alike.
fn mebibytes(mib: usize) -> Vec<u8> {
    bytes(mib * MIB, 0)
}

/// Bytes that don't repeat within a chunk and differ between files.
pub(crate) fn bytes(length: usize, salt: u64) -> Vec<u8> {
    (salt..).flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).take(length).collect()
}

/// Fetches and keeps; the error as a person would read it.
async fn get(node: &Node, cid: ContentId) -> Result<Shard, String> {
    node.client().shard_get(&ShardGet::keep(cid)).await.map_err(|error| error.to_string())
}

/// Writes what `node` has to a file and compares.
async fn assert_same(node: &Node, cid: ContentId, original: &Path) {
    let to = node.data_dir.with_extension("out");
    node.client().shard_get(&ShardGet::to(cid, to.clone())).await.unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(original).unwrap(), "{} has other bytes", node.label);
    fs::remove_file(to).unwrap();
}

/// Bytes of content that its process received from peers.
async fn received(node: &Node) -> u64 {
    node.client().metrics().await.unwrap().bytes.shards.received
}
