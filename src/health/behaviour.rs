//! The health protocol in the swarm.

use super::State;

/// Carries `/atlas/health/1`: beats, probes and speed tests. All decisions are [`State`]'s.
pub type Behaviour = crate::protocol::behaviour::Behaviour<State>;
