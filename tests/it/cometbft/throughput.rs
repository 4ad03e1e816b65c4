//! Transactions a second that one validator and four make final: the ledger, and CometBFT's own kvstore over the same kind of
//! socket, one after the other on the same machine; and how long a node waits for a lease. Figures, not verdicts.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use atlas_node::{
    chain::wire::{Message, Transaction},
    clock, codec,
    identity::Keypair,
    types::{Generation, JobId, Resources, TaskId},
};
use tendermint_rpc::{Client as _, HttpClient};

use super::{
    chain::{CHAIN_ID, Chain, Pair, SOON, end},
    economy::registered,
};
use crate::{conformance::make::sample, e2e::wait::until};

/// Who sends at once, each over a connection of its own, one after the other.
const SENDERS: u8 = 8;
/// Transactions of each.
const EACH: u64 = 1_000;
/// Bytes of each, about (targets: 250).
const BYTES: usize = 250;
/// Between two looks whether everything is in a block.
const POLL: Duration = Duration::from_millis(10);
/// How often each is measured.
const RUNS: usize = 3;
/// Validators of the chains that are measured.
const CHAINS: [u32; 2] = [1, 4];
/// Leases that are taken, one after the other.
const LEASES: u32 = 100;
/// What a node lends that holds all these leases at once.
const ALL_AT_ONCE: Resources =
    Resources { cpu_millicores: 4_000_000, memory_bytes: 1 << 44, storage_bytes: 1 << 48, gpu_count: 1_000 };

/// What one sender sends, in order.
type Line = Vec<Vec<u8>>;

fn ledger_line(sender: u8) -> Line {
    let key = Keypair::from_secret(&[sender + 1; 32]);
    let transaction = |nonce: u64| {
        let message = Message::RegisterModel {
            name: format!("load-{sender}"),
            version: nonce.to_string(),
            cid: "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap(),
            metadata: BTreeMap::new(),
        };
        codec::encode(&key.seal(&Transaction { chain_id: CHAIN_ID.to_owned(), nonce, attempt: 0, message }))
    };
    (0..EACH).map(transaction).collect()
}

fn kvstore_line(sender: u8) -> Line {
    let text = |number: u64| format!("{sender}-{number}={:0>width$}", "", width = BYTES - 10);
    (0..EACH).map(|number| text(number).into_bytes()).collect()
}

/// The application that comes with CometBFT.
struct Kvstore {
    application: Option<Child>,
    pair: Pair,
}

impl Drop for Kvstore {
    fn drop(&mut self) {
        end(&mut self.pair.cometbft);
        end(&mut self.application);
    }
}

