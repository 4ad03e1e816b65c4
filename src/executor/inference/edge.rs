//! Worker processes, and HTTP over their Unix sockets.
//!
//! For every [`Request::Start`] there is exactly one [`Answer::Ended`] in the end, and at most one [`Answer::Ready`]
//! before it; for every [`Request::Infer`] exactly one [`Answer::Inferred`].

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{MAX_RESULT, WorkerSpec};
use crate::{
    clock,
    executor::{
        Exit, Mode,
        bundle::Bundle,
        edge::{Shared, Signal, Supervisor},
        environment::{self, Surroundings},
        overrun,
        process::{self, Launch, LaunchError, Script},
        work_dir::WorkDir,
    },
    types::Digest,
};

/// A worker must be ready within this: torch takes 2.5 s to import, a large model some more to load.
const READY_LIMIT: Duration = Duration::from_secs(50);
/// Between two questions whether it is.
const READY_RETRY: Duration = Duration::from_millis(5);
/// One answer may take this long.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// Between SIGTERM and SIGKILL: there is nothing to save.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Names a worker; never used twice by one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// What the state asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Start a worker.
    Start {
        /// Its name from now on.
        worker: WorkerId,
        /// What it is made of.
        spec: Box<WorkerSpec>,
    },
    /// Ask a worker that is ready.
    Infer {
        /// Repeated by the answer.
        ticket: u64,
        /// Which worker.
        worker: WorkerId,
        /// JSON.
        input: Vec<u8>,
    },
    /// Stop a worker.
    Stop {
        /// Which.
        worker: WorkerId,
    },
}

/// What the host reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// A worker answers questions.
    Ready {
        /// Which.
        worker: WorkerId,
    },
    /// A worker is gone, or could not be started.
    Ended {
        /// Which.
        worker: WorkerId,
        /// Why, in words.
        message: String,
    },
    /// What a worker said.
    Inferred {
        /// Of the request.
        ticket: u64,
        /// Which worker.
        worker: WorkerId,
        /// JSON and microseconds, or in words why not.
        result: Result<(Vec<u8>, u64), String>,
    },
}

/// Starts workers and asks them. Cloning shares it; when the last clone is dropped every worker ends.
#[derive(Clone)]
pub struct Workers {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    answers: mpsc::Sender<Answer>,
    workers: Mutex<BTreeMap<WorkerId, Live>>,
}

/// A worker, as those who ask it see it.
struct Live {
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
    client: Option<Client>,
}

/// Asks one worker; keeps its connections open.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    model: String,
}

impl Workers {
    /// Workers that live in the supervisor's directories, and report on `answers`.
    pub fn new(supervisor: &Supervisor, answers: mpsc::Sender<Answer>) -> Self {
        let shared = Arc::clone(supervisor.shared());
        Self { inner: Arc::new(Inner { shared, answers, workers: Mutex::default() }) }
    }

    /// Begins to do what was asked, and returns at once.
    pub fn perform(&self, request: Request) {
        match request {
            Request::Start { worker, spec } => self.start(worker, *spec),
            Request::Infer { ticket, worker, input } => self.infer(ticket, worker, input),
            Request::Stop { worker } => drop(self.inner.workers().remove(&worker)),
        }
    }

    fn start(&self, worker: WorkerId, spec: WorkerSpec) {
        let (stop, stopped) = oneshot::channel();
        self.inner.workers().insert(worker, Live { _stop: stop, client: None });
        // Weak, so that the last clone of `Workers` ends all workers by dropping their `stop`.
        let inner = Arc::downgrade(&self.inner);
        let (shared, answers) = (Arc::clone(&self.inner.shared), self.inner.answers.clone());
        tokio::spawn(async move {
            let ready = {
                let (inner, answers) = (inner.clone(), answers.clone());
                move |client| async move {
                    if let Some(live) = inner.upgrade() {
                        live.workers().entry(worker).and_modify(|live| live.client = Some(client));
                    }
                    let _ = answers.send(Answer::Ready { worker }).await;
                }
            };
            let running = tokio::spawn(run(shared, worker, spec, stopped, ready));
            let message = match running.await {
                Ok(Ok(message)) => message,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the watcher of the worker panicked, which is a defect of the node".to_owned(),
            };
            if let Some(inner) = inner.upgrade() {
                inner.workers().remove(&worker);
            }
            let _ = answers.send(Answer::Ended { worker, message }).await;
        });
    }

    fn infer(&self, ticket: u64, worker: WorkerId, input: Vec<u8>) {
        let client = self.inner.workers().get(&worker).and_then(|live| live.client.clone());
        let answers = self.inner.answers.clone();
        tokio::spawn(async move {
            let result = match client {
                Some(client) => client.infer(input).await,
                None => Err("the worker is gone".to_owned()),
            };
            let _ = answers.send(Answer::Inferred { ticket, worker, result }).await;
        });
    }
}

