//! `proof`: fetches what the node can show of a round, and checks it without the node.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Context, Error, output::table, read_at_most};
use crate::{
    proof::evidence::{self, Check, MAX_EVIDENCE_BYTES, Report, Verdict},
    types::TaskId,
};

/// Receipts.
#[derive(Debug, Subcommand)]
pub(super) enum Proof {
    /// Print the receipt of a task's round, and whatever makes it checkable, as one line of JSON: what `verify` reads.
    Get {
        /// The task, `{job}-{slot}`.
        task: TaskId,
        /// The round.
        round: u32,
    },
    /// Check such a file offline. What the file lacks is not checked, and the table says so.
    Verify {
        /// What `proof get` printed.
        file: PathBuf,
    },
}

impl Proof {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Get { task, round } => {
                let evidence = context.client()?.proof(task, round).await?;
                Ok(context.output.json_line(&evidence)?)
            }
            Self::Verify { file } => {
                let report = evidence::verify_file(&read_at_most(&file, MAX_EVIDENCE_BYTES as u64, "evidence")?)
                    .map_err(|error| {
                        Error::Input(format!("{}: {error}; `proof get` prints what this reads", file.display()))
                    })?;
                context.output.value(&report, render)?;
                report.holds().then_some(()).ok_or_else(|| Error::Failed("the proof does not hold".to_owned()))
            }
        }
    }
}

fn render(report: &Report) -> String {
    let row = |check: &Check| {
        let verdict = match &check.verdict {
            Verdict::Holds => "holds".to_owned(),
            Verdict::Fails(why) => format!("FAILS: {why}"),
            Verdict::NotChecked(why) => format!("not checked: {why}"),
        };
        vec![check.name.to_owned(), verdict]
    };
    let subject = report.receipt.as_ref().map(|receipt| {
        let worker = crate::api::views::peer_text(&receipt.node);
        format!("task {}, round {}, worker {worker}\n", receipt.task, receipt.round)
    });
    subject.unwrap_or_default() + &table(&["check", "verdict"], &report.checks.iter().map(row).collect::<Vec<_>>(), "")
}
