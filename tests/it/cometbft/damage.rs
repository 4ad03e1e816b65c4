//! A disk that gave back other bytes than were written: the validator says so and what to do, which works word by word.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tendermint_rpc::Client as _;

use super::{
    bad::snapshots_in,
    chain::{Chain, SOON, cometbft},
    writer::Writer,
};
use crate::e2e::wait::until;

/// The validator whose disk is bad, counted from 0. The other three go on.
const BAD: usize = 3;
/// Blocks between two snapshots: four of them are kept, for longer than a validator needs to fetch one.
const EVERY: u64 = 20;

/// Flips a bit of a file every `step` bytes from the end, `count` times.
fn flip_at_the_end(file: &Path, step: usize, count: usize) {
    let mut bytes = fs::read(file).unwrap();
    let last = bytes.len() - 1;
    (1..=count).filter_map(|number| last.checked_sub(number * step)).for_each(|place| bytes[place] ^= 1);
    fs::write(file, bytes).unwrap();
}

/// The file that CometBFT's block store appends to.
fn block_store(home: &Path) -> PathBuf {
    let files = fs::read_dir(home.join("data/blockstore.db")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// The last height that the validator signed.
fn last_signed(home: &Path) -> u64 {
    let state: Value = serde_json::from_slice(&fs::read(home.join("data/priv_validator_state.json")).unwrap()).unwrap();
    state["height"].as_str().unwrap().parse().unwrap()
}

/// Does what the validator said, and waits until it has come back from a snapshot of the others and signed.
async fn follow_the_words(chain: &mut Chain, words: &str) {
    let home = chain.home(BAD).0;
    for part in ["reset-state --home", "priv_validator_state.json is there", "[statesync]", "Check the disk"] {
        assert!(words.contains(part), "{words}");
    }
    let signed = last_signed(&home);
    let reset = Command::new(cometbft()).args(["reset-state", "--home"]).arg(&home).output().unwrap();
    assert!(reset.status.success(), "{reset:?}");
    fs::remove_dir_all(chain.home(BAD).application()).unwrap();
    assert_eq!(last_signed(&home), signed, "what was signed last stays, so that nothing is signed twice");
    let earliest = chain.rpc(0).status().await.unwrap().sync_info.earliest_block_height.value();
    chain.begin_from_a_snapshot(BAD, earliest + 5, [0, 1]).await;
    let restored = |chain: &Chain| chain.log(BAD, "ledger").matches("the ledger is restored").count();
    let before = restored(chain);
    chain.start(BAD);
    until("the ledger is restored from a snapshot", SOON, async || (restored(chain) > before).then_some(())).await;
    chain.agrees(BAD, 0).await;
    until("it signs again", SOON, async || (last_signed(&home) > signed).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_and_a_damaged_last_block_are_told_with_what_to_do_and_come_back_from_the_others() {
    let every = EVERY.to_string();
    let mut chain = Chain::new(4, &["--snapshot-every", &every, "--keep-blocks", "10"]);
    chain.start_all(0..4).await;
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0), chain.url(1)]);
    writer.submit(20);
    writer.until_acknowledged(0).await;
    // The first blocks are given up by now.
    chain.until_height(BAD, 2 * EVERY + 5).await;

    // All snapshots: the blocks from the first on are needed, and CometBFT has them no more.
    chain.stop(BAD).await;
    let snapshots = snapshots_in(&chain.home(BAD).application());
    assert!(!snapshots.is_empty());
    snapshots.iter().for_each(|file| flip_at_the_end(file, 200, 1));
    chain.start(BAD);
    let words = chain.until_given_up(BAD).await;
    assert!(words.contains("too far below block store base"), "{words}");
    let log = chain.log(BAD, "ledger");
    assert!(log.contains("snapshots is whole") && log.contains("from a snapshot of the other validators"), "{log}");
    follow_the_words(&mut chain, &words).await;

    // The last blocks in CometBFT's own store.
    chain.stop(BAD).await;
    flip_at_the_end(&block_store(&chain.home(BAD).0), 256, 40);
    chain.start(BAD);
    let words = chain.until_given_up(BAD).await;
    assert!(words.contains("> StoreBlockHeight"), "{words}");
    follow_the_words(&mut chain, &words).await;

    writer.submit(5);
    writer.until_acknowledged(0).await;
    assert!(writer.distrusted.is_empty());
}
