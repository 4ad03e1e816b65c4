//! A ledger's client reports: what changed, what became of our transactions, whether it answers.

use std::time::Duration;

use super::{Coordinator, LedgerState, Output, Pending, view::Touched};
use crate::{
    api::{self, NodeEvent, views::peer_text},
    chain::{client, records::Changes, wire::Message},
    node::edges,
    recovery,
    types::{JobId, JobStatus, NodeKey, NodeStatus, TaskId, TaskStatus},
};

/// Endpoints of a ledger whose faults `status` shows: as many as a client has.
const MAX_DISTRUSTED: usize = 32;

impl Coordinator {
    pub(super) fn on_ledger(&mut self, ledger: &str, event: client::Event) {
        match event {
            client::Event::Connected { endpoint, through_peer, .. } => {
                self.on_ledger_connected(ledger, endpoint, through_peer);
            }
            client::Event::Disconnected { reason } => self.on_ledger_lost(ledger, reason),
            client::Event::Distrusted { endpoint, reason } => {
                let state = self.ledgers.entry(ledger.to_owned()).or_default();
                state.distrusted.insert(endpoint, reason);
                if state.distrusted.len() > MAX_DISTRUSTED {
                    state.distrusted.pop_first();
                }
            }
            client::Event::Changes(changes) => self.on_changes(ledger, *changes),
            client::Event::Committed { id, code, log, data, .. } => {
                self.settle_outbox(ledger);
                self.on_committed(id, code, &log, &data);
            }
            client::Event::Rejected { id, reason } => {
                self.settle_outbox(ledger);
                self.on_committed(id, u32::MAX, &reason, &[]);
            }
        }
    }

