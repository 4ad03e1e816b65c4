//! What a chain begins from, as CometBFT hands it over: the ledger's own part is the `app_state` of `genesis.json`.
//!
//! Nothing is guessed and nothing passed over: a genesis that two validators could read in two ways is refused on
//! both, before the first block.

use std::collections::BTreeMap;

use tendermint_proto::v0_38::{
    abci::{RequestInitChain, ValidatorUpdate},
    crypto::public_key::Sum,
};

use super::{MAX_BLOCK, MAX_GENESIS};
use crate::{
    chain::ledger::{Genesis, GenesisError, Ledger},
    types::{NodeKey, Time},
};

/// Why a chain does not begin.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The `app_state` is too long.
    #[error("the app_state of the genesis has {0} bytes, over the limit of {MAX_GENESIS}")]
    TooLong(usize),
    /// The `app_state` is not a ledger's genesis.
    #[error("the app_state of the genesis is no genesis of a ledger: {0}")]
    AppState(#[from] serde_json::Error),
    /// It is not sound.
    #[error("the app_state of the genesis is not sound: {0}")]
    Genesis(#[from] GenesisError),
    /// It speaks of another chain.
    #[error("the app_state of the genesis has {field} {own}, the chain has {chain}: they must be equal")]
    Differs {
        /// Which field.
        field: &'static str,
        /// What the ledger's part says.
        own: String,
        /// What CometBFT says.
        chain: String,
    },
    /// A block could be longer than a request.
    #[error("block.max_bytes of the genesis is {0}; this ledger takes 1 to {MAX_BLOCK}")]
    BlockBytes(i64),
    /// It does not begin with block 1.
    #[error("initial_height of the genesis is {0}; a ledger begins with 1")]
    Height(i64),
    /// The validators are not usable.
    #[error("the validators of the genesis: {0}")]
    Validators(String),
}

/// The ledger at height 0 of the chain that `request` describes.
pub(super) fn begin(request: &RequestInitChain) -> Result<Ledger, InitError> {
    let length = request.app_state_bytes.len();
    if length > MAX_GENESIS {
        return Err(InitError::TooLong(length));
    }
    let genesis: Genesis = serde_json::from_slice(&request.app_state_bytes)?;
    same("chain_id", &genesis.chain_id, &request.chain_id)?;
    same("time", &genesis.time.to_string(), &time(request.time.as_ref()).to_string())?;
    if request.initial_height != 1 {
        return Err(InitError::Height(request.initial_height));
    }
    let block = request.consensus_params.as_ref().and_then(|params| params.block.as_ref());
    let max_bytes = block.map_or(0, |block| block.max_bytes);
    if usize::try_from(max_bytes).is_ok_and(|bytes| (1..=MAX_BLOCK).contains(&bytes)) {
        let powers = powers(&genesis, &request.validators)?;
        Ok(Ledger::with_validators(genesis, powers)?)
    } else {
        Err(InitError::BlockBytes(max_bytes))
    }
}

fn same(field: &'static str, own: &str, chain: &str) -> Result<(), InitError> {
    let differs = || InitError::Differs { field, own: own.to_owned(), chain: chain.to_owned() };
    if own == chain { Ok(()) } else { Err(differs()) }
}

/// The validators with their powers, each once.
fn powers(genesis: &Genesis, validators: &[ValidatorUpdate]) -> Result<BTreeMap<NodeKey, u64>, InitError> {
    let mut powers = BTreeMap::new();
    for validator in validators {
        let sum = validator.pub_key.as_ref().and_then(|key| key.sum.as_ref());
        let key = match sum {
            Some(Sum::Ed25519(bytes)) => NodeKey::from_slice(bytes),
            _ => None,
        };
        let key = key.ok_or_else(|| InitError::Validators("one has no Ed25519 key".to_owned()))?;
        let power = u64::try_from(validator.power).ok().filter(|power| *power > 0);
        let power = power.ok_or_else(|| InitError::Validators(format!("{key} has the power {}", validator.power)))?;
        if powers.insert(key, power).is_some() {
            return Err(InitError::Validators(format!("{key} stands twice; remove one")));
        }
    }
    if powers.contains_key(&genesis.validator) {
        Ok(powers)
    } else {
        Err(InitError::Validators(format!("{}, which app_state names, is none of them", genesis.validator)))
    }
}

/// CometBFT's times as ours; the epoch for none, and for one before it.
pub(super) fn time(time: Option<&tendermint_proto::google::protobuf::Timestamp>) -> Time {
    let millis = time.and_then(|time| {
        let seconds = u64::try_from(time.seconds).ok()?.checked_mul(1_000)?;
        seconds.checked_add(u64::try_from(time.nanos).ok()? / 1_000_000)
    });
    Time(millis.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{genesis, init_chain, key},
        *,
    };
    use crate::{
        chain::{ledger::Economy, records::Validators, wire::query},
        codec,
    };

    fn refused(change: impl FnOnce(&mut RequestInitChain)) -> String {
        let mut request = init_chain();
        change(&mut request);
        begin(&request).unwrap_err().to_string()
    }

    fn with_app_state(from: &str, to: &str) -> String {
        let state = serde_json::to_string(&genesis()).unwrap();
        assert!(state.contains(from), "{state}");
        refused(|request| request.app_state_bytes = state.replacen(from, to, 1).into())
    }

    #[test]
    fn a_ledger_begins_from_the_app_state() {
        let ledger = begin(&init_chain()).unwrap();
        assert_eq!((ledger.genesis(), ledger.height()), (&genesis(), 0));
        assert_eq!(ledger.app_hash(), Ledger::new(genesis()).unwrap().app_hash());
    }

    #[test]
    fn a_genesis_with_an_account_or_a_field_twice_is_refused_by_its_name() {
        let account = key(1).node_key().to_string();
        let twice = with_app_state("\"accounts\":{", &format!("\"accounts\":{{\"{}\":7,", account.to_uppercase()));
        assert!(twice.contains("stands twice under `accounts`") && twice.contains(&account), "{twice}");
        assert!(with_app_state("\"time\"", "\"time\":1,\"time\"").contains("duplicate field `time`"));
        assert!(with_app_state("\"parameters\":{", "\"parameters\":{\"tax\":1,").contains("unknown field `tax`"));
    }

    #[test]
    fn a_genesis_that_does_not_fit_its_chain_is_refused_with_both_values() {
        assert!(
            refused(|request| request.chain_id = "other".to_owned())
                .contains("chain_id atlas-test, the chain has other")
        );
        assert!(refused(|request| request.time = None).contains("time"));
        assert!(refused(|request| request.initial_height = 5).contains("initial_height"));
        assert!(refused(|request| request.app_state_bytes = "{}".into()).contains("missing field"));
        assert!(refused(|request| request.app_state_bytes = vec![b' '; MAX_GENESIS + 1].into()).contains("limit"));
        assert!(with_app_state("\"lease_millis\":600000", "\"lease_millis\":0").contains("lease_millis"));
        let block = |bytes| {
            refused(|request| request.consensus_params.as_mut().unwrap().block.as_mut().unwrap().max_bytes = bytes)
        };
        assert!(block(-1).contains("block.max_bytes") && block(1 << 40).contains("block.max_bytes"));
    }

    #[test]
    fn a_chain_with_an_economy_keeps_the_powers_of_its_validators() {
        let mut request = init_chain();
        let genesis = Genesis { economy: Some(Economy::default()), ..genesis() };
        request.app_state_bytes = serde_json::to_vec(&genesis).unwrap().into();
        request.validators[0].power = 7;
        let ledger = begin(&request).unwrap();
        let answer = ledger.query(query::GET_VALIDATORS, &[]).unwrap();
        let validators: Validators = codec::decode(&answer, 1_000).unwrap();
        assert_eq!(validators.powers, BTreeMap::from([(genesis.validator, 7)]));
        let unknown = String::from_utf8(request.app_state_bytes.to_vec()).unwrap().replace("min_stake", "tax");
        request.app_state_bytes = unknown.into();
        assert!(begin(&request).unwrap_err().to_string().contains("unknown field `tax`"));
    }

    #[test]
    fn validators_are_distinct_have_power_and_one_of_them_is_named() {
        assert!(refused(|request| request.validators.clear()).contains("is none of them"));
        let twice = refused(|request| request.validators.push(request.validators[0].clone()));
        assert!(twice.contains("stands twice"), "{twice}");
        assert!(refused(|request| request.validators[0].power = 0).contains("power"));
        assert!(refused(|request| request.validators[0].pub_key = None).contains("no Ed25519 key"));
    }
}
