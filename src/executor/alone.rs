//! An executor without a node: a state and a supervisor, wired as the event loop wires them. For `script check` and the
//! known-answer run.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    Config, Event, FailureKind, Input, Outputs, RunSpec, State,
    edge::{self, Answer, Supervisor},
    scratch::Scratch,
};
use crate::{
    clock,
    protocol::{Action, State as _},
    store::data_keys::DataKeys,
    types::Step,
};

/// One run of a tiny job may take this long: torch needs 2.5 s to import.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(120);
/// Reports that wait to be read; they are read all the time.
pub(super) const MAX_REPORTS: usize = 256;

/// A state and a supervisor.
pub(super) struct Executor {
    state: State,
    pub(super) supervisor: Supervisor,
    answers: mpsc::Receiver<Answer>,
    /// What scripts said of checkpoints so far, and where they are.
    pub(super) checkpoints: Vec<(Step, PathBuf)>,
}

impl Executor {
    /// Starts one with a directory of its own. Must be called inside a Tokio runtime.
    pub(super) fn start(config: edge::Config, files: Arc<Scratch>) -> Result<Self, String> {
        let (sender, answers) = mpsc::channel(MAX_REPORTS);
        let keys = DataKeys::open(&config.directory.join("data-keys")).map_err(|error| error.to_string())?;
        let supervisor = Supervisor::start(config, files, Arc::new(keys), sender).map_err(|error| error.to_string())?;
        Ok(Self { state: State::new(Config::default()), supervisor, answers, checkpoints: Vec::new() })
    }

    pub(super) fn tell(&mut self, input: Input) {
        self.state.handle(input, clock::now());
    }

    /// Runs one round to its end.
    pub(super) async fn finish(&mut self, spec: RunSpec) -> Result<Box<Outputs>, String> {
        self.tell(Input::Run(Box::new(spec)));
        self.outcome().await?.map_err(|(kind, message)| format!("{kind}: {message}"))
    }

    /// How the run ends.
    pub(super) async fn outcome(&mut self) -> Result<Result<Box<Outputs>, (FailureKind, String)>, String> {
        self.until("its end", |event| match event {
            Event::Finished { outputs, .. } => Some(Ok(outputs.clone())),
            Event::Failed { kind, message, .. } => Some(Err((*kind, message.clone()))),
            _ => None,
        })
        .await
    }

    /// The next event that `wanted` picks. Without one in time, or after a failure that is not wanted, says so.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, String> {
        let waiting = async {
            loop {
                while let Some(action) = self.state.poll_action() {
                    let Action::Event(event) = action else {
                        continue;
                    };
                    if let Event::Edge(request) = event {
                        self.supervisor.perform(request);
                        continue;
                    }
                    if let Event::Checkpoint { step, directory, .. } = &event {
                        self.checkpoints.push((*step, directory.clone()));
                    }
                    match (wanted(&event), event) {
                        (Some(found), _) => return Ok(found),
                        (None, Event::Failed { kind, message, .. }) => return Err(format!("{kind}: {message}")),
                        _ => {}
                    }
                }
                let answer = self.answers.recv().await.ok_or("the supervisor is gone")?;
                self.state.handle(Input::Edge(answer), clock::now());
            }
        };
        let late = || format!("{what} did not come within {} s", RUN_LIMIT.as_secs());
        timeout(RUN_LIMIT, waiting).await.unwrap_or_else(|_| Err(late()))
    }
}
