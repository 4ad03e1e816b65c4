//! The files that a chain begins with: keys, genesis and configuration of CometBFT for validators on this machine, and
//! the genesis alone for validators elsewhere.
//!
//! A key is made once and never written over. What a file of CometBFT must look like is CometBFT's business (0.38):
//! whatever is not written here has its default.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    net::TcpListener,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tendermint::{PrivateKey, PublicKey, account, private_key};

use super::{
    MAX_GENESIS,
    server::{Address, AddressError},
};
use crate::{
    chain::{
        embedded::{MAX_BLOCK_BYTES, tendermint_time},
        ledger::{Economy, Genesis, GenesisError, Ledger, Parameters, USUAL_MAX_OBJECTS},
        light::EVIDENCE_AGE,
    },
    clock,
    types::{LedgerId, NodeKey},
};

/// The most validators that one machine makes a chain of: a lab has few cores.
pub const MAX_LOCAL: u32 = 16;
/// The voting power of each. Any positive number says the same as long as all have it.
const POWER: u64 = 10;
/// The file that names the validators of a chain on this machine.
const CHAIN_FILE: &str = "chain.json";
/// The longest such file in bytes: [`MAX_LOCAL`] validators.
const MAX_CHAIN_FILE: u64 = 64 * 1024;

/// Why the files of a chain are not there.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The disk.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a chain already.
    #[error("{} holds a chain already: run it with `ledger run`, or choose another directory", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no chain: make one with `ledger init`", .0.display())]
    Missing(PathBuf),
    /// Its description can't be read.
    #[error("{} is no description of a chain: restore it from a copy", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The genesis is not sound.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// Two validators are one, or there is none.
    #[error("the validators: {0}")]
    Validators(String),
    /// The directory's name is too long for a socket.
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// What a chain on this machine is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub chain_id: LedgerId,
    /// Validators, 1 to [`MAX_LOCAL`].
    pub validators: u32,
    /// The ledger's own numbers.
    pub terms: Terms,
    /// Pause between two blocks.
    pub block_time: Duration,
    /// The first validator's P2P port; its RPC has the next, the next validator's are ten further. `None`: free ones.
    pub base_port: Option<u16>,
}

/// What an operator may choose of a ledger's genesis.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Credited to each account that registers, in the smallest unit.
    pub faucet: u64,
    /// A node without a beat is offline after this.
    pub offline_after: Duration,
    /// Balances from the start, in the smallest unit.
    pub accounts: BTreeMap<NodeKey, u64>,
    /// Stake, offences, reputation that fades, and fees; none of them for `None`.
    pub economy: Option<Economy>,
}

/// A validator of a chain to be, wherever it runs.
#[derive(Clone, Debug)]
pub struct Member {
    /// A label.
    pub name: String,
    /// Its consensus key: what `cometbft show-validator` prints.
    pub key: PublicKey,
}

/// A chain on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub chain_id: LedgerId,
    /// Its validators.
    pub validators: Vec<Validator>,
}

/// A validator on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// Its label, which is also its directory's name.
    pub name: String,
    /// Port of its JSON-RPC on loopback.
    pub rpc: u16,
    /// Port for the other validators, on loopback.
    pub p2p: u16,
    /// The name of its P2P key.
    pub node_id: String,
}

/// The directory of one validator: CometBFT's home, with the application's beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(pub PathBuf);

impl Home {
    /// What the application keeps.
    pub fn application(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// Where the application listens.
    pub fn address(&self) -> Result<Address, AddressError> {
        Address::unix(&self.0.join("abci.sock"))
    }

    /// Whether CometBFT has its configuration here.
    pub fn exists(&self) -> bool {
        self.0.join("config/config.toml").exists()
    }
}

impl Chain {
    /// The directory of a validator of the chain in `directory`.
    pub fn home(directory: &Path, validator: &Validator) -> Home {
        Home(directory.join(&validator.name))
    }

    /// The chain in `directory`.
    pub fn read(directory: &Path) -> Result<Self, LocalError> {
        let path = directory.join(CHAIN_FILE);
        let fail = |source: io::Error| LocalError::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LocalError::Missing(directory.to_owned()));
            }
            Ok(metadata) if metadata.len() > MAX_CHAIN_FILE => {
                return Err(fail(io::Error::other(format!("over the limit of {MAX_CHAIN_FILE} bytes"))));
            }
            other => other.map_err(fail)?,
        };
        let bytes = fs::read(&path).map_err(fail)?;
        serde_json::from_slice(&bytes).map_err(|source| LocalError::Damaged { path: path.clone(), source })
    }
}

