//! Honest peers that ask a node little and often, and say how long it takes: on the way of beats (`/atlas/health/1`) and on
//! the way of dispatch (`/atlas/task/1`, where the coordinator answers).

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use atlas_node::{
    clock, executor, health,
    identity::{self, Keypair},
    protocol::{Action, Budget, RequestId, ResponseToken, SendError, State, behaviour::Behaviour as Protocol},
    types::{JobId, TaskId, Time},
};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::task::JoinHandle;

/// Honest peers; each stays within what a node lets a peer do.
const PROBERS: usize = 4;
/// Between two questions of one of them.
const PACE: Duration = Duration::from_millis(60);
/// A connection that is quiet while nodes start stays open.
const IDLE: Duration = Duration::from_secs(600);

/// What is asked.
trait Question: Debug + Default + Send + 'static {
    type Node: State;

    fn ask(number: u64) -> <Self::Node as State>::Request;
}

/// "Are you there?"
#[derive(Debug, Default)]
struct Ping;

impl Question for Ping {
    type Node = health::State;

    fn ask(nonce: u64) -> health::wire::Request {
        health::wire::Request::Ping { nonce }
    }
}

/// "Stop a task", which the node does not have.
#[derive(Debug, Default)]
struct Stop;

impl Question for Stop {
    type Node = executor::State;

    fn ask(number: u64) -> executor::Request {
        let task = TaskId { job: JobId([7; 32]), slot: u32::try_from(number % 1_000).unwrap_or_default() };
        executor::Request::Stop { task, generation: 0, mode: executor::StopMode::Checkpoint }
    }
}

/// Asks, and counts microseconds until the answer.
#[derive(Debug, Default)]
struct Asker<Q: Question> {
    actions: VecDeque<Action<Self>>,
    next: u64,
    asked: BTreeMap<u64, u64>,
    question: PhantomData<Q>,
}

impl<Q: Question> State for Asker<Q> {
    type Request = <Q::Node as State>::Request;
    type Response = <Q::Node as State>::Response;
    type Input = PeerId;
    type Event = f64;

    const PROTOCOL: &'static str = Q::Node::PROTOCOL;
    const TIMEOUT_MILLIS: u64 = Q::Node::TIMEOUT_MILLIS;
    const MAX_STREAMS: usize = Q::Node::MAX_STREAMS;
    const STREAMS: Budget = Q::Node::STREAMS;

    fn handle(&mut self, peer: PeerId, _: Time) {
        self.next += 1;
        self.asked.insert(self.next, clock::now_micros());
        self.actions.push_back(Action::Request { peer, id: RequestId(self.next), request: Q::ask(self.next) });
    }

    fn on_request(&mut self, _: PeerId, _: ResponseToken, _: Self::Request, _: Time) {}

    fn on_response(&mut self, _: PeerId, id: RequestId, _: Result<Self::Response, SendError>, _: Time) {
        // No answer took as long as it was waited for.
        if let Some(asked) = self.asked.remove(&id.0) {
            self.actions.push_back(Action::Event((clock::now_micros() - asked) as f64 / 1e3));
        }
    }

    fn on_timeout(&mut self, _: Time) {}

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    health: Protocol<Asker<Ping>>,
    task: Protocol<Asker<Stop>>,
}

/// Round trips in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrips {
    pub(crate) health: Vec<f64>,
    pub(crate) task: Vec<f64>,
}

/// Peers that ask.
pub(crate) struct Probers {
    heard: Arc<Mutex<RoundTrips>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Probers {
    /// Connects them to the node at `address`.
    pub(crate) fn start(address: &Multiaddr) -> Result<Self> {
        let heard = Arc::default();
        let mut tasks = Vec::new();
        for _ in 0..PROBERS {
            let mut swarm = swarm()?;
            swarm.dial(address.clone())?;
            let peer = identity::peer_of(address).ok_or_else(|| anyhow::anyhow!("{address} names no peer"))?;
            tasks.push(tokio::spawn(ask(swarm, peer, Arc::clone(&heard))));
        }
        Ok(Self { heard, tasks })
    }

    /// What is measured within `window`, from now.
    pub(crate) async fn measure(&self, window: Duration) -> RoundTrips {
        let take = || std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        take();
        tokio::time::sleep(window).await;
        take()
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn swarm() -> Result<Swarm<Behaviour>> {
    let keypair = Keypair::from_secret(&clock::random_bytes());
    let behaviour = Behaviour { health: Protocol::new(Asker::default()), task: Protocol::new(Asker::default()) };
    let builder = SwarmBuilder::with_existing_identity(keypair.to_libp2p()).with_tokio();
    let builder = builder.with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?;
    let Ok(builder) = builder.with_behaviour(|_| behaviour);
    Ok(builder.with_swarm_config(|config| config.with_idle_connection_timeout(IDLE)).build())
}

async fn ask(mut swarm: Swarm<Behaviour>, peer: PeerId, heard: Arc<Mutex<RoundTrips>>) {
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                let behaviour = swarm.behaviour_mut();
                behaviour.health.handle(peer);
                behaviour.task.handle(peer);
            }
            event = swarm.select_next_some() => {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Health(millis)) => heard.health.push(millis),
                    SwarmEvent::Behaviour(BehaviourEvent::Task(millis)) => heard.task.push(millis),
                    _ => {}
                }
            }
        }
    }
}
