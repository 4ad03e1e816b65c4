//! A validator as one who votes: its key, and the chain that it is a validator of.
//!
//! Both are CometBFT's files in the validator's home. They are read and never written, and the key goes nowhere but into
//! a signature.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use tendermint::PrivateKey;

use super::{MAX_GENESIS, local::Home};
use crate::{identity::Keypair, types::LedgerId};

/// The longest key file in bytes: a key in its three forms has some 300.
const MAX_KEY_FILE: usize = 16 * 1024;

/// One who votes.
#[derive(Debug)]
pub struct Voter {
    /// Signs votes, as it signs blocks.
    pub keypair: Keypair,
    /// The chain.
    pub chain_id: LedgerId,
}

/// Why nobody can vote with a directory.
#[derive(Debug, thiserror::Error)]
pub enum VoterError {
    /// A file is not there, or can't be read.
    #[error("{}: {source}; name the home of a validator, in whose `config` CometBFT keeps its key and genesis", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is something else.
    #[error("{} is not what CometBFT keeps there", .path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The key is of a kind that this ledger does not have.
    #[error("the key in {} is no Ed25519 key, and no validator of this ledger has another", .0.display())]
    Kind(PathBuf),
}

#[derive(Deserialize)]
struct KeyFile {
    priv_key: PrivateKey,
}

#[derive(Deserialize)]
struct GenesisFile {
    chain_id: LedgerId,
}

/// The validator whose home this is.
pub fn read(home: &Home) -> Result<Voter, VoterError> {
    let path = home.0.join("config/priv_validator_key.json");
    let KeyFile { priv_key } = parse(&path, MAX_KEY_FILE)?;
    let secret = priv_key.ed25519_signing_key().and_then(|key| <[u8; 32]>::try_from(key.as_bytes()).ok());
    let secret = secret.ok_or(VoterError::Kind(path))?;
    let GenesisFile { chain_id } = parse(&home.0.join("config/genesis.json"), MAX_GENESIS)?;
    Ok(Voter { keypair: Keypair::from_secret(&secret), chain_id })
}

fn parse<T: DeserializeOwned>(path: &Path, limit: usize) -> Result<T, VoterError> {
    let fail = |source| VoterError::Io { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(fail)?.len();
    if length > limit as u64 {
        return Err(fail(io::Error::other(format!("it has {length} bytes, over the limit of {limit}"))));
    }
    let bytes = fs::read(path).map_err(fail)?;
    serde_json::from_slice(&bytes).map_err(|source| VoterError::Form { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::chain::{
        abci::local::{self, Chain, Plan, Terms},
        ledger::Genesis,
    };

    #[test]
    fn a_voter_is_the_validator_of_its_home_and_a_directory_without_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let terms =
            Terms { faucet: 0, offline_after: Duration::from_secs(9), accounts: BTreeMap::new(), economy: None };
        let plan = Plan {
            chain_id: "atlas-lab".to_owned(),
            validators: 1,
            terms,
            block_time: Duration::from_millis(200),
            base_port: None,
        };
        let chain = local::init(directory.path(), &plan).unwrap();
        let home = Chain::home(directory.path(), &chain.validators[0]);
        let voter = read(&home).unwrap();
        let genesis: serde_json::Value =
            serde_json::from_slice(&fs::read(home.0.join("config/genesis.json")).unwrap()).unwrap();
        let own: Genesis = serde_json::from_value(genesis["app_state"].clone()).unwrap();
        assert_eq!((voter.keypair.node_key(), voter.chain_id.as_str()), (own.validator, "atlas-lab"));

        let key = home.0.join("config/priv_validator_key.json");
        for (content, words) in [("{}", "not what CometBFT keeps"), (" ".repeat(20_000).as_str(), "over the limit")] {
            fs::write(&key, content).unwrap();
            let error = read(&home).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("priv_validator_key"), "{error}");
        }
        let error = read(&Home(directory.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("home of a validator"), "{error}");
    }
}
