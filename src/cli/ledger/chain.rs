//! `ledger init`, `run` and `genesis`: a chain on this machine, and the beginning of one on many.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tendermint::PublicKey;
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::abci::Keep;
use crate::{
    chain::{
        abci::{
            local::{self, Chain, Home, LocalError, Member, Plan, Terms},
            supervise::{self, Programs},
        },
        ledger::Economy,
    },
    cli::{Context, Error, output::table},
    types::NodeKey,
};

/// The numbers of a ledger's genesis that an operator chooses.
#[derive(Clone, Debug, Args)]
struct Numbers {
    /// The chain's name; every transaction carries it.
    #[arg(long, value_name = "ID", default_value = "atlas-chain")]
    chain_id: String,
    /// Credited to each account when it registers a node, in the smallest unit.
    #[arg(long, value_name = "AMOUNT", default_value_t = 0)]
    faucet: u64,
    /// Seconds without a beat after which a node is offline.
    #[arg(long, value_name = "SECONDS", default_value_t = 90.0, value_parser = seconds)]
    offline_after: f64,
    /// A balance from the start: a node key and an amount in the smallest unit; may be given several times.
    #[arg(long = "account", value_name = "KEY=AMOUNT", value_parser = account)]
    accounts: Vec<(NodeKey, u64)>,
    /// A TOML file with the numbers of stake, offences, reputation and fees; an empty one for the defaults. Without it
    /// the ledger has none of them.
    #[arg(long, value_name = "FILE")]
    economy: Option<PathBuf>,
}

impl Numbers {
    fn terms(&self) -> Result<Terms, Error> {
        let mut accounts = BTreeMap::new();
        for (account, amount) in &self.accounts {
            if accounts.insert(*account, *amount).is_some() {
                return Err(Error::Input(format!("account {account} is given twice; give it one --account")));
            }
        }
        let economy = self.economy.as_deref().map(economy).transpose()?;
        Ok(Terms { faucet: self.faucet, offline_after: Duration::from_secs_f64(self.offline_after), accounts, economy })
    }
}

/// The numbers in a file, which is short: a longer one is no such file.
fn economy(path: &Path) -> Result<Economy, Error> {
    const MOST_BYTES: u64 = 64 * 1024;
    let named = |reason: String| Error::Input(format!("--economy {}: {reason}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| named(error.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(named(format!("it has {length} bytes, over the limit of {MOST_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    toml::from_str(&text).map_err(|error| named(error.to_string()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.1..=1e6).contains(number));
    number.ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 1000000"))
}

fn account(text: &str) -> Result<(NodeKey, u64), String> {
    let (key, amount) = text.split_once('=').ok_or("it is not KEY=AMOUNT")?;
    let key = key.parse::<NodeKey>().map_err(|error| error.to_string())?;
    Ok((key, amount.parse().map_err(|_| format!("`{amount}` is not an amount in the smallest unit"))?))
}

/// A label and what `cometbft show-validator` prints.
fn member(text: &str) -> Result<Member, String> {
    let (name, key) = text.split_once('=').ok_or("it is not NAME=KEY")?;
    let key: PublicKey = serde_json::from_str(key)
        .map_err(|error| format!("the key is not what `cometbft show-validator` prints: {error}"))?;
    Ok(Member { name: name.to_owned(), key })
}

/// Make the directories of a chain whose validators are all on this machine.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Where; must be empty. Default: `chain` in the data directory
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Validators. One of four may fail.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(local::MAX_LOCAL)))]
    validators: u32,
    #[command(flatten)]
    numbers: Numbers,
    /// Milliseconds between two blocks.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    block_time: u64,
    /// P2P port of the first validator; its RPC has the next, another validator's are ten further. 0 for free ones
    #[arg(long, value_name = "PORT", default_value_t = 26_656)]
    base_port: u16,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let directory = home(self.home.as_deref(), context);
        let plan = Plan {
            chain_id: self.numbers.chain_id.clone(),
            validators: self.validators,
            terms: self.numbers.terms()?,
            block_time: Duration::from_millis(self.block_time),
            base_port: (self.base_port > 0).then_some(self.base_port),
        };
        let chain = local::init(&directory, &plan)?;
        show(&chain, context)
    }
}

