//! Joint training: many nodes, one model, one outer step a round.
//!
//! A worker's node computes and encodes the difference that its script made ([`edge::package`]). Once enough updates
//! are here, every holder combines them by the same arithmetic, to the byte ([`aggregate`], [`edge::aggregate`]);
//! [`State`] decides when, who proposes, who votes and who closes the round on the ledger. It speaks no protocol of
//! its own: it reacts to the ledger and to the job's gossip topic.
//!
//! It never decides who is paid, never believes a proposal that it did not recompute, and never lets arrival order,
//! time, a peer's name or the number of threads into the arithmetic.

pub mod aggregate;
pub mod edge;
mod job;
mod state;

pub use state::{Config, Input, Opened, Output, State};

pub use crate::tensor::update as codec;
