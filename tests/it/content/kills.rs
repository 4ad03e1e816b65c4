//! Either end of a transfer is killed at any moment: nothing is wrong afterwards, and nothing that was there is moved again.

use std::{fs, path::Path, time::Duration};

use atlas_node::clock;

use super::{Mesh, assert_same, get, received};
use crate::e2e::node::Node;

/// A transfer takes about so long at the giver's limit.
const TRANSFER: Duration = Duration::from_millis(1_500);
/// MiB of content.
const CONTENT: usize = 64;
/// The giver's limit, in Mbit/s: the content in [`TRANSFER`].
const LIMIT: &str = "360";
/// Kills, half of them of each end; `ATLAS_TEST_KILLS` says how many more there are.
const KILLS: u32 = 4;

/// Bytes of whole blocks in a node's store.
fn held(node: &Node) -> u64 {
    let blocks = node.data_dir.join("blocks");
    let directories = fs::read_dir(blocks.join("placed")).unwrap().map(|entry| entry.unwrap().path());
    directories.chain([blocks.join("fresh")]).map(|directory| whole_blocks(&directory)).sum()
}

fn whole_blocks(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    // A block is named by its digest; what is being written is not.
    let blocks = entries.filter(|entry| entry.file_name().len() == 64);
    blocks.map(|entry| entry.metadata().unwrap().len()).sum()
}

/// A moment in the life of a transfer, before it, or after it.
fn moment() -> Duration {
    let [low, high, ..] = clock::random_bytes::<32>();
    TRANSFER.mul_f64(f64::from(u16::from_le_bytes([low, high])) / f64::from(u16::MAX) * 1.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_end_is_killed_nothing_is_wrong_and_nothing_is_fetched_twice() {
    let kills = std::env::var("ATLAS_TEST_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let mesh = Mesh::new();
    let original = mesh.file("original", CONTENT);
    let (mut giver, shard) = mesh.seeder("giver", &original, &["--upload-mbit", LIMIT]).await;
    for number in 0..kills {
        let mut taker = mesh.taker(&format!("taker-{number}"), &[&giver]).await;
        let moment = moment();
        if number % 2 == 0 {
            let ended = tokio::time::timeout(moment, get(&taker, shard.cid)).await.is_ok();
            taker.kill();
            let held = held(&taker);
            taker.start().await;
            taker.until_status("it is connected again", |status| status.peers > 0).await;
            assert_eq!(get(&taker, shard.cid).await.unwrap().size, shard.size);
            let again = received(&taker).await;
            assert_eq!(again, shard.size - held, "killed after {moment:?} with {held} bytes (ended: {ended})");
        } else {
            let (mut fetch, wait) = (Box::pin(get(&taker, shard.cid)), tokio::time::sleep(moment));
            let early = tokio::select! {
                ended = &mut fetch => Some(ended),
                () = wait => None,
            };
            giver.kill();
            giver.start().await;
            let ended = match early {
                Some(ended) => ended,
                None => fetch.await,
            };
            assert_eq!(ended.unwrap().size, shard.size, "killed after {moment:?}");
            assert_eq!(received(&taker).await, shard.size, "killed after {moment:?}");
        }
        assert_same(&taker, shard.cid, &original).await;
        taker.ask_to_stop();
        taker.stopped().await;
        fs::remove_dir_all(&taker.data_dir).unwrap();
    }
}
