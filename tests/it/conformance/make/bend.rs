//! The ways in which an encoding can differ from what our writers write.

use super::super::cbor::Cbor;

/// The entries of a record.
type Record = Vec<(Cbor, Cbor)>;

/// Encodings of the same value, but for an entry that nobody knows.
pub(super) fn tolerated(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut bent = Vec::new();
    let mut add = |name, change: &dyn Fn(&mut Record)| {
        let mut item = Cbor::parse(bytes);
        if let Some(record) = item.record() {
            change(record);
            bent.push((name, item.encode()));
        }
    };
    add("unknown field", &|record| record.push(("a_later_field".into(), Cbor::Array(vec![Cbor::Unsigned(7)]))));
    add("fields in another order", &|record| record.reverse());
    bent.retain(|(_, changed)| changed != bytes);
    bent
}

/// Encodings of no value, each with why. The field at `required` must be there.
pub(super) fn refused(bytes: &[u8], required: usize) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut bent = vec![
        ("empty", Vec::new(), "no byte at all"),
        ("cut", bytes[..bytes.len() - 1].to_vec(), "the last byte is missing"),
        ("byte after the end", [bytes, &[0]].concat(), "one item and nothing after it"),
        (
            "unknown kind",
            Cbor::Map(vec![("A_later_kind".into(), Cbor::Map(vec![]))]).encode(),
            "no such kind or record",
        ),
    ];
    let mut add = |name, why, change: &dyn Fn(&mut Record)| {
        let mut item = Cbor::parse(bytes);
        if let Some(record) = item.record() {
            change(record);
            bent.push((name, item.encode(), why));
        }
    };
    add("missing field", "a field that may not be null is missing", &|record| drop(record.remove(required)));
    add("repeated field", "the first field stands twice", &|record| record.push(record[0].clone()));
    add("mistyped field", "the first field is a bool", &|record| record[0].1 = Cbor::Other(vec![0xf5]));
    bent
}

/// One level more than readers take.
pub(super) fn deep() -> Vec<u8> {
    [vec![0x81; 33], vec![0]].concat()
}