    fn settle_outbox(&mut self, ledger: &str) {
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.outbox = state.outbox.saturating_sub(1);
        }
    }

    fn on_ledger_connected(&mut self, ledger: &str, endpoint: String, through_peer: bool) {
        let state = self.ledgers.entry(ledger.to_owned()).or_default();
        let news = !state.connected;
        state.connected = true;
        state.distrusted.remove(&endpoint);
        state.endpoint = Some(endpoint);
        state.through_peer = through_peer;
        state.reason = None;
        if news {
            self.notify(NodeEvent::LedgerReachable { ledger: ledger.to_owned(), reachable: true, reason: None });
        }
    }

    fn on_ledger_lost(&mut self, ledger: &str, reason: String) {
        let state = self.ledgers.entry(ledger.to_owned()).or_default();
        let news = state.connected || state.reason.as_ref() != Some(&reason);
        state.connected = false;
        state.reason = Some(reason.clone());
        if news {
            let event =
                NodeEvent::LedgerReachable { ledger: ledger.to_owned(), reachable: false, reason: Some(reason) };
            self.notify(event);
        }
    }

    fn on_changes(&mut self, ledger: &str, changes: Changes) {
        let complete = !changes.more;
        let state = self.ledgers.entry(ledger.to_owned()).or_default();
        state.changed_at = self.now;
        state.read |= complete;
        let touched = state.view.apply(changes);
        self.notify_touched(ledger, &touched);
        if !touched.statuses.is_empty() {
            self.update_members(touched.statuses.keys().copied());
            self.name_holders();
            self.give_up_on_gone(&touched);
        }
        if complete {
            self.register_if_needed(ledger);
        }
        self.tend_submissions();
        self.tell_recovery(ledger, &touched);
        self.safekeep_rounds(ledger, &touched);
        for job in &touched.jobs {
            self.reconcile_job(ledger, *job);
        }
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.view.forget_ended();
            state.view.forget_over();
        }
    }

    /// Nodes that went offline will not answer: what they were asked, others are asked at once. The carrier would wait
    /// for minutes if the machine vanished without closing a connection.
    fn give_up_on_gone(&mut self, touched: &Touched) {
        let gone = |node: &NodeKey| touched.statuses.get(node) == Some(&NodeStatus::Offline);
        let asked = |pending: &Pending| match pending {
            Pending::Verify { peer, .. } | Pending::CheckpointHold { peer, .. } => gone(peer),
            _ => false,
        };
        let ids: Vec<u64> = self.pending.iter().filter(|(_, pending)| asked(pending)).map(|(id, _)| *id).collect();
        for pending in ids.into_iter().filter_map(|id| self.take_pending(id)).collect::<Vec<_>>() {
            match pending {
                Pending::Verify { task, round, .. } => self.on_verifier_gone(task, round),
                Pending::CheckpointHold { hold, .. } => {
                    self.recovery.handle(recovery::Input::HoldFailed { id: hold }, self.now);
                }
                _ => {}
            }
        }
    }

    /// Which generations are over, and which rounds were settled, decides what recovery keeps.
    fn tell_recovery(&mut self, ledger: &str, touched: &Touched) {
        let Some(view) = self.ledgers.get(ledger).map(|state| &state.view) else { return };
        let tasks = touched.tasks.keys().filter_map(|task| view.tasks.get(task));
        let generations: Vec<recovery::Input> =
            tasks.map(|task| recovery::Input::Generation { task: task.id, generation: task.generation }).collect();
        let closed = touched.closed.iter().filter_map(|key| view.rounds.get(key));
        let settled: Vec<recovery::Input> = closed
            .flat_map(|record| {
                let outcome = &record.outcome;
                let settled = |slot, applied| recovery::Input::Settled {
                    task: TaskId { job: outcome.job, slot },
                    round: outcome.round,
                    applied,
                };
                let applied = outcome.applied.iter().map(move |one| settled(one.slot, true));
                applied.chain(outcome.skipped.iter().map(move |slot| settled(*slot, false))).collect::<Vec<_>>()
            })
            .collect();
        for input in generations.into_iter().chain(settled) {
            self.recovery.handle(input, self.now);
        }
    }

    fn notify_touched(&mut self, ledger: &str, touched: &Touched) {
        let Some(state) = self.ledgers.get(ledger) else { return };
        let view = &state.view;
        let tasks = touched.tasks.keys().filter_map(|task| view.tasks.get(task)).map(|task| NodeEvent::TaskStatus {
            task: task.id,
            status: task.status,
            generation: task.generation,
            holder: task.holder.as_ref().map(peer_text),
            error: task.error.clone(),
        });
        let rounds = touched.closed.iter().filter_map(|key| view.rounds.get(key)).map(|record| {
            let round = api::Round::from(record);
            NodeEvent::RoundClosed {
                job: record.outcome.job,
                round: record.outcome.round,
                params_root: record.outcome.params_root,
                model_cid: record.outcome.model_cid,
                applied: round.applied.keys().copied().collect(),
                skipped: round.skipped,
                loss: round.loss,
            }
        });
        let jobs = touched.jobs.iter().filter_map(|job| view.jobs.get(job)).map(|job| NodeEvent::JobStatus {
            job: job.id,
            status: job.status,
            error: job.error.clone(),
        });
        let nodes = touched
            .statuses
            .iter()
            .map(|(node, status)| NodeEvent::NodeStatus { peer_id: peer_text(node), status: *status });
        let events: Vec<NodeEvent> = tasks.chain(rounds).chain(jobs).chain(nodes).collect();
        for event in events {
            self.notify(event);
        }
    }

    /// Leaves the ledgers of single jobs that ended, after a while in which people may still ask about them. Those that
    /// this node carries stay: their creator is here.
    pub(super) fn close_finished_ledgers(&mut self) {
        /// A guess: long enough to read the result, short enough that ended jobs don't crowd out new ones.
        const KEEP: Duration = Duration::from_secs(300);
        let me = self.keypair.peer_id();
        let finished = |(ledger, state): &(&String, &LedgerState)| {
            let another = state.host.is_some_and(|host| host != me) && **ledger != self.config.ledger;
            another && state.view.open_jobs().next().is_none() && self.now.since(state.changed_at) >= KEEP
        };
        let finished: Vec<String> = self.ledgers.iter().filter(finished).map(|(ledger, _)| ledger.clone()).collect();
        for ledger in finished {
            let known = self.ledgers.remove(&ledger).map(|state| state.view.nodes).unwrap_or_default();
            self.update_members(known.into_keys());
            self.output(Output::CloseLedger(ledger));
        }
    }

    /// Puts this node on a ledger where it does not stand, or stands with something else than it offers now.
    pub(super) fn register_if_needed(&mut self, ledger: &str) {
        let Some(state) = self.ledgers.get(ledger) else { return };
        let current = state.view.nodes.get(&self.me).is_some_and(|node| {
            node.node_id == self.config.label
                && node.resources == self.config.lends
                && node.address == self.config.address
        });
        if current || state.registering || self.awaiting_host || self.stopping.is_some() {
            return;
        }
        self.register(ledger, None);
    }

    pub(super) fn register(&mut self, ledger: &str, command: Option<u64>) {
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.registering = true;
        }
        let message = Message::RegisterNode {
            node_id: self.config.label.clone(),
            address: self.config.address.clone(),
            resources: self.config.lends,
            listen: self.listen.iter().take(16).map(ToString::to_string).collect(),
            attributes: self.network.attributes(self.now),
        };
        self.submit(ledger, message, false, Pending::Register { ledger: ledger.to_owned(), command });
    }

    /// A transaction of ours is in a block (or can never be: `code` is `u32::MAX`).
    fn on_committed(&mut self, id: u64, code: u32, log: &str, data: &[u8]) {
        let Some(pending) = self.take_pending(id) else { return };
        match pending {
            Pending::Lease { task, generation } => self.on_lease_answered(task, generation, code, log),
            Pending::HandBack { task } => self.on_handed_back(task, code, log),
            Pending::Receipt { task, round } => self.on_receipt_answered(task, round, code, log),
            Pending::CloseRound { job } if code != 0 => tracing::debug!(%job, log, "the round was closed by another"),
            Pending::Register { ledger, command } => self.on_registered(&ledger, command, code, log),
            Pending::Command { command, done } => self.on_command_committed(command, &done, code, log),
            Pending::SubmitJob { submission } => self.on_job_committed(submission, code, log, data),
            Pending::TaskStatus { task } if code != 0 => {
                tracing::warn!(%task, log, "the ledger refused a task's status")
            }
            Pending::Bond { ledger } => self.on_bonded(&ledger, code, log),
            Pending::Report { id } => self.on_reported(&id, code, log),
            Pending::StorageOffer => self.on_room_offered(code, log),
            Pending::StorageTold { id } => self.on_object_told(&id, code, log),
            Pending::Beat if code != 0 => tracing::warn!(log, "the ledger refused a beat"),
            _ => {}
        }
    }

    fn on_registered(&mut self, ledger: &str, command: Option<u64>, code: u32, log: &str) {
        if let Some(state) = self.ledgers.get_mut(ledger) {
            state.registering = false;
        }
        if code == 0 {
            let node_id = self.config.label.clone();
            self.notify(NodeEvent::Registered { ledger: ledger.to_owned(), node_id });
        } else {
            tracing::warn!(ledger, log, "the registration failed");
        }
        if let Some(command) = command {
            self.on_command_committed(command, "registered", code, log);
        }
    }

    fn on_handed_back(&mut self, task: TaskId, code: u32, log: &str) {
        if code != 0 {
            tracing::warn!(%task, log, "the ledger refused to take the task back; its lease will lapse");
        }
        self.drop_work(task, false);
    }

    /// Brings everything about a job up to what the ledger says.
    pub(super) fn reconcile_job(&mut self, ledger: &str, job: JobId) {
        let Some(state) = self.ledgers.get(ledger) else { return };
        let Some(record) = state.view.jobs.get(&job) else { return };
        let open = record.status == JobStatus::Open;
        let tasks: Vec<TaskId> = state.view.tasks_of(&job).map(|task| task.id).collect();
        for task in tasks {
            self.reconcile_task(ledger, task);
        }
        if open {
            self.reconcile_round(ledger, job);
            self.volunteer(ledger, job);
        } else {
            self.on_job_ended(ledger, job);
        }
    }

    /// Looks at every open job again: what waits for time rather than for a change.
    pub(super) fn reconcile_all(&mut self) {
        let open: Vec<(String, JobId)> = self
            .ledgers
            .iter()
            .flat_map(|(ledger, state)| state.view.open_jobs().map(|job| (ledger.clone(), job.id)))
            .collect();
        for (ledger, job) in open {
            self.reconcile_job(&ledger, job);
        }
    }

    fn on_job_ended(&mut self, ledger: &str, job: JobId) {
        self.seen_pending.retain(|(task, _), _| task.job != job);
        self.refusals.retain(|task, _| task.job != job);
        self.given_back.retain(|task, _| task.job != job);
        self.let_go_of_job(job);
        self.forget_data_key(ledger, &job);
        if !self.subscribed.remove(&job) {
            return;
        }
        self.end_rounds(job);
        self.output(Output::Unsubscribe(crate::gossip::updates_topic(&job)));
        let Some(record) = self.ledgers.get(ledger).and_then(|state| state.view.jobs.get(&job)) else { return };
        if let Some(result) = record.result_cid {
            let name = format!("{}-{}", record.spec.model_id, &job.to_string()[..12]);
            self.output(Output::Provide(result));
            self.edge(edges::Request::Pin { root: result, reason: "result", keep: true }, Pending::Pin);
            self.output(Output::Pin { root: result, name });
        }
    }

    /// Joins what the holders of a job tell each other.
    pub(super) fn join_job(&mut self, job: JobId) {
        if self.subscribed.insert(job) {
            self.output(Output::Subscribe(crate::gossip::updates_topic(&job)));
        }
    }

    /// The ledger that a job is on.
    pub(super) fn ledger_of(&self, job: &JobId) -> Option<String> {
        let listed = self.ledgers.iter().find(|(_, state)| state.view.jobs.contains_key(job));
        listed.map(|(ledger, _)| ledger.clone())
    }

    /// Whether the ledger counts `node` as present.
    pub(super) fn is_present(&self, ledger: &str, node: &NodeKey) -> bool {
        let record = self.ledgers.get(ledger).and_then(|state| state.view.nodes.get(node));
        record.is_some_and(|node| node.status != NodeStatus::Offline)
    }

    /// The nodes that hold tasks of a job, by key.
    pub(super) fn holders(&self, ledger: &str, job: &JobId) -> std::collections::BTreeSet<NodeKey> {
        let Some(state) = self.ledgers.get(ledger) else { return Default::default() };
        let holding = |status| matches!(status, TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused);
        state.view.tasks_of(job).filter(|task| holding(task.status)).filter_map(|task| task.holder).collect()
    }

    pub(super) fn ledger_state(&mut self, ledger: &str) -> &mut LedgerState {
        self.ledgers.entry(ledger.to_owned()).or_default()
    }
}
