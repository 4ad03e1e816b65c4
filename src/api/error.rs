//! Why a command was not done, in a form that a program can tell apart and a person can act on.

use serde::{Deserialize, Serialize};

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not understood or a field is out of its range.
    Invalid,
    /// The token is missing or wrong, or the ledger says the caller may not.
    Unauthorized,
    /// No such job, task, model, node or content.
    NotFound,
    /// The thing is not in a state that allows this.
    Conflict,
    /// Another node, or the ledger, said no; the message has its reason.
    Refused,
    /// What it needs (ledger, peer, daemon) does not answer at present.
    Unavailable,
    /// Too many requests wait already; ask again.
    Busy,
    /// No answer in time.
    Timeout,
    /// A fault of this node.
    Internal,
}

/// A command that was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", .hint.as_ref().map(|hint| format!("\n  {hint}")).unwrap_or_default())]
pub struct Error {
    /// The kind.
    pub code: ErrorCode,
    /// What happened.
    pub message: String,
    /// What to do about it: the flag, key or command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Error {
    /// An error of this kind without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
