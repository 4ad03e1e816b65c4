//! Inference: questions of people to models, and questions of anybody to this node's workers.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{
    Coordinator, Output, Pending,
    gather::{Next, Purpose},
};
use crate::{
    api::{self, ErrorCode, Reply},
    chain::wire::Message,
    executor::inference::{Answer, Event, Input, Target, WorkerSpec},
    identity,
    types::{JobId, LedgerId, NodeKey, Round},
};

/// A node with this many active tasks is not asked (origin: "fewer than 10 active tasks").
const MAX_ACTIVE_TASKS: u32 = 10;
/// Questions on their way through the fetching of their content; a further one is refused as busy.
const MAX_PREPARING: usize = 256;

/// What this node asks and answers.
#[derive(Debug, Default)]
pub(super) struct Inference {
    /// Who answered last for a target: its worker is warm.
    warm: BTreeMap<String, NodeKey>,
    /// Which job each open ticket is about.
    tickets: BTreeMap<u64, (LedgerId, JobId, Round)>,
    /// Answered and failed since the last report, by job.
    tally: BTreeMap<(LedgerId, JobId, Round), (u64, u64)>,
}

/// A question whose content is being fetched.
#[derive(Debug)]
pub(super) struct ServeRequest {
    ticket: u64,
    worker: WorkerSpec,
}

impl Coordinator {
    pub(super) fn on_inference(&mut self, event: Event) {
        match event {
            Event::Asked { ticket, target, peer } => self.on_question(ticket, peer, &target),
            Event::Answered { id, result } => self.on_answer(id, result),
            Event::Served { ticket, answered } => self.on_served(ticket, answered),
            // The event loop hands these to the workers; they never come here.
            Event::Edge(request) => tracing::error!(?request, "an edge request reached the coordinator"),
        }
    }

    /// A person asks: finds the model and the node that answers.
    pub(super) fn ask_model(&mut self, command: u64, request: api::Infer) {
        let Some((target, model_id)) = self.target(&request) else {
            let message = "no such job or model on the ledgers that this node follows";
            return self.reply_error(command, ErrorCode::NotFound, message);
        };
        let input = match serde_json::to_vec(&request.input) {
            Ok(input) => input,
            Err(error) => return self.reply_error(command, ErrorCode::Invalid, error.to_string()),
        };
        let (node, peer) = match self.answering_node(&request, &model_id) {
            Ok(choice) => choice,
            Err(reason) => return self.reply_error(command, ErrorCode::Unavailable, reason),
        };
        self.inference.warm.insert(model_id.clone(), node);
        let id = self.wait_for(Pending::Infer { command, model_id, node, asked_at: self.now });
        self.output(Output::Inference(Input::Infer { id, peer, target: Box::new(target), input }));
    }

    /// What is asked, and what it is called.
    fn target(&self, request: &api::Infer) -> Option<(Target, String)> {
        match (&request.job, &request.model) {
            (Some(job), _) => {
                let ledger = self.ledger_of(job)?;
                Some((Target::Job { ledger: Some(ledger), job: *job }, job.to_string()))
            }
            (None, Some(model)) => {
                let ledger = self
                    .ledgers
                    .iter()
                    .find(|(_, state)| state.view.models.contains_key(model))
                    .map(|(name, _)| name)?;
                let target = Target::ModelId { ledger: Some(ledger.clone()), model_id: model.clone() };
                Some((target, model.clone()))
            }
            (None, None) => None,
        }
    }

    /// The peer that was named; else the one whose worker is warm; else the least loaded, then the nearest. This node
    /// itself answers only when nobody else can.
    fn answering_node(&self, request: &api::Infer, model_id: &str) -> Result<(NodeKey, Option<PeerId>), String> {
        if let Some(via) = &request.via {
            let peer: PeerId = via.parse().map_err(|_| format!("`{via}` is no peer id"))?;
            let node = identity::node_key(&peer).ok_or_else(|| format!("`{via}` has no Ed25519 key"))?;
            return Ok((node, (node != self.me).then_some(peer)));
        }
        let mut able: Vec<(u32, u64, NodeKey, PeerId)> = self
            .ledgers
            .values()
            .flat_map(|state| state.view.present_nodes())
            .filter(|node| node.id != self.me && node.active_tasks < MAX_ACTIVE_TASKS)
            .filter(|node| node.resources.cpu_millicores > 0)
            .filter_map(|node| {
                let peer = identity::peer_id(&node.id)?;
                let info = self.peers.get(&peer)?;
                Some((node.active_tasks, info.latency_micros.unwrap_or(u64::MAX), node.id, peer))
            })
            .collect();
        able.sort_unstable();
        let warm = self.inference.warm.get(model_id);
        let choice = able.iter().find(|able| Some(&able.2) == warm).or(able.first());
        match choice {
            Some((_, _, node, peer)) => Ok((*node, Some(*peer))),
            None if self.config.lends.cpu_millicores > 0 => Ok((self.me, None)),
            None => Err("no connected node can answer, and this one lends nothing".into()),
        }
    }

