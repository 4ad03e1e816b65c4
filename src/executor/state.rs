//! The decisions of the executor: who may run, when to start again, what to tell peers. Pure.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{
    Control, ControlReply, Event, FailureKind, Input, ProgressReport, Request, Response, RunSpec, StopMode,
    edge::{self, Answer, ProcessId},
    task::{Actions, Task},
};
use crate::{
    protocol::{self, Action, RequestId, ResponseToken, SendError},
    types::{TaskId, Time},
};

/// Requests of peers that wait for the coordinator. Beyond it they are refused with "busy".
const MAX_WAITING: usize = 256;
/// The same, of one peer.
const MAX_WAITING_OF_ONE_PEER: usize = 16;
/// A request that the coordinator has not decided within this many milliseconds is refused; less than
/// [`protocol::State::TIMEOUT_MILLIS`], so that the peer hears the reason.
const DECISION_MILLIS: u64 = 20_000;

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Processes at once, idle sessions included; a run beyond it fails with [`FailureKind::MissingResource`]. The
    /// booking of resources comes first; this bounds what a wrong booking can do.
    pub max_processes: usize,
}

impl Default for Config {
    /// 64: more sessions than any machine of today trains at once.
    fn default() -> Self {
        Self { max_processes: 64 }
    }
}

/// A request of a peer that waits for the coordinator, or for a log to be read.
#[derive(Debug)]
struct Waiting {
    peer: PeerId,
    /// `None` for an offer.
    about: Option<(TaskId, Control)>,
    until: Time,
}

/// For whom a log is being read.
#[derive(Clone, Copy, Debug)]
enum LogReader {
    Peer(ResponseToken),
    Local(u64),
}

/// A request of ours, and the id that its asker gave it.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Offer(u64),
    Control(u64),
}

/// The executor.
#[derive(Debug)]
pub struct State {
    config: Config,
    tasks: BTreeMap<TaskId, Task>,
    waiting: BTreeMap<ResponseToken, Waiting>,
    sent: BTreeMap<RequestId, Sent>,
    logs: BTreeMap<u64, LogReader>,
    /// Next number for a request, a process or a log reading.
    next: u64,
    actions: Actions,
}

