//! "When all of this content is here, do that": fetches with one continuation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libp2p::PeerId;

use super::{Coordinator, Output, Pending, inference::ServeRequest, on_proof::CheckReceipt};
use crate::{
    api,
    chain::records::ObjectId,
    shard,
    types::{ContentId, JobId, Slot, TaskId, Time},
};

/// What happens once the content is here, or can't be had.
#[derive(Debug)]
pub(super) enum Next {
    /// The inputs of a held task's round.
    Run(TaskId),
    /// The update of another slot.
    Update { job: JobId, slot: Slot, cid: ContentId },
    /// The model or momentum that a round is aggregated from.
    RoundModel { job: JobId, cid: ContentId },
    /// What another node's receipt speaks of.
    CheckReceipt(Box<CheckReceipt>),
    /// What a job file names by CID.
    Prepare { submission: u64, request: Box<api::Submit> },
    /// What an inference worker needs.
    Serve(Box<ServeRequest>),
    /// Pinned content of which the disk lost some.
    Repaired(ContentId),
    /// An object that this node keeps for another.
    Store(ObjectId),
    /// A person wants others to keep it.
    Keep { command: u64, request: api::StorageKeep },
    /// A person wants it in a file.
    Export { command: u64, request: api::ShardGet },
}

/// Counts what a fetch is for, so that the bytes it moves are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Scripts, models, data, checkpoints.
    Content,
    /// Updates of joint training.
    Update,
    /// A checkpoint to continue from. It can be done without, at the price of the steps that it contains: when nothing of
    /// it came for this long, it is.
    Resume(Duration),
}

#[derive(Debug)]
struct Gather {
    missing: BTreeSet<u64>,
    failure: Option<String>,
    next: Next,
}

/// Gathers under way.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    open: BTreeMap<u64, Gather>,
    fetches: BTreeMap<u64, Fetch>,
}

/// A fetch of a gather.
#[derive(Debug)]
struct Fetch {
    gather: u64,
    purpose: Purpose,
    /// It is given up at this time if nothing comes.
    until: Option<Time>,
}

impl Fetch {
    fn new(gather: u64, purpose: Purpose, now: Time) -> Self {
        let mut fetch = Self { gather, purpose, until: None };
        fetch.be_patient(now);
        fetch
    }

    /// Something came, or may come: patience begins again.
    fn be_patient(&mut self, now: Time) {
        if let Purpose::Resume(patience) = self.purpose {
            self.until = Some(now + patience);
        }
    }
}

impl Gathers {
    /// Gathers and fetches under way.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.fetches.len()
    }
}

impl Coordinator {
    /// Fetches `wanted` from `providers` (and whoever else has it), then goes on with `next`. Content that is here
    /// already costs one look at the store.
    pub(super) fn gather(&mut self, wanted: &[(ContentId, Purpose)], providers: &[PeerId], next: Next) {
        let id = self.new_id();
        let mut missing = BTreeSet::new();
        for (root, purpose) in wanted.iter().copied().collect::<BTreeMap<_, _>>() {
            let fetch = self.new_id();
            missing.insert(fetch);
            self.gathers.fetches.insert(fetch, Fetch::new(id, purpose, self.now));
            let input = shard::Input::Fetch { id: fetch, root, providers: providers.to_vec() };
            self.output(Output::Shard(input));
        }
        self.gathers.open.insert(id, Gather { missing, failure: None, next });
    }

    /// Part of a fetch came: so many bytes are here.
    pub(super) fn on_fetch_progress(&mut self, fetch: u64, bytes: u64) {
        let Some(fetch) = self.gathers.fetches.get_mut(&fetch) else { return };
        fetch.be_patient(self.now);
        if let Some(Gather { next: Next::Store(id), .. }) = self.gathers.open.get(&fetch.gather) {
            self.on_object_progress(&id.clone(), bytes);
        }
    }

