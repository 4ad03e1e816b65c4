//! `checkpoint`: what is kept to continue from.

use clap::Subcommand;

use super::{
    Context, Error,
    output::{ago, bytes, short, table},
};
use crate::{api::CheckpointLine, clock};

/// Checkpoints.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Checkpoint {
    /// List the checkpoints that this node wrote or holds for others.
    Ls,
}

impl Checkpoint {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let Self::Ls = self;
        let checkpoints = context.client()?.checkpoints().await?;
        let now = clock::now();
        Ok(context.output.value(&checkpoints, |checkpoints| {
            let row = |checkpoint: &CheckpointLine| {
                vec![
                    format!("{}-{}", short(&checkpoint.task_id.job.to_string()), checkpoint.task_id.slot),
                    checkpoint.epoch.to_string(),
                    checkpoint.iteration.to_string(),
                    checkpoint.cid.to_string(),
                    bytes(checkpoint.size),
                    ago(checkpoint.timestamp, now),
                    short(&checkpoint.node_id),
                    checkpoint.holders.len().to_string(),
                ]
            };
            let header = ["task", "round", "step", "cid", "size", "written", "by", "copies"];
            table(&header, &checkpoints.iter().map(row).collect::<Vec<_>>(), "no checkpoints")
        })?)
    }
}
