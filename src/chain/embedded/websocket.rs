//! One websocket: requests, and subscriptions to blocks and transactions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::extract::ws::{Message, WebSocket};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::{Value, json};
use tendermint::abci::{Event, response::FinalizeBlock};
use tendermint_rpc::{
    endpoint::subscribe,
    query::{Condition, EventType, Operand, Operation, Query},
};
use tokio::{sync::broadcast::error::RecvError, time::MissedTickBehavior};

use super::{
    Node,
    archive::Committed,
    rpc::{self, Error, Request},
};
use crate::{clock, types::Time};

/// Subscriptions of one connection (CometBFT's `max_subscriptions_per_client`); a further one is refused.
const MAX_SUBSCRIPTIONS: usize = 5;
/// The longest query in bytes (CometBFT's limit too); each of its events repeats it.
const MAX_QUERY: usize = 512;
/// Requests of one connection in work at once; while there are as many, no further message is read.
const MAX_IN_WORK: usize = 16;
/// A message that the other side does not take for this long ends the connection.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pings keep both sides sure of each other: clients give up after 30 s without a message.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A client that sent nothing, not even a pong, for this long is gone.
const SILENCE: Duration = Duration::from_secs(65);

/// The names and values that queries ask for.
type Tags = BTreeMap<String, Vec<String>>;

struct Connection {
    node: Arc<Node>,
    socket: WebSocket,
    /// The id of the request that subscribed, by query.
    subscriptions: BTreeMap<String, (Value, Query)>,
    in_work: FuturesUnordered<BoxFuture<'static, Vec<u8>>>,
    heard: Time,
}

/// The other side is gone, or is to be dropped.
struct Gone;

/// Serves one connection until it closes.
pub(super) async fn run(node: Arc<Node>, socket: WebSocket) {
    let connection = Connection {
        node,
        socket,
        subscriptions: BTreeMap::new(),
        in_work: FuturesUnordered::new(),
        heard: clock::now(),
    };
    // How it ended interests nobody: the client subscribes again, or is gone.
    let _ = connection.serve().await;
}

impl Connection {
    async fn serve(mut self) -> Result<(), Gone> {
        let mut blocks = self.node.mempool.subscribe();
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.socket.recv(), if self.in_work.len() < MAX_IN_WORK => {
                    let Some(Ok(message)) = message else { return Err(Gone) };
                    self.on_message(message).await?;
                }
                Some(answer) = self.in_work.next() => self.send(answer).await?,
                block = blocks.recv() => self.on_block(block).await?,
                _ = ping.tick() => self.on_ping().await?,
            }
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<(), Gone> {
        self.heard = clock::now();
        match message {
            Message::Text(text) => self.on_request(text.as_bytes()).await,
            Message::Binary(bytes) => self.on_request(&bytes).await,
            Message::Close(_) => Err(Gone),
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        }
    }

    async fn on_request(&mut self, body: &[u8]) -> Result<(), Gone> {
        let request = match Request::read(body) {
            Ok(request) => request,
            Err(refusal) => return self.send(refusal).await,
        };
        let result = match request.method.as_str() {
            "subscribe" => self.subscribe(&request),
            "unsubscribe" => self.unsubscribe(request.params),
            "unsubscribe_all" => {
                self.subscriptions.clear();
                Ok(json!({}))
            }
            _ => {
                let node = self.node.clone();
                self.in_work.push(Box::pin(async move { rpc::answer_request(&node, request).await }));
                return Ok(());
            }
        };
        self.send(rpc::envelope(&request.id, result)).await
    }

