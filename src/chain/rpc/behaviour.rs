//! The protocol in the swarm: the shim that all protocols share, around this one's state.

/// Carries requests to ledgers between peers.
pub type Behaviour = crate::protocol::behaviour::Behaviour<super::State>;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use libp2p::{Swarm, SwarmBuilder, swarm::SwarmEvent};

    use super::*;
    use crate::chain::rpc::{Config, Event, Input, State};

    fn swarm() -> Swarm<Behaviour> {
        SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(libp2p::tcp::Config::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| Behaviour::new(State::new(Config::default()), None))
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(60)))
            .build()
    }

    /// Answers every call with its own body; ends when an own call is answered.
    async fn serve(swarm: &mut Swarm<Behaviour>) -> Event {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Called { token, ledger, body, .. }) => {
                    assert_eq!(ledger, "atlas-test");
                    swarm.behaviour_mut().handle(Input::Answer { token, result: Ok(body) });
                }
                SwarmEvent::Behaviour(answered) => return answered,
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn a_call_crosses_two_swarms_and_comes_back() {
        let (mut host, mut worker) = (swarm(), swarm());
        host.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = host.select_next_some().await {
                break address;
            }
        };
        worker.dial(address).unwrap();
        let peer = *host.local_peer_id();
        while !worker.is_connected(&peer) {
            tokio::select! {
                _ = worker.select_next_some() => {}
                _ = host.select_next_some() => {}
            }
        }
        let body = vec![b'x'; 500_000];
        let call = Input::Call { id: 3, peer, ledger: "atlas-test".to_owned(), body: body.clone() };
        worker.behaviour_mut().handle(call);
        let both = async {
            tokio::select! {
                answered = serve(&mut worker) => answered,
                _ = serve(&mut host) => panic!("the host asked nothing"),
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        assert_eq!(answered, Event::Answered { id: 3, result: Ok(body) });
    }
}
