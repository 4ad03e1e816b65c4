//! Registered models, and what nodes answered with them.

use std::collections::BTreeMap;

use super::{
    Event,
    entries::Inference,
    refusal::{Refusal, check_entries, check_name, ensure},
    state::State,
    transaction::Context,
};
use crate::{
    chain::records::Model,
    codec,
    types::{ContentId, JobId, Round},
};

/// A model as its creator names it.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) cid: ContentId,
    pub(super) metadata: &'a BTreeMap<String, String>,
}

/// Registers a model under `{name}:{version}`, once. Answers that id.
pub(super) fn register(state: &mut State, context: &Context, entry: Entry<'_>) -> Result<Vec<u8>, Refusal> {
    check_name("name", entry.name)?;
    check_name("version", entry.version)?;
    check_entries("metadata", entry.metadata)?;
    ensure(!entry.name.contains(':'), || Refusal::invalid("`name` must not contain `:`, which ends it in the id"))?;
    let id = format!("{}:{}", entry.name, entry.version);
    ensure(state.model(&id).is_none(), || Refusal::conflict(format!("model {id} exists; choose another version")))?;
    let model = Model {
        id: id.clone(),
        name: entry.name.to_owned(),
        version: entry.version.to_owned(),
        cid: entry.cid,
        creator: context.creator,
        created_at: state.clock().time,
        metadata: entry.metadata.clone(),
    };
    state.put_model(model);
    state.emit(Event::new("model_registered").with("model_id", &id).with("cid", entry.cid));
    Ok(codec::encode(&id))
}

/// What a node answered since its last report.
pub(super) struct Answers {
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) round: Round,
}

/// Adds a report of a registered node to its tally for a job.
pub(super) fn report_inference(
    state: &mut State,
    context: &Context,
    job: &JobId,
    report: &Answers,
) -> Result<Vec<u8>, Refusal> {
    state.known_node(&context.creator)?;
    let open_round = state.known_job(job)?.round;
    ensure(report.round <= open_round, || {
        Refusal::invalid(format!("`round` is {}, but round {open_round} is still open", report.round))
    })?;
    let tally = state.inference(*job, context.creator);
    let tally = Inference {
        answered: tally.answered.saturating_add(report.answered),
        failed: tally.failed.saturating_add(report.failed),
        round: tally.round.max(report.round),
    };
    state.put_inference(*job, context.creator, tally);
    state.emit(
        Event::new("inference_reported")
            .with("job_id", job)
            .with("node_id", context.creator)
            .with("answered", report.answered)
            .with("failed", report.failed),
    );
    Ok(Vec::new())
}
