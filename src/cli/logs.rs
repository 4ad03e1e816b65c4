//! `logs`: what a task's script wrote.

use clap::Args;

use super::{Context, Error};
use crate::types::TaskId;

/// Show the end of a task's log on this node.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// The task, `{job}-{slot}`.
    task: TaskId,
    /// Lines.
    #[arg(long, value_name = "COUNT", default_value_t = 200)]
    tail: u32,
}

impl Logs {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let logs = context.client()?.logs(self.task, self.tail).await?;
        Ok(context.output.value(&logs, |logs| {
            let earlier = if logs.truncated { "… earlier lines left out\n" } else { "" };
            logs.lines.iter().fold(earlier.to_owned(), |text, line| text + line + "\n")
        })?)
    }
}
