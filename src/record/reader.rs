//! Reads a recording, entry by entry.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{Entry, MAGIC, MAX_ENTRY};
use crate::codec;

/// Why a recording can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk.
    #[error("{} can't be read", .path.display())]
    Io {
        /// The recording.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is no recording of this version of atlas-node", .path.display())]
    NoRecording {
        /// The file.
        path: PathBuf,
    },
    /// An entry is over the limit.
    #[error("{}: entry {entry} says that it has {length} bytes, over the limit of {MAX_ENTRY}", .path.display())]
    TooLong {
        /// The recording.
        path: PathBuf,
        /// Counted from 0.
        entry: u64,
        /// What it says.
        length: usize,
    },
    /// An entry is no entry.
    #[error("{}: entry {entry} can't be decoded", .path.display())]
    Entry {
        /// The recording.
        path: PathBuf,
        /// Counted from 0.
        entry: u64,
        /// Why.
        source: codec::Error,
    },
}

/// Reads one recording from its beginning.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    next: u64,
    truncated: bool,
}

impl Reader {
    /// Opens the recording at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Io { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(fail)?);
        let mut magic = [0; MAGIC.len()];
        if !fill(&mut file, &mut magic).map_err(fail)? || magic != MAGIC {
            return Err(Error::NoRecording { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file, next: 0, truncated: false })
    }

    /// The next entry; `None` at the end, which may be inside an entry that a killed node did not finish.
    pub fn read(&mut self) -> Result<Option<Entry>, Error> {
        let Some(body) = self.body()? else { return Ok(None) };
        let entry = self.next;
        self.next += 1;
        codec::decode(&body, MAX_ENTRY).map(Some).map_err(|source| Error::Entry {
            path: self.path.clone(),
            entry,
            source,
        })
    }

    /// Entries read so far.
    pub fn entries(&self) -> u64 {
        self.next
    }

    /// True if the last entry was cut off.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn body(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let fail = |source| Error::Io { path: self.path.clone(), source };
        let mut length = [0; 4];
        match self.file.read(&mut length[..1]).map_err(fail)? {
            0 => return Ok(None),
            _ if fill(&mut self.file, &mut length[1..]).map_err(fail)? => {}
            _ => {
                self.truncated = true;
                return Ok(None);
            }
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > MAX_ENTRY {
            return Err(Error::TooLong { path: self.path.clone(), entry: self.next, length });
        }
        let mut body = Vec::new();
        (&mut self.file).take(length as u64).read_to_end(&mut body).map_err(fail)?;
        self.truncated = body.len() < length;
        Ok((!self.truncated).then_some(body))
    }
}

/// Fills `buffer`; false if the file ends before.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        record::{Recording, What},
        types::Time,
    };

    fn recorded(directory: &Path) -> PathBuf {
        let recording = Recording::create(directory, Time(7)).unwrap();
        let recorder = recording.of("part");
        recorder.begin(&1_u8);
        recorder.input(Time(1), &"hello");
        recorder.output(&"answer");
        recorder.settled(Some(Time(2)));
        recorder.settled(Some(Time(2)));
        recording.finish();
        directory.join("7.atlasrec")
    }

    fn all(path: &Path) -> (Vec<What>, bool) {
        let mut reader = Reader::open(path).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.read().unwrap() {
            assert_eq!(entry.part, "part");
            entries.push(entry.what);
        }
        (entries, reader.is_truncated())
    }

    #[test]
    fn what_was_recorded_is_read_back_in_order_and_quiet_is_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let (entries, truncated) = all(&recorded(directory.path()));
        assert!(!truncated);
        assert!(matches!(
            &entries[..],
            [What::Begin(_), What::Input { at: Time(1), .. }, What::Output(_), What::Settled { next: Some(Time(2)) }]
        ));
    }

    #[test]
    fn a_recording_that_was_cut_off_anywhere_is_read_up_to_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = recorded(directory.path());
        let bytes = fs::read(&path).unwrap();
        let whole = all(&path).0;
        for length in MAGIC.len()..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let (entries, _) = all(&path);
            assert_eq!(entries[..], whole[..entries.len()]);
            assert!(entries.len() < whole.len());
        }
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(all(&path).1);
    }

    #[test]
    fn what_is_no_recording_or_lies_about_a_length_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        fs::write(&path, b"something else, longer than the magic").unwrap();
        assert!(matches!(Reader::open(&path).unwrap_err(), Error::NoRecording { .. }));
        fs::write(&path, [MAGIC, &u32::MAX.to_be_bytes(), b"x"].concat()).unwrap();
        assert!(matches!(Reader::open(&path).unwrap().read().unwrap_err(), Error::TooLong { entry: 0, .. }));
        fs::write(&path, [MAGIC, &2_u32.to_be_bytes(), b"xx"].concat()).unwrap();
        assert!(matches!(Reader::open(&path).unwrap().read().unwrap_err(), Error::Entry { entry: 0, .. }));
    }

    #[test]
    fn nobody_else_may_read_a_recording() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = recorded(&directory.path().join("new"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
