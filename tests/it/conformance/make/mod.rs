//! Makes the vectors: fixed keys, fixed values, and every way in which bytes of each kind go wrong.

mod bend;
mod content;
mod control;
mod gossip;
mod ledger;
mod messages;
pub(crate) mod sample;
mod signed;
mod values;

use atlas_node::{
    codec,
    identity::Keypair,
    types::{Signed, SignedObject},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    compute, registry,
    vectors::{Bytes, Computed, Page, Vector},
};

/// The one signed object whose reader, the ledger, answers with codes, and which speaks for nobody else.
const TRANSACTION: &str = "signed-transaction";

/// All pages' vectors.
pub(crate) fn pages() -> Vec<Page> {
    let mut pages = Vec::new();
    pages.extend(values::pages());
    pages.extend(messages::pages());
    pages.extend(signed::pages());
    pages.extend(gossip::pages());
    pages.extend(ledger::pages());
    pages.extend(content::pages());
    pages.extend(control::pages());
    pages
}

/// One page's vectors as they are collected.
struct Maker(Page);

impl Maker {
    fn new(page: &str) -> Self {
        Self(Page { page: page.into(), vectors: Vec::new(), computed: Vec::new() })
    }

    fn done(self) -> Page {
        self.0
    }

    /// Bytes that are read. What they mean, and what a writer writes if that is something else, says the decoder; that it
    /// is right, the second reader says.
    fn valid(&mut self, kind: &str, name: &str, bytes: &[u8]) {
        let read = registry::find(kind).decode(bytes).unwrap_or_else(|error| panic!("{kind}: {name}: {error}"));
        let written = (read.written != read.read).then_some(read.written);
        self.0.vectors.push(Vector::valid(kind, name, bytes.into(), read.value, written));
    }

    fn invalid(&mut self, kind: &str, name: &str, bytes: impl Into<Bytes>, error: &str, why: &str) {
        self.0.vectors.push(Vector::invalid(kind, name, bytes.into(), error, why));
    }

    fn computed(&mut self, function: &str, input: Value) {
        let output = compute::run(function, &input);
        self.0.computed.push(Computed { function: function.into(), input, output });
    }

    /// A message or record in CBOR, and what every reader of its kind must take and refuse. The first one is bent.
    fn cbor<T: Serialize>(&mut self, kind: &str, samples: &[(&str, T)]) {
        self.cbor_with(kind, samples, 0);
    }

    /// The same of a record whose field at `required`, and not the first, must be there.
    fn cbor_with<T: Serialize>(&mut self, kind: &str, samples: &[(&str, T)], required: usize) {
        for (name, sample) in samples {
            self.valid(kind, name, &codec::encode(sample));
        }
        let bytes = codec::encode(&samples[0].1);
        for (name, bytes) in bend::tolerated(&bytes) {
            self.valid(kind, name, &bytes);
        }
        for (name, bytes, why) in bend::refused(&bytes, required) {
            self.invalid(kind, name, &bytes[..], "malformed", why);
        }
        self.invalid(kind, "33 levels", &bend::deep()[..], "too_deep", "readers refuse nesting deeper than 32");
        if let Some(limit) = registry::find(kind).limit {
            let why = "over the limit by one byte, whatever the bytes are";
            self.invalid(kind, "one byte too long", Bytes::zeros(&[], limit + 1), "too_long", why);
        }
    }

    /// A signed object, and what every reader of its kind must take and refuse. The first one is bent.
    fn signed<T: SignedObject>(&mut self, kind: &str, samples: &[(&str, T)]) {
        let own = &sample::keypair_of(&samples[0].1);
        for (name, object) in samples {
            self.valid(kind, name, &envelope(&sample::keypair_of(object).seal(object)));
        }
        let first = own.seal(&samples[0].1);
        for (name, body) in bend::tolerated(&first.body) {
            self.valid(kind, name, &envelope(&sample::sign::<T>(own, &body)));
        }
        for (name, body, why) in bend::refused(&first.body, 0) {
            self.invalid(kind, name, &envelope(&sample::sign::<T>(own, &body))[..], error_of(kind, "body"), why);
        }
        self.signatures::<T>(kind, own, &first);
        self.limits::<T>(kind, own, &first);
    }