/// Makes the directories of a chain on this machine. What it made is removed again if it fails.
pub fn init(directory: &Path, plan: &Plan) -> Result<Chain, LocalError> {
    let fail = |source| LocalError::Io { path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(fail)?;
    if fs::read_dir(directory).map_err(fail)?.next().is_some() {
        return Err(LocalError::Exists(directory.to_owned()));
    }
    let made = make(directory, plan);
    if made.is_err() {
        // It was empty, so all in it is ours.
        let _ = fs::remove_dir_all(directory);
    }
    made
}

fn make(directory: &Path, plan: &Plan) -> Result<Chain, LocalError> {
    if !(1..=MAX_LOCAL).contains(&plan.validators) {
        return Err(LocalError::Validators(format!("{} were asked for; 1 to {MAX_LOCAL} may be", plan.validators)));
    }
    let absolute =
        std::path::absolute(directory).map_err(|source| LocalError::Io { path: directory.to_owned(), source })?;
    let (mut validators, mut members) = (Vec::new(), Vec::new());
    // Held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    for number in 0..plan.validators {
        let name = format!("validator-{}", number + 1);
        let home = absolute.join(&name);
        fs::create_dir_all(home.join("config"))
            .and_then(|()| fs::create_dir_all(home.join("data")))
            .map_err(|source| LocalError::Io { path: home.clone(), source })?;
        let (key, node_id) = write_keys(&home)?;
        let (p2p, rpc) = match plan.base_port {
            Some(base) => ports_of(base, number)?,
            None => (free_port(&mut held)?, free_port(&mut held)?),
        };
        members.push(Member { name: name.clone(), key });
        validators.push(Validator { name, rpc, p2p, node_id });
    }
    let genesis = genesis(&plan.chain_id, &members, &plan.terms)?;
    let chain = Chain { chain_id: plan.chain_id.clone(), validators };
    for validator in &chain.validators {
        let home = Chain::home(&absolute, validator);
        put(&home.0.join("config/genesis.json"), genesis.as_bytes())?;
        let address = home.address()?;
        put(
            &home.0.join("config/config.toml"),
            configuration(&chain, validator, &address, plan.block_time).as_bytes(),
        )?;
    }
    put(&absolute.join(CHAIN_FILE), pretty(&json!(chain)).as_bytes())?;
    Ok(chain)
}

/// The `genesis.json` of a chain of these validators, wherever they run. It begins now.
pub fn genesis(chain_id: &str, members: &[Member], terms: &Terms) -> Result<String, LocalError> {
    let mut names = BTreeSet::new();
    if let Some(twice) = members.iter().find(|member| !names.insert(member.key.to_bytes())) {
        return Err(LocalError::Validators(format!("the key of `{}` stands twice", twice.name)));
    }
    let first = members.first().and_then(|member| NodeKey::from_slice(&member.key.to_bytes()));
    let validator = first.ok_or_else(|| LocalError::Validators("there is none with an Ed25519 key".to_owned()))?;
    let offline_after = u64::try_from(terms.offline_after.as_millis()).unwrap_or(u64::MAX);
    let own = Genesis {
        chain_id: chain_id.to_owned(),
        parameters: Parameters {
            faucet_per_account: terms.faucet,
            max_objects: USUAL_MAX_OBJECTS,
            ..Parameters::with_offline_after(offline_after)
        },
        accounts: terms.accounts.clone(),
        time: clock::now(),
        validator,
        economy: terms.economy,
    };
    Ledger::new(own.clone())?;
    let validators: Vec<Value> = members.iter().map(member_json).collect();
    let genesis = json!({
        "genesis_time": tendermint_time(own.time).to_rfc3339(),
        "chain_id": chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": { "max_bytes": MAX_BLOCK_BYTES.to_string(), "max_gas": "-1" },
            // Evidence is too old when it is so by both: the time is what counts unless blocks take over 12 seconds.
            "evidence": {
                "max_age_num_blocks": "100000",
                "max_age_duration": EVIDENCE_AGE.as_nanos().to_string(),
                "max_bytes": "1048576",
            },
            "validator": { "pub_key_types": ["ed25519"] },
            "version": { "app": "0" },
            "abci": { "vote_extensions_enable_height": "0" },
        },
        "validators": validators,
        "app_hash": "",
        "app_state": own,
    });
    let text = pretty(&genesis);
    if text.len() > MAX_GENESIS {
        return Err(LocalError::Validators(format!(
            "the genesis has {} bytes, over the limit of {MAX_GENESIS}",
            text.len()
        )));
    }
    Ok(text)
}

