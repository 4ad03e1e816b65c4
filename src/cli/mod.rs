//! The command line: clap types and printing, one file a command, nothing else.
//!
//! stdout is data (one table, or JSON with `--json`), stderr is logs and words. Every command but `start`, `config`, `register`, `testnet`, `script`,
//! `completions` and those of `ledger` that run a chain talks to the running node of `--data-dir` through its control socket, and none holds state of a node.
//!
//! Exit codes: see [`error::Error::exit_code`].

mod checkpoint;
mod completions;
mod config;
mod error;
mod infer;
mod jobs;
mod ledger;
mod logs;
mod output;
mod peers;
mod proof;
mod register;
mod rewards;
mod script;
mod settings;
mod shard;
mod start;
mod status;
mod storage;
mod submit;
mod tasks;
mod testnet;
mod wallet;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

pub use error::Error;
use output::Output;

use crate::{api::client::Client, executor::launcher};

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the node, a peer or the ledger said no, or something broke
  2  a flag, a setting or an input file is wrong
  3  no node runs with this --data-dir
  4  the job failed, or the test network did not do what it was asked
  130  interrupted";

/// The compute node of the Atlas network: joins a libp2p mesh, trains models together with other nodes, proves and
/// settles the work.
#[derive(Debug, Parser)]
#[command(name = "atlas-node", version, after_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Where a node keeps its files; tells nodes on one machine apart. Default: ~/.atlas
    #[arg(long, global = true, value_name = "DIR", env = "ATLAS_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Start(start::Start),
    /// Show the running node: peers, tasks, resources, ledger, protections.
    Status,
    /// Name this node and say where its rewards go.
    Register(register::Register),
    /// Show every setting, its value and where the value came from.
    Config(settings::Settings),
    /// Submit a job.
    Submit(submit::Submit),
    /// List jobs, or show, cancel, pause, resume one.
    Jobs(jobs::Jobs),
    /// List tasks.
    Tasks(tasks::Tasks),
    /// List the nodes that are registered on the ledger.
    Nodes,
    /// Show this node's money, give it to others, or bond it as the node's stake.
    #[command(subcommand)]
    Wallet(wallet::Wallet),
    /// Show what this node was paid for its work, and what it will be.
    Rewards,
    /// List connected peers.
    Peers,
    /// Ask a model.
    Infer(infer::Infer),
    /// Show the end of a task's log.
    Logs(logs::Logs),
    /// Store, fetch and list content.
    #[command(subcommand)]
    Shard(shard::Shard),
    /// Ask other nodes to keep content, and list what nodes keep for others.
    #[command(subcommand)]
    Storage(storage::Storage),
    /// List checkpoints.
    #[command(subcommand)]
    Checkpoint(checkpoint::Checkpoint),
    /// Fetch and verify receipts.
    #[command(subcommand)]
    Proof(proof::Proof),
    /// Show the ledger as this node sees it, and its account; or run a ledger that is a chain.
    Ledger(ledger::Arguments),
    /// Run a network of nodes on this machine, give it a job, and watch.
    Testnet(testnet::Testnet),
    /// For those who write script bundles.
    #[command(subcommand)]
    Script(script::Script),
    /// Print a completion script for a shell.
    Completions(completions::Completions),
}

/// What every command gets.
struct Context {
    data_dir: PathBuf,
    output: Output,
}

impl Context {
    /// The running node of the data directory.
    fn client(&self) -> Result<Client, Error> {
        Ok(Client::connect(&self.data_dir)?)
    }
}

