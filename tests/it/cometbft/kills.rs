//! `kill -9` at instants that nobody chose: after each, the ledger comes to the same app hash, and what was acknowledged stays.

use std::time::Duration;

use atlas_node::clock;

use super::{
    chain::{Chain, Pair, SOON, end},
    replay::replay,
    writer::Writer,
};
use crate::e2e::wait::until;

/// Transactions that wait while a process dies.
const LOAD: usize = 50;
/// A kill comes at most this many milliseconds after the last was overcome: a few blocks, so that every moment of one is hit.
const LONGEST_CALM: u64 = 700;
/// CometBFT has noticed by then that its ledger is gone, if it ever does.
const NOTICE: Duration = Duration::from_secs(3);
/// How often `scripts/ledger-kills` kills, unless it is told.
const MANY: usize = 100;

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The ledger; CometBFT notices and ends, or hangs at that, which it does at times.
    Ledger,
    /// Both in one instant.
    Both,
    /// CometBFT; the ledger stays, perhaps with a block that was applied and not committed.
    Cometbft,
}

const VICTIMS: [Victim; 3] = [Victim::Ledger, Victim::Both, Victim::Cometbft];

/// Kills so often; the milliseconds that each recovery took, sorted.
async fn kill_under_load(times: usize) -> Vec<u128> {
    let chain = Chain::new(1, &["--snapshot-every", "7"]);
    let mut pair = Pair::new();
    pair.start(&chain, 0);
    chain.until_height(0, 1).await;
    let mut writer = Writer::new(chain.path(), 1, &[chain.url(0)]);
    let mut recoveries = Vec::new();
    for round in 0..times {
        writer.submit(LOAD.saturating_sub(writer.waiting()));
        let calm = u64::from(u16::from_be_bytes(clock::random_bytes())) % LONGEST_CALM;
        // The instant of death, drawn by chance: no condition stands for it.
        tokio::time::sleep(Duration::from_millis(calm)).await;
        writer.take_events();
        let victim = VICTIMS[round % VICTIMS.len()];
        kill(&mut pair, victim).await;
        let began = clock::now();
        pair.start(&chain, 0);
        let height = chain.agrees(0, 0).await;
        recoveries.push(clock::now().since(began).as_millis());
        println!("kill {round} of {victim:?} {calm} ms on: block {height}, {} acknowledged", writer.committed.len());
        // The next kill hits a chain that works.
        let waiting = writer.waiting();
        writer.submit(1);
        writer.until_acknowledged(waiting.min(LOAD / 2)).await;
    }
    writer.until_acknowledged(0).await;
    let replayed = replay(&chain.rpc(0), chain.height(0).await.unwrap()).await;
    replayed.holds(&writer);
    println!(
        "{times} kills: {} transactions acknowledged, none lost; {} in a block without effect; {} blocks replayed alike",
        writer.committed.len(),
        replayed.failed(),
        replayed.height
    );
    recoveries.sort_unstable();
    recoveries
}

async fn kill(pair: &mut Pair, victim: Victim) {
    if victim != Victim::Cometbft {
        end(&mut pair.ledger);
    }
    if victim == Victim::Ledger
        && let Some(cometbft) = &mut pair.cometbft
        && tokio::time::timeout(NOTICE, until("it ends", SOON, async || cometbft.try_wait().unwrap())).await.is_err()
    {
        println!("CometBFT hangs without its ledger and is killed too");
    }
    end(&mut pair.cometbft);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_is_killed_under_load_again_and_again_loses_nothing_that_was_acknowledged() {
    assert_eq!(kill_under_load(20).await.len(), 20);
}

/// `scripts/ledger-kills`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; scripts/ledger-kills runs it"]
async fn many_kills() {
    let times = std::env::var("LEDGER_KILLS").ok().and_then(|times| times.parse().ok()).unwrap_or(MANY);
    let recoveries = kill_under_load(times).await;
    let at = |place: usize| recoveries[place.min(recoveries.len() - 1)];
    println!("recovery in ms: least {}, middle {}, greatest {}", at(0), at(recoveries.len() / 2), at(recoveries.len()));
}
