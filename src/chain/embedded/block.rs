//! Genuine Tendermint blocks: header, block id and commit, so that light-client verification serves this chain as
//! it serves any other.
//!
//! Pure: a block follows from the one before, the time and the transactions (Ed25519 signatures are deterministic).
//! Hashes are those of CometBFT 0.38 (`types/block.go`, `types/results.go`). One thing differs: the vote carries the
//! block's own time, because this chain commits a block at once, where CometBFT takes the next block's time from it.

use ed25519_dalek::Signer;
use prost::Message as _;
use tendermint::{
    AppHash, Hash, PublicKey, Signature, account,
    block::{self, Block, Commit, CommitSig, Header, header, parts},
    chain,
    crypto::default::Sha256,
    evidence, merkle, validator, vote,
};
use tendermint_proto::v0_38::{
    abci::ExecTxResult as RawResult,
    types::{Block as RawBlock, CommitSig as RawCommitSig, HashedParams},
};

use crate::{
    identity::Keypair,
    types::{Digest, Time},
};

/// The block protocol that CometBFT 0.38 writes (`version.BlockProtocol`).
const BLOCK_PROTOCOL: u64 = 11;
/// The version of the application in headers.
pub(in crate::chain) const APP_VERSION: u64 = 1;
/// A block is cut into parts of this many bytes for its part-set hash (CometBFT `types.BlockPartSizeBytes`).
const PART_BYTES: usize = 65_536;
/// The most bytes of transactions in a block: CometBFT's default (4 MiB). What does not fit waits for the next one.
pub(in crate::chain) const MAX_BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// The voting power of the only validator. Any positive number says the same.
const POWER: u32 = 10;

/// A chain id that Tendermint does not accept.
#[derive(Debug, thiserror::Error)]
#[error("`{chain_id}` is no chain id: 1 to 50 letters, digits, `-`, `_` or `.`")]
pub struct ChainIdError {
    /// The id.
    pub chain_id: String,
}

/// The one validator of this chain.
#[derive(Clone, Debug)]
pub(super) struct Host {
    chain_id: chain::Id,
    key: Keypair,
    validators: validator::Set,
    address: account::Id,
}

/// What the next block needs to know of the last one.
#[derive(Clone, Debug)]
pub(super) struct Tip {
    /// 0 at genesis.
    pub height: u64,
    /// The genesis time at height 0.
    pub time: Time,
    /// `None` at genesis.
    pub block_id: Option<block::Id>,
    /// The empty commit at genesis.
    pub commit: Commit,
    /// Application hash after the block.
    pub app_hash: Digest,
    /// Root of the block's results.
    pub results_hash: Hash,
}

/// A block with the commit that makes it final.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sealed {
    pub block: Block,
    pub block_id: block::Id,
    pub commit: Commit,
}

impl Tip {
    /// Before the first block.
    pub(super) fn genesis(time: Time, app_hash: Digest) -> Self {
        let results_hash = merkle_root::<&[u8]>(&[]);
        Self { height: 0, time, block_id: None, commit: Commit::default(), app_hash, results_hash }
    }

    /// After `sealed`, whose results came out as `results`.
    pub(super) fn after(sealed: &Sealed, app_hash: Digest, results: &[tendermint::abci::types::ExecTxResult]) -> Self {
        Self {
            height: sealed.height(),
            time: sealed.time(),
            block_id: Some(sealed.block_id),
            commit: sealed.commit.clone(),
            app_hash,
            results_hash: results_hash(results),
        }
    }
}

impl Sealed {
    pub(super) fn height(&self) -> u64 {
        self.block.header.height.value()
    }

    /// The block's time, which this chain makes of whole milliseconds.
    pub(super) fn time(&self) -> Time {
        let nanos = self.block.header.time.unix_timestamp_nanos();
        Time::from_millis(u64::try_from(nanos / 1_000_000).unwrap_or_default())
    }
}

impl Host {
    pub(super) fn new(chain_id: &str, key: Keypair) -> Result<Self, ChainIdError> {
        let parsed = chain_id.parse().map_err(|_| ChainIdError { chain_id: chain_id.to_owned() })?;
        let public =
            PublicKey::from_raw_ed25519(key.node_key().as_bytes()).expect("the public half of a key pair is a point");
        let info = validator::Info::new(public, vote::Power::from(POWER));
        let address = info.address;
        let validators = validator::Set::new(vec![info.clone()], Some(info));
        Ok(Self { chain_id: parsed, key, validators, address })
    }