fn member_json(member: &Member) -> Value {
    let address = account::Id::from(member.key);
    json!({ "address": address, "pub_key": member.key, "power": POWER.to_string(), "name": member.name })
}

/// CometBFT's configuration: what differs from its defaults.
fn configuration(chain: &Chain, own: &Validator, address: &Address, block_time: Duration) -> String {
    let others = chain.validators.iter().filter(|other| other.name != own.name);
    let peers: Vec<String> = others.map(|other| format!("{}@127.0.0.1:{}", other.node_id, other.p2p)).collect();
    format!(
        r#"# Made by `atlas-node ledger init`. What is not here has CometBFT's default; `cometbft init` in an empty directory shows all.

moniker = "{name}"
# The ledger, which `atlas-node ledger run` starts beside CometBFT.
proxy_app = "{address}"
log_level = "main:info,*:error"

[rpc]
laddr = "tcp://127.0.0.1:{rpc}"

[p2p]
laddr = "tcp://127.0.0.1:{p2p}"
persistent_peers = "{peers}"
# All are on this machine: they know each other, and loopback is no fault.
pex = false
addr_book_strict = false
allow_duplicate_ip = true
flush_throttle_timeout = "10ms"

[consensus]
# The pause between two blocks.
timeout_commit = "{block_time}ms"
# A validator that is away costs the others this much when its turn comes.
timeout_propose = "1s"
peer_gossip_sleep_duration = "10ms"

[mempool]
# A transaction of the ledger has at most half a MiB.
max_tx_bytes = 1048576
"#,
        name = own.name,
        rpc = own.rpc,
        p2p = own.p2p,
        peers = peers.join(","),
        block_time = block_time.as_millis(),
    )
}

/// Makes the two keys of a validator; its consensus key, and the name of its P2P key.
fn write_keys(home: &Path) -> Result<(PublicKey, String), LocalError> {
    let (consensus, p2p) = (new_key(), new_key());
    let public = consensus.public_key();
    let key = json!({ "address": account::Id::from(public), "pub_key": public, "priv_key": consensus });
    put_secret(&home.join("config/priv_validator_key.json"), &pretty(&key))?;
    put_secret(&home.join("config/node_key.json"), &pretty(&json!({ "priv_key": p2p })))?;
    // What it signed last: nothing.
    let state = json!({ "height": "0", "round": 0, "step": 0 });
    put(&home.join("data/priv_validator_state.json"), pretty(&state).as_bytes())?;
    let node_id = account::Id::from(p2p.public_key()).to_string().to_lowercase();
    Ok((public, node_id))
}

fn new_key() -> PrivateKey {
    let secret = clock::random_bytes::<32>();
    let key = private_key::Ed25519::try_from(&secret[..]).expect("any 32 bytes are an Ed25519 secret");
    PrivateKey::Ed25519(key)
}

fn ports_of(base: u16, number: u32) -> Result<(u16, u16), LocalError> {
    let p2p = u32::from(base) + 10 * number;
    match (u16::try_from(p2p), u16::try_from(p2p + 1)) {
        (Ok(p2p), Ok(rpc)) if base > 0 => Ok((p2p, rpc)),
        _ => Err(LocalError::Validators(format!("--base-port {base} leaves no port for validator {}", number + 1))),
    }
}

/// A port that is free now. Another program may take it before CometBFT does; then its start fails and says so.
fn free_port(held: &mut Vec<TcpListener>) -> Result<u16, LocalError> {
    let fail = |source| LocalError::Io { path: "127.0.0.1:0".into(), source };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
    let port = listener.local_addr().map_err(fail)?.port();
    held.push(listener);
    Ok(port)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), LocalError> {
    write_new(path, bytes, 0o666)
}

fn put_secret(path: &Path, text: &str) -> Result<(), LocalError> {
    write_new(path, text.as_bytes(), 0o600)
}

