//! `script check`: for whoever writes a bundle.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Context, Error, output::table};
use crate::executor::{
    conformance::{self, Report, Verdict},
    launcher,
};

/// Script bundles.
#[derive(Debug, Subcommand)]
pub(super) enum Script {
    /// Check that a bundle keeps the script contract.
    Check {
        /// The bundle's directory.
        bundle: PathBuf,
        /// The interpreter. Default: python3 or python on the path
        #[arg(long, value_name = "PROGRAM")]
        python: Option<PathBuf>,
    },
}

impl Script {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let Self::Check { bundle, python } = self;
        let python = python.unwrap_or_else(|| "python3".into());
        let report = conformance::check(&bundle, &python, launcher::of_this_executable()?).await.map_err(describe)?;
        context.output.value(&report, render)?;
        report.passed().then_some(()).ok_or_else(|| Error::Failed("the bundle breaks the contract".to_owned()))
    }
}

fn describe(error: conformance::Error) -> Error {
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    Error::Input(format!("{error}{source}"))
}

fn render(report: &Report) -> String {
    let row = |finding: &conformance::Finding| {
        let (verdict, reason) = match &finding.verdict {
            Verdict::Passed => ("passed", ""),
            Verdict::NotPromised => ("not promised", ""),
            Verdict::Failed(reason) => ("FAILED", reason.as_str()),
        };
        vec![finding.check.to_owned(), verdict.to_owned(), reason.to_owned()]
    };
    let rows: Vec<_> = report.findings.iter().map(row).collect();
    table(&["CHECK", "VERDICT", "REASON"], &rows, "nothing was checked")
}
