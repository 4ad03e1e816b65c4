//! Transactions and their results as a chain's RPC shows them.
//!
//! The library's own form of this answer hands on the base64 of a result's data as if it were the data. What is read
//! here is the part that the outbox needs, and the data decoded.

use serde::{Deserialize, Serialize};
use tendermint::{Hash, block::Height};
use tendermint_proto::serializers::{bytes::base64string, from_str};
use tendermint_rpc::{
    Method, Request, Response, SimpleRequest,
    endpoint::{block_results, tx},
    request::RequestMessage,
};

use super::facts::Found;
use crate::{chain::light::block::Agreed, types::Digest};

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

/// What came of a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    log: String,
    #[serde(default, with = "base64string")]
    data: Vec<u8>,
    #[serde(default, with = "from_str")]
    gas_wanted: i64,
    #[serde(default, with = "from_str")]
    gas_used: i64,
}

impl Response for Answer {}

impl Outcome {
    pub(super) fn at(self, height: u64) -> Found {
        let Self { code, log, data, .. } = self;
        Found { code, log, data, height }
    }

    /// The part of it that a header commits to.
    pub(super) fn agreed(&self) -> Agreed {
        let Self { code, data, gas_wanted, gas_used, .. } = self.clone();
        Agreed { code, data, gas_wanted, gas_used }
    }
}

impl From<Answer> for Found {
    fn from(answer: Answer) -> Self {
        answer.tx_result.at(answer.height.value())
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
        let height = self.height.value();
        self.all().into_iter().nth(position).map(|outcome| outcome.at(height))
    }

    /// All of them.
    pub(super) fn all(self) -> Vec<Outcome> {
        self.txs_results.unwrap_or_default()
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
