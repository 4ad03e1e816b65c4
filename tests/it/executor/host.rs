//! A state and a supervisor, wired as the event loop wires them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atlas_node::{
    clock,
    executor::{
        self, Event, Input, Mode, RunSpec, State,
        edge::{self, Answer, Supervisor},
        launcher,
        scratch::Scratch,
    },
    protocol::{Action, State as _},
    store::{Files, data_keys::DataKeys},
    types::{ContentId, Digest, JobId, OutputKind, Resources, TaskId},
};
use tokio::{sync::mpsc, time::timeout};

/// Nothing here takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Host {
    pub(crate) state: State,
    pub(crate) supervisor: Supervisor,
    pub(crate) files: Arc<Scratch>,
    answers: mpsc::Receiver<Answer>,
    pub(crate) directory: tempfile::TempDir,
}

/// The interpreter with numpy: `ATLAS_TEST_PYTHON`, the checkout's `.venv`, or `python3`.
pub(crate) fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    match std::env::var_os("ATLAS_TEST_PYTHON") {
        Some(python) => python.into(),
        None if venv.exists() => venv,
        None => "python3".into(),
    }
}

/// This project's executable as the launcher.
pub(crate) fn launcher_command() -> Vec<PathBuf> {
    vec![env!("CARGO_BIN_EXE_atlas-node").into(), launcher::COMMAND.into()]
}

impl Host {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = edge::Config::new(directory.path().join("executor")).unwrap();
        config.python = python();
        config.launcher = launcher_command();
        let files = Arc::new(Scratch::new(directory.path().join("store")));
        let (sender, answers) = mpsc::channel(256);
        let keys = Arc::new(DataKeys::open(&directory.path().join("data-keys")).unwrap());
        let supervisor =
            Supervisor::start(config, Arc::clone(&files) as Arc<dyn Files>, Arc::clone(&keys), sender).unwrap();
        let state = State::new(executor::Config::default());
        Self { state, supervisor, files, answers, directory }
    }

    pub(crate) fn tell(&mut self, input: Input) {
        self.state.handle(input, clock::now());
    }

    /// The next event that `wanted` picks; all others pass.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let waiting = async {
            loop {
                while let Some(action) = self.state.poll_action() {
                    match action {
                        Action::Event(Event::Edge(request)) => self.supervisor.perform(request),
                        Action::Event(event) => {
                            if let Some(found) = wanted(&event) {
                                return found;
                            }
                            assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
                        }
                        other => panic!("no peers here: {other:?}"),
                    }
                }
                let answer = self.answers.recv().await.unwrap();
                self.state.handle(Input::Edge(answer), clock::now());
            }
        };
        timeout(DEADLINE, waiting).await.expect("the event came in time")
    }

    /// Does what the state wants done, without waiting for what comes of it.
    pub(crate) fn perform_what_waits(&mut self) {
        while let Some(action) = self.state.poll_action() {
            if let Action::Event(Event::Edge(request)) = action {
                self.supervisor.perform(request);
            }
        }
    }

    pub(crate) fn import(&self, path: &Path) -> ContentId {
        self.files.import_path(path).unwrap().cid
    }

    /// A bundle of one script, which may use the helper library.
    pub(crate) fn bundle(&self, script: &str) -> ContentId {
        let path = self.directory.path().join("bundle");
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        let manifest = "contract = 'atlas-script/1'\nname = 't'\nversion = '1'\nentry = ['main.py']\n";
        fs::write(path.join("atlas.toml"), manifest).unwrap();
        fs::write(path.join("main.py"), script).unwrap();
        fs::copy(bundles().join("digits/atlas_script.py"), path.join("atlas_script.py")).unwrap();
        self.import(&path)
    }

    /// A run of that script with a model and a record that mean nothing.
    pub(crate) fn spec(&self, bundle: ContentId) -> RunSpec {
        let data = self.directory.path().join("data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("records"), "1\n").unwrap();
        RunSpec {
            task: TaskId { job: JobId([7; 32]), slot: 0 },
            generation: 1,
            round: 0,
            mode: Mode::Train,
            bundle,
            model: self.files.import_bytes(b"model").unwrap(),
            optim: None,
            data: self.import(&data),
            data_bytes: u64::MAX,
            resume: None,
            config: "{}".to_owned(),
            seed: Digest([9; 32]),
            stop_step: 10,
            checkpoint_every: 0,
            output: OutputKind::Model,
            session: false,
            data_key: None,
            resources: Resources { memory_bytes: 1 << 30, storage_bytes: 1 << 30, ..Resources::default() },
            attempt: 0,
        }
    }
}

pub(crate) fn bundles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bundles")
}
