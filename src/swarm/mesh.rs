//! gossipsub, with a turnstile before it.
//!
//! gossipsub keeps what it hears before anybody has looked at it, tells nobody of duplicates, and knows no budget. So each
//! frame of a neighbour is let in here: its messages, duplicates included, use the neighbour's budget, and what is over it
//! or belongs to a topic that this network doesn't have is refused before it costs memory or a check of a signature.
//! What a message means is decided elsewhere.

use std::{
    collections::HashMap,
    io,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{self, PeerScoreParams, PeerScoreThresholds, TopicHash, TopicScoreParams},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

use crate::{
    clock,
    conduct::{self, Buckets, Offence, Reporter},
    gossip,
};

/// Topics that one peer may be in: four, and one for each job that it has a task of.
pub const MAX_TOPICS_OF_PEER: usize = 256;
/// An invalid message is forgotten in this time, a broken promise too: ten minutes, as a neighbour behind a bad line comes
/// back sooner than somebody with bad intent is worth listening to.
const FORGET: Duration = Duration::from_secs(600);
/// The square of the invalid messages counts so much: three in ten minutes, and gossipsub listens no more
/// (-10 x 9 is below the -80 of its default thresholds). [`crate::conduct`] cuts off at ten.
const INVALID_WEIGHT: f64 = -10.0;
/// Broken promises and too early returns to a mesh count as the square of those over [`PENALTY_FREE`].
const PENALTY_WEIGHT: f64 = -10.0;
/// A node that restarts or is frozen for a while makes some; Ethereum's nodes, with as many peers, allow six.
const PENALTY_FREE: f64 = 6.0;
/// How long the score of a peer that left is kept: as long as what it did counts.
const RETAIN: Duration = FORGET;

type Filter = gossipsub::MaxCountSubscriptionFilter<Topics>;
type Inner = gossipsub::Behaviour<Turnstile, Filter>;

/// What is known while one frame is being read.
#[derive(Debug, Default)]
struct Turn {
    left: AtomicU32,
    taken: AtomicU32,
    refused: AtomicU32,
}

/// Lets messages in, as many as the turn has left.
#[derive(Debug, Default)]
pub struct Turnstile(Arc<Turn>);

impl gossipsub::DataTransform for Turnstile {
    fn inbound_transform(&self, raw: gossipsub::RawMessage) -> io::Result<gossipsub::Message> {
        let Turn { left, taken, refused } = &*self.0;
        if left.load(Relaxed) == 0 {
            refused.fetch_add(1, Relaxed);
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        left.fetch_sub(1, Relaxed);
        taken.fetch_add(1, Relaxed);
        if !gossip::is_topic(raw.topic.as_str()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let gossipsub::RawMessage { source, data, sequence_number, topic, .. } = raw;
        Ok(gossipsub::Message { source, data, sequence_number, topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
    }
}

/// The topics that this network has; in others there is nobody to talk to.
#[derive(Debug, Default)]
pub struct Topics;

impl gossipsub::TopicSubscriptionFilter for Topics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        gossip::is_topic(topic.as_str())
    }
}

/// gossipsub behind its turnstile.
pub struct Mesh {
    inner: Inner,
    turn: Arc<Turn>,
    messages: Buckets<PeerId>,
    frames: Buckets<PeerId>,
    reporter: Reporter,
}

impl Mesh {
    /// A mesh in the topics that every node is in.
    pub(crate) fn new(
        heartbeat: Duration,
        reporter: Reporter,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let config = gossipsub::ConfigBuilder::default()
            .heartbeat_interval(heartbeat)
            .heartbeat_initial_delay(heartbeat / 4)
            .max_transmit_size(gossip::MAX_MESSAGE + gossip::ENVELOPE)
            .duplicate_cache_time(gossip::MEMORY)
            // The envelope carries the one signature that counts; gossipsub would verify its own on every copy.
            .validation_mode(gossipsub::ValidationMode::Anonymous)
            .validate_messages()
            .message_id_fn(|message| gossipsub::MessageId::from(crate::types::Digest::of(&message.data).0.to_vec()))
            .build()?;
        let turn = Arc::new(Turn::default());
        let authenticity = gossipsub::MessageAuthenticity::Anonymous;
        let inner = Inner::new_with_subscription_filter_and_transform(
            authenticity,
            config,
            Filter {
                filter: Topics,
                max_subscribed_topics: MAX_TOPICS_OF_PEER,
                max_subscriptions_per_request: MAX_TOPICS_OF_PEER,
            },
            Turnstile(Arc::clone(&turn)),
        )?;
        let mut mesh = Self {
            inner,
            turn,
            messages: Buckets::new(conduct::GOSSIP),
            frames: Buckets::new(conduct::GOSSIP_FRAMES),
            reporter,
        };
        mesh.inner.with_peer_score(
            score(),
            PeerScoreThresholds { opportunistic_graft_threshold: 0.0, ..PeerScoreThresholds::default() },
        )?;
        for topic in [gossip::TOPIC_JOBS, gossip::TOPIC_ASSIGN, gossip::TOPIC_ROLLBACK, gossip::TOPIC_HEARTBEAT] {
            mesh.join(topic)?;
        }
        Ok(mesh)
    }

    /// Joins a topic; invalid messages in it lower a neighbour's score.
    pub fn join(&mut self, topic: &str) -> Result<(), gossipsub::SubscriptionError> {
        let topic = gossipsub::IdentTopic::new(topic);
        self.inner.subscribe(&topic)?;
        if let Err(error) = self.inner.set_topic_params(topic, topic_score()) {
            tracing::error!(error, "gossipsub refuses its own parameters");
        }
        Ok(())
    }

    fn read(&mut self, peer: PeerId, read: impl FnOnce(&mut Inner)) {
        let now = clock::now();
        let Turn { left, taken, refused } = &*self.turn;
        left.store(self.messages.left(&peer, now), Relaxed);
        taken.store(0, Relaxed);
        refused.store(0, Relaxed);
        read(&mut self.inner);
        self.messages.take(&peer, taken.load(Relaxed), now);
        let count = refused.load(Relaxed) + self.frames.take(&peer, 1, now);
        if count > 0 {
            self.reporter.report(peer, Offence::GossipFlood { count });
        }
    }
}

/// Silence is no fault here, for most topics are silent for hours, and many nodes share an address in a lab or an office
/// (connections of one address have a budget of their own): what counts is invalid messages and broken promises.
fn score() -> PeerScoreParams {
    PeerScoreParams {
        topics: HashMap::new(),
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: PENALTY_WEIGHT,
        behaviour_penalty_threshold: PENALTY_FREE,
        behaviour_penalty_decay: gossipsub::score_parameter_decay(FORGET),
        retain_score: RETAIN,
        ..PeerScoreParams::default()
    }
}

fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: INVALID_WEIGHT,
        invalid_message_deliveries_decay: gossipsub::score_parameter_decay(FORGET),
        ..TopicScoreParams::default()
    }
}

impl Deref for Mesh {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl NetworkBehaviour for Mesh {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = gossipsub::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.read(peer, |inner| inner.on_connection_handler_event(peer, id, event));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use gossipsub::DataTransform as _;

    use super::*;

    fn message(topic: &str) -> gossipsub::RawMessage {
        gossipsub::RawMessage {
            source: None,
            data: vec![7],
            sequence_number: None,
            topic: TopicHash::from_raw(topic),
            signature: None,
            key: None,
            validated: false,
        }
    }

    #[tokio::test]
    async fn a_neighbour_is_let_in_as_often_as_its_budget_allows_and_what_is_over_it_is_told() {
        let (reporter, mut reports) = Reporter::new();
        let mut mesh = Mesh::new(Duration::from_secs(1), reporter).unwrap();
        let (turnstile, peer) = (Turnstile(Arc::clone(&mesh.turn)), PeerId::random());
        let mut let_in = 0;
        mesh.read(peer, |_| {
            let knock = |_: &u32| turnstile.inbound_transform(message(gossip::TOPIC_JOBS)).is_ok();
            let_in = (0..conduct::GOSSIP.start + 5).filter(knock).count();
        });
        assert_eq!(let_in, conduct::GOSSIP.start as usize);
        let report = reports.try_recv().unwrap();
        assert_eq!((report.peer, report.offence), (peer, Offence::GossipFlood { count: 5 }));
        mesh.read(PeerId::random(), |_| {
            assert!(turnstile.inbound_transform(message(gossip::TOPIC_JOBS)).is_ok(), "another has its own");
            assert!(turnstile.inbound_transform(message("/elsewhere")).is_err(), "no topic of this network");
        });
        assert!(reports.try_recv().is_err());
    }

    #[test]
    fn topics_are_those_of_the_page() {
        let job = "0123456789abcdef".repeat(4);
        assert!(gossip::is_topic(&format!("/atlas/jobs/{job}/updates")));
        for other in ["/atlas/jobs/new/", "/atlas/jobs/xyz/updates", "/atlas/jobs//updates", "jobs"] {
            assert!(!gossip::is_topic(other), "{other}");
        }
    }
}
