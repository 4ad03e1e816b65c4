//! A chain that gives leases only for stake, and nodes that have it, lack it, and bond it by themselves.

use std::fs;

use super::{
    chain::{CHAIN_ID, SOON},
    wallet::{FAUCET, done, json, mesh_under, number},
};
use crate::e2e::{
    lab::{Job, ONE_TASK, SHORT},
    wait::until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_stake_takes_no_lease_and_says_so_until_it_bonds_and_one_that_may_bonds_by_itself() {
    let (chain, mut lab) = mesh_under("min_stake = 1000\n").await;
    let submitted = lab.submit(0, &Job { shards: 1, rounds: 1, ..SHORT }).await;
    lab.until_job(0, submitted.job_id, "the other node says what it lacks", |detail| {
        let reason = detail.tasks[0].waiting.as_deref();
        reason.is_some_and(|reason| reason.contains("needs a stake of 1000"))
    })
    .await;
    assert_eq!(done(&lab.nodes[1], &["wallet", "bond", "1000"]), "bonded 1000");
    lab.completed(0, submitted.job_id).await;

    let directory = lab.path().join("n2");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("atlas.toml"), "ledger.stake = 1000\n").unwrap();
    let (url, bootstrap) = (chain.url(0), lab.nodes[0].address.clone());
    let flags = ["--chain-rpc", url.as_str(), "--chain-id", CHAIN_ID, "--bootstrap", &bootstrap];
    let own = lab.start("n2", &[&flags[..], ONE_TASK].concat()).await;
    let bonded = until("it bonds what its operator allows", SOON, async || {
        let wallet = json(&lab.nodes[own], &["wallet", "show"]);
        (number(&wallet, "bonded") > 0).then_some(wallet)
    })
    .await;
    assert_eq!((number(&bonded, "bonded"), number(&bonded, "balance")), (1_000, FAUCET - 1_000));
}
