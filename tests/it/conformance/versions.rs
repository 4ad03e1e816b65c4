//! The versioning rule of `protocols/README.md`, between two swarms: our health protocol, and a stranger that speaks a newer
//! version of it, or this one with words that we don't know. (Fields and words inside objects: the vectors.)

use std::{collections::VecDeque, time::Duration};

use atlas_node::{
    clock, health,
    identity::Keypair,
    protocol::{
        Action, Budget, DecodeError, Message, RequestId, ResponseToken, SendError, State, behaviour::Behaviour,
    },
    types::Time,
};
use bytes::Bytes;
use futures::StreamExt as _;
use libp2p::{PeerId, Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
use serde::{Deserialize, Serialize};

use super::cbor::Cbor;

const DEADLINE: Duration = Duration::from_secs(20);

/// Bytes that nobody here looks into.
#[derive(Debug, Serialize, Deserialize)]
struct Raw(Vec<u8>);

impl Message for Raw {
    const LIMIT: usize = 1 << 20;

    fn encode(self) -> Vec<Bytes> {
        vec![self.0.into()]
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        Ok(Self(bytes.to_vec()))
    }
}

/// A peer that says what it is told to, in version `VERSION` of the health protocol.
#[derive(Debug, Default)]
struct Stranger<const VERSION: u8>(VecDeque<Action<Self>>);

type Heard = Result<Vec<u8>, SendError>;

impl<const VERSION: u8> State for Stranger<VERSION> {
    type Request = Raw;
    type Response = Raw;
    type Input = (PeerId, Vec<u8>);
    type Event = Heard;

    const PROTOCOL: &'static str = if VERSION == 1 { "/atlas/health/1" } else { "/atlas/health/2" };
    const TIMEOUT_MILLIS: u64 = 10_000;
    const MAX_STREAMS: usize = 8;
    const STREAMS: Budget = Budget { start: 8, burst: 8, per_minute: 8 };

    fn handle(&mut self, (peer, request): Self::Input, _: Time) {
        self.0.push_back(Action::Request { peer, id: RequestId(0), request: Raw(request) });
    }

    fn on_request(&mut self, _: PeerId, token: ResponseToken, _: Raw, _: Time) {
        self.0.push_back(Action::Respond { token, response: Raw(Cbor::from("Noted").encode()) });
    }

    fn on_response(&mut self, _: PeerId, _: RequestId, result: Result<Raw, SendError>, _: Time) {
        self.0.push_back(Action::Event(result.map(|Raw(bytes)| bytes)));
    }

    fn on_timeout(&mut self, _: Time) {}

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.0.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn swarm<S: State>(seed: u8, state: S) -> Swarm<Behaviour<S>> {
    let mut swarm = SwarmBuilder::with_existing_identity(Keypair::from_secret(&[seed; 32]).to_libp2p())
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| Behaviour::new(state))
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(DEADLINE))
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    swarm
}

/// Our node, and a stranger that is connected to it.
struct Pair<const VERSION: u8> {
    ours: Swarm<Behaviour<health::State>>,
    stranger: Swarm<Behaviour<Stranger<VERSION>>>,
}

impl<const VERSION: u8> Pair<VERSION> {
    async fn connected() -> Self {
        let ours = health::State::new(health::Config::default(), Keypair::from_secret(&[1; 32]), clock::now());
        let mut pair = Self { ours: swarm(1, ours), stranger: swarm(2, Stranger::default()) };
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = pair.ours.select_next_some().await {
                break address;
            }
        };
        pair.stranger.dial(address).unwrap();
        while !pair.is_connected() {
            tokio::select! {
                _ = pair.ours.select_next_some() => {}
                _ = pair.stranger.select_next_some() => {}
            }
        }
        pair
    }

    /// What the stranger hears when it asks this.
    async fn ask(&mut self, request: Cbor) -> Heard {
        let ours = *self.ours.local_peer_id();
        self.stranger.behaviour_mut().handle((ours, request.encode()));
        let heard = async {
            loop {
                tokio::select! {
                    event = self.stranger.select_next_some() => {
                        if let SwarmEvent::Behaviour(heard) = event {
                            return heard;
                        }
                    }
                    _ = self.ours.select_next_some() => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, heard).await.expect("an answer, or that there is none")
    }

    fn is_connected(&self) -> bool {
        self.ours.is_connected(self.stranger.local_peer_id()) && self.stranger.is_connected(self.ours.local_peer_id())
    }
}

fn ping(further: &[(Cbor, Cbor)]) -> Cbor {
    let nonce = (Cbor::from("nonce"), Cbor::Unsigned(7));
    Cbor::Map(vec![("Ping".into(), Cbor::Map([&[nonce], further].concat()))])
}

fn pong() -> Vec<u8> {
    Cbor::Map(vec![("Pong".into(), Cbor::Map(vec![("nonce".into(), Cbor::Unsigned(7))]))]).encode()
}

#[tokio::test]
async fn a_field_that_we_do_not_know_is_ignored() {
    let mut pair = Pair::<1>::connected().await;
    assert_eq!(pair.ask(ping(&[("later".into(), Cbor::Unsigned(1))])).await.unwrap(), pong());
}

#[tokio::test]
async fn a_message_that_we_do_not_know_gets_no_answer_and_costs_no_trust() {
    let mut pair = Pair::<1>::connected().await;
    let later = Cbor::Map(vec![("Later".into(), Cbor::Map(vec![]))]);
    assert_eq!(pair.ask(later).await, Err(SendError::Reset));
    assert!(pair.is_connected());
    assert_eq!(pair.ask(ping(&[])).await.unwrap(), pong());
}

#[tokio::test]
async fn a_peer_of_a_newer_protocol_is_asked_nothing_and_stays_connected() {
    let mut pair = Pair::<2>::connected().await;
    assert_eq!(pair.ask(ping(&[])).await, Err(SendError::Unsupported));
    assert!(pair.is_connected());

    // The other way round: our node asks, learns that the peer can't, and stays connected too.
    let stranger = *pair.stranger.local_peer_id();
    pair.ours.behaviour_mut().handle(health::Input::MeasureSpeed { id: 5, peer: stranger });
    let failed = async {
        loop {
            tokio::select! {
                event = pair.ours.select_next_some() => {
                    if let SwarmEvent::Behaviour(health::Event::SpeedFailed { error, .. }) = event {
                        return error;
                    }
                }
                _ = pair.stranger.select_next_some() => {}
            }
        }
    };
    let error = tokio::time::timeout(DEADLINE, failed).await.expect("the speed test ends");
    assert_eq!(error, health::SpeedError::Send(SendError::Unsupported));
    assert!(pair.is_connected());
}
