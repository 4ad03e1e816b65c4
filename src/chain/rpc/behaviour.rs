//! The protocol in the swarm: the shim that all protocols share, around this one's state.

/// Carries requests to ledgers between peers.
pub type Behaviour = crate::protocol::behaviour::Behaviour<super::State>;
