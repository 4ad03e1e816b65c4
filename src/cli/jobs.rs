//! `jobs`: lists jobs; shows, cancels, pauses and resumes one.

use clap::{Args, Subcommand};

use super::{
    Context, Error,
    output::{fields, or_dash, percent, short, table},
    tasks::task_table,
};
use crate::{
    api::{Done, Job, JobDetail},
    types::JobId,
};

/// List jobs, or do something with one.
#[derive(Debug, Args)]
pub(super) struct Jobs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Show a job with its tasks and rounds.
    Show {
        /// The job's id.
        job: JobId,
    },
    /// End an own job; what is left of its budget comes back.
    Cancel {
        /// The job's id.
        job: JobId,
    },
    /// Stop an own job's tasks, with checkpoints.
    Pause {
        /// The job's id.
        job: JobId,
    },
    /// Go on with a paused job.
    Resume {
        /// The job's id.
        job: JobId,
    },
}

impl Jobs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.client()?;
        let done = match self.action {
            None => return Ok(context.output.value(&client.jobs().await?, |jobs| job_table(jobs))?),
            Some(Action::Show { job }) => return Ok(context.output.value(&client.job(job).await?, detail)?),
            Some(Action::Cancel { job }) => client.cancel(job).await?,
            Some(Action::Pause { job }) => client.pause(job).await?,
            Some(Action::Resume { job }) => client.resume(job).await?,
        };
        Ok(context.output.value(&done, |Done { message }| format!("{message}\n"))?)
    }
}

fn job_table(jobs: &[Job]) -> String {
    let row = |job: &Job| {
        let status = if job.paused { format!("{} (paused)", job.status) } else { job.status.to_string() };
        vec![
            job.id.to_string(),
            job.name.clone(),
            status,
            format!("{}/{}", job.round, job.rounds),
            percent(job.progress),
            job.tasks.to_string(),
            job.ledger.clone(),
            or_dash(job.result_cid),
        ]
    };
    let header = ["job", "name", "status", "round", "progress", "tasks", "ledger", "result"];
    table(&header, &jobs.iter().map(row).collect::<Vec<_>>(), "no jobs")
}

fn detail(detail: &JobDetail) -> String {
    let job = &detail.job;
    let mut text = fields(&[
        ("job", job.id.to_string()),
        ("name", job.name.clone()),
        ("status", job.status.to_string()),
        ("creator", job.creator.clone()),
        ("model", job.model_cid.to_string()),
        ("model root", or_dash(job.model_root)),
        ("result", or_dash(job.result_cid)),
        ("budget", format!("{} ({} paid, {} left)", job.budget, job.paid, job.escrow)),
        ("error", or_dash(job.error.as_ref())),
    ]);
    text.push_str(&format!("\n{}\n", task_table(&detail.tasks)));
    let rows: Vec<Vec<String>> = detail
        .rounds
        .iter()
        .map(|round| {
            vec![
                round.round.to_string(),
                or_dash(round.loss.map(|loss| format!("{loss:.4}"))),
                round.applied.len().to_string(),
                round.skipped.len().to_string(),
                round.batches.to_string(),
                short(&round.closer),
                short(&round.params_root.to_string()),
            ]
        })
        .collect();
    let header = ["round", "loss", "applied", "skipped", "batches", "closer", "root"];
    text.push_str(&table(&header, &rows, "no round closed yet"));
    text
}
