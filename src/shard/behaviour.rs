//! Content transfer in the swarm.

use super::State;

/// Carries `/atlas/shard/1` for [`State`].
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;