    fn subscribe(&mut self, request: &Request) -> Result<Value, Error> {
        let (text, query) = read_query(request.params.clone())?;
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(Error::internal(format!("at most {MAX_SUBSCRIPTIONS} subscriptions a connection")));
        }
        if self.subscriptions.contains_key(&text) {
            return Err(Error::internal("already subscribed"));
        }
        self.subscriptions.insert(text, (request.id.clone(), query));
        Ok(json!({}))
    }

    fn unsubscribe(&mut self, params: Value) -> Result<Value, Error> {
        let text = query_text(params)?;
        match self.subscriptions.remove(&text) {
            Some(_) => Ok(json!({})),
            None => Err(Error::internal("subscription not found")),
        }
    }

    async fn on_block(&mut self, block: Result<Arc<Committed>, RecvError>) -> Result<(), Gone> {
        match block {
            Ok(block) => self.publish(&block).await,
            Err(RecvError::Closed) => Err(Gone),
            Err(RecvError::Lagged(_)) if self.subscriptions.is_empty() => Ok(()),
            Err(RecvError::Lagged(missed)) => self.drop_slow(missed).await,
        }
    }

    /// Says why, as CometBFT does, and ends the connection: the client fetches what it missed.
    async fn drop_slow(&mut self, missed: u64) -> Result<(), Gone> {
        let reason = format!("subscription was canceled: client is not pulling messages fast enough, {missed} missed");
        for (id, _) in std::mem::take(&mut self.subscriptions).into_values() {
            self.send(rpc::envelope(&id, Err(Error::internal(&reason)))).await?;
        }
        Err(Gone)
    }

    async fn publish(&mut self, block: &Committed) -> Result<(), Gone> {
        let mut messages = Vec::new();
        for (text, (id, query)) in &self.subscriptions {
            for (data, tags) in happenings(block, query) {
                let event = json!({ "query": text, "data": data, "events": tags });
                messages.push(rpc::envelope(id, Ok(event)));
            }
        }
        for message in messages {
            self.send(message).await?;
        }
        Ok(())
    }

    async fn on_ping(&mut self) -> Result<(), Gone> {
        if clock::now().since(self.heard) > SILENCE {
            return Err(Gone);
        }
        self.send_message(Message::Ping(axum::body::Bytes::new())).await
    }

    async fn send(&mut self, message: Vec<u8>) -> Result<(), Gone> {
        let text = String::from_utf8(message).expect("JSON is UTF-8");
        self.send_message(Message::Text(text.into())).await
    }

    async fn send_message(&mut self, message: Message) -> Result<(), Gone> {
        match tokio::time::timeout(SEND_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// What a subscription asks for, as text and understood.
pub(super) fn read_query(params: Value) -> Result<(String, Query), Error> {
    let text = query_text(params)?;
    if text.len() > MAX_QUERY {
        return Err(Error::invalid_params(format!("`query` has at most {MAX_QUERY} bytes")));
    }
    let query: Query = text.parse().map_err(Error::invalid_params)?;
    match query.conditions.iter().find(|condition| !is_supported(condition)) {
        Some(condition) => Err(Error::invalid_params(format!(
            "`{}`: texts and whole numbers are understood, no dates and no fractions",
            condition.key
        ))),
        None => Ok((text, query)),
    }
}

fn query_text(params: Value) -> Result<String, Error> {
    let request: subscribe::Request = serde_json::from_value(params).map_err(Error::invalid_params)?;
    Ok(request.query)
}

fn is_supported(condition: &Condition) -> bool {
    match &condition.operation {
        Operation::Eq(Operand::String(_)) | Operation::Contains(_) | Operation::Exists => true,
        Operation::Eq(operand)
        | Operation::Lt(operand)
        | Operation::Lte(operand)
        | Operation::Gt(operand)
        | Operation::Gte(operand) => number(operand).is_some(),
    }
}

fn number(operand: &Operand) -> Option<i128> {
    match operand {
        Operand::Signed(number) => Some((*number).into()),
        Operand::Unsigned(number) => Some((*number).into()),
        Operand::String(_) | Operand::Float(_) | Operand::Date(_) | Operand::DateTime(_) => None,
    }
}

/// What in a block a query asks for: the block itself, or its transactions.
fn happenings(block: &Committed, query: &Query) -> Vec<(Value, Tags)> {
    match query.event_type {
        Some(EventType::NewBlock) => {
            let event = Some(new_block(block)).filter(|(_, tags)| matches(query, tags));
            event.into_iter().collect()
        }
        Some(EventType::Tx) => transactions(block).filter(|(_, tags)| matches(query, tags)).collect(),
        None => Vec::new(),
    }
}

fn matches(query: &Query, tags: &Tags) -> bool {
    query.conditions.iter().all(|condition| {
        let values = tags.get(&condition.key);
        values.is_some_and(|values| values.iter().any(|value| holds(&condition.operation, value)))
    })
}

/// Is `operation` true of one value? Texts compare as texts, numbers as numbers.
fn holds(operation: &Operation, value: &str) -> bool {
    let compare = |operand, wanted: fn(&i128, &i128) -> bool| {
        value.parse().is_ok_and(|value| number(operand).is_some_and(|operand| wanted(&value, &operand)))
    };
    match operation {
        Operation::Exists => true,
        Operation::Contains(part) => value.contains(part.as_str()),
        Operation::Eq(Operand::String(text)) => value == text,
        Operation::Eq(operand) => compare(operand, i128::eq),
        Operation::Lt(operand) => compare(operand, i128::lt),
        Operation::Lte(operand) => compare(operand, i128::le),
        Operation::Gt(operand) => compare(operand, i128::gt),
        Operation::Gte(operand) => compare(operand, i128::ge),
    }
}

fn new_block(block: &Committed) -> (Value, Tags) {
    let identity = rpc::block_identity(block);
    let results: &FinalizeBlock = &block.results;
    let value = json!({ "block": identity.block, "block_id": identity.block_id, "result_finalize_block": results });
    let mut tags = tags(&results.events);
    tags.insert("tm.event".to_owned(), vec!["NewBlock".to_owned()]);
    (json!({ "type": "tendermint/event/NewBlock", "value": value }), tags)
}

fn transactions(block: &Committed) -> impl Iterator<Item = (Value, Tags)> + '_ {
    block.positions().map(|(position, hash)| {
        let height = block.sealed.height().to_string();
        let result = block.result(position);
        let mut tags = tags(&result.events);
        tags.insert("tm.event".to_owned(), vec!["Tx".to_owned()]);
        tags.insert("tx.hash".to_owned(), vec![hex::encode_upper(hash.0)]);
        tags.insert("tx.height".to_owned(), vec![height.clone()]);
        let bytes = usize::try_from(position).ok().and_then(|position| block.sealed.block.data.get(position));
        let transaction =
            tendermint_rpc::endpoint::broadcast::tx_sync::Request::new(bytes.cloned().unwrap_or_default());
        let encoded = serde_json::to_value(transaction).unwrap_or_default();
        let value = json!({ "TxResult": {
            "height": height, "index": position, "tx": encoded.get("tx"), "result": result,
        }});
        (json!({ "type": "tendermint/event/Tx", "value": value }), tags)
    })
}

fn tags(events: &[Event]) -> Tags {
    let mut tags = Tags::new();
    for event in events {
        for attribute in &event.attributes {
            if let (Ok(key), Ok(value)) = (attribute.key_str(), attribute.value_str()) {
                tags.entry(format!("{}.{key}", event.kind)).or_default().push(value.to_owned());
            }
        }
    }
    tags
}
