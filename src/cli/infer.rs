//! `infer`: asks a model that the mesh trained.

use std::{fs, io::Read, path::Path};

use clap::Args;

use super::{Context, Error};
use crate::{api, types::JobId};

/// Ask a model. Another node answers.
#[derive(Debug, Args)]
pub(super) struct Infer {
    /// The job whose newest model answers.
    #[arg(long, value_name = "ID", conflicts_with = "model", required_unless_present = "model")]
    job: Option<JobId>,
    /// A registered model, `name:version`.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    /// JSON, or `@FILE`, or `@-` for stdin.
    #[arg(long, value_name = "JSON|@FILE")]
    input: String,
    /// The peer that shall answer.
    #[arg(long, value_name = "PEER")]
    via: Option<String>,
}

impl Infer {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        let input = serde_json::from_str(&read_input(&self.input)?)
            .map_err(|error| Error::Input(format!("--input is no JSON: {error}")))?;
        let question = api::Infer { job: self.job, model: self.model, input, via: self.via };
        let answer = context.client()?.infer(&question).await?;
        Ok(context.output.value(&answer, |answer| {
            format!(
                "{}\n({} answered with {} in {:.1} ms)\n",
                answer.result, answer.node, answer.model_id, answer.latency_ms
            )
        })?)
    }
}

fn read_input(text: &str) -> Result<String, Error> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let read = if path == "-" {
        let mut input = String::new();
        std::io::stdin().read_to_string(&mut input).map(|_| input)
    } else {
        fs::read_to_string(path)
    };
    read.map_err(|source| Error::File { path: Path::new(path).to_owned(), source })
}
