//! Data that only the holders of a job's tasks may read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use atlas_node::{
    api::{JobDetail, ShardGet},
    store::sealed::MAGIC,
    types::{ContentId, JobStatus},
};

use super::{
    kills::undisturbed,
    lab::{Job, Lab, ONE_TASK, SHORT, SLOW},
    node::Node,
};

const SEALED_SHORT: Job = Job { sealed: true, ..SHORT };
/// With copies enough that its data outlives its submitter and one more node, whichever holds what.
const SEALED_SLOW: Job = Job { sealed: true, copies: 3, ..SLOW };

/// The keys of sealed data that a node has on its disk.
fn keys(node: &Node) -> Vec<PathBuf> {
    fs::read_dir(node.data_dir.join("data-keys")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Writes content as it is to a new directory below `place`; the bytes of its one file.
async fn fetched(node: &Node, request: ShardGet) -> Vec<u8> {
    let to = request.to.clone().unwrap();
    node.client().shard_get(&request).await.unwrap();
    let [file] = &files(&to)[..] else { panic!("a shard is one file") };
    fs::read(file).unwrap()
}

/// The peers that hold its tasks.
fn holders(detail: &JobDetail) -> BTreeSet<&str> {
    detail.tasks.iter().filter_map(|task| task.node_id.as_deref()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sealed_data_gives_the_same_model_and_is_read_by_nobody_who_has_no_task() {
    let lab = Lab::mesh(2, ONE_TASK).await;
    let open = lab.submit(1, &SHORT).await;
    let open = lab.completed(1, open.job_id).await;
    let submitted = lab.submit(1, &SEALED_SHORT).await;
    let sealed = lab.completed(1, submitted.job_id).await;
    assert_eq!(sealed.job.model_root, open.job.model_root);

    let shards: Vec<ContentId> = sealed.tasks.iter().map(|task| task.shard_cid.unwrap()).collect();
    let points = fs::read_to_string(lab.path().join("job/points.csv")).unwrap();
    for (number, cid) in shards.iter().enumerate() {
        let bytes = fetched(&lab.nodes[2], ShardGet::to(*cid, lab.path().join(format!("raw-{number}")))).await;
        assert!(bytes.starts_with(&MAGIC), "every node may have the sealed form");
        let to = lab.path().join(format!("open-{number}"));
        let text = fetched(&lab.nodes[1], ShardGet { open: true, ..ShardGet::to(*cid, to) }).await;
        let text = String::from_utf8(text).unwrap();
        assert!(!text.is_empty() && text.lines().all(|line| points.lines().any(|point| point == line)));
    }
    // The submitter keeps its key. Who held a task forgets it when the job has ended, and can't open what it still has.
    assert_eq!([1, 2].map(|node| keys(&lab.nodes[node]).len()), [1, 0]);
    let refused = ShardGet { open: true, ..ShardGet::to(shards[0], lab.path().join("refused")) };
    let error = lab.nodes[2].client().shard_get(&refused).await.unwrap_err();
    assert!(error.to_string().contains("is sealed with the key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_job_goes_on_without_its_submitter_because_holders_hand_the_key_on() {
    let mut lab = Lab::mesh(4, ONE_TASK).await;
    // The submitter lends nothing, so that it is no holder.
    let submitter = lab.join("submitter", &["--cpu-cores", "0"]).await;
    let submitted = lab.submit(submitter, &SEALED_SLOW).await;
    let detail = lab
        .until_job(1, submitted.job_id, "a round closes", |detail| {
            detail.job.round >= 1 && holders(detail).len() == SLOW.shards as usize
        })
        .await;
    lab.nodes[submitter].kill();
    let holding = holders(&detail);
    let victim = (1..lab.nodes.len()).find(|node| holding.contains(&*lab.nodes[*node].peer_id)).unwrap();
    lab.nodes[victim].kill();
    let watcher = (0..lab.nodes.len()).find(|node| ![victim, submitter].contains(node)).unwrap();
    let done = lab.completed(watcher, submitted.job_id).await;
    assert_eq!(done.job.status, JobStatus::Completed);
    assert_eq!(done.job.model_root.map(|root| root.to_string().into()).as_ref(), Some(undisturbed().await));
}
