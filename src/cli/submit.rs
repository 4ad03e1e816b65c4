//! `submit`: hands a job file to the running node, and watches if asked.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;

use super::{Context, Error, output::fields};
use crate::{
    api::{self, client::Client},
    types::{JobId, JobStatus},
};

/// Between two looks at a watched job.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Submit a job. Returns once the promised number of other nodes hold everything the job needs.
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The job file; README.md describes it.
    #[arg(value_name = "JOB.toml")]
    job_file: PathBuf,
    /// Cut the data set into so many shards, whatever the file says.
    #[arg(long, value_name = "COUNT")]
    shards: Option<u32>,
    /// Other nodes that must hold each block, whatever the file says.
    #[arg(long, value_name = "COUNT")]
    copies: Option<u32>,
    /// Wait until the job ends, and tell how it goes on stderr.
    #[arg(long)]
    watch: bool,
}

impl Submit {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let request = request(&self.job_file, self.shards, self.copies)?;
        // What can be checked without a node is checked without one.
        crate::submit::JobFile::parse(&request.job_file)?;
        let client = context.client()?;
        let submitted = client.submit(&request).await?;
        for warning in &submitted.warnings {
            eprintln!("warning: {warning}");
        }
        context.output.value(&submitted, |submitted| {
            fields(&[
                ("job", submitted.job_id.to_string()),
                ("ledger", submitted.ledger.clone()),
                ("tasks", submitted.tasks.to_string()),
                ("bundle", submitted.bundle_cid.to_string()),
                ("model", submitted.model_cid.to_string()),
                ("data set", submitted.dataset_cid.to_string()),
                ("copies", format!("{} other nodes hold everything", submitted.copies)),
            ])
        })?;
        if self.watch { watch(&client, submitted.job_id, context).await } else { Ok(()) }
    }
}

/// Reads a job file into a request; relative paths in it start where the file is.
pub(super) fn request(job_file: &PathBuf, shards: Option<u32>, copies: Option<u32>) -> Result<api::Submit, Error> {
    let failed = |source| Error::File { path: job_file.clone(), source };
    let text = fs::read_to_string(job_file).map_err(failed)?;
    let path = fs::canonicalize(job_file).map_err(failed)?;
    let base_directory = path.parent().map(PathBuf::from).unwrap_or_default();
    Ok(api::Submit { job_file: text, base_directory, shards, copies })
}

async fn watch(client: &Client, job: JobId, context: &Context) -> Result<(), Error> {
    let mut told = None;
    loop {
        let detail = client.job(job).await?;
        if told != Some(detail.job.round) {
            told = Some(detail.job.round);
            let loss = detail.rounds.last().and_then(|round| round.loss).map(|loss| format!(", loss {loss:.4}"));
            eprintln!("round {} of {}{}", detail.job.round, detail.job.rounds, loss.unwrap_or_default());
        }
        match detail.job.status {
            JobStatus::Open => tokio::time::sleep(WATCH_INTERVAL).await,
            JobStatus::Completed => {
                return Ok(context
                    .output
                    .value(&detail, |detail| fields(&[("result", super::output::or_dash(detail.job.result_cid))]))?);
            }
            JobStatus::Failed => {
                return Err(Error::JobFailed(format!(
                    "the job failed: {}",
                    detail.job.error.unwrap_or_else(|| "no reason given".to_owned())
                )));
            }
        }
    }
}
