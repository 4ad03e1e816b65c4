//! From a job file to a job that can go on the ledger.
//!
//! [`JobFile::parse`] reads and checks the text without touching anything, so that a mistake is told before a
//! node is asked. [`prepare()`] then imports bundle, model and data set and cuts the data; it blocks and runs off the event loop, in the node,
//! because the block store is the node's. Nothing here talks to the mesh or the ledger: which content must be fetched
//! first is told by [`JobFile::needs`].

pub mod duration;
mod job_file;
mod prepare;
mod typed;

pub use job_file::{Content, Data, Evaluation, JobFile, Records};
pub use prepare::{Overrides, Prepared, prepare};

use std::{io, path::PathBuf};

/// What is wrong with a job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no TOML, lacks a key, or has one that doesn't exist.
    #[error("the job file is wrong\n{0}")]
    Toml(#[from] Box<toml::de::Error>),
    /// A value is not what its key takes.
    #[error("the job file is wrong: `{key}` {reason}")]
    Value {
        /// The key, with dots between tables.
        key: String,
        /// What is wrong, and what it should be.
        reason: String,
    },
    /// What a key names can't be imported.
    #[error("`{key}` of the job file: {} can't be imported", .path.display())]
    Import {
        /// The key.
        key: &'static str,
        /// The path that was tried.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data set can't be cut.
    #[error("`data` of the job file: the data set can't be cut")]
    Cut(#[from] crate::shard::dataset::Error),
}

impl Error {
    fn value(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { key: key.into(), reason: reason.into() }
    }
}