    fn signatures<T: SignedObject>(&mut self, kind: &str, own: &Keypair, first: &Signed) {
        let other = sample::keypair(9);
        let signature = error_of(kind, "signature");
        let newer =
            Signed { signature: sample::signature(own, &format!("{}+1", T::DOMAIN), &first.body), ..first.clone() };
        let why = "signed under another domain, as a newer version of the object would be";
        self.invalid(kind, "another domain", &envelope(&newer)[..], signature, why);
        let mut altered = first.clone();
        *altered.body.last_mut().unwrap() ^= 1;
        let why = "the last byte of the body is not the one that was signed";
        self.invalid(kind, "altered body", &envelope(&altered)[..], signature, why);
        let stolen = Signed { signer: other.node_key(), ..first.clone() };
        let why = "the signature is that of another key";
        self.invalid(kind, "another signer", &envelope(&stolen)[..], signature, why);
        let mut high = first.clone();
        high.signature = sample::unreduced(&first.signature);
        let why = "S is not reduced: the same signature in another form";
        self.invalid(kind, "malleable signature", &envelope(&high)[..], signature, why);
        let weak = Signed { body: first.body.clone(), signer: sample::weak_key(), signature: sample::weak_signature() };
        let why = "a key of small order, under which this signature fits every body";
        self.invalid(kind, "weak key", &envelope(&weak)[..], signature, why);
        let no_key = Signed { signer: sample::no_key(), ..first.clone() };
        let why = "the signer is no point of the curve";
        self.invalid(kind, "no key", &envelope(&no_key)[..], error_of(kind, "signer"), why);
        if kind != TRANSACTION {
            let foreign = sample::sign::<T>(&other, &first.body);
            let why = "rightly signed by another than the node that it speaks for";
            self.invalid(kind, "speaks for another", &envelope(&foreign)[..], "speaker", why);
        }
    }

    fn limits<T: SignedObject>(&mut self, kind: &str, own: &Keypair, first: &Signed) {
        let [too_long, too_deep, malformed] = ["too_long", "too_deep", "malformed"].map(|error| error_of(kind, error));
        let long = sample::sign::<T>(own, &vec![0; T::LIMIT + 1]);
        let why = "rightly signed, but the body is over the limit by one byte";
        self.invalid(kind, "body one byte too long", long_envelope(&long), too_long, why);
        let whole = envelope(first);
        self.invalid(kind, "cut envelope", &whole[..whole.len() - 1], malformed, "the last byte is missing");
        let trailing = [&whole[..], &[0]].concat();
        self.invalid(kind, "byte after the envelope", &trailing[..], malformed, "a byte after the end");
        self.invalid(kind, "not signed", &first.body[..], malformed, "the object without its envelope");
        self.invalid(kind, "33 levels", &bend::deep()[..], too_deep, "readers refuse nesting deeper than 32");
    }
}

/// What the ledger answers instead of `error`, which is a signed object's: a code.
fn error_of(kind: &str, error: &'static str) -> &'static str {
    match error {
        _ if kind != TRANSACTION => error,
        "signer" | "signature" => "code 2",
        _ => "code 1",
    }
}

fn envelope(signed: &Signed) -> Vec<u8> {
    codec::encode(signed)
}

/// The envelope of a body of zeros, whose bytes are not all written down.
fn long_envelope(signed: &Signed) -> Bytes {
    use super::vectors::Part;
    let whole = envelope(signed);
    let start = whole.windows(8).position(|window| window == [0; 8]).unwrap();
    let end = start + signed.body.len();
    Bytes::Parts(vec![
        Part::Hex(hex::encode(&whole[..start])),
        Part::Run { repeat: "00".into(), times: signed.body.len() },
        Part::Hex(hex::encode(&whole[end..])),
    ])
}
