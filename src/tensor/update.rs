//! The encoded update: Δ = θ_t − θ_i, computed by the node, exact or quantised. The bytes that a receipt commits to.
//!
//! Layout, integers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic `ATLASUPD` |
//! | 2 | version, 1 |
//! | 1 | codec: 0 `f32`, 1 `i8b256` |
//! | 1 | 0 |
//! | 4 | number of tensors |
//! | … | for each tensor, sorted by name: name length u16, name, rank u8, each dimension u64 |
//! | 0–7 | zeros up to a multiple of 8 |
//! | … | for each tensor in that order its payload, without padding |
//!
//! Payload of a tensor of n elements in row-major order: `f32`, n floats. `i8b256`, blocks of 256 elements, the last one
//! shorter: the scale as bf16, then one i8 an element. The scale is the smallest bf16 s with 127·s ≥ max|x|, 0
//! for a block of zeros; q is x/s rounded half to even; x is read back as the f32 q·s, which is exact.
//!
//! There is exactly one encoding of a difference, and a decoder takes no other: a negative or superfluous scale, −128,
//! a value that is not finite, an unsorted name, a byte too many are refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::bf16;

use super::{Dtype, Error as FormatError, MAX_NAME_BYTES, MAX_RANK, Schema, Tensors, format::floats};
use crate::types::UpdateCodec;

/// Elements that share one scale.
pub const QUANT_BLOCK: usize = 256;
/// A block's bytes: the scale and one byte an element.
const QUANT_BLOCK_BYTES: usize = 2 + QUANT_BLOCK;
/// The largest magnitude of a quantised element.
const QUANT_MAX: f32 = 127.0;
const MAGIC: &[u8; 8] = b"ATLASUPD";
const VERSION: u16 = 1;
/// The longest header in bytes, as in safetensors. A longer one is refused.
const MAX_HEADER_BYTES: usize = 1024 * 1024;

