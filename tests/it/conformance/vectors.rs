//! The files of vectors, as `protocols/encoding.md` describes them.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Files beside the vectors that have a form of their own; their pages say which.
const OTHER_FORMS: &[&str] = &["aggregate"];

/// The vectors of one page.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// Its name without an ending.
    pub(crate) page: String,
    pub(crate) vectors: Vec<Vector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) computed: Vec<Computed>,
}

/// Bytes, and what they mean or why they are refused.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vector {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    bytes: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

/// A function of the page, and what it gives.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Computed {
    pub(crate) function: String,
    pub(crate) input: Value,
    pub(crate) output: Value,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Hex(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Part {
    Hex(String),
    Run { repeat: String, times: usize },
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self::Hex(hex::encode(bytes))
    }
}

impl Bytes {
    /// A head, then many zeros.
    pub(crate) fn zeros(head: &[u8], times: usize) -> Self {
        Self::Parts(vec![Part::Hex(hex::encode(head)), Part::Run { repeat: "00".into(), times }])
    }

    pub(crate) fn joined(&self) -> Vec<u8> {
        match self {
            Self::Hex(text) => hex::decode(text).unwrap(),
            Self::Parts(parts) => parts.iter().flat_map(Part::bytes).collect(),
        }
    }
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Hex(text) => hex::decode(text).unwrap(),
            Self::Run { repeat, times } => hex::decode(repeat).unwrap().repeat(*times),
        }
    }
}

impl Vector {
    pub(crate) fn valid(kind: &str, name: &str, bytes: Bytes, value: Value, written: Option<Vec<u8>>) -> Self {
        let written = written.map(|written| Bytes::from(&written[..]));
        Self { kind: kind.into(), name: name.into(), bytes, value: Some(value), written, error: None, why: None }
    }

    pub(crate) fn invalid(kind: &str, name: &str, bytes: Bytes, error: &str, why: &str) -> Self {
        let (error, why) = (Some(error.into()), Some(why.into()));
        Self { kind: kind.into(), name: name.into(), bytes, value: None, written: None, error, why }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.joined()
    }

    /// What a writer writes for the value, where it is not what was read.
    pub(crate) fn written_bytes(&self) -> Option<Vec<u8>> {
        self.written.as_ref().map(Bytes::joined)
    }
}

impl Page {
    pub(crate) fn all() -> Vec<Self> {
        names().iter().filter(|name| !OTHER_FORMS.contains(&name.as_str())).map(|name| Self::read(name)).collect()
    }

    pub(crate) fn read(name: &str) -> Self {
        let path = directory().join(format!("{name}.json"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn write(&self) {
        fs::write(directory().join(format!("{}.json", self.page)), self.to_json()).unwrap();
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap() + "\n"
    }
}

/// The names of all files of vectors, without their ending.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    let json = entries.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let mut names: Vec<String> = json.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// `protocols/`.
pub(crate) fn protocols() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("protocols")
}

fn directory() -> PathBuf {
    protocols().join("vectors")
}
