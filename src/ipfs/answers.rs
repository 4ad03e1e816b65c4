//! What Kubo answers, from bytes. Pure. A body holds JSON values one after the other; fields that are not known are ignored.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Result;

use crate::types::ContentId;

/// A pin of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePin {
    /// The root.
    pub root: ContentId,
    /// The name that it was pinned under; empty for none.
    pub name: String,
}

/// What the daemon has of a DAG that it pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Distinct blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The root is named, and no reason why it isn't pinned.
    Pinned,
    /// The root is not pinned, and why.
    Failed(String),
    /// The root is not named: a status of 200 alone is no success.
    Unsaid,
}

/// The version, to `version`; empty if there is none.
pub fn version(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Version")]
        version: String,
    }
    let answers: Vec<Answer> = lines(body)?;
    Ok(answers.into_iter().next().map(|answer| answer.version).unwrap_or_default())
}

/// The pins, to `pin/ls`.
pub fn pins(body: &[u8]) -> Result<Vec<RemotePin>> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "Cid")]
        cid: ContentId,
        #[serde(rename = "Name", default)]
        name: String,
    }
    let lines: Vec<Line> = lines(body)?;
    Ok(lines.into_iter().map(|line| RemotePin { root: line.cid, name: line.name }).collect())
}

/// What there is of a DAG, to `dag/stat`; `None` for an empty answer.
pub fn stat(body: &[u8]) -> Result<Option<Verified>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "UniqueBlocks")]
        blocks: u64,
        #[serde(rename = "TotalSize")]
        bytes: u64,
    }
    let answers: Vec<Answer> = lines(body)?;
    Ok(answers.into_iter().next().map(|answer| Verified { blocks: answer.blocks, bytes: answer.bytes }))
}

/// What became of `root`, to `dag/import`.
pub fn imported(body: &[u8], root: &ContentId) -> Result<Imported> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(rename = "Root")]
        root: Option<Root>,
    }
    #[derive(Deserialize)]
    struct Root {
        #[serde(rename = "Cid")]
        cid: CidLink,
        #[serde(rename = "PinErrorMsg", default)]
        pin_error: String,
    }
    #[derive(Deserialize)]
    struct CidLink {
        #[serde(rename = "/")]
        cid: ContentId,
    }
    let lines: Vec<Line> = lines(body)?;
    let named = lines.into_iter().filter_map(|line| line.root).find(|line| line.cid.cid == *root);
    Ok(match named {
        Some(line) if line.pin_error.is_empty() => Imported::Pinned,
        Some(line) => Imported::Failed(line.pin_error),
        None => Imported::Unsaid,
    })
}

/// An answer whose content does not matter.
pub fn any(body: &[u8]) -> Result<()> {
    lines::<serde::de::IgnoredAny>(body).map(drop)
}

/// The reason in an answer whose status is no success.
pub fn refusal(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "Message")]
        message: String,
    }
    serde_json::from_slice(body).map(|refusal: Refusal| refusal.message)
}

fn lines<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>> {
    serde_json::Deserializer::from_slice(body).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dag_pb::{RAW, content_id};

    #[test]
    fn nonsense_and_deep_nesting_are_errors_and_no_success() {
        let root = content_id(RAW, b"root");
        let deep = "[".repeat(1_000_000);
        for body in ["<html>", "{", "[]", "7", "{\"Root\":7}", "{\"Root\":{\"Cid\":{\"/\":\"../etc\"}}}", deep.as_str()]
        {
            assert!(imported(body.as_bytes(), &root).is_err(), "{:.40}", body);
            assert!(pins(body.as_bytes()).is_err() && stat(body.as_bytes()).is_err(), "{:.40}", body);
            assert!(version(body.as_bytes()).is_err() && refusal(body.as_bytes()).is_err(), "{:.40}", body);
        }
        for body in ["", "{}", "{\"Root\":null}"] {
            assert_eq!(imported(body.as_bytes(), &root).unwrap(), Imported::Unsaid, "{body}");
        }
        assert!(stat(b"{\"UniqueBlocks\":-1,\"TotalSize\":1}").is_err());
        assert!(stat(b"{\"UniqueBlocks\":1e400,\"TotalSize\":1}").is_err());
    }
}
