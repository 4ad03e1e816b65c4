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

#[cfg(test)]
mod tests {
    use super::super::testing::{World, content, id, spec};
    use super::*;
    use crate::{
        chain::wire::{Code, Message, query},
        types::Quorum,
    };

    fn model(name: &str, version: &str) -> Message {
        let metadata = BTreeMap::from([("licence".to_owned(), "MIT".to_owned())]);
        Message::RegisterModel { name: name.to_owned(), version: version.to_owned(), cid: content("m"), metadata }
    }

    #[test]
    fn a_model_version_is_registered_once() {
        let mut world = World::of_nodes(2);
        world.ok(1, model("bert", "1"));
        world.refused(2, Code::Conflict, model("bert", "1"));
        world.ok(2, model("bert", "2"));
        world.refused(2, Code::Invalid, model("be:rt", "2"));
        world.refused(2, Code::Invalid, model("", "2"));
        let models: Vec<Model> = codec::decode(&world.ledger.query(query::LIST_MODELS, &[]).unwrap(), 10_000).unwrap();
        assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["bert:1", "bert:2"]);
        let rest: Vec<Model> = world.query(query::LIST_MODELS, &"bert:1");
        assert_eq!(rest.len(), 1);
    }

    #[test]
    fn answers_add_up_for_each_node_and_name_no_round_to_come() {
        let mut world = World::of_nodes(1);
        let job_id = world.submit(1, spec(2, Quorum::All), 1);
        let report = |answered, round| Message::ReportInference { job_id, answered, failed: 1, round };
        world.ok(1, report(10, 0));
        world.ok(1, report(5, 0));
        world.refused(1, Code::Invalid, report(5, 1));
        world.refused(8, Code::NotFound, report(5, 0));
        let tally = world.ledger.state.inference(job_id, id(1));
        assert_eq!((tally.answered, tally.failed), (15, 2));
    }
}
