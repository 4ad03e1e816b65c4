//! How long work waits: from `submit` to the first line of the script, and a question's way through the mesh to a warm
//! worker, beside the same worker asked directly.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use atlas_node::{
    api::{Infer, Submit, client::Client},
    clock,
    tensor::{Dtype, Spec, Tensors},
    types::{JobId, JobStatus, TaskId},
};
use serde_json::json;
use tokio::process::Command;

use super::{Arguments, mesh::Mesh, report::Report};

/// Nodes that work.
pub(crate) const NODES: usize = 4;
/// Jobs, each with a task a node.
const JOBS: u32 = 10;
/// Questions to the worker.
const QUESTIONS: usize = 300;
/// A job of nothing ends long before.
const JOB_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a job.
const LOOK: Duration = Duration::from_millis(20);
/// Beats as in `testnet`, whose pauses and turns are short.
pub(crate) const FLAGS: [&str; 4] = ["--heartbeat-interval", "1", "--heartbeat-timeout", "3.5"];

const JOB: &str = r#"
name = "bench"
bundle = "bundle"
model = "model.safetensors"
seed = 7
rounds = 1
local_steps = 1
shards = 4
copies = 2
[data]
path = "data.csv"
[update]
codec = "f32"
[resources]
cpu_cores = 0.1
memory_gb = 0.2
storage_gb = 0.1
"#;

/// Milliseconds after the submission.
#[derive(Default)]
pub(crate) struct Waits {
    /// Until the node asked for the process.
    pub(crate) dispatched: Vec<f64>,
    /// Until the script's first line ran.
    began: Vec<f64>,
    /// Until `submit` returned: copies are held by others.
    acknowledged: Vec<f64>,
}

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    lay_out(directory.path())?;
    let mesh = Mesh::start(directory.path(), NODES, &arguments.python, &FLAGS).await?;
    let clients = mesh.nodes.iter().map(|node| node.client()).collect::<Result<Vec<_>>>()?;
    let mut waits = Waits::default();
    let mut last = None;
    // The first job warms caches and is not counted.
    for number in 0..=JOBS {
        let mut of_job = Waits::default();
        last = Some(one_job(directory.path(), &clients, &mut of_job).await?);
        if number > 0 {
            waits.dispatched.append(&mut of_job.dispatched);
            waits.began.append(&mut of_job.began);
            waits.acknowledged.append(&mut of_job.acknowledged);
        }
    }
    let python = python_start(&arguments.python, arguments.runs).await?;
    report.quantiles("submit to script start, 4 nodes", "ms", &waits.began, ["<= 50 + Python", ""]);
    report.quantiles("submit to launch", "ms", &waits.dispatched, ["", ""]);
    report.quantiles("submit to 2 copies", "ms", &waits.acknowledged, ["", ""]);
    report.add("Python's own start", "ms", &python, "");
    inference(arguments, directory.path(), &clients[0], last.context("a job ran")?, report).await?;
    mesh.stop().await
}

/// Bundle, model and data of a job that does nothing.
pub(crate) fn lay_out(directory: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bundle = directory.join("bundle");
    fs::create_dir(&bundle)?;
    fs::copy(root.join("scripts/bundles/digits/atlas_script.py"), bundle.join("atlas_script.py"))?;
    for name in ["atlas.toml", "train.py"] {
        fs::copy(root.join("tests/bench/bundle").join(name), bundle.join(name))?;
    }
    let mut model = Tensors::default();
    model.insert("weights".into(), Spec { dtype: Dtype::F32, shape: vec![4] }, vec![0; 16].into())?;
    fs::write(directory.join("model.safetensors"), model.to_safetensors())?;
    fs::write(directory.join("data.csv"), "1,2\n".repeat(64))?;
    Ok(())
}

/// Submits the job and waits for its end.
pub(crate) async fn one_job(directory: &Path, clients: &[Client], waits: &mut Waits) -> Result<JobId> {
    let submit = Submit { job_file: JOB.to_owned(), base_directory: directory.to_owned(), shards: None, copies: None };
    let (at, at_micros) = (clock::now(), clock::now_micros());
    let job = clients[0].submit(&submit).await?.job_id;
    waits.acknowledged.push((clock::now_micros() - at_micros) as f64 / 1e3);
    let tasks = completed(&clients[0], job).await?;
    for client in clients {
        for run in client.runs().await?.iter().filter(|run| tasks.contains(&run.task)) {
            waits.dispatched.push(run.started_at.since(at).as_secs_f64() * 1e3);
            waits.began.push(began(client, run.task).await? * 1e3 - at.as_millis() as f64);
        }
    }
    Ok(job)
}

