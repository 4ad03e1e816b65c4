//! A chain for tests: headers with real keys and signatures, whose validators come and go.

use ed25519_dalek::Signer as _;
use tendermint::{
    AppHash, Hash, PublicKey, Signature, account,
    block::{self, Commit, CommitSig, Header, header, parts, signed_header::SignedHeader},
    chain,
    crypto::default::Sha256,
    merkle, validator, vote,
};

use super::{LightBlock, block::Agreed};
use crate::{
    chain::embedded::tendermint_time,
    identity::Keypair,
    types::{Digest, Time},
};

/// Its name.
pub(in crate::chain) const CHAIN: &str = "atlas-lab";
/// Time of its block 0.
pub(in crate::chain) const BEGAN: Time = Time(1_700_000_000_000);
/// From one block to the next, in milliseconds.
const STEP: u64 = 1_000;

/// Its blocks, from 1 on.
pub(in crate::chain) struct Lab {
    pub blocks: Vec<LightBlock>,
}

/// The time of a block.
pub(in crate::chain) fn time_of(height: u64) -> Time {
    Time(BEGAN.0 + STEP * height)
}

fn key(number: u8) -> Keypair {
    Keypair::from_secret(&[number; 32])
}

/// Validators of equal power.
pub(in crate::chain) fn set(numbers: &[u8]) -> validator::Set {
    let info = |number: &u8| {
        let public = PublicKey::from_raw_ed25519(key(*number).node_key().as_bytes()).unwrap();
        validator::Info::new(public, vote::Power::from(10_u32))
    };
    validator::Set::without_proposer(numbers.iter().map(info).collect())
}

fn hash<T: AsRef<[u8]>>(leaves: &[T]) -> Hash {
    Hash::Sha256(merkle::simple_hash_from_byte_vectors::<Sha256>(leaves))
}

/// The state after a block, in a lab without one.
pub(in crate::chain) fn app_hash(height: u64) -> Digest {
    Digest::of(&height.to_be_bytes())
}

/// Commits to a header by those of its validators that are in `signers`.
pub(in crate::chain) fn sign(header: Header, validators: &validator::Set, signers: &[u8]) -> SignedHeader {
    let block_id = block::Id { hash: header.hash(), part_set_header: parts::Header::new(1, header.hash()).unwrap() };
    let vote_of = |(index, info): (usize, &validator::Info)| {
        let signer = signers.iter().map(|number| key(*number)).find(|key| {
            account::Id::from(PublicKey::from_raw_ed25519(key.node_key().as_bytes()).unwrap()) == info.address
        });
        let Some(signer) = signer else { return CommitSig::BlockIdFlagAbsent };
        let vote = vote::Vote {
            vote_type: vote::Type::Precommit,
            height: header.height,
            round: block::Round::default(),
            block_id: Some(block_id),
            timestamp: Some(header.time),
            validator_address: info.address,
            validator_index: vote::ValidatorIndex::try_from(u32::try_from(index).unwrap()).unwrap(),
            signature: None,
            extension: Vec::new(),
            extension_signature: None,
        };
        let signature = signer.signing_key().sign(&vote.into_signable_vec(header.chain_id.clone()));
        CommitSig::BlockIdFlagCommit {
            validator_address: info.address,
            timestamp: header.time,
            signature: Signature::new(signature.to_bytes()).unwrap(),
        }
    };
    let signatures = validators.validators().iter().enumerate().map(vote_of).collect();
    let commit = Commit { height: header.height, round: block::Round::default(), block_id, signatures };
    SignedHeader::new(header, commit).unwrap()
}

/// A header that follows on another, with the app hash after the block before it.
pub(in crate::chain) fn header(
    height: u64,
    before: Option<&LightBlock>,
    validators: (&validator::Set, &validator::Set),
    app_hash: Digest,
) -> Header {
    Header {
        version: header::Version { block: 11, app: 1 },
        chain_id: chain::Id::try_from(CHAIN.to_owned()).unwrap(),
        height: block::Height::try_from(height).unwrap(),
        time: tendermint_time(time_of(height)),
        last_block_id: before.map(|block| block.signed_header.commit.block_id),
        last_commit_hash: Some(hash::<&[u8]>(&[])),
        data_hash: Some(hash(&[Digest::of(b"transaction").0])),
        validators_hash: validators.0.hash(),
        next_validators_hash: validators.1.hash(),
        consensus_hash: hash::<&[u8]>(&[]),
        app_hash: AppHash::try_from(app_hash.0.to_vec()).unwrap(),
        last_results_hash: Some(super::block::root_of(&[Agreed::default()])),
        evidence_hash: Some(hash::<&[u8]>(&[])),
        proposer_address: validators.0.validators()[0].address,
    }
}

impl Lab {
    /// A chain of so many blocks, whose validators at each height are those of `validators`; all of them sign.
    pub(in crate::chain) fn new(length: u64, validators: impl Fn(u64) -> Vec<u8>) -> Self {
        let mut blocks: Vec<LightBlock> = Vec::new();
        for height in 1..=length {
            let (own, next) = (set(&validators(height)), set(&validators(height + 1)));
            let header = header(height, blocks.last(), (&own, &next), app_hash(height - 1));
            let signed_header = sign(header, &own, &validators(height));
            blocks.push(LightBlock { signed_header, validators: own, next_validators: next });
        }
        Self { blocks }
    }

    /// The block of a height.
    pub(in crate::chain) fn block(&self, height: u64) -> LightBlock {
        self.blocks[usize::try_from(height).unwrap() - 1].clone()
    }
}
