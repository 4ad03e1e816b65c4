//! Transactions a second that one validator makes final: the ledger, and CometBFT's own kvstore over the same kind of
//! socket, one after the other on the same machine. A figure, not a verdict.

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
};
use tendermint_rpc::{Client as _, HttpClient};

use super::chain::{CHAIN_ID, Chain, Pair, SOON, end};
use crate::e2e::wait::until;

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
    fn start(chain: &Chain) -> Self {
        let home = chain.home(0);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/abci-cli");
        let log = File::create(home.0.join("kvstore.log")).unwrap();
        let mut command = Command::new(program);
        command.args(["kvstore", "--address", &home.address().unwrap().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut pair = Pair::new();
        pair.start_cometbft(chain, 0);
        Self { application: Some(child), pair }
    }
}

/// Sends all lines at once; from the first send until nothing waits any more.
async fn per_second(url: &str, lines: Vec<Line>) -> f64 {
    let count: usize = lines.iter().map(Vec::len).sum();
    let began = clock::now();
    let mut senders = tokio::task::JoinSet::new();
    for line in lines {
        let rpc = HttpClient::new(url).unwrap();
        senders.spawn(async move {
            for transaction in line {
                send(&rpc, transaction).await;
            }
        });
    }
    senders.join_all().await;
    let rpc = HttpClient::new(url).unwrap();
    loop {
        let waiting: serde_json::Value =
            reqwest::get(format!("{url}/num_unconfirmed_txs")).await.unwrap().json().await.unwrap();
        if waiting["result"]["n_txs"] == "0" {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let seconds = clock::now().since(began).as_secs_f64();
    assert_eq!(committed(&rpc).await, count, "all are in blocks");
    f64::from(u32::try_from(count).unwrap()) / seconds
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

async fn of_the_ledger() -> f64 {
    let chain = Chain::new(1, &[]);
    let mut pair = Pair::new();
    pair.start(&chain, 0);
    chain.until_height(0, 1).await;
    per_second(&chain.url(0), (0..SENDERS).map(ledger_line).collect()).await
}

async fn of_the_kvstore() -> f64 {
    let chain = Chain::new(1, &[]);
    let kvstore = Kvstore::start(&chain);
    until("the kvstore makes blocks", SOON, async || chain.height(0).await.filter(|height| *height >= 1)).await;
    let found = per_second(&chain.url(0), (0..SENDERS).map(kvstore_line).collect()).await;
    drop(kvstore);
    found
}

/// `scripts/ledger-throughput`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a figure; scripts/ledger-throughput prints it"]
async fn transactions_a_second() {
    let (mut ledger, mut kvstore) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        kvstore.push(of_the_kvstore().await);
        ledger.push(of_the_ledger().await);
    }
    let sorted = |mut figures: Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures
    };
    let (ledger, kvstore) = (sorted(ledger), sorted(kvstore));
    let middle = RUNS / 2;
    let bytes = ledger_line(0)[0].len();
    println!(
        "transactions a second, {SENDERS} senders, {EACH} each, a block each 100 ms and {bytes} or {BYTES} bytes:"
    );
    for (name, figures) in [("ledger", &ledger), ("kvstore", &kvstore)] {
        println!("  {name}: least {:.0}, middle {:.0}, greatest {:.0}", figures[0], figures[middle], figures[RUNS - 1]);
    }
    println!("  ledger / kvstore: {:.2}", ledger[middle] / kvstore[middle]);
}
