//! The safetensors format: read with bounds first, written in one canonical form.
//!
//! Canonical form, so that equal tensors give equal bytes and so equal CIDs: an 8-byte little-endian header length; a
//! JSON object without blanks whose entries are sorted by name (UTF-8 bytes) and read
//! `"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}`; blanks up to a multiple of 8 bytes; the tensors' raw
//! little-endian bytes in the order of the header, without gaps. No `__metadata__`.

use std::{collections::BTreeMap, io, ops::Range};

use bytes::Bytes;
pub use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::Content;

/// The longest header in bytes: about 10,000 tensors. A longer one is refused before it is read.
pub const MAX_HEADER_BYTES: u64 = 1024 * 1024;
/// The longest file in bytes: 1 GiB of parameters (beyond it aggregation has to be sharded) or twice that of
/// optimizer state, with their headers. A longer one is refused before it is read.
pub const MAX_FILE_BYTES: u64 = 2 * 1024 * 1024 * 1024 + LENGTH_BYTES + MAX_HEADER_BYTES;
/// The longest name of a tensor in bytes; known models stay below 100. A longer one is refused.
pub const MAX_NAME_BYTES: usize = 512;
/// The most dimensions of a tensor; convolutions have 5. More are refused.
pub const MAX_RANK: usize = 8;
/// The header length that opens the file.
const LENGTH_BYTES: u64 = 8;

/// Why bytes are no safetensors file that this node takes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("a tensor file of {length} bytes is over the limit of {MAX_FILE_BYTES}")]
    FileTooLong {
        /// Bytes of the file.
        length: u64,
    },
    /// Longer than [`MAX_HEADER_BYTES`], or longer than the file itself.
    #[error("the safetensors header claims {length} bytes; at most {MAX_HEADER_BYTES}, and no more than the file has")]
    Header {
        /// Bytes that the header claims.
        length: u64,
    },
    /// The header is no safetensors header.
    #[error("the safetensors header can't be read")]
    Json(#[from] serde_json::Error),
    /// A tensor's entry is not acceptable.
    #[error("tensor `{name}`: {fault}")]
    Tensor {
        /// Its name, cut to 80 characters.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The tensors do not fill the file exactly.
    #[error("the tensors end at byte {end} of {length}")]
    Gap {
        /// Where the last tensor ends.
        end: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// Two files differ in a tensor's presence, type or shape.
    #[error("tensor `{name}` differs in type or shape, or only one of the two has it")]
    Schema {
        /// Its name, cut to 80 characters.
        name: String,
    },
    /// The bytes could not be read.
    #[error("the tensor file can't be read")]
    Io(#[from] io::Error),
}

impl Error {
    pub(super) fn tensor(name: &str, fault: &'static str) -> Self {
        Self::Tensor { name: short(name), fault }
    }

    pub(super) fn schema(name: &str) -> Self {
        Self::Schema { name: short(name) }
    }
}

fn short(name: &str) -> String {
    name.chars().take(80).collect()
}

/// Type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The type of its elements; a whole number of bytes each.
    pub dtype: Dtype,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<usize>,
}

impl Spec {
    /// Number of elements. Does not overflow: [`Layout::parse`] checked it.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Types and shapes by name: what two files must share to be added.
pub type Schema = BTreeMap<String, Spec>;

/// A tensor's place in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Type and shape.
    pub spec: Spec,
    /// Bytes of the file.
    pub range: Range<u64>,
}

/// Where each tensor of a file lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// By name.
    pub tensors: BTreeMap<String, Placed>,
}

impl Layout {
    /// Reads the header of `content`, which is `length` bytes long. Reads nothing else, and allocates nothing before
    /// the bounds are checked.
    pub fn parse<C: Content + ?Sized>(content: &C, length: u64) -> Result<Self, Error> {
        if length > MAX_FILE_BYTES {
            return Err(Error::FileTooLong { length });
        }
        if length < LENGTH_BYTES {
            return Err(Error::Header { length: LENGTH_BYTES });
        }
        let mut buffer = Vec::new();
        let head = content.piece(0..LENGTH_BYTES, &mut buffer)?;
        let header = u64::from_le_bytes(head.try_into().map_err(io::Error::other)?);
        if header > MAX_HEADER_BYTES || header > length - LENGTH_BYTES {
            return Err(Error::Header { length: header });
        }
        let data = LENGTH_BYTES + header;
        let metadata: Metadata = serde_json::from_slice(content.piece(LENGTH_BYTES..data, &mut buffer)?)?;
        Self::place(&metadata, data, length)
    }

    /// Checks that the tensors, in the order of their offsets, fill the file from `data` to `length`.
    fn place(metadata: &Metadata, data: u64, length: u64) -> Result<Self, Error> {
        let mut tensors = BTreeMap::new();
        let mut end = data;
        for name in metadata.offset_keys() {
            let info = metadata.info(&name).ok_or_else(|| Error::tensor(&name, "has no entry"))?;
            let bytes = byte_length(info.dtype, &info.shape).map_err(|fault| Error::tensor(&name, fault))?;
            let range = end..end.saturating_add(bytes);
            let claimed = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            if (claimed.0.checked_add(data), claimed.1.checked_add(data)) != (Some(range.start), Some(range.end)) {
                return Err(Error::tensor(&name, "its offsets leave a gap, overlap, or don't fit its shape"));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(Error::tensor(&name, "its name is over 512 bytes"));
            }
            end = range.end;
            let spec = Spec { dtype: info.dtype, shape: info.shape.clone() };
            tensors.insert(name, Placed { spec, range });
        }
        if end == length { Ok(Self { tensors }) } else { Err(Error::Gap { end, length }) }
    }
}

/// Bytes of a tensor of this type and shape.
fn byte_length(dtype: Dtype, shape: &[usize]) -> Result<u64, &'static str> {
    if shape.len() > MAX_RANK {
        return Err("it has over 8 dimensions");
    }
    if !dtype.bitsize().is_multiple_of(8) {
        return Err("its elements are no whole bytes");
    }
    // Over the dimensions that are not zero: a later zero must not hide an overflow from whoever multiplies in order.
    let product = shape.iter().filter(|dimension| **dimension != 0).try_fold(1_usize, |n, d| n.checked_mul(*d));
    let elements = product.ok_or("its shape overflows")?;
    let elements = if shape.contains(&0) { 0 } else { elements };
    let bytes = elements.checked_mul(dtype.bitsize() / 8).ok_or("its shape overflows")?;
    Ok(bytes as u64)
}

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Type and shape.
    pub spec: Spec,
    /// Raw little-endian elements in row-major order.
    pub data: Bytes,
}

