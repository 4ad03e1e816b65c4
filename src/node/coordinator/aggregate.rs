//! Rounds: what the round state wants done, and what it is told.

use std::time::Duration;

use super::{
    Coordinator, Output, Pending,
    gather::{Next, Purpose},
};
use crate::{
    chain::{records, wire::Message},
    gossip::{JobMessage, updates_topic},
    identity,
    node::edges,
    round::{self, Opened, Output as RoundOutput, edge},
    types::{Cause, ContentId, JobId, NodeKey, Round, Slot, TaskId, TaskStatus},
};

impl Coordinator {
    /// Tells the round state how a job's open round stands on the ledger. Saying it twice changes nothing.
    pub(super) fn reconcile_round(&mut self, ledger: &str, job: JobId) {
        let Some(view) = self.ledgers.get(ledger).map(|state| &state.view) else { return };
        let Some(record) = view.jobs.get(&job) else { return };
        let slots: Vec<(Slot, Option<NodeKey>)> =
            view.tasks_of(&job).map(|task| (task.id.slot, holder(task))).collect();
        if !slots.iter().any(|(_, holder)| *holder == Some(self.me)) {
            return;
        }
        let mut inputs = vec![
            round::Input::Opened(Box::new(opened(ledger, record, slots.clone()))),
            round::Input::HoldersChanged { job, slots },
        ];
        inputs.extend(view.tasks_of(&job).map(|task| receipt_input(record, task)));
        self.join_job(job);
        for input in inputs {
            self.rounds.handle(input, self.now);
        }
    }

    pub(super) fn end_rounds(&mut self, job: JobId) {
        self.rounds.handle(round::Input::Ended { job }, self.now);
    }

    /// Does what the round state wants.
    pub(super) fn drain_rounds(&mut self) {
        while let Some(output) = self.rounds.poll_output() {
            match output {
                RoundOutput::FetchUpdate { job, slot, cid, node } => self.fetch_update(job, slot, cid, &node),
                RoundOutput::FetchModel { job, cid } => self.fetch_model(job, cid),
                RoundOutput::Edge(request) => {
                    self.edge(edges::Request::Round(Box::new(request)), Pending::Aggregate);
                }
                RoundOutput::Publish { job, update, .. } => {
                    let message = JobMessage { job, node: self.me, timestamp: self.now, update };
                    self.publish(updates_topic(&job), &message);
                }
                RoundOutput::Close { ledger, job, outcome, votes } => {
                    let message = Message::CloseRound { outcome, votes };
                    self.submit(&ledger, message, false, Pending::CloseRound { job });
                }
            }
        }
    }

    fn fetch_update(&mut self, job: JobId, slot: Slot, cid: ContentId, node: &NodeKey) {
        let Some(ledger) = self.ledger_of(&job) else { return };
        let mut providers: Vec<_> = identity::peer_id(node).filter(|_| *node != self.me).into_iter().collect();
        providers.extend(self.providers(&ledger, &job));
        self.gather(&[(cid, Purpose::Update)], &providers, Next::Update { job, slot, cid });
    }

    pub(super) fn on_update_here(&mut self, job: JobId, slot: Slot, cid: ContentId) {
        self.rounds.handle(round::Input::UpdateHere { job, slot, cid }, self.now);
    }

    pub(super) fn on_update_missing(&mut self, job: JobId, slot: Slot, cid: ContentId, reason: &str) {
        tracing::warn!(%job, slot, reason, "an update could not be fetched");
        self.rounds.handle(round::Input::UpdateFailed { job, slot, cid }, self.now);
    }

    fn fetch_model(&mut self, job: JobId, cid: ContentId) {
        let Some(ledger) = self.ledger_of(&job) else { return };
        let providers = self.providers(&ledger, &job);
        self.gather(&[(cid, Purpose::Content)], &providers, Next::RoundModel { job, cid });
    }

    pub(super) fn on_model_here(&mut self, job: JobId, cid: ContentId) {
        self.rounds.handle(round::Input::ModelHere { job, cid }, self.now);
    }

    pub(super) fn on_model_missing(&mut self, job: JobId, cid: ContentId, reason: &str) {
        tracing::warn!(%job, %cid, reason, "the round's model could not be fetched");
        self.rounds.handle(round::Input::ModelFailed { job, cid }, self.now);
    }

    /// The update of a held task's finished round is made off the loop, from the checkpoint that another node holds.
    pub(super) fn package(&mut self, task: TaskId, round: Round, trained: ContentId) {
        let Some(work) = self.works.get(&task) else { return };
        let Some(job) = self.ledgers.get(&work.ledger).and_then(|state| state.view.jobs.get(&task.job)) else { return };
        let request = edge::PackageRequest { base_model: job.model_cid, trained, codec: job.spec.codec };
        let request = edge::Request::Package { id: 0, request };
        self.edge(edges::Request::Round(Box::new(request)), Pending::Package { task, round });
    }

    pub(super) fn on_packaged(&mut self, task: TaskId, round: Round, result: Result<edge::Package, Cause>) {
        let Some(work) = self.works.get_mut(&task).filter(|work| work.round == round) else { return };
        match result {
            Ok(package) => {
                work.package = Some(package);
                self.output(Output::Provide(package.update_cid));
                self.try_receipt(task);
            }
            Err(error) => self.attempt_failed(task, &format!("the update can't be made: {error}")),
        }
    }
}

/// Who holds a task's lease, if anybody does.
fn holder(task: &records::Task) -> Option<NodeKey> {
    let holding = matches!(task.status, TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused);
    task.holder.filter(|_| holding)
}

fn opened(ledger: &str, job: &records::Job, slots: Vec<(Slot, Option<NodeKey>)>) -> Opened {
    Opened {
        ledger: ledger.to_owned(),
        job: job.id,
        round: job.round,
        opened_height: job.round_opened_height,
        opened_at: job.round_opened_at,
        slots,
        quorum: job.spec.quorum,
        round_limit: Duration::from_millis(job.spec.round_limit_millis),
        base_model: job.model_cid,
        momentum: job.momentum_cid,
        outer: job.spec.outer,
        codec: job.spec.codec,
        rule: job.spec.rule,
    }
}

fn receipt_input(job: &records::Job, task: &records::Task) -> round::Input {
    match &task.receipt {
        Some(accepted) if accepted.receipt.round == job.round => round::Input::Receipt {
            job: job.id,
            round: job.round,
            slot: task.id.slot,
            node: accepted.receipt.node,
            update_cid: accepted.receipt.update_cid,
            digest: accepted.receipt.update_digest,
            samples: accepted.receipt.metrics.samples,
            accepted_at: accepted.accepted_at,
        },
        _ => round::Input::ReceiptVoided { job: job.id, slot: task.id.slot },
    }
}