    fn on_answer(&mut self, id: u64, result: Result<Answer, String>) {
        let Some(Pending::Infer { command, model_id, node, asked_at }) = self.take_pending(id) else { return };
        let answer = match result {
            Ok(answer) => answer,
            Err(reason) => {
                self.inference.warm.remove(&model_id);
                return self.reply_error(command, ErrorCode::Refused, reason);
            }
        };
        let result = match serde_json::from_slice(&answer.result) {
            Ok(result) => result,
            Err(error) => {
                let message = format!("the answer is no JSON: {error}");
                return self.reply_error(command, ErrorCode::Internal, message);
            }
        };
        let latency_ms = self.now.since(asked_at).as_secs_f64() * 1e3;
        let node = api::views::peer_text(&node);
        self.reply(command, Reply::Inference(api::Inference { result, latency_ms, model_id: answer.model_id, node }));
    }

    /// Somebody asks a worker of this node: its content must be here first.
    fn on_question(&mut self, ticket: u64, peer: Option<PeerId>, target: &Target) {
        let found = self.worker_for(target).and_then(|found| self.admit(&found.0).map(|()| found));
        let (worker, about) = match found {
            Ok(found) => found,
            Err(reason) => return self.output(Output::Inference(Input::Refuse { ticket, reason })),
        };
        let mut providers: Vec<PeerId> = peer.into_iter().collect();
        if let Some((ledger, job, round)) = about {
            providers.extend(self.providers(&ledger, &job));
            self.inference.tickets.insert(ticket, (ledger, job, round));
        }
        let wanted = [(worker.bundle, Purpose::Content), (worker.model, Purpose::Content)];
        self.gather(&wanted, &providers, Next::Serve(Box::new(ServeRequest { ticket, worker })));
    }

    /// Whether there is room for one more worker's resources.
    fn admit(&self, worker: &WorkerSpec) -> Result<(), String> {
        if self.stopping.is_some() {
            return Err("this node is stopping".into());
        }
        if self.inference.tickets.len() >= MAX_PREPARING {
            return Err("busy; ask again or another node".into());
        }
        match self.config.lends.lacks(&worker.resources) {
            Some(resource) => Err(format!("this node does not lend enough {resource}")),
            None => Ok(()),
        }
    }

    /// The script and model behind a target, and the job that it belongs to.
    #[expect(clippy::type_complexity, reason = "a pair that is taken apart at once")]
    fn worker_for(&self, target: &Target) -> Result<(WorkerSpec, Option<(LedgerId, JobId, Round)>), String> {
        let own = &self.config.ledger;
        match target {
            Target::Job { ledger, job } => self.worker_of_job(ledger.as_ref().unwrap_or(own), job, None),
            Target::ModelId { ledger, model_id } => {
                let ledger = ledger.as_ref().unwrap_or(own);
                let view = &self.ledgers.get(ledger).ok_or("this node does not follow that ledger")?.view;
                let model = view.models.get(model_id).ok_or("the ledger has no such model")?;
                let job = model.metadata.get("job").ok_or("the model does not say which job made it")?;
                let job = job.parse().map_err(|_| "the model's job is no job id")?;
                self.worker_of_job(ledger, &job, Some(model_id.clone()))
            }
            Target::Model { bundle, model } => Ok((
                WorkerSpec {
                    bundle: *bundle,
                    model: *model,
                    model_id: model.to_string(),
                    config: "{}".into(),
                    resources: crate::types::Resources::default(),
                },
                None,
            )),
        }
    }

    #[expect(clippy::type_complexity, reason = "a pair that is taken apart at once")]
    fn worker_of_job(
        &self,
        ledger: &str,
        job: &JobId,
        model_id: Option<String>,
    ) -> Result<(WorkerSpec, Option<(LedgerId, JobId, Round)>), String> {
        let view = &self.ledgers.get(ledger).ok_or("this node does not follow that ledger")?.view;
        let record = view.jobs.get(job).ok_or("the ledger does not list that job (yet)")?;
        let worker = WorkerSpec {
            bundle: record.spec.bundle,
            model: record.result_cid.unwrap_or(record.model_cid),
            model_id: model_id.unwrap_or_else(|| record.model_cid.to_string()),
            config: record.spec.config.clone(),
            resources: record.spec.resources,
        };
        Ok((worker, Some((ledger.to_owned(), *job, record.round))))
    }

    pub(super) fn start_serving(&mut self, request: ServeRequest) {
        let worker = Box::new(request.worker);
        self.output(Output::Inference(Input::Serve { ticket: request.ticket, worker }));
    }

    pub(super) fn refuse_serving(&mut self, request: &ServeRequest, reason: &str) {
        let reason = format!("the model could not be fetched: {reason}");
        self.output(Output::Inference(Input::Refuse { ticket: request.ticket, reason }));
    }

    fn on_served(&mut self, ticket: u64, answered: bool) {
        self.counters.inference_answered += u64::from(answered);
        let Some(about) = self.inference.tickets.remove(&ticket) else { return };
        let tally = self.inference.tally.entry(about).or_default();
        *if answered { &mut tally.0 } else { &mut tally.1 } += 1;
    }

    /// What was answered since the last beat goes to the ledger in one transaction a job, never on a question's path.
    pub(super) fn report_inference(&mut self) {
        for ((ledger, job_id, round), (answered, failed)) in std::mem::take(&mut self.inference.tally) {
            let message = Message::ReportInference { job_id, answered, failed, round };
            self.submit(&ledger, message, false, Pending::Beat);
        }
    }
}
