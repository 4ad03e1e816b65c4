//! Against the real clients, on a small application; the ledger has its own tests.

use std::time::Duration;

use futures::StreamExt as _;
use tendermint_rpc::{
    Client as _, HttpClient, SubscriptionClient as _, WebSocketClient,
    client::CompatMode,
    event::EventData,
    query::{EventType, Query},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    chain::{
        ledger::{BlockResult, Event, QueryError, SnapshotError, TransactionResult},
        small_disk::SmallDisk,
    },
    types::{Digest, Time},
};

/// Remembers the transactions in order. `bad` is refused at once, `fail` once it is in a block.
#[derive(Default)]
pub(super) struct Journal {
    height: u64,
    time: Time,
    entries: Vec<Vec<u8>>,
    open_work: bool,
}

impl Application for Journal {
    fn height(&self) -> u64 {
        self.height
    }

    fn time(&self) -> Time {
        self.time
    }

    fn app_hash(&self) -> Digest {
        Digest::of(&codec::encode(&(self.height, self.time, &self.entries)))
    }

    fn check(&self, transaction: &[u8]) -> TransactionResult {
        let code = u32::from(transaction == b"bad");
        TransactionResult { code, log: "checked".to_owned(), ..TransactionResult::default() }
    }

    fn apply_block(&mut self, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
        self.height += 1;
        self.time = time;
        self.entries.extend(transactions.iter().cloned());
        let result = |transaction: &Vec<u8>| TransactionResult {
            code: if transaction == b"fail" { 8 } else { 0 },
            log: String::new(),
            data: transaction.clone(),
            events: vec![Event {
                kind: "entry".to_owned(),
                attributes: vec![("text".to_owned(), String::from_utf8_lossy(transaction).into_owned())],
            }],
        };
        BlockResult {
            height: self.height,
            time,
            app_hash: self.app_hash(),
            results: transactions.iter().map(result).collect(),
            events: Vec::new(),
        }
    }

