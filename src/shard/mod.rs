//! Content: models, data sets, checkpoints and updates as CIDs, equal to those that `ipfs add` gives.

pub mod edge;
pub mod files;
pub mod unixfs;
pub mod wire;

pub use files::Files;
