//! An external Kubo daemon, asked only to pin: checkpoints and models that should outlive this network.
//!
//! DAGs go out as CAR streams and are pinned under a name; pins can be listed, verified and taken back. A daemon that
//! is away is no failure of the node: what it is wanted to do waits on the disk. The node never reads content from
//! the daemon; the way back is `ipfs dag export CID | atlas-node shard add --car -`.

pub mod answers;
pub mod client;
pub mod endpoint;
pub mod pinner;

pub use client::Client;
pub use endpoint::Endpoint;
pub use pinner::{Pinner, Status};
