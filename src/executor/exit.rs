//! What an exit means. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::FailureKind;

/// Restarts after a crash within one round (script contract, "Exit codes").
const CRASH_RETRIES: u32 = 2;
/// Restarts after exit 70.
const INTERNAL_RETRIES: u32 = 1;
/// Exit code of the launcher when it could not start the script.
const EXIT_LAUNCHER: i32 = super::launcher::EXIT_FAILED as i32;

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The script's exit code; 128 plus the signal's number if a signal ended it. `None` if the launcher itself was
    /// killed.
    pub code: Option<i32>,
    /// Why the supervisor killed it, if it did.
    pub killed: Option<Killed>,
    /// `out/failure.json`, or the last `error` event.
    pub failure: Option<FailureFile>,
    /// The last line on standard error.
    pub last_words: String,
}

/// Why the supervisor killed a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Killed {
    /// It was told to.
    Asked,
    /// Resident memory went over what was booked.
    Memory {
        /// Resident bytes seen.
        used: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// There was too much of something that it made: bytes, files, processes.
    Output {
        /// What was too much, in words.
        what: Cow<'static, str>,
        /// How much is allowed.
        limit: u64,
        /// Of what, in words.
        unit: Cow<'static, str>,
    },
}

/// What a script says about its failure (`out/failure.json`, at most 64 KiB).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct FailureFile {
    /// A word, for example `out_of_memory`.
    pub code: String,
    /// For people.
    pub msg: String,
}

/// What to do about an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Exit 0.
    Done,
    /// Exit 75: resumable.
    Preempted,
    /// Start it again from its last checkpoint.
    Retry {
        /// Why, for the log.
        reason: String,
    },
    /// Give up.
    Fail {
        /// Why, as a word.
        kind: FailureKind,
        /// Why, in words.
        message: String,
    },
}

impl Exit {
    /// What this exit means for a run that crashed `crashes` times before.
    pub(super) fn verdict(&self, crashes: u32) -> Verdict {
        let fail = |kind| Verdict::Fail { kind, message: self.describe() };
        match (&self.killed, self.code) {
            (Some(Killed::Memory { .. }), _) => fail(FailureKind::OutOfMemory),
            (Some(Killed::Output { .. }), _) => fail(FailureKind::OutputLimit),
            _ if self.ran_out_of_memory() => fail(FailureKind::OutOfMemory),
            (_, Some(0)) => Verdict::Done,
            (_, Some(64)) => fail(FailureKind::BadConfig),
            (_, Some(65)) => fail(FailureKind::BadData),
            (_, Some(69)) => fail(FailureKind::MissingResource),
            (_, Some(75)) => Verdict::Preempted,
            (_, Some(EXIT_LAUNCHER)) => fail(FailureKind::Launch),
            (_, Some(70)) if crashes < INTERNAL_RETRIES => Verdict::Retry { reason: self.describe() },
            (_, Some(70)) => fail(FailureKind::Crash),
            _ if crashes < CRASH_RETRIES => Verdict::Retry { reason: self.describe() },
            _ => fail(FailureKind::Crash),
        }
    }

    fn ran_out_of_memory(&self) -> bool {
        self.code != Some(0) && self.failure.as_ref().is_some_and(|failure| failure.code == "out_of_memory")
    }

    /// In words, for a person.
    pub(super) fn describe(&self) -> String {
        let how = match (&self.killed, self.code) {
            (Some(Killed::Memory { used, limit }), _) => {
                format!("out of memory: {used} bytes resident, {limit} booked; ask for more `resources.memory_gb`")
            }
            (Some(Killed::Output { what, limit, unit }), _) => format!("{what} grew over {limit} {unit}"),
            _ if self.ran_out_of_memory() => "out of memory: an allocation was refused".to_owned(),
            (_, Some(EXIT_LAUNCHER)) => "the script could not be started".to_owned(),
            (_, Some(code)) if code > 128 => format!("killed by signal {}", code - 128),
            (_, Some(code)) => format!("exit code {code}"),
            (_, None) => "the launcher was killed".to_owned(),
        };
        let words = self.failure.as_ref().map_or(self.last_words.as_str(), |failure| failure.msg.as_str());
        if words.is_empty() { how } else { format!("{how}: {words}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { code: Some(code), ..Exit::default() }
    }

    fn kind(exit: &Exit, crashes: u32) -> Option<FailureKind> {
        match exit.verdict(crashes) {
            Verdict::Fail { kind, .. } => Some(kind),
            _ => None,
        }
    }

    #[test]
    fn exit_codes_mean_what_the_contract_says() {
        assert_eq!(exit(0).verdict(0), Verdict::Done);
        assert_eq!(exit(75).verdict(0), Verdict::Preempted);
        assert_eq!(kind(&exit(64), 0), Some(FailureKind::BadConfig));
        assert_eq!(kind(&exit(65), 0), Some(FailureKind::BadData));
        assert_eq!(kind(&exit(69), 0), Some(FailureKind::MissingResource));
        assert_eq!((kind(&exit(70), 0), kind(&exit(70), 1)), (None, Some(FailureKind::Crash)));
        assert_eq!((kind(&exit(1), 1), kind(&exit(1), 2)), (None, Some(FailureKind::Crash)));
    }

    #[test]
    fn running_out_of_memory_is_told_in_those_words() {
        let killed = Exit { code: Some(137), killed: Some(Killed::Memory { used: 9, limit: 8 }), ..Exit::default() };
        let refused = Exit {
            code: Some(70),
            failure: Some(FailureFile { code: "out_of_memory".into(), msg: String::new() }),
            ..Exit::default()
        };
        for exit in [killed, refused] {
            assert_eq!(kind(&exit, 0), Some(FailureKind::OutOfMemory));
            assert!(exit.describe().contains("out of memory"));
        }
    }
}
