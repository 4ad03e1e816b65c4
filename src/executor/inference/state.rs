//! Who waits for which worker, and which worker lives. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{
    Answer, Request, Response, Target,
    edge::{self, WorkerId},
};
use crate::{
    protocol::{self, Action, RequestId, ResponseToken, SendError},
    types::{ContentId, Resources, Time},
};

/// Questions at once, of peers and of this node; beyond it they are refused as "busy". With inputs of 1 MiB it is also
/// the bound on memory.
const MAX_QUESTIONS: usize = 128;
/// Questions of one peer at once.
const MAX_QUESTIONS_OF_ONE_PEER: usize = 32;
/// Questions with one worker at once; the others wait here.
const MAX_AT_WORKER: usize = 8;
/// From question to answer; the start of a worker with torch (2.5 s) and a download of its model are inside.
const ANSWER_LIMIT: Duration = Duration::from_secs(25);
/// Starting a worker may take this long.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Warm workers at once; the one unused for longest makes room for another.
    pub max_workers: usize,
    /// A worker unused for this long is stopped.
    pub idle: Duration,
}

impl Default for Config {
    /// Four workers, five minutes: a guess.
    fn default() -> Self {
        Self { max_workers: 4, idle: Duration::from_secs(300) }
    }
}

/// What a worker is made of. Content must be in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// The script, a directory.
    pub bundle: ContentId,
    /// The model, a file.
    pub model: ContentId,
    /// What answers call the model.
    pub model_id: String,
    /// The content of `job.json`, a JSON object.
    pub config: String,
    /// Its limits.
    pub resources: Resources,
}

/// What the coordinator tells this state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// Ask a peer, or this node (`peer` is `None`); [`Event::Answered`] follows.
    Infer {
        /// Repeated by the event.
        id: u64,
        /// Whom.
        peer: Option<PeerId>,
        /// Which model.
        target: Box<Target>,
        /// JSON, at most [`super::MAX_INPUT`] bytes.
        input: Vec<u8>,
    },
    /// The decision on an [`Event::Asked`]: this serves it.
    Serve {
        /// Of the event.
        ticket: u64,
        /// The content, which is in the store.
        worker: Box<WorkerSpec>,
    },
    /// The decision on an [`Event::Asked`]: nothing serves it.
    Refuse {
        /// Of the event.
        ticket: u64,
        /// Why, in words.
        reason: String,
    },
    /// The host reports.
    Edge(edge::Answer),
}

/// What this state tells the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// Somebody asks a model: make sure that its content is here, and answer with [`Input::Serve`] or [`Input::Refuse`].
    Asked {
        /// For the answer.
        ticket: u64,
        /// Who; `None` for this node.
        peer: Option<PeerId>,
        /// Which model.
        target: Box<Target>,
    },
    /// What became of an [`Input::Infer`].
    Answered {
        /// Of the input.
        id: u64,
        /// The answer, or in words why there is none.
        result: Result<Answer, String>,
    },
    /// A question that this node was asked ended, for whoever counts.
    Served {
        /// Of [`Event::Asked`].
        ticket: u64,
        /// Whether a worker answered it.
        answered: bool,
    },
    /// Have the host do this.
    Edge(edge::Request),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Peer(PeerId, ResponseToken),
    Local(u64),
}

#[derive(Debug)]
struct Question {
    asker: Asker,
    input: Vec<u8>,
    until: Time,
    /// Once the coordinator has decided.
    worker: Option<WorkerId>,
}

#[derive(Debug)]
struct Worker {
    spec: WorkerSpec,
    ready: bool,
    waiting: VecDeque<u64>,
    /// Questions that it works on.
    busy: usize,
    last_used: Time,
}

impl Worker {
    fn is_free(&self) -> bool {
        self.busy == 0 && self.waiting.is_empty()
    }

    /// When it has been unused, or starting, for too long.
    fn deadline(&self, idle: Duration) -> Option<Time> {
        if !self.ready {
            return Some(self.last_used + START_LIMIT);
        }
        self.is_free().then(|| self.last_used + idle)
    }
}

/// The inference side of the executor.
#[derive(Debug)]
pub struct State {
    config: Config,
    questions: BTreeMap<u64, Question>,
    workers: BTreeMap<WorkerId, Worker>,
    sent: BTreeMap<RequestId, u64>,
    /// Next ticket, request or worker.
    next: u64,
    actions: VecDeque<Action<State>>,
}

