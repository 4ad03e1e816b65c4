//! The main job on a ledger that is a chain: nodes train, validators agree, one of them dies half-way.

use std::{path::Path, process::Stdio};

use atlas_node::{api::client::Client, chain::abci::local::Chain as Description};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tendermint::block::Height;
use tendermint_rpc::{Client as _, HttpClient};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::chain::{SOON, cometbft, ledger_of};
use crate::{
    e2e::{
        kills::undisturbed,
        lab::{Lab, SLOW},
        node::{processes_of, program},
        wait::{JOB, START, until},
    },
    executor::host::python,
};

fn testnet(directory: &Path) -> Child {
    let mut command = Command::from(program());
    command
        .args([
            "testnet",
            "--json",
            "--keep",
            "--nodes",
            "3",
            "--ledger",
            "cometbft",
            "--validators",
            "4",
            "--cometbft",
        ])
        .arg(cometbft())
        .arg("--job")
        .arg(SLOW.write(&directory.join("job")))
        .arg("--python")
        .arg(python())
        .arg("--directory")
        .arg(directory.join("mesh"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn height(rpc: &HttpClient) -> Option<u64> {
    Some(rpc.status().await.ok()?.sync_info.latest_block_height.value())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_ends_on_four_validators_with_the_same_model_though_one_is_killed_half_way() {
    let lab = Lab::new();
    let mut running = testnet(lab.path());
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    let mesh = lab.path().join("mesh");

    until("the first round closes", JOB, async || {
        let jobs = Client::connect(&mesh.join("node-1")).ok()?.jobs().await.ok()?;
        jobs.first().filter(|job| job.round >= 1).map(|_| ())
    })
    .await;
    let chain = Description::read(&mesh.join("chain")).unwrap();
    let home = mesh.join("chain/validator-3");
    let pid = std::fs::read_to_string(home.join("cometbft.pid")).unwrap();
    kill(nix::unistd::Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();

    let line = tokio::time::timeout(JOB, lines.next_line()).await.expect("the job ends").unwrap().unwrap();
    let summary: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&summary["ok"], &summary["model_root"]), (&Value::Bool(true), undisturbed().await), "{summary}");

    let rpc: Vec<HttpClient> = chain
        .validators
        .iter()
        .map(|validator| HttpClient::new(format!("http://127.0.0.1:{}", validator.rpc).as_str()).unwrap())
        .collect();
    let end = height(&rpc[0]).await.unwrap();
    for (number, own) in rpc.iter().enumerate() {
        until("every validator, the killed one too, is past the end", SOON, async || {
            height(own).await.filter(|found| *found > end + 1)
        })
        .await;
        let (height, app_hash) = ledger_of(own).await.unwrap();
        let next = Height::try_from(height + 1).unwrap();
        let other = &rpc[(number + 1) % rpc.len()];
        let signed = until("the next header", START, async || other.commit(next).await.ok()).await.signed_header.header;
        assert_eq!(hex::encode(app_hash), hex::encode(signed.app_hash.as_bytes()));
    }
    let id = i32::try_from(running.id().unwrap()).unwrap();
    kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM).unwrap();
    let status = tokio::time::timeout(SOON, running.wait()).await.expect("it stops").unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(lab.path()), [], "nothing is left running");
}
