//! `tasks`: who does what, and what waits.

use clap::Args;

use super::{
    Context, Error,
    output::{or_dash, percent, short, table},
};
use crate::{api::Task, types::JobId};

/// List tasks.
#[derive(Debug, Args)]
pub(super) struct Tasks {
    /// Only of this job.
    #[arg(long, value_name = "ID")]
    job: Option<JobId>,
}

impl Tasks {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let tasks = context.client()?.tasks(self.job).await?;
        Ok(context.output.value(&tasks, |tasks| task_table(tasks))?)
    }
}

/// One line a task.
pub(super) fn task_table(tasks: &[Task]) -> String {
    let row = |task: &Task| {
        vec![
            format!("{}-{}", short(&task.job_id.to_string()), task.shard_id),
            task.status.to_string(),
            task.node_id.as_deref().map_or_else(|| "-".to_owned(), short),
            task.generation.to_string(),
            format!("{}/{}", task.cursor, task.round),
            percent(task.progress),
            or_dash(task.checkpoint_step),
            task.reassigned.to_string(),
            or_dash(task.waiting.as_ref().map(|reason| format!("waiting: {reason}")).or_else(|| task.error.clone())),
        ]
    };
    let header = ["task", "status", "holder", "gen", "cursor", "progress", "ckpt", "moved", "note"];
    table(&header, &tasks.iter().map(row).collect::<Vec<_>>(), "no tasks")
}