impl State {
    /// Nobody asks yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            questions: BTreeMap::new(),
            workers: BTreeMap::new(),
            sent: BTreeMap::new(),
            next: 0,
            actions: VecDeque::new(),
        }
    }

    /// Workers that live or are being started.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Questions that have no answer yet.
    pub fn questions(&self) -> usize {
        self.questions.len()
    }

    fn infer(&mut self, id: u64, peer: Option<PeerId>, target: Target, input: Vec<u8>, now: Time) {
        if input.len() > super::MAX_INPUT {
            let result = Err(format!("an input is at most {} bytes, this one has {}", super::MAX_INPUT, input.len()));
            return self.event(Event::Answered { id, result });
        }
        let Some(peer) = peer else {
            return self.ask(Asker::Local(id), None, target, input, now);
        };
        let request = RequestId(self.take_number());
        self.sent.insert(request, id);
        self.actions.push_back(Action::Request { peer, id: request, request: Request { target, input } });
    }

    fn ask(&mut self, asker: Asker, peer: Option<PeerId>, target: Target, input: Vec<u8>, now: Time) {
        let of_peer = |question: &&Question| match (question.asker, peer) {
            (Asker::Peer(other, _), Some(peer)) => other == peer,
            (Asker::Local(_), None) => true,
            _ => false,
        };
        let many = self.questions.values().filter(of_peer).count() >= MAX_QUESTIONS_OF_ONE_PEER;
        if self.questions.len() >= MAX_QUESTIONS || many {
            return self.answer(asker, Err("busy: too many questions wait".to_owned()));
        }
        let ticket = self.take_number();
        let until = now + ANSWER_LIMIT;
        self.questions.insert(ticket, Question { asker, input, until, worker: None });
        self.event(Event::Asked { ticket, peer, target: Box::new(target) });
    }

    fn serve(&mut self, ticket: u64, spec: WorkerSpec, now: Time) {
        if self.questions.get(&ticket).is_none_or(|question| question.worker.is_some()) {
            return;
        }
        let same = |worker: &Worker| (worker.spec.bundle, worker.spec.model) == (spec.bundle, spec.model);
        let warm = self.workers.iter().find(|(_, worker)| same(worker)).map(|(id, _)| *id);
        let Some(worker) = warm.or_else(|| self.start(spec, now)) else {
            return self.finish(ticket, Err("busy: all workers are in use".to_owned()));
        };
        if let Some(question) = self.questions.get_mut(&ticket) {
            question.worker = Some(worker);
        }
        if let Some(found) = self.workers.get_mut(&worker) {
            found.waiting.push_back(ticket);
        }
        self.feed(worker, now);
    }

    /// A new worker, if there is room or can be made.
    fn start(&mut self, spec: WorkerSpec, now: Time) -> Option<WorkerId> {
        if self.workers.len() >= self.config.max_workers {
            let free = self.workers.iter().filter(|(_, worker)| worker.ready && worker.is_free());
            let oldest = free.min_by_key(|(id, worker)| (worker.last_used, **id)).map(|(id, _)| *id)?;
            self.stop(oldest);
        }
        let id = WorkerId(self.take_number());
        self.event(Event::Edge(edge::Request::Start { worker: id, spec: Box::new(spec.clone()) }));
        self.workers.insert(id, Worker { spec, ready: false, waiting: VecDeque::new(), busy: 0, last_used: now });
        Some(id)
    }

    fn stop(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
        self.event(Event::Edge(edge::Request::Stop { worker }));
    }

    /// Hands waiting questions to a worker, as many as it may have.
    fn feed(&mut self, id: WorkerId, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        while worker.ready && worker.busy < MAX_AT_WORKER {
            let Some(ticket) = worker.waiting.pop_front() else {
                return;
            };
            // One that timed out meanwhile is gone.
            if let Some(question) = self.questions.get_mut(&ticket) {
                worker.busy += 1;
                worker.last_used = now;
                let input = std::mem::take(&mut question.input);
                self.actions.push_back(Action::Event(Event::Edge(edge::Request::Infer { ticket, worker: id, input })));
            }
        }
    }

    fn on_edge(&mut self, answer: edge::Answer, now: Time) {
        match answer {
            edge::Answer::Ready { worker } => {
                if let Some(found) = self.workers.get_mut(&worker) {
                    found.ready = true;
                    found.last_used = now;
                }
                self.feed(worker, now);
            }
            edge::Answer::Ended { worker, message } => self.on_ended(worker, &message),
            edge::Answer::Inferred { ticket, worker, result } => {
                let model_id = self.workers.get_mut(&worker).map(|found| {
                    found.busy = found.busy.saturating_sub(1);
                    found.last_used = now;
                    found.spec.model_id.clone()
                });
                let model_id = model_id.unwrap_or_default();
                let answer = result.map(|(result, latency_micros)| Answer { result, latency_micros, model_id });
                self.finish(ticket, answer);
                self.feed(worker, now);
            }
        }
    }

    /// Whoever waits for a worker that is gone hears why.
    fn on_ended(&mut self, worker: WorkerId, message: &str) {
        if self.workers.remove(&worker).is_none() {
            return;
        }
        let waiting = self.questions.iter().filter(|(_, question)| question.worker == Some(worker));
        for ticket in waiting.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.finish(ticket, Err(format!("the worker ended: {message}")));
        }
    }

    fn finish(&mut self, ticket: u64, result: Result<Answer, String>) {
        if let Some(question) = self.questions.remove(&ticket) {
            let answered = result.is_ok();
            self.answer(question.asker, result);
            self.event(Event::Served { ticket, answered });
        }
    }

    fn answer(&mut self, asker: Asker, result: Result<Answer, String>) {
        match asker {
            Asker::Local(id) => self.event(Event::Answered { id, result }),
            Asker::Peer(_, token) => {
                let response = result.map_or_else(Response::refused, Response::Answer);
                self.actions.push_back(Action::Respond { token, response });
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = "/atlas/infer/1";
    const TIMEOUT_MILLIS: u64 = 30_000;
    const MAX_STREAMS: usize = 64;

    fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Infer { id, peer, target, input } => self.infer(id, peer, *target, input, now),
            Input::Serve { ticket, worker } => self.serve(ticket, *worker, now),
            Input::Refuse { ticket, reason } => self.finish(ticket, Err(reason)),
            Input::Edge(answer) => self.on_edge(answer, now),
        }
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        self.ask(Asker::Peer(peer, token), Some(peer), request.target, request.input, now);
    }

    fn on_response(&mut self, _: PeerId, id: RequestId, result: Result<Response, SendError>, _: Time) {
        let Some(id) = self.sent.remove(&id) else {
            return;
        };
        let result = match result {
            Ok(Response::Answer(answer)) => Ok(answer),
            Ok(Response::Refused { reason }) => Err(reason),
            Err(error) => Err(error.to_string()),
        };
        self.event(Event::Answered { id, result });
    }

    fn on_timeout(&mut self, now: Time) {
        let late = self.questions.iter().filter(|(_, question)| question.until <= now);
        for ticket in late.map(|(ticket, _)| *ticket).collect::<Vec<_>>() {
            self.finish(ticket, Err(format!("no answer within {} s", ANSWER_LIMIT.as_secs())));
        }
        let idle = self.config.idle;
        let unused = |worker: &Worker| worker.deadline(idle).is_some_and(|deadline| deadline <= now);
        let gone = self.workers.iter().filter(|(_, worker)| unused(worker)).map(|(id, _)| *id);
        for worker in gone.collect::<Vec<_>>() {
            self.event(Event::Edge(edge::Request::Stop { worker }));
            self.on_ended(worker, "it was not ready in time");
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let workers = self.workers.values().filter_map(|worker| worker.deadline(self.config.idle));
        workers.chain(self.questions.values().map(|question| question.until)).min()
    }
}

#[cfg(test)]
mod tests {
    use cid::Cid;
    use multihash::Multihash;

    use super::*;
    use crate::{protocol::State as _, types::Digest};

    const NOW: Time = Time::from_millis(1_000_000);

    fn content(number: u8) -> ContentId {
        ContentId(Cid::new_v1(0x55, Multihash::wrap(0x12, &Digest::of(&[number]).0).unwrap()))
    }

    fn worker(number: u8) -> Box<WorkerSpec> {
        let (bundle, model, model_id) = (content(0), content(number), format!("model-{number}"));
        Box::new(WorkerSpec { bundle, model, model_id, config: "{}".into(), resources: Resources::default() })
    }

    fn ask(state: &mut State, id: u64, number: u8, now: Time) -> u64 {
        let target = Box::new(Target::Model { bundle: content(0), model: content(number) });
        state.handle(Input::Infer { id, peer: None, target, input: b"{}".to_vec() }, now);
        match state.poll_action() {
            Some(Action::Event(Event::Asked { ticket, .. })) => {
                state.handle(Input::Serve { ticket, worker: worker(number) }, now);
                ticket
            }
            other => panic!("{other:?}"),
        }
    }

    fn events(state: &mut State) -> Vec<Event> {
        let next = || match state.poll_action() {
            Some(Action::Event(event)) => Some(event),
            None => None,
            other => panic!("{other:?}"),
        };
        std::iter::from_fn(next).collect()
    }

    fn started(state: &mut State) -> WorkerId {
        let found = events(state).into_iter().find_map(|event| match event {
            Event::Edge(edge::Request::Start { worker, .. }) => Some(worker),
            _ => None,
        });
        found.expect("a worker is started")
    }

    fn infer_all(state: &mut State, worker: WorkerId, ticket: u64, now: Time) -> Vec<Event> {
        state.handle(Input::Edge(edge::Answer::Ready { worker }), now);
        assert!(matches!(events(state).as_slice(), [Event::Edge(edge::Request::Infer { .. })]));
        let result = Ok((b"7".to_vec(), 60));
        state.handle(Input::Edge(edge::Answer::Inferred { ticket, worker, result }), now);
        events(state)
    }

    #[test]
    fn questions_wait_for_the_worker_and_are_answered_with_the_models_name() {
        let mut state = State::new(Config::default());
        let ticket = ask(&mut state, 1, 1, NOW);
        let worker = started(&mut state);
        let answered = infer_all(&mut state, worker, ticket, NOW);
        let [Event::Answered { id: 1, result: Ok(answer) }, Event::Served { answered: true, .. }] = answered.as_slice()
        else {
            panic!("{answered:?}");
        };
        assert_eq!((answer.result.as_slice(), answer.model_id.as_str()), (b"7".as_slice(), "model-1"));
        ask(&mut state, 2, 1, NOW);
        assert!(matches!(events(&mut state).as_slice(), [Event::Edge(edge::Request::Infer { .. })]), "it stays warm");
    }

    #[test]
    fn the_worker_unused_for_longest_makes_room_and_a_busy_one_does_not() {
        let mut state = State::new(Config { max_workers: 1, ..Config::default() });
        let ticket = ask(&mut state, 1, 1, NOW);
        let first = started(&mut state);
        ask(&mut state, 2, 2, NOW);
        assert!(matches!(
            events(&mut state).as_slice(),
            [Event::Answered { id: 2, result: Err(_) }, Event::Served { answered: false, .. }]
        ));
        infer_all(&mut state, first, ticket, NOW);
        ask(&mut state, 3, 2, NOW);
        assert!(
            matches!(events(&mut state).first(), Some(Event::Edge(edge::Request::Stop { worker })) if *worker == first)
        );
        assert_eq!(state.workers(), 1);
    }

    #[test]
    fn every_question_is_answered_in_time_even_if_the_host_says_nothing() {
        let mut state = State::new(Config::default());
        ask(&mut state, 1, 1, NOW);
        events(&mut state);
        let mut answers = Vec::new();
        while let Some(at) = state.poll_timeout() {
            state.on_timeout(at);
            answers.extend(events(&mut state).into_iter().filter(|event| matches!(event, Event::Answered { .. })));
        }
        assert_eq!((answers.len(), state.workers(), state.questions()), (1, 0, 0));
    }

    #[test]
    fn a_peer_that_asks_too_much_is_refused_and_others_are_not() {
        let mut state = State::new(Config::default());
        let (loud, quiet) = (PeerId::random(), PeerId::random());
        let request =
            || Request { target: Target::Model { bundle: content(0), model: content(1) }, input: b"{}".to_vec() };
        for token in 0..=MAX_QUESTIONS_OF_ONE_PEER as u64 {
            state.on_request(loud, ResponseToken(token), request(), NOW);
        }
        state.on_request(quiet, ResponseToken(1000), request(), NOW);
        let actions: Vec<_> = std::iter::from_fn(|| state.poll_action()).collect();
        let refused = actions.iter().filter(|action| matches!(action, Action::Respond { .. })).count();
        assert_eq!((refused, state.questions()), (1, MAX_QUESTIONS_OF_ONE_PEER + 1));
    }
}
