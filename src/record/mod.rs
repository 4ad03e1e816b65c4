//! A recording: everything that the deciding parts of a node were told, and what they said.
//!
//! `atlas-node start --record DIR` writes one, `atlas-sim replay DIR` hands the same inputs to the same parts (each
//! protocol's state, the coordinator, a ledger that the node carries) and compares what they say. It exists for two
//! questions: does the simulator drive the very parts that run in a node, and what led to what an operator saw.
//!
//! A file holds frames: the length as u32 big-endian, then an [`Entry`] in CBOR. It begins with [`MAGIC`]. Inputs are
//! kept whole; of an output its digest and its first words are, for its bytes follow from the inputs.
//!
//! - [`Recording`] and [`Recorder`] write, in a thread of their own; [`reader::Reader`] reads.
//!
//! It never makes the node wait: when the disk is slower than the node, or a limit is reached, the recording ends, with
//! a warning, and what was written is whole up to there. It never holds the node's key; but it does hold what the
//! node was told: job files, questions to models, lines of logs.

pub mod reader;
mod writer;

use std::{
    fmt::{self, Debug, Write as _},
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::writer::Recording;
use crate::{codec, types::Time};

/// The first line of a recording.
pub const MAGIC: &[u8] = b"atlas-recording/v1\n";
/// The longest entry in bytes; the largest input is the first look at a whole ledger. A longer one ends the recording.
pub const MAX_ENTRY: usize = 256 << 20;
/// The longest recording in bytes; an hour of a node at full transfer. It ends there.
pub const MAX_RECORDING: u64 = 16 << 30;
/// How a recording's name ends.
pub const EXTENSION: &str = "atlasrec";
/// Name of the coordinator in a recording. A protocol's state goes by its protocol id.
pub const COORDINATOR: &str = "coordinator";
/// Name of the node as a whole, whose beginning is the first entry.
pub const NODE: &str = "node";
/// What a ledger's chain id follows in its name.
pub const LEDGER: &str = "ledger:";
/// Letters of an output that are kept.
const MAX_WORDS: usize = 240;

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or the file.
    #[error("{} can't be written; give another directory to --record", .path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which part: [`COORDINATOR`], [`NODE`], a protocol id, or [`LEDGER`] and a chain id.
    pub part: String,
    /// What.
    pub what: What,
}

/// What happened to a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// It was made from this (CBOR).
    Begin(#[serde(with = "serde_bytes")] Vec<u8>),
    /// It was told this (CBOR).
    Input {
        /// The time that it was told.
        at: Time,
        /// What.
        #[serde(with = "serde_bytes")]
        input: Vec<u8>,
    },
    /// It said this.
    Output(Spoken),
    /// It had nothing more to say.
    Settled {
        /// When it wanted to be called next.
        next: Option<Time>,
    },
}

/// What a part said, folded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// The first half of the SHA-256 of its whole text.
    pub digest: [u8; 16],
    /// Its first 240 letters, for people.
    pub words: String,
}

impl Spoken {
    /// Folds `output`, by the text that `Debug` gives, which holds every field.
    pub fn of(output: &dyn Debug) -> Self {
        let mut folder = Folder { hash: Sha256::new(), words: String::new(), left: MAX_WORDS };
        // The folder never refuses; a type whose `Debug` does is cut there, in every run alike.
        let _ = write!(folder, "{output:?}");
        let hash: [u8; 32] = folder.hash.finalize().into();
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        Self { digest, words: folder.words }
    }
}

/// Hashes a text as it is written and keeps its beginning.
struct Folder {
    hash: Sha256,
    words: String,
    left: usize,
}

impl fmt::Write for Folder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hash.update(text.as_bytes());
        if self.left > 0 {
            let begun = self.words.len();
            self.words.extend(text.chars().take(self.left));
            self.left -= self.words[begun..].chars().count();
        }
        Ok(())
    }
}

/// Writes down what happens to one part. Cloning shares.
#[derive(Clone, Debug)]
pub struct Recorder {
    recording: Recording,
    part: Arc<str>,
    /// Something happened since it last had nothing to say.
    busy: Arc<AtomicBool>,
}

impl Recorder {
    fn new(recording: Recording, part: &str) -> Self {
        Self { recording, part: part.into(), busy: Arc::default() }
    }

    /// The part was made from `beginning`.
    pub fn begin<T: Serialize>(&self, beginning: &T) {
        self.write(What::Begin(codec::encode(beginning)));
    }

    /// The part is about to be told `input`.
    pub fn input<T: Serialize>(&self, at: Time, input: &T) {
        self.busy.store(true, Ordering::Relaxed);
        self.write(What::Input { at, input: codec::encode(input) });
    }

    /// The part said `output`.
    pub fn output(&self, output: &dyn Debug) {
        self.write(What::Output(Spoken::of(output)));
    }

    /// The part has nothing more to say and wants to be called again at `next`. Written once after each input.
    pub fn settled(&self, next: Option<Time>) {
        if self.busy.swap(false, Ordering::Relaxed) {
            self.write(What::Settled { next });
        }
    }

    fn write(&self, what: What) {
        self.recording.write(&Entry { part: self.part.to_string(), what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_folded_to_its_digest_and_its_first_letters() {
        let long = "ü".repeat(1_000);
        let spoken = Spoken::of(&long);
        assert_eq!(spoken.words.chars().count(), MAX_WORDS);
        assert_eq!(spoken.digest, Sha256::digest(format!("{long:?}"))[..16]);
        assert_ne!(spoken, Spoken::of(&"ü".repeat(999)));
    }
}
