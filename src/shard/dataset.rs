//! Cutting a data set into shards: shuffled by a seed, never inside a record, as equal as can be.
//!
//! Label-sorted shards break joint training with many local steps, so records are always shuffled. The order is a
//! function of the seed and the number of records alone, so that anybody can cut the same file into the same
//! shards, with the same CIDs, by the rule of [`Shuffle`].
//!
//! The first records of the shuffled order are held out; the rest is cut into runs whose lengths differ by at most
//! one. Each shard, and the held-out part, is a directory with one file, named as the source is, that repeats the
//! source's header. Memory grows with the number of records (at most [`MAX_RECORDS`]) and never with their length.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::unixfs::{self, check_name};
use crate::{
    clock,
    store::{Files, sealed::SealingWriter},
    types::{ContentId, DataKey, ShardSpec},
};

/// Records in a data set; each costs 16 bytes while it is cut, so that cutting takes at most 256 MiB.
pub const MAX_RECORDS: usize = 1 << 24;
/// Bytes of one record; a longer line is more likely a file that isn't made of lines.
pub const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;
/// Shards of a data set.
pub const MAX_SLOTS: u32 = 65_536;
/// `held_out` is counted in parts of this.
pub const BASIS_POINTS: u32 = 10_000;
/// Bytes of a manifest; one of [`MAX_SLOTS`] shards has about 8 MiB.
pub const MAX_MANIFEST_BYTES: usize = 16 * 1024 * 1024;

/// What separates records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum RecordFormat {
    /// A record is a line (CSV without line ends inside quotes, JSON lines, text). Empty lines are none. A last line
    /// without a line end gets one.
    Lines {
        /// The first line is no record; each shard begins with it.
        header: bool,
    },
    /// A record is this many bytes.
    Fixed {
        /// Bytes of a record, at least 1.
        bytes: u32,
    },
}

/// What to cut, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutSpec {
    /// The file.
    pub source: PathBuf,
    /// What its records are.
    pub format: RecordFormat,
    /// Decides the order.
    pub seed: u64,
    /// Shards to make.
    pub slots: u32,
    /// Share of the records that is held out, in ten-thousandths; rounded up to whole records.
    pub held_out: u32,
    /// Name of the file in each shard.
    pub file_name: String,
    /// A directory with room for one shard at a time.
    pub scratch: PathBuf,
    /// Seals each file with this key, so that its CID is that of the sealed bytes, and another at each cut.
    pub key: Option<DataKey>,
}

/// What was cut. Stored as JSON, fields in this order and without spaces; the CID of that is the data set's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What the records are.
    pub format: RecordFormat,
    /// What decided the order.
    pub seed: u64,
    /// Records in all, held-out ones included.
    pub records: u64,
    /// The held-out records, a directory.
    pub held_out: Option<ContentId>,
    /// The shards, by slot.
    pub shards: Vec<ShardSpec>,
}

