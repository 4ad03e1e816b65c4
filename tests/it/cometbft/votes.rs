//! A validator of a real chain changes a number of its ledger with the commands that an operator types.

use std::fs;

use atlas_node::types::{ParameterVote, Signed};
use serde_json::Value;

use super::{
    chain::SOON,
    wallet::{done, json, mesh, number, refused, run},
};
use crate::e2e::wait::until;

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_votes_for_a_fee_and_the_ledger_takes_it_from_the_named_block_on() {
    let (chain, lab) = mesh().await;
    let [one, two] = &lab.nodes[..] else { panic!("two nodes") };
    let before = json(one, &["ledger", "parameters"]);
    assert_eq!((number(&before, "version"), number(&before, "since")), (1, 1));
    assert_eq!(before["values"]["economy.transaction_fee"], 1);
    assert_eq!(before["proposals"].as_array().unwrap().len(), 0);

    let home = chain.home(0).0.display().to_string();
    let vote = |set: &str, from: u64| {
        let from = from.to_string();
        ["ledger", "vote", "--home", &home, "--set", set, "--from", &from].map(str::to_owned)
    };
    // Far enough for what follows until it is sent, and near enough for a test.
    let from = chain.height(0).await.unwrap() + 300;
    refused(one, &words(&vote("tax=1", from)), 1, "`tax` is no parameter");
    refused(one, &words(&vote("economy.transaction_fee=1", 1)), 1, "propose it for a later one");
    refused(one, &words(&vote("economy.transaction_fee=a", from)), 2, "whole number");
    let nowhere = lab.path().join("nowhere").display().to_string();
    refused(
        one,
        &["ledger", "vote", "--home", &nowhere, "--set", "base_reward=1", "--from", "9"],
        2,
        "home of a validator",
    );

    // Signed where the key is, and sent by a node elsewhere.
    let printed = run(one, &[&words(&vote("economy.transaction_fee=5", from))[..], &["--print"]].concat());
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let signed: Signed = serde_json::from_slice(&printed.stdout).unwrap();
    let opened: ParameterVote = signed.open().unwrap();
    assert_eq!(opened.change.from_height, from);
    let file = lab.path().join("vote.json");
    fs::write(&file, &printed.stdout).unwrap();
    let file = file.to_str().unwrap();
    assert!(done(two, &["ledger", "send-votes", file]).contains("ledger parameters"));
    let open = json(one, &["ledger", "parameters"]);
    let proposals = open["proposals"].as_array().unwrap();
    let proposal: &Value = &proposals[0];
    assert_eq!((proposals.len(), number(proposal, "from_height")), (1, from));
    assert!(proposal["accepted_height"].is_u64(), "one validator is more than two thirds of one: {open}");
    refused(two, &["ledger", "send-votes", file], 1, "was accepted");

    chain.until_height(0, from).await;
    let after = until("the number is in force", SOON, async || {
        let parameters = json(one, &["ledger", "parameters"]);
        (number(&parameters, "version") == 2).then_some(parameters)
    })
    .await;
    assert_eq!((number(&after, "since"), &after["values"]["economy.transaction_fee"]), (from, &Value::from(5)));
    assert_eq!(after["proposals"].as_array().unwrap().len(), 0);
    let balance = |wallet: &Value| number(wallet, "balance");
    let rich = balance(&json(one, &["wallet", "show"]));
    done(one, &["wallet", "send", &two.peer_id, "10"]);
    assert_eq!(balance(&json(one, &["wallet", "show"])), rich - 10 - 5, "the new fee");
}
