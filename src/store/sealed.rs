//! Sealed files: bytes that only who has the key can read.
//!
//! A data set that is not for everybody is cut, and each of its files sealed, before it gets a name: its CID is that of the sealed
//! bytes, so it is fetched, verified, kept, repaired and pinned like any other by nodes that can't read it. What stays open: the
//! names of files, their lengths, and which files are equal to none other.
//!
//! A sealed file is a header and segments. The header (67 bytes) is [`MAGIC`], the key's commitment (32 bytes) and a prefix of
//! nonces drawn by chance (19 bytes). Each segment is [`SEGMENT_BYTES`] bytes of the file, the last one what is left (at least one
//! byte, unless the file is empty), sealed by XChaCha20-Poly1305 in the STREAM construction (Hoang, Reyhanitabar, Rogaway and
//! Vizár, CRYPTO 2015): the nonce is the prefix, the segment's number as 4 bytes, big-endian, and one byte that is 1 for the last
//! segment. So segments can't be left out, added, exchanged or cut off without notice. The header is the associated data of each.
//!
//! Nothing here keeps a key or decides who gets one.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use aead_stream::{DecryptorBE32, EncryptorBE32, Nonce, StreamBE32};
use chacha20poly1305::{Key, XChaCha20Poly1305};

use crate::types::{DataKey, Digest};

/// What a sealed file begins with.
pub const MAGIC: [u8; 16] = *b"atlas/sealed/v1\0";
/// Bytes of a file in one segment: as age has them (its format, "Payload"), little enough for memory, much enough that tags cost
/// nothing.
pub const SEGMENT_BYTES: usize = 64 * 1024;
/// Bytes of a tag of Poly1305.
const TAG_BYTES: usize = 16;
/// Bytes of a commitment: SHA-256.
const DIGEST_BYTES: usize = 32;
/// Bytes of the part of a nonce that is drawn for each file: what XChaCha20's 24 leave beside counter and mark.
const PREFIX_BYTES: usize = 19;
/// Bytes before the first segment.
pub const HEADER_BYTES: usize = MAGIC.len() + DIGEST_BYTES + PREFIX_BYTES;
/// Segments of a file: the counter has 32 bits, and its last value is not used. That is 256 TiB.
const MAX_SEGMENTS: u64 = u32::MAX as u64;

/// Why a sealed file can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not begin as one.
    #[error("this is no sealed file")]
    NotSealed,
    /// It was sealed with another key.
    #[error("the file is sealed with the key {0}, which is not here")]
    Key(Digest),
    /// A segment is not what was sealed.
    #[error("segment {0} of the sealed file was changed, moved or cut off")]
    Segment(u64),
    /// There is more in it than there may be.
    #[error("the file is longer than {0} bytes when it is opened")]
    TooLong(u64),
    /// It can't be read, or what it holds can't be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes of the sealed form of a file of `length` bytes.
pub const fn sealed_length(length: u64) -> u64 {
    let segments = if length == 0 { 1 } else { length.div_ceil(SEGMENT_BYTES as u64) };
    HEADER_BYTES as u64 + length + segments * TAG_BYTES as u64
}

/// The commitment to the key that a file is sealed with, from its first [`HEADER_BYTES`] bytes.
pub fn key_of(header: &[u8]) -> Result<Digest, Error> {
    let rest = header.strip_prefix(&MAGIC).ok_or(Error::NotSealed)?;
    rest.first_chunk().copied().map(Digest).ok_or(Error::NotSealed)
}

/// Seals what is written to it.
pub struct SealingWriter<W> {
    out: W,
    header: [u8; HEADER_BYTES],
    stream: EncryptorBE32<XChaCha20Poly1305>,
    segment: Vec<u8>,
    written: u64,
}

impl<W: Write> SealingWriter<W> {
    /// Writes the header. `prefix` is drawn by chance, anew for each file.
    pub fn new(key: &DataKey, prefix: [u8; PREFIX_BYTES], mut out: W) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        header[..MAGIC.len()].copy_from_slice(&MAGIC);
        header[MAGIC.len()..HEADER_BYTES - PREFIX_BYTES].copy_from_slice(&key.commitment().0);
        header[HEADER_BYTES - PREFIX_BYTES..].copy_from_slice(&prefix);
        out.write_all(&header)?;
        let stream = EncryptorBE32::new(&Key::from(key.0), &nonce(prefix));
        Ok(Self { out, header, stream, segment: Vec::with_capacity(SEGMENT_BYTES + TAG_BYTES), written: 0 })
    }

    /// Seals what is left. Without it the file can't be opened.
    pub fn finish(mut self) -> io::Result<W> {
        self.stream.encrypt_last_in_place(&self.header, &mut self.segment).map_err(|_| too_many())?;
        self.out.write_all(&self.segment)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn seal_segment(&mut self) -> io::Result<()> {
        self.written += 1;
        if self.written == MAX_SEGMENTS {
            return Err(too_many());
        }
        self.stream.encrypt_next_in_place(&self.header, &mut self.segment).map_err(|_| too_many())?;
        self.out.write_all(&self.segment)?;
        self.segment.clear();
        Ok(())
    }
}