/// Why a data set can't be cut.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source can't be read, or a shard can't be written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A shard or the manifest can't be stored.
    #[error("the shards could not be stored")]
    Store(#[source] io::Error),
    /// More records than [`MAX_RECORDS`].
    #[error("the data set has more than {MAX_RECORDS} records; make records larger or split it")]
    TooManyRecords,
    /// A record over [`MAX_RECORD_BYTES`].
    #[error("the record at byte {0} is longer than {MAX_RECORD_BYTES} bytes; is the format right?")]
    RecordTooLong(u64),
    /// The length is no multiple of the record's.
    #[error("{length} bytes are not a whole number of records of {record} bytes")]
    NotWhole {
        /// Bytes of the source.
        length: u64,
        /// Bytes of a record.
        record: u32,
    },
    /// Not one record for each shard.
    #[error("{records} records are not enough for {slots} shards after {held_out} are held out")]
    TooFew {
        /// Records in all.
        records: usize,
        /// Records held out.
        held_out: usize,
        /// Shards asked for.
        slots: u32,
    },
    /// No shards, or more than [`MAX_SLOTS`].
    #[error("{0} shards can't be made; choose 1 to {MAX_SLOTS}")]
    Slots(u32),
    /// A share over the whole.
    #[error("held_out of {0} is more than {BASIS_POINTS} ten-thousandths")]
    HeldOut(u32),
    /// The file name can't be one.
    #[error("the data set's file name is not usable")]
    Name(#[from] unixfs::Error),
}

impl Manifest {
    /// Stores the manifest; its CID is the data set's.
    pub fn store(&self, files: &dyn Files) -> io::Result<ContentId> {
        files.import_bytes(&serde_json::to_vec(self)?)
    }

    /// Reads the manifest of a data set.
    pub fn load(cid: &ContentId, files: &dyn Files) -> io::Result<Self> {
        Ok(serde_json::from_slice(&files.read(cid, MAX_MANIFEST_BYTES)?)?)
    }
}

/// Cuts `spec.source`, and stores the shards, the held-out part and the manifest.
pub fn cut(spec: &CutSpec, files: &dyn Files) -> Result<Manifest, Error> {
    check_name(&spec.file_name)?;
    if spec.slots == 0 || spec.slots > MAX_SLOTS {
        return Err(Error::Slots(spec.slots));
    }
    if spec.held_out > BASIS_POINTS {
        return Err(Error::HeldOut(spec.held_out));
    }
    let source = Source::open(&spec.source, spec.format)?;
    let order = shuffled(source.records(), spec.seed);
    let (held_out, shards) = parts(order.len(), spec)?;
    let writer = ShardWriter { spec, source: &source, files };
    let held_out = if held_out.is_empty() { None } else { Some(writer.store(&order[held_out])?.cid) };
    let shards = shards.into_iter().map(|range| writer.store(&order[range])).collect::<Result<_, _>>()?;
    let manifest = Manifest { format: spec.format, seed: spec.seed, records: order.len() as u64, held_out, shards };
    manifest.store(files).map_err(Error::Store)?;
    Ok(manifest)
}

/// Which positions of the shuffled order are held out, and which are each shard's.
fn parts(records: usize, spec: &CutSpec) -> Result<(Range<usize>, Vec<Range<usize>>), Error> {
    let slots = spec.slots as usize;
    let held_out = (records * spec.held_out as usize).div_ceil(BASIS_POINTS as usize);
    let rest = records - held_out;
    if rest < slots {
        return Err(Error::TooFew { records, held_out, slots: spec.slots });
    }
    let bound = |slot: usize| held_out + rest * slot / slots;
    Ok((0..held_out, (0..slots).map(|slot| bound(slot)..bound(slot + 1)).collect()))
}

/// The numbers that shuffle: SHA-256(`atlas/shuffle/v1` ‖ 0x00 ‖ seed ‖ counter) for counter 0, 1, 2, …, both as
/// big-endian u64, each digest read as four big-endian u64.
///
/// Records are shuffled after Fisher and Yates, from the last position down: position `i` swaps with one in `0..=i`,
/// drawn without bias: numbers from the largest multiple of `i + 1` upwards are passed over.
#[derive(Debug)]
pub struct Shuffle {
    seed: u64,
    counter: u64,
    numbers: [u64; 4],
    used: usize,
}

impl Shuffle {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: 0, numbers: [0; 4], used: 4 }
    }

    fn next_number(&mut self) -> u64 {
        if self.used == self.numbers.len() {
            let hash = Sha256::new().chain_update(b"atlas/shuffle/v1\0");
            let hash = hash.chain_update(self.seed.to_be_bytes()).chain_update(self.counter.to_be_bytes());
            let digest = hash.finalize();
            for (number, bytes) in self.numbers.iter_mut().zip(digest.chunks_exact(8)) {
                *number = u64::from_be_bytes(bytes.try_into().expect("chunks of eight"));
            }
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.numbers[self.used - 1]
    }

    /// A number in `0..bound`, each equally likely. `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        let unfair = (u64::MAX % bound + 1) % bound;
        loop {
            let number = self.next_number();
            if number <= u64::MAX - unfair {
                return number % bound;
            }
        }
    }
}

