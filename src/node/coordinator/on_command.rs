//! Questions and orders of people and tools.

use libp2p::PeerId;

use super::{Coordinator, Output, Pending, gather::Next, gather::Purpose, submission};
use crate::{
    api::{self, Command, Done, Error, ErrorCode, Reply},
    chain::wire::{Message, query},
    codec,
    executor::{self, Control},
    identity,
    node::edges,
    proof,
    types::{JobId, TaskId, TaskStatus},
};

impl Coordinator {
    pub(super) fn on_command(&mut self, id: u64, command: Command) {
        match command {
            Command::Health => self.reply(id, Reply::Health(self.health_reply())),
            Command::Status => self.reply(id, Reply::Status(Box::new(self.status_reply()))),
            Command::Peers => self.reply(id, Reply::Peers(self.peers_reply())),
            Command::Nodes => self.reply(id, Reply::Nodes(self.nodes_reply())),
            Command::Jobs => self.reply(id, Reply::Jobs(self.jobs_reply())),
            Command::Job { job } => self.on_job_asked(id, job),
            Command::Tasks { job } => self.reply(id, Reply::Tasks(self.tasks_reply(job))),
            Command::Runs => self.reply(id, Reply::Runs(self.runs.list())),
            Command::Submit(request) => self.begin_submission(id, submission::Source::File(request)),
            Command::SubmitPrepared(request) => {
                self.begin_submission(id, submission::Source::Prepared(Box::new(request)))
            }
            Command::Cancel { job } => self.order(id, job, Message::CancelJob { job_id: job }, "cancelled"),
            Command::Pause { job } => self.order(id, job, Message::PauseJob { job_id: job, paused: true }, "paused"),
            Command::Resume { job } => self.order(id, job, Message::PauseJob { job_id: job, paused: false }, "resumed"),
            Command::Infer(request) => self.ask_model(id, request),
            Command::Register(request) => self.on_register(id, request),
            Command::ShardAdd(request) => self.edge(edges::Request::Add(request), Pending::Files { command: id }),
            Command::ShardGet(request) => self.fetch_for_person(id, request),
            Command::ShardList => self.edge(edges::Request::ListPins, Pending::Files { command: id }),
            Command::StorageKeep(request) => self.on_keep_asked(id, request),
            Command::StorageRelease(request) => self.on_release_asked(id, &request),
            Command::StorageList => self.reply(id, Reply::Objects(self.objects_reply())),
            Command::CheckpointList => {
                self.edge(edges::Request::ListCheckpoints { now: self.now }, Pending::Files { command: id });
            }
            Command::Logs { task, tail } => self.on_logs_asked(id, task, tail),
            Command::ProofOf { task, round } => self.on_proof_asked(id, task, round),
            Command::Account => self.on_account_asked(id),
            Command::Wallet => self.on_wallet_asked(id),
            Command::Rewards => self.on_rewards_asked(id),
            Command::Send(payment) => self.on_payment(id, payment),
            Command::Bond(api::Amount { amount }) => self.on_bond(id, amount),
            Command::Unbond(api::Amount { amount }) => self.on_unbond(id, amount),
            Command::Parameters => self.on_parameters_asked(id),
            Command::VoteParameters(api::ParameterVotes { votes }) => self.on_votes(id, votes),
            Command::Metrics => self.reply(id, Reply::Metrics(Box::new(self.metrics_reply()))),
            Command::Shutdown => {
                self.reply(id, Reply::Done(Done { message: "stopping".into() }));
                self.on_shutdown("asked to".into());
            }
        }
    }

    fn nodes_reply(&self) -> Vec<api::Node> {
        let nodes = self.ledgers.get(&self.config.ledger).into_iter().flat_map(|state| state.view.nodes.values());
        nodes.map(api::Node::from).collect()
    }

    fn jobs_reply(&self) -> Vec<api::Job> {
        let jobs = |(ledger, state): (&String, &super::LedgerState)| {
            state.view.jobs.values().map(|job| api::Job::from_record(ledger, job)).collect::<Vec<_>>()
        };
        self.ledgers.iter().flat_map(jobs).collect()
    }

    fn on_job_asked(&mut self, id: u64, job: JobId) {
        let detail = self.ledgers.iter().find_map(|(ledger, state)| {
            let record = state.view.jobs.get(&job)?;
            let (tasks, rounds) = (state.view.tasks_of(&job), state.view.rounds_of(&job));
            Some(api::JobDetail::from_records(ledger, state.view.app_hash, record, tasks, rounds))
        });
        match detail {
            Some(mut detail) => {
                for task in &mut detail.tasks {
                    task.waiting = self.waiting(task.id, task.status);
                }
                self.reply(id, Reply::Job(Box::new(detail)));
            }
            None => self.no_such_job(id, job),
        }
    }

