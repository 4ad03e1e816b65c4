//! The task protocol in the swarm.

use super::State;

/// Carries `/atlas/task/1`: offers, controls, progress and logs. All decisions are [`State`]'s.
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use libp2p::{PeerId, Swarm, SwarmBuilder, noise, swarm::SwarmEvent, tcp, yamux};

    use super::Behaviour;
    use crate::{
        executor::{
            Config, Control, ControlReply, Event, Input, State,
            edge::{self, Answer},
            logs::LogPart,
        },
        identity::Keypair,
        types::{JobId, NodeKey, SignatureBytes, Signed, TaskId},
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A swarm with this behaviour alone, on loopback TCP.
    fn swarm(seed: u8) -> (Swarm<Behaviour>, PeerId) {
        let keypair = Keypair::from_secret(&[seed; 32]);
        let mut swarm = SwarmBuilder::with_existing_identity(keypair.to_libp2p())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| Behaviour::new(State::new(Config::default()), None))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(DEADLINE))
            .build();
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        (swarm, keypair.peer_id())
    }

    async fn next_event(swarm: &mut Swarm<Behaviour>) -> Event {
        loop {
            if let SwarmEvent::Behaviour(event) = swarm.select_next_some().await {
                return event;
            }
        }
    }

    /// What the asker hears; the other side's coordinator answers by `decide`.
    async fn exchange(
        asker: &mut Swarm<Behaviour>,
        other: &mut Swarm<Behaviour>,
        mut decide: impl FnMut(Event) -> Input,
    ) -> Event {
        loop {
            tokio::select! {
                event = next_event(asker) => return event,
                event = next_event(other) => {
                    let input = decide(event);
                    other.behaviour_mut().handle(input);
                }
            }
        }
    }

    #[tokio::test]
    async fn two_swarms_offer_control_and_read_a_log() {
        tokio::time::timeout(DEADLINE, story()).await.expect("the story ends in time");
    }

    async fn story() {
        let ((mut a, _), (mut b, peer)) = (swarm(1), swarm(2));
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = b.select_next_some().await {
                break address;
            }
        };
        a.add_peer_address(peer, address);
        let task = TaskId { job: JobId([1; 32]), slot: 3 };

        // A slot is offered and taken; the connection is made on the way.
        let announcement =
            Signed { body: vec![1; 60_000], signer: NodeKey([0; 32]), signature: SignatureBytes([0; 64]) };
        a.behaviour_mut().handle(Input::Offer { id: 1, peer, announcement, slot: 3 });
        let accept = |event| match event {
            Event::Offered { token, slot: 3, announcement, .. } if announcement.body.len() == 60_000 => {
                Input::AnswerOffer { token, result: Ok(()) }
            }
            other => panic!("{other:?}"),
        };
        let answered = exchange(&mut a, &mut b, accept).await;
        assert_eq!(answered, Event::OfferAnswered { id: 1, peer, result: Ok(()) });

        // A pause by somebody who may not is refused, in words.
        a.behaviour_mut().handle(Input::Ask {
            id: 2,
            peer: Some(peer),
            task,
            control: Control::Pause { generation: 1 },
        });
        let refuse = |event| match event {
            Event::ControlAsked { token, control: Control::Pause { generation: 1 }, .. } => {
                Input::AnswerControl { token, result: Err("only the creator may".into()) }
            }
            other => panic!("{other:?}"),
        };
        let answered = exchange(&mut a, &mut b, refuse).await;
        assert_eq!(answered, Event::ControlAnswered { id: 2, result: Err("only the creator may".into()) });

        // The longest log is read through the host.
        let control = Control::Log { from: Some(7), max: u32::MAX };
        a.behaviour_mut().handle(Input::Ask { id: 3, peer: Some(peer), task, control });
        let grant = |event| match event {
            Event::ControlAsked { token, .. } => Input::AnswerControl { token, result: Ok(()) },
            Event::Edge(edge::Request::ReadLog { id, from: Some(7), max, .. }) => {
                let bytes = vec![b'x'; max as usize];
                Input::Edge(Answer::Log { id, result: Ok(LogPart { from: 7, bytes }) })
            }
            other => panic!("{other:?}"),
        };
        let answered = exchange(&mut a, &mut b, grant).await;
        let Event::ControlAnswered { id: 3, result: Ok(ControlReply::Log { from: 7, bytes }) } = answered else {
            panic!("{answered:?}");
        };
        assert_eq!(bytes.len(), 64 * 1024);
    }
}
