//! Content: models, data sets, checkpoints and updates as CIDs, equal to those that `ipfs add` gives.

pub mod files;
pub mod unixfs;

pub use files::Files;