/// Print the genesis.json of a chain whose validators are anywhere.
#[derive(Debug, Args)]
pub(super) struct Genesis {
    #[command(flatten)]
    numbers: Numbers,
    /// A label, and what `cometbft show-validator` prints on that machine; once for each validator.
    #[arg(long = "validator", value_name = "NAME=KEY", required = true, value_parser = member)]
    validators: Vec<Member>,
}

impl Genesis {
    pub(super) fn run(self) -> Result<(), Error> {
        let genesis = local::genesis(&self.numbers.chain_id, &self.validators, &self.numbers.terms()?)?;
        std::io::Write::write_all(&mut std::io::stdout(), genesis.as_bytes()).map_err(Error::Output)
    }
}

/// Run the validators of a chain on this machine until SIGINT or SIGTERM.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// What `ledger init` made, or the home of one CometBFT. Default: `chain` in the data directory
    #[arg(long, value_name = "DIR")]
    home: Option<PathBuf>,
    /// CometBFT 0.38.
    #[arg(long, value_name = "PROGRAM", env = "ATLAS_COMETBFT", default_value = "cometbft")]
    cometbft: PathBuf,
    /// Run only this validator, counted from 1; may be given several times. Default: all
    #[arg(long, value_name = "NUMBER")]
    only: Vec<usize>,
    #[command(flatten)]
    keep: Keep,
    /// error, warn, info, debug, trace, or a filter.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

impl Run {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        log(&self.log_level);
        let directory = home(self.home.as_deref(), context);
        let homes = self.homes(&directory, context)?;
        let programs = self.programs()?;
        let stop = CancellationToken::new();
        let mut validators = JoinSet::new();
        for home in homes {
            let (programs, stop) = (programs.clone(), stop.clone());
            validators.spawn(async move { supervise::run(&home, &programs, &stop).await });
        }
        let asked = asked_to_stop(self.exit_with_parent);
        tokio::pin!(asked);
        let mut failed = None;
        loop {
            let ended = tokio::select! {
                ended = validators.join_next() => ended,
                () = &mut asked, if !stop.is_cancelled() => {
                    stop.cancel();
                    continue;
                }
            };
            // The others of a chain go on without one.
            let result = match ended {
                None => return failed.map_or(Ok(()), Err),
                Some(result) => result.map_err(|error| Error::Failed(error.to_string())).and_then(|ended| Ok(ended?)),
            };
            if let Err(error) = result {
                tracing::error!(%error, "a validator is given up");
                failed = Some(error);
            }
        }
    }

    /// The directories of the validators that are to run.
    fn homes(&self, directory: &Path, context: &Context) -> Result<Vec<Home>, Error> {
        let chain = match Chain::read(directory) {
            Err(LocalError::Missing(_)) if Home(directory.to_owned()).exists() => {
                return Ok(vec![Home(std::path::absolute(directory).map_err(Error::Output)?)]);
            }
            chain => chain?,
        };
        let count = chain.validators.len();
        if let Some(number) = self.only.iter().find(|number| !(1..=count).contains(*number)) {
            return Err(Error::Input(format!("--only {number}: the chain has the validators 1 to {count}")));
        }
        show(&chain, context)?;
        let wanted = (1..).zip(&chain.validators);
        let wanted = wanted.filter(|(number, _)| self.only.is_empty() || self.only.contains(number));
        let absolute = std::path::absolute(directory).map_err(Error::Output)?;
        Ok(wanted.map(|(_, validator)| Chain::home(&absolute, validator)).collect())
    }

    fn programs(&self) -> Result<Programs, Error> {
        let mut ledger_flags = vec!["--snapshot-every".to_owned(), self.keep.snapshot_every.to_string()];
        if let Some(kept) = self.keep.keep_blocks {
            ledger_flags.extend(["--keep-blocks".to_owned(), kept.to_string()]);
        }
        ledger_flags.extend(["--log-level".to_owned(), self.log_level.clone()]);
        let node = std::env::current_exe().map_err(|source| Error::File { path: "atlas-node".into(), source })?;
        Ok(Programs { node, cometbft: self.cometbft.clone(), ledger_flags })
    }
}

