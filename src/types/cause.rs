//! Why something failed, as plain data.

use std::{error::Error, iter};

use serde::{Deserialize, Serialize};

/// The words of an error and of its causes, outermost first.
///
/// What an edge tells a state of a failure: a state says it on and decides nothing by it, so it gets no error that holds
/// a file or a socket, and whoever records what a state was told can write it down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
#[serde(transparent)]
pub struct Cause(String);

impl Cause {
    /// Of a failure that is no error of its own.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// Of an error.
    pub fn of(error: &dyn Error) -> Self {
        Self(words(error))
    }
}

/// What an edge reports: the error as its causes, in words.
pub trait OrCause<T> {
    /// The result, with its error as data.
    fn or_cause(self) -> Result<T, Cause>;
}

impl<T, E: Error> OrCause<T> for Result<T, E> {
    fn or_cause(self) -> Result<T, Cause> {
        self.map_err(|error| Cause::of(&error))
    }
}

/// An error with its causes, outermost first. A cause that the text before it tells already is not told again.
pub fn words(error: &dyn Error) -> String {
    let causes = iter::successors(error.source(), |cause: &&dyn Error| Error::source(*cause));
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_told_outermost_first_and_none_twice() {
        let inner = Layer("no space left", None);
        let middle = Layer("the disk: no space left", Some(Box::new(inner)));
        let outer = Layer("the checkpoint can't be kept", Some(Box::new(middle)));
        assert_eq!(Cause::of(&outer).to_string(), "the checkpoint can't be kept: the disk: no space left");
    }
}
