//! What scripts print, kept per task and bounded. A log is a directory of segments named by the offset of their first
//! byte, so that offsets stay true when old segments go, and across restarts of the node.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A segment that has grown to this many bytes is closed.
const SEGMENT: u64 = 1024 * 1024;
/// Segments kept; the oldest goes first.
const MAX_SEGMENTS: usize = 4;

/// Part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    /// Offset of the first byte.
    pub from: u64,
    /// The bytes, which need not be UTF-8.
    pub bytes: Vec<u8>,
}

/// Appends to a log. Several may, one after the other.
pub(super) struct Writer {
    directory: PathBuf,
    file: File,
    start: u64,
    length: u64,
}

impl Writer {
    /// Opens or makes the log at `directory`.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let start = segments(directory)?.last().copied().unwrap_or(0);
        let file = open_segment(directory, start)?;
        let length = file.metadata()?.len();
        Ok(Self { directory: directory.to_owned(), file, start, length })
    }

    /// Appends; begins a new segment where the present one is full.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length >= SEGMENT {
            self.start += self.length;
            self.length = 0;
            self.file = open_segment(&self.directory, self.start)?;
            self.drop_oldest()?;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn drop_oldest(&self) -> io::Result<()> {
        let all = segments(&self.directory)?;
        let excess = all.len().saturating_sub(MAX_SEGMENTS);
        all.iter().take(excess).try_for_each(|start| fs::remove_file(segment(&self.directory, *start)))
    }
}

/// Reads at most `max` bytes from offset `from`, or the last `max` bytes. An offset that is gone is read as the first
/// that is there. Blocks.
pub(super) fn read(directory: &Path, from: Option<u64>, max: u32) -> io::Result<LogPart> {
    let all = segments(directory)?;
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Ok(LogPart { from: 0, bytes: Vec::new() });
    };
    let end = last + fs::metadata(segment(directory, *last))?.len();
    let from = from.unwrap_or_else(|| end.saturating_sub(u64::from(max))).clamp(*first, end);
    let mut bytes = Vec::new();
    for start in &all {
        let mut file = File::open(segment(directory, *start))?;
        let length = file.metadata()?.len();
        let wanted = u64::from(max) - bytes.len() as u64;
        if start + length > from && wanted > 0 {
            file.seek(SeekFrom::Start(from.saturating_sub(*start)))?;
            file.take(wanted).read_to_end(&mut bytes)?;
        }
    }
    Ok(LogPart { from, bytes })
}

fn open_segment(directory: &Path, start: u64) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(segment(directory, start))
}

fn segment(directory: &Path, start: u64) -> PathBuf {
    directory.join(format!("{start:020}.log"))
}

/// Offsets of the segments, ascending. A log that is not there has none.
fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let start: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|start| start.parse().ok());
        all.extend(start);
    }
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_stay_true_when_old_segments_go() {
        let directory = tempfile::tempdir().unwrap();
        let line: Vec<u8> = (0..=255).collect();
        let lines = (MAX_SEGMENTS as u64 + 2) * SEGMENT / 256;
        let mut log = Writer::open(directory.path()).unwrap();
        for _ in 0..lines / 2 {
            log.append(&line).unwrap();
        }
        let mut log = Writer::open(directory.path()).unwrap();
        for _ in 0..lines / 2 {
            log.append(&line).unwrap();
        }
        let end = lines * 256;
        assert_eq!(read(directory.path(), None, 256).unwrap(), LogPart { from: end - 256, bytes: line });
        let oldest = read(directory.path(), Some(0), 4).unwrap();
        assert_eq!((oldest.from, oldest.bytes), (2 * SEGMENT, vec![0, 1, 2, 3]));
        let across = read(directory.path(), Some(3 * SEGMENT - 1), 2).unwrap();
        assert_eq!((across.from, across.bytes), (3 * SEGMENT - 1, vec![255, 0]));
        assert_eq!(read(directory.path(), Some(u64::MAX), 9).unwrap(), LogPart { from: end, bytes: vec![] });
    }

    #[test]
    fn a_log_that_is_not_there_is_empty() {
        assert!(read(Path::new("/nowhere"), None, 9).unwrap().bytes.is_empty());
    }
}