fn home(given: Option<&Path>, context: &Context) -> PathBuf {
    given.map_or_else(|| context.data_dir.join("chain"), Path::to_owned)
}

#[derive(Serialize)]
struct Row {
    name: String,
    node_id: String,
    rpc: String,
}

/// The validators, and where their RPC is.
fn show(chain: &Chain, context: &Context) -> Result<(), Error> {
    let rows: Vec<Row> = chain
        .validators
        .iter()
        .map(|validator| Row {
            name: validator.name.clone(),
            node_id: validator.node_id.clone(),
            rpc: format!("http://127.0.0.1:{}", validator.rpc),
        })
        .collect();
    Ok(context.output.value(&rows, |rows| {
        let cells =
            rows.iter().map(|row| vec![row.name.clone(), row.node_id.clone(), row.rpc.clone()]).collect::<Vec<_>>();
        table(&["VALIDATOR", "NODE ID", "RPC"], &cells, "no validators")
    })?)
}

/// Logs to stderr.
pub(super) fn log(level: &str) {
    let filter = tracing_subscriber::EnvFilter::new(level);
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}

/// Returns at SIGINT or SIGTERM, and with `parent` at the end of standard input.
pub(super) async fn asked_to_stop(parent: bool) {
    let stream = |kind| signal(kind).expect("a runtime with IO takes signal handlers");
    let (mut interrupt, mut terminate) = (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = end_of_input(), if parent => {}
    }
}

async fn end_of_input() {
    let (mut input, mut buffer) = (tokio::io::stdin(), [0; 64]);
    while !matches!(input.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_for_a_genesis_is_read_or_named() {
        let key = "{\"type\":\"tendermint/PubKeyEd25519\",\"value\":\"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\"}";
        assert_eq!(member(&format!("anna={key}")).unwrap().name, "anna");
        assert!(member("anna").unwrap_err().contains("NAME=KEY"));
        assert!(member("anna=11qY").unwrap_err().contains("cometbft show-validator"));
        let node = "ab".repeat(32);
        assert_eq!(account(&format!("{node}=12")).unwrap().1, 12);
        assert!(account(&format!("{node}=-1")).unwrap_err().contains("smallest unit"));
        assert!(account("xy=1").unwrap_err().contains("node key"));
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("3.5").is_ok());
        let twice = vec![(NodeKey([1; 32]), 1), (NodeKey([1; 32]), 2)];
        let numbers = Numbers { chain_id: "a".into(), faucet: 0, offline_after: 90.0, accounts: twice, economy: None };
        assert!(numbers.terms().unwrap_err().to_string().contains("given twice"));
    }

    #[test]
    fn an_economy_is_read_from_its_file_or_named_with_the_line_that_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = directory.path().join("economy.toml");
            std::fs::write(&path, text).unwrap();
            economy(&path)
        };
        assert_eq!(file("").unwrap(), Economy::default());
        assert_eq!(file("min_stake = 5\nshares_by_reputation = true").unwrap().min_stake, 5);
        let wrong = file("min_stake = 5\ntax = 1").unwrap_err().to_string();
        assert!(wrong.contains("economy.toml") && wrong.contains("tax") && wrong.contains("line 2"), "{wrong}");
        assert!(file(&"#".repeat(70_000)).unwrap_err().to_string().contains("over the limit"));
        let absent = economy(&directory.path().join("none")).unwrap_err().to_string();
        assert!(absent.contains("--economy") && absent.contains("No such file"), "{absent}");
    }
}
