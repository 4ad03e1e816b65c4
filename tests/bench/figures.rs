//! First figures: what a simulation or a test can't tell, measured on real processes of the release build.
//!
//! Every figure is the least, the middle and the greatest of some runs, and stands beside the limit or the peer that it
//! is compared with, measured in the same run: machines are noisy, so the ratio counts. `scripts/bench` calls this.
#![expect(clippy::cast_precision_loss, reason = "figures for people: nobody reads the 53rd bit")]

mod aggregation;
mod dispatch;
mod fairness;
mod hostile;
#[path = "../hostile/mod.rs"]
mod hostile_peer;
mod idle;
mod import;
mod ledger;
#[path = "../link/mod.rs"]
mod link;
mod links;
mod mesh;
mod node;
mod peers;
mod prober;
mod raw;
mod report;
mod seeders;
mod shard;
mod start;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use report::Report;

/// As in the node, or the comparison would be with another allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The figures there are, in the order in which they are measured.
const ALL: [&str; 9] = ["start", "idle", "dispatch", "aggregation", "import", "shard", "seeders", "fairness", "ledger"];

/// Measures the node and prints its figures.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which; all if none is named.
    #[arg(value_parser = ALL)]
    figures: Vec<String>,
    /// Instead of the figures, what honest nodes feel of a hostile peer: of these attacks, or of all if none is named.
    /// `scripts/hostile` calls this.
    #[arg(long, num_args = 0.., value_parser = hostile::NAMES, conflicts_with = "figures")]
    hostile: Option<Vec<String>>,
    /// Instead of the figures, content over far and lossy lines. `scripts/far-links` calls this.
    #[arg(long, conflicts_with_all = ["figures", "hostile"])]
    links: bool,
    /// Instead of the figures, a shard beside what other programs take for it. `scripts/bench-peers` calls this.
    #[arg(long, conflicts_with_all = ["figures", "hostile", "links"])]
    peers: bool,
    /// A program to leave out of `--peers`.
    #[arg(long, value_name = "PEER", value_parser = peers::NAMES, requires = "peers")]
    without: Vec<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Runs of each figure; those that take long make fewer, and say how many.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// The Python interpreter of the nodes; it has numpy.
    #[arg(long, env = "PYTHON", default_value = "python3")]
    python: PathBuf,
    /// Bytes of the shard that is moved, in MiB; 1024, or 256 over far lines.
    #[arg(long)]
    shard_mib: Option<u32>,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The two ends of the raw stream are processes of their own, as nodes are.
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [raw::SERVE, bytes] => runtime.block_on(raw::serve(bytes.parse()?)),
        [hostile::ATTACK, attack, address, secret] => runtime.block_on(hostile::attack(attack, address, secret)),
        [raw::FETCH, address] => runtime.block_on(raw::fetch(address.parse()?)),
        [links::SERVE, address, bytes] => links::serve(address, bytes.parse()?),
        [links::FETCH, address] => links::fetch(address),
        [peers::HTTP_FETCH, url, digest, to] => runtime.block_on(peers::http_fetch(url, digest, to)),
        _ => runtime.block_on(measure(&Arguments::parse())),
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    if let Some(attacks) = &arguments.hostile {
        return hostile::measure(arguments, attacks).await;
    }
    if arguments.links {
        return links::measure(arguments).await;
    }
    if arguments.peers {
        return peers::measure(arguments).await;
    }
    let wanted = |name: &&&str| arguments.figures.is_empty() || arguments.figures.iter().any(|figure| figure == **name);
    let mut report = Report::new(arguments.json);
    for name in ALL.iter().filter(wanted) {
        report.begin(name);
        let measured = match *name {
            "start" => start::measure(arguments, &mut report).await,
            "idle" => idle::measure(arguments, &mut report).await,
            "dispatch" => dispatch::measure(arguments, &mut report).await,
            "aggregation" => aggregation::measure(arguments, &mut report),
            "import" => import::measure(arguments, &mut report),
            "shard" => shard::measure(arguments, &mut report).await,
            "seeders" => seeders::measure(arguments, &mut report).await,
            "fairness" => fairness::measure(arguments, &mut report).await,
            "ledger" => ledger::measure(arguments, &mut report),
            other => bail!("`{other}` is listed and not measured"),
        };
        measured.with_context(|| format!("`{name}` could not be measured"))?;
    }
    report.finish();
    Ok(())
}
