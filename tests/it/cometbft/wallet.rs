//! The money of nodes on a real chain with an economy, through the commands that an operator types.

use std::{fs, process::Output};

use atlas_node::types::NodeKey;
use serde_json::Value;

use super::chain::{CHAIN_ID, Chain, SOON};
use crate::e2e::{
    lab::{Job, Lab, ONE_TASK, SHORT},
    node::Node,
    wait::{JOB, until},
};

/// Stake comes back after a while that a test can wait for, and all but work costs something.
const ECONOMY: &str = "unbonding_millis = 10_000\ntransaction_fee = 1\n";
/// What `ledger init` of a test's chain credits to each account.
pub(super) const FAUCET: u64 = 1_000_000;

/// A chain of one validator, and two nodes on it that know each other.
pub(super) async fn mesh() -> (Chain, Lab) {
    mesh_under(ECONOMY).await
}

/// The same, whose genesis has an economy of these numbers.
pub(super) async fn mesh_under(numbers: &str) -> (Chain, Lab) {
    let mut lab = Lab::new();
    let economy = lab.path().join("economy.toml");
    fs::write(&economy, numbers).unwrap();
    let mut chain = Chain::made_with(1, &["--economy", economy.to_str().unwrap()], &[]);
    chain.start_all(0..1).await;
    let url = chain.url(0);
    let flags = [&["--chain-rpc", url.as_str(), "--chain-id", CHAIN_ID], ONE_TASK].concat();
    lab.start("n0", &flags).await;
    let bootstrap = lab.nodes[0].address.clone();
    lab.start("n1", &[&flags[..], &["--bootstrap", &bootstrap]].concat()).await;
    for node in &mut lab.nodes {
        node.until_status("it is registered and not alone", |status| status.registered && status.peers > 0).await;
    }
    (chain, lab)
}

pub(super) fn run(node: &Node, arguments: &[&str]) -> Output {
    node.command(arguments).output().unwrap()
}

/// What a command with `--json` prints.
pub(super) fn json(node: &Node, arguments: &[&str]) -> Value {
    let output = run(node, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command says that is done.
pub(super) fn done(node: &Node, arguments: &[&str]) -> String {
    json(node, arguments)["message"].as_str().unwrap().to_owned()
}

pub(super) fn refused(node: &Node, arguments: &[&str], code: i32, words: &str) {
    let output = run(node, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && said.contains(words), "{arguments:?}: {:?}: {said}", output.status);
}

pub(super) fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {value}"))
}

/// The rewards of a node when each of three rounds is paid.
async fn settled(node: &Node) -> Value {
    until("all rewards of a node are paid", JOB, async || {
        let rewards = json(node, &["rewards"]);
        let rounds = rewards["rounds"].as_array().unwrap();
        let all = rounds.len() == 3 && rounds.iter().all(|round| round["waiting"].is_null());
        all.then_some(rewards)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_sends_bonds_and_asks_back_its_money_and_says_what_it_can_not() {
    let (_chain, lab) = mesh().await;
    let [one, two] = &lab.nodes[..] else { panic!("two nodes") };
    let before = json(one, &["wallet", "show"]);
    assert_eq!((number(&before, "balance"), number(&before, "bonded")), (FAUCET, 0));
    let other = json(two, &["wallet", "show"])["key"].as_str().unwrap().to_owned();
    other.parse::<NodeKey>().unwrap();

    // By peer id and by key; each costs the fee of one.
    assert_eq!(done(one, &["wallet", "send", &two.peer_id, "100"]), format!("sent 100 to {other}"));
    assert_eq!(done(one, &["wallet", "send", &other, "50"]), format!("sent 50 to {other}"));
    assert_eq!(number(&json(two, &["wallet", "show"]), "balance"), FAUCET + 150);
    assert_eq!(done(one, &["wallet", "bond", "700"]), "bonded 700");
    assert!(done(one, &["wallet", "unbond", "300"]).contains("wallet show"));
    let after = json(one, &["wallet", "show"]);
    assert_eq!((number(&after, "balance"), number(&after, "bonded")), (FAUCET - 150 - 700 - 4, 400));
    assert!(number(&after, "nonce") >= number(&before, "nonce") + 4);
    until("what was asked back is in the balance", SOON, async || {
        let wallet = json(one, &["wallet", "show"]);
        let back = wallet["unbonding"].as_array().unwrap().is_empty();
        (back && number(&wallet, "balance") == FAUCET - 150 - 400 - 4).then_some(())
    })
    .await;

    refused(one, &["wallet", "send", &other, "99000000"], 1, "send less");
    refused(one, &["wallet", "unbond", "401"], 1, "are bonded");
    refused(one, &["wallet", "bond", "0"], 2, "at least 1");
    refused(one, &["wallet", "send", "anna", "1"], 2, "peer id");
    let address = before["address"].as_str().unwrap();
    refused(one, &["wallet", "send", address, "1"], 2, "wallet show");
    refused(one, &["wallet", "send", &"02".repeat(32), "1"], 2, "mistyped");
}

#[tokio::test(flavor = "multi_thread")]
async fn rewards_wait_for_their_audit_window_and_are_paid_and_the_wallet_has_them() {
    let (chain, lab) = mesh().await;
    let [one, two] = &lab.nodes[..] else { panic!("two nodes") };
    let empty = json(one, &["rewards"]);
    assert_eq!((number(&empty, "paid"), empty["rounds"].as_array().unwrap().len()), (0, 0));
    let before = number(&json(one, &["wallet", "show"]), "balance");

    let submitted = lab.submit(1, &Job { rounds: 3, ..SHORT }).await;
    let waiting = until("a reward waits for its audit window", JOB, async || {
        let rewards = json(one, &["rewards"]);
        (number(&rewards, "waiting") > 0).then_some(rewards)
    })
    .await;
    let rounds = waiting["rounds"].as_array().unwrap();
    let open = rounds.iter().find(|round| round["waiting"].as_u64().is_some_and(|amount| amount > 0)).unwrap();
    assert_eq!(open["job"], submitted.job_id.to_string());
    assert_eq!(number(open, "due"), number(open, "height") + 20, "the genesis' audit window");

    lab.completed(0, submitted.job_id).await;
    let end = chain.height(0).await.unwrap();
    chain.until_height(0, end + 20).await;
    let (own, others) = (settled(one).await, settled(two).await);
    let job = lab.nodes[0].client().job(submitted.job_id).await.unwrap().job;
    assert_eq!((number(&own, "paid") + number(&others, "paid"), job.escrow), (job.paid, 0));
    // Its work cost nothing.
    let balance = number(&json(one, &["wallet", "show"]), "balance");
    assert_eq!(balance, before + number(&own, "paid"));
    let text = String::from_utf8(run(one, &["rewards"]).stdout).unwrap();
    assert!(text.contains("settled with block") && text.contains("paid in all"), "{text}");
}