    pub(super) fn chain_id(&self) -> &chain::Id {
        &self.chain_id
    }

    pub(super) fn validator(&self) -> &validator::Info {
        &self.validators.validators()[0]
    }

    /// Makes the block after `tip` and commits it.
    pub(super) fn seal(&self, tip: &Tip, time: Time, transactions: Vec<Vec<u8>>) -> Sealed {
        let header = self.header(tip, time, &transactions);
        let block = Block::new(header, transactions, evidence::List::default(), Some(tip.commit.clone()));
        let block_id = block_id(&block);
        let commit = self.commit(&block.header, block_id);
        Sealed { block, block_id, commit }
    }

    /// Is `sealed` what this host made after `tip`? Made again from its time and transactions and compared whole.
    pub(super) fn follows(&self, tip: &Tip, sealed: &Sealed) -> bool {
        self.seal(tip, sealed.time(), sealed.block.data.clone()) == *sealed
    }

    fn header(&self, tip: &Tip, time: Time, transactions: &[Vec<u8>]) -> Header {
        let validators_hash = self.validators.hash();
        let hashes: Vec<_> = transactions.iter().map(|bytes| Digest::of(bytes).0).collect();
        Header {
            version: header::Version { block: BLOCK_PROTOCOL, app: APP_VERSION },
            chain_id: self.chain_id.clone(),
            height: height(tip.height + 1),
            time: tendermint_time(time),
            last_block_id: tip.block_id,
            last_commit_hash: Some(commit_hash(&tip.commit)),
            data_hash: Some(merkle_root(&hashes)),
            validators_hash,
            next_validators_hash: validators_hash,
            consensus_hash: consensus_hash(),
            app_hash: app_hash(&tip.app_hash),
            last_results_hash: Some(tip.results_hash),
            evidence_hash: Some(merkle_root::<&[u8]>(&[])),
            proposer_address: self.address,
        }
    }

    fn commit(&self, header: &Header, block_id: block::Id) -> Commit {
        let round = block::Round::default();
        let vote = vote::Vote {
            vote_type: vote::Type::Precommit,
            height: header.height,
            round,
            block_id: Some(block_id),
            timestamp: Some(header.time),
            validator_address: self.address,
            validator_index: vote::ValidatorIndex::try_from(0_u32).expect("there is a first validator"),
            signature: None,
            extension: Vec::new(),
            extension_signature: None,
        };
        let signature = self.key.signing_key().sign(&vote.into_signable_vec(self.chain_id.clone()));
        let signature = Signature::new(signature.to_bytes()).expect("an Ed25519 signature has 64 bytes");
        let vote = CommitSig::BlockIdFlagCommit { validator_address: self.address, timestamp: header.time, signature };
        Commit { height: header.height, round, block_id, signatures: vec![vote] }
    }
}

/// The part-set header and the hash of the header: what a block is called.
pub(super) fn block_id(block: &Block) -> block::Id {
    let encoding = RawBlock::from(block.clone()).encode_to_vec();
    let parts: Vec<_> = encoding.chunks(PART_BYTES).collect();
    let total = u32::try_from(parts.len()).expect("a block has at most a few hundred parts");
    let part_set_header = parts::Header::new(total, merkle_root(&parts)).expect("a block has at least one part");
    block::Id { hash: block.header.hash(), part_set_header }
}

/// What the header calls `last_results_hash`: only code, data and gas, which all validators agree on.
pub(super) fn results_hash(results: &[tendermint::abci::types::ExecTxResult]) -> Hash {
    let leaves: Vec<_> = results
        .iter()
        .map(|result| {
            let agreed = RawResult { code: result.code.value(), data: result.data.clone(), ..RawResult::default() };
            agreed.encode_to_vec()
        })
        .collect();
    merkle_root(&leaves)
}

/// Our times as Tendermint's.
pub(in crate::chain) fn tendermint_time(time: Time) -> tendermint::Time {
    // Tendermint's times end with the year 9999; a later clock is as wrong as that one.
    const END: u64 = 253_402_300_799_000;
    let millis = time.as_millis().min(END);
    let seconds = i64::try_from(millis / 1_000).expect("it fits, being before the year 10,000");
    let nanos = u32::try_from(millis % 1_000).expect("it is less than 1,000") * 1_000_000;
    tendermint::Time::from_unix_timestamp(seconds, nanos).expect("it is before the year 10,000")
}

