//! An append-only file of frames: the block log, and the outbox. What it acknowledged survives a `kill -9` and a
//! power cut.
//!
//! A frame is its payload's length (4 bytes, big-endian), the first 8 bytes of the payload's SHA-256, the payload.
//! Each append is one write and one sync, so a crash tears at most the last frame; opening cuts that one off, and keeps
//! what it cut beside the log. A broken frame with a whole one anywhere behind it was not torn by a crash: that is an
//! error, never a silent cut.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::types::Digest;

/// The longest payload in bytes: a block of 4 MiB, its header and commit, with room. A longer length is garbage.
pub(super) const MAX_PAYLOAD: usize = 5 * 1024 * 1024;
const HEAD: usize = 12;

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Damaged in the middle.
    #[error(
        "{path} is damaged at byte {offset}, with whole records behind it: restore it from a copy, or give up what follows \
         with `truncate --size={offset} {path}`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// It ends before what was synced.
    #[error(
        "{path} is damaged or cut off at byte {offset}, and more was acknowledged: restore it from a copy; or give up what \
         is missing with `truncate --size={offset} {path}`, and remove `blocks.synced` and `index.redb` beside it"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// Where what is missing began.
        offset: u64,
    },
}

/// The writing end; there is one.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    /// Where the next frame goes: everything before is whole and synced.
    end: u64,
    /// Bytes may lie behind `end`, from an append that failed; they go before anything else is written.
    dirty: bool,
}

/// A reading end.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
}

/// The frame at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Frame<'a> {
    Whole(&'a [u8]),
    Broken,
}

impl Log {
    /// Opens the log at `path`, or makes an empty one. [`Log::replay`] comes next.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Io { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        Ok(Self { file, path: path.to_owned(), end: 0, dirty: false })
    }

    /// Hands every whole payload from byte `from` on to `each`, with its offset, and cuts a torn tail off. What lies before
    /// byte `synced` was not torn, because its append has ended: if it is not whole, that is an error.
    pub(super) fn replay<E: From<Error>>(
        &mut self,
        from: u64,
        synced: u64,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let length = self.file.metadata().map_err(|error| self.fail(error))?.len();
        self.end = from;
        while self.end < length {
            let Some(payload) = self.frame_at(self.end, length).map_err(|error| self.fail(error))? else {
                self.cut_tail(length, synced)?;
                break;
            };
            each(self.end, &payload)?;
            self.end += frame_length(&payload);
        }
        if self.end < synced || self.end > length {
            return Err(self.lost(self.end.min(length)).into());
        }
        Ok(())
    }

    /// Where the next frame goes: all before it is synced.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// A reading end of the same file.
    pub(super) fn reader(&self) -> io::Result<Reader> {
        Ok(Reader { file: self.file.try_clone()? })
    }

    /// Appends a frame and syncs it; its offset. After an error the log is as it was before.
    pub(super) fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        self.clean()?;
        self.dirty = true;
        let frame = encode_frame(payload);
        if let Err(error) = self.file.write_all_at(&frame, self.end).and_then(|()| self.file.sync_data()) {
            // Gives the room back at once; if even that fails, the next append tries again.
            let _ = self.clean();
            return Err(error);
        }
        self.dirty = false;
        let offset = self.end;
        self.end += frame.len() as u64;
        Ok(offset)
    }

    fn clean(&mut self) -> io::Result<()> {
        if self.dirty {
            self.file.set_len(self.end)?;
            self.file.sync_all()?;
            self.dirty = false;
        }
        Ok(())
    }

    fn frame_at(&self, offset: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
        let left = usize::try_from(length - offset).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(HEAD)];
        self.file.read_exact_at(&mut bytes, offset)?;
        let claimed = claimed_length(&bytes).unwrap_or(0);
        bytes.resize(left.min(HEAD + claimed), 0);
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(match decode_frame(&bytes) {
            Frame::Whole(payload) => Some(payload.to_vec()),
            Frame::Broken => None,
        })
    }

    /// Cuts what lies behind `end`, if it can be the remains of one append.
    fn cut_tail(&mut self, length: u64, synced: u64) -> Result<(), Error> {
        let left = usize::try_from(length - self.end).unwrap_or(usize::MAX);
        let mut tail = vec![0; left.min(HEAD + MAX_PAYLOAD + 1)];
        self.file.read_exact_at(&mut tail, self.end).map_err(|error| self.fail(error))?;
        if left > HEAD + MAX_PAYLOAD || frame_follows(&tail) {
            return Err(Error::Damaged { path: self.path.clone(), offset: self.end });
        }
        if self.end < synced {
            return Err(self.lost(self.end));
        }
        let aside = self.path.with_extension("torn");
        if let Err(error) = std::fs::write(&aside, &tail) {
            tracing::warn!(path = %aside.display(), %error, "what is cut off could not be kept");
        }
        tracing::warn!(
            path = %self.path.display(),
            bytes = left,
            kept = %aside.display(),
            "the last record was torn by a crash and is cut off"
        );
        self.dirty = true;
        self.clean().map_err(|error| self.fail(error))
    }

    fn lost(&self, offset: u64) -> Error {
        Error::Lost { path: self.path.clone(), offset }
    }

    fn fail(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), source }
    }
}

impl Reader {
    /// The payload at `offset`, which [`Log`] named.
    pub(super) fn read(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, offset)?;
        let claimed = claimed_length(&head).unwrap_or(0);
        let mut bytes = vec![0; HEAD + claimed];
        self.file.read_exact_at(&mut bytes, offset)?;
        match decode_frame(&bytes) {
            Frame::Whole(payload) => Ok(payload.to_vec()),
            Frame::Broken => Err(io::Error::new(io::ErrorKind::InvalidData, "a record on disk is damaged")),
        }
    }
}

