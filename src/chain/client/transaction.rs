//! Transactions and their results as a chain's RPC shows them.
//!
//! The library's own form of this answer hands on the base64 of a result's data as if it were the data. What is read
//! here is the part that the outbox needs, and the data decoded.

use serde::{Deserialize, Serialize};
use tendermint::{Hash, block::Height};
use tendermint_proto::serializers::bytes::base64string;
use tendermint_rpc::{
    Method, Request, Response, SimpleRequest,
    endpoint::{block_results, tx},
    request::RequestMessage,
};

use super::facts::Found;
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

impl Outcome {
    fn at(self, height: Height) -> Found {
        let Self { code, log, data } = self;
        Found { code, log, data, height: height.value() }
    }
}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Self {
        answer.tx_result.at(answer.height)
    }
}

/// Asks for the results of a block.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FindResults(block_results::Request);

impl FindResults {
    pub(super) fn at(height: Height) -> Self {
        Self(block_results::Request::new(height))
    }
}

impl RequestMessage for FindResults {
    fn method(&self) -> Method {
        Method::BlockResults
    }
}

impl Request for FindResults {
    type Response = Results;
}

impl SimpleRequest for FindResults {
    type Output = Results;
}

/// The results, in the order of the block's transactions.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Results {
    height: Height,
    #[serde(default)]
    txs_results: Option<Vec<Outcome>>,
}

impl Response for Results {}

impl Results {
    /// The result of the transaction at this place.
    pub(super) fn found(self, position: usize) -> Option<Found> {
        let outcome = self.txs_results?.into_iter().nth(position)?;
        Some(outcome.at(self.height))
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
