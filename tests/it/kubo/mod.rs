//! Beside a real Kubo (`.tools/bin/ipfs`, from `scripts/setup --dev`): names, archives and pins mean the same to both.

mod daemon;
mod helia;
mod names;
mod pins;
mod restore;

use std::time::Duration;

use atlas_node::{
    ipfs::Pinner,
    shard::Files,
    store::{BlockStore, blocks::Quota},
};

use crate::e2e::wait::until;

/// What is wished is on Kubo by then: a pin is retried after a second, then two, then four.
const PINNED: Duration = Duration::from_secs(60);

/// Waits until so many wishes are fulfilled.
async fn done(pinner: &Pinner, count: u64) {
    until("the wish is fulfilled", PINNED, async || (pinner.status().done >= count).then_some(())).await;
}

/// An empty block store with room for anything here, and its directory.
fn empty_store() -> (tempfile::TempDir, Files) {
    let directory = tempfile::Builder::new().prefix("atlas-kubo-").tempdir().unwrap();
    let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 8 << 30 }).unwrap();
    (directory, Files::new(store))
}