/// Reads the command line, does what it says, and gives the exit code.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // The node starts this itself. The launcher forks and unshares, which is sound only while there is a single thread.
    if arguments.next().is_some_and(|command| command == launcher::COMMAND) {
        return launcher::main(arguments);
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    let command = match cli.command {
        Command::Completions(completions) => return completions.run(&mut Output::new(cli.global.json)),
        command => command,
    };
    let context = Context { data_dir: data_dir(cli.global.data_dir)?, output: Output::new(cli.global.json) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(dispatch(command, context));
    // A read of standard input (`--exit-with-parent`) can't be interrupted: waiting for it would keep a stopped node alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, mut context: Context) -> Result<(), Error> {
    let context = &mut context;
    match command {
        Command::Start(start) => start.run(context).await,
        Command::Status => status::run(context).await,
        Command::Register(register) => register.run(context).await,
        Command::Config(settings) => config::run(&settings, context),
        Command::Submit(submit) => submit.run(context).await,
        Command::Jobs(jobs) => jobs.run(context).await,
        Command::Tasks(tasks) => tasks.run(context).await,
        Command::Nodes => peers::nodes(context).await,
        Command::Wallet(wallet) => wallet.run(context).await,
        Command::Rewards => rewards::run(context).await,
        Command::Peers => peers::peers(context).await,
        Command::Infer(infer) => infer.run(context).await,
        Command::Logs(logs) => logs.run(context).await,
        Command::Shard(shard) => shard.run(context).await,
        Command::Storage(storage) => storage.run(context).await,
        Command::Checkpoint(checkpoint) => checkpoint.run(context).await,
        Command::Proof(proof) => proof.run(context).await,
        Command::Ledger(ledger) => ledger.run(context).await,
        Command::Testnet(testnet) => testnet.run(context).await,
        Command::Script(script) => script.run(context).await,
        Command::Completions(_) => Ok(()),
    }
}

/// The bytes of a file that a person named; longer than `most` it is no such thing as `what`.
fn read_at_most(file: &Path, most: u64, what: &str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { path: file.to_owned(), source };
    let length = fs::metadata(file).map_err(failed)?.len();
    if length > most {
        return Err(Error::Input(format!("{} has {length} bytes; {what} has at most {most}", file.display())));
    }
    fs::read(file).map_err(failed)
}

fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| Path::new(&home).join(".atlas"));
    let directory = given.or_else(home).ok_or(crate::config::Error::NoDataDirectory)?;
    // Other processes and later directories must mean the same place.
    std::path::absolute(&directory).map_err(|source| Error::File { path: directory, source })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_commands_are_understood() {
        for line in [
            "start --chain-rpc http://localhost:26657 --ipfs-api /ip4/127.0.0.1/tcp/5001 --log-level debug",
            "start --listen /ip4/127.0.0.1/tcp/0 --listen /ip4/127.0.0.1/udp/0/quic-v1 --bootstrap /ip4/1.2.3.4/tcp/1",
            "start --ledger embedded --no-mdns --no-upnp --api 127.0.0.1:8081 --swarm-key key --config atlas.toml",
            "status --json --data-dir /tmp/a",
            "register --node-id node-1 --address cosmos1abc123",
            "config --json",
            "submit job.toml --json --watch",
            "infer --model digits:1 --input {}",
            "shard ls",
            "storage keep bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy --copies 2 --for 30d",
            "storage release bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
            "storage ls",
            "start --keep-gb 100",
            "checkpoint ls",
            "wallet show --json",
            "wallet send 8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c 5",
            "wallet bond 500",
            "wallet unbond 200",
            "rewards",
            "testnet --nodes 4 --job scripts/jobs/digits.toml --kill worker --json --keep",
            "script check scripts/bundles/digits",
            "completions bash",
            "ledger",
            "ledger init --validators 4 --chain-id lab --faucet 5 --block-time 200 --base-port 0",
            "ledger run --home /tmp/chain --only 1 --cometbft /usr/bin/cometbft",
            "ledger parameters --json",
            "ledger vote --home /tmp/validator --set base_reward=5 --set economy.min_stake=1 --from 9000 --print",
            "ledger send-votes anna.json ben.json",
            "ledger abci --listen unix:///tmp/abci.sock --home /tmp/ledger --keep-blocks 100000",
        ] {
            let words = std::iter::once("atlas-node").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let neither = Cli::try_parse_from(["atlas-node", "infer", "--input", "1"]);
        assert!(neither.is_err(), "a question needs a job or a model");
    }
}