/// The tensors of a file in memory, by name. Cloning shares the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensors(BTreeMap<String, Tensor>);

impl Tensors {
    /// Reads a whole safetensors file. The tensors share `file`'s bytes.
    pub fn parse(file: Bytes) -> Result<Self, Error> {
        let layout = Layout::parse(&file[..], file.len() as u64)?;
        let place = |offset| usize::try_from(offset).map_err(io::Error::other);
        let tensor = |(name, placed): (String, Placed)| {
            let range = place(placed.range.start)?..place(placed.range.end)?;
            Ok((name, Tensor { spec: placed.spec, data: file.slice(range) }))
        };
        layout.tensors.into_iter().map(tensor).collect::<Result<_, Error>>().map(Self)
    }

    /// Adds a tensor, or replaces the one of that name, under the bounds of [`Tensors::parse`].
    pub fn insert(&mut self, name: String, spec: Spec, data: Bytes) -> Result<(), Error> {
        let bytes = byte_length(spec.dtype, &spec.shape).map_err(|fault| Error::tensor(&name, fault))?;
        if bytes != data.len() as u64 || name.len() > MAX_NAME_BYTES {
            return Err(Error::tensor(&name, "its bytes don't fit its shape, or its name is too long"));
        }
        self.0.insert(name, Tensor { spec, data });
        Ok(())
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// The tensors in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Types and shapes by name.
    pub fn schema(&self) -> Schema {
        self.0.iter().map(|(name, tensor)| (name.clone(), tensor.spec.clone())).collect()
    }

    /// Refuses tensors that differ from `other` in name, type or shape.
    pub fn check_schema(&self, other: &Self) -> Result<(), Error> {
        let names = self.0.keys().chain(other.0.keys());
        let differs = |name: &&String| self.0.get(*name).map(|t| &t.spec) != other.0.get(*name).map(|t| &t.spec);
        names.into_iter().find(differs).map_or(Ok(()), |name| Err(Error::schema(name)))
    }

    /// Refuses infinities and NaN in tensors of 32-bit floats.
    pub fn check_finite(&self) -> Result<(), Error> {
        let finite = |tensor: &Tensor| tensor.spec.dtype != Dtype::F32 || floats(&tensor.data).all(f32::is_finite);
        match self.iter().find(|(_, tensor)| !finite(tensor)) {
            Some((name, _)) => Err(Error::tensor(name, "has an infinite value or NaN")),
            None => Ok(()),
        }
    }

    /// The canonical file (module doc).
    pub fn to_safetensors(&self) -> Vec<u8> {
        let header = self.header();
        let data: usize = self.0.values().map(|tensor| tensor.data.len()).sum();
        let mut file = Vec::with_capacity(8 + header.len() + data);
        file.extend((header.len() as u64).to_le_bytes());
        file.extend(header.as_bytes());
        self.0.values().for_each(|tensor| file.extend_from_slice(&tensor.data));
        file
    }

    fn header(&self) -> String {
        let mut offset = 0;
        let entries: Vec<String> = self
            .iter()
            .map(|(name, tensor)| {
                let start = offset;
                offset += tensor.data.len();
                let (name, Spec { dtype, shape }) = (serde_json::Value::from(name), &tensor.spec);
                let shape = serde_json::Value::from(shape.as_slice());
                format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{offset}]}}"#)
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let padded = header.len().next_multiple_of(8);
        format!("{header:padded$}")
    }
}

