//! A far, slow or lossy line between two namespaces: `scripts/link`, and what runs at its ends.
//!
//! Tests and benchmarks both use it. It measures nothing and knows no node.

use std::{
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde::Deserialize;

/// The exit code of `scripts/link` on a machine that does not let it.
const LACKS: i32 = 77;

/// What the line is like, each way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Mbit/s of IP packets.
    pub(crate) mbit: u32,
    /// Milliseconds there and back when nothing else is under way.
    pub(crate) rtt_ms: u32,
    /// Share of packets lost.
    pub(crate) loss: f64,
    /// Decides which.
    pub(crate) seed: u64,
}

/// One end of it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Its address.
    pub(crate) address: String,
    /// What stands before a command that runs there.
    pub(crate) within: Vec<String>,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Carried {
    /// Packets that the line took.
    pub(crate) packets: u64,
    /// Of these, how many it lost by its chance.
    pub(crate) lost: u64,
    /// Packets that found its queue full.
    pub(crate) overflowed: u64,
    /// Packets that the kernel dropped before the line saw them: it was not run in time.
    pub(crate) missed: u64,
    /// How much later than due the latest packet was handed over.
    pub(crate) late_most_ms: f64,
}

/// What the line did in its life.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Told {
    /// From its left end.
    pub(crate) from_left: Carried,
    /// From its right end.
    pub(crate) from_right: Carried,
    /// How long it lived.
    pub(crate) seconds: f64,
    /// Processor time that it took.
    pub(crate) cpu_seconds: f64,
}

/// A line that is there. Dropping it ends it.
pub(crate) struct Link {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) left: End,
    pub(crate) right: End,
}

impl Link {
    /// Lays a line; `None` where the machine does not allow it, which was said on stderr.
    pub(crate) fn lay(line: &Line) -> io::Result<Option<Self>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new(root.join("scripts/link"))
            .args(["--mbit", &line.mbit.to_string(), "--rtt-ms", &line.rtt_ms.to_string()])
            .args(["--loss", &line.loss.to_string(), "--seed", &line.seed.to_string(), "--until-eof"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?);
        let (Some(left), Some(right)) = (end(&mut lines)?, end(&mut lines)?) else {
            let status = child.wait()?;
            return match status.code() {
                Some(LACKS) => Ok(None),
                _ => Err(io::Error::other(format!("scripts/link ended before it was there ({status})"))),
            };
        };
        Ok(Some(Self { child, lines, left, right }))
    }

    /// Ends it, and tells what it did.
    pub(crate) fn end(mut self) -> io::Result<Told> {
        drop(self.child.stdin.take());
        let mut told = String::new();
        self.lines.read_line(&mut told)?;
        serde_json::from_str(&told).map_err(io::Error::other)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It was told; if it can't be waited for it is gone.
        let _ = self.child.wait();
    }
}

/// `left 10.78.0.1 nsenter …`; `None` at the end of what it says.
fn end(lines: &mut BufReader<ChildStdout>) -> io::Result<Option<End>> {
    let mut text = String::new();
    lines.read_line(&mut text)?;
    let mut words = text.split_whitespace().skip(1).map(str::to_owned);
    Ok(words.next().map(|address| End { address, within: words.collect() }))
}
