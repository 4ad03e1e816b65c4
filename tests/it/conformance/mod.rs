//! The wire contract, kept: `protocols/` against the code.
//!
//! `protocols/vectors/*.json` hold bytes and what they mean. They are made by [`write`] from fixed keys and values, and
//! committed; the tests read the files alone, and put every vector through the node's own decoders ([`registry`]).
//! [`coverage`] fails when a wire type has no page or no vector, [`reader`] has a second reader, in another language, check
//! the same files.

mod cbor;
mod compute;
mod coverage;
mod decode;
mod fuzzed;
pub(crate) mod make;
mod reader;
mod registry;
mod vectors;
mod versions;

use std::collections::BTreeMap;

use vectors::{Page, Vector};

/// Writes the vectors anew: `cargo test --test it conformance::write -- --ignored`.
#[test]
#[ignore = "changes files: run it after a change of the wire contract, and look at the difference"]
fn write() {
    for page in make::pages() {
        page.write();
    }
}

#[test]
fn the_committed_vectors_are_those_that_are_made() {
    for page in make::pages() {
        assert_eq!(Page::read(&page.page).to_json(), page.to_json(), "{}: write the vectors anew", page.page);
    }
}

#[test]
fn every_valid_vector_is_read_and_written_again_to_the_same_bytes() {
    for (page, vector) in all() {
        let Some(value) = &vector.value else { continue };
        let place = format!("{page}: {}: {}", vector.kind, vector.name);
        let read = registry::find(&vector.kind).decode(&vector.bytes());
        let read = read.unwrap_or_else(|error| panic!("{place}: refused as {error}"));
        assert_eq!(read.value, *value, "{place}");
        assert_eq!(read.written, vector.written_bytes().unwrap_or(read.read), "{place}");
    }
}

#[test]
fn every_invalid_vector_is_refused_with_the_stated_error() {
    for (page, vector) in all() {
        let Some(stated) = &vector.error else { continue };
        let place = format!("{page}: {}: {}", vector.kind, vector.name);
        assert!(vector.why.is_some(), "{place}: does not say why");
        match registry::find(&vector.kind).decode(&vector.bytes()) {
            Ok(read) => panic!("{place}: taken for {}", read.value),
            Err(error) => assert_eq!(error, *stated, "{place}"),
        }
    }
}

/// Of each message that comes from strangers.
#[test]
fn every_message_has_a_malformed_an_oversize_a_deep_and_a_cut_vector() {
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, vector) in all().filter(|(_, vector)| vector.error.is_some()) {
        refused.entry(vector.kind).or_default().push(vector.name);
    }
    let of_strangers =
        |kind: &str| kind.ends_with("-request") || kind.ends_with("-response") || kind.starts_with("signed-");
    let messages: Vec<_> = refused.iter().filter(|(kind, _)| of_strangers(kind)).collect();
    assert!(messages.len() >= 20, "{} kinds of messages", messages.len());
    for (kind, names) in messages {
        let tried = |words: &[&str]| words.iter().any(|word| names.iter().any(|name| name.contains(word)));
        assert!(tried(&["unknown kind"]), "{kind}: malformed");
        assert!(tried(&["one byte too long"]), "{kind}: oversize");
        assert!(tried(&["cut"]) && tried(&["byte after"]), "{kind}: cut, and with bytes behind it");
        // The shard protocol is no CBOR: it can't nest.
        assert!(tried(&["33 levels"]) || kind.starts_with("shard-"), "{kind}: deep");
        assert!(tried(&["signature", "another domain"]) || !kind.starts_with("signed-"), "{kind}: wrongly signed");
    }
}

#[test]
fn everything_computed_comes_out_as_stated() {
    for page in Page::all() {
        for computed in &page.computed {
            let output = compute::run(&computed.function, &computed.input);
            assert_eq!(output, computed.output, "{}: {}: {}", page.page, computed.function, computed.input);
        }
    }
}

fn all() -> impl Iterator<Item = (String, Vector)> {
    Page::all().into_iter().flat_map(|page| {
        let Page { page, vectors, .. } = page;
        vectors.into_iter().map(move |vector| (page.clone(), vector))
    })
}