/// The 32-bit floats in raw little-endian bytes.
pub(crate) fn floats(data: &[u8]) -> impl Iterator<Item = f32> {
    let (values, _) = data.as_chunks::<4>();
    values.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, data: usize) -> Bytes {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat().into()
    }

    fn sample() -> Tensors {
        let mut tensors = Tensors::default();
        let spec = |shape: &[usize]| Spec { dtype: Dtype::F32, shape: shape.to_vec() };
        tensors.insert("b\"ias".into(), spec(&[2]), Bytes::from_static(&[1, 2, 3, 4, 5, 6, 7, 8])).unwrap();
        tensors.insert("a".into(), spec(&[]), Bytes::from_static(&[9, 9, 9, 9])).unwrap();
        tensors.insert("empty".into(), spec(&[0, 3]), Bytes::new()).unwrap();
        tensors
    }

    #[test]
    fn what_is_written_reads_back_here_and_in_the_reference_library() {
        let bytes = sample().to_safetensors();
        assert_eq!(Tensors::parse(bytes.clone().into()).unwrap(), sample());
        let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(reference.tensor("b\"ias").unwrap().data(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(reference.len(), 3);
    }

    #[test]
    fn equal_tensors_give_equal_bytes_however_their_file_was_laid_out() {
        let views = sample();
        let view = |name: &str| {
            let tensor = views.get(name).unwrap();
            let view = safetensors::tensor::TensorView::new(tensor.spec.dtype, tensor.spec.shape.clone(), &tensor.data);
            (name.to_string(), view.unwrap())
        };
        let note = Some([("format".to_string(), "pt".to_string())].into());
        let other = safetensors::serialize([view("empty"), view("b\"ias"), view("a")], note).unwrap();
        assert_ne!(other, views.to_safetensors());
        assert_eq!(Tensors::parse(other.into()).unwrap().to_safetensors(), views.to_safetensors());
        assert_eq!(views.header().len() % 8, 0);
    }

    #[test]
    fn a_header_bomb_is_refused_before_it_is_read() {
        let bomb = |claimed: u64| Bytes::from([claimed.to_le_bytes().to_vec(), vec![b' '; 64]].concat());
        for claimed in [65, MAX_HEADER_BYTES + 1, u64::MAX] {
            assert!(matches!(Tensors::parse(bomb(claimed)), Err(Error::Header { length }) if length == claimed));
        }
        let long = MAX_FILE_BYTES + 1;
        assert!(matches!(Layout::parse(&[0; 8][..], long), Err(Error::FileTooLong { length }) if length == long));
    }

    #[test]
    fn shapes_that_overflow_and_offsets_that_lie_are_refused() {
        let entry = |shape: &str, from: u64, to: u64| {
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
        };
        assert!(Tensors::parse(file(&entry("[2]", 0, 8), 8)).is_ok());
        for (shape, from, to, data) in [
            ("[4294967296,4294967296]", 0, 0, 0),
            ("[4294967296,4294967296,0]", 0, 0, 0),
            ("[4611686018427387905]", 0, 4, 4),
            ("[2]", 8, 16, 16),
            ("[2]", 0, 4, 4),
            ("[2]", 0, 8, 9),
            ("[2]", 0, 8, 7),
            ("[1,1,1,1,1,1,1,1,2]", 0, 8, 8),
            ("[2]", u64::MAX, 7, 8),
        ] {
            assert!(Tensors::parse(file(&entry(shape, from, to), data)).is_err(), "{shape} {from}..{to} of {data}");
        }
    }

    #[test]
    fn nan_and_infinity_are_found() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut tensors = sample();
            let spec = Spec { dtype: Dtype::F32, shape: vec![1] };
            tensors.insert("x".into(), spec, value.to_le_bytes().to_vec().into()).unwrap();
            assert!(tensors.check_finite().unwrap_err().to_string().contains("`x`"));
        }
        assert!(sample().check_finite().is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Tensors::parse(bytes.into());
        }

        #[test]
        fn no_single_changed_byte_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = sample().to_safetensors();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Tensors::parse(bytes.into());
        }
    }
}
