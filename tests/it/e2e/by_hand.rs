//! What a person does with a few terminals.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use atlas_node::{
    api::{Infer, LedgerWay, NodeEvent, Status},
    types::{NodeStatus, Settle},
};
use futures::{Stream, StreamExt};

use super::{
    lab::{Job, Lab, ONE_TASK, SHORT, free_port},
    node::Node,
    wait::{START, until},
};
use crate::executor::host::{bundles, python};

/// The offline limit of the test's nodes and two beats, and what a machine that builds beside the test may add.
const NOTICED: Duration = Duration::from_millis(3_500 + 2_000 + 3_000);
/// A goodbye is told at once: before any silence could count.
const AT_ONCE: Duration = Duration::from_millis(3_000);

/// Waits until a node reports this status of a peer.
async fn until_told(events: &mut (impl Stream<Item = NodeEvent> + Unpin), peer: &str, wanted: NodeStatus) {
    while let Some(event) = events.next().await {
        if matches!(&event, NodeEvent::NodeStatus { peer_id, status } if peer_id == peer && *status == wanted) {
            return;
        }
    }
    panic!("the events ended");
}

async fn until_on_ledger(observer: &Node, peer: &str, wanted: NodeStatus) {
    let client = observer.client();
    until(&format!("{peer} is {wanted:?} on the ledger"), START, async || {
        client.nodes().await.ok()?.into_iter().find(|node| node.id == peer && node.status == wanted)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_find_each_other_and_do_a_job_together() {
    let lab = Lab::mesh(2, ONE_TASK).await;
    for node in &lab.nodes {
        let peers = node.client().peers().await.unwrap();
        let mut found: Vec<&str> = peers.iter().map(|peer| peer.peer_id.as_str()).collect();
        let mut others: Vec<&str> =
            lab.nodes.iter().map(|node| node.peer_id.as_str()).filter(|peer| *peer != node.peer_id).collect();
        found.sort_unstable();
        others.sort_unstable();
        assert_eq!(found, others, "{} sees the other two", node.label);
    }

    let submitted = lab.submit(2, &Job { shards: 3, copies: 2, ..SHORT }).await;
    assert_eq!((submitted.tasks, submitted.copies), (3, 2), "{:?}", submitted.warnings);
    let detail = lab.completed(0, submitted.job_id).await;
    assert_eq!(detail.job.creator, lab.nodes[2].peer_id);
    // Each has room for one task, so each did one.
    for round in &detail.rounds {
        let workers: BTreeSet<&String> = round.applied.values().collect();
        assert_eq!(workers.len(), 3);
        assert!(round.votes >= 2);
    }
    let losses: Vec<f64> = detail.rounds.iter().map(|round| round.loss.unwrap()).collect();
    assert!(losses[1] < losses[0], "it learns: {losses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_and_who_dies_is_noticed_and_comes_back_under_its_name() {
    let mut lab = Lab::mesh(2, ONE_TASK).await;
    lab.all_online(0).await;
    let name = lab.nodes[2].peer_id.clone();

    let mut watchers = [lab.nodes[0].events().await, lab.nodes[1].events().await];
    lab.nodes[2].ask_to_stop();
    for events in &mut watchers {
        let told = until_told(events, &name, NodeStatus::Offline);
        tokio::time::timeout(AT_ONCE, told).await.expect("the others hear the goodbye at once");
    }
    let status = lab.nodes[2].stopped().await;
    assert!(status.success(), "a node that is told to stop ends with 0: {status}");
    until_on_ledger(&lab.nodes[0], &name, NodeStatus::Offline).await;

    let address = lab.nodes[2].address.clone();
    lab.nodes[2].start().await;
    assert_eq!(lab.nodes[2].peer_id, name);
    assert_eq!(lab.nodes[2].address, address, "it is found where it was");
    lab.all_online(1).await;

    let mut watchers = [lab.nodes[0].events().await, lab.nodes[1].events().await];
    lab.nodes[2].kill();
    let noticed = async {
        for events in &mut watchers {
            until_told(events, &name, NodeStatus::Offline).await;
        }
    };
    tokio::time::timeout(NOTICED, noticed).await.expect("silence is noticed within the offline limit and two beats");
    until_on_ledger(&lab.nodes[1], &name, NodeStatus::Offline).await;

    lab.nodes[2].start().await;
    assert_eq!(lab.nodes[2].peer_id, name);
    lab.all_online(0).await;
    // Each node has room for one task: three tasks need the one that came back.
    let submitted = lab.submit(0, &Job { shards: 3, ..SHORT }).await;
    let detail = lab.completed(1, submitted.job_id).await;
    assert!(detail.rounds[0].applied.values().any(|worker| *worker == name));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_without_any_ledger_do_a_job_that_settles_nowhere() {
    let mut lab = Lab::new();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let flags = [ONE_TASK, &["--chain-rpc", &nowhere]].concat();
    lab.start("first", &flags).await;
    let bootstrap = lab.nodes[0].address.clone();
    lab.start("second", &[&flags[..], &["--bootstrap", &bootstrap]].concat()).await;
    lab.nodes[1].until_status("it is connected", |status| status.peers == 1).await;
    let status = lab.nodes[1].client().status().await.unwrap();
    assert!(!status.registered && status.ledger.way == LedgerWay::Unreachable, "{:?}", status.ledger);

    let submitted = lab.submit(1, &Job { settle: "none", ..SHORT }).await;
    let warned = submitted.warnings.iter().any(|warning| warning.contains("lost"));
    assert!(warned, "that the ledger is lost with the submitter is said: {:?}", submitted.warnings);
    let detail = lab.completed(1, submitted.job_id).await;
    assert_eq!(detail.job.settle, Settle::None);
    let workers: BTreeSet<&String> = detail.rounds[0].applied.values().collect();
    assert_eq!(workers.len(), 2, "each has room for one task, so each did one");
    assert_eq!(lab.completed(0, submitted.job_id).await.job.model_root, detail.job.model_root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_whose_rpc_does_not_answer_is_reached_through_its_host_and_no_other() {
    let mut lab = Lab::mesh(1, ONE_TASK).await;
    let bootstrap = lab.nodes[0].address.clone();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let flags = ["--chain-rpc", &nowhere, "--bootstrap", &bootstrap];
    let host = lab.nodes[0].peer_id.clone();
    lab.start("far", &[&flags[..], &["--ledger-host", &host]].concat()).await;
    let status = lab.nodes[2].until_status("it stands on the ledger", |status| status.registered).await;
    assert_eq!((status.ledger.way, status.ledger.endpoint), (LedgerWay::Peer, Some(host)));
    // A node that carries no ledger is no way to one, whoever names it.
    let other = lab.nodes[1].peer_id.clone();
    lab.start("misled", &[&flags[..], &["--ledger-host", &other]].concat()).await;
    let status = lab.nodes[3].until_status("it tried", |status| status.ledger.reason.is_some()).await;
    assert_eq!((status.ledger.way, status.registered), (LedgerWay::Unreachable, false));

    // The first host that answers over RPC is remembered, and asked when RPC is gone.
    lab.nodes[1].ask_to_stop();
    lab.nodes[1].stopped().await;
    lab.nodes[1].change_flag("--chain-rpc", &nowhere);
    lab.nodes[1].start().await;
    let found = |status: &Status| status.registered && status.ledger.way == LedgerWay::Peer;
    lab.nodes[1].until_status("it found the way", found).await;
}

/// A job of the ridge bundle that comes along, on a table that it makes itself.
fn ridge_job(directory: &Path) -> PathBuf {
    let bundle = bundles().join("ridge");
    let make = |arguments: &[&str], name: &str| {
        let made =
            Command::new(python()).arg(bundle.join("make.py")).args(arguments).arg(directory.join(name)).status();
        assert!(made.unwrap().success());
    };
    make(&["model"], "init.safetensors");
    make(&["table", "80"], "table.csv");
    let file = directory.join("ridge.toml");
    let text = format!(
        "name = 'ridge'\nbundle = '{}'\nmodel = 'init.safetensors'\nseed = 3\nrounds = 4\nlocal_steps = 60\n\
         shards = 2\nsession = true\ncopies = 1\nbudget = 1000\n[data]\npath = 'table.csv'\n\
         [resources]\ncpu_cores = 0.5\nmemory_gb = 0.5\nstorage_gb = 0.5\n[config]\nridge = 0\n",
        bundle.display()
    );
    fs::write(&file, text).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn another_bundle_is_trained_and_answers_questions() {
    let lab = Lab::mesh(1, &[]).await;
    let submitted = lab.submit_file(1, &ridge_job(lab.path())).await;
    let detail = lab.completed(0, submitted.job_id).await;
    lab.completed(1, submitted.job_id).await;

    let question = |features: &[f64]| Infer {
        job: Some(submitted.job_id),
        model: None,
        input: serde_json::json!({ "features": features }),
        via: None,
    };
    let asker = lab.nodes[0].client();
    let answer = asker.infer(&question(&[0.5, -0.5, 0.5, 0.0])).await.unwrap();
    let value = answer.result["prediction"].as_f64().unwrap();
    assert!((value - 5.0).abs() < 0.1, "0.75 + 1 + 0.25 + 3 is 5, not {value}");
    assert_eq!(answer.node, lab.nodes[1].peer_id, "the other node answers");
    let wrong = asker.infer(&question(&[0.5])).await.unwrap_err();
    assert!(wrong.to_string().contains("must be 4 numbers"), "{wrong}");

    // The same from the command line.
    let (job, input) = (detail.job.id.to_string(), r#"{"features": [0, 0, 0, 0]}"#);
    let output = lab.nodes[1].command(&["infer", "--json", "--job", &job, "--input", input]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!((answer["result"]["prediction"].as_f64().unwrap() - 3.0).abs() < 0.1, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_says_what_is_missing_and_joins_when_its_peer_appears() {
    let mut lab = Lab::new();
    let (swarm, rpc) = (free_port(), format!("http://127.0.0.1:{}", free_port()));
    let bootstrap = format!("/ip4/127.0.0.1/tcp/{swarm}");
    lab.start("alone", &["--bootstrap", &bootstrap, "--chain-rpc", &rpc]).await;
    let status = lab.nodes[0]
        .until_status("it tried", |status| {
            status.ledger.reason.is_some() && status.alone.as_ref().is_some_and(|alone| alone.contains("trying again"))
        })
        .await;
    assert_eq!((status.peers, status.registered, status.ledger.way), (0, false, LedgerWay::Unreachable));
    let shown = lab.nodes[0].command(&["status"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(&status.alone.unwrap()) && shown.contains(&status.ledger.reason.unwrap()), "{shown}");

    // The peer appears where it was looked for, and carries the ledger where that was looked for.
    let listen = format!("/ip4/127.0.0.1/tcp/{swarm}");
    lab.start("peer", &["--listen", &listen, "--ledger", "embedded", "--chain-rpc", &rpc]).await;
    let status = lab.nodes[0].until_status("it joins", |status| status.peers == 1 && status.registered).await;
    assert_eq!((status.alone, status.ledger.way), (None, LedgerWay::Rpc));
}
