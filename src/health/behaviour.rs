//! The health protocol in the swarm.

use super::State;

/// Carries `/atlas/health/1`: beats, probes and speed tests. All decisions are [`State`]'s.
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use libp2p::{Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};

    use super::Behaviour;
    use crate::{
        clock,
        health::{Config, Event, Input, State},
        identity::Keypair,
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A swarm with this behaviour alone, on loopback TCP.
    fn swarm(seed: u8) -> Swarm<Behaviour> {
        let keypair = Keypair::from_secret(&[seed; 32]);
        let config = Config::with_beats(Duration::from_millis(200), Duration::from_millis(600));
        let mut swarm = SwarmBuilder::with_existing_identity(keypair.to_libp2p())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| Behaviour::new(State::new(config, keypair, clock::now()), None))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(DEADLINE))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        swarm
    }

    async fn next_event(swarm: &mut Swarm<Behaviour>) -> Event {
        loop {
            if let SwarmEvent::Behaviour(event) = swarm.select_next_some().await {
                return event;
            }
        }
    }

    #[tokio::test]
    async fn two_swarms_beat_measure_and_notice_a_silent_one() {
        tokio::time::timeout(DEADLINE, story()).await.expect("the story ends in time");
    }

    async fn story() {
        let (mut a, mut b) = (swarm(1), swarm(2));
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = b.select_next_some().await {
                break address;
            }
        };
        a.dial(address).unwrap();
        let (key_a, key_b) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
        let joined = [&key_a, &key_b].map(|key| (key.node_key(), key.peer_id())).to_vec();
        a.behaviour_mut().handle(Input::Members { joined: joined.clone(), left: Vec::new() });
        b.behaviour_mut().handle(Input::Members { joined, left: Vec::new() });

        // Each hears the other's beats.
        let (mut a_heard, mut b_heard) = (0, 0);
        while a_heard < 3 || b_heard < 3 {
            tokio::select! {
                event = next_event(&mut a) => a_heard += u32::from(matches!(event, Event::BeatHeard { .. })),
                event = next_event(&mut b) => b_heard += u32::from(matches!(event, Event::BeatHeard { .. })),
            }
        }

        // The path between them is measured.
        a.behaviour_mut().handle(Input::MeasureSpeed { id: 5, peer: key_b.peer_id() });
        let speed = loop {
            tokio::select! {
                event = next_event(&mut a) => match event {
                    Event::SpeedMeasured { id: 5, speed, .. } => break speed,
                    Event::SpeedFailed { error, .. } => panic!("{error}"),
                    _ => {}
                },
                _ = next_event(&mut b) => {}
            }
        };
        assert!(speed.download_kbps > 0 && speed.upload_kbps > 0, "{speed:?}");

        // B is not polled any more, as if it had been stopped: its connection stays open.
        loop {
            if let Event::Offline { node, .. } = next_event(&mut a).await {
                assert_eq!(node, key_b.node_key());
                break;
            }
        }
        drop(b);
    }
}