/// Why there is no update, or why bytes are none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the two models is not what it should be.
    #[error(transparent)]
    Model(#[from] FormatError),
    /// Only 32-bit floats can be trained jointly.
    #[error("tensor `{name}` is {dtype}: joint training needs F32; convert the model")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A difference is infinite or NaN.
    #[error("tensor `{name}` has a difference that is infinite or NaN")]
    NotFinite {
        /// The tensor.
        name: String,
    },
    /// The bytes are no canonical update.
    #[error("the update's bytes are not an update: {0}")]
    Malformed(&'static str),
    /// The tensors are those of another model.
    #[error("the update has other tensors than the model, or another codec than the job")]
    Schema,
}

/// A tensor's shape by name; all elements are F32.
type Table = BTreeMap<String, Vec<usize>>;

fn table(schema: &Schema) -> Result<Table, Error> {
    let entry = |(name, spec): (&String, &super::Spec)| match spec.dtype {
        Dtype::F32 => Ok((name.clone(), spec.shape.clone())),
        dtype => Err(Error::Dtype { name: name.clone(), dtype }),
    };
    schema.iter().map(entry).collect()
}

/// Exact length in bytes of any update of a model of this schema: known before one byte of it is read.
pub fn encoded_length(schema: &Schema, codec: UpdateCodec) -> Result<u64, Error> {
    let payload: usize = schema.values().map(|spec| payload_length(spec.elements(), codec)).sum();
    Ok((header(&table(schema)?, codec).len() + payload) as u64)
}

/// The update that leads from `base` to `trained`: the difference base − trained, each rounded once to f32.
pub fn encode_difference(base: &Tensors, trained: &Tensors, codec: UpdateCodec) -> Result<Vec<u8>, Error> {
    base.check_schema(trained)?;
    let schema = base.schema();
    let mut bytes = header(&table(&schema)?, codec);
    bytes.reserve(schema.values().map(|spec| payload_length(spec.elements(), codec)).sum());
    for ((name, from), (_, to)) in base.iter().zip(trained.iter()) {
        let difference = floats(&from.data).zip(floats(&to.data)).map(|(from, to)| from - to);
        let written = match codec {
            UpdateCodec::F32 => write_floats(difference, &mut bytes),
            UpdateCodec::I8B256 => write_blocks(difference, &mut bytes),
        };
        written.ok_or_else(|| Error::NotFinite { name: name.into() })?;
    }
    Ok(bytes)
}

fn payload_length(elements: usize, codec: UpdateCodec) -> usize {
    match codec {
        UpdateCodec::F32 => 4 * elements,
        UpdateCodec::I8B256 => elements + 2 * elements.div_ceil(QUANT_BLOCK),
    }
}

fn codec_byte(codec: UpdateCodec) -> u8 {
    match codec {
        UpdateCodec::F32 => 0,
        UpdateCodec::I8B256 => 1,
    }
}

fn header(table: &Table, codec: UpdateCodec) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([codec_byte(codec), 0]);
    bytes.extend(u32::try_from(table.len()).expect("the format bounds the number of tensors").to_le_bytes());
    for (name, shape) in table {
        bytes.extend(u16::try_from(name.len()).expect("the format bounds names to 512 bytes").to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.push(u8::try_from(shape.len()).expect("the format bounds ranks to 8"));
        shape.iter().for_each(|dimension| bytes.extend((*dimension as u64).to_le_bytes()));
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// `None` at a value that is not finite.
fn write_floats(values: impl Iterator<Item = f32>, bytes: &mut Vec<u8>) -> Option<()> {
    for value in values {
        bytes.extend(value.is_finite().then_some(value)?.to_le_bytes());
    }
    Some(())
}

/// `None` at a value that is not finite. What is finite is so when read back: the largest product is 126·1.015625·2^121.
fn write_blocks(mut values: impl Iterator<Item = f32>, bytes: &mut Vec<u8>) -> Option<()> {
    let mut block = Vec::with_capacity(QUANT_BLOCK);
    loop {
        block.clear();
        block.extend(values.by_ref().take(QUANT_BLOCK));
        if block.is_empty() {
            return Some(());
        }
        let scale = block_scale(&block)?;
        bytes.extend(scale.to_le_bytes());
        bytes.extend(block.iter().map(|value| quantise(*value, scale.to_f32()).cast_unsigned()));
    }
}

/// The smallest bf16 s with 127·s ≥ max|x|; `None` if a value is not finite.
fn block_scale(block: &[f32]) -> Option<bf16> {
    block.iter().all(|value| value.is_finite()).then_some(())?;
    let largest = block.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
    // 127·s is exact in f64, so that the comparison is too; the guess is at most a step off.
    let covers = |bits: u16| 127.0 * bf16::from_bits(bits).to_f64() >= f64::from(largest);
    let [_, _, low, high] = (largest / QUANT_MAX).to_le_bytes();
    let mut bits = u16::from_le_bytes([low, high]);
    while !covers(bits) {
        bits += 1;
    }
    while bits > 0 && covers(bits - 1) {
        bits -= 1;
    }
    Some(bf16::from_bits(bits))
}

#[expect(clippy::cast_possible_truncation, reason = "the scale bounds |x/s| to 127")]
fn quantise(value: f32, scale: f32) -> i8 {
    // In f64 the quotient of a 24-bit by an 8-bit number never rounds onto a tie that it isn't.
    if scale == 0.0 { 0 } else { (f64::from(value) / f64::from(scale)).round_ties_even() as i8 }
}

/// An update whose header was checked and whose length fits it. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Update {
    codec: UpdateCodec,
    table: Table,
    payload: Bytes,
}

impl Update {
    /// Reads an update's header and checks that the length is exactly what it announces. Values are checked by
    /// [`Update::check_values`].
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        let mut reader = Reader { rest: &bytes };
        if reader.take(8)? != MAGIC || reader.number(2)? != u64::from(VERSION) {
            return Err(Error::Malformed("it does not begin with the magic of version 1"));
        }
        let codec = match reader.number(2)? {
            0 => UpdateCodec::F32,
            1 => UpdateCodec::I8B256,
            _ => return Err(Error::Malformed("its codec is unknown")),
        };
        let table = reader.table()?;
        // One encoding only: the header is what this node would write for that table, padding included.
        let header = header(&table, codec);
        if !bytes.starts_with(&header) {
            return Err(Error::Malformed("its header is not in canonical form"));
        }
        let payload = bytes.slice(header.len()..);
        if total_length(&table, codec) != Some(payload.len()) {
            return Err(Error::Malformed("its length is not that of its tensors"));
        }
        Ok(Self { codec, table, payload })
    }

    /// Refuses an update for another model or of another codec.
    pub fn check_schema(&self, schema: &Schema, codec: UpdateCodec) -> Result<(), Error> {
        if self.codec == codec && self.table == table(schema)? { Ok(()) } else { Err(Error::Schema) }
    }

    /// Refuses values that are not finite and blocks that are not in canonical form.
    pub fn check_values(&self) -> Result<(), Error> {
        let mut values = [0.0; QUANT_BLOCK];
        for (name, payload) in self.payloads() {
            for start in (0..payload.elements).step_by(QUANT_BLOCK) {
                let values = &mut values[..QUANT_BLOCK.min(payload.elements - start)];
                payload.read(start, values);
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(Error::NotFinite { name: name.into() });
                }
                if !payload.is_canonical(start, values) {
                    return Err(Error::Malformed("a block's scale is not the smallest one, or a value is -128"));
                }
            }
        }
        Ok(())
    }

    /// The tensors' names and values, sorted by name.
    pub fn payloads(&self) -> impl Iterator<Item = (&str, Payload<'_>)> {
        let mut rest = &self.payload[..];
        self.table.iter().map(move |(name, shape)| {
            let elements = shape.iter().product();
            let (own, tail) = rest.split_at(payload_length(elements, self.codec));
            rest = tail;
            (name.as_str(), Payload { codec: self.codec, elements, bytes: own })
        })
    }
}

