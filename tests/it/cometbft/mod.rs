//! The ledger under real CometBFT (`.tools/bin/cometbft`, from `scripts/setup --dev`): validators as processes on loopback,
//! killed, restarted, joined by others, and judged by blocks, headers and signatures alone.

mod bad;
mod chain;
mod damage;
mod economy;
mod joins;
mod kills;
mod liar;
mod liars;
mod main_job;
mod one;
mod replay;
mod stake;
mod storage;
mod throughput;
mod votes;
mod wallet;
mod writer;
