//! A transaction as a chain's RPC shows it.
//!
//! The library's own form of this answer hands on the base64 of a result's data as if it were the data. What is read
//! here is the part that the outbox needs, and the data decoded.

use serde::{Deserialize, Serialize};
use tendermint::{Hash, block::Height};
use tendermint_proto::serializers::bytes::base64string;
use tendermint_rpc::{Method, Request, Response, SimpleRequest, endpoint::tx, request::RequestMessage};

use super::outbox::Found;
use crate::types::Digest;

/// Asks for the transaction of a hash.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Find(tx::Request);

impl Find {
    pub(super) fn new(hash: &Digest) -> Self {
        Self(tx::Request::new(Hash::Sha256(hash.0), false))
    }
}

impl RequestMessage for Find {
    fn method(&self) -> Method {
        Method::Tx
    }
}

impl Request for Find {
    type Response = Answer;
}

impl SimpleRequest for Find {
    type Output = Answer;
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    height: Height,
    tx_result: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    log: String,
    #[serde(default, with = "base64string")]
    data: Vec<u8>,
}

impl Response for Answer {}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Self {
        let Outcome { code, log, data } = answer.tx_result;
        Self { code, log, data, height: answer.height.value() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cometbft_answers_is_read_with_its_data_decoded() {
        let answer = |data: &str| {
            let text = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{{\"hash\":\"AB\",\"height\":\"7\",\"index\":0,\"tx_result\":\
                 {{\"code\":0,\"data\":{data},\"log\":\"fine\",\"events\":[]}},\"tx\":\"\"}}}}"
            );
            Answer::from_string(text).map(Found::from)
        };
        let found = Found { code: 0, log: "fine".to_owned(), data: b"job".to_vec(), height: 7 };
        assert_eq!(answer("\"am9i\"").unwrap(), found);
        assert_eq!(answer("null").unwrap().data, b"");
        assert!(answer("\"&\"").is_err());
    }
}
