//! Gossip without end.

use std::time::Duration;

use atlas_node::{
    clock, codec,
    gossip::{ENVELOPE, MAX_MESSAGE, MEMORY, StatusChange, TOPIC_HEARTBEAT, TOPIC_JOBS},
    identity::Keypair,
    types::{NodeKey, NodeStatus, SignatureBytes, Signed, SignedObject},
};
use futures::StreamExt;
use libp2p::{Swarm, gossipsub, swarm::SwarmEvent};
use serde::{Deserialize, Serialize};

use super::{AGAIN, Target, swarm::builder};

/// How much is said: so many messages, this often.
type Pace = (u64, Duration);
/// Ten thousand messages a second: far more than anybody needs, and less than the machine that the test shares with the
/// nodes could make.
pub(super) const FLOOD: Pace = (50, Duration::from_millis(5));
/// As much as a node in a busy network says.
pub(super) const CHATTER: Pace = (1, Duration::from_millis(50));

/// A topic, and what is said in it.
type Message = (&'static str, Vec<u8>);

/// An envelope whose signature is nobody's.
pub(super) fn garbage(keypair: &Keypair, number: u64) -> Message {
    let body = number.to_be_bytes().repeat(30);
    let signed = Signed { body, signer: keypair.node_key(), signature: SignatureBytes([7; 64]) };
    (TOPIC_JOBS, codec::encode(&signed))
}

/// "I am online", again and again.
pub(super) fn useless(keypair: &Keypair, number: u64) -> Message {
    let (node, timestamp) = (keypair.node_key(), clock::now());
    let change = StatusChange { node, status: NodeStatus::Online, observer: node, last_sequence: number, timestamp };
    (TOPIC_HEARTBEAT, codec::encode(&keypair.seal(&change)))
}

/// A change of status in the next version of its form.
#[derive(Serialize, Deserialize)]
struct NewerChange {
    node: NodeKey,
    mood: u64,
}

impl SignedObject for NewerChange {
    const DOMAIN: &'static str = "atlas/status-change/v2";
    const LIMIT: usize = MAX_MESSAGE;

    fn speaker(&self) -> Option<NodeKey> {
        Some(self.node)
    }
}

/// What this version of a node can't read, and a newer one could.
pub(super) fn newer(keypair: &Keypair, number: u64) -> Message {
    let change = NewerChange { node: keypair.node_key(), mood: number };
    (TOPIC_HEARTBEAT, codec::encode(&keypair.seal(&change)))
}

pub(super) async fn speak(
    target: &Target,
    keypair: &Keypair,
    (volley, pause): Pace,
    message: fn(&Keypair, u64) -> Message,
) {
    let mut swarm = swarm(keypair);
    let mut number = 0;
    let mut connected = false;
    loop {
        if !connected && swarm.dial(target.address.clone()).is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        if connected {
            for _ in 0..volley {
                let (topic, data) = message(keypair, number);
                // Nobody listens yet, or the queue is full: then the next.
                let _ = swarm.behaviour_mut().publish(gossipsub::IdentTopic::new(topic), data);
                number += 1;
            }
        }
        let deadline = tokio::time::sleep(if connected { pause } else { AGAIN });
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                event = swarm.select_next_some() => match event {
                    SwarmEvent::ConnectionEstablished { .. } => connected = true,
                    SwarmEvent::ConnectionClosed { num_established: 0, .. } => connected = false,
                    _ => {}
                },
                () = &mut deadline => break,
            }
        }
    }
}

fn swarm(keypair: &Keypair) -> Swarm<gossipsub::Behaviour> {
    let config = gossipsub::ConfigBuilder::default()
        .max_transmit_size(MAX_MESSAGE + ENVELOPE)
        .duplicate_cache_time(MEMORY)
        .validation_mode(gossipsub::ValidationMode::Anonymous)
        .message_id_fn(|message| gossipsub::MessageId::from(atlas_node::types::Digest::of(&message.data).0.to_vec()))
        .build()
        .expect("a configuration that makes sense");
    let mut behaviour =
        gossipsub::Behaviour::new(gossipsub::MessageAuthenticity::Anonymous, config).expect("it is anonymous");
    for topic in [TOPIC_JOBS, TOPIC_HEARTBEAT] {
        behaviour.subscribe(&gossipsub::IdentTopic::new(topic)).expect("a topic can be joined");
    }
    builder(keypair, behaviour)
}
