//! Reads what a script appends to `events.jsonl`. Garbage is skipped; a flood is an output limit.
//!
//! [`Lines`] is pure; [`Tail`] reads the file. Neither keeps more than one line, whatever is written.

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
pub enum ScriptEvent {
    /// It began.
    Started,
    /// Steps were done.
    Progress {
        /// Steps done in the round.
        step: u32,
        /// The loss, if it is a number.
        loss: Option<f64>,
    },
    /// A checkpoint is complete.
    Checkpoint {
        /// Steps of the round that it contains.
        step: u32,
    },
    /// The round is done.
    Done {
        /// Steps of the whole round, if it says.
        steps: Option<u64>,
        /// Records seen in the whole round.
        samples: u64,
    },
    /// It failed.
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
fn parse(line: &[u8]) -> Option<ScriptEvent> {
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

/// Cuts a stream into lines, and reads them.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The present line is too long already; its rest is dropped.
    skipping: bool,
}

impl Lines {
    /// The events of the lines that `fresh` completes.
    pub fn feed(&mut self, fresh: &[u8]) -> Vec<ScriptEvent> {
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

/// Follows a file that grows.
pub(super) struct Tail {
    /// The very file that the node made: a script that puts another in its place is not followed.
    file: File,
    lines: Lines,
    total: u64,
}

/// What a look at the file found.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) events: Vec<ScriptEvent>,
    /// Nothing more was there to be read.
    pub(super) at_end: bool,
}

impl Tail {
    pub(super) fn new(file: File) -> Self {
        Self { file, lines: Lines::default(), total: 0 }
    }

    /// Whether the script has appended more than it may.
    pub(super) fn is_over_limit(&self) -> bool {
        self.total > MAX_EVENTS
    }

    /// The events among what was appended since the last look, of which at most 256 KiB are read.
    pub(super) fn poll(&mut self) -> io::Result<Said> {
        let mut fresh = Vec::new();
        (&mut self.file).take(MAX_AT_ONCE as u64).read_to_end(&mut fresh)?;
        self.total += fresh.len() as u64;
        Ok(Said { events: self.lines.feed(&fresh), at_end: fresh.is_empty() })
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
        assert_eq!(tail.poll().unwrap().events, [ScriptEvent::Started]);
        file.write_all(b"ep\":3,\"loss\":0.5}\n").unwrap();
        assert_eq!(tail.poll().unwrap().events, [ScriptEvent::Progress { step: 3, loss: Some(0.5) }]);
        assert_eq!(tail.poll().unwrap(), Said { events: vec![], at_end: true });
    }

    #[test]
    fn garbage_and_long_lines_are_skipped() {
        let (mut file, mut tail) = tail();
        file.write_all(b"not json\n\n{\"event\":\"done\"}\n{\"event\":\"mystery\",\"x\":[1]}\n").unwrap();
        file.write_all(&vec![b'x'; MAX_LINE + 1]).unwrap();
        file.write_all(b"{\"event\":\"started\"}\n{\"event\":\"checkpoint\",\"step\":4,\"dir\":\"/etc\"}\n").unwrap();
        assert_eq!(tail.poll().unwrap().events, [ScriptEvent::Other, ScriptEvent::Checkpoint { step: 4 }]);
    }

    #[test]
    fn what_follows_much_garbage_is_read_before_the_end_is_told() {
        let (mut file, mut tail) = tail();
        for _ in 0..5 * MAX_AT_ONCE / 8 {
            file.write_all(b"garbage\n").unwrap();
        }
        file.write_all(b"{\"event\":\"done\",\"samples\":1}\n").unwrap();
        let mut events = Vec::new();
        loop {
            let said = tail.poll().unwrap();
            events.extend(said.events);
            if said.at_end {
                break;
            }
        }
        assert_eq!(events, [ScriptEvent::Done { steps: None, samples: 1 }]);
    }

    #[test]
    fn fields_of_a_wrong_kind_and_deep_nesting_are_garbage() {
        for line in [
            r#"{"event":"progress","step":-1}"#,
            r#"{"event":"progress","step":1.5}"#,
            r#"{"event":"progress","step":4294967296}"#,
            r#"{"event":"progress","step":"1"}"#,
            r#"{"event":"progress","step":1,"loss":NaN}"#,
            r#"{"event":"done","samples":-1}"#,
            r#"{"event":"done"}"#,
            r#"{"event":7}"#,
            r#"{"step":1}"#,
            "[]",
            "null",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let deep = format!(r#"{{"event":"error","code":{}1{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
        assert_eq!(parse(deep.as_bytes()), None);
        assert_eq!(parse(br#"{"event":"progress","step":1,"loss":1e999}"#), None);
        let last = parse(br#"{"event":"progress","step":4294967295,"loss":null}"#);
        assert_eq!(last, Some(ScriptEvent::Progress { step: u32::MAX, loss: None }));
    }

    proptest! {
        #[test]
        fn cutting_the_stream_anywhere_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), any::<u8>()], 0..400),
            cut in 0_usize..400,
        ) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut parts) = (Lines::default(), Lines::default());
            let mut split = parts.feed(&bytes[..cut]);
            split.extend(parts.feed(&bytes[cut..]));
            prop_assert_eq!(whole.feed(&bytes), split);
        }
    }
}
