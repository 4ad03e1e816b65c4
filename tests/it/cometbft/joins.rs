//! Several validators: one dies and catches up, another comes late and begins from a snapshot.

use tendermint::block::{CommitSig, Height};
use tendermint_rpc::Client as _;

use super::{
    chain::{Chain, SOON},
    replay::replay,
    writer::Writer,
};
use crate::e2e::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_four_validators_is_killed_and_catches_up_to_the_same_app_hash_while_the_others_go_on() {
    let mut chain = Chain::new(4, &["--snapshot-every", "5"]);
    chain.start_all(0..4).await;
    let urls: Vec<String> = (0..3).map(|validator| chain.url(validator)).collect();
    let mut writer = Writer::new(chain.path(), 1, &urls);
    for part in ["cometbft", "ledger"] {
        writer.submit(30);
        writer.until_acknowledged(20).await;
        let killed = chain.kill(3, part);
        let before = chain.height(0).await.unwrap();
        writer.until_acknowledged(0).await;
        let what = format!("{part} of the killed validator is started again");
        until(&what, SOON, async || chain.pid(3, part).filter(|pid| *pid != killed)).await;
        let height = chain.until_height(0, before + 3).await;
        chain.until_height(3, height).await;
        assert!(chain.agrees(3, 0).await >= before, "it caught up");
    }
    for validator in 0..4 {
        chain.agrees(validator, (validator + 1) % 4).await;
    }
    let replayed = replay(&chain.rpc(3), chain.height(3).await.unwrap()).await;
    replayed.holds(&writer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_validator_begins_from_a_snapshot_of_the_others_and_signs() {
    let mut chain = Chain::new(5, &["--snapshot-every", "10"]);
    chain.start_all(0..4).await;
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0), chain.url(1)]);
    writer.submit(40);
    writer.until_acknowledged(0).await;
    chain.until_height(0, 13).await;

    chain.begin_from_a_snapshot(4, 5, [0, 1]).await;
    chain.start(4);

    let restored = until("the ledger is restored from a snapshot", SOON, async || {
        chain.log(4, "ledger").contains("the ledger is restored").then_some(())
    });
    restored.await;
    let began = chain.until_height(4, 1).await;
    let earliest = chain.rpc(4).status().await.unwrap().sync_info.earliest_block_height.value();
    assert!(earliest > 1, "it has no block before its snapshot, but has block {earliest}");
    chain.agrees(4, 0).await;

    let address = chain.rpc(4).status().await.unwrap().validator_info.address;
    let mut next = began;
    until("the others count its vote", SOON, async || {
        let commit = chain.rpc(0).commit(Height::try_from(next).unwrap()).await.ok()?.signed_header.commit;
        next += 1;
        let signed = commit.signatures.iter().any(|vote| {
            matches!(vote, CommitSig::BlockIdFlagCommit { validator_address, .. } if *validator_address == address)
        });
        signed.then_some(())
    })
    .await;
}
