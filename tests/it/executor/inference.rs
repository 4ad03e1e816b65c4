//! Warm workers, with the shipped bundle.

use std::{process::Command, time::Duration};

use atlas_node::{
    clock,
    executor::inference::{
        Answer, Config, Event, Input, State, Target, WorkerSpec,
        edge::{self, Workers},
    },
    protocol::{Action, State as _},
    types::{ContentId, Resources},
};
use tokio::{sync::mpsc, time::timeout};

use super::host::{DEADLINE, Host, bundles, python};

struct Server {
    host: Host,
    state: State,
    workers: Workers,
    answers: mpsc::Receiver<edge::Answer>,
    spec: WorkerSpec,
}

impl Server {
    fn new(bundle: impl FnOnce(&Host) -> ContentId) -> Self {
        let host = Host::new();
        let path = host.directory.path().join("init");
        let script = bundles().join("digits/init_model.py");
        assert!(Command::new(python()).arg(script).arg("7").arg(&path).status().unwrap().success());
        let spec = WorkerSpec {
            bundle: bundle(&host),
            model: host.import(&path),
            model_id: "digits".to_owned(),
            config: "{}".to_owned(),
            resources: Resources { memory_bytes: 1 << 30, ..Resources::default() },
        };
        let (sender, answers) = mpsc::channel(64);
        let workers = Workers::new(&host.supervisor, sender);
        Self { host, state: State::new(Config::default()), workers, answers, spec }
    }

    fn ask(&mut self, id: u64, input: &str) {
        let target = Box::new(Target::Model { bundle: self.spec.bundle, model: self.spec.model });
        self.state.handle(Input::Infer { id, peer: None, target, input: input.into() }, clock::now());
    }

    async fn answer(&mut self, wanted: u64) -> Result<Answer, String> {
        let waiting = async {
            loop {
                while let Some(action) = self.state.poll_action() {
                    match action {
                        Action::Event(Event::Edge(request)) => self.workers.perform(request),
                        Action::Event(Event::Asked { ticket, .. }) => {
                            let worker = Box::new(self.spec.clone());
                            self.state.handle(Input::Serve { ticket, worker }, clock::now());
                        }
                        Action::Event(Event::Answered { id, result }) if id == wanted => return result,
                        _ => {}
                    }
                }
                let answer = self.answers.recv().await.unwrap();
                self.state.handle(Input::Edge(answer), clock::now());
            }
        };
        timeout(DEADLINE, waiting).await.expect("an answer came in time")
    }
}

fn digits(host: &Host) -> ContentId {
    host.import(&bundles().join("digits"))
}

fn pixels() -> String {
    serde_json::json!({ "pixels": vec![3; 64] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_worker_answers_quickly_and_stays_the_same() {
    let mut server = Server::new(digits);
    server.ask(0, &pixels());
    let first = server.answer(0).await.unwrap();
    let mut latencies = Vec::new();
    for id in 1..=50 {
        server.ask(id, &pixels());
        let before = clock::now_micros();
        let answer = server.answer(id).await.unwrap();
        latencies.push(clock::now_micros() - before);
        assert_eq!(answer.result, first.result);
    }
    latencies.sort_unstable();
    eprintln!("warm inference: p50 {} µs, p99 {} µs", latencies[25], latencies[49]);
    assert!(Duration::from_micros(latencies[25]) < Duration::from_millis(100));
    assert_eq!((first.model_id.as_str(), server.state.workers()), ("digits", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_makes_no_sense_is_refused_in_words_and_the_worker_lives() {
    let mut server = Server::new(digits);
    server.ask(0, r#"{"pixels": [1, 2]}"#);
    assert!(server.answer(0).await.unwrap_err().contains("64 numbers"));
    server.ask(1, "not json");
    assert!(server.answer(1).await.unwrap_err().contains("refused"));
    server.ask(2, &pixels());
    server.answer(2).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_can_not_start_is_told_with_its_last_words() {
    let mut server = Server::new(|host| host.bundle("raise SystemExit('no weights here')"));
    server.ask(0, &pixels());
    let reason = server.answer(0).await.unwrap_err();
    assert!(reason.contains("no weights here"), "{reason}");
}

/// What training is held to holds for serving too.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_too_much_is_ended_with_the_reason() {
    for (memory, script, words) in [
        (100 << 20, "import time\nheld = bytearray(b'x') * (200 << 20)\ntime.sleep(600)", "out of memory"),
        (
            1 << 30,
            "import time\nfor n in range(64):\n    open(f'tmp/{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(600)",
            "what it wrote grew over 33554432 bytes",
        ),
        // Pages that the children share count for each.
        (
            1 << 40,
            "import os, time\nfor _ in range(600):\n    if os.fork() == 0:\n        time.sleep(600)\ntime.sleep(600)",
            "what it started grew over 512 processes",
        ),
    ] {
        let mut server = Server::new(|host| host.bundle(script));
        let manifest =
            "contract = 'atlas-script/1'\nname = 't'\nversion = '1'\nentry = ['main.py']\nmodes = ['serve']\n";
        let bundle = server.host.directory.path().join("bundle");
        std::fs::write(bundle.join("atlas.toml"), manifest).unwrap();
        server.spec.bundle = server.host.import(&bundle);
        server.spec.resources.memory_bytes = memory;
        server.spec.resources.storage_bytes = 32 << 20;
        server.ask(0, &pixels());
        let reason = server.answer(0).await.unwrap_err();
        // Whoever is not root is stopped by the system at 512.
        assert!(reason.contains(words) || reason.contains("BlockingIOError"), "`{words}` is missing in: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_with_the_last_handle() {
    let mut server = Server::new(digits);
    server.ask(0, &pixels());
    server.answer(0).await.unwrap();
    let (sender, _) = mpsc::channel(1);
    server.workers = Workers::new(&server.host.supervisor, sender);
    let ended = timeout(DEADLINE, server.answers.recv()).await.expect("it ended in time");
    assert!(matches!(ended, Some(edge::Answer::Ended { .. })), "{ended:?}");
}
