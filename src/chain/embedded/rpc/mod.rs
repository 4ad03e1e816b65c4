//! Tendermint JSON-RPC, as CometBFT 0.38 speaks it: a request in bytes, an answer in bytes.
//!
//! `request` reads what may come (JSON body or URI), `answers` computes. The same for HTTP, websocket and peers.

mod answers;
mod request;

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

pub(super) use self::answers::block_identity;
pub(super) use self::request::{Call, Uri};
use super::Node;

/// The longest request in bytes: a transaction of 512 KiB in base64, with room.
pub(super) const MAX_REQUEST: usize = 1024 * 1024;

/// An error of JSON-RPC 2.0, with CometBFT's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Error {
    code: i32,
    message: &'static str,
    data: String,
}

impl Error {
    pub(super) fn parse(data: impl ToString) -> Self {
        Self { code: -32700, message: "Parse error. Invalid JSON", data: data.to_string() }
    }

    pub(super) fn invalid_request(data: impl ToString) -> Self {
        Self { code: -32600, message: "Invalid Request", data: data.to_string() }
    }

    pub(super) fn method_not_found(method: &str) -> Self {
        Self { code: -32601, message: "Method not found", data: method.chars().take(80).collect() }
    }

    pub(super) fn invalid_params(data: impl ToString) -> Self {
        Self { code: -32602, message: "Invalid params", data: data.to_string() }
    }

    pub(super) fn internal(data: impl ToString) -> Self {
        Self { code: -32603, message: "Internal error", data: data.to_string() }
    }
}

/// A request with the id that its answer repeats.
pub(super) struct Request {
    pub id: Value,
    pub method: String,
    pub params: Value,
}

impl Request {
    /// Reads the envelope. Errors come as the answer to send.
    pub(super) fn read(body: &[u8]) -> Result<Self, Vec<u8>> {
        if body.len() > MAX_REQUEST {
            let reason = format!("a request has at most {MAX_REQUEST} bytes");
            return Err(envelope(&Value::Null, Err(Error::invalid_request(reason))));
        }
        let value: Value =
            serde_json::from_slice(body).map_err(|error| envelope(&Value::Null, Err(Error::parse(error))))?;
        let Value::Object(mut object) = value else {
            return Err(envelope(&Value::Null, Err(Error::invalid_request("one JSON object a request"))));
        };
        let id = object.remove("id").filter(is_id).unwrap_or(Value::Null);
        let Some(Value::String(method)) = object.remove("method") else {
            return Err(envelope(&id, Err(Error::invalid_request("`method` is missing"))));
        };
        Ok(Self { id, method, params: object.remove("params").unwrap_or(Value::Null) })
    }
}

/// JSON-RPC ids are texts or numbers; a long one would be a cheap way to have us repeat it.
fn is_id(id: &Value) -> bool {
    match id {
        Value::String(text) => text.len() <= 128,
        Value::Number(_) => true,
        _ => false,
    }
}

/// The answer to a request, whatever it is.
pub(super) async fn answer(node: &Arc<Node>, body: &[u8]) -> Vec<u8> {
    match Request::read(body) {
        Ok(request) => answer_request(node, request).await,
        Err(refusal) => refusal,
    }
}

pub(super) async fn answer_request(node: &Arc<Node>, request: Request) -> Vec<u8> {
    let result = match Call::from_json(&request.method, request.params) {
        Ok(call) => perform(node, call).await,
        Err(error) => Err(error),
    };
    envelope(&request.id, result)
}

pub(super) async fn perform(node: &Arc<Node>, call: Call) -> Result<Value, Error> {
    answers::perform(node.clone(), call).await
}

/// Result or error with the version and id around it.
pub(super) fn envelope(id: &Value, result: Result<Value, Error>) -> Vec<u8> {
    // CometBFT answers what has no id with -1; clients accept no null there.
    let id = if id.is_null() { &json!(-1) } else { id };
    let envelope = match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": id, "error": error }),
    };
    envelope.to_string().into_bytes()
}
