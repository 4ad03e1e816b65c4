//! CBOR as a tree that keeps what a decoder forgets (the order of entries, what stands twice), to bend bytes with.

/// One item. Definite lengths and shortest heads: what our writers write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cbor {
    Unsigned(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Cbor>),
    Map(Vec<(Cbor, Cbor)>),
    /// Everything else, as its bytes.
    Other(Vec<u8>),
}

impl Cbor {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let (item, rest) = take(bytes);
        assert!(rest.is_empty(), "{} bytes after the item", rest.len());
        item
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Unsigned(value) => head(0, *value),
            Self::Bytes(bytes) => [head(2, bytes.len() as u64), bytes.clone()].concat(),
            Self::Text(text) => [head(3, text.len() as u64), text.as_bytes().to_vec()].concat(),
            Self::Array(items) => {
                let items = items.iter().flat_map(Self::encode).collect();
                [head(4, self.len()), items].concat()
            }
            Self::Map(entries) => {
                let entries = entries.iter().flat_map(|(key, value)| [key.encode(), value.encode()].concat()).collect();
                [head(5, self.len()), entries].concat()
            }
            Self::Other(bytes) => bytes.clone(),
        }
    }

    /// The entries of the record: of this map, or, where it is a choice with a record in it, of that.
    pub(crate) fn record(&mut self) -> Option<&mut Vec<(Self, Self)>> {
        let Self::Map(entries) = self else { return None };
        let is_record = |inner: &[(Self, Self)]| inner.iter().all(|(key, _)| matches!(key, Self::Text(_)));
        let is_choice = matches!(&entries[..], [(_, Self::Map(inner))] if is_record(inner));
        if is_choice { entries[0].1.record() } else { Some(entries) }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Array(items) => items.len() as u64,
            Self::Map(entries) => entries.len() as u64,
            _ => 0,
        }
    }
}

impl From<&str> for Cbor {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

fn head(major: u8, value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let (info, from) = match value {
        0..24 => return vec![major << 5 | bytes[7]],
        24..0x100 => (24, 7),
        0x100..0x1_0000 => (25, 6),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 0),
    };
    [&[major << 5 | info], &bytes[from..]].concat()
}

fn take(bytes: &[u8]) -> (Cbor, &[u8]) {
    let (first, rest) = bytes.split_first().expect("an item");
    let (major, info) = (first >> 5, first & 0x1f);
    let width = match info {
        0..24 => 0,
        24..28 => 1 << (info - 24),
        _ => panic!("an indefinite length"),
    };
    let (argument, rest) = rest.split_at(width);
    if major == 7 || major == 1 {
        return (Cbor::Other(bytes[..=width].to_vec()), rest);
    }
    let value = argument.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let value = if width == 0 { u64::from(info) } else { value };
    let length = usize::try_from(value).unwrap();
    match major {
        0 => (Cbor::Unsigned(value), rest),
        2 => (Cbor::Bytes(rest[..length].to_vec()), &rest[length..]),
        3 => (Cbor::Text(String::from_utf8(rest[..length].to_vec()).unwrap()), &rest[length..]),
        4 => {
            let (items, rest) = take_many(rest, length);
            (Cbor::Array(items), rest)
        }
        5 => {
            let (items, rest) = take_many(rest, 2 * length);
            let entries = items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            (Cbor::Map(entries), rest)
        }
        _ => panic!("a tag"),
    }
}

fn take_many(mut rest: &[u8], count: usize) -> (Vec<Cbor>, &[u8]) {
    let mut items = Vec::new();
    for _ in 0..count {
        let (item, after) = take(rest);
        items.push(item);
        rest = after;
    }
    (items, rest)
}