    fn query(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, QueryError> {
        match path {
            "/count" => Ok(codec::encode(&self.entries.len())),
            "/echo" => Ok(data.to_vec()),
            _ => Err(QueryError::Path(path.to_owned())),
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        codec::encode(&(self.height, self.time, &self.entries))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SnapshotError> {
        (self.height, self.time, self.entries) = codec::decode(snapshot, 1 << 24)?;
        Ok(())
    }

    fn has_open_work(&self) -> bool {
        self.open_work
    }
}

pub(super) fn keypair() -> Keypair {
    Keypair::from_secret(&[5; 32])
}

fn open(directory: &Path) -> Result<Arc<Embedded>, Error> {
    open_with(directory, Journal::default())
}

fn open_with(directory: &Path, journal: Journal) -> Result<Arc<Embedded>, Error> {
    let genesis = Genesis { time: Time(1_000), ..job_genesis("atlas-test".to_owned(), keypair().node_key()) };
    Embedded::start_with(directory, lock(directory)?, genesis, Box::new(journal), &keypair())
}

/// The state of a node that was killed now: what is on disk, and no lock.
fn killed_copy(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

async fn call(embedded: &Embedded, method: &str, params: serde_json::Value) -> serde_json::Value {
    let request = serde_json::json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let answer: serde_json::Value =
        serde_json::from_slice(&embedded.rpc(request.to_string().as_bytes()).await).unwrap();
    assert_eq!(answer["id"], 7);
    answer
}

/// Serves `embedded` on a free port, as the URL's host and port.
async fn served(embedded: &Arc<Embedded>) -> String {
    let listener = listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let embedded = embedded.clone();
    tokio::spawn(async move { embedded.serve(listener).await });
    address
}

fn http(address: &str) -> HttpClient {
    let url = format!("http://{address}").parse().unwrap();
    HttpClient::builder(url).compat_mode(CompatMode::V0_38).build().unwrap()
}

async fn commit(client: &(impl tendermint_rpc::Client + Sync), transaction: &[u8]) -> u64 {
    client.broadcast_tx_commit(transaction).await.unwrap().height.value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_client_of_tendermint_uses_it_like_any_chain() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let client = http(&served(&embedded).await);

    client.health().await.unwrap();
    let status = client.status().await.unwrap();
    assert_eq!(status.node_info.network.as_str(), "atlas-test");
    assert_eq!(status.validator_info.pub_key.to_bytes(), keypair().node_key().0);
    assert_eq!(status.sync_info.latest_block_height.value(), 0);
    assert_eq!(CompatMode::from_version(status.node_info.version).unwrap(), CompatMode::V0_38);

    let first = client.broadcast_tx_commit(&b"one"[..]).await.unwrap();
    assert!(first.check_tx.code.is_ok() && first.tx_result.code.is_ok());
    // `one` in base64, as CometBFT writes it: the library hands it on as it came.
    assert_eq!((first.height.value(), &first.tx_result.data[..]), (1, &b"b25l"[..]));
    let failed = client.broadcast_tx_commit(&b"fail"[..]).await.unwrap();
    assert_eq!(failed.tx_result.code.value(), 8);
    let refused = client.broadcast_tx_commit(&b"bad"[..]).await.unwrap();
    assert_eq!((refused.check_tx.code.value(), refused.height.value()), (1, 0));
    let again = client.broadcast_tx_sync(&b"one"[..]).await.unwrap_err().to_string();
    assert!(again.contains("tx already exists in cache"), "{again}");

    let found = client.tx(first.hash, false).await.unwrap();
    assert_eq!((found.height.value(), found.index, found.tx), (1, 0, b"one".to_vec()));
    let missing = client.tx(tendermint::Hash::Sha256([9; 32]), false).await.unwrap_err().to_string();
    assert!(missing.contains("not found"), "{missing}");

    let count = client.abci_query(Some("/count".to_owned()), vec![], None, false).await.unwrap();
    assert_eq!((count.code.value(), count.value, count.height.value()), (0, codec::encode(&2), 2));
    let unknown = client.abci_query(Some("/none".to_owned()), vec![], None, false).await.unwrap();
    assert_ne!(unknown.code.value(), 0);

    let block = client.block(2_u32).await.unwrap();
    assert_eq!(block.block.data, [b"fail".to_vec()]);
    assert_eq!(block.block_id.hash, block.block.header.hash());
    assert_eq!(block::block_id(&client.latest_block().await.unwrap().block), block.block_id);
    let results = client.block_results(2_u32).await.unwrap();
    assert_eq!(results.txs_results.unwrap()[0].code.value(), 8);
    assert_eq!(client.header(1_u32).await.unwrap().header.height.value(), 1);
    let commit = client.commit(2_u32).await.unwrap().signed_header;
    assert_eq!(commit.header().hash(), commit.commit().block_id.hash);
    let validators = client.validators(2_u32, tendermint_rpc::Paging::All).await.unwrap();
    assert_eq!(
        tendermint::validator::Set::without_proposer(validators.validators).hash(),
        commit.header().validators_hash
    );
    let info = client.abci_info().await.unwrap();
    assert_eq!(info.last_block_height.value(), 2);
    let genesis = client.genesis::<Genesis>().await.unwrap();
    assert_eq!(genesis.app_state.chain_id, "atlas-test");
    assert!(client.block(9_u32).await.unwrap_err().to_string().contains("less than or equal"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_websocket_client_hears_of_blocks_and_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let address = served(&embedded).await;
    let url = format!("ws://{address}/websocket").parse().unwrap();
    let (client, driver) = WebSocketClient::builder(url).compat_mode(CompatMode::V0_38).build().await.unwrap();
    tokio::spawn(driver.run());
    let mut blocks = client.subscribe(EventType::NewBlock.into()).await.unwrap();
    let mut transactions = client.subscribe(EventType::Tx.into()).await.unwrap();
    let mut twos = client.subscribe(Query::from(EventType::Tx).and_eq("entry.text", "two")).await.unwrap();

    commit(&client, b"one").await;
    commit(&client, b"two").await;

    for height in 1..=2 {
        let EventData::NewBlock { block: Some(block), block_id, result_finalize_block } =
            blocks.next().await.unwrap().unwrap().data
        else {
            panic!("not a new block");
        };
        assert_eq!(block.header.height.value(), height);
        assert_eq!(block_id.hash, block.header.hash());
        assert_eq!(result_finalize_block.unwrap().tx_results.len(), 1);
    }
    for text in [&b"one"[..], b"two"] {
        let EventData::Tx { tx_result } = transactions.next().await.unwrap().unwrap().data else {
            panic!("not a transaction");
        };
        assert_eq!(tx_result.tx, text);
    }
    let event = twos.next().await.unwrap().unwrap();
    assert_eq!(event.events.unwrap()["tx.height"], ["2"]);
    let mut later = client.subscribe("tm.event = 'Tx' AND tx.height > 2".parse().unwrap()).await.unwrap();
    commit(&client, b"three").await;
    assert_eq!(later.next().await.unwrap().unwrap().events.unwrap()["tx.height"], ["3"]);
    client.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_gets_the_same_answers_by_uri() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let address = served(&embedded).await;
    let get = |path: &str| {
        let url = format!("http://{address}/{path}");
        async move { reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap() }
    };
    let sent: serde_json::Value =
        serde_json::from_str(&get("broadcast_tx_commit?tx=\"one\"").await.text().await.unwrap()).unwrap();
    assert_eq!(sent["result"]["height"], "1");
    let hash = Digest::of(b"one");
    let found = get(&format!("tx?hash=0x{hash}")).await;
    assert!(found.status().is_success());
    let missing = get("block?height=9").await;
    assert_eq!(missing.status().as_u16(), 500);
    assert!(missing.text().await.unwrap().contains("-32603"));
    assert!(get("status").await.text().await.unwrap().contains("atlas-test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill_and_a_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    for entry in ["one", "two", "three"] {
        let answer = call(&embedded, "broadcast_tx_commit", uri_tx(entry)).await;
        assert_eq!(answer["result"]["tx_result"]["code"], 0, "{answer}");
    }
    let before = call(&embedded, "abci_info", serde_json::Value::Null).await;

    let copy = killed_copy(directory.path());
    let log = copy.path().join("blocks.log");
    let torn = [fs::read(&log).unwrap(), vec![0, 0, 1, 0, 7, 7, 7]].concat();
    fs::write(&log, torn).unwrap();
    let reopened = open(copy.path()).unwrap();
    assert_eq!(call(&reopened, "abci_info", serde_json::Value::Null).await, before);
    let found = call(&reopened, "tx", serde_json::json!({ "hash": base64_hash("two") })).await;
    assert_eq!(found["result"]["height"], "2");
    let next = call(&reopened, "broadcast_tx_commit", uri_tx("four")).await;
    assert_eq!(next["result"]["height"], "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_at_the_last_snapshot_and_old_blocks_stay_readable() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::new("atlas-test", keypair()).unwrap();
    let mut chain = Chain::open(directory.path(), host.clone(), Box::new(Journal::default())).unwrap();
    let blocks = chain::SNAPSHOT_EVERY + 50;
    for number in 1..=blocks {
        chain.commit(Time(1_000 + number), vec![number.to_string().into_bytes()]).unwrap();
    }
    let hash = chain.application().read().unwrap().app_hash();
    drop(chain);

    // The old part of the log is not even looked at.
    let log = directory.path().join("blocks.log");
    let mut bytes = fs::read(&log).unwrap();
    bytes[20] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let chain = Chain::open(directory.path(), host.clone(), Box::new(Journal::default())).unwrap();
    assert_eq!(chain.application().read().unwrap().app_hash(), hash);
    let archive = chain.archive();
    assert_eq!(archive.block(500).unwrap().unwrap().sealed.block.data, [b"500".to_vec()]);
    assert_eq!(archive.transaction(&Digest::of(b"77")).unwrap().unwrap().block.sealed.height(), 77);
    assert!(archive.block(1).is_err());
    drop((chain, archive));

    // Without the index everything is replayed, and that is where the damage shows.
    fs::remove_file(directory.path().join("index.redb")).unwrap();
    assert!(matches!(
        Chain::open(directory.path(), host.clone(), Box::new(Journal::default())),
        Err(Error::Log(LogError::Damaged { .. }))
    ));
    bytes[20] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let chain = Chain::open(directory.path(), host, Box::new(Journal::default())).unwrap();
    assert_eq!(chain.application().read().unwrap().app_hash(), hash);
    assert_eq!(chain.archive().last().unwrap().sealed.height(), blocks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_wait_together_share_a_block() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let calls = (0..50).map(|number| {
        let embedded = embedded.clone();
        async move { call(&embedded, "broadcast_tx_commit", uri_tx(&format!("tx {number}"))).await }
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer["result"]["tx_result"]["code"] == 0));
    assert!(embedded.height() < 50, "{} blocks for 50 transactions", embedded.height());
    let count = call(&embedded, "abci_query", serde_json::json!({ "path": "/count", "data": "" })).await;
    assert_eq!(count["result"]["response"]["code"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_come_by_themselves_only_while_work_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open_with(directory.path(), Journal { open_work: true, ..Journal::default() }).unwrap();
    let mut blocks = embedded.node.mempool.subscribe();
    let first = tokio::time::timeout(Duration::from_secs(5), blocks.recv()).await.unwrap().unwrap();
    assert_eq!((first.sealed.height(), first.sealed.block.data.len()), (1, 0));
    drop(embedded);

    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let mut blocks = embedded.node.mempool.subscribe();
    assert!(tokio::time::timeout(Duration::from_millis(1_500), blocks.recv()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = job_genesis(job_chain_id(), keypair().node_key());
    let embedded = Embedded::start(directory.path(), genesis.clone(), &keypair(), None).unwrap();
    assert!(matches!(Embedded::start(directory.path(), genesis.clone(), &keypair(), None), Err(Error::Locked { .. })));
    drop(embedded);
    let other = Genesis { chain_id: "other".to_owned(), ..genesis.clone() };
    assert!(matches!(Embedded::start(directory.path(), other, &keypair(), None), Err(Error::OtherLedger { .. })));
    let stranger = Keypair::from_secret(&[6; 32]);
    assert!(matches!(Embedded::start(directory.path(), genesis, &stranger, None), Err(Error::OtherHost { .. })));

    let taken = listen(([127, 0, 0, 1], 0).into()).await.unwrap().local_addr();
    let held = tokio::net::TcpListener::bind(taken.unwrap()).await.unwrap();
    let error = listen(held.local_addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::PortBusy { .. }) && error.to_string().contains("--chain-rpc"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_gets_an_error_and_the_next_request_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    for garbage in
        [&b""[..], b"{", b"[]", b"[{\"method\":\"status\"}]", b"{\"method\":5}", b"\xff\xfe", &[b'['; 100_000]]
    {
        let answer: serde_json::Value = serde_json::from_slice(&embedded.rpc(garbage).await).unwrap();
        assert!(answer["error"]["code"].as_i64().unwrap() <= -32600, "{answer}");
    }
    assert_eq!(call(&embedded, "health", serde_json::Value::Null).await["result"], serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_stop_nothing_is_taken_and_the_directory_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let address = served(&embedded).await;
    commit(&http(&address), b"one").await;
    embedded.stop();
    let refused = call(&embedded, "broadcast_tx_commit", uri_tx("two")).await;
    assert!(refused["error"]["data"].as_str().unwrap().contains("stopped"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_ledger_replays_to_the_same_state() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = job_genesis("atlas-job-test".to_owned(), keypair().node_key());
    let embedded = Embedded::start(directory.path(), genesis.clone(), &keypair(), None).unwrap();
    for nonce in 0..3 {
        let message = crate::chain::wire::Message::RegisterNode {
            node_id: format!("node {nonce}"),
            address: None,
            resources: crate::types::Resources::default(),
            listen: Vec::new(),
            attributes: std::collections::BTreeMap::new(),
        };
        let transaction =
            crate::chain::wire::Transaction { chain_id: genesis.chain_id.clone(), nonce, attempt: 0, message };
        let bytes = codec::encode(&keypair().seal(&transaction));
        let answer = call(&embedded, "broadcast_tx_commit", serde_json::json!({ "tx": uri_bytes(&bytes) })).await;
        assert_eq!(answer["result"]["tx_result"]["code"], 0, "{answer}");
    }
    let before = call(&embedded, "abci_info", serde_json::Value::Null).await;
    let copy = killed_copy(directory.path());
    let reopened = Embedded::start(copy.path(), genesis, &keypair(), None).unwrap();
    assert_eq!(call(&reopened, "abci_info", serde_json::Value::Null).await, before);
    assert_eq!(reopened.height(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_a_transaction_and_loses_none() {
    let Some(disk) = SmallDisk::mount(8 * 1024) else { return };
    let directory = disk.path();
    let embedded = open(directory).unwrap();
    call(&embedded, "broadcast_tx_commit", uri_tx("one")).await;
    disk.fill();

    let refused = call(&embedded, "broadcast_tx_commit", uri_tx(&"x".repeat(100_000))).await;
    assert!(refused["error"]["data"].as_str().unwrap().contains("block log"), "{refused}");
    disk.make_room();
    let copy = killed_copy(directory);
    let reopened = open(copy.path()).unwrap();
    assert_eq!(reopened.height(), 1);

    let again = call(&embedded, "broadcast_tx_commit", uri_tx(&"x".repeat(100_000))).await;
    assert_eq!(again["result"]["height"], "2", "{again}");
}

fn uri_tx(text: &str) -> serde_json::Value {
    serde_json::to_value(tendermint_rpc::endpoint::broadcast::tx_sync::Request::new(text.as_bytes())).unwrap()
}

fn base64_hash(text: &str) -> serde_json::Value {
    uri_bytes(&Digest::of(text.as_bytes()).0)
}

fn uri_bytes(bytes: &[u8]) -> serde_json::Value {
    let request = tendermint_rpc::endpoint::broadcast::tx_sync::Request::new(bytes);
    serde_json::to_value(request).unwrap()["tx"].clone()
}

/// A websocket by hand (RFC 6455): the libraries' clients send no garbage.
struct RawSocket(tokio::net::TcpStream);

impl RawSocket {
    async fn open(address: &str) -> Self {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let hello = "GET /websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(hello.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Self(stream)
    }

    /// One frame, masked with zeros. What the other side no longer takes is no failure.
    async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let length = u64::try_from(payload.len()).unwrap();
        let head = [&[0x80 | opcode, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
        let _ = self.0.write_all(&[&head, payload].concat()).await;
    }

    /// The next answer; `None` when the connection is closed.
    async fn answer(&mut self) -> Option<serde_json::Value> {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await.ok()?;
            let length = match head[1] & 0x7f {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                short => short.into(),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            match head[0] & 0x0f {
                1 => return Some(serde_json::from_slice(&payload).unwrap()),
                8 => return None,
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_survives_what_is_no_request_and_answers_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = open(directory.path()).unwrap();
    let address = served(&embedded).await;
    let mut socket = RawSocket::open(&address).await;
    let subscribe = |query: &str| {
        serde_json::json!({ "id": 7, "method": "subscribe", "params": { "query": query } }).to_string().into_bytes()
    };
    let deep = vec![b'['; 100_000];
    for garbage in [
        &b""[..],
        b"{",
        b"[]",
        b"{\"method\":5}",
        b"{\"id\":1,\"method\":\"broadcast_tx_commit\",\"params\":{\"tx\":\"====\"}}",
        b"{\"id\":1,\"method\":\"unsubscribe\",\"params\":{\"query\":\"tm.event = 'Tx'\"}}",
        &deep,
        &subscribe("no query"),
        &subscribe("tm.event = 'Tx' AND a = 1.5"),
        &subscribe(&format!("tm.event = '{}'", "x".repeat(10_000))),
        &subscribe("tm.event = 'Tx' AND tx.height = \u{0}"),
    ] {
        socket.send(1, garbage).await;
        let answer = socket.answer().await.expect("the connection stays");
        assert!(answer["error"]["code"].as_i64().unwrap() <= -32600, "{answer}");
    }
    socket.send(2, b"\xff\xfe").await;
    assert!(socket.answer().await.unwrap()["error"].is_object(), "bytes are read as a request too");
    for number in 0..5 {
        socket.send(1, &subscribe(&format!("tm.event = 'Tx' AND tx.height = {number}"))).await;
        assert!(socket.answer().await.unwrap()["result"].is_object());
    }
    socket.send(1, &subscribe("tm.event = 'NewBlock'")).await;
    let refused = socket.answer().await.unwrap();
    assert!(refused["error"]["data"].as_str().unwrap().contains("at most 5 subscriptions"), "{refused}");
    socket.send(1, br#"{"id":1,"method":"health"}"#).await;
    assert_eq!(socket.answer().await.unwrap()["result"], serde_json::json!({}));

    // What breaks the protocol or its limit ends this connection and no other.
    let mut other = RawSocket::open(&address).await;
    socket.send(1, &vec![b' '; rpc::MAX_REQUEST + 1]).await;
    assert!(socket.answer().await.is_none());
    let mut broken = RawSocket::open(&address).await;
    broken.send(0x0f, b"no such frame").await;
    assert!(broken.answer().await.is_none());
    other.send(1, br#"{"id":1,"method":"health"}"#).await;
    assert_eq!(other.answer().await.unwrap()["result"], serde_json::json!({}));
}
