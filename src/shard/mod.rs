//! Content: models, data sets, checkpoints and updates as CIDs, equal to those that `ipfs add` gives.
//!
//! Brings DAGs of blocks here from any peers that have them, serves them to others, holds some for others, and
//! turns files and directories into DAGs and back. Every byte that arrives is checked against its name before it
//! counts; a transfer that was cut off goes on where it was; memory does not grow with the size of what is moved.
//!
//! It never decides what is worth fetching or keeping, never looks for providers itself (it asks the coordinator
//! to), and never reads content from an IPFS daemon.

pub mod archive;
pub mod behaviour;
pub mod car;
pub mod dataset;
pub mod edge;
pub mod files;
mod hamt;
pub mod import;
pub mod state;
pub mod unixfs;
pub mod wire;

pub use behaviour::Behaviour;
pub use files::Files;
pub use state::{Config, Event, FetchFailure, HoldFailure, Input, Limits, State};