/// The length of all payloads; `None` if it overflows.
fn total_length(table: &Table, codec: UpdateCodec) -> Option<usize> {
    table.values().try_fold(0_usize, |total, shape| {
        let elements = shape.iter().try_fold(1_usize, |product, dimension| product.checked_mul(*dimension))?;
        // Five bytes an element bound either codec, so that its own arithmetic can't overflow.
        elements.checked_mul(5)?;
        total.checked_add(payload_length(elements, codec))
    })
}

/// One tensor's values inside an update.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    codec: UpdateCodec,
    /// Number of values.
    pub elements: usize,
    bytes: &'a [u8],
}

impl Payload<'_> {
    /// Reads the values from `start` on, a multiple of [`QUANT_BLOCK`], to fill `values`.
    ///
    /// # Panics
    /// If `start` is not such a multiple or `values` reaches over the end.
    pub fn read(&self, start: usize, values: &mut [f32]) {
        assert!(start.is_multiple_of(QUANT_BLOCK) && start + values.len() <= self.elements, "inside the tensor");
        match self.codec {
            UpdateCodec::F32 => {
                let bytes = &self.bytes[4 * start..][..4 * values.len()];
                values.iter_mut().zip(floats(bytes)).for_each(|(value, read)| *value = read);
            }
            UpdateCodec::I8B256 => {
                let blocks = self.bytes[start / QUANT_BLOCK * QUANT_BLOCK_BYTES..].chunks(QUANT_BLOCK_BYTES);
                values.chunks_mut(QUANT_BLOCK).zip(blocks).for_each(|(values, block)| read_block(block, values));
            }
        }
    }

    /// True if the block at `start`, whose values were read, is the one that an encoder would write for them.
    fn is_canonical(&self, start: usize, values: &[f32]) -> bool {
        if self.codec == UpdateCodec::F32 {
            return true;
        }
        let block = &self.bytes[start / QUANT_BLOCK * QUANT_BLOCK_BYTES..][..2 + values.len()];
        let scale = bf16::from_le_bytes([block[0], block[1]]);
        let largest = block[2..].iter().map(|byte| byte.cast_signed().unsigned_abs()).max();
        // A scale is the smallest that covers its block, so that the largest |x| is over 127 times the next lower scale; after
        // rounding, that leaves at least 126 (63 among the subnormal scales, whose steps are wide).
        match largest {
            None | Some(0) => scale.to_bits() == 0,
            Some(largest) => {
                largest <= 127 && scale.to_bits() > 0 && scale.is_sign_positive() && plausible(largest, scale)
            }
        }
    }
}

