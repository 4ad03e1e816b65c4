//! Looks at the block store while the node runs, slowly, for blocks that rotted.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::coordinator::Input;
use crate::{clock, store::BlockStore, types::Digest};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(10);
/// Bytes read in one look: 0.4 MB/s in all, which costs a disk and a core a few thousandths. A terabyte takes a month, as long
/// as disks' own patrol reads do.
const BYTES: u64 = 4 << 20;
/// A store that is small is not read again before this.
const ROUND: Duration = Duration::from_secs(24 * 3_600);

/// Looks until the node exits, and tells it of what rotted.
pub(super) async fn patrol(store: Arc<BlockStore>, inputs: mpsc::Sender<Input>) {
    // A node that never runs for long gets everywhere too.
    let mut from = Digest(clock::random_bytes());
    let mut round = clock::now();
    loop {
        tokio::time::sleep(PAUSE).await;
        let looked = Arc::clone(&store);
        let Ok(scrubbed) = tokio::task::spawn_blocking(move || looked.scrub(from, BYTES)).await else {
            tracing::error!("looking for rotten blocks panicked, and is given up; this is a bug");
            return;
        };
        if !scrubbed.rotten.is_empty() {
            tracing::warn!(blocks = ?scrubbed.rotten, "the disk lost blocks: check it; what is pinned is fetched again");
            if inputs.send(Input::Rotten).await.is_err() {
                return;
            }
        }
        from = match scrubbed.next {
            Some(next) => next,
            None => {
                tokio::time::sleep(ROUND.saturating_sub(clock::now().since(round))).await;
                round = clock::now();
                Digest([0; 32])
            }
        };
    }
}
