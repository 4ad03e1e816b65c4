//! `testnet`: a network of nodes on this machine, a job, and what became of it.
//!
//! It owns no swarm and no state of a node: it knows process ids and control sockets, and asks what any operator
//! could ask. Every figure that it prints comes from the ledger's records or the nodes' own counters.
//!
//! Nothing outlives it: each node ends when its standard input does, so that even a `kill -9` of this process
//! leaves nothing running.

mod chain;
mod evaluate;
mod mesh;
mod moment;
mod process;
mod summary;
mod view;
mod watch;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Context, Error, submit};
use crate::{chain::abci::local::MAX_LOCAL, clock, submit::JobFile, types::JobId};
use chain::Carrier;
use mesh::Mesh;
use moment::Victim;
use summary::Summary;
use view::View;

/// Everything must be up and registered by then; a node starts within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Run a network of nodes on this machine, give it a job, and watch.
#[derive(Debug, Args)]
pub(super) struct Testnet {
    /// Nodes that work, beside the one that carries the ledger.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// The job file; README.md describes it.
    #[arg(long, value_name = "JOB.toml")]
    job: PathBuf,
    /// Pieces of the data set. Default: as many as nodes
    #[arg(long, value_name = "COUNT")]
    shards: Option<u32>,
    /// Kill a process (SIGKILL) inside a round, between a checkpoint that others hold and the receipt.
    #[arg(long, value_enum, value_name = "WHO")]
    kill: Option<Victim>,
    /// What carries the ledger: one process, or a chain of CometBFT validators on this machine.
    #[arg(long, value_enum, value_name = "CARRIER", default_value_t = Carrier::Embedded)]
    ledger: Carrier,
    /// Validators of a ledger that is a chain. One of four may fail.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LOCAL)))]
    validators: u32,
    /// CometBFT 0.38, for such a ledger.
    #[arg(long, value_name = "PROGRAM", env = "ATLAS_COMETBFT", default_value = "cometbft")]
    cometbft: PathBuf,
    /// Leave the network up after the job, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Fail if fewer of the held-out records are answered right, 0 to 1.
    #[arg(long, value_name = "FRACTION")]
    min_accuracy: Option<f64>,
    /// The Python interpreter that the nodes use. Default: python3 or python on the path
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Where the nodes keep their files and logs; must not exist. Default: a temporary directory, removed if all is well
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Write down in this directory what each node is told, for `atlas-sim replay`.
    #[arg(long, value_name = "DIR", requires = "directory")]
    record: Option<PathBuf>,
    /// What the nodes log.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

impl Testnet {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let request = submit::request(&self.job, Some(self.shards.unwrap_or(self.nodes)), None)?;
        let job = JobFile::parse(&request.job_file)?;
        let settings = mesh::Settings {
            nodes: self.nodes,
            python: self.python.clone(),
            log_level: self.log_level.clone(),
            record: self.record.clone(),
            task: job.resources,
            chain: (self.ledger == Carrier::Cometbft).then(|| chain::Settings {
                validators: self.validators,
                cometbft: self.cometbft.clone(),
                log_level: self.log_level.clone(),
                offline_after: mesh::OFFLINE_AFTER,
            }),
        };
        let mut mesh = Mesh::new(settings, self.directory.clone())?;
        let view = View::new(context.output.is_json());

        let played = tokio::select! {
            played = self.play(&mut mesh, &request, &job, &view) => played,
            () = interrupted() => Err(Error::Interrupted),
        };
        view.clear();
        let ended = match played {
            Ok((job, summary)) => self.show(&summary, &mesh, job, &view, context).await,
            Err(error) => Err(error),
        };
        mesh.stop(&view, ended.is_err()).await;
        ended
    }

    /// Prints what became of the run, and keeps the network up if asked.
    async fn show(
        &self,
        summary: &Summary,
        mesh: &Mesh,
        job: JobId,
        view: &View,
        context: &Context,
    ) -> Result<(), Error> {
        context.output.value(summary, Summary::render)?;
        if self.keep {
            view.say(&mesh.how_to_play(job));
            interrupted().await;
        }
        match summary.complaint() {
            None => Ok(()),
            Some(complaint) => Err(Error::JobFailed(complaint)),
        }
    }

    async fn play(
        &self,
        mesh: &mut Mesh,
        request: &crate::api::Submit,
        job: &JobFile,
        view: &View,
    ) -> Result<(JobId, Summary), Error> {
        let began = clock::now();
        tokio::time::timeout(START_LIMIT, mesh.start(view))
            .await
            .map_err(|_| Error::JobFailed(format!("the network was not up within {} s", START_LIMIT.as_secs())))??;

        view.say(&format!("submitting {} through {}", self.job.display(), mesh.submitter().label()));
        let submitted = mesh.submitter().client()?.submit(request).await?;
        for warning in &submitted.warnings {
            view.say(&format!("warning: {warning}"));
        }
        view.say(&format!("job {}: {} tasks, {} copies", submitted.job_id, submitted.tasks, submitted.copies));

        let ended = watch::until_end(mesh, submitted.job_id, self.kill, view).await?;
        view.clear();
        let answers = evaluate::held_out(mesh, &ended.detail, job.evaluation.as_ref(), view).await?;
        let runs = mesh.runs().await;
        let seconds = clock::now().since(began).as_secs_f64();
        let summary = Summary::new(self.nodes, &ended, &answers, &runs, seconds, self.min_accuracy);
        Ok((submitted.job_id, summary))
    }
}

/// Returns at SIGINT or SIGTERM.
async fn interrupted() {
    let stream = |kind| signal(kind).expect("a runtime with IO takes signal handlers");
    let (mut interrupt, mut terminate) = (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
