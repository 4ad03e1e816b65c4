//! Why a message was refused, and the small checks that many messages share.

use std::{collections::BTreeMap, fmt};

use super::TransactionResult;
use crate::{chain::wire::Code, types::SignedError};

/// Why a transaction failed: the code for programs, the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) text: String,
}

impl Refusal {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(Code::Malformed, text)
    }

    pub(super) fn signature(text: impl Into<String>) -> Self {
        Self::new(Code::Signature, text)
    }

    pub(super) fn chain_id(text: impl Into<String>) -> Self {
        Self::new(Code::ChainId, text)
    }

    pub(super) fn nonce(text: impl Into<String>) -> Self {
        Self::new(Code::Nonce, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(Code::NotFound, text)
    }

    pub(super) fn unauthorized(text: impl Into<String>) -> Self {
        Self::new(Code::Unauthorized, text)
    }

    pub(super) fn stale(text: impl Into<String>) -> Self {
        Self::new(Code::Stale, text)
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(Code::Conflict, text)
    }

    pub(super) fn funds(text: impl Into<String>) -> Self {
        Self::new(Code::Funds, text)
    }

    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Code::Invalid, text)
    }

    /// What became of a signed object named `what` that did not open.
    pub(super) fn unopened(what: &str, error: &SignedError) -> Self {
        match error {
            SignedError::TooLong { .. } | SignedError::Body(_) => Self::malformed(format!("{what}: {error}")),
            SignedError::Signer | SignedError::Signature | SignedError::Speaker => {
                Self::signature(format!("{what}: {error}"))
            }
        }
    }
}

impl From<Refusal> for TransactionResult {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code as u32, log: refusal.text, ..Self::default() }
    }
}

/// Refuses unless `holds`.
pub(super) fn ensure(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}

/// Refuses a field that is not in `least..=most`.
pub(super) fn check_range<T: PartialOrd + fmt::Display>(
    field: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), Refusal> {
    ensure(value >= least && value <= most, || {
        Refusal::invalid(format!("`{field}` is {value}; it must be from {least} to {most}"))
    })
}

/// Refuses a name that is empty or has more than 64 characters.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    check_range(&format!("length of {field}"), name.chars().count(), 1, 64)
}

/// Refuses a text of more than `most` characters.
pub(super) fn check_text(field: &str, text: &str, most: usize) -> Result<(), Refusal> {
    check_range(&format!("length of {field}"), text.chars().count(), 0, most)
}

/// Refuses more than 16 entries, or one longer than 64 and 256 characters.
pub(super) fn check_entries(field: &str, entries: &BTreeMap<String, String>) -> Result<(), Refusal> {
    check_range(&format!("entries of {field}"), entries.len(), 0, 16)?;
    entries.iter().try_for_each(|(key, value)| {
        check_name(field, key)?;
        check_text(field, value, 256)
    })
}
