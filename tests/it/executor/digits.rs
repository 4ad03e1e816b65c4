//! The shipped bundle, through the executor: sessions, checkpoints, stopping, resuming.

use std::{fs, path::Path, process::Command};

use atlas_node::{
    executor::{Event, Input, Outputs, Resume, RunSpec, StopMode},
    store::Files,
};

use super::host::{Host, bundles, python};

const STEPS: u32 = 40;

fn spec(host: &Host) -> RunSpec {
    let bundle = bundles().join("digits");
    let (model, data) = (host.directory.path().join("init"), host.directory.path().join("digits"));
    fs::create_dir(&data).unwrap();
    for (script, argument, to) in [("init_model.py", Some("7"), &model), ("check_data.py", None, &data.join("d.csv"))] {
        let status = Command::new(python()).arg(bundle.join(script)).args(argument).arg(to).status().unwrap();
        assert!(status.success());
    }
    let content = host.import(&bundle);
    RunSpec {
        model: host.import(&model),
        data: host.import(&data),
        config: r#"{"hidden": 128, "batch_size": 8}"#.to_owned(),
        stop_step: STEPS,
        checkpoint_every: 10,
        ..host.spec(content)
    }
}

async fn finish(host: &mut Host) -> Outputs {
    host.until(|event| match event {
        Event::Finished { outputs, .. } => Some((**outputs).clone()),
        _ => None,
    })
    .await
}

fn bytes(directory: &Path, name: &str) -> Vec<u8> {
    fs::read(directory.join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_gives_the_bytes_that_fresh_processes_give() {
    let mut results = Vec::new();
    for session in [false, true] {
        let mut host = Host::new();
        let first = RunSpec { session, ..spec(&host) };
        host.tell(Input::Run(Box::new(first.clone())));
        let outputs = finish(&mut host).await;
        assert_eq!((outputs.steps, outputs.samples), (u64::from(STEPS), u64::from(STEPS) * 8));
        assert!(outputs.memory_bytes > 1 << 20 && outputs.loss.is_some());
        let second = RunSpec {
            round: 1,
            model: host.import(&outputs.directory.join("model.safetensors")),
            optim: Some(host.import(&outputs.directory.join("optim.safetensors"))),
            ..first
        };
        let mut started = 0;
        host.tell(Input::Run(Box::new(second)));
        let outputs = host
            .until(|event| match event {
                Event::Started { .. } => {
                    started += 1;
                    None
                }
                Event::Finished { round: 1, outputs, .. } => Some(outputs.clone()),
                _ => None,
            })
            .await;
        assert_eq!(started, u32::from(!session));
        results.push(["model.safetensors", "optim.safetensors"].map(|name| bytes(&outputs.directory, name)));
    }
    assert_eq!(results[0], results[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_continues_elsewhere_to_the_same_bytes() {
    let mut host = Host::new();
    let whole = spec(&host);
    host.tell(Input::Run(Box::new(whole.clone())));
    let mut middle = None;
    let outputs = host
        .until(|event| match event {
            Event::Checkpoint { step: 20, directory, .. } => {
                middle = Some(directory.clone());
                None
            }
            Event::Finished { outputs, .. } => Some(outputs.clone()),
            _ => None,
        })
        .await;
    let middle = host.import(&middle.expect("there is a checkpoint of step 20"));

    let mut other = Host::new();
    let resume = Some(Resume { directory: copy(&host, &other, middle), step: 20 });
    let rest = RunSpec { resume, generation: 2, ..spec(&other) };
    other.tell(Input::Run(Box::new(rest)));
    let continued = finish(&mut other).await;
    assert_eq!(continued.samples, outputs.samples, "samples count the whole round");
    for name in ["model.safetensors", "optim.safetensors"] {
        assert_eq!(bytes(&outputs.directory, name), bytes(&continued.directory, name), "{name}");
    }
    let end = continued.checkpoint.unwrap();
    assert_eq!(bytes(&end, "model.safetensors"), bytes(&continued.directory, "model.safetensors"));
}

fn copy(from: &Host, to: &Host, content: atlas_node::types::ContentId) -> atlas_node::types::ContentId {
    let path = to.directory.path().join("copied");
    from.files.export(&content, &path).unwrap();
    to.import(&path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_a_checkpoint_and_a_call_for_one_goes_on() {
    let mut host = Host::new();
    let endless = RunSpec { stop_step: 1_000_000, checkpoint_every: 0, ..spec(&host) };
    let task = endless.task;
    host.tell(Input::Run(Box::new(endless)));
    let progress = |event: &Event| matches!(event, Event::Progress { .. }).then_some(());
    host.until(progress).await;
    host.tell(Input::CheckpointNow { task });
    let first = host.until(|event| match event {
        Event::Checkpoint { step, .. } => Some(*step),
        _ => None,
    });
    let first = first.await;
    host.until(progress).await;
    host.tell(Input::Stop { task, mode: StopMode::Checkpoint });
    let mut second = None;
    let preempted = host
        .until(|event| match event {
            Event::Checkpoint { step, directory, .. } => {
                assert!(directory.join("state.json").is_file());
                second = Some(*step);
                None
            }
            Event::Stopped { preempted, .. } => Some(*preempted),
            _ => None,
        })
        .await;
    assert!(preempted && second.unwrap() > first);
}