fn encode_frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a record is far below 4 GiB");
    [&length.to_be_bytes(), &Digest::of(payload).0[..8], payload].concat()
}

fn frame_length(payload: &[u8]) -> u64 {
    (HEAD + payload.len()) as u64
}

/// The payload length that a head claims; `None` if there is no head or none could be that long.
fn claimed_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (length <= MAX_PAYLOAD).then_some(length)
}

fn decode_frame(bytes: &[u8]) -> Frame<'_> {
    let Some(length) = claimed_length(bytes) else {
        return Frame::Broken;
    };
    let (Some(checksum), Some(payload)) = (bytes.get(4..HEAD), bytes.get(HEAD..HEAD + length)) else {
        return Frame::Broken;
    };
    // No record is empty, and a file grown by a crash is all zeros.
    if length > 0 && Digest::of(payload).0[..8] == *checksum { Frame::Whole(payload) } else { Frame::Broken }
}

/// Is there a whole frame behind the broken one at the start of `bytes`? Its length may be what is broken, so every place
/// is looked at.
fn frame_follows(bytes: &[u8]) -> bool {
    let starts = 1..bytes.len().saturating_sub(HEAD);
    starts.map(|start| &bytes[start..]).any(|rest| is_likely(rest) && matches!(decode_frame(rest), Frame::Whole(_)))
}

/// Can a frame begin here? Spares a digest at almost every place of a torn block: a length that fits, and behind it the end or
/// another length.
fn is_likely(bytes: &[u8]) -> bool {
    let likely = |bytes: &[u8]| claimed_length(bytes).filter(|length| *length > 0);
    let behind = likely(bytes).and_then(|length| bytes.get(HEAD + length..));
    behind.is_some_and(|behind| behind.len() < HEAD || likely(behind).is_some())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payloads(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
        let mut found = Vec::new();
        Log::open(path)?.replay::<Error>(0, 0, |_, payload| {
            found.push(payload.to_vec());
            Ok(())
        })?;
        Ok(found)
    }

    fn opened(path: &Path) -> Log {
        let mut log = Log::open(path).unwrap();
        log.replay::<Error>(0, 0, |_, _| Ok(())).unwrap();
        log
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_log_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = opened(&path);
        let first = log.append(b"one").unwrap();
        log.append(b"two").unwrap();
        assert_eq!(log.reader().unwrap().read(first).unwrap(), b"one");
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..HEAD + 3 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut log = opened(&path);
            log.append(b"three").unwrap();
            assert_eq!(payloads(&path).unwrap(), [b"one".to_vec(), b"three".to_vec()]);
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_and_nothing_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = opened(&path);
        log.append(b"one").unwrap();
        log.append(b"two").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEAD] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(payloads(&path), Err(Error::Damaged { offset: 0, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_damaged_length_costs_none_of_the_records_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = opened(&path);
        for record in [&b"one"[..], b"two", b"three"] {
            log.append(record).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let second = HEAD + 3;
        for (place, value) in [(0, 0xff), (0, 0x7f), (1, 0x01), (2, 0x40), (3, 0), (3, 2), (3, 4), (3, 200)] {
            let mut bytes = whole.clone();
            bytes[second + place] = value;
            std::fs::write(&path, &bytes).unwrap();
            let error = payloads(&path).unwrap_err();
            assert!(matches!(error, Error::Damaged { offset: 15, .. }), "{place} {value}: {error}");
            assert!(error.to_string().contains("restore it from a copy"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_last_record_that_was_synced_is_never_cut_off_as_if_a_crash_had_torn_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = opened(&path);
        log.append(b"one").unwrap();
        log.append(b"two").unwrap();
        let (whole, synced) = (std::fs::read(&path).unwrap(), log.end());
        let replay = |synced| Log::open(&path).unwrap().replay::<Error>(0, synced, |_, _| Ok(()));
        for place in HEAD + 3..whole.len() {
            let mut bent = whole.clone();
            bent[place] ^= 1;
            for bytes in [&bent[..], &whole[..place]] {
                std::fs::write(&path, bytes).unwrap();
                let error = replay(synced).unwrap_err();
                assert!(matches!(error, Error::Lost { offset: 15, .. }), "{place}: {error}");
                assert!(error.to_string().contains("truncate --size=15"), "{error}");
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was cut");
            }
        }
        replay(15).unwrap();
        assert_eq!(payloads(&path).unwrap(), [b"one"], "the mark of the first record leaves the second to be cut");
    }

    #[test]
    fn what_is_cut_off_is_kept_beside_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        opened(&path).append(b"one").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([0, 0, 1, 0, 7, 7, 7]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(payloads(&path).unwrap(), [b"one"]);
        assert_eq!(std::fs::read(directory.path().join("log.torn")).unwrap(), [0, 0, 1, 0, 7, 7, 7]);
    }

    proptest! {
        #[test]
        fn garbage_behind_whole_frames_never_panics_and_never_loses_them(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5),
            garbage in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let mut bytes: Vec<u8> = frames.iter().flat_map(|payload| encode_frame(payload)).collect();
            bytes.extend(garbage);
            std::fs::write(&path, &bytes).unwrap();
            prop_assert_eq!(payloads(&path).unwrap(), frames);
        }

        #[test]
        fn a_frame_reads_back_and_any_cut_of_it_is_broken(payload in prop::collection::vec(any::<u8>(), 1..300)) {
            let frame = encode_frame(&payload);
            prop_assert_eq!(decode_frame(&frame), Frame::Whole(&payload));
            for cut in 0..frame.len() {
                prop_assert_eq!(decode_frame(&frame[..cut]), Frame::Broken);
            }
        }
    }
}
