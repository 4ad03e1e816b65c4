//! The proof protocol in the swarm.

/// Carries [`super::State`]; decides nothing.
pub type Behaviour = crate::protocol::behaviour::Behaviour<super::State>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use libp2p::{Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};

    use super::Behaviour;
    use crate::{
        identity::Keypair,
        proof::{
            Config, Event, Input, State,
            testing::{NOW, Worker},
            trace,
            wire::Opening,
        },
        types::{Attestation, Digest, Signed},
    };

    fn swarm(keypair: &Keypair) -> Swarm<Behaviour> {
        let behaviour = Behaviour::new(State::new(Config::default(), keypair.node_key()), None);
        SwarmBuilder::with_existing_identity(keypair.to_libp2p())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(30)))
            .build()
    }

    /// Answers what it is asked, as a coordinator would once content was checked.
    fn answer(swarm: &mut Swarm<Behaviour>, keypair: &Keypair, event: Event, states: &[Digest]) -> Option<Event> {
        let input = match event {
            Event::ReceiptAsked { token, receipt, .. } => {
                let attestation =
                    Attestation { receipt: receipt.digest(), verifier: keypair.node_key(), timestamp: NOW };
                Input::AnswerReceipt { token, result: Ok(keypair.seal(&attestation)) }
            }
            Event::Challenged { token, index, .. } => {
                let path = trace::path(states, index).unwrap();
                let opening = Opening { state_root: states[index as usize], path, checkpoint: None };
                Input::AnswerChallenge { token, result: Ok(opening) }
            }
            other => return Some(other),
        };
        swarm.behaviour_mut().handle(input);
        None
    }

    #[tokio::test]
    async fn two_swarms_verify_a_receipt_and_open_a_state() {
        let worker = Worker::default();
        let (worker_key, verifier_key) = (worker.keypair(), Keypair::from_secret(&[8; 32]));
        let states = [worker.expected().start_root(), worker.middle, Digest([8; 32])];
        let receipt: Signed = worker_key.seal(&worker.receipt());
        let (mut asking, mut asked) = (swarm(&worker_key), swarm(&verifier_key));
        asked.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();

        let story = async {
            let (mut verified, mut opened) = (false, false);
            while !(verified && opened) {
                tokio::select! {
                    event = asked.select_next_some() => match event {
                        SwarmEvent::NewListenAddr { address, .. } => {
                            asking.dial(address).unwrap();
                        }
                        SwarmEvent::ConnectionEstablished { peer_id: peer, .. } => {
                            let input = Input::Challenge { id: 2, peer, receipt: receipt.clone(), index: 1 };
                            asked.behaviour_mut().handle(input);
                        }
                        SwarmEvent::Behaviour(event) => {
                            if let Some(event) = answer(&mut asked, &verifier_key, event, &states) {
                                opened = matches!(event, Event::Opened { id: 2, index: 1, .. });
                                assert!(opened, "{event:?}");
                            }
                        }
                        _ => {}
                    },
                    event = asking.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { peer_id: peer, .. } => {
                            let input = Input::Verify { id: 1, peer, receipt: receipt.clone() };
                            asking.behaviour_mut().handle(input);
                        }
                        SwarmEvent::Behaviour(event) => {
                            if let Some(event) = answer(&mut asking, &worker_key, event, &states) {
                                verified = matches!(event, Event::Verified { id: 1, .. });
                                assert!(verified, "{event:?}");
                            }
                        }
                        _ => {}
                    },
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), story).await.expect("both are answered within the deadline");
    }
}