    /// Ends the fetch of an object. Its end is reported as that of any fetch.
    pub(super) fn cancel_store(&mut self, id: &ObjectId) {
        let wanted = |gather: &&Gather| matches!(&gather.next, Next::Store(object) if object == id);
        let fetches: Vec<u64> =
            self.gathers.open.values().filter(wanted).flat_map(|gather| gather.missing.clone()).collect();
        for id in fetches {
            self.output(Output::Shard(shard::Input::Cancel { id }));
        }
    }

    /// Gives up what can be done without and does not come.
    pub(super) fn lose_patience(&mut self) {
        let now = self.now;
        let late = self.gathers.fetches.iter_mut().filter(|(_, fetch)| fetch.until.is_some_and(|until| until <= now));
        let cancelled: Vec<u64> = late
            .map(|(id, fetch)| {
                fetch.until = None;
                *id
            })
            .collect();
        for id in cancelled {
            self.output(Output::Shard(shard::Input::Cancel { id }));
        }
    }

    /// A fetch ended: the gather goes on when it was the last one.
    pub(super) fn on_fetch_ended(&mut self, fetch: u64, bytes: u64, failure: Option<String>) {
        let Some(Fetch { gather: id, purpose, .. }) = self.gathers.fetches.remove(&fetch) else { return };
        self.wanting.retain(|_, fetches| {
            fetches.remove(&fetch);
            !fetches.is_empty()
        });
        let needed = !matches!(purpose, Purpose::Resume(_));
        match purpose {
            Purpose::Content | Purpose::Resume(_) => self.counters.shard_bytes_received += bytes,
            Purpose::Update => self.counters.update_bytes_received += bytes,
        }
        let Some(gather) = self.gathers.open.get_mut(&id) else { return };
        gather.missing.remove(&fetch);
        if gather.failure.is_none() && needed {
            gather.failure = failure;
        }
        if gather.missing.is_empty()
            && let Some(gather) = self.gathers.open.remove(&id)
        {
            match gather.failure {
                None => self.on_gathered(gather.next),
                Some(reason) => self.on_gather_failed(gather.next, reason),
            }
        }
    }

    fn on_gathered(&mut self, next: Next) {
        match next {
            Next::Run(task) => self.on_inputs_here(task),
            Next::Update { job, slot, cid } => self.on_update_here(job, slot, cid),
            Next::RoundModel { job, cid } => self.on_model_here(job, cid),
            Next::CheckReceipt(check) => self.start_receipt_check(*check),
            Next::Prepare { submission, request } => self.start_preparing(submission, request),
            Next::Serve(request) => self.start_serving(*request),
            Next::Repaired(root) => tracing::debug!(%root, "pinned content is whole"),
            Next::Store(id) => self.on_object_fetched(&id, None),
            Next::Keep { command, request } => self.pin_own_object(command, request),
            Next::Export { command, request } => self.start_export(command, request),
        }
    }

    fn on_gather_failed(&mut self, next: Next, reason: String) {
        match next {
            Next::Run(task) => self.on_inputs_missing(task, &reason),
            Next::Update { job, slot, cid } => self.on_update_missing(job, slot, cid, &reason),
            Next::RoundModel { job, cid } => self.on_model_missing(job, cid, &reason),
            Next::CheckReceipt(check) => self.refuse_receipt(check.token, &reason),
            Next::Prepare { submission, .. } => {
                self.on_prepared(submission, Err(format!("what the job file names could not be fetched: {reason}")));
            }
            Next::Serve(request) => self.refuse_serving(&request, &reason),
            Next::Repaired(root) => self.on_repair_failed(root, &reason),
            Next::Store(id) => self.on_object_fetched(&id, Some(&reason)),
            Next::Export { command, .. } | Next::Keep { command, .. } => {
                let message = format!("the content could not be fetched: {reason}");
                self.reply_error(command, api::ErrorCode::NotFound, message);
            }
        }
    }

    /// Whatever waits for this answer.
    pub(super) fn take_pending(&mut self, id: u64) -> Option<Pending> {
        self.pending.remove(&id)
    }
}
