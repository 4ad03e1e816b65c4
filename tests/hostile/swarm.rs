//! Requests that no honest peer makes, and answers that none gives.

use std::time::Duration;

use atlas_node::{
    chain::rpc,
    executor,
    gossip::{ENVELOPE, MAX_MESSAGE},
    health,
    identity::Keypair,
    proof,
    protocol::{Message, State},
    shard::{
        self,
        wire::{Request, Response, Slot},
    },
    types::{SignatureBytes, Signed},
};
use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, noise,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};

use super::{
    AGAIN, Target,
    codec::{Blow, Codec},
};

/// Streams are opened this often, one of each protocol: two thousand a second each.
const PAUSE: Duration = Duration::from_micros(500);
/// Messages that are wrong by themselves need no flood: two of each protocol a second.
const SLOWLY: Duration = Duration::from_millis(500);
/// Streams that the peer itself keeps open.
const MOST_STREAMS: usize = 100_000;
/// Nothing is waited for longer.
const FOR_EVER: Duration = Duration::from_secs(3_600);

/// gossipsub, whose head is a number of seven bits a byte.
const GOSSIPSUB: &str = "/meshsub/1.1.0";

/// The protocols with the longest request of each.
const PROTOCOLS: [(&str, usize); 6] = [
    limit::<health::State>(),
    limit::<executor::State>(),
    limit::<executor::inference::State>(),
    limit::<proof::State>(),
    limit::<shard::State>(),
    limit::<rpc::State>(),
];

const fn limit<S: State>() -> (&'static str, usize) {
    (S::PROTOCOL, <S::Request as Message>::LIMIT)
}

type Carrier = request_response::Behaviour<Codec>;

/// One carrier a protocol, so that each is asked for by name.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    health: Carrier,
    task: Carrier,
    infer: Carrier,
    proof: Carrier,
    shard: Carrier,
    ledger: Carrier,
}

impl Behaviour {
    fn new() -> Self {
        let carrier = |(protocol, _): (&'static str, usize)| {
            let config = request_response::Config::default()
                .with_request_timeout(FOR_EVER)
                .with_max_concurrent_streams(MOST_STREAMS);
            Carrier::with_codec(Codec, [(StreamProtocol::new(protocol), ProtocolSupport::Full)], config)
        };
        let [health, task, infer, proof, shard, ledger] = PROTOCOLS.map(carrier);
        Self { health, task, infer, proof, shard, ledger }
    }

    fn carriers(&mut self) -> [&mut Carrier; 6] {
        [&mut self.health, &mut self.task, &mut self.infer, &mut self.proof, &mut self.shard, &mut self.ledger]
    }
}

/// A swarm of this peer around a behaviour.
pub(super) fn builder<B: NetworkBehaviour>(keypair: &Keypair, behaviour: B) -> Swarm<B> {
    SwarmBuilder::with_existing_identity(keypair.to_libp2p())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("a transport of its own")
        .with_behaviour(|_| behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|config| config.with_idle_connection_timeout(FOR_EVER))
        .build()
}

/// Strikes with requests again and again, and connects again when it is cut off.
async fn strike<B: NetworkBehaviour>(target: &Target, mut swarm: Swarm<B>, pause: Duration, blow: impl Fn(&mut B)) {
    let mut connected = false;
    loop {
        if !connected && swarm.dial(target.address.clone()).is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        if connected {
            blow(swarm.behaviour_mut());
        }
        let deadline = tokio::time::sleep(if connected { pause } else { AGAIN });
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { .. } => {
                        connected = true;
                        break;
                    }
                    SwarmEvent::ConnectionClosed { num_established: 0, .. } => connected = false,
                    _ => {}
                },
                () = &mut deadline => break,
            }
        }
    }
}

/// The same with one request of each protocol.
async fn strike_all(target: &Target, keypair: &Keypair, pause: Duration, blow: impl Fn(usize) -> Blow) {
    strike(target, builder(keypair, Behaviour::new()), pause, |behaviour| {
        for (carrier, (_, limit)) in behaviour.carriers().into_iter().zip(PROTOCOLS) {
            carrier.send_request(&target.peer, blow(limit));
        }
    })
    .await;
}

pub(super) async fn streams(target: &Target, keypair: &Keypair) {
    strike_all(target, keypair, PAUSE, |_| Blow { bytes: Vec::new(), unfinished: true }).await;
}

pub(super) async fn half_requests(target: &Target, keypair: &Keypair) {
    let half = |limit: usize| Blow { bytes: framed(limit, limit / 2), unfinished: true };
    strike_all(target, keypair, SLOWLY / 10, half).await;
}

pub(super) async fn oversize(target: &Target, keypair: &Keypair) {
    let over = |limit: usize| Blow { bytes: framed(limit + 1, limit + 1), unfinished: false };
    strike_all(target, keypair, SLOWLY, over).await;
}

