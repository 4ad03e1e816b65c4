//! The proof protocol in the swarm.

/// Carries [`super::State`]; decides nothing.
pub type Behaviour = crate::protocol::behaviour::Behaviour<super::State>;
