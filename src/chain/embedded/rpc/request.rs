//! What may be asked, and how it is read from a JSON body or from a URI.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tendermint_rpc::endpoint::{abci_query, block, broadcast::tx_sync, tx};

use super::Error;
use crate::types::Digest;

/// One thing that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Call {
    Health,
    Status,
    AbciInfo,
    AbciQuery { path: String, data: Vec<u8> },
    Broadcast { mode: Broadcast, transaction: Vec<u8> },
    Transaction { hash: Digest },
    Block { height: Option<u64> },
    BlockResults { height: Option<u64> },
    Header { height: Option<u64> },
    Commit { height: Option<u64> },
    Validators { height: Option<u64> },
    Genesis,
    NetInfo,
}

/// What a broadcast waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Broadcast {
    /// For nothing.
    Async,
    /// That it waits for a block.
    Sync,
    /// That it is final.
    Commit,
}

impl Call {
    /// Reads method and parameters of a JSON body: named parameters, as every client of Tendermint sends them.
    pub(in super::super) fn from_json(method: &str, params: Value) -> Result<Self, Error> {
        let params = match params {
            Value::Null => json!({}),
            Value::Array(list) if list.is_empty() => json!({}),
            Value::Object(_) => params,
            _ => return Err(Error::invalid_params("parameters come by name, in an object")),
        };
        Ok(match method {
            "health" => Self::Health,
            "status" => Self::Status,
            "abci_info" => Self::AbciInfo,
            "genesis" => Self::Genesis,
            "net_info" => Self::NetInfo,
            "abci_query" => Self::abci_query(read(params)?)?,
            "broadcast_tx_async" => Self::broadcast(Broadcast::Async, params)?,
            "broadcast_tx_sync" => Self::broadcast(Broadcast::Sync, params)?,
            "broadcast_tx_commit" => Self::broadcast(Broadcast::Commit, params)?,
            "tx" => Self::transaction(params)?,
            "block" => Self::Block { height: height(params)? },
            "block_results" => Self::BlockResults { height: height(params)? },
            "header" => Self::Header { height: height(params)? },
            "commit" => Self::Commit { height: height(params)? },
            "validators" => Self::Validators { height: height(params)? },
            _ => return Err(Error::method_not_found(method)),
        })
    }

    fn abci_query(request: abci_query::Request) -> Result<Self, Error> {
        if request.prove {
            return Err(Error::invalid_params("`prove`: this ledger serves no proofs over abci_query yet"));
        }
        // The state is that of the last block; an earlier one is gone.
        if request.height.is_some_and(|height| height.value() != 0) {
            return Err(Error::invalid_params("`height`: only the latest height can be queried"));
        }
        Ok(Self::AbciQuery { path: request.path.unwrap_or_default(), data: request.data })
    }

    fn broadcast(mode: Broadcast, params: Value) -> Result<Self, Error> {
        check_base64("tx", &params)?;
        // All three requests have the same one field.
        let request: tx_sync::Request = read(params)?;
        Ok(Self::Broadcast { mode, transaction: request.tx })
    }

    fn transaction(mut params: Value) -> Result<Self, Error> {
        if let Value::Object(object) = &mut params {
            object.entry("prove").or_insert(json!(false));
        }
        check_base64("hash", &params)?;
        let request: tx::Request = read(params)?;
        if request.prove {
            return Err(Error::invalid_params("`prove`: this ledger serves no proofs with transactions yet"));
        }
        let hash = Digest::from_slice(request.hash.as_bytes());
        Ok(Self::Transaction { hash: hash.ok_or_else(|| Error::invalid_params("`hash` has 32 bytes"))? })
    }
}

/// The library's decoder panics on padding without anything before it.
fn check_base64(name: &str, params: &Value) -> Result<(), Error> {
    let Some(text) = params.get(name).and_then(Value::as_str) else { return Ok(()) };
    let digits = text.strip_suffix("==").or(text.strip_suffix('=')).unwrap_or(text);
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    if text.len().is_multiple_of(4) && digits.bytes().all(good) {
        return Ok(());
    }
    Err(Error::invalid_params(format!("`{name}` is base64, padded with `=` to a multiple of 4")))
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(Error::invalid_params)
}

