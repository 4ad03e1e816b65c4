//! A receipt's trace is about states, not about logs: one is opened, its segment runs again, and the next root comes out.

use std::{fs, path::Path};

use atlas_node::{
    api::{CheckpointLine, ShardGet},
    clock, codec,
    executor::{Event, Input, Mode, Resume, RunSpec},
    proof,
    tensor::root,
    types::{CheckpointManifest, ContentId, Receipt, Signed},
};

use super::{
    lab::{Job, Lab, SHORT},
    node::Node,
};
use crate::executor::host::Host;

/// Writes content that a node has, or can fetch, to `to`.
async fn fetch(node: &Node, cid: ContentId, to: &Path) {
    node.client().shard_get(&ShardGet::to(cid, to.to_owned())).await.unwrap();
}

fn manifest(directory: &Path) -> CheckpointManifest {
    let bytes = fs::read(directory.join("manifest")).unwrap();
    let signed: Signed = codec::decode(&bytes, bytes.len()).unwrap();
    signed.open().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_state_of_a_finished_job_runs_again_to_the_next_root() {
    let lab = Lab::mesh(1, &[]).await;
    let job = Job { local_steps: 40, checkpoint_every: 10, pace_ms: 40, ..SHORT };
    let submitted = lab.submit(0, &job).await;
    let detail = lab.completed(0, submitted.job_id).await;
    let (task, last) = (&detail.tasks[0], detail.rounds.last().unwrap());
    let worker = lab.nodes.iter().find(|node| node.peer_id == last.applied[&0]).unwrap();

    // The receipt, and the trace that it committed to: the manifest of the round's end lists it.
    let evidence = worker.client().proof(task.id, last.round).await.unwrap();
    let receipt: Receipt = evidence.receipt.open().unwrap();
    let end = lab.path().join("end");
    fetch(worker, receipt.checkpoint.cid, &end).await;
    let trace = manifest(&end).trace;
    assert_eq!(proof::trace::root(&trace), receipt.trace_root);
    assert_eq!(trace.last(), Some(&receipt.out_state_root));

    // The last state before the end, from whoever holds it.
    let lines = worker.client().checkpoints().await.unwrap();
    let inside = |line: &&CheckpointLine| {
        line.task_id == task.id && line.epoch == last.round && (1..job.local_steps).contains(&line.iteration)
    };
    let opened =
        lines.iter().filter(inside).max_by_key(|line| line.iteration).expect("states inside the round are kept");
    let state = lab.path().join("state");
    fetch(worker, opened.cid, &state).await;
    let opened = manifest(&state);
    let index = trace.len() - 2;
    assert_eq!(trace[index], opened.state_root);
    let place = u32::try_from(index).unwrap();
    let path = proof::trace::path(&trace, place).unwrap();
    assert!(proof::trace::verify(&receipt.trace_root, receipt.segments, place, &opened.state_root, &path));

    // Its segment, in verify mode, by an executor that knows nothing but content.
    let inputs = evidence.inputs.unwrap();
    let (bundle, shard) = (lab.path().join("again-bundle"), lab.path().join("again-shard"));
    fetch(worker, inputs.bundle, &bundle).await;
    fetch(worker, inputs.shard, &shard).await;
    let mut host = Host::new();
    let resume = Resume { directory: host.import(&state.join("state")), step: opened.iteration };
    let spec = RunSpec {
        task: task.id,
        round: last.round,
        mode: Mode::Verify,
        model: host.import(&state.join("state/model.safetensors")),
        data: host.import(&shard),
        resume: Some(resume),
        config: detail.job.config.to_string(),
        seed: proof::seed::seed(inputs.job_seed, task.shard_id, inputs.cursor),
        stop_step: job.local_steps,
        ..host.spec(host.import(&bundle))
    };
    host.tell(Input::Run(Box::new(spec)));
    let outputs = host
        .until(|event| match event {
            Event::Finished { outputs, .. } => Some(outputs.clone()),
            _ => None,
        })
        .await;
    let again = outputs.checkpoint.as_ref().unwrap();
    let root_of = |name: &str| root::of_file(&fs::read(again.join(name)).unwrap()).unwrap();
    let (params, optimizer) = (root_of("model.safetensors"), root_of("optim.safetensors"));
    let extra = fs::read(again.join("state.json")).unwrap_or_default();
    assert_eq!(root::state_root(&params, &optimizer, job.local_steps, &extra), trace[index + 1]);
    assert!(receipt.timestamp < clock::now());
}