impl<W: Write> Write for SealingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only when more comes is it known that a full segment is not the last one.
        if self.segment.len() == SEGMENT_BYTES && !bytes.is_empty() {
            self.seal_segment()?;
        }
        let taken = bytes.len().min(SEGMENT_BYTES - self.segment.len());
        self.segment.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// A segment goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Opens a sealed file of at most `limit` bytes; how many it has. What was written before an error is not to be used.
pub fn open(key: &DataKey, mut sealed: impl Read, mut out: impl Write, limit: u64) -> Result<u64, Error> {
    let mut header = [0; HEADER_BYTES];
    read_header(&mut sealed, &mut header)?;
    let wanted = key_of(&header)?;
    if wanted != key.commitment() {
        return Err(Error::Key(wanted));
    }
    let prefix = *header.last_chunk().ok_or(Error::NotSealed)?;
    let mut stream = DecryptorBE32::<XChaCha20Poly1305>::new(&Key::from(key.0), &nonce(prefix));
    let (mut segment, mut next) = (read_segment(&mut sealed)?, read_segment(&mut sealed)?);
    let (mut number, mut length) = (0, 0);
    while !next.is_empty() {
        if number + 1 >= MAX_SEGMENTS {
            return Err(Error::Segment(number));
        }
        stream.decrypt_next_in_place(&header, &mut segment).map_err(|_| Error::Segment(number))?;
        length = add(length, &segment, limit)?;
        out.write_all(&segment)?;
        segment = next;
        next = read_segment(&mut sealed)?;
        number += 1;
    }
    stream.decrypt_last_in_place(&header, &mut segment).map_err(|_| Error::Segment(number))?;
    // Two forms of one file would be one too many.
    if segment.is_empty() && number > 0 {
        return Err(Error::Segment(number));
    }
    length = add(length, &segment, limit)?;
    out.write_all(&segment)?;
    out.flush()?;
    Ok(length)
}

/// Opens a sealed file, or each file of a directory of sealed files (which is what a shard is), from `from` to `to`, which must not
/// be there. `key` gives the key with a commitment, if it is to be used. `limit` is for all files together.
pub fn open_path(key: &dyn Fn(&Digest) -> Option<DataKey>, from: &Path, to: &Path, limit: u64) -> Result<u64, Error> {
    if !from.is_dir() {
        return open_file(key, from, to, limit);
    }
    fs::create_dir(to)?;
    let mut length = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        length += open_file(key, &entry.path(), &to.join(entry.file_name()), limit - length)?;
    }
    Ok(length)
}

fn open_file(key: &dyn Fn(&Digest) -> Option<DataKey>, from: &Path, to: &Path, limit: u64) -> Result<u64, Error> {
    let mut header = [0; HEADER_BYTES];
    let sealed = File::open(from)?;
    read_header(&mut &sealed, &mut header)?;
    let wanted = key_of(&header)?;
    let key = key(&wanted).ok_or(Error::Key(wanted))?;
    let sealed = header.as_slice().chain(BufReader::new(sealed));
    open(&key, sealed, BufWriter::new(File::create_new(to)?), limit)
}

fn add(length: u64, segment: &[u8], limit: u64) -> Result<u64, Error> {
    let sum = length + segment.len() as u64;
    if sum > limit { Err(Error::TooLong(limit)) } else { Ok(sum) }
}

fn read_header(sealed: &mut impl Read, header: &mut [u8; HEADER_BYTES]) -> Result<(), Error> {
    sealed.read_exact(header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::NotSealed,
        _ => Error::Io(error),
    })
}

/// The next segment with its tag; empty at the end.
fn read_segment(sealed: &mut impl Read) -> io::Result<Vec<u8>> {
    let full = SEGMENT_BYTES + TAG_BYTES;
    let mut segment = Vec::with_capacity(full);
    sealed.by_ref().take(full as u64).read_to_end(&mut segment)?;
    Ok(segment)
}