impl State {
    /// An executor without tasks.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            tasks: BTreeMap::new(),
            waiting: BTreeMap::new(),
            sent: BTreeMap::new(),
            logs: BTreeMap::new(),
            next: 0,
            actions: Actions::new(),
        }
    }

    /// How far a task is; `None` if this node never ran it, or forgot it.
    pub fn progress(&self, task: &TaskId) -> Option<ProgressReport> {
        self.tasks.get(task).map(Task::report)
    }

    /// All tasks that this node knows.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, ProgressReport)> {
        self.tasks.iter().map(|(id, task)| (id, task.report()))
    }

    /// Tasks whose process lives.
    pub fn live(&self) -> usize {
        self.tasks.values().filter(|task| task.is_live()).count()
    }

    fn run(&mut self, spec: RunSpec, now: Time) {
        let fresh = ProcessId(self.take_number());
        let room = self.live() < self.config.max_processes;
        if let Some(task) = self.tasks.get_mut(&spec.task) {
            if room || task.is_live() {
                return task.run(spec, fresh, now, &mut self.actions);
            }
        } else if room {
            let id = spec.task;
            let task = Task::launch(spec, fresh, now, &mut self.actions);
            self.tasks.insert(id, task);
            return;
        }
        self.refuse_run(&spec);
    }

    fn refuse_run(&mut self, spec: &RunSpec) {
        let limit = self.config.max_processes;
        self.event(Event::Failed {
            task: spec.task,
            generation: spec.generation,
            round: spec.round,
            kind: FailureKind::MissingResource,
            message: format!("{limit} processes run already, which is this node's limit"),
            attempts: spec.attempt,
        });
    }

    fn stop(&mut self, task: TaskId, mode: StopMode, now: Time) {
        match self.tasks.get_mut(&task) {
            Some(known) => known.stop(mode, now, &mut self.actions),
            None => self.event(Event::Stopped { task, preempted: false }),
        }
    }

    fn forget(&mut self, task: &TaskId) {
        if let Some(mut task) = self.tasks.remove(task) {
            task.forget(&mut self.actions);
        }
    }

    fn on_answer(&mut self, answer: Answer, now: Time) {
        let process = match &answer {
            Answer::Launched { process, .. }
            | Answer::LaunchFailed { process, .. }
            | Answer::RoundSent { process, .. }
            | Answer::Said { process, .. }
            | Answer::Exited { process, .. } => *process,
            Answer::Log { .. } => return self.on_log(answer),
        };
        let fresh = ProcessId(self.next);
        let known = self.tasks.values_mut().find(|task| task.process() == process);
        let Some(task) = known else {
            return self.on_stray(&answer, process);
        };
        if task.on_answer(answer, fresh, now, &mut self.actions) {
            self.next += 1;
        }
    }

    /// A process that nobody wants any more came to life, or went.
    fn on_stray(&mut self, answer: &Answer, process: ProcessId) {
        match answer {
            Answer::Launched { .. } => {
                self.event(Event::Edge(edge::Request::Signal { process, signal: edge::Signal::Kill }));
            }
            Answer::LaunchFailed { .. } | Answer::Exited { .. } => {
                self.event(Event::Edge(edge::Request::Forget { process }));
            }
            _ => {}
        }
    }

    fn on_log(&mut self, answer: Answer) {
        let Answer::Log { id, result } = answer else {
            return;
        };
        match self.logs.remove(&id) {
            Some(LogReader::Local(id)) => {
                let result = result.map(|part| ControlReply::Log { from: part.from, bytes: part.bytes });
                self.event(Event::ControlAnswered { id, result });
            }
            Some(LogReader::Peer(token)) => {
                let response = match result {
                    Ok(part) => Response::Log { from: part.from, bytes: part.bytes },
                    Err(reason) => Response::refused(reason),
                };
                self.respond(token, response);
            }
            None => {}
        }
    }

    fn ask(&mut self, id: u64, peer: Option<PeerId>, task: TaskId, control: Control) {
        let Some(peer) = peer else {
            return self.ask_here(id, task, control);
        };
        let request = match control {
            Control::Stop { generation, mode } => Request::Stop { task, generation, mode },
            Control::Pause { generation } => Request::Pause { task, generation },
            Control::Resume { generation } => Request::Resume { task, generation },
            Control::Progress => Request::Progress { task },
            Control::Log { from, max } => Request::Log { task, from, max },
        };
        self.send(peer, request, Sent::Control(id));
    }

    fn ask_here(&mut self, id: u64, task: TaskId, control: Control) {
        let result = match control {
            Control::Log { from, max } => return self.read_log(LogReader::Local(id), task, from, max),
            Control::Progress => self.progress(&task).map(ControlReply::Progress).ok_or_else(|| not_here(&task)),
            _ => Err("a task of this node is controlled through its own API".to_owned()),
        };
        self.event(Event::ControlAnswered { id, result });
    }

    fn read_log(&mut self, reader: LogReader, task: TaskId, from: Option<u64>, max: u32) {
        let id = self.take_number();
        self.logs.insert(id, reader);
        let max = max.min(super::MAX_LOG);
        self.event(Event::Edge(edge::Request::ReadLog { id, task, from, max }));
    }

    fn answer_offer(&mut self, token: ResponseToken, result: Result<(), String>) {
        if self.waiting.remove(&token).is_some() {
            let response = result.map_or_else(Response::refused, |()| Response::Accepted);
            self.respond(token, response);
        }
    }

    fn answer_control(&mut self, token: ResponseToken, result: Result<(), String>) {
        let Some(Waiting { about: Some((task, control)), .. }) = self.waiting.remove(&token) else {
            return;
        };
        if let Err(reason) = result {
            return self.respond(token, Response::refused(reason));
        }
        match control {
            Control::Log { from, max } => self.read_log(LogReader::Peer(token), task, from, max),
            Control::Progress => {
                let progress = self.progress(&task).map(Response::Progress);
                self.respond(token, progress.unwrap_or_else(|| Response::refused(not_here(&task))));
            }
            Control::Stop { .. } | Control::Pause { .. } | Control::Resume { .. } => {
                self.respond(token, Response::Done);
            }
        }
    }

    /// Keeps a peer's request until the coordinator has decided; false if there is no room.
    fn wait(&mut self, peer: PeerId, token: ResponseToken, about: Option<(TaskId, Control)>, now: Time) -> bool {
        let of_peer = self.waiting.values().filter(|waiting| waiting.peer == peer).count();
        if self.waiting.len() >= MAX_WAITING || of_peer >= MAX_WAITING_OF_ONE_PEER {
            self.respond(token, Response::refused("busy: too many requests wait"));
            return false;
        }
        let until = now + std::time::Duration::from_millis(DECISION_MILLIS);
        self.waiting.insert(token, Waiting { peer, about, until });
        true
    }

    fn send(&mut self, peer: PeerId, request: Request, sent: Sent) {
        let id = RequestId(self.take_number());
        self.sent.insert(id, sent);
        self.actions.push_back(Action::Request { peer, id, request });
    }

    fn respond(&mut self, token: ResponseToken, response: Response) {
        self.actions.push_back(Action::Respond { token, response });
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn take_number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

fn not_here(task: &TaskId) -> String {
    format!("task {task} does not run here")
}

fn control_reply(response: Response) -> Result<ControlReply, String> {
    match response {
        Response::Done => Ok(ControlReply::Done),
        Response::Progress(report) => Ok(ControlReply::Progress(report)),
        Response::Log { from, bytes } => Ok(ControlReply::Log { from, bytes }),
        Response::Refused { reason } => Err(reason),
        Response::Accepted => Err("the peer answered another question".to_owned()),
    }
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = "/atlas/task/1";
    const TIMEOUT_MILLIS: u64 = 30_000;
    const MAX_STREAMS: usize = 32;

    fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Offer { id, peer, announcement, slot } => {
                self.send(peer, Request::Offer { announcement, slot }, Sent::Offer(id));
            }
            Input::AnswerOffer { token, result } => self.answer_offer(token, result),
            Input::Ask { id, peer, task, control } => self.ask(id, peer, task, control),
            Input::AnswerControl { token, result } => self.answer_control(token, result),
            Input::Run(spec) => self.run(*spec, now),
            Input::Stop { task, mode } => self.stop(task, mode, now),
            Input::CheckpointNow { task } => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.checkpoint_now(&mut self.actions);
                }
            }
            Input::Forget { task } => self.forget(&task),
            Input::Edge(answer) => self.on_answer(answer, now),
        }
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        let (task, control) = match request {
            Request::Offer { announcement, slot } => {
                if self.wait(peer, token, None, now) {
                    self.event(Event::Offered { token, peer, announcement, slot });
                }
                return;
            }
            Request::Stop { task, generation, mode } => (task, Control::Stop { generation, mode }),
            Request::Pause { task, generation } => (task, Control::Pause { generation }),
            Request::Resume { task, generation } => (task, Control::Resume { generation }),
            Request::Progress { task } => (task, Control::Progress),
            Request::Log { task, from, max } => (task, Control::Log { from, max }),
        };
        if self.wait(peer, token, Some((task, control.clone())), now) {
            self.event(Event::ControlAsked { token, peer, task, control });
        }
    }

    fn on_response(&mut self, peer: PeerId, id: RequestId, result: Result<Response, SendError>, _: Time) {
        let result = result.map_err(|error| error.to_string());
        match self.sent.remove(&id) {
            Some(Sent::Offer(id)) => {
                let result = result.and_then(|response| match response {
                    Response::Accepted => Ok(()),
                    Response::Refused { reason } => Err(reason),
                    _ => Err("the peer answered another question".to_owned()),
                });
                self.event(Event::OfferAnswered { id, peer, result });
            }
            Some(Sent::Control(id)) => {
                let result = result.and_then(control_reply);
                self.event(Event::ControlAnswered { id, result });
            }
            None => {}
        }
    }

    fn on_timeout(&mut self, now: Time) {
        for (token, _) in self.waiting.extract_if(.., |_, waiting| waiting.until <= now).collect::<Vec<_>>() {
            self.respond(token, Response::refused("this node could not decide in time"));
        }
        let due = |task: &&mut Task| task.deadline().is_some_and(|deadline| deadline <= now);
        for task in self.tasks.values_mut().filter(due) {
            if task.on_timeout(ProcessId(self.next), now, &mut self.actions) {
                self.next += 1;
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let tasks = self.tasks.values().filter_map(Task::deadline);
        tasks.chain(self.waiting.values().map(|waiting| waiting.until)).min()
    }
}