/// The one protocol whose frames are not ours. Who does not speak it both ways is not listened to.
pub(super) async fn oversize_gossip(target: &Target, keypair: &Keypair) {
    let config = request_response::Config::default().with_request_timeout(FOR_EVER);
    let carrier = Carrier::with_codec(Codec, [(StreamProtocol::new(GOSSIPSUB), ProtocolSupport::Full)], config);
    let (mut bytes, mut rest) = (Vec::new(), MAX_MESSAGE + ENVELOPE + 1);
    while rest > 0 {
        let more = if rest > 0x7f { 0x80 } else { 0 };
        bytes.push(u8::try_from(rest & 0x7f).expect("seven bits") | more);
        rest >>= 7;
    }
    bytes.resize(bytes.len() + MAX_MESSAGE + ENVELOPE + 1, 0x55);
    let blow = Blow { bytes, unfinished: true };
    strike(target, builder(keypair, carrier), SLOWLY, |carrier| {
        carrier.send_request(&target.peer, blow.clone());
    })
    .await;
}

pub(super) async fn bombs(target: &Target, keypair: &Keypair) {
    strike_all(target, keypair, SLOWLY, |_| Blow { bytes: framed(u32::MAX as usize, 64), unfinished: true }).await;
}

pub(super) async fn nonsense(target: &Target, keypair: &Keypair) {
    let nonsense = Blow { bytes: [&16_u32.to_be_bytes()[..], &[0xff; 16]].concat(), unfinished: false };
    strike_all(target, keypair, SLOWLY, move |_| nonsense.clone()).await;
}

/// A kind of message that no page names.
pub(super) async fn newer(target: &Target, keypair: &Keypair) {
    // A map with one entry, `Later`: {}.
    let bytes = [&[0xa1, 0x65][..], b"Later", &[0xa0]].concat();
    let framed = [&u32::try_from(bytes.len()).expect("it is short").to_be_bytes(), &bytes[..]].concat();
    strike(target, builder(keypair, Behaviour::new()), SLOWLY / 10, |behaviour| {
        for carrier in [&mut behaviour.health, &mut behaviour.task, &mut behaviour.proof] {
            carrier.send_request(&target.peer, Blow { bytes: framed.clone(), unfinished: false });
        }
    })
    .await;
}

/// Beats of somebody else.
pub(super) async fn forgeries(target: &Target, keypair: &Keypair) {
    let signer = Keypair::from_secret(&[7; 32]).node_key();
    let signed = Signed { body: vec![0xa0], signer, signature: SignatureBytes([7; 64]) };
    let bytes = health::wire::Request::Beat(signed).encode().concat();
    let framed = [&u32::try_from(bytes.len()).expect("it is short").to_be_bytes(), &bytes[..]].concat();
    strike(target, builder(keypair, Behaviour::new()), SLOWLY, |behaviour| {
        behaviour.health.send_request(&target.peer, Blow { bytes: framed.clone(), unfinished: false });
    })
    .await;
}

/// A head that announces so much, and so much of it.
fn framed(announced: usize, sent: usize) -> Vec<u8> {
    let head = u32::try_from(announced).expect("a head has four bytes").to_be_bytes();
    [&head[..], &vec![0x55; sent]].concat()
}

pub(super) fn nothing(_: &[u8]) -> Option<Vec<u8>> {
    None
}

/// "Here it is", with something else.
pub(super) fn lie(request: &[u8]) -> Option<Vec<u8>> {
    let response = match Request::decode(Bytes::copy_from_slice(request)).ok()? {
        Request::Get { cids, .. } => {
            Response::Blocks(cids.iter().map(|_| Slot::Present(Bytes::from_static(b"something else"))).collect())
        }
        Request::Have { cids } => Response::Have(vec![true; cids.len()]),
        Request::Hold { .. } => Response::Accepted,
        Request::Held { .. } => Response::Noted,
    };
    Some(response.encode().concat())
}

/// Waits for questions. `answer` is what is said to one about content; `None` is silence, and keeps the stream open.
pub(super) async fn answer(target: &Target, keypair: &Keypair, mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>>) {
    let mut swarm = builder(keypair, Behaviour::new());
    let mut open = Vec::new();
    loop {
        if !swarm.is_connected(&target.peer) && swarm.dial(target.address.clone()).is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        let event = tokio::time::timeout(SLOWLY, swarm.select_next_some()).await;
        let Ok(SwarmEvent::Behaviour(event)) = event else { continue };
        let (event, is_content) = match event {
            BehaviourEvent::Shard(event) => (event, true),
            BehaviourEvent::Health(event)
            | BehaviourEvent::Task(event)
            | BehaviourEvent::Infer(event)
            | BehaviourEvent::Proof(event)
            | BehaviourEvent::Ledger(event) => (event, false),
        };
        if let request_response::Event::Message {
            message: request_response::Message::Request { request, channel, .. },
            ..
        } = event
        {
            match answer(&request.bytes).filter(|_| is_content) {
                Some(bytes) => drop(swarm.behaviour_mut().shard.send_response(channel, bytes)),
                None => open.push(channel),
            }
        }
    }
}
