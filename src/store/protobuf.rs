//! As much of the protobuf wire format as dag-pb and UnixFS use: varints and length-delimited fields.
//!
//! Source: protobuf.dev, "Encoding". Fixed-width and group fields appear in neither schema and are refused.

/// Why bytes are no protobuf message that dag-pb or UnixFS could have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A varint or a field reaches past the end.
    #[error("the message ends inside a field")]
    Cut,
    /// A varint longer than 64 bits.
    #[error("a varint is longer than 64 bits")]
    Varint,
    /// A wire type that the schemas do not use, or field number 0.
    #[error("a field has a key that the schema does not know")]
    Key,
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
}

/// Reads the fields of a message in the order in which they stand.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of one whole message.
    pub fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The number and value of the next field; `None` at the end.
    pub fn next_field(&mut self) -> Result<Option<(u64, Value<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => Value::Bytes(self.length_delimited()?),
            _ => return Err(Error::Key),
        };
        if key >> 3 == 0 {
            return Err(Error::Key);
        }
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let (value, rest) = read_varint(self.0)?;
        self.0 = rest;
        Ok(value)
    }

    fn length_delimited(&mut self) -> Result<&'a [u8], Error> {
        let length = usize::try_from(self.varint()?).map_err(|_| Error::Cut)?;
        let (value, rest) = self.0.split_at_checked(length).ok_or(Error::Cut)?;
        self.0 = rest;
        Ok(value)
    }
}

/// The varint at the front of `bytes`, and what follows it.
pub fn read_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Error> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index;
        if shift > 63 || (shift == 63 && bits > 1) {
            return Err(Error::Varint);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(Error::Cut)
}

/// Appends `value` in as few bytes as it needs.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

/// Appends a varint field.
pub fn write_varint_field(out: &mut Vec<u8>, number: u64, value: u64) {
    write_varint(out, number << 3);
    write_varint(out, value);
}

/// Appends a length-delimited field.
pub fn write_bytes_field(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    write_varint(out, number << 3 | 2);
    write_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_and_any_bytes_are_read_without_panic(value: u64, noise: Vec<u8>) {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            prop_assert_eq!(read_varint(&bytes), Ok((value, &[][..])));
            let mut reader = Reader::new(&noise);
            while let Ok(Some(_)) = reader.next_field() {}
        }
    }

    #[test]
    fn a_varint_over_64_bits_is_refused() {
        assert_eq!(read_varint(&[0xff; 11]), Err(Error::Varint));
        assert_eq!(read_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), Err(Error::Varint));
    }
}