impl Kvstore {
    fn start(chain: &Chain, validator: usize) -> Self {
        let home = chain.home(validator);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/abci-cli");
        let log = File::create(home.0.join("kvstore.log")).unwrap();
        let mut command = Command::new(program);
        command.args(["kvstore", "--address", &home.address().unwrap().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut pair = Pair::new();
        pair.start_cometbft(chain, validator);
        Self { application: Some(child), pair }
    }
}

/// Sends all lines at once, to the validators in turn; from the first send until nothing waits at any of them.
async fn per_second(urls: &[String], lines: Vec<Line>) -> f64 {
    let count: usize = lines.iter().map(Vec::len).sum();
    let began = clock::now();
    let mut senders = tokio::task::JoinSet::new();
    for (line, url) in lines.into_iter().zip(urls.iter().cycle()) {
        let rpc = HttpClient::new(url.as_str()).unwrap();
        senders.spawn(async move {
            for transaction in line {
                send(&rpc, transaction).await;
            }
        });
    }
    senders.join_all().await;
    for url in urls {
        while !waits_for_nothing(url).await {
            tokio::time::sleep(POLL).await;
        }
    }
    let seconds = clock::now().since(began).as_secs_f64();
    assert_eq!(committed(&HttpClient::new(urls[0].as_str()).unwrap()).await, count, "all are in blocks");
    f64::from(u32::try_from(count).unwrap()) / seconds
}

async fn waits_for_nothing(url: &str) -> bool {
    let waiting: serde_json::Value =
        reqwest::get(format!("{url}/num_unconfirmed_txs")).await.unwrap().json().await.unwrap();
    waiting["result"]["n_txs"] == "0"
}

/// A full mempool makes its sender wait.
async fn send(rpc: &HttpClient, transaction: Vec<u8>) {
    loop {
        match rpc.broadcast_tx_sync(transaction.clone()).await {
            Ok(answer) => {
                assert!(answer.code.is_ok(), "{}", answer.log);
                return;
            }
            Err(error) if error.to_string().contains("mempool is full") => tokio::time::sleep(POLL).await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn committed(rpc: &HttpClient) -> usize {
    let last = rpc.status().await.unwrap().sync_info.latest_block_height.value();
    let mut count = 0;
    for height in 1..=last {
        let height = tendermint::block::Height::try_from(height).unwrap();
        count += rpc.block(height).await.unwrap().block.data.len();
    }
    count
}

fn urls(chain: &Chain, validators: u32) -> Vec<String> {
    (0..validators as usize).map(|validator| chain.url(validator)).collect()
}

async fn of_the_ledger(validators: u32) -> f64 {
    let chain = Chain::new(validators, &[]);
    let mut pairs: Vec<Pair> = (0..validators).map(|_| Pair::new()).collect();
    for (validator, pair) in pairs.iter_mut().enumerate() {
        pair.start(&chain, validator);
    }
    chain.until_height(0, 1).await;
    per_second(&urls(&chain, validators), (0..SENDERS).map(ledger_line).collect()).await
}

async fn of_the_kvstore(validators: u32) -> f64 {
    let chain = Chain::new(validators, &[]);
    let kvstores: Vec<Kvstore> = (0..validators as usize).map(|validator| Kvstore::start(&chain, validator)).collect();
    until("the kvstore makes blocks", SOON, async || chain.height(0).await.filter(|height| *height >= 1)).await;
    let found = per_second(&urls(&chain, validators), (0..SENDERS).map(kvstore_line).collect()).await;
    drop(kvstores);
    found
}

/// Milliseconds from asking for a lease until the ledger's answer is known, as a node waits for it: its own client follows the
/// transaction to its block and believes no endpoint.
async fn of_leases(validators: u32) -> Vec<f64> {
    let mut chain = Chain::new(validators, &[]);
    chain.start_all(0..validators as usize).await;
    let mut worker = registered(&chain, &urls(&chain, validators), 1, ALL_AT_ONCE).await;
    let shards = vec![sample::shards().remove(0); LEASES as usize];
    let (code, job) = worker.order(Message::SubmitJob { spec: Box::new(sample::spec()), shards }).await;
    assert_eq!(code, 0);
    let job: JobId = codec::decode(&job, 100).unwrap();
    let mut waited = Vec::new();
    for slot in 0..LEASES {
        let began = clock::now_micros();
        let lease = Message::TakeLease { task_id: TaskId { job, slot }, generation: Generation::default() };
        assert_eq!(worker.order(lease).await.0, 0);
        waited.push((clock::now_micros() - began) as f64 / 1e3);
    }
    waited
}

fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_by(f64::total_cmp);
    figures
}

async fn compare(validators: u32) {
    let (mut ledger, mut kvstore) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        kvstore.push(of_the_kvstore(validators).await);
        ledger.push(of_the_ledger(validators).await);
    }
    let (ledger, kvstore) = (sorted(ledger), sorted(kvstore));
    let middle = RUNS / 2;
    println!("{validators} validators:");
    for (name, figures) in [("ledger", &ledger), ("kvstore", &kvstore)] {
        println!("  {name}: least {:.0}, middle {:.0}, greatest {:.0}", figures[0], figures[middle], figures[RUNS - 1]);
    }
    println!("  ledger / kvstore: {:.2}", ledger[middle] / kvstore[middle]);
    let waited = sorted(of_leases(validators).await);
    let part = |percent: usize| waited[(waited.len() - 1) * percent / 100];
    println!("  a lease: least {:.0}, p50 {:.0}, p99 {:.0} ms", waited[0], part(50), part(99));
}

/// `scripts/ledger-throughput`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure; scripts/ledger-throughput prints it"]
async fn transactions_a_second() {
    let bytes = ledger_line(0)[0].len();
    println!(
        "transactions a second, {SENDERS} senders, {EACH} each, a block each 100 ms and {bytes} or {BYTES} bytes; {LEASES} leases:"
    );
    for validators in CHAINS {
        compare(validators).await;
    }
}
