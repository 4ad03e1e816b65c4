//! The decisions of the executor: who may run, when to start again, what to tell peers. Pure.

use std::collections::BTreeMap;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{
    Control, ControlReply, Event, FailureKind, Input, ProgressReport, Request, Response, RunSpec, StopMode,
    edge::{self, Answer, ProcessId},
    task::{Actions, Task},
};
use crate::{
    protocol::{self, Action, Budget, RequestId, ResponseToken, SendError},
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
            Control::DataKey { generation } => Request::DataKey { task, generation },
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

    fn answer_data_key(&mut self, token: ResponseToken, result: Result<Vec<u8>, String>) {
        if self.waiting.remove(&token).is_some() {
            let response = result.map_or_else(Response::refused, |sealed| Response::DataKey { sealed });
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
            // It is granted with the key alone.
            Control::DataKey { .. } => self.respond(token, Response::refused("this node gives no key")),
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
        Response::DataKey { sealed } => Ok(ControlReply::DataKey { sealed }),
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
    /// Offers, stops and looks at logs: a task is asked about a few times a second at most.
    const STREAMS: Budget = Budget { start: 200, burst: 500, per_minute: 3_000 };

    fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Offer { id, peer, announcement, slot } => {
                self.send(peer, Request::Offer { announcement, slot }, Sent::Offer(id));
            }
            Input::AnswerOffer { token, result } => self.answer_offer(token, result),
            Input::Ask { id, peer, task, control } => self.ask(id, peer, task, control),
            Input::AnswerControl { token, result } => self.answer_control(token, result),
            Input::AnswerDataKey { token, result } => self.answer_data_key(token, result),
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
            Request::DataKey { task, generation } => (task, Control::DataKey { generation }),
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

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use cid::Cid;
    use multihash::Multihash;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        executor::{Exit, FailureFile, Mode, Outputs, ProcessState, edge::Saying},
        protocol::State as _,
        types::{ContentId, Digest, JobId, Resources, Signed},
    };

    const NOW: Time = Time::from_millis(1_000_000);

    fn task() -> TaskId {
        TaskId { job: JobId([1; 32]), slot: 0 }
    }

    fn content() -> ContentId {
        ContentId(Cid::new_v1(0x55, Multihash::wrap(0x12, &[0; 32]).unwrap()))
    }

    fn spec(round: u32, session: bool) -> RunSpec {
        RunSpec {
            task: task(),
            generation: 1,
            round,
            mode: Mode::Train,
            bundle: content(),
            model: content(),
            optim: None,
            data: content(),
            data_bytes: u64::MAX,
            resume: None,
            config: "{}".into(),
            seed: Digest([0; 32]),
            stop_step: 10,
            checkpoint_every: 2,
            output: crate::types::OutputKind::Model,
            session,
            data_key: None,
            resources: Resources::default(),
            attempt: 0,
        }
    }

    fn outputs() -> Box<Outputs> {
        Box::new(Outputs {
            directory: PathBuf::from("out"),
            checkpoint: None,
            steps: 10,
            samples: 80,
            loss: None,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            memory_bytes: 0,
        })
    }

    /// A state, and a host that does what it is told to.
    struct Bench {
        state: State,
        now: Time,
        events: Vec<Event>,
        requests: Vec<edge::Request>,
    }

    impl Bench {
        fn new() -> Self {
            Self { state: State::new(Config::default()), now: NOW, events: Vec::new(), requests: Vec::new() }
        }

        fn running(spec: RunSpec) -> (Self, ProcessId) {
            let mut bench = Self::new();
            bench.tell(Input::Run(Box::new(spec)));
            let process = bench.launched();
            (bench, process)
        }

        fn tell(&mut self, input: Input) {
            self.state.handle(input, self.now);
            self.collect();
        }

        fn report(&mut self, answer: Answer) {
            self.tell(Input::Edge(answer));
        }

        fn say(&mut self, process: ProcessId, saying: Saying) {
            self.report(Answer::Said { process, saying });
        }

        fn exit(&mut self, process: ProcessId, code: i32) {
            self.report(Answer::Exited { process, exit: Box::new(Exit { code: Some(code), ..Exit::default() }) });
        }

        fn collect(&mut self) {
            while let Some(action) = self.state.poll_action() {
                match action {
                    Action::Event(Event::Edge(request)) => self.requests.push(request),
                    Action::Event(event) => self.events.push(event),
                    other => panic!("{other:?}"),
                }
            }
        }

        /// The host launches what was asked for last.
        fn launched(&mut self) -> ProcessId {
            let asked = self.requests.drain(..).rev().find_map(|request| match request {
                edge::Request::Launch { process, .. } => Some(process),
                _ => None,
            });
            let process = asked.expect("a launch was asked for");
            self.report(Answer::Launched { process, pid: 7 });
            process
        }

        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.state.poll_timeout().filter(|at| *at <= end) {
                self.now = self.now.max(at);
                self.state.on_timeout(self.now);
                self.collect();
            }
            self.now = end;
        }

        fn state(&self) -> ProcessState {
            self.state.progress(&task()).unwrap().state
        }

        fn signals(&mut self) -> Vec<edge::Signal> {
            let signal = |request| match request {
                edge::Request::Signal { signal, .. } => Some(signal),
                _ => None,
            };
            self.requests.drain(..).filter_map(signal).collect()
        }

        /// What ended a run, or answered a stop.
        fn ends(&mut self) -> Vec<Event> {
            let is_end =
                |event: &Event| matches!(event, Event::Finished { .. } | Event::Failed { .. } | Event::Stopped { .. });
            self.events.drain(..).filter(is_end).collect()
        }
    }

    #[test]
    fn a_fresh_process_has_finished_when_it_has_said_so_and_exited_with_0() {
        let (mut bench, process) = Bench::running(spec(0, false));
        bench.say(process, Saying::Done(outputs()));
        assert_eq!(bench.ends(), []);
        bench.exit(process, 0);
        assert!(matches!(bench.ends().as_slice(), [Event::Finished { round: 0, .. }]));
        assert_eq!((bench.state(), bench.state.live()), (ProcessState::Ended, 0));
    }

    #[test]
    fn a_session_serves_the_next_round_and_a_dead_one_is_replaced() {
        let (mut bench, process) = Bench::running(spec(0, true));
        bench.say(process, Saying::Done(outputs()));
        assert!(matches!(bench.ends().as_slice(), [Event::Finished { round: 0, .. }]));
        bench.tell(Input::Run(Box::new(spec(1, true))));
        assert!(matches!(bench.requests.as_slice(), [edge::Request::NextRound { .. }]));
        bench.report(Answer::RoundSent { process, result: Ok(()) });
        bench.say(process, Saying::Done(outputs()));
        assert!(matches!(bench.ends().as_slice(), [Event::Finished { round: 1, .. }]));
        bench.exit(process, 1);
        assert_eq!(bench.ends(), [], "between two rounds its death harms nothing");
        bench.tell(Input::Run(Box::new(spec(2, true))));
        assert_ne!(bench.launched(), process);
    }

    #[test]
    fn a_session_that_refuses_its_round_is_replaced_by_a_fresh_process() {
        let (mut bench, process) = Bench::running(spec(0, true));
        bench.say(process, Saying::Done(outputs()));
        bench.tell(Input::Run(Box::new(spec(1, true))));
        bench.report(Answer::RoundSent { process, result: Err("no".into()) });
        bench.exit(process, 137);
        let fresh = bench.launched();
        bench.say(fresh, Saying::Done(outputs()));
        assert!(matches!(
            bench.ends().as_slice(),
            [Event::Finished { round: 0, .. }, Event::Finished { round: 1, .. }]
        ));
    }

    #[test]
    fn a_crash_continues_from_the_newest_checkpoint_and_three_are_too_many() {
        let (mut bench, mut process) = Bench::running(spec(0, false));
        for step in [2, 4] {
            bench.say(process, Saying::Checkpoint { step, directory: PathBuf::from(format!("c{step}")) });
        }
        for _ in 0..2 {
            bench.exit(process, 1);
            let launch = bench.requests.last().cloned();
            let Some(edge::Request::Launch { continue_from, .. }) = launch else {
                panic!("{launch:?}");
            };
            assert_eq!(continue_from, Some((4, PathBuf::from("c4"))));
            process = bench.launched();
        }
        bench.exit(process, 1);
        let ends = bench.ends();
        let [Event::Failed { kind: FailureKind::Crash, attempts: 3, .. }] = ends.as_slice() else {
            panic!("{ends:?}");
        };
    }

    #[test]
    fn silence_is_a_hang_and_signs_of_life_are_not() {
        let (mut bench, process) = Bench::running(spec(0, false));
        for _ in 0..10 {
            bench.pass(Duration::from_secs(100));
            bench.say(process, Saying::Alive);
        }
        assert_eq!(bench.signals(), []);
        bench.pass(Duration::from_secs(121));
        assert_eq!(bench.signals(), [edge::Signal::Kill]);
        for _ in 0..2 {
            let process = bench.state.tasks.values().next().unwrap().process();
            bench.exit(process, 137);
            bench.launched();
            bench.pass(Duration::from_secs(121));
        }
        let process = bench.state.tasks.values().next().unwrap().process();
        bench.exit(process, 137);
        assert!(matches!(bench.ends().as_slice(), [Event::Failed { kind: FailureKind::Stalled, .. }]));
    }

    #[test]
    fn a_stop_gives_grace_and_then_kills() {
        let (mut bench, process) = Bench::running(spec(0, false));
        bench.say(process, Saying::Started);
        bench.tell(Input::Stop { task: task(), mode: StopMode::Checkpoint });
        assert_eq!(bench.signals(), [edge::Signal::Terminate]);
        bench.pass(Duration::from_secs(21));
        assert_eq!(bench.signals(), [edge::Signal::Kill]);
        bench.exit(process, 137);
        assert_eq!(bench.ends(), [Event::Stopped { task: task(), preempted: false }]);
    }

    #[test]
    fn a_stop_is_answered_even_if_nothing_runs_or_the_host_says_nothing() {
        let mut bench = Bench::new();
        bench.tell(Input::Stop { task: task(), mode: StopMode::Kill });
        assert_eq!(bench.ends().len(), 1);
        bench.tell(Input::Run(Box::new(spec(0, false))));
        bench.launched();
        bench.tell(Input::Stop { task: task(), mode: StopMode::Kill });
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.ends(), [Event::Stopped { task: task(), preempted: false }]);
    }

    #[test]
    fn a_stop_while_inputs_are_laid_out_takes_effect_at_the_launch() {
        let mut bench = Bench::new();
        bench.tell(Input::Run(Box::new(spec(0, false))));
        bench.tell(Input::Stop { task: task(), mode: StopMode::Kill });
        let process = bench.launched();
        assert_eq!(bench.signals(), [edge::Signal::Kill]);
        bench.exit(process, 137);
        assert_eq!(bench.ends().len(), 1);
    }

    #[test]
    fn a_process_that_was_forgotten_is_killed_when_it_comes_to_life() {
        let mut bench = Bench::new();
        bench.tell(Input::Run(Box::new(spec(0, false))));
        bench.tell(Input::Forget { task: task() });
        let Some(edge::Request::Launch { process, .. }) = bench.requests.first().cloned() else {
            panic!("a launch comes first");
        };
        bench.requests.clear();
        bench.report(Answer::Launched { process, pid: 7 });
        assert_eq!(bench.signals(), [edge::Signal::Kill]);
        assert_eq!(bench.events, []);
    }

    #[test]
    fn the_same_run_twice_is_one_run_and_another_takes_its_place() {
        let (mut bench, process) = Bench::running(spec(0, false));
        bench.tell(Input::Run(Box::new(spec(0, false))));
        assert_eq!(bench.requests, []);
        bench.tell(Input::Run(Box::new(RunSpec { generation: 2, ..spec(0, false) })));
        assert_eq!(bench.signals(), [edge::Signal::Kill]);
        bench.exit(process, 137);
        assert_ne!(bench.launched(), process);
        assert_eq!(bench.ends(), []);
    }

    #[test]
    fn a_full_executor_says_so() {
        let mut bench = Bench::new();
        bench.state = State::new(Config { max_processes: 1 });
        bench.tell(Input::Run(Box::new(spec(0, false))));
        let other = TaskId { slot: 1, ..task() };
        bench.tell(Input::Run(Box::new(RunSpec { task: other, ..spec(0, false) })));
        assert!(matches!(bench.ends().as_slice(), [Event::Failed { kind: FailureKind::MissingResource, .. }]));
    }

    #[test]
    fn peers_wait_for_a_decision_and_hear_when_none_comes() {
        let mut state = State::new(Config::default());
        let peer = PeerId::random();
        let announcement = Signed {
            body: vec![],
            signer: crate::types::NodeKey([0; 32]),
            signature: crate::types::SignatureBytes([0; 64]),
        };
        state.on_request(peer, ResponseToken(1), Request::Offer { announcement, slot: 0 }, NOW);
        state.on_request(peer, ResponseToken(2), Request::Progress { task: task() }, NOW);
        assert!(matches!(state.poll_action(), Some(Action::Event(Event::Offered { .. }))));
        assert!(matches!(state.poll_action(), Some(Action::Event(Event::ControlAsked { .. }))));
        state.handle(Input::AnswerOffer { token: ResponseToken(1), result: Ok(()) }, NOW);
        assert!(matches!(state.poll_action(), Some(Action::Respond { response: Response::Accepted, .. })));
        let at = state.poll_timeout().unwrap();
        state.on_timeout(at);
        assert!(matches!(state.poll_action(), Some(Action::Respond { response: Response::Refused { .. }, .. })));
        assert_eq!(state.poll_timeout(), None);
    }

    #[test]
    fn one_peer_can_not_fill_the_queue() {
        let mut state = State::new(Config::default());
        let (loud, quiet) = (PeerId::random(), PeerId::random());
        for token in 0..100 {
            state.on_request(loud, ResponseToken(token), Request::Progress { task: task() }, NOW);
        }
        state.on_request(quiet, ResponseToken(100), Request::Progress { task: task() }, NOW);
        assert_eq!(state.waiting.len(), MAX_WAITING_OF_ONE_PEER + 1);
    }

    fn any_answer() -> impl Strategy<Value = Answer> {
        let process = (0_u64..6).prop_map(ProcessId);
        (process, 0..9_u8, 0..140_i32).prop_map(|(process, kind, code)| match kind {
            0 => Answer::Launched { process, pid: 1 },
            1 => Answer::LaunchFailed { process, kind: FailureKind::Launch, message: String::new() },
            2 => Answer::RoundSent { process, result: Err(String::new()) },
            3 => Answer::Said { process, saying: Saying::Started },
            4 => Answer::Said { process, saying: Saying::Checkpoint { step: 2, directory: PathBuf::new() } },
            5 => Answer::Said { process, saying: Saying::Done(outputs()) },
            6 => Answer::Said { process, saying: Saying::Broken { message: String::new() } },
            _ => {
                let failure = (code % 7 == 0).then(FailureFile::default);
                Answer::Exited { process, exit: Box::new(Exit { code: Some(code), failure, ..Exit::default() }) }
            }
        })
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            (0_u32..3, 1_u32..3, any::<bool>()).prop_map(|(round, generation, session)| {
                Input::Run(Box::new(RunSpec { generation, ..spec(round, session) }))
            }),
            Just(Input::Stop { task: task(), mode: StopMode::Checkpoint }),
            Just(Input::Stop { task: task(), mode: StopMode::Kill }),
            Just(Input::CheckpointNow { task: task() }),
            Just(Input::Forget { task: task() }),
            any_answer().prop_map(Input::Edge),
        ]
    }

    proptest! {
        /// Whatever the host says in whatever order, nothing hangs: after the largest deadlines no process lives.
        #[test]
        fn nothing_hangs(inputs in proptest::collection::vec((any_input(), 0_u64..200), 0..40)) {
            let mut bench = Bench::new();
            for (input, seconds) in inputs {
                bench.tell(input);
                bench.pass(Duration::from_secs(seconds));
            }
            // Three attempts, each laid out and launched by nobody, then an idle session at most.
            bench.pass(Duration::from_secs(3600));
            prop_assert_eq!(bench.state.live(), 0);
            prop_assert_eq!(bench.state.poll_timeout(), None);
        }
    }
}
