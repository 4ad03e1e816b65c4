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
pub mod ipfs;
pub mod node;
pub mod proof;
pub mod protocol;
pub mod recovery;
pub mod round;
pub mod shard;
pub mod store;
pub mod submit;
pub mod tensor;
pub mod types;