impl Inner {
    fn workers(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Live>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a worker to its end, and says in words why it ended.
async fn run<F: Future<Output = ()>>(
    shared: Arc<Shared>,
    worker: WorkerId,
    spec: WorkerSpec,
    stopped: oneshot::Receiver<()>,
    ready: impl FnOnce(Client) -> F,
) -> Result<String, LaunchError> {
    let name = Digest::of_parts("atlas/worker/v1", &[&worker.0.to_be_bytes()]);
    let directory = shared.root.named(&name);
    let prepared = {
        let (shared, spec, directory) = (Arc::clone(&shared), spec.clone(), directory.clone());
        tokio::task::spawn_blocking(move || prepare(&shared, &spec, &directory)).await
    };
    let (work, launch, socket) =
        prepared.map_err(|error| LaunchError::Host("its inputs can't be laid out", error.into())).flatten()?;
    let mut script = Script::start(&shared, &launch)?;
    let client = Client::new(socket, &spec)?;
    let pid = script.pid;
    let message = tokio::select! {
        message = watch(&mut script, client, stopped, ready) => Ok(message),
        why = overrun::watch(pid, &work, &spec.resources) => Err(why),
    };
    let message = match message {
        Ok(message) => message,
        Err(why) => {
            script.signal(Signal::Kill).await;
            Exit { killed: Some(why), last_words: script.last_words().await, ..Exit::default() }.describe()
        }
    };
    tokio::task::spawn_blocking(move || shared.root.clear(&directory));
    Ok(message)
}

async fn watch<F: Future<Output = ()>>(
    script: &mut Script,
    client: Client,
    mut stopped: oneshot::Receiver<()>,
    ready: impl FnOnce(Client) -> F,
) -> String {
    let began = tokio::select! {
        code = script.wait() => return ended(script, code).await,
        _ = &mut stopped => false,
        began = client.until_ready() => began,
    };
    if !began {
        stop(script).await;
        return "it was stopped, or not ready in time".to_owned();
    }
    ready(client).await;
    tokio::select! {
        code = script.wait() => ended(script, code).await,
        _ = stopped => {
            stop(script).await;
            "it was stopped".to_owned()
        }
    }
}

async fn ended(script: &mut Script, code: Option<i32>) -> String {
    let code = code.map_or_else(|| "killed".to_owned(), |code| format!("exit code {code}"));
    format!("{code}: {}", script.last_words().await)
}

async fn stop(script: &mut Script) {
    script.signal(Signal::Terminate).await;
    if timeout(STOP_LIMIT, script.wait()).await.is_err() {
        script.signal(Signal::Kill).await;
    }
}

fn prepare(
    shared: &Shared,
    spec: &WorkerSpec,
    directory: &std::path::Path,
) -> Result<(Arc<WorkDir>, Launch, PathBuf), LaunchError> {
    let host = |what| move |error| LaunchError::Host(what, error);
    let interpreter = shared.interpreter().map_err(LaunchError::Python)?;
    let work = WorkDir::create(directory, &spec.bundle, shared.files.as_ref())
        .map_err(host("the bundle can't be laid out"))?;
    let bundle = Bundle::read(&work.bundle())?;
    let interpreter = interpreter.of_bundle(&bundle, &work).map_err(LaunchError::Python)?;
    let round = work
        .lay_out_worker(&spec.config, &spec.model, shared.files.as_ref())
        .map_err(host("its inputs can't be laid out"))?;
    let sockets = shared.root.sockets_of(directory).map_err(host("its socket's directory can't be made"))?;
    let socket = sockets.join(process::SOCKET);
    let around =
        Surroundings { bundle: &bundle, interpreter: &interpreter, work_dir: &round, socket: &socket, resume: None };
    let environment = environment::base(&around, Mode::Serve);
    let path = work.path().join("launch.json");
    process::specification(&work, &around, environment, &spec.resources)
        .write(&path)
        .map_err(host("its launch file can't be written"))?;
    Ok((Arc::new(work), Launch { spec: path, log: shared.root.log_named("inference") }, socket))
}

impl Client {
    fn new(socket: PathBuf, spec: &WorkerSpec) -> Result<Self, LaunchError> {
        let http = reqwest::Client::builder().unix_socket(socket).no_proxy().timeout(ANSWER_LIMIT).build();
        let http = http.map_err(|error| LaunchError::Host("no HTTP client", io::Error::other(error)))?;
        Ok(Self { http, model: spec.model.to_string() })
    }

    async fn until_ready(&self) -> bool {
        let waiting = async {
            while !self.is_ready().await {
                sleep(READY_RETRY).await;
            }
        };
        timeout(READY_LIMIT, waiting).await.is_ok()
    }

    async fn is_ready(&self) -> bool {
        let asked = self.http.get("http://worker/v2/health/ready").send().await;
        asked.is_ok_and(|response| response.status().is_success())
    }

    async fn infer(&self, input: Vec<u8>) -> Result<(Vec<u8>, u64), String> {
        let began = clock::now_micros();
        let url = format!("http://worker/v2/models/{}/infer", self.model);
        let request = self.http.post(url).header("content-type", "application/json").body(input);
        let response = request.send().await.map_err(|error| describe(&error))?;
        let good = response.status().is_success();
        let body = read(response).await?;
        let latency = clock::now_micros().saturating_sub(began);
        if !good {
            return Err(format!("the script refused: {}", String::from_utf8_lossy(&body)));
        }
        if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
            return Err("the script's answer is not JSON".to_owned());
        }
        Ok((body, latency))
    }
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        body.extend_from_slice(&chunk.map_err(|error| describe(&error))?);
        if body.len() > MAX_RESULT {
            return Err(format!("the script's answer is over {MAX_RESULT} bytes"));
        }
    }
    Ok(body)
}

/// reqwest tells the cause in its source alone.
fn describe(error: &reqwest::Error) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("the worker can't be asked: {error}{source}")
}