/// Writes and syncs a file that was not there, with these permissions as far as the process's mask allows them.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), LocalError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| LocalError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn plan(validators: u32) -> Plan {
        Plan {
            chain_id: "atlas-lab".to_owned(),
            validators,
            terms: Terms {
                faucet: 5,
                offline_after: Duration::from_secs(9),
                accounts: BTreeMap::new(),
                economy: Some(Economy { transaction_fee: 3, ..Economy::default() }),
            },
            block_time: Duration::from_millis(200),
            base_port: None,
        }
    }

    #[test]
    fn validators_have_keys_ports_and_peers_of_their_own_and_one_genesis() {
        let directory = tempfile::tempdir().unwrap();
        let chain = init(directory.path(), &plan(4)).unwrap();
        assert_eq!(Chain::read(directory.path()).unwrap(), chain);
        let ports: BTreeSet<u16> =
            chain.validators.iter().flat_map(|validator| [validator.rpc, validator.p2p]).collect();
        assert_eq!(ports.len(), 8);
        let homes: Vec<Home> =
            chain.validators.iter().map(|validator| Chain::home(directory.path(), validator)).collect();
        let genesis = fs::read_to_string(homes[0].0.join("config/genesis.json")).unwrap();
        let parsed: Value = serde_json::from_str(&genesis).unwrap();
        // 14 days in nanoseconds, as CometBFT writes them: a client's trust of 7 days ends well before.
        assert_eq!(parsed["consensus_params"]["evidence"]["max_age_duration"], "1209600000000000");
        for (home, validator) in homes.iter().zip(&chain.validators) {
            assert!(home.exists());
            assert_eq!(fs::read_to_string(home.0.join("config/genesis.json")).unwrap(), genesis);
            let text = fs::read_to_string(home.0.join("config/config.toml")).unwrap();
            let table: toml::Table = text.parse().unwrap();
            let peers = table["p2p"]["persistent_peers"].as_str().unwrap();
            assert_eq!((peers.split(',').count(), peers.contains(&validator.node_id)), (3, false));
            for secret in ["config/priv_validator_key.json", "config/node_key.json"] {
                assert_eq!(fs::metadata(home.0.join(secret)).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        let genesis: Value = serde_json::from_str(&genesis).unwrap();
        let own: Genesis = serde_json::from_value(genesis["app_state"].clone()).unwrap();
        assert_eq!((own.parameters.faucet_per_account, own.parameters.offline_after_millis), (5, 9_000));
        assert_eq!(own.economy.map(|economy| economy.transaction_fee), Some(3));
        assert_eq!(genesis["validators"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_directory_that_holds_something_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        init(directory.path(), &plan(1)).unwrap();
        let before = fs::read(directory.path().join("validator-1/config/priv_validator_key.json")).unwrap();
        assert!(matches!(init(directory.path(), &plan(4)), Err(LocalError::Exists(_))));
        assert_eq!(fs::read(directory.path().join("validator-1/config/priv_validator_key.json")).unwrap(), before);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(Chain::read(empty.path()), Err(LocalError::Missing(_))));
        fs::write(empty.path().join(CHAIN_FILE), "{").unwrap();
        assert!(matches!(Chain::read(empty.path()), Err(LocalError::Damaged { .. })));
    }

    #[test]
    fn a_plan_that_can_not_be_is_refused_in_words_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("chain");
        let refused = |change: fn(&mut Plan)| {
            let mut plan = plan(2);
            change(&mut plan);
            let error = init(&directory, &plan).unwrap_err().to_string();
            assert!(!directory.exists(), "{error}");
            error
        };
        assert!(refused(|plan| plan.validators = 0).contains("1 to 16"));
        assert!(refused(|plan| plan.chain_id = "two words".to_owned()).contains("printable ASCII"));
        assert!(refused(|plan| plan.base_port = Some(65_530)).contains("leaves no port for validator 2"));
        let long = parent.path().join("a".repeat(120));
        assert!(matches!(init(&long, &plan(1)), Err(LocalError::Address(AddressError::Long(_)))));
    }

    #[test]
    fn a_member_that_stands_twice_is_refused() {
        let member = Member { name: "one".to_owned(), key: new_key().public_key() };
        let terms = plan(1).terms;
        let error = genesis("atlas-lab", &[member.clone(), member], &terms).unwrap_err().to_string();
        assert!(error.contains("`one` stands twice"), "{error}");
        assert!(genesis("atlas-lab", &[], &terms).unwrap_err().to_string().contains("there is none"));
    }
}
