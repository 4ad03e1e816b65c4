//! `/atlas/infer/1` in the swarm.

use super::State;

/// The shim that carries this protocol.
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;