fn nonce(prefix: [u8; PREFIX_BYTES]) -> Nonce<XChaCha20Poly1305, StreamBE32<XChaCha20Poly1305>> {
    prefix.into()
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a sealed file has at most 2^32 segments of 64 KiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: DataKey = DataKey([3; DataKey::BYTES]);

    fn seal(content: &[u8]) -> Vec<u8> {
        let mut writer = SealingWriter::new(&KEY, [9; PREFIX_BYTES], Vec::new()).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap()
    }

    fn opened(sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        open(&KEY, sealed, &mut content, u64::MAX)?;
        Ok(content)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at / 251 + at).to_le_bytes()[0]).collect()
    }

    #[test]
    fn files_of_every_length_come_back_and_have_the_length_that_is_told() {
        for length in [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES] {
            let sealed = seal(&content(length));
            assert_eq!(sealed.len() as u64, sealed_length(length as u64), "{length}");
            assert_eq!(key_of(&sealed).unwrap(), KEY.commitment());
            assert!(opened(&sealed).unwrap() == content(length), "{length}");
        }
    }

    #[test]
    fn segments_left_out_exchanged_repeated_or_cut_off_are_noticed() {
        let sealed = seal(&content(3 * SEGMENT_BYTES));
        let full = SEGMENT_BYTES + TAG_BYTES;
        let (header, segments) = sealed.split_at(HEADER_BYTES);
        let parts: Vec<&[u8]> = segments.chunks(full).collect();
        let with = |order: &[usize]| {
            let chosen = order.iter().map(|at| parts[*at]);
            opened(&[header].into_iter().chain(chosen).collect::<Vec<_>>().concat())
        };
        assert!(with(&[0, 1, 2]).is_ok());
        for order in [&[0, 2][..], &[0, 1], &[1, 0, 2], &[0, 1, 1, 2], &[0, 1, 2, 2], &[]] {
            assert!(matches!(with(order), Err(Error::Segment(_))), "{order:?}");
        }
        assert!(matches!(opened(&sealed[..sealed.len() - 1]), Err(Error::Segment(2))));
    }

    #[test]
    fn another_key_is_told_by_name_and_other_bytes_are_no_sealed_file() {
        let sealed = seal(b"content");
        let other = DataKey([4; DataKey::BYTES]);
        let error = open(&other, sealed.as_slice(), Vec::new(), u64::MAX).unwrap_err();
        assert!(matches!(error, Error::Key(key) if key == KEY.commitment()));
        assert!(matches!(opened(b"a,b,c\n1,2,3\n"), Err(Error::NotSealed)));
        assert!(matches!(opened(&sealed[..HEADER_BYTES - 1]), Err(Error::NotSealed)));
    }

    #[test]
    fn no_more_is_opened_than_there_may_be() {
        let sealed = seal(&content(2 * SEGMENT_BYTES));
        let limit = 2 * SEGMENT_BYTES as u64;
        assert_eq!(open(&KEY, sealed.as_slice(), Vec::new(), limit).unwrap(), limit);
        assert!(matches!(open(&KEY, sealed.as_slice(), Vec::new(), limit - 1), Err(Error::TooLong(_))));
    }

    #[test]
    fn a_directory_of_sealed_files_is_opened_with_the_keys_that_may_be_used() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("sealed"), place.path().join("opened"));
        fs::create_dir(&from).unwrap();
        for name in ["a.csv", "b.csv"] {
            fs::write(from.join(name), seal(name.as_bytes())).unwrap();
        }
        let error = open_path(&|_| None, &from, &to, 100).unwrap_err();
        assert!(matches!(error, Error::Key(key) if key == KEY.commitment()));
        fs::remove_dir_all(&to).unwrap();
        let known = |wanted: &Digest| (*wanted == KEY.commitment()).then_some(KEY);
        assert_eq!(open_path(&known, &from, &to, 100).unwrap(), 10);
        assert_eq!(fs::read(to.join("b.csv")).unwrap(), b"b.csv");
        let file = place.path().join("file");
        assert_eq!(open_path(&known, &from.join("a.csv"), &file, 5).unwrap(), 5);
        assert!(matches!(open_path(&known, &from, &place.path().join("less"), 9), Err(Error::TooLong(_))));
    }

    proptest! {
        #[test]
        fn a_changed_bit_anywhere_is_noticed(at in 0_usize..200, bit in 0_u32..8) {
            let mut sealed = seal(&content(150));
            prop_assert!(sealed.len() > 200);
            sealed[at] ^= 1 << bit;
            prop_assert!(opened(&sealed).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(opened(&bytes).is_err());
            prop_assert!(opened(&[&MAGIC[..], &bytes].concat()).is_err());
        }
    }
}