/// A height as text or number; 0 and nothing mean the latest.
fn height(mut params: Value) -> Result<Option<u64>, Error> {
    if let Some(height) = params.get_mut("height").filter(|height| height.is_number()) {
        *height = Value::String(height.to_string());
    }
    let request: block::Request = read(params)?;
    Ok(request.height.map(|height| height.value()).filter(|height| *height != 0))
}

/// The parameters of a GET, as CometBFT reads them: `"text"` in quotes, bytes as `0x…`, numbers bare.
#[derive(Debug)]
pub(in super::super) struct Uri(pub BTreeMap<String, String>);

impl Uri {
    /// The same parameters as a JSON body has them.
    pub(in super::super) fn into_json(self) -> Result<Value, Error> {
        let mut params = Map::new();
        for (name, text) in self.0 {
            let value = match name.as_str() {
                "tx" | "hash" => base64(&uri_bytes(&name, &text)?),
                "data" => Value::String(hex::encode(uri_bytes(&name, &text)?)),
                "prove" => Value::Bool(text == "true" || text == "1"),
                _ => Value::String(unquoted(&text).unwrap_or(&text).to_owned()),
            };
            params.insert(name, value);
        }
        Ok(Value::Object(params))
    }
}

fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

fn uri_bytes(name: &str, text: &str) -> Result<Vec<u8>, Error> {
    if let Some(text) = unquoted(text) {
        return Ok(text.as_bytes().to_vec());
    }
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode(digits)
        .map_err(|_| Error::invalid_params(format!("`{name}` is 0x and hexadecimal digits, or \"text\"")))
}

/// Base64 by way of a type that serialises so.
fn base64(bytes: &[u8]) -> Value {
    let request = serde_json::to_value(tx_sync::Request::new(bytes)).unwrap_or_default();
    request.get("tx").cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(method: &str, pairs: &[(&str, &str)]) -> Result<Call, Error> {
        let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Call::from_json(method, Uri(pairs).into_json()?)
    }

    #[test]
    fn a_get_means_what_the_body_means() {
        let hash = Digest::of(b"tx");
        assert_eq!(uri("block", &[("height", "5")]), Ok(Call::Block { height: Some(5) }));
        assert_eq!(uri("block", &[("height", "\"5\"")]), Ok(Call::Block { height: Some(5) }));
        assert_eq!(Call::from_json("block", json!({"height": 5})), Ok(Call::Block { height: Some(5) }));
        assert_eq!(uri("tx", &[("hash", &format!("0x{hash}"))]), Ok(Call::Transaction { hash }));
        let query = Call::AbciQuery { path: "/a".to_owned(), data: vec![1, 2] };
        assert_eq!(uri("abci_query", &[("path", "\"/a\""), ("data", "0x0102")]), Ok(query));
        let broadcast = Call::Broadcast { mode: Broadcast::Sync, transaction: b"x=y".to_vec() };
        assert_eq!(uri("broadcast_tx_sync", &[("tx", "\"x=y\"")]), Ok(broadcast));
    }

    #[test]
    fn what_is_no_request_says_why() {
        assert_eq!(Call::from_json("unsafe_flush_mempool", Value::Null).unwrap_err().code, -32601);
        for (method, params) in [
            ("block", json!({"height": "-1"})),
            ("tx", json!({"hash": "AAAA"})),
            ("tx", json!({})),
            ("tx", json!({"hash": "===="})),
            ("broadcast_tx_sync", json!({"tx": "===="})),
            ("broadcast_tx_commit", json!({"tx": "AAAA===="})),
            ("broadcast_tx_async", json!({"tx": "A==="})),
            ("broadcast_tx_sync", json!({"tx": "AAA"})),
            ("broadcast_tx_sync", json!({"tx": "AA\u{e9}"})),
            ("abci_query", json!({"data": "zz"})),
            ("abci_query", json!({"data": "", "prove": true})),
            ("broadcast_tx_sync", json!(["AAAA"])),
        ] {
            assert_eq!(Call::from_json(method, params.clone()).unwrap_err().code, -32602, "{method} {params}");
        }
    }
}
