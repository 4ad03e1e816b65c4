//! What Kubo keeps of a job, so that it goes on though every node loses its blocks: what it is made from, and where its
//! rounds stand. With the checkpoints of its tasks, which recovery pins, that is all that it takes.
//!
//! A directory over several roots makes one pin of them: Kubo's memory grows with the number of its pins. Nothing is
//! pinned twice for one purpose, and what a job needed goes when it ends. Without a Kubo nothing is done.

use super::{Coordinator, Output, Pending, view::Touched};
use crate::{
    node::edges,
    types::{ContentId, JobId, JobSpec, ShardSpec},
};

/// Why the directory stays here: it is streamed to Kubo from here, maybe later.
const REASON: &str = "pinned on Kubo";

/// What is kept of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The script, the model that it began with, and the data.
    Inputs,
    /// The model and the momentum that the next round begins with.
    Round,
}

impl Coordinator {
    /// A job that was submitted here is on its ledger.
    pub(super) fn safekeep_inputs(&mut self, job: JobId, spec: &JobSpec, shards: &[ShardSpec]) {
        let named = [("bundle", spec.bundle), ("dataset", spec.dataset_cid), ("model", spec.model)];
        let named = named.into_iter().chain(spec.held_out.map(|root| ("held-out", root)));
        let shards = shards.iter().zip(0_u32..).map(|(shard, slot)| (format!("shard-{slot}"), shard.cid));
        let entries = named.map(|(name, root)| (name.to_owned(), root)).chain(shards).collect();
        self.safekeep(job, Part::Inputs, format!("inputs-{job}"), entries);
    }

    /// Rounds were closed. Who voted for one has what it came to.
    pub(super) fn safekeep_rounds(&mut self, ledger: &str, touched: &Touched) {
        let Some(view) = self.ledgers.get(ledger).map(|state| &state.view) else { return };
        let closed = touched.closed.iter().filter_map(|key| view.rounds.get(key));
        let voted = closed.filter(|record| record.closer == self.me || record.voters.contains(&self.me));
        let outcomes: Vec<_> = voted.map(|record| record.outcome.clone()).collect();
        for outcome in outcomes {
            let entries = vec![("model".into(), outcome.model_cid), ("momentum".into(), outcome.momentum_cid)];
            self.safekeep(outcome.job, Part::Round, format!("round-{}-{}", outcome.job, outcome.round), entries);
        }
    }

    fn safekeep(&mut self, job: JobId, part: Part, name: String, entries: Vec<(String, ContentId)>) {
        if self.config.kubo {
            self.edge(edges::Request::Directory { entries, reason: REASON }, Pending::Directory { job, part, name });
        }
    }

    /// The directory is here, and takes the place of the one before it.
    pub(super) fn on_directory(&mut self, job: JobId, part: Part, name: String, made: Result<ContentId, String>) {
        let root = match made {
            Ok(root) => root,
            Err(reason) => return tracing::warn!(%job, name, reason, "this can't be pinned on Kubo"),
        };
        self.output(Output::Pin { root, name });
        if let Some(before) = self.safe.insert((job, part), root).filter(|before| *before != root) {
            self.let_go(before);
        }
    }

    /// A job ended.
    pub(super) fn let_go_of_job(&mut self, job: JobId) {
        for part in [Part::Inputs, Part::Round] {
            if let Some(root) = self.safe.remove(&(job, part)) {
                self.let_go(root);
            }
        }
        let checkpoints: Vec<_> = self.pinned.extract_if(.., |task, _| task.job == job).collect();
        for (_, root) in checkpoints {
            self.output(Output::Unpin { root });
        }
    }

    fn let_go(&mut self, root: ContentId) {
        self.output(Output::Unpin { root });
        self.edge(edges::Request::Pin { root, reason: REASON, keep: false }, Pending::Pin);
    }
}
