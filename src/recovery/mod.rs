//! Recovery: no work is lost with the node that did it.
//!
//! A checkpoint is made durable here, then held by another node, then acknowledged, in this order and never another
//! ([`State`]). [`edge::keep`] imports and signs it; [`edge::load`] reads what somebody else kept, and trusts nothing of it. A
//! rollback event is applied once, and only when the ledger agrees that the generation is over.
//!
//! It never decides who continues a task (the ledger does), never starts or stops a process, and never deletes: it
//! unpins what nothing needs any more, and the store collects it.

pub mod edge;
mod state;
mod task;

pub use state::{Boundary, Config, Input, Output, State};