/// Our heights as Tendermint's.
pub(super) fn height(height: u64) -> block::Height {
    block::Height::try_from(height).expect("a chain does not outlive 2^63 blocks")
}

/// Our digests as Tendermint's.
pub(super) fn app_hash(digest: &Digest) -> AppHash {
    AppHash::try_from(digest.0.to_vec()).expect("an application hash may be any bytes")
}

fn commit_hash(commit: &Commit) -> Hash {
    let leaves: Vec<_> =
        commit.signatures.iter().map(|vote| RawCommitSig::from(vote.clone()).encode_to_vec()).collect();
    merkle_root(&leaves)
}

fn consensus_hash() -> Hash {
    let max_bytes = i64::try_from(MAX_BLOCK_BYTES).expect("4 MiB fit");
    let parameters = HashedParams { block_max_bytes: max_bytes, block_max_gas: -1 };
    Hash::Sha256(Digest::of(&parameters.encode_to_vec()).0)
}

fn merkle_root<T: AsRef<[u8]>>(leaves: &[T]) -> Hash {
    Hash::Sha256(merkle::simple_hash_from_byte_vectors::<Sha256>(leaves))
}

#[cfg(test)]
mod tests {
    use tendermint::{
        block::signed_header::SignedHeader,
        crypto::{default::signature::Verifier, signature::Verifier as _},
    };

    use super::*;

    fn host() -> Host {
        Host::new("atlas-test", Keypair::from_secret(&[3; 32])).unwrap()
    }

    #[test]
    fn a_light_client_accepts_header_and_commit() {
        let host = host();
        let mut tip = Tip::genesis(Time(1_700_000_000_000), Digest([1; 32]));
        for round in 0..3_u64 {
            let sealed = host.seal(&tip, Time(1_700_000_000_001 + round), vec![vec![7; 200_000]; 2]);
            let header = &sealed.block.header;
            assert_eq!(header.height.value(), round + 1);
            assert_eq!(header.hash(), sealed.commit.block_id.hash);
            assert_eq!(header.validators_hash, host.validators.hash());
            assert_eq!(header.last_block_id, tip.block_id);
            assert_eq!(sealed.block_id.part_set_header.total, 7);
            SignedHeader::new(header.clone(), sealed.commit.clone()).unwrap();
            verify_commit(&host, &sealed.commit);
            tip = Tip::after(&sealed, Digest([2; 32]), &[]);
        }
    }

    fn verify_commit(host: &Host, commit: &Commit) {
        let CommitSig::BlockIdFlagCommit { validator_address, timestamp, signature } = &commit.signatures[0] else {
            panic!("the host commits");
        };
        let vote = vote::Vote {
            vote_type: vote::Type::Precommit,
            height: commit.height,
            round: commit.round,
            block_id: Some(commit.block_id),
            timestamp: Some(*timestamp),
            validator_address: *validator_address,
            validator_index: vote::ValidatorIndex::try_from(0_u32).expect("there is a first validator"),
            signature: signature.clone(),
            extension: Vec::new(),
            extension_signature: None,
        };
        let signed = vote::SignedVote::from_vote(vote, host.chain_id.clone()).unwrap();
        let key = host.validators.validator(*validator_address).unwrap().pub_key;
        Verifier.verify(key, &signed.sign_bytes(), signed.signature()).unwrap();
    }

    #[test]
    fn a_block_of_another_time_or_key_does_not_follow() {
        let tip = Tip::genesis(Time(5), Digest([1; 32]));
        let sealed = host().seal(&tip, Time(6), vec![vec![1]]);
        assert!(host().follows(&tip, &sealed));
        let stranger = Host::new("atlas-test", Keypair::from_secret(&[4; 32])).unwrap();
        assert!(!stranger.follows(&tip, &sealed));
        let mut later = sealed.clone();
        later.block.header.time = tendermint_time(Time(7));
        assert!(!host().follows(&tip, &later));
    }

    #[test]
    fn a_chain_id_that_tendermint_refuses_is_an_error() {
        assert!(Host::new("", Keypair::from_secret(&[3; 32])).is_err());
        assert!(Host::new("so many words", Keypair::from_secret(&[3; 32])).is_err());
    }
}
