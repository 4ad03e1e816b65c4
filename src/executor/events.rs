//! Reads what a script appends to `events.jsonl`. Garbage is skipped; a flood is an output limit.

use std::{
    fs::File,
    io::{self, Read},
};

use serde::Deserialize;

use super::FailureFile;

/// The longest line in bytes (script contract); a longer one is skipped as garbage.
const MAX_LINE: usize = 64 * 1024;
/// Most bytes that one run may append; beyond it the script is killed. 64 MiB are 600,000 progress events.
pub(super) const MAX_EVENTS: u64 = 64 * 1024 * 1024;
/// Most bytes taken at one look, so that a flood delays nothing else.
const MAX_AT_ONCE: usize = 256 * 1024;

/// One event that matters to the node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ScriptEvent {
    Started,
    Progress {
        step: u32,
        loss: Option<f64>,
    },
    Checkpoint {
        step: u32,
    },
    Done {
        steps: Option<u64>,
        samples: u64,
    },
    Error(FailureFile),
    /// `metric`, `warn` and all kinds that are not known: a sign of life.
    Other,
}

/// All fields of all kinds; which of them are there depends on the kind, and unknown ones are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    event: String,
    step: Option<u32>,
    loss: Option<f64>,
    steps: Option<u64>,
    samples: Option<u64>,
    code: serde_json::Value,
    msg: String,
}

/// Reads one line; `None` for garbage.
pub(super) fn parse(line: &[u8]) -> Option<ScriptEvent> {
    let line: Line = serde_json::from_slice(line).ok()?;
    let event = match line.event.as_str() {
        "" => return None,
        "started" => ScriptEvent::Started,
        "progress" => ScriptEvent::Progress { step: line.step?, loss: line.loss.filter(|loss| loss.is_finite()) },
        "checkpoint" => ScriptEvent::Checkpoint { step: line.step? },
        "done" => ScriptEvent::Done { steps: line.steps, samples: line.samples? },
        "error" => ScriptEvent::Error(FailureFile { code: word(&line.code), msg: line.msg }),
        _ => ScriptEvent::Other,
    };
    Some(event)
}

fn word(code: &serde_json::Value) -> String {
    code.as_str().map_or_else(|| code.to_string(), str::to_owned)
}

/// Follows a file that grows.
pub(super) struct Tail {
    /// The very file that the node made: a script that puts another in its place is not followed.
    file: File,
    partial: Vec<u8>,
    /// The present line is too long already; its rest is dropped.
    skipping: bool,
    total: u64,
}

impl Tail {
    pub(super) fn new(file: File) -> Self {
        Self { file, partial: Vec::new(), skipping: false, total: 0 }
    }

    /// Whether the script has appended more than it may.
    pub(super) fn is_over_limit(&self) -> bool {
        self.total > MAX_EVENTS
    }

    /// The events that were appended since the last look, at most 256 KiB of them; an empty answer means that the
    /// end was reached.
    pub(super) fn poll(&mut self) -> io::Result<Vec<ScriptEvent>> {
        let mut fresh = Vec::new();
        (&mut self.file).take(MAX_AT_ONCE as u64).read_to_end(&mut fresh)?;
        self.total += fresh.len() as u64;
        Ok(self.split(&fresh))
    }

    fn split(&mut self, fresh: &[u8]) -> Vec<ScriptEvent> {
        let mut events = Vec::new();
        for piece in fresh.split_inclusive(|byte| *byte == b'\n') {
            let (body, complete) = match piece.split_last() {
                Some((b'\n', body)) => (body, true),
                _ => (piece, false),
            };
            if self.partial.len() + body.len() > MAX_LINE {
                self.partial = Vec::new();
                self.skipping = true;
            }
            if !self.skipping {
                self.partial.extend_from_slice(body);
            }
            if complete {
                let line = std::mem::take(&mut self.partial);
                let skipped = std::mem::take(&mut self.skipping);
                events.extend(parse(&line).filter(|_| !skipped));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn tail() -> (File, Tail) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = file.reopen().unwrap();
        (file.into_file(), Tail::new(reader))
    }

    #[test]
    fn lines_are_read_as_they_are_completed() {
        let (mut file, mut tail) = tail();
        file.write_all(b"{\"event\":\"started\",\"pid\":1}\n{\"event\":\"progress\",\"st").unwrap();
        assert_eq!(tail.poll().unwrap(), [ScriptEvent::Started]);
        file.write_all(b"ep\":3,\"loss\":0.5}\n").unwrap();
        assert_eq!(tail.poll().unwrap(), [ScriptEvent::Progress { step: 3, loss: Some(0.5) }]);
        assert_eq!(tail.poll().unwrap(), []);
    }

    #[test]
    fn garbage_and_long_lines_are_skipped() {
        let (mut file, mut tail) = tail();
        file.write_all(b"not json\n\n{\"event\":\"done\"}\n{\"event\":\"mystery\",\"x\":[1]}\n").unwrap();
        file.write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
        file.write_all(b"{\"event\":\"started\"}\n{\"event\":\"checkpoint\",\"step\":4,\"dir\":\"/etc\"}\n").unwrap();
        assert_eq!(tail.poll().unwrap(), [ScriptEvent::Other, ScriptEvent::Checkpoint { step: 4 }]);
    }

    proptest! {
        #[test]
        fn cutting_the_stream_anywhere_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), any::<u8>()], 0..400),
            cut in 0_usize..400,
        ) {
            let cut = cut.min(bytes.len());
            let (_, mut whole) = tail();
            let (_, mut parts) = tail();
            let mut split = parts.split(&bytes[..cut]);
            split.extend(parts.split(&bytes[cut..]));
            prop_assert_eq!(whole.split(&bytes), split);
        }
    }
}
