//! Every node loses its blocks, and a job goes on from what Kubo kept.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{PINNED, daemon::Kubo};
use crate::e2e::{
    kills::undisturbed,
    lab::{Lab, SLOW},
    node::Node,
    wait::until,
};

/// Names of what is pinned on Kubo, each with its root.
fn pins(kubo: &Kubo) -> Vec<(String, String)> {
    let text = kubo.word(&["pin", "ls", "--type=recursive", "--names"]);
    let pin = |line: &str| {
        let [root, _, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        Some((name.to_owned(), root.to_owned()))
    };
    text.lines().filter_map(pin).collect()
}

/// `ipfs dag export ROOT | atlas-node shard add --car -`, as an operator types it.
fn bring_back(kubo: &Kubo, root: &str, node: &Node) {
    let mut export = kubo.command(&["dag", "export", "--progress=false", root]).stdout(Stdio::piped()).spawn().unwrap();
    let mut add: Command = node.command(&["shard", "add", "--car", "-"]);
    let added = add.stdin(export.stdout.take().unwrap()).output().unwrap();
    assert!(export.wait().unwrap().success());
    assert!(added.status.success(), "{root}: {}", String::from_utf8_lossy(&added.stderr));
    assert_eq!(String::from_utf8(added.stdout).unwrap().trim(), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_nodes_lost_all_blocks_goes_on_from_what_kubo_kept() {
    let mut kubo = Kubo::new();
    let address = kubo.start().await;
    let mut lab = Lab::mesh(2, &["--ipfs-api", &address]).await;
    let submitted = lab.submit(1, &SLOW).await;
    let job = submitted.job_id.to_string();
    lab.until_job(1, submitted.job_id, "a round closes", |detail| detail.job.round >= 1).await;
    let tasks = usize::try_from(submitted.tasks).unwrap();
    until("all that the next round needs is on Kubo", PINNED, async || {
        let names: Vec<String> = pins(&kubo).into_iter().map(|(name, _)| name).collect();
        let count = |part: &str| names.iter().filter(|name| name.starts_with(part) && name.contains(&job)).count();
        (count("inputs-") == 1 && count("round-") >= 1 && count("checkpoint-") == tasks).then_some(())
    })
    .await;

    for node in &mut lab.nodes {
        node.kill();
        fs::remove_dir_all(node.data_dir.join("blocks")).unwrap();
    }
    lab.nodes[0].start().await;
    for (_, root) in pins(&kubo) {
        bring_back(&kubo, &root, &lab.nodes[0]);
    }
    for node in &mut lab.nodes[1..] {
        node.start().await;
    }
    let before = lab.nodes[0].client().job(submitted.job_id).await.unwrap();
    assert!(before.job.round >= 1, "it does not begin again");
    let after = lab.completed(1, submitted.job_id).await;
    assert_eq!(after.rounds[..before.rounds.len()], before.rounds, "what was closed stays as it was");
    assert_eq!(after.job.model_root.map(|root| root.to_string().into()).as_ref(), Some(undisturbed().await));
}
