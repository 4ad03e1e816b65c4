//! CBOR (RFC 8949) with limits: the one place that touches `serde_cbor`.
//!
//! `serde_cbor` is archived, so nothing else may import it: replacing it is a change to this file. Byte
//! strings always go through `serde_bytes` (47 GiB/s against 0.2 without).

use serde::{Serialize, de::DeserializeOwned};

/// Nesting deeper than this is refused before decoding begins. Our deepest message nests 7.
pub const MAX_DEPTH: usize = 32;

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than the limit that the caller named.
    #[error("{length} bytes are over the limit of {limit}")]
    TooLong {
        /// Bytes received.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Not CBOR, or not such an object.
    #[error("not the CBOR expected here")]
    Cbor(#[from] serde_cbor::Error),
}

impl Error {
    /// The bytes are CBOR, but not of the type that was expected: another version may know them.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Cbor(error) if error.is_data())
    }
}

/// Encodes `value`. Our types have no way to fail: maps have string keys and writing to memory succeeds.
///
/// # Panics
/// If a type's own `Serialize` refuses, which is a bug in that type.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("wire types serialize into memory without error")
}

/// What stands before the `count` elements of a list, for a list that is written an element at a time (RFC 8949, 3.).
pub fn list_head(count: usize) -> Vec<u8> {
    let count = count as u64;
    let [.., b3, b2, b1, b0] = count.to_be_bytes();
    match count {
        0..24 => vec![0x80 | b0],
        24..0x100 => vec![0x98, b0],
        0x100..0x1_0000 => vec![0x99, b1, b0],
        0x1_0000..0x1_0000_0000 => vec![0x9a, b3, b2, b1, b0],
        _ => [&[0x9b][..], &count.to_be_bytes()].concat(),
    }
}

/// Decodes exactly one value from all of `bytes`; trailing bytes are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Error> {
    if bytes.len() > limit {
        return Err(Error::TooLong { length: bytes.len(), limit });
    }
    check_depth(bytes)?;
    Ok(serde_cbor::from_slice(bytes)?)
}

/// Walks the item heads without allocating. Malformed input passes: the decoder names what is wrong with it.
fn check_depth(bytes: &[u8]) -> Result<(), Error> {
    // Items still expected at each open level; `u64::MAX` for an indefinite one, which a break closes.
    let mut open = [0_u64; MAX_DEPTH];
    let mut depth = 0;
    let mut rest = bytes;
    while let Some((head, length, tail)) = item_head(rest) {
        rest = tail;
        let children = match head {
            Head::Break => {
                depth = usize::saturating_sub(depth, 1);
                finish_items(&mut open, &mut depth);
                continue;
            }
            Head::Skip => {
                let Ok(length) = usize::try_from(length) else {
                    return Ok(());
                };
                let Some(tail) = rest.get(length..) else {
                    return Ok(());
                };
                rest = tail;
                0
            }
            Head::Scalar => 0,
            Head::Container => length,
        };
        if children == 0 {
            finish_items(&mut open, &mut depth);
        } else {
            if depth == MAX_DEPTH {
                return Err(Error::TooDeep);
            }
            open[depth] = children;
            depth += 1;
        }
    }
    Ok(())
}

/// One item ended: closes every level that it completes.
fn finish_items(open: &mut [u64; MAX_DEPTH], depth: &mut usize) {
    while *depth > 0 {
        let level = &mut open[*depth - 1];
        if *level != u64::MAX {
            *level -= 1;
        }
        if *level != 0 {
            return;
        }
        *depth -= 1;
    }
}

enum Head {
    Scalar,
    Skip,
    Container,
    Break,
}

/// The kind of the first item, its length argument and what follows the head; `None` at the end or if cut.
fn item_head(bytes: &[u8]) -> Option<(Head, u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (major, info) = (first >> 5, first & 0x1f);
    let width = match info {
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => 0,
    };
    let argument = rest.get(..width)?.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let argument = if width == 0 { u64::from(info) } else { argument };
    let indefinite = info == 31;
    let (head, length) = match (major, indefinite) {
        (7, true) => (Head::Break, 0),
        (2 | 3, true) | (4 | 5, true) => (Head::Container, u64::MAX),
        (2 | 3, false) => (Head::Skip, argument),
        (4, false) => (Head::Container, argument),
        (5, false) => (Head::Container, argument.saturating_mul(2)),
        (6, _) => (Head::Container, 1),
        _ => (Head::Scalar, 0),
    };
    Some((head, length, &rest[width..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_nesting_is_refused_before_it_is_decoded() {
        let deep = |levels: usize| [vec![0x81; levels], vec![0]].concat();
        assert!(!matches!(decode::<serde_cbor::Value>(&deep(MAX_DEPTH), 1 << 20), Err(Error::TooDeep)));
        assert!(matches!(decode::<serde_cbor::Value>(&deep(MAX_DEPTH + 1), 1 << 20), Err(Error::TooDeep)));
        let tags = [vec![0xc1; 100_000], vec![0]].concat();
        assert!(matches!(decode::<serde_cbor::Value>(&tags, 1 << 20), Err(Error::TooDeep)));
    }

    #[test]
    fn a_list_that_is_written_an_element_at_a_time_is_the_list() {
        for count in [0, 1, 23, 24, 255, 256, 65_535, 65_536, 70_000] {
            let list = vec![7_u8; count];
            assert_eq!([list_head(count), list.clone()].concat(), encode(&list), "{count} elements");
        }
        assert_eq!(list_head(1 << 40), [0x9b, 0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn many_shallow_items_are_not_deep() {
        let value: Vec<Vec<u8>> = vec![vec![1, 2, 3]; 10_000];
        assert_eq!(decode::<Vec<Vec<u8>>>(&encode(&value), 1 << 20).unwrap(), value);
    }

    #[test]
    fn trailing_and_missing_bytes_are_refused() {
        let bytes = encode(&(1_u8, "two"));
        assert!(decode::<(u8, String)>(&[bytes.clone(), vec![0]].concat(), 100).is_err());
        assert!(decode::<(u8, String)>(&bytes[..bytes.len() - 1], 100).is_err());
        assert!(matches!(decode::<(u8, String)>(&bytes, 3), Err(Error::TooLong { length: 6, limit: 3 })));
    }
}
