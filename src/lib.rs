//! Atlas node: the compute node of the Atlas network.

pub mod chain;
pub mod clock;
pub mod codec;
pub mod gossip;
pub mod health;
pub mod identity;
pub mod network;
pub mod protocol;
pub mod resource;
pub mod store;
pub mod types;
pub mod validator;
