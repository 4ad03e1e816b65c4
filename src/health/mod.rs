//! Who is alive: signed heartbeats, suspicion, probes, and the speed test.
//!
//! A node beats to eight **watchers** that the rendezvous hash picks among the nodes it knows, and to the ledger.
//! Beats of every node to every node would cost the square of the network; this costs eight messages a beat.
//! Whoever is beaten to watches: when beats stop it suspects, asks the node itself and, through three others,
//! once more (SWIM: Das, Gupta and Motivala, 2002), and only then calls it offline.
//!
//! What it never does:
//! - it never calls a node offline because a connection closed: connections close for many reasons;
//! - it never believes another's word about a node's death: that is a reason to probe, no more;
//! - it never frees a task: the ledger does, in its own time, from the beats that reached it.

pub mod behaviour;
mod interface;
mod probing;
mod speed;
mod state;
mod watched;
pub mod wire;

pub use behaviour::Behaviour;
pub use interface::{Config, Event, Input};
pub use speed::SpeedError;
pub use state::State;
pub use watched::Standing;

#[cfg(test)]
mod tests;