/// True if some block of largest |x| has this scale and this largest |q|.
fn plausible(largest: u8, scale: bf16) -> bool {
    let below = bf16::from_bits(scale.to_bits() - 1).to_f64();
    // The largest |x| exceeds 127·below, so its quotient exceeds 127·below/s, and q is at least that, rounded half to even.
    f64::from(largest) >= (127.0 * below / scale.to_f64()).round_ties_even()
}

fn read_block(block: &[u8], values: &mut [f32]) {
    let (scale, quantised) = block.split_at(2);
    let scale = bf16::from_le_bytes([scale[0], scale[1]]).to_f32();
    for (value, byte) in values.iter_mut().zip(quantised) {
        *value = f32::from(byte.cast_signed()) * scale;
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Malformed("its header is cut"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, Error> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn table(&mut self) -> Result<Table, Error> {
        let start = self.rest.len();
        let mut table = Table::new();
        for _ in 0..self.number(4)? {
            let (name, shape) = self.entry()?;
            if table.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(Error::Malformed("its names are not sorted"));
            }
            if start - self.rest.len() > MAX_HEADER_BYTES {
                return Err(Error::Malformed("its header is over 1 MiB"));
            }
            table.insert(name, shape);
        }
        Ok(table)
    }

    fn entry(&mut self) -> Result<(String, Vec<usize>), Error> {
        let length = self.number(2)?;
        if length > MAX_NAME_BYTES as u64 {
            return Err(Error::Malformed("a name is over 512 bytes"));
        }
        let name = self.take(usize::try_from(length).map_err(|_| Error::Malformed("a name is over 512 bytes"))?)?;
        let name = str::from_utf8(name).map_err(|_| Error::Malformed("a name is not UTF-8"))?.to_owned();
        let rank = self.take(1)?[0];
        if usize::from(rank) > MAX_RANK {
            return Err(Error::Malformed("a tensor has over 8 dimensions"));
        }
        let dimension = |_| usize::try_from(self.number(8)?).map_err(|_| Error::Malformed("a dimension overflows"));
        Ok((name, (0..rank).map(dimension).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::Spec;

    fn model(values: &[f32]) -> Tensors {
        let mut tensors = Tensors::default();
        let spec = Spec { dtype: Dtype::F32, shape: vec![values.len()] };
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.insert("w".into(), spec, data.into()).unwrap();
        let one = Spec { dtype: Dtype::F32, shape: vec![] };
        tensors.insert("a".into(), one, vec![0; 4].into()).unwrap();
        tensors
    }

    /// Encodes `values` as the difference to a model of zeros.
    fn encode(values: &[f32], codec: UpdateCodec) -> Result<Vec<u8>, Error> {
        encode_difference(&model(values), &model(&vec![0.0; values.len()]), codec)
    }

    fn decode(bytes: Vec<u8>) -> Result<Vec<f32>, Error> {
        let update = Update::parse(bytes.into())?;
        update.check_values()?;
        let (_, payload) = update.payloads().find(|(name, _)| *name == "w").unwrap();
        let mut values = vec![0.0; payload.elements];
        payload.read(0, &mut values);
        Ok(values)
    }

    #[test]
    fn f32_is_exact_and_its_length_is_known_before() {
        let values = [1.5, -0.25, 1e-40, 3e38];
        let bytes = encode(&values, UpdateCodec::F32).unwrap();
        assert_eq!(bytes.len() as u64, encoded_length(&model(&values).schema(), UpdateCodec::F32).unwrap());
        assert_eq!(decode(bytes).unwrap(), values);
    }

    #[test]
    fn the_scale_is_the_smallest_that_covers_and_ties_go_to_even() {
        let scale = |values: &[f32]| block_scale(values).unwrap().to_f32();
        assert_eq!(scale(&[127.0, -3.0]), 1.0);
        assert_eq!(scale(&[-127.0]), 1.0);
        assert_eq!(scale(&[127.001]), 1.0078125);
        assert_eq!(scale(&[0.0, -0.0]), 0.0);
        assert_eq!(scale(&[f32::from_bits(1)]), f32::from_bits(1 << 16));
        let read = decode(encode(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.50001], UpdateCodec::I8B256).unwrap()).unwrap();
        assert_eq!(read, [127.0, 0.0, 2.0, 2.0, 0.0, -2.0, 1.0]);
    }

    #[test]
    fn values_that_are_not_finite_are_refused_both_ways() {
        for codec in [UpdateCodec::F32, UpdateCodec::I8B256] {
            for value in [f32::NAN, f32::INFINITY] {
                assert!(matches!(encode(&[1.0, value], codec), Err(Error::NotFinite { .. })));
            }
        }
        let largest = decode(encode(&[f32::MAX, -f32::MAX], UpdateCodec::I8B256).unwrap()).unwrap();
        assert!(largest.iter().all(|value| value.is_finite()), "{largest:?}");
        let mut bytes = encode(&[1.0, 2.0], UpdateCodec::F32).unwrap();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(matches!(decode(bytes), Err(Error::NotFinite { .. })));
    }

    #[test]
    fn blocks_that_no_encoder_writes_are_refused() {
        let bytes = encode(&[127.0, 5.0], UpdateCodec::I8B256).unwrap();
        let end = bytes.len();
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = bytes.clone();
            changes.iter().for_each(|(at, byte)| bytes[end - 4 + at] = *byte);
            decode(bytes)
        };
        assert!(with(&[]).is_ok());
        assert!(with(&[(2, 0x80)]).is_err(), "-128");
        assert!(with(&[(1, 0xbf)]).is_err(), "a negative scale");
        assert!(with(&[(2, 60)]).is_err(), "a scale that is larger than needed");
        assert!(with(&[(0, 0), (1, 0)]).is_err(), "a zero scale with values");
        assert!(with(&[(2, 0), (3, 0)]).is_err(), "zeros with a scale");
        assert!(with(&[(0, 0x80), (1, 0x7f)]).is_err(), "an infinite scale");
    }

    #[test]
    fn a_truncated_a_padded_or_a_foreign_update_is_refused() {
        let values = vec![0.5; 300];
        let bytes = encode(&values, UpdateCodec::I8B256).unwrap();
        let update = Update::parse(bytes.clone().into()).unwrap();
        update.check_schema(&model(&values).schema(), UpdateCodec::I8B256).unwrap();
        assert!(update.check_schema(&model(&values).schema(), UpdateCodec::F32).is_err());
        assert!(update.check_schema(&model(&values[1..]).schema(), UpdateCodec::I8B256).is_err());
        assert!(Update::parse([&bytes[..], &[0]].concat().into()).is_err());
        for length in [0, 7, 16, 40, bytes.len() - 1] {
            assert!(Update::parse(bytes[..length].to_vec().into()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn only_models_of_32_bit_floats_give_updates() {
        let mut model = Tensors::default();
        model.insert("w".into(), Spec { dtype: Dtype::F64, shape: vec![1] }, vec![0; 8].into()).unwrap();
        assert!(matches!(encode_difference(&model, &model, UpdateCodec::F32), Err(Error::Dtype { .. })));
    }

    fn finite() -> impl Strategy<Value = f32> {
        any::<f32>().prop_filter("finite", |value| value.is_finite() && value.abs() < 1e38)
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back_within_half_a_step_and_encodes_alike_again(values in prop::collection::vec(finite(), 0..600)) {
            let bytes = encode(&values, UpdateCodec::I8B256).unwrap();
            let read = decode(bytes.clone()).unwrap();
            for (values, read) in values.chunks(QUANT_BLOCK).zip(read.chunks(QUANT_BLOCK)) {
                let scale = block_scale(values).unwrap().to_f64();
                prop_assert!(127.0 * scale >= values.iter().fold(0.0, |m, v| f64::from(v.abs()).max(m)));
                for (value, read) in values.iter().zip(read) {
                    prop_assert!((f64::from(*value) - f64::from(*read)).abs() <= scale / 2.0);
                }
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(tail in prop::collection::vec(any::<u8>(), 0..120), magic in any::<bool>()) {
            let head: &[u8] = if magic { b"ATLASUPD\x01\0\x01\0" } else { b"" };
            let _ = decode([head, &tail].concat()).map(drop);
        }

        #[test]
        fn a_changed_byte_never_makes_the_decoder_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = encode(&[0.5; 300], UpdateCodec::I8B256).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(update) = Update::parse(bytes.into()) {
                let _ = update.check_values();
            }
        }
    }
}