/// The numbers of the records in their new order.
fn shuffled(records: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..u32::try_from(records).expect("at most 2^24 records")).collect();
    let mut shuffle = Shuffle::new(seed);
    for last in (1..records).rev() {
        let other = shuffle.below(last as u64 + 1);
        order.swap(last, usize::try_from(other).expect("less than the number of records"));
    }
    order
}

/// Where the records are in the file.
struct Source {
    file: File,
    path: PathBuf,
    header: Vec<u8>,
    index: Index,
    /// Written after each record.
    line_end: &'static [u8],
}

enum Index {
    Lines(Vec<(u64, u32)>),
    Fixed { bytes: u32, count: usize },
}

impl Source {
    fn open(path: &Path, format: RecordFormat) -> Result<Self, Error> {
        let at = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(at)?;
        let length = file.metadata().map_err(at)?.len();
        let path = path.to_owned();
        match format {
            RecordFormat::Lines { header } => {
                let Lines { header, records } = index_lines(BufReader::new(&file), header, &path)?;
                Ok(Self { file, path, header, index: Index::Lines(records), line_end: b"\n" })
            }
            RecordFormat::Fixed { bytes } => {
                let index = index_fixed(length, bytes)?;
                Ok(Self { file, path, header: Vec::new(), index, line_end: b"" })
            }
        }
    }

    fn records(&self) -> usize {
        match &self.index {
            Index::Lines(lines) => lines.len(),
            Index::Fixed { count, .. } => *count,
        }
    }

    fn read(&self, record: u32, into: &mut Vec<u8>) -> io::Result<()> {
        let (start, length) = match &self.index {
            Index::Lines(lines) => lines[record as usize],
            Index::Fixed { bytes, .. } => (u64::from(record) * u64::from(*bytes), *bytes),
        };
        into.resize(length as usize, 0);
        self.file.read_exact_at(into, start)
    }
}

fn index_fixed(length: u64, record: u32) -> Result<Index, Error> {
    if record == 0 || !length.is_multiple_of(u64::from(record)) {
        return Err(Error::NotWhole { length, record });
    }
    if record as usize > MAX_RECORD_BYTES {
        return Err(Error::RecordTooLong(0));
    }
    let count = usize::try_from(length / u64::from(record)).ok().filter(|count| *count <= MAX_RECORDS);
    Ok(Index::Fixed { bytes: record, count: count.ok_or(Error::TooManyRecords)? })
}

#[derive(Debug, Default)]
struct Lines {
    /// Without its line end.
    header: Vec<u8>,
    /// Start and length of each further line that is not empty.
    records: Vec<(u64, u32)>,
}

fn index_lines(mut reader: impl BufRead, header: bool, path: &Path) -> Result<Lines, Error> {
    let mut lines = Lines::default();
    let (mut start, mut wants_header) = (0, header);
    loop {
        let text = wants_header.then_some(&mut lines.header);
        let scanned = scan_line(&mut reader, text).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let Some(line) = scanned else {
            return Ok(lines);
        };
        let length = u32::try_from(line.content).ok().filter(|length| *length as usize <= MAX_RECORD_BYTES);
        let length = length.ok_or(Error::RecordTooLong(start))?;
        if !wants_header && !line.blank {
            if lines.records.len() == MAX_RECORDS {
                return Err(Error::TooManyRecords);
            }
            lines.records.push((start, length));
        }
        wants_header = false;
        start += line.with_end;
    }
}

struct Line {
    /// Bytes without the line feed.
    content: u64,
    /// Bytes with it.
    with_end: u64,
    /// Nothing, or a carriage return alone.
    blank: bool,
}

