//! An RPC server that lies: it stands before an honest one and changes what comes back.

use std::sync::{Arc, Mutex};

use atlas_node::{
    chain::{
        records::{Account, Holder, Object, Updates},
        wire::{Code, query},
    },
    codec,
    types::NodeKey,
};
use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use tendermint_proto::serializers::bytes::base64string;

/// The holder that [`Lie::Holder`] adds.
pub(super) const NOBODY: NodeKey = NodeKey([7; 32]);

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// Nothing yet.
    None,
    /// Flips a bit in the last record of the updates.
    Records,
    /// Leaves the last record of the updates out.
    Omission,
    /// Adds to the balance of an account.
    Balance,
    /// Adds a holder to an object.
    Holder,
    /// Says that transactions failed.
    Results,
    /// Says what it said before, and keeps to itself what it is given.
    OldState,
    /// Says that the ledger's check refuses each transaction.
    Refusal,
    /// Says that there is no room for a transaction.
    NoRoom,
    /// Says that the nonce of each transaction is used.
    UsedNonce,
    /// Takes transactions and keeps them to itself; all else is true.
    Swallow,
}

/// A running proxy.
#[derive(Clone)]
pub(super) struct Liar {
    upstream: String,
    client: reqwest::Client,
    told: Arc<Mutex<Told>>,
}

struct Told {
    lie: Lie,
    /// The last answers to what is asked for old states of.
    status: Value,
    height: u64,
    /// Answers that were lies.
    lies: usize,
}

impl Liar {
    /// Stands before the RPC at `upstream`; also its URL.
    pub(super) async fn start(upstream: String, lie: Lie) -> (Self, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let told = Told { lie, status: Value::Null, height: 0, lies: 0 };
        let liar = Self { upstream, client: reqwest::Client::new(), told: Arc::new(Mutex::new(told)) };
        let router = Router::new().route("/", post(answer)).with_state(liar.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (liar, url)
    }

    /// Lies like this from now on.
    pub(super) fn begin(&self, lie: Lie) {
        self.told.lock().unwrap().lie = lie;
    }

    /// What it says of a transaction that it does not hand on.
    fn keeps(&self, request: &Value) -> Option<Value> {
        let mut told = self.told.lock().unwrap();
        if request["method"] != "broadcast_tx_sync" {
            return None;
        }
        let result = |code: u32, log: &str| {
            let result = json!({ "code": code, "data": "", "log": log, "codespace": "", "hash": "AB".repeat(32) });
            json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
        };
        let said = match told.lie {
            Lie::OldState | Lie::Swallow => result(0, ""),
            Lie::Refusal => result(Code::Malformed as u32, "that is no transaction"),
            Lie::UsedNonce => result(Code::Nonce as u32, "its nonce is used"),
            Lie::NoRoom => error(request, "mempool is full: number of txs 5000 (max: 5000)"),
            _ => return None,
        };
        told.lies += 1;
        Some(said)
    }

    /// How often it lied.
    pub(super) fn lies(&self) -> usize {
        self.told.lock().unwrap().lies
    }
}

async fn answer(State(liar): State<Liar>, Json(request): Json<Value>) -> Json<Value> {
    if let Some(said) = liar.keeps(&request) {
        return Json(said);
    }
    let sent = liar.client.post(&liar.upstream).json(&request).send().await;
    let mut answer: Value = match sent {
        Ok(response) => response.json().await.unwrap_or(Value::Null),
        Err(error) => {
            json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32603, "message": error.to_string() } })
        }
    };
    let mut told = liar.told.lock().unwrap();
    let method = request["method"].as_str().unwrap_or_default().to_owned();
    if told.lie == Lie::OldState {
        told.old(&method, &request, &mut answer);
        return Json(answer);
    }
    match method.as_str() {
        "status" => told.status = answer["result"].clone(),
        "abci_query" => told.query(&request, &mut answer),
        "block_results" if told.lie == Lie::Results => told.results(&mut answer),
        _ => {}
    }
    Json(answer)
}

impl Told {
    fn query(&mut self, request: &Value, answer: &mut Value) {
        let path = request["params"]["path"].as_str().unwrap_or_default().to_owned();
        let value = &mut answer["result"]["response"]["value"];
        let Ok(bytes) = base64string::deserialize::<_, Vec<u8>>(value.clone()) else { return };
        match path.as_str() {
            query::UPDATES => {
                let Ok(mut page) = codec::decode::<Updates>(&bytes, usize::MAX) else { return };
                self.height = page.height;
                let lied = match self.lie {
                    Lie::Records => page.records.last_mut().and_then(|record| record.value.as_mut()).map(|value| {
                        *value.last_mut().unwrap() ^= 1;
                    }),
                    Lie::Omission => page.records.pop().map(drop),
                    _ => None,
                };
                if lied.is_some() {
                    self.lies += 1;
                    *value = base64(&codec::encode(&page));
                }
            }
            query::GET_ACCOUNT if self.lie == Lie::Balance => {
                let mut account: Account = codec::decode(&bytes, 1_000).unwrap();
                account.balance += 1_000_000;
                self.lies += 1;
                *value = base64(&codec::encode(&account));
            }
            query::GET_OBJECT if self.lie == Lie::Holder => {
                let mut object: Option<Object> = codec::decode(&bytes, 10_000).unwrap();
                let Some(object) = &mut object else { return };
                object.holders.push(Holder { node: NOBODY, epoch: 0 });
                self.lies += 1;
                *value = base64(&codec::encode(&Some(object)));
            }
            _ => {}
        }
    }

    fn results(&mut self, answer: &mut Value) {
        for result in answer["result"]["txs_results"].as_array_mut().into_iter().flatten() {
            result["code"] = json!(5);
            self.lies += 1;
        }
    }

    /// As if no block had come since.
    fn old(&mut self, method: &str, request: &Value, answer: &mut Value) {
        self.lies += 1;
        let asked = request["params"]["height"].as_str().and_then(|height| height.parse::<u64>().ok());
        let missing = asked.is_some_and(|height| height > self.height);
        match method {
            "status" if !self.status.is_null() => answer["result"] = self.status.clone(),
            "abci_query" if request["params"]["path"] == query::UPDATES => {
                let page = Updates { height: self.height, more: false, whole: false, records: Vec::new() };
                answer["result"]["response"]["value"] = base64(&codec::encode(&page));
            }
            "tx" => *answer = error(request, "tx not found"),
            "commit" | "block" | "block_results" | "validators" if missing => {
                *answer = error(request, "height must be less than or equal to the current blockchain height");
            }
            _ => {}
        }
    }
}

fn error(request: &Value, words: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32603, "message": "Internal error", "data": words } })
}

fn base64(bytes: &[u8]) -> Value {
    base64string::serialize(&bytes, serde_json::value::Serializer).unwrap()
}
