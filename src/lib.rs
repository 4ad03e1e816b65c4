//! Atlas node: the compute node of the Atlas network.

pub mod chain;
pub mod clock;
pub mod codec;
pub mod gossip;
pub mod identity;
pub mod proof;
pub mod protocol;
pub mod recovery;
pub mod round;
pub mod shard;
pub mod store;
pub mod tensor;
pub mod types;
