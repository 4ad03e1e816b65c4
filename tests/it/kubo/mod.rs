//! Beside a real Kubo (`.tools/bin/ipfs`, from `scripts/setup --dev`): names, archives and pins mean the same to both.

mod daemon;
mod helia;
mod names;
mod pins;
mod restore;

use atlas_node::{
    shard::Files,
    store::{BlockStore, blocks::Quota},
};

/// An empty block store with room for anything here, and its directory.
fn empty_store() -> (tempfile::TempDir, Files) {
    let directory = tempfile::Builder::new().prefix("atlas-kubo-").tempdir().unwrap();
    let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 8 << 30 }).unwrap();
    (directory, Files::new(store))
}
