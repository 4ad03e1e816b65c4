//! Atlas node: the compute node of the Atlas network.

pub mod api;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod executor;
pub mod gossip;
pub mod identity;
pub mod node;
pub mod protocol;
pub mod store;
pub mod submit;
pub mod types;
