//! What the tests of this module share: a genesis and transactions on its ledger.

use std::collections::BTreeMap;

use bytes::Bytes;

use tendermint_proto::{
    google::protobuf::Timestamp,
    v0_38::{
        abci::{RequestFinalizeBlock, RequestInitChain, ValidatorUpdate},
        crypto::{PublicKey, public_key::Sum},
        types::{BlockParams, ConsensusParams},
    },
};

use crate::{
    chain::{
        ledger::{Genesis, Parameters},
        wire::{Message, Transaction},
    },
    codec,
    identity::Keypair,
    types::Time,
};

/// The ledger of these tests.
pub(super) const CHAIN: &str = "atlas-test";

/// The key of a person with this number.
pub(super) fn key(who: u8) -> Keypair {
    Keypair::from_secret(&[who; 32])
}

/// A genesis whose validator is person 100.
pub(super) fn genesis() -> Genesis {
    Genesis {
        chain_id: CHAIN.to_owned(),
        parameters: Parameters::default(),
        accounts: BTreeMap::from([(key(1).node_key(), 500)]),
        time: Time(1_700_000_000_000),
        validator: key(100).node_key(),
        economy: None,
    }
}

/// A transaction that does something whoever sends it: it registers a model.
pub(super) fn transaction(who: u8, nonce: u64) -> Bytes {
    let message = Message::RegisterModel {
        name: format!("model-{who}"),
        version: nonce.to_string(),
        cid: "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap(),
        metadata: BTreeMap::new(),
    };
    let transaction = Transaction { chain_id: CHAIN.to_owned(), nonce, attempt: 0, message };
    Bytes::from(codec::encode(&key(who).seal(&transaction)))
}

/// How CometBFT begins the chain of [`genesis`].
pub(super) fn init_chain() -> RequestInitChain {
    let block = BlockParams { max_bytes: 1 << 20, max_gas: -1 };
    let validator = PublicKey { sum: Some(Sum::Ed25519(genesis().validator.0.to_vec())) };
    RequestInitChain {
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        chain_id: CHAIN.to_owned(),
        consensus_params: Some(ConsensusParams { block: Some(block), ..ConsensusParams::default() }),
        validators: vec![ValidatorUpdate { pub_key: Some(validator), power: 10 }],
        app_state_bytes: serde_json::to_vec(&genesis()).unwrap().into(),
        initial_height: 1,
    }
}

/// A decided block, a second after the one before.
pub(super) fn block(height: u64, txs: Vec<Bytes>) -> RequestFinalizeBlock {
    let height = i64::try_from(height).unwrap();
    RequestFinalizeBlock {
        hash: Bytes::from(height.to_be_bytes().to_vec()),
        time: Some(Timestamp { seconds: 1_700_000_000 + height, nanos: 0 }),
        height,
        txs,
        ..RequestFinalizeBlock::default()
    }
}