/// Waits for the end of a job; gives its tasks.
async fn completed(client: &Client, job: JobId) -> Result<Vec<TaskId>> {
    let deadline = clock::now() + JOB_LIMIT;
    while clock::now() < deadline {
        let detail = client.job(job).await?;
        match detail.job.status {
            JobStatus::Completed => return Ok(detail.tasks.iter().map(|task| task.id).collect()),
            JobStatus::Failed => bail!("the job failed: {:?}", detail.job.error),
            JobStatus::Open => tokio::time::sleep(LOOK).await,
        }
    }
    bail!("the job did not end within {} s", JOB_LIMIT.as_secs())
}

/// When the script's first line ran, in seconds of Unix time: it says so in its log.
async fn began(client: &Client, task: TaskId) -> Result<f64> {
    let logs = client.logs(task, 20).await?;
    let line = logs.lines.iter().find_map(|line| line.split_once("began ")).context("the script's log says nothing")?;
    Ok(line.1.trim().parse()?)
}

/// From the start of an interpreter to the first line of its program, in milliseconds.
async fn python_start(python: &Path, runs: u32) -> Result<Vec<f64>> {
    let mut samples = Vec::new();
    for _ in 0..runs {
        let at = clock::now_micros();
        Command::new(python).args(["-I", "-c", "pass"]).stdin(Stdio::null()).status().await?;
        samples.push((clock::now_micros() - at) as f64 / 1e3);
    }
    Ok(samples)
}

async fn inference(
    arguments: &Arguments,
    directory: &Path,
    client: &Client,
    job: JobId,
    report: &mut Report,
) -> Result<()> {
    let input = json!({"pixels": vec![1; 64]});
    let question = Infer { job: Some(job), model: None, input: input.clone(), via: None };
    client.infer(&question).await?;
    let worker = Worker::start(&arguments.python, directory).await?;
    worker.ask(&input).await?;
    let (mut through_the_mesh, mut directly, mut extra) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..QUESTIONS {
        let began = clock::now_micros();
        client.infer(&question).await?;
        let between = clock::now_micros();
        worker.ask(&input).await?;
        let (mesh, direct) = ((between - began) as f64 / 1e3, (clock::now_micros() - between) as f64 / 1e3);
        through_the_mesh.push(mesh);
        directly.push(direct);
        extra.push(mesh - direct);
    }
    report.quantiles("warm inference through the mesh", "ms", &through_the_mesh, ["", "<= 10"]);
    report.quantiles("the same worker, asked directly", "ms", &directly, ["", ""]);
    report.quantiles("what the mesh adds", "ms", &extra, ["<= 2", ""]);
    Ok(())
}

/// The bundle's server, outside of any node.
struct Worker {
    http: reqwest::Client,
    _child: tokio::process::Child,
}

impl Worker {
    async fn start(python: &Path, directory: &Path) -> Result<Self> {
        let socket: PathBuf = directory.join("worker.sock");
        fs::write(directory.join("job.json"), "{}")?;
        let child = Command::new(python)
            .arg(directory.join("bundle/train.py"))
            .env("ATLAS_MODE", "serve")
            .env("ATLAS_SOCKET", &socket)
            .env("ATLAS_MODEL_DIR", directory)
            .current_dir(directory)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let deadline = clock::now() + JOB_LIMIT;
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            anyhow::ensure!(clock::now() < deadline, "the worker does not answer");
            tokio::time::sleep(LOOK).await;
        }
        let http = reqwest::Client::builder().unix_socket(socket).no_proxy().build()?;
        Ok(Self { http, _child: child })
    }

    async fn ask(&self, input: &serde_json::Value) -> Result<()> {
        let answer = self.http.post("http://worker/v2/models/bench/infer").json(input).send().await?;
        answer.error_for_status()?.bytes().await?;
        Ok(())
    }
}