    fn tasks_reply(&self, job: Option<JobId>) -> Vec<api::Task> {
        let mut tasks = Vec::new();
        for state in self.ledgers.values() {
            for record in state.view.jobs.values().filter(|record| job.is_none_or(|job| record.id == job)) {
                let of_job = state.view.tasks_of(&record.id);
                tasks.extend(
                    of_job.map(|task| api::Task::from_record(record, task, self.waiting(task.id, task.status))),
                );
            }
        }
        tasks
    }

    /// Why a task has no taker, as far as this node knows.
    fn waiting(&self, task: TaskId, status: TaskStatus) -> Option<String> {
        if status != TaskStatus::Pending {
            return None;
        }
        let refusal = self.refusals.get(&task).cloned();
        Some(refusal.unwrap_or_else(|| "no node has taken it yet".into()))
    }

    fn no_such_job(&mut self, id: u64, job: JobId) {
        self.reply_error(id, ErrorCode::NotFound, format!("no ledger that this node follows has job {job}"));
    }

    /// Something that the creator of a job orders on its ledger.
    fn order(&mut self, id: u64, job: JobId, message: Message, done: &str) {
        match self.ledger_of(&job) {
            Some(ledger) => {
                self.submit(&ledger, message, true, Pending::Command { command: id, done: done.to_owned() });
            }
            None => self.no_such_job(id, job),
        }
    }

    pub(super) fn on_command_committed(&mut self, command: u64, done: &str, code: u32, log: &str) {
        if code == 0 {
            self.reply(command, Reply::Done(Done { message: done.to_owned() }));
        } else {
            self.reply_error(command, ErrorCode::Refused, format!("the ledger refused: {log}"));
        }
    }

    fn on_register(&mut self, id: u64, request: api::Register) {
        if let Some(label) = request.node_id {
            self.config.label = label;
        }
        if request.address.is_some() {
            self.config.address = request.address;
        }
        let ledger = self.config.ledger.clone();
        if self.ledgers.get(&ledger).is_some_and(|state| state.connected) {
            return self.register(&ledger, Some(id));
        }
        let error = Error::new(ErrorCode::Unavailable, format!("ledger `{ledger}` does not answer at present"));
        let hint = "the node registers by itself once it answers; see `atlas-node status` for the way to it";
        self.output(Output::Reply { id, result: Box::new(Err(error.with_hint(hint))) });
    }

    fn fetch_for_person(&mut self, id: u64, request: api::ShardGet) {
        let providers: Vec<PeerId> = self.peers.keys().copied().collect();
        let root = request.cid;
        self.gather(&[(root, Purpose::Content)], &providers, Next::Export { command: id, request });
    }

    pub(super) fn start_export(&mut self, command: u64, request: api::ShardGet) {
        self.edge(edges::Request::Export(request), Pending::Files { command });
    }

    fn on_logs_asked(&mut self, id: u64, task: TaskId, tail: u32) {
        /// Bytes read for a line asked for; longer lines show fewer of them.
        const BYTES_A_LINE: u32 = 256;
        let max = tail.saturating_mul(BYTES_A_LINE).min(executor::MAX_LOG);
        let holder =
            self.ledger_of(&task.job).and_then(|ledger| self.ledgers.get(&ledger)?.view.tasks.get(&task)?.holder);
        // Logs lie where the script runs; the creator of a job may read them from there.
        let peer =
            holder.filter(|holder| *holder != self.me && !self.runs.knows(&task)).as_ref().and_then(identity::peer_id);
        let ask = self.wait_for(Pending::Log { command: id, task });
        let control = Control::Log { from: None, max };
        self.output(Output::Executor(executor::Input::Ask { id: ask, peer, task, control }));
    }

    fn on_proof_asked(&mut self, id: u64, task: TaskId, round: u32) {
        let Some(own) = self.receipts.get(&(task, round)) else {
            let message =
                format!("this node has no receipt of task {task} for round {round}; ask the node that did it");
            return self.reply_error(id, ErrorCode::NotFound, message);
        };
        let evidence = proof::evidence::Evidence {
            version: 1,
            receipt: own.receipt.clone(),
            attestation: Some(own.attestation.clone()),
            lease: Some(own.lease),
            inputs: Some(own.inputs),
            checkpoint: None,
            round: None,
        };
        self.reply(id, Reply::Proof(Box::new(evidence)));
    }

    fn on_account_asked(&mut self, id: u64) {
        let request = edges::Request::Query {
            ledger: self.config.ledger.clone(),
            path: query::GET_ACCOUNT.to_owned(),
            data: codec::encode(&self.me),
        };
        self.edge(request, Pending::Files { command: id });
    }
}