/// Passes over one line without holding it, keeping its start in `text` if that is wanted.
fn scan_line(reader: &mut impl BufRead, mut text: Option<&mut Vec<u8>>) -> io::Result<Option<Line>> {
    let (mut content, mut blank) = (0_u64, true);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((content > 0).then_some(Line { content, with_end: content, blank }));
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        blank &= part.is_empty() || (content == 0 && part == b"\r");
        content += part.len() as u64;
        if let Some(text) = text.as_mut().filter(|text| text.len() <= MAX_RECORD_BYTES) {
            text.extend_from_slice(part);
        }
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(Line { content, with_end: content + 1, blank }));
        }
    }
}

/// Writes one directory at a time, and stores it.
struct ShardWriter<'a> {
    spec: &'a CutSpec,
    source: &'a Source,
    files: &'a dyn Files,
}

impl ShardWriter<'_> {
    fn store(&self, records: &[u32]) -> Result<ShardSpec, Error> {
        let scratch = &self.spec.scratch;
        let at_scratch = |source| Error::Io { path: scratch.clone(), source };
        let directory = tempfile::tempdir_in(scratch).map_err(at_scratch)?;
        let shard = directory.path().join("shard");
        std::fs::create_dir(&shard).map_err(at_scratch)?;
        self.write(records, &shard.join(&self.spec.file_name))?;
        let imported = self.files.import_path(&shard).map_err(Error::Store)?;
        Ok(ShardSpec { cid: imported.cid, size: imported.size, records: records.len() as u64 })
    }

    fn write(&self, records: &[u32], path: &Path) -> Result<(), Error> {
        let at = |source| Error::Io { path: path.to_owned(), source };
        let mut out = BufWriter::with_capacity(1024 * 1024, File::create_new(path).map_err(at)?);
        let Some(key) = &self.spec.key else {
            self.write_records(records, &mut out)?;
            return out.flush().map_err(at);
        };
        let mut sealing = SealingWriter::new(key, clock::random_bytes(), out).map_err(at)?;
        self.write_records(records, &mut sealing)?;
        sealing.finish().map(drop).map_err(at)
    }

    fn write_records(&self, records: &[u32], out: &mut impl Write) -> Result<(), Error> {
        let at = |source| Error::Io { path: self.spec.scratch.clone(), source };
        if matches!(self.spec.format, RecordFormat::Lines { header: true }) {
            out.write_all(&self.source.header).and_then(|()| out.write_all(self.source.line_end)).map_err(at)?;
        }
        let mut record = Vec::new();
        for number in records {
            let read = self.source.read(*number, &mut record);
            read.map_err(|source| Error::Io { path: self.source.path.clone(), source })?;
            out.write_all(&record).and_then(|()| out.write_all(self.source.line_end)).map_err(at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        shard,
        store::{BlockStore, Quota},
    };

    struct Fixture {
        directory: tempfile::TempDir,
        files: shard::Files,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 64 << 20 }).unwrap();
            Self { directory, files: shard::Files::new(store) }
        }

        fn spec(&self, content: &[u8], format: RecordFormat, slots: u32, held_out: u32) -> CutSpec {
            let source = self.directory.path().join("table");
            fs::write(&source, content).unwrap();
            let scratch = self.directory.path().to_owned();
            CutSpec { source, format, seed: 7, slots, held_out, file_name: "table.csv".into(), scratch, key: None }
        }

        fn read(&self, shard: &ContentId) -> Vec<u8> {
            let entries = self.files.list(shard).unwrap();
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].0, "table.csv");
            self.files.read(&entries[0].1, 1 << 20).unwrap()
        }

        fn lines(&self, shard: &ContentId) -> Vec<String> {
            String::from_utf8(self.read(shard)).unwrap().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn every_record_lands_in_one_place_under_the_header() {
        let fixture = Fixture::new();
        let records: Vec<String> = (0..103).map(|number| format!("row {number}")).collect();
        let content = format!("head\n{}", records.join("\n"));
        let spec = fixture.spec(content.as_bytes(), RecordFormat::Lines { header: true }, 4, 2000);
        let manifest = cut(&spec, &fixture.files).unwrap();
        assert_eq!(manifest.records, 103);
        assert_eq!(manifest.shards.iter().map(|shard| shard.records).collect::<Vec<_>>(), [20, 21, 20, 21]);

        let held_out = manifest.held_out.unwrap();
        let mut all = Vec::new();
        for cid in manifest.shards.iter().map(|shard| shard.cid).chain([held_out]) {
            let lines = fixture.lines(&cid);
            assert_eq!(lines[0], "head");
            all.extend_from_slice(&lines[1..]);
        }
        assert_eq!(fixture.lines(&held_out).len(), 22);
        assert_ne!(all, records, "the order is another");
        all.sort();
        let mut expected = records;
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn the_same_seed_cuts_the_same_and_another_does_not() {
        let fixture = Fixture::new();
        let content: Vec<u8> = (0..4000_u16).flat_map(u16::to_be_bytes).collect();
        let mut spec = fixture.spec(&content, RecordFormat::Fixed { bytes: 8 }, 3, 0);
        let first = cut(&spec, &fixture.files).unwrap();
        let again = cut(&spec, &fixture.files).unwrap();
        assert_eq!(first, again);
        assert_eq!(first.held_out, None);
        let cid = first.store(&fixture.files).unwrap();
        assert_eq!(Manifest::load(&cid, &fixture.files).unwrap(), first);
        spec.seed = 8;
        assert_ne!(cut(&spec, &fixture.files).unwrap().shards, first.shards);
    }

    /// Computed by an independent program from the rule in the documentation.
    #[test]
    fn the_order_is_the_documented_one() {
        assert_eq!(shuffled(10, 7), [7, 3, 4, 0, 5, 8, 6, 9, 2, 1]);
    }

    #[test]
    fn what_can_not_be_cut_says_why() {
        let fixture = Fixture::new();
        let lines = RecordFormat::Lines { header: false };
        let cut_of = |content: &[u8], format, slots, held_out| {
            cut(&fixture.spec(content, format, slots, held_out), &fixture.files).unwrap_err()
        };
        assert!(matches!(cut_of(b"a\nb\n", lines, 3, 0), Error::TooFew { records: 2, .. }));
        assert!(matches!(cut_of(b"a\nb\n", lines, 1, 10_000), Error::TooFew { held_out: 2, .. }));
        assert!(matches!(cut_of(b"", lines, 1, 0), Error::TooFew { records: 0, .. }));
        assert!(matches!(cut_of(b"a\n", lines, 0, 0), Error::Slots(0)));
        assert!(matches!(cut_of(b"a\n", lines, 1, 10_001), Error::HeldOut(10_001)));
        assert!(matches!(cut_of(b"abc", RecordFormat::Fixed { bytes: 2 }, 1, 0), Error::NotWhole { .. }));
        assert!(matches!(cut_of(b"abc", RecordFormat::Fixed { bytes: 0 }, 1, 0), Error::NotWhole { .. }));
        let long = vec![b'x'; MAX_RECORD_BYTES + 1];
        assert!(matches!(cut_of(&long, lines, 1, 0), Error::RecordTooLong(0)));
        let mut spec = fixture.spec(b"a\n", lines, 1, 0);
        spec.file_name = "../table".into();
        assert!(matches!(cut(&spec, &fixture.files), Err(Error::Name(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn lines_are_found_whatever_the_buffer(text in "[ab\r\n]{0,40}", capacity in 1_usize..8, header: bool) {
            let reader = BufReader::with_capacity(capacity, text.as_bytes());
            let index = index_lines(reader, header, Path::new("text")).unwrap().records;
            let line = |(start, length): &(u64, u32)| &text[usize::try_from(*start).unwrap()..][..*length as usize];
            let found: Vec<&str> = index.iter().map(line).collect();
            let lines = text.split('\n').skip(usize::from(header));
            let expected: Vec<&str> = lines.filter(|line| !line.is_empty() && *line != "\r").collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn an_order_holds_every_number_once(records in 0_usize..300, seed: u64) {
            let mut order = shuffled(records, seed);
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..u32::try_from(records).unwrap()));
        }
    }
}
