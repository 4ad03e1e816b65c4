//! What must survive when processes die: the work, the ledger, the machine's order.

use std::{path::Path, process::Stdio, time::Duration};

use atlas_node::types::JobStatus;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    lab::{Lab, SLOW},
    node::{processes_of, program},
    wait::{JOB, START, until},
};
use crate::executor::host::python;

/// How long the ledger is away.
const OUTAGE: Duration = Duration::from_secs(5);
/// A descendant of a killed node is gone by then: its launcher watches a pipe.
const DESCENDANTS: Duration = Duration::from_secs(10);

/// Runs [`SLOW`] on a test network of three nodes, with these flags; returns the line that it ends with.
pub(super) async fn testnet(directory: &Path, flags: &[&str]) -> Value {
    let mut command = tokio::process::Command::from(program());
    command
        .args(["testnet", "--json", "--nodes", "3", "--job"])
        .arg(SLOW.write(&directory.join("job")))
        .arg("--python")
        .arg(python())
        .arg("--directory")
        .arg(directory.join("mesh"))
        .args(flags)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(JOB, command.output()).await.expect("the job ends in time").unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {words}", output.status);
    assert_eq!(processes_of(directory), [], "nothing is left running");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("one line of JSON: {error}\n{words}"))
}

/// The model root of [`SLOW`] when nobody is killed.
pub(crate) async fn undisturbed() -> &'static Value {
    static ROOT: OnceCell<Value> = OnceCell::const_new();
    let run = async || {
        let lab = Lab::new();
        let line = testnet(lab.path(), &[]).await;
        assert_eq!(line["ok"], true);
        assert_eq!((&line["tasks"]["reassigned"], &line["resumed"]), (&0.into(), &Value::Array(vec![])));
        line["model_root"].clone()
    };
    ROOT.get_or_init(run).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_resumed_from_its_checkpoint_to_the_same_model() {
    let lab = Lab::new();
    let line = testnet(lab.path(), &["--kill", "worker"]).await;
    assert_eq!(&line["model_root"], undisturbed().await);
    assert!(line["tasks"]["reassigned"].as_u64().unwrap() >= 1, "{line}");
    let resumed = line["resumed"].as_array().unwrap();
    let inside = resumed.iter().any(|run| run["from_step"].as_u64() > Some(0) && run["checkpoint_cid"].is_string());
    assert!(inside, "a successor begins inside the round: {line}");
    assert_eq!(line["batches"]["expected"], line["batches"]["applied"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_aggregator_is_replaced_and_the_model_is_the_same() {
    let lab = Lab::new();
    let line = testnet(lab.path(), &["--kill", "aggregator"]).await;
    assert_eq!(&line["model_root"], undisturbed().await);
    assert!(line["tasks"]["reassigned"].as_u64().unwrap() >= 1, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_without_its_submitter_and_the_model_is_the_same() {
    let lab = Lab::new();
    let line = testnet(lab.path(), &["--kill", "submitter"]).await;
    assert_eq!(&line["model_root"], undisturbed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ledger_host_that_returns_loses_nothing() {
    let mut lab = Lab::mesh(2, &[]).await;
    let submitted = lab.submit(1, &SLOW).await;
    lab.until_job(1, submitted.job_id, "the first round closes", |detail| detail.job.round >= 1).await;
    let before = lab.nodes[1].client().job(submitted.job_id).await.unwrap();

    lab.nodes[0].kill();
    // The outage is the story, not a wait for something.
    tokio::time::sleep(OUTAGE).await;
    lab.nodes[0].start().await;

    let after = lab.completed(1, submitted.job_id).await;
    assert_eq!(after.rounds[..before.rounds.len()], before.rounds, "what was closed stays as it was");
    assert_eq!(after.job.model_root.map(|root| root.to_string().into()).as_ref(), Some(undisturbed().await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_leaves_no_script_behind() {
    let mut lab = Lab::mesh(1, &[]).await;
    let submitted = lab.submit(0, &SLOW).await;
    let directory = lab.nodes[1].data_dir.clone();
    let scripts = || processes_of(&directory).into_iter().filter(|(_, command)| command.contains("train.py")).count();
    until("the script runs", START, async || (scripts() > 0).then_some(())).await;
    lab.nodes[1].kill();
    until("no descendant is left", DESCENDANTS, async || processes_of(&directory).is_empty().then_some(())).await;
    let job = lab.nodes[0].client().job(submitted.job_id).await.unwrap().job;
    assert_eq!(job.status, JobStatus::Open);
}
