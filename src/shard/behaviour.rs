//! Content transfer in the swarm.

use super::State;

/// Carries `/atlas/shard/1` for [`State`].
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures::StreamExt as _;
    use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        shard::{Config, Event, Files, Input, edge},
        store::{BlockStore, Files as _, Quota},
        types::ContentId,
    };

    const MIB: usize = 1024 * 1024;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A swarm that holds this behaviour alone, with the little of an event loop that it needs.
    struct Node {
        swarm: Swarm<Behaviour>,
        store: Arc<BlockStore>,
        answers: (mpsc::UnboundedSender<edge::Answer>, mpsc::UnboundedReceiver<edge::Answer>),
        _directory: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = BlockStore::open(directory.path(), Quota { bytes: 1 << 30 }).unwrap();
            let swarm = SwarmBuilder::with_new_identity()
                .with_tokio()
                .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
                .unwrap()
                .with_behaviour(|_| Behaviour::new(State::new(Config::default(), vec![]), None))
                .unwrap()
                .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
                .build();
            Self { swarm, store, answers: mpsc::unbounded_channel(), _directory: directory }
        }

        async fn listen(&mut self) -> Multiaddr {
            self.swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
            loop {
                if let SwarmEvent::NewListenAddr { address, .. } = self.swarm.select_next_some().await {
                    return address;
                }
            }
        }

        /// Runs until an event for the coordinator.
        async fn next(&mut self) -> Event {
            loop {
                tokio::select! {
                    event = self.swarm.select_next_some() => match event {
                        SwarmEvent::Behaviour(Event::Edge(request)) => {
                            let (store, sender) = (self.store.clone(), self.answers.0.clone());
                            tokio::task::spawn_blocking(move || sender.send(edge::perform(&store, request)));
                        }
                        SwarmEvent::Behaviour(event) => return event,
                        _ => {}
                    },
                    Some(answer) = self.answers.1.recv() => {
                        self.swarm.behaviour_mut().handle(Input::Edge(answer));
                    }
                }
            }
        }
    }

    async fn wait_for<T>(node: &mut Node, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(node.next().await) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("the event comes in time")
    }

    fn sample(length: usize) -> Vec<u8> {
        (0_u64..).flat_map(u64::to_be_bytes).take(length).collect()
    }

    async fn connected_pair(source: &mut Node) -> Node {
        let address = source.listen().await;
        let mut sink = Node::new();
        sink.swarm.dial(address).unwrap();
        sink
    }

    #[tokio::test]
    async fn two_swarms_move_a_dag_over_tcp() {
        let mut source = Node::new();
        let bytes = sample(20 * MIB);
        let root = Files::new(source.store.clone()).import_bytes(&bytes).unwrap();
        let mut sink = connected_pair(&mut source).await;
        let provider = *source.swarm.local_peer_id();
        tokio::spawn(async move { while !matches!(source.next().await, Event::Misbehaved { .. }) {} });

        sink.swarm.behaviour_mut().handle(Input::Fetch { id: 1, root, providers: vec![provider] });
        let fetched = wait_for(&mut sink, |event| match event {
            Event::Fetched { root, .. } => Some(root),
            Event::FetchFailed { reason, .. } => panic!("{reason}"),
            _ => None,
        });
        assert_eq!(fetched.await, root);
        assert!(Files::new(sink.store.clone()).read(&root, bytes.len()).unwrap() == bytes);
    }

    #[tokio::test]
    async fn two_swarms_agree_that_a_copy_is_held() {
        let mut asker = Node::new();
        let root: ContentId = Files::new(asker.store.clone()).import_bytes(&sample(3 * MIB)).unwrap();
        let mut holder = connected_pair(&mut asker).await;
        let peer = *holder.swarm.local_peer_id();
        let holds = holder.store.clone();
        tokio::spawn(async move { while !matches!(holder.next().await, Event::Misbehaved { .. }) {} });

        // The holder dialled: the asker can only reach it once its connection is open.
        let ask = Input::AskHold { id: 1, root, size: 3 * MIB as u64, peer };
        asker.swarm.behaviour_mut().handle(ask);
        let held = wait_for(&mut asker, |event| match event {
            Event::Held { id: 1, root, .. } => Some(root),
            Event::HoldFailed { reason, .. } => panic!("{reason}"),
            _ => None,
        });
        assert_eq!(held.await, root);
        assert_eq!(edge::holds(&holds).len(), 1);
    }
}
