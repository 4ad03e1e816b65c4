//! Proof of computation: what a worker signs of a round, and what another node checks before it is believed.
//!
//! A receipt binds the result of a round to its assignment, inputs, committed trace and update ([`receipt`]). Another
//! node checks it at level L0 of the design: everything that can be known without computing again ([`edge`]), and
//! attests it over `/atlas/proof/1` ([`State`], [`wire`]). A worker answers a challenge by opening one state of its
//! trace ([`trace`]). [`evidence`] checks all of it again, offline, for anybody.
//!
//! It never runs a script, never moves money or reputation, and never reads the ledger: what a receipt must say is
//! handed in as [`Expected`]. L0 catches forgery, replay, substitution and truncation with certainty, and laziness not at all.

pub mod behaviour;
pub mod edge;
pub mod evidence;
pub mod receipt;
mod state;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod wire;

pub use behaviour::Behaviour;
pub use receipt::{Expected, Refusal, Work, build, check_receipt};
pub use state::{Config, Event, Input, State};

pub use crate::{tensor::root, types::computation as seed};
